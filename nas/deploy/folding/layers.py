"""Convolutions and linear layers as what can be merged: their outputs scaled, their inputs scaled, and one after another.

All arithmetic is in double precision; the weights are rounded once, to the type that they have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas.deploy.folding.affine import Affine

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)

Undo = Callable[[], None]


class Unmerged(Exception):
    """Two layers are not merged, with the reason in a few words."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or linear layer where it is called.

    Attributes:
        path: its name in the model.
        module: with parameters `weight` and, perhaps, `bias`.
        spatial: number of axes over which the kernel moves; 0 of a linear layer.
        transposed: whether it is a transposed convolution.
        padded: whether zeros are put around its input.
        groups: of channels.
    """

    path: str
    module: nn.Module
    spatial: int
    transposed: bool
    padded: bool
    groups: int

    @property
    def weight(self) -> Tensor:
        """In double precision: (out, in / groups, *kernel); as torch has it, (in, out / groups, *kernel), if transposed."""
        return self._parameter("weight").detach().double()

    @property
    def bias(self) -> Tensor:
        """In double precision, (out,)."""
        bias = self.module._parameters["bias"]
        return self.weight.new_zeros(self.outputs) if bias is None else bias.detach().double()

    @property
    def outputs(self) -> int:
        """Number of channels."""
        shape = self._parameter("weight").shape
        return shape[1] * self.groups if self.transposed else shape[0]

    @property
    def inputs(self) -> int:
        """Number of channels."""
        shape = self._parameter("weight").shape
        return shape[0] if self.transposed else shape[1] * self.groups

    @property
    def pointwise(self) -> bool:
        """Whether an output depends on one place of the input."""
        return all(length == 1 for length in self._parameter("weight").shape[2:])

    def _parameter(self, name: str) -> Tensor:
        found = getattr(self.module, name)
        assert isinstance(found, Tensor)
        return found

    def channels(self, values: Tensor, length: int) -> Tensor:
        """`values` of an affine map as one number a channel.

        Raises:
            Unmerged: they differ along another axis.
        """
        axis = values.dim() - 1 - self.spatial
        if any(size != 1 for place, size in enumerate(values.shape) if place != axis):
            raise Unmerged("it scales along other axes than the channels")
        return values.flatten().expand(length)


def output_scaled(layer: Layer, affine: Affine) -> tuple[Tensor, Tensor]:
    """Weight and bias of `affine(layer(x))`."""
    scale, shift = (layer.channels(values, layer.outputs) for values in (affine.scale, affine.shift))
    weight = layer.weight
    if layer.transposed:
        grouped = weight.reshape(layer.groups, -1, *weight.shape[1:])  # (groups, in / groups, out / groups, *kernel)
        factor = scale.reshape(layer.groups, 1, -1, *(1,) * layer.spatial)
        return (grouped * factor).flatten(0, 1), layer.bias * scale + shift
    return weight * scale.reshape(-1, *(1,) * (weight.dim() - 1)), layer.bias * scale + shift


def input_scaled(layer: Layer, affine: Affine) -> tuple[Tensor, Tensor]:
    """Weight and bias of `layer(affine(x))`.

    Raises:
        Unmerged: the shift would not be the same at the border.
    """
    scale, shift = (layer.channels(values, layer.inputs) for values in (affine.scale, affine.shift))
    moved = bool(shift.any())
    if moved and layer.padded:
        raise Unmerged(f"{layer.path!r} pads its input with zeros, which would be shifted")
    weight = layer.weight
    if layer.transposed:
        if moved:
            raise Unmerged(
                f"{layer.path!r} is transposed, and the shift of its input would not be the same at the border"
            )
        return weight * scale.reshape(-1, *(1,) * (weight.dim() - 1)), layer.bias
    shape = (layer.groups, 1, -1, *(1,) * layer.spatial)
    grouped = weight.reshape(layer.groups, -1, *weight.shape[1:])  # (groups, out / groups, in / groups, *kernel)
    added = (grouped * shift.reshape(shape)).flatten(2).sum(2).flatten()
    return (grouped * scale.reshape(shape)).flatten(0, 1), layer.bias + added


def product(first: Layer, second: Layer) -> tuple[Tensor, Tensor]:
    """Weight and bias of `second(first(x))`.

    Raises:
        Unmerged: that is no layer of the same kind, or a larger one.
    """
    for layer in (first, second):
        if type(layer.module) not in (nn.Linear, *CONVOLUTIONS):
            raise Unmerged(f"{layer.path!r} is a {type(layer.module).__name__}")
        if layer.groups != 1:
            raise Unmerged(f"{layer.path!r} has groups")
    if first.spatial != second.spatial:
        raise Unmerged("one is linear and the other a convolution")
    if second.pointwise and not second.padded:
        kernel = first.weight
        weight = torch.einsum("om,mi...->oi...", second.weight.flatten(1), kernel)
        added = second.weight.flatten(1) @ first.bias
    elif first.pointwise and not first.padded and _stride(first) == 1 and not (second.padded and first.bias.any()):
        weight = torch.einsum("om...,mi->oi...", second.weight, first.weight.flatten(1))
        added = second.weight.flatten(2).sum(2) @ first.bias if second.spatial else second.weight @ first.bias
    else:
        raise Unmerged("neither has a kernel of one place, or padding lies between")
    before, after = first.weight.numel() + second.weight.numel(), weight.numel()
    if after > before:
        raise Unmerged(f"one layer would have {after} weights, and the two have {before}")
    return weight, second.bias + added


def _stride(layer: Layer) -> int:
    return max(1, *_numbers(layer, "stride"))


def _numbers(layer: Layer, name: str) -> Sequence[int]:
    found = getattr(layer.module, name, ())
    return tuple(found) if isinstance(found, Sequence) else (1,)


def joined(first: Layer, second: Layer) -> nn.Module:
    """A layer of the second's outputs and the first's inputs; its weights are to be set.

    The kernel, its padding and dilation are those of the one that has more than one place, strides multiply.
    """
    one, two = first.module, second.module
    if isinstance(one, nn.Linear):
        return nn.Linear(first.inputs, second.outputs, device="meta")
    wide: Any = one if second.pointwise else two
    strides = [a * b for a, b in zip(_numbers(first, "stride"), _numbers(second, "stride"), strict=True)]
    made: nn.Module = type(wide)(
        first.inputs,
        second.outputs,
        wide.kernel_size,
        stride=strides,
        padding=wide.padding,
        dilation=wide.dilation,
        padding_mode=wide.padding_mode,
        device="meta",
    )
    return made


def set_weights(module: nn.Module, weight: Tensor, bias: Tensor, like: Tensor, *, always: bool) -> Undo:
    """Give `module` these; how to give it back what it has.

    Args:
        module: a layer.
        weight: in double precision.
        bias: likewise.
        like: has the type and device that both get, and says whether they are trained.
        always: set a bias of zeros too, where the module has none.

    Raises:
        Unmerged: a number is too large for the type.
    """
    table = module._parameters
    before = dict(table)
    made: dict[str, nn.Parameter | None] = {}
    for name, values in (("weight", weight), ("bias", bias)):
        if name == "bias" and not always and table.get("bias") is None and not bias.any():
            continue
        rounded = values.to(like).contiguous()
        if not torch.isfinite(rounded).all():
            raise Unmerged(f"a {name} would be too large for {str(like.dtype).removeprefix('torch.')}")
        if rounded.shape == like.shape:  # and in its order in memory, on which speed depends
            rounded = torch.empty_like(like, requires_grad=False).copy_(rounded)
        made[name] = nn.Parameter(rounded, requires_grad=like.requires_grad)
    table.update(made)
    return lambda: table.update(before)


def undo_all(undone: Sequence[Undo]) -> Undo:
    """Undoes all, the last first."""

    def undo() -> None:
        for each in reversed(undone):
            each()

    return undo
