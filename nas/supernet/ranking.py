"""How much each unit of an atom matters, and the order in which the first ones matter most.

A unit is in several tensors at once, and in products and sums of axes (a head in the rows of a packed projection and in the
columns of what reads it); its score adds up what belongs to it in all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from nas.supernet import parts
from nas.supernet.inputs import Inputs, call, tensors_in
from nas.supernet.parts import Axis, Sizes
from nas.supernet.roles import role_of

Tensors = Mapping[str, Sequence[Axis]]
"""Axes of parameters and buffers, by name."""


def by_magnitude(
    axes: Tensors, whole: Sizes, tensor: Callable[[str], Tensor], readers: Collection[tuple[str, int]] | None = None
) -> dict[str, Tensor]:
    """(length of the atom,) Σ|w| over all numbers of tensors that belong to a unit, for each atom.

    Args:
        axes: of the tensors that count.
        whole: length of each atom.
        tensor: the values of one by name.
        readers: (name, dimension) of the axes that count, where an atom is on one of them; all count for other atoms.
    """
    found: dict[str, Tensor] = {}
    chosen: dict[str, Tensor] = {}
    for name, along in axes.items():
        if not any(True for axis in along for _ in parts.atoms(axis)):
            continue
        weight = tensor(name).detach().abs().double().cpu()
        for dim, axis in enumerate(along):
            scores = weight.movedim(dim, 0).reshape(weight.shape[dim], -1).sum(1)
            _add(found, axis, whole, scores)
            if readers is not None and (name, dim) in readers:
                _add(chosen, axis, whole, scores)
    return {**found, **chosen}


@torch.no_grad()
def by_activation(module: nn.Module, axes: Tensors, whole: Sizes, batches: Iterable[Inputs]) -> dict[str, Tensor]:
    """(length of the atom,) mean |activation| of a unit, summed over `batches` and the layers that write it, for each atom.

    Layers whose output is known to run along an axis of their weight count: linear layers, convolutions, norms, embeddings.
    Atoms that none of them writes are not there.

    Args:
        module: with the weights, in the mode that it is in.
        axes: of its parameters.
        whole: length of each atom.
        batches: inputs of the module.
    """
    found: dict[str, Tensor] = {}
    handles = []
    for prefix, layer in module.named_modules():
        role = role_of(layer)
        name = f"{prefix}.{role.output.parameter}".removeprefix(".") if role is not None else ""
        if role is not None and name in axes:
            axis, place = axes[name][role.output.dim], role.output.axis
            handles.append(layer.register_forward_hook(_Watch(found, axis, whole, place)))
    try:
        for batch in batches:
            call(module, batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


class _Watch:
    """A hook that adds up what a layer gives, for each unit along an axis of its output."""

    def __init__(self, found: dict[str, Tensor], axis: Axis, whole: Sizes, place: int) -> None:
        self.found, self.axis, self.whole, self.place = found, axis, whole, place

    def __call__(self, _module: nn.Module, _inputs: object, output: object) -> None:
        for tensor in tensors_in(output)[:1]:
            fits = -tensor.dim() <= self.place < tensor.dim()
            if fits and tensor.shape[self.place] == parts.length(self.axis, self.whole):
                scores = (
                    tensor.detach()
                    .abs()
                    .double()
                    .movedim(self.place, 0)
                    .reshape(tensor.shape[self.place], -1)
                    .mean(1)
                    .cpu()
                )
                _add(self.found, self.axis, self.whole, scores)


def _add(found: dict[str, Tensor], axis: Axis, whole: Sizes, scores: Tensor) -> None:
    """Add the scores of an axis' indices to those of the units that they belong to."""
    for atom, unit in parts.units(axis, whole):
        mine = unit >= 0
        total = found.setdefault(atom, torch.zeros(whole[atom], dtype=torch.float64))
        total.index_add_(0, unit[mine], scores[mine])


def order(scores: Tensor, bounds: Sequence[int] = ()) -> Tensor:
    """Units by falling score within each bracket [0, b₁), [b₁, b₂), …; equal ones stay in their order.

    Args:
        scores: (n,).
        bounds: rising, between 0 and n.
    """
    edges = [0, *bounds, len(scores)]
    found = [
        start + torch.argsort(scores[start:end], descending=True, stable=True)
        for start, end in itertools.pairwise(edges)
    ]
    return torch.cat(found)
