"""Axes made of atoms: which indices of a tensor's axis an arch keeps, as a function of how much it keeps of each atom.

An *axis* is a product of factors, slowest first, as einops writes fused axes; its length is the product of theirs, and `()` has
length 1.  A *factor* is a fixed number, an *atom* (by name; what a search decides, or what is held whole), or a `Sum`: axes
one after the other, as `torch.cat` makes them.  Of an atom the first units are kept, of a product the products of what is kept,
of a sum what each of its terms keeps: grouped queries, packed projections, gates and concatenations need no rule of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import LayoutError

Shape = tuple[int, ...]

Sizes = Mapping[str, int]
"""Length of each atom, by name."""


@dataclass(frozen=True)
class Sum:
    """Axes one after the other."""

    terms: tuple[Axis, ...]


Factor = int | str | Sum
Axis = tuple[Factor, ...]


def length(axis: Axis, sizes: Sizes) -> int:
    """Number of indices of `axis` where atoms have `sizes`."""
    return math.prod(_length(factor, sizes) for factor in axis)


def _length(factor: Factor, sizes: Sizes) -> int:
    if isinstance(factor, Sum):
        return sum(length(term, sizes) for term in factor.terms)
    return sizes[factor] if isinstance(factor, str) else factor


def indices(axis: Axis, whole: Sizes, part: Sizes) -> Tensor:
    """(length(axis, part),) rising indices into the axis of the supernet that an arch keeps.

    Args:
        axis: of the supernet's tensor.
        whole: lengths of atoms in the supernet.
        part: lengths of atoms in the arch, none of them larger.
    """
    return picked(axis, whole, {name: torch.arange(part[name]) for name in atoms(axis)})


def cut(tensor: Tensor, axes: Sequence[Axis], whole: Sizes, part: Sizes) -> Tensor:
    """A copy of what an arch with atoms of the lengths `part` has of `tensor`."""
    found = tensor
    for dimension, axis in enumerate(axes):
        wanted = length(axis, part)
        if wanted == found.shape[dimension]:
            continue
        kept = indices(axis, whole, part)
        if int(kept[-1]) == wanted - 1:
            found = found.narrow(dimension, 0, wanted)
        else:
            found = found.index_select(dimension, kept.to(found.device))
    return found.clone(memory_format=torch.contiguous_format) if found is not tensor else tensor.clone()


def permuted(axis: Axis, whole: Sizes, orders: Mapping[str, Tensor]) -> Tensor:
    """(length(axis, whole),) old index of what is at each index once atoms are renumbered, wherever they occur in `axis`.

    `tensor.index_select(dim, permuted(…))` is the renumbered tensor.

    Args:
        axis: of the tensor.
        whole: lengths of atoms.
        orders: for atoms, by name, the old number of the unit that gets each number; others keep theirs.
    """
    every = {name: torch.arange(whole[name]) for name in atoms(axis)}
    return picked(axis, whole, {name: orders.get(name, units) for name, units in every.items()})


def picked(axis: Axis, whole: Sizes, units: Mapping[str, Tensor]) -> Tensor:
    """Indices into `axis` of the given units of its atoms, in their order."""
    found = torch.zeros(1, dtype=torch.int64)
    for factor in axis:
        if isinstance(factor, Sum):
            inner = _picked_of(factor, whole, units)
        else:
            inner = units[factor] if isinstance(factor, str) else torch.arange(factor)
        found = (found[:, None] * _length(factor, whole) + inner.to(found)).flatten()
    return found


def _picked_of(factor: Sum, whole: Sizes, units: Mapping[str, Tensor]) -> Tensor:
    found, start = [], 0
    for term in factor.terms:
        found.append(picked(term, whole, units) + start)
        start += length(term, whole)
    return torch.cat(found)


def units(axis: Axis, whole: Sizes) -> Iterator[tuple[str, Tensor]]:
    """Each atom of `axis`, in order, with the unit of it that every index is of: (length(axis, whole),), -1 in other terms."""
    total, inner = length(axis, whole), length(axis, whole)
    for factor in axis:
        size = _length(factor, whole)
        inner //= max(size, 1)
        place = torch.arange(total) // inner % size
        if isinstance(factor, str):
            yield factor, place
        elif isinstance(factor, Sum):
            yield from ((name, table[place]) for name, table in _units(factor, whole))


def _units(factor: Sum, whole: Sizes) -> Iterator[tuple[str, Tensor]]:
    start, size = 0, _length(factor, whole)
    for term in factor.terms:
        for name, place in units(term, whole):
            table = torch.full((size,), -1)
            table[start : start + len(place)] = place
            yield name, table
        start += length(term, whole)


def atoms(axis: Axis) -> Iterator[str]:
    """Names of the atoms of `axis`, in order; one that occurs twice comes twice."""
    for factor in axis:
        if isinstance(factor, Sum):
            for term in factor.terms:
                yield from atoms(term)
        elif isinstance(factor, str):
            yield factor


def renamed(axis: Axis, prefix: str) -> Axis:
    """`axis` with `prefix` before the name of each atom."""
    return tuple(
        Sum(tuple(renamed(term, prefix) for term in factor.terms))
        if isinstance(factor, Sum)
        else prefix + factor
        if isinstance(factor, str)
        else factor
        for factor in axis
    )


# -- what built modules carry

SIZES, AXES = "_nas_atoms", "_nas_axes"
"""Attributes of a module of an elastic model: length of each atom in this arch, and axes by tensor name."""

ORDERED = "_nas_ordered"
FACTORED = "_nas_factored"
"""Attribute of one: layers that are two factors in this arch (`low_rank`), and whether their weights are transposed."""
MAPPED = "_nas_mapped"
"""Attribute of one: modules in whose place there is a linear map, and how many places there are behind its features."""
MAP = "linear_map"
"""The layer inside of what takes their place (`nas.train.dropping.Mapped`)."""
HELD = "_nas_held"
"""Attribute of one that is a copy of a ready module (`nas.convert`): names of its buffers that are data."""


def mark(
    module: nn.Module,
    sizes: Sizes,
    axes: Mapping[str, tuple[Axis, ...]],
    ordered: Sequence[str] = (),
    *,
    factored: Mapping[str, bool] | None = None,
    mapped: Mapping[str, int] | None = None,
) -> None:
    """Have `module`, the built model of an arch, say what it is made of.

    Args:
        module: the model.
        sizes: length of every atom in the arch.
        axes: of tensors; those that are not there are whole.
        ordered: atoms whose units must not be renumbered.
        factored: layers that are two factors -> whether the weight of the one layer is (inputs, outputs).
        mapped: modules in whose place there is a linear map -> how many axes there are behind that of its features.
    """
    vars(module)[SIZES], vars(module)[AXES] = dict(sizes), dict(axes)
    if ordered:
        vars(module)[ORDERED] = tuple(ordered)
    if factored:
        vars(module)[FACTORED] = dict(factored)
    if mapped:
        vars(module)[MAPPED] = dict(mapped)


def sizes_of(module: nn.Module) -> dict[str, int]:
    """Length of each atom of the elastic models inside `module`; their paths stand before the names of their atoms."""
    return {f"{prefix}{atom}": size for prefix, owner in _marked(module) for atom, size in vars(owner)[SIZES].items()}


def ordered_in(module: nn.Module) -> set[str]:
    """Atoms of the elastic models inside `module` whose units must not be renumbered."""
    return {f"{prefix}{atom}" for prefix, owner in _marked(module) for atom in vars(owner).get(ORDERED, ())}


def factored_in(module: nn.Module) -> dict[str, bool]:
    """Layers of the elastic models inside `module` that are two factors -> whether their weights are (inputs, outputs)."""
    return dict(_said(module, FACTORED))


def mapped_in(module: nn.Module) -> dict[str, int]:
    """Modules in whose place there is a linear map -> how many axes there are behind that of its features."""
    return dict(_said(module, MAPPED))


def _said(module: nn.Module, what: str) -> Iterator[tuple[str, Any]]:
    for prefix, owner in _marked(module):
        for name, value in vars(owner).get(what, {}).items():
            yield f"{prefix}{name}", value


def axes_of(module: nn.Module) -> dict[str, tuple[Axis, ...]]:
    """Axes of every tensor of the elastic models inside `module` that is not whole, by the tensor's name in `module`."""
    return {
        f"{prefix}{name}": tuple(renamed(axis, prefix) for axis in axes) if prefix else axes
        for prefix, owner in _marked(module)
        for name, axes in vars(owner)[AXES].items()
    }


