"""Whether a subnet is what the largest network computes when everything that the subnet has not is zero."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import nas


def fill(net: nas.Supernet) -> None:
    """Healthy random numbers in every tensor, so that no units look alike."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                scale = 1.4 / math.sqrt(tensor[0].numel()) if tensor.dim() > 1 else 0.7
                tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype) * scale)
                if name.endswith("running_var"):
                    tensor.abs_().add_(0.5)


def zeroed_apart(net: nas.Supernet, arch: Any, inputs: Any) -> float:
    """Largest difference between the subnet's output and the largest network's, whose other elements are zero.

    What the subnet has is found out by its gradients, which reach no other element.
    """
    net = net.double().eval()
    fill(net)
    parts = net.cut(arch)
    whole = dict(net.named_parameters())
    marks = torch.autograd.grad(sum(part.sum() for part in parts.values()), list(whole.values()), allow_unused=True)
    with torch.no_grad():
        small = _tensor(net(inputs, arch))
        for parameter, mark in zip(whole.values(), marks, strict=True):
            parameter.mul_(0 if mark is None else (mark != 0).to(parameter.dtype))
        return float((small - _tensor(net(inputs, net.space.largest))).abs().max())


def _tensor(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits
