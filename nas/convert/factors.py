"""Layers that are two factors in an arch: `layer.down` to the inner width, and `layer.up` again, in the place of `layer`.

Both are ordinary layers of torch's, in an `nn.Sequential`.  They have the axes of the layer that they replace, so that widths cut
them as they cut that one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nas.convert.plan import Factors, Plan
from nas.supernet import low_rank, parts
from nas.supernet.parts import Axis, Sizes
from nas.train.dropping import in_place_of

Axes = Mapping[str, tuple[Axis, ...]]
CONVOLUTIONS: dict[int, Any] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
"""By the dimensions of their weight."""


def two(layer: nn.Module, rank: int, *, transposed: bool = False) -> nn.Sequential:
    """Two layers of an inner width in the place of a linear one, without values where it has none."""
    weight: Any = layer.weight
    outputs, inputs = low_rank.matrix(weight, transposed=transposed).shape
    known = {"device": weight.device, "dtype": weight.dtype}
    biased = layer.bias is not None if hasattr(layer, "bias") else False
    down: nn.Module
    up: nn.Module
    if isinstance(layer, _ConvNd):
        kind = CONVOLUTIONS[weight.dim()]
        down = kind(inputs, rank, 1, stride=layer.stride, bias=False, **known)
        up = kind(rank, outputs, 1, bias=biased, **known)
    else:
        down, up = nn.Linear(inputs, rank, bias=False, **known), nn.Linear(rank, outputs, bias=biased, **known)
    for one in (down, up):
        one.requires_grad_(weight.requires_grad)
    return in_place_of(layer, nn.Sequential(OrderedDict({low_rank.DOWN: down, low_rank.UP: up})))


@torch.no_grad()
def set_values(made: nn.Sequential, first: Tensor, second: Tensor, bias: Any) -> None:
    """Give two layers the values of their weights, and of the bias of the layer that they replace."""
    down, up = cast("list[nn.Linear]", list(made))
    down.weight.copy_(first.reshape(down.weight.shape))
    up.weight.copy_(second.reshape(up.weight.shape))
    if bias is not None:
        up.bias.copy_(bias)


def factor_axes(layer: nn.Module, each: Factors, axes: Axes) -> dict[str, tuple[Axis, ...]]:
    """Axes of the tensors of both factors.

    Args:
        layer: of the original.
        each: of the plan.
        axes: of the original's tensors, by name.
    """
    down, up, bias = low_rank.followers(each.layer)
    weight: Any = layer.weight
    own = axes.get(f"{each.layer}.weight") or tuple((size,) for size in weight.shape)
    inputs, outputs = (own[0], own[1]) if each.transposed else (own[1], own[0])
    inner: Axis = (each.atom,)
    found = {down: (inner, inputs, *own[2:]), up: (outputs, inner, *own[2:])}
    return found | ({bias: (outputs,)} if getattr(layer, "bias", None) is not None else {})


def only_saving(model: nn.Module, plan: Plan, sizes: Sizes, axes: Axes) -> Sizes:
    """`sizes` with an inner width of 0 where two factors would not take fewer operations than the layer, which then stays one."""
    found = dict(sizes)
    for each in plan.factors:
        weight: Any = model.get_submodule(each.layer).weight
        own = axes.get(f"{each.layer}.weight") or tuple((size,) for size in weight.shape)
        if found[each.atom] and not low_rank.saves(found[each.atom], *(parts.length(axis, sizes) for axis in own[:2])):
            found[each.atom] = 0
    return found


def put_factors(
    copies: Mapping[str, nn.Module], original: nn.Module, each: Factors, whole: Sizes, sizes: Sizes, *, axes: Axes
) -> None:
    """Put two factors where a resized model has the one layer; with values if that has some.

    Args:
        copies: modules of the resized model by name.
        original: the layer as it is in the original.
        each: of the plan.
        whole: lengths of atoms in the original.
        sizes: in the arch.
        axes: of the factors.
    """
    path, _, leaf = each.layer.rpartition(".")
    layer = copies[each.layer]
    made = two(layer, sizes[each.atom], transposed=each.transposed)
    weight: Any = layer.weight
    if not weight.is_meta:
        known: Any = original.weight
        pair = low_rank.factors(low_rank.matrix(known, transposed=each.transposed), whole[each.atom])
        first, second = (
            parts.cut(values.reshape(*values.shape, *[1] * (len(axes[name]) - 2)), axes[name], whole, sizes)
            for name, values in zip(low_rank.followers(each.layer), pair, strict=False)
        )
        set_values(made, first, second, getattr(layer, "bias", None))
    copies[path]._modules[leaf] = made
