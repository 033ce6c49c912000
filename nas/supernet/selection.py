"""Which elements of a tensor an arch keeps, as strided windows: the one place where axes of atoms become indices.

Every axis of products and sums is made of pieces that are evenly spaced: one where only products are cut, and one for each term
of a sum that is cut.  A window is a piece of each dimension, and the part is the windows put together along these dimensions.
All of it follows from the axes and the lengths of their atoms, so it is worked out once for an arch and a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nas.errors import LayoutError
from nas.supernet import parts
from nas.supernet.parts import Axis, Factor, Shape, Sizes, Sum

MOST = 4
"""Windows that are joined; more of them are picked from one view by index, which costs less than many views with gradients."""

Level = tuple[int, int]
"""Indices that are evenly spaced: how many, and how far apart."""


@dataclass(frozen=True)
class _Piece:
    """Evenly spaced indices: `start` and a multiple of each level's step, slowest level first."""

    start: int
    levels: tuple[Level, ...]

    @property
    def kept(self) -> int:
        return math.prod(count for count, _ in self.levels)


@dataclass(frozen=True)
class _Joined:
    """`outer` times, what each child has for it, one child after the other."""

    outer: int
    children: tuple[_Piece | _Joined, ...]

    @property
    def kept(self) -> int:
        return sum(child.kept for child in self.children)


_Node = _Piece | _Joined


class Selection:
    """What an arch keeps of a tensor.

    Attributes:
        whole: shape of the supernet's tensor.
        shape: of the part.
        axes: of each dimension.
        lengths: of their atoms, in the supernet and in the part.
        gathers: whether there are so many windows that picking from their `hull` is faster.

    Args:
        axes: of each dimension of the tensor.
        whole: lengths of their atoms in the supernet.
        part: lengths of their atoms in the arch, none of them larger.
    """

    def __init__(self, axes: Sequence[Axis], whole: Sizes, part: Sizes) -> None:
        self.whole: Shape = tuple(parts.length(axis, whole) for axis in axes)
        self.shape: Shape = tuple(parts.length(axis, part) for axis in axes)
        self.axes, self.lengths = tuple(axes), (whole, part)
        self._nodes = [_node(axis, whole, part) for axis in axes]
        chosen = _product([list(_pieces(node)) for node in self._nodes])
        self._shapes = [tuple(piece.kept for piece in each) for each in chosen]
        self._takes = [_Take(self.whole, each) for each in chosen]
        self.gathers = len(chosen) > MOST
        self._hull = _Gather([parts.indices(axis, whole, part) for axis in axes]) if self.gathers else None

    def __len__(self) -> int:
        """Number of windows."""
        return len(self._takes)

    def window(self, whole: Tensor, index: int = 0) -> Tensor:
        """The window with this number: a view on `whole`, with an axis for each level of its pieces.

        Raises:
            LayoutError: `whole` has another shape.
        """
        if whole.shape != self.whole:
            raise LayoutError(f"the whole tensor has shape {tuple(whole.shape)}, and by its axes it is {self.whole}")
        return self._takes[index](whole)

    def windows(self, whole: Tensor) -> tuple[Tensor, ...]:
        """All of them; pieces of the last dimension are next to each other."""
        return tuple([self.window(whole, index) for index in range(len(self))])

    def join(self, windows: Sequence[Tensor]) -> Tensor:
        """The part, from its windows."""
        if len(windows) == 1:
            window = windows[0]
            return window if window.shape == self.shape else window.reshape(self.shape)
        found = [
            window if window.shape == shape else window.reshape(shape)
            for window, shape in zip(windows, self._shapes, strict=True)
        ]
        for dim in reversed(range(len(self.shape))):
            node = self._nodes[dim]
            count = sum(1 for _ in _pieces(node))
            if count > 1:
                groups = (iter(found[at : at + count]) for at in range(0, len(found), count))
                found = [_joined(node, group, dim) for group in groups]
        return found[0]

    def hull(self, whole: Tensor) -> Tensor:
        """The smallest view that has all windows; for `gather`."""
        assert self._hull is not None, "only where windows are many"
        return whole[self._hull.slices]

    def gather(self, hull: Tensor) -> Tensor:
        """The part, picked from `hull` by index: faster than `join` where windows are many."""
        assert self._hull is not None, "only where windows are many"
        return self._hull(hull)

    def split(self, part: Tensor) -> tuple[Tensor, ...]:
        """What each window has of `part`: the inverse of `join`, without a window's levels."""
        found = [part]
        for dim, node in enumerate(self._nodes):
            found = [piece for one in found for piece in _split(node, one, dim)]
        return tuple(found)


class _Gather:
    """Picks from the hull of the given indices of each dimension."""

    def __init__(self, indices: Sequence[Tensor]) -> None:
        self.slices = tuple(slice(int(each[0]), int(each[-1]) + 1) for each in indices)
        inside = [each - int(each[0]) for each in indices]
        self._indices = [(dim, each) for dim, each in enumerate(inside) if len(each) <= int(each[-1])]

    def __call__(self, hull: Tensor) -> Tensor:
        if self._indices and self._indices[0][1].device != hull.device:
            self._indices = [(dim, each.to(hull.device)) for dim, each in self._indices]
        for dim, each in self._indices:
            hull = hull.index_select(dim, each)
        return hull


