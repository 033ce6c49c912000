"""PyGlove's DNA at the edge, both ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from nas.errors import SpaceError
from nas.space import nodes
from nas.space.magnitude import parts


def to_numbers(node: nodes.Node, genome: Sequence[Any]) -> list[Any]:
    """What `DNA.to_numbers` gives: the active numbers, depth first.  `genome` has no None where PyGlove has a number."""
    return list(_numbers(node, genome))


def _numbers(node: nodes.Node, genome: Sequence[Any]) -> Iterator[Any]:
    if isinstance(node, nodes.One):
        yield genome[node.point]
        yield from _numbers(node.candidates[genome[node.point]], genome)
    elif isinstance(node, nodes.Real):
        yield genome[node.point]
    else:
        for part in parts(node):
            yield from _numbers(part, genome)


def from_numbers(node: nodes.Node, numbers: Sequence[Any], n: int) -> list[Any]:
    """A genome of n entries from the numbers of a DNA; candidates become canonical.

    Raises:
        SpaceError: too few or too many numbers, or an index that is none.
    """
    genome: list[Any] = [None] * n
    left = iter(numbers)
    try:
        _read(node, left, genome)
    except StopIteration:
        raise SpaceError(f"DNA {list(numbers)} is too short for this space") from None
    rest = list(left)
    if rest:
        raise SpaceError(f"DNA {list(numbers)} is too long for this space by {len(rest)} numbers")
    return genome


def _read(node: nodes.Node, left: Iterator[Any], genome: list[Any]) -> None:
    if isinstance(node, nodes.One):
        index = next(left)
        if not isinstance(index, int) or not 0 <= index < len(node.candidates):
            raise SpaceError(f"DNA has {index!r} where an index from 0 to {len(node.candidates) - 1} is expected")
        genome[node.point] = node.canonical[index]
        _read(node.candidates[index], left, genome)
    elif isinstance(node, nodes.Real):
        genome[node.point] = next(left)
    else:
        for part in parts(node):
            _read(part, left, genome)