def elastic_in(module: nn.Module) -> tuple[str, ...]:
    """What names of tensors of elastic models in `module` begin with."""
    return tuple(prefix for prefix, _ in _marked(module))


def unmark(module: nn.Module) -> None:
    """Leave nothing of `mark` in `module`: an ordinary module has no part in a supernet."""
    for owner in module.modules():
        for name in (SIZES, AXES, ORDERED, FACTORED, MAPPED, HELD):
            vars(owner).pop(name, None)


def _marked(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """What begins the names of its tensors, and the module; what is inside a marked module is said by that one alone."""
    if SIZES in vars(module):
        yield prefix, module
        return
    for name, child in module._modules.items():
        if child is not None:
            yield from _marked(child, f"{prefix}{name}.")


# -- as JSON


def to_json(axis: Axis) -> list[Any]:
    """`axis` as JSON: numbers, names, and `{"sum": [axis, …]}`."""
    return [{"sum": [to_json(term) for term in factor.terms]} if isinstance(factor, Sum) else factor for factor in axis]


def from_json(data: Any) -> Axis:
    """The axis that `to_json` described.

    Raises:
        LayoutError: it is none.
    """
    return _axis(data, 0)


DEEPEST = 32
"""Sums inside each other in a file; no model has as many."""


def _axis(data: Any, depth: int) -> Axis:
    if not isinstance(data, list) or depth > DEEPEST:
        what = repr(data) if depth <= DEEPEST else "sums inside each other without an end"
        raise LayoutError(f"an axis is a list of factors, not {what}")
    return tuple(_factor(each, depth) for each in data)


def _factor(data: Any, depth: int) -> Factor:
    if isinstance(data, str) or (isinstance(data, int) and not isinstance(data, bool) and data >= 0):
        return data
    if isinstance(data, dict) and data.keys() == {"sum"} and isinstance(data["sum"], list):
        return Sum(tuple(_axis(term, depth + 1) for term in data["sum"]))
    raise LayoutError(f"a factor of an axis is a whole number, an atom's name or a sum, not {data!r}")
