"""Declarations of two operators of torchvision, to import before it and timm.

The wheel of torchvision on the package registry is built for CUDA: beside a torch for the CPU its library does not
load, and importing it
fails where it registers what `nms` does on meta tensors.  The two declarations suffice for classifiers and
backbones; detection's own operators (`nms`, `roi_align`) stay without a kernel.
"""

from __future__ import annotations

import torch

_LIBRARY: list[torch.library.Library] = []  # declarations live as long as it does


def declare() -> None:
    """Declare what is not there; a torchvision that works declares it itself."""
    if _LIBRARY or hasattr(torch.ops.torchvision, "nms"):
        return
    _LIBRARY.append(torch.library.Library("torchvision", "DEF"))
    for name in ("nms", "qnms"):
        _LIBRARY[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