class _Take:
    """Takes one window: a slice where each dimension's piece has a single level, which is the faster of both."""

    __slots__ = ("_all", "_pieces", "_slices")

    def __init__(self, whole: Shape, pieces: Sequence[_Piece]) -> None:
        self._pieces = pieces
        single = all(len(piece.levels) == 1 for piece in pieces)
        self._slices = tuple(_slice(piece) for piece in pieces) if single else None
        self._all = self._slices == tuple(slice(0, length, 1) for length in whole)

    def __call__(self, whole: Tensor) -> Tensor:
        if self._all:
            return whole
        if self._slices is not None:
            return whole[self._slices]
        sizes, strides, offset = [], [], int(whole.storage_offset())
        for stride, piece in zip(whole.stride(), self._pieces, strict=True):
            offset += piece.start * stride
            for count, step in piece.levels:
                sizes.append(count)
                strides.append(step * stride)
        return whole.as_strided(sizes, strides, offset)


def _slice(piece: _Piece) -> slice:
    ((count, step),) = piece.levels
    return slice(piece.start, piece.start + (count - 1) * step + 1, step)


def _product(choices: Sequence[list[_Piece]]) -> list[tuple[_Piece, ...]]:
    """One piece of each dimension, in every way."""
    found: list[tuple[_Piece, ...]] = [()]
    for pieces in choices:
        found = [(*one, piece) for one in found for piece in pieces]
    return found


# -- one axis


def _node(axis: Axis, whole: Sizes, part: Sizes) -> _Node:
    return _tree((), 0, _spaced(axis, 1, whole), whole, part)


def _spaced(axis: Axis, step: int, whole: Sizes) -> list[tuple[Factor, int]]:
    """The factors of an axis whose indices are `step` apart, each with how far apart its own are."""
    found = []
    for factor in reversed(axis):
        found.append((factor, step))
        step *= parts.length((factor,), whole)
    return found[::-1]


def _tree(levels: tuple[Level, ...], start: int, factors: list[tuple[Factor, int]], whole: Sizes, part: Sizes) -> _Node:
    """The pieces of a product from the index `start` on: the `levels` before it, and `factors`."""
    for index, (factor, step) in enumerate(factors):
        if isinstance(factor, Sum) and _is_cut(factor, whole, part):
            rest, children = factors[index + 1 :], []
            for term in _terms(factor, whole, part):
                children.append(_tree(levels, start, _spaced(term, step, whole) + rest, whole, part))
                start += parts.length(term, whole) * step
            if len(children) == 1:
                return children[0]
            return _Joined(math.prod(count for count, _ in levels), tuple(children))
        levels = (*levels, (parts.length((factor,), part), step))
    return _Piece(start, _merged(levels))


def _terms(factor: Sum, whole: Sizes, part: Sizes) -> Iterator[Axis]:
    """The terms of a sum, neighbours that are whole as one."""
    uncut = 0
    for term in factor.terms:
        if parts.length(term, whole) == parts.length(term, part):
            uncut += parts.length(term, whole)
            continue
        if uncut:
            yield (uncut,)
        uncut = 0
        yield term
    if uncut:
        yield (uncut,)


def _is_cut(factor: Sum, whole: Sizes, part: Sizes) -> bool:
    return any(whole[atom] != part[atom] for atom in parts.atoms((factor,)))


def _merged(levels: Sequence[Level]) -> tuple[Level, ...]:
    """As few levels as it takes, and at least one."""
    found: list[Level] = []
    for count, step in levels:
        if count == 1:
            continue
        if found and found[-1][1] == count * step:
            found[-1] = (found[-1][0] * count, step)
        else:
            found.append((count, step))
    return tuple(found) or ((1, 1),)


def _pieces(node: _Node) -> Iterator[_Piece]:
    if isinstance(node, _Piece):
        yield node
    else:
        for child in node.children:
            yield from _pieces(child)


def _joined(node: _Node, pieces: Iterator[Tensor], dim: int) -> Tensor:
    """Along dimension `dim`, what consists of `pieces`."""
    if isinstance(node, _Piece):
        return next(pieces)
    children = [_joined(child, pieces, dim) for child in node.children]
    if node.outer == 1:
        return torch.cat(children, dim)
    return torch.cat([_apart(child, dim, node.outer) for child in children], dim + 1).flatten(dim, dim + 1)


def _split(node: _Node, part: Tensor, dim: int) -> Iterator[Tensor]:
    if isinstance(node, _Piece):
        yield part
        return
    lengths = [child.kept // node.outer for child in node.children]
    taken = torch.split(_apart(part, dim, node.outer), lengths, dim + 1)
    for child, piece in zip(node.children, taken, strict=True):
        yield from _split(child, piece.flatten(dim, dim + 1), dim)


def _apart(tensor: Tensor, dim: int, outer: int) -> Tensor:
    """`tensor` with dimension `dim` as two, the first of length `outer`."""
    return tensor.reshape(*tensor.shape[:dim], outer, tensor.shape[dim] // outer, *tensor.shape[dim + 1 :])
