"""Linear maps in the place of blocks: layers along the axis of features, which begin as the identity."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nas.convert.factors import CONVOLUTIONS
from nas.convert.plan import Unit
from nas.supernet.parts import MAP, Axis
from nas.train.dropping import Mapped, in_place_of


def map_axes(unit: Unit) -> dict[str, tuple[Axis, ...]]:
    """Axes of the tensors of a unit's map."""
    assert unit.places is not None
    kernel: tuple[Axis, ...] = ((),) * unit.places
    weight = (unit.features, unit.features, *kernel)
    return {f"{unit.name}.{MAP}.weight": weight, f"{unit.name}.{MAP}.bias": (unit.features,)}


@torch.no_grad()
def map_of(module: nn.Module, unit: Unit, size: int, *, meta: bool) -> Mapped:
    """What stands for a unit: the identity, without values on the meta device.

    Args:
        module: the unit in the original.
        unit: of the plan.
        size: of its features in the arch.
        meta: no values are wanted.
    """
    assert unit.places is not None
    known = next(one for one in module.parameters() if one.is_floating_point())
    made_of: dict[str, Any] = {"device": "meta" if meta else known.device, "dtype": known.dtype}
    kind, kernel = (CONVOLUTIONS[unit.places + 2], (1,)) if unit.places else (nn.Linear, ())
    layer = kind(size, size, *kernel, **made_of)
    if not layer.weight.is_meta:
        layer.weight.copy_(torch.eye(size).view(size, size, *[1] * unit.places))
        layer.bias.zero_()
    return in_place_of(module, Mapped(layer, extras=unit.extras))
