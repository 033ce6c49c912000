"""Where a supernet's tensors lie in those of a larger one, and what the larger ones hold beside them.

Every cut says where a part lies in a whole; here the part is the whole tensor of the smaller supernet.  Along each axis
the larger tensor has *old* units and *new* ones, and each new unit has an old one that it may be a copy of: the one of the
same number, counted again from 0, of every atom of the axis.  So whole multiples have equally many copies of every unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.errors import LayoutError, SupernetError
from nas.supernet import parts
from nas.supernet.atomic import Parts
from nas.supernet.layouts import CentreCrop, KernelTransform, Selected, Shapes
from nas.supernet.parts import Shape, Sizes
from nas.supernet.union import CORNER, Union


@dataclass(frozen=True)
class Placement:
    """Where the old tensor lies in the new one.

    Attributes:
        old: shape of the old one.
        new: shape of the new one.
        kept: for each dimension, (old length,) where its indices are in the new one.
        source: for each dimension, (new length,) the old index that each new one is, or may be a copy of.
        rings: dimensions of kernels, whose new places surround the old ones.
    """

    old: Shape
    new: Shape
    kept: tuple[Tensor, ...]
    source: tuple[Tensor, ...]
    rings: frozenset[int] = frozenset()

    @property
    def grown(self) -> tuple[int, ...]:
        """Dimensions along which the new one has more units; kernels' not."""
        longer = (dim for dim, (old, new) in enumerate(zip(self.old, self.new, strict=True)) if new > old)
        return tuple(dim for dim in longer if dim not in self.rings)

    def put(self, new: Tensor, value: Tensor, whole: frozenset[int] = frozenset()) -> None:
        """Write `value` to the old places of `new`, in place; along the dimensions `whole` to all places."""
        kept = [torch.arange(n) if dim in whole else self.kept[dim] for dim, n in enumerate(self.new)]
        if not kept:
            new.copy_(value)
            return
        new[torch.meshgrid([each.to(new.device) for each in kept], indexing="ij")] = value.to(new)


def placements(old: Union, new: Union, lengths: Sizes) -> dict[str, Placement]:
    """Of every tensor that both hold, by the new canonical name.

    Args:
        old: the smaller one.
        new: the larger one.
        lengths: of atoms of the larger, in the old largest arch.

    Raises:
        SupernetError: names, ties or axes disagree, or a tensor of the new one is smaller.
    """
    sizes = dict(lengths)
    for cut in old.cuts.values():
        sizes |= cut.whole if isinstance(cut, Parts) else {}
    shapes = Shapes({new_name(old, new, name): shape for name, shape in old.shapes.items()}, sizes)
    found = {}
    for name in old.shapes:
        theirs = new_name(old, new, name)
        try:
            found[theirs] = _placement(new, theirs, shapes)
        except LayoutError as error:
            raise SupernetError(
                f"{name!r} of shape {old.shapes[name]} does not lie in that of shape {new.shapes[theirs]} of the larger space: "
                f"{error}"
            ) from error
    return found


def new_name(old: Union, new: Union, name: str) -> str:
    """Canonical name in `new` of what is called `name` in `old`.

    Raises:
        SupernetError: it is not there, or tied to something else.
    """
    if name in old.buffers or name not in old.shapes:  # parameters of cuts have names of their own
        if name not in new.buffers and name not in new.helpers():
            raise SupernetError(
                f"the larger space has no {name!r}, which the supernet holds; grow to a space that has it"
            )
        return name
    aliases = [alias for alias, canonical in old.ties.items() if canonical == name]
    if lacking := [alias for alias in aliases if alias not in new.ties]:
        raise SupernetError(
            f"the larger space has no {lacking[0]!r}, which the supernet holds; grow to a space that has it"
        )
    others = {new.ties[alias] for alias in aliases}
    theirs = new.ties[aliases[0]]
    more = [alias for alias in old.ties if new.ties.get(alias) == theirs and alias not in aliases]
    if len(others) > 1 or more:
        raise SupernetError(
            f"{aliases[0]!r} and {(more or aliases)[-1]!r} are one parameter in one of both spaces and two in the other; "
            "tie them alike"
        )
    return theirs


