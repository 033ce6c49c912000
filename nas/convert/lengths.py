"""Where the length of an axis is from, of tensors that nothing but their shape is asked for.

`hidden[:, 0].shape` leaves an operator in the graph whose result nobody reads.  It is dropped, as all dead operators are: its
rule would take the first column for one that is needed.  What follows from its shape follows from that of what went in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import torch
from torch import Tensor, fx

from nas.convert.rules import is_pointwise, name_of
from nas.convert.rules.base import arguments

Place = tuple[fx.Node, int]
"""An axis of what a node gives."""


def origins(nodes: Iterable[fx.Node]) -> dict[Place, Place]:
    """For axes of what these operators give, an axis of what went in that is as long, whatever that length is."""
    found: dict[Place, Place] = {}
    for node in nodes:
        fake = node.meta.get("val")
        if node.op == "call_function" and isinstance(fake, Tensor):
            for axis in range(fake.dim()):
                place = _origin(node, axis)
                if place is not None:
                    found[node, axis] = place
    return found


def alive(place: Place, found: Mapping[Place, Place], nodes: Collection[fx.Node]) -> Place | None:
    """The first of a place and its origins that is of one of `nodes`."""
    now: Place | None = place
    while now is not None and now[0] not in nodes:
        now = found.get(now)
    return now


def _origin(node: fx.Node, axis: int) -> Place | None:
    rule = _RULES.get(name_of(node).removeprefix("aten."))
    if rule is not None:
        given = arguments(node)
        source = given.get("self")
        before = None if not isinstance(source, fx.Node) else rule(given, axis, source.meta["val"].dim())
        return None if before is None or not isinstance(source, fx.Node) else (source, before)
    alike = is_pointwise(node) or name_of(node).removeprefix("aten.") in _ALIKE
    return _broadcast(node, axis) if alike else None


def _broadcast(node: fx.Node, axis: int) -> Place | None:
    shape: torch.Size = node.meta["val"].shape
    for source in node.all_input_nodes:
        fake = source.meta.get("val")
        own = axis - len(shape) + fake.dim() if isinstance(fake, Tensor) else -1
        if isinstance(fake, Tensor) and own >= 0 and fake.shape[own] == shape[axis] and shape[axis] != 1:
            return source, own
    return None


Given = Mapping[str, object]


def _dim(given: Given, rank: int, name: str = "dim") -> int:
    return int(given[name]) % rank  # type: ignore[call-overload, no-any-return]


def _select(given: Given, axis: int, rank: int) -> int | None:
    return axis if axis < _dim(given, rank) else axis + 1


def _slice(given: Given, axis: int, rank: int) -> int | None:
    return axis if axis != _dim(given, rank) else None


def _unsqueeze(given: Given, axis: int, rank: int) -> int | None:
    dim = _dim(given, rank + 1)
    return None if axis == dim else axis - (axis > dim)


def _transpose(given: Given, axis: int, rank: int) -> int | None:
    one, other = _dim(given, rank, "dim0"), _dim(given, rank, "dim1")
    return {one: other, other: one}.get(axis, axis)


def _permute(given: Given, axis: int, rank: int) -> int | None:
    return int(given["dims"][axis]) % rank  # type: ignore[index]


def _reduced(given: Given, axis: int, rank: int) -> int | None:
    dims = given.get("dim")
    several = [dims] if isinstance(dims, int) else list(dims or range(rank))  # type: ignore[call-overload]
    gone = {int(dim) % rank for dim in several}
    if given.get("keepdim"):
        return None if axis in gone else axis
    return [dim for dim in range(rank) if dim not in gone][axis]


_ALIKE = frozenset({"to", "_to_copy", "clone", "contiguous", "detach", "alias", "dropout", "type_as", "zeros_like"})
"""Operators that give the shape of what they are given, though torch does not say so."""

_RULES: dict[str, Callable[[Given, int, int], int | None]] = {
    "select": _select,
    "slice": _slice,
    "unsqueeze": _unsqueeze,
    "transpose": _transpose,
    "permute": _permute,
    **dict.fromkeys(("sum", "mean", "amax", "amin", "argmax", "argmin", "any", "all"), _reduced),
}
