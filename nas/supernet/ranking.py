"""How much each unit of an atom matters, and the order in which the first ones matter most.

A unit is in several tensors at once, and in products and sums of axes (a head in the rows of a packed projection and in the
columns of what reads it); its score adds up what belongs to it in all of them.

Sums are taken in double precision over pieces of `PIECE` numbers, so that they need no memory of the size of a tensor.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.supernet import parts
from nas.supernet.parts import Axis, Sizes

Tensors = Mapping[str, Sequence[Axis]]
"""Axes of parameters and buffers, by name."""

Place = tuple[str, int]
"""A dimension of a tensor, by the tensor's name."""

PIECE = 2**17
"""Numbers that are looked at at once; one index along a dimension may have more."""

Moments = Callable[..., Sequence[Tensor]]
"""Of pieces (n, m) of tensors, the k sums (n,) over the numbers of each index."""


@dataclass(frozen=True, eq=False)
class Share:
    """What of a tensor belongs to the units of an atom.

    Attributes:
        atom: the atom's name.
        dim: of the tensor.
        unit: (length of the dimension,) the unit that each index is of, -1 where it is of none.
    """

    atom: str
    dim: int
    unit: Tensor


def shares(axes: Tensors, whole: Sizes, places: Mapping[str, Collection[Place]]) -> dict[str, list[Share]]:
    """What of each tensor belongs to the units of atoms, by the tensor's name.

    Args:
        axes: of the tensors.
        whole: length of each atom.
        places: the places of each atom that count.
    """
    found: dict[str, list[Share]] = {}
    for atom, where in places.items():
        for name, dim in where:
            for other, unit in parts.units(axes[name][dim], whole):
                if other == atom:
                    found.setdefault(name, []).append(Share(atom, dim, unit))
    return found


def moments(share: Share, size: int, of: Moments, *tensors: Tensor) -> Tensor:
    """(k, size) sums over the numbers of each unit.

    Args:
        share: of the tensors, which have one shape.
        size: number of units.
        of: gives the k sums of each index along the dimension.
        tensors: complex ones count as twice as many numbers.
    """
    rows = [_numbers(tensor).movedim(share.dim, 0) for tensor in tensors]
    step = max(1, PIECE * len(rows[0]) // max(1, rows[0].numel()))
    total: Tensor | None = None
    for start in range(0, max(1, len(rows[0])), step):
        sums = torch.stack(list(of(*(row[start : start + step].double().flatten(1) for row in rows)))).cpu()
        unit = share.unit[start : start + step]
        if total is None:
            total = torch.zeros(len(sums), size, dtype=torch.float64)
        total.index_add_(1, unit[unit >= 0], sums[:, unit >= 0])
    assert total is not None, "there is a piece, if without numbers"
    return total


def _numbers(tensor: Tensor) -> Tensor:
    """Real numbers, with one more dimension at the end; a scalar is the one index of a dimension."""
    tensor = tensor if tensor.dim() else tensor[None]
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor[..., None]


def magnitudes(weight: Tensor) -> list[Tensor]:
    """Σ|w|."""
    return [weight.abs().sum(1)]


def by_magnitude(
    owned: Mapping[str, Sequence[Share]], whole: Sizes, tensor: Callable[[str], Tensor]
) -> dict[str, Tensor]:
    """(length of the atom,) Σ|w| over the numbers that belong to each unit, for each atom.

    Args:
        owned: what of each tensor counts.
        whole: length of each atom.
        tensor: the values of one by name.
    """
    found: dict[str, Tensor] = {}
    for name, owns in owned.items():
        weight = tensor(name).detach()
        weight = weight.abs() if weight.is_complex() else weight
        for share in owns:
            add(found, share.atom, moments(share, whole[share.atom], magnitudes, weight)[0])
    return found


def add(found: dict[str, Tensor], key: str, more: Tensor) -> None:
    """Add to what is there, if anything is."""
    found[key] = found[key] + more if key in found else more


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