def _placement(new: Union, name: str, shapes: Shapes) -> Placement:
    whole, shape = new.shapes[name], shapes[name]
    if len(whole) != len(shape) or any(part > full for part, full in zip(shape, whole, strict=True)):
        raise LayoutError("it is longer along some axis, or has other axes")
    cut = new.cuts.get(name, CORNER).placed(name, new.shapes, shapes)
    if isinstance(cut, Selected):
        selection = cut.selection(whole, shape)
        large, small = selection.lengths
        kept = [parts.indices(axis, large, small) for axis in selection.axes]
        source = [
            parts.picked(axis, small, {atom: torch.arange(large[atom]) % small[atom] for atom in parts.atoms(axis)})
            for axis in selection.axes
        ]
        return Placement(shape, whole, tuple(kept), tuple(source))
    rings = _rings(cut, len(whole))
    starts = [
        (full - part) // 2 if dim in rings else 0 for dim, (full, part) in enumerate(zip(whole, shape, strict=True))
    ]
    if any((whole[dim] - shape[dim]) % 2 for dim in rings):
        raise LayoutError("its kernel has no centre in the other; make both odd or both even")
    corner = [torch.arange(part) + start for part, start in zip(shape, starts, strict=True)]
    again = [torch.arange(full) % part for part, full in zip(shape, whole, strict=True)]
    return Placement(shape, whole, tuple(corner), tuple(again), rings)


def _rings(cut: object, dims: int) -> frozenset[int]:
    if isinstance(cut, CentreCrop):
        return frozenset(cut.dims)
    return frozenset(range(2, dims)) if isinstance(cut, KernelTransform) else frozenset()


# -- what the new tensor holds


def enlarged(
    old: Tensor,
    drawn: Tensor,
    place: Placement,
    *,
    copied: Sequence[int] = (),
    silent: Sequence[int] = (),
    beside: Tensor | None = None,
) -> Tensor:
    """`old` at its place; new units of layers that write are drawn or copies, and old units read nothing of new ones.

    Args:
        old: the old tensor.
        drawn: initial values of the new one.
        place: where the old one lies.
        copied: grown dimensions whose new units are copies of old ones; those of others are drawn.
        silent: grown dimensions along which old units have zeros for new ones.
        beside: take copies from this tensor, which is like the old one.
    """
    new, base = drawn.clone(), old
    for dim in copied:
        source, kept = place.source[dim].to(old.device), place.kept[dim].to(old.device)
        new = new.index_select(dim, kept[source])  # whatever is drawn for the others is equal for equal units
        again = base.index_select(dim, source)
        if beside is not None:
            fresh = _fresh(place, dim, old)
            again = torch.where(fresh, beside.index_select(dim, source), again)
            beside = again
        base = again
    every = frozenset(copied)
    new_zeros = new.new_zeros(())
    place.put(new, new_zeros, every | frozenset(silent) | place.rings)
    place.put(new, base, every)
    return new


def divided(old: Tensor, place: Placement, readers: Sequence[int], beside: Tensor | None = None) -> Tensor:
    """Copies of units, and what reads a unit divided by how many there are of it (Chen et al. 2022, "bert2BERT").

    Args:
        old: the old tensor.
        place: where the old one lies.
        readers: dimensions along which a layer sums over its inputs.
        beside: take the new units of layers that write from this tensor, which is like the old one.
    """
    for dim in place.grown:
        source = place.source[dim].to(old.device)
        again = old.index_select(dim, source)
        if beside is not None:
            more = beside.index_select(dim, source)
            again = again if dim in readers else torch.where(_fresh(place, dim, old), more, again)
            beside = more
        old = again
        if dim in readers:
            shape = [-1 if axis == dim else 1 for axis in range(old.dim())]
            old = old / source.bincount()[source].reshape(shape)
            beside = None if beside is None else beside / source.bincount()[source].reshape(shape)
    new = old.new_zeros(place.new)
    place.put(new, old, frozenset(place.grown))
    return new


def _fresh(place: Placement, dim: int, like: Tensor) -> Tensor:
    """Which units along a dimension are new, in a shape that broadcasts."""
    fresh = torch.ones(place.new[dim], dtype=torch.bool, device=like.device)
    fresh[place.kept[dim].to(like.device)] = False
    return fresh.reshape([-1 if axis == dim else 1 for axis in range(like.dim())])
