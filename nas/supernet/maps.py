"""Linear maps that take the place of modules in some archs: the identity until they are fitted (`nas.fit_linear`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from nas.supernet.parts import MAP


def tensors(module: str) -> tuple[str, str]:
    """Names of the weight and the bias of what takes the place of `module`."""
    return f"{module}.{MAP}.weight", f"{module}.{MAP}.bias"


@torch.no_grad()
def reset(values: Mapping[str, Tensor], modules: Iterable[str]) -> None:
    """Make the maps in the place of `modules` the identity, in place."""
    for module in modules:
        weight, bias = (values[name] for name in tensors(module))
        weight.copy_(torch.eye(len(weight)).view(weight.shape))
        bias.zero_()


def is_identity(weight: Tensor, bias: Tensor) -> bool:
    """Whether a map gives what it gets, as before it is fitted."""
    unit = torch.eye(len(weight), dtype=weight.dtype, device=weight.device).view(weight.shape)
    return not bool(bias.any()) and torch.equal(weight, unit)
