"""Axes of fused parameters, in einops' grammar.  Parsed once; errors name the pattern and the dimension."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nas.checking import checked, shown
from nas.errors import LayoutError, suggest
from nas.supernet.layouts import Cut, Shape

Term = tuple[str, ...]
"""Axes fused into one, slowest first."""

Group = tuple[Term, ...]
"""What one dimension consists of: terms, one after the other."""

_AXIS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_TOKEN = re.compile(r"[()+]|[^\s()+]+")
_REFERENCE = re.compile(r"([^\s\[\]]+?)(?:\[([0-9]+)\])?\Z")


class Layout(Cut):
    """Axes of a fused parameter, in einops' grammar; each axis is cut to its leading part on its own.

    Axes in parentheses are fused into one dimension, slowest first; `+` puts several of them one after the other.  Sizes
    given by keyword are fixed; in each dimension one axis may be without a size: the elastic one, whose length follows from
    the dimension's.

    With `"(qkv heads dim) in", qkv=3, dim=64` a weight of shape (3·6·64, 384) = (1152, 384) holds 6 heads, and a subnet's
    weight of shape (3·4·64, 256) = (768, 256) is made of the first 4 heads of the queries, of the keys and of the values:

    >>> layout = Layout("(qkv heads dim) in", qkv=3, dim=64)
    >>> layout.window(torch.zeros(1152, 384), (768, 256)).shape
    torch.Size([3, 4, 64, 256])

    With `"(q + kv dim + kv dim) in", q=32, dim=8` a weight of (32 + 4·8 + 4·8, 5) = (96, 5) holds 4 key-value heads, and one of
    (32 + 2·8 + 2·8, 5) = (64, 5) is made of all queries, the first 2 heads of the keys and the first 2 of the values:

    >>> layout = Layout("(q + kv dim + kv dim) in", q=32, dim=8)
    >>> [tuple(window.shape) for window in layout.windows(torch.zeros(96, 5), (64, 5))]
    [(32, 5), (2, 8, 5), (2, 8, 5)]

    Where two parts of a sum change on their own, its length does not tell how long each is.  A size may then be a
    reference to a parameter that has the axis as its first dimension (`"left.bias"`) or as another (`"out.weight[1]"`), by
    its name in the same module, in one around it, or in full.

    Args:
        pattern: for each dimension one name, or a group in parentheses: names, or several lists of names with `+` between.
        sizes: lengths of axes: a number where it is fixed, a reference where another parameter has it.

    Raises:
        LayoutError: the pattern does not parse, an axis is named twice, a size is neither positive nor a reference or names
            no axis, or a dimension has more than one open axis.
    """

    kind = "layout"

    @checked(LayoutError)
    def __init__(self, pattern: str, **sizes: int | str) -> None:
        self.pattern = pattern
        self.sizes = sizes
        self.groups = _parse(pattern)
        self._references: dict[str, tuple[str, int]] = {}
        self._fixed: dict[str, int] = {}
        # Lengths that references stand for, in the whole and in the part: see `placed`.
        self._found: tuple[Mapping[str, int], Mapping[str, int]] = ({}, {})
        self._check()

    def _check(self) -> None:
        axes = [axis for group in self.groups for axis in _names(group)]
        fused = [axis for group in self.groups for term in group for axis in term if term.count(axis) > 1]
        twice = next((axis for axis in axes if axis in fused or axes.count(axis) > 1), None)
        if twice:
            raise LayoutError(f"{self.pattern!r} names axis {twice!r} twice; give each axis its own name")
        for axis, size in self.sizes.items():
            if axis not in axes:
                raise LayoutError(f"{self.pattern!r} has no axis {axis!r} to give a size{suggest(axis, axes)}")
            self._take(axis, size)
        for group in self.groups:
            free = [axis for axis in _names(group) if axis not in self.sizes]
            if len(free) > 1:
                hint = "give a size to all but one" + (
                    ", or say which parameter has it: left='left.bias'" if len(group) > 1 else ""
                )
                raise LayoutError(
                    f"{self.pattern!r}, dimension {_shown(group)}: axes {' and '.join(map(repr, free))} have no size; {hint}"
                )

    def _take(self, axis: str, size: Any) -> None:
        """Keep a size as what it is: a number, or the name and dimension of a parameter."""
        reference = _REFERENCE.match(size) if isinstance(size, str) else None
        if reference:
            self._references[axis] = (reference[1], int(reference[2] or 0))
        elif isinstance(size, int) and not isinstance(size, bool) and size > 0:
            self._fixed[axis] = size
        else:
            raise LayoutError(
                f"{self.pattern!r}: size {axis}={shown(size)} is not a positive whole number"
                + (", nor a parameter's name as in 'left.bias' or 'left.weight[1]'" if isinstance(size, str) else "")
            )

    def placed(self, name: str, whole: Mapping[str, Shape], part: Mapping[str, Shape]) -> Layout:
        """This layout with the lengths that its references stand for."""
        if not self._references:
            return self
        placed = Layout(self.pattern, **self.sizes)
        placed._found = (self._look_up(name, whole), self._look_up(name, part))
        return placed

    def _look_up(self, name: str, shapes: Mapping[str, Shape]) -> dict[str, int]:
        found = {}
        path = name.split(".")[:-1]
        for axis, (parameter, dim) in self._references.items():
            around = (".".join([*path[:depth], parameter]) for depth in range(len(path), -1, -1))
            target = next((one for one in around if one in shapes), None)
            if target is None or dim >= len(shapes[target]):
                raise LayoutError(
                    f"{self.pattern!r}: size {axis}={self.sizes[axis]!r} is no dimension of a parameter of this arch; "
                    f"give the parameter's name as it is beside {name!r}, or in full{suggest(parameter, shapes)}"
                )
            found[axis] = shapes[target][dim]
        return found

    def window(self, whole: Tensor, shape: Shape) -> Tensor:
        """The window, with fused axes taken apart where they are cut, each cut to its leading part; see `windows`."""
        windows = self.windows(whole, shape)
        if len(windows) > 1:
            raise LayoutError(f"{self.pattern!r}: {tuple(shape)} is made of {len(windows)} windows; ask for windows()")
        return windows[0]

    def windows(self, whole: Tensor, shape: Shape) -> tuple[Tensor, ...]:
        """A window for every part of a sum, in the order in which the part of shape `shape` has them."""
        pieces = self._pieces(whole.shape, shape)
        if whole.shape == shape and all(len(each) == 1 for each in pieces):
            return (whole,)
        found = []
        for chosen in itertools.product(*pieces):
            window = whole
            for dim, piece in enumerate(chosen):
                window = window.narrow(dim, piece.start, piece.length)
            axes = [axis for piece in chosen for axis in piece.axes]
            found.append(window.view([length for length, _ in axes])[tuple([slice(kept) for _, kept in axes])])
        return tuple(found)

    def join(self, windows: Sequence[Tensor], whole: Shape, shape: Shape, helpers: Mapping[str, Tensor]) -> Tensor:
        """The windows one after the other, along each axis that is a sum."""
        if len(windows) == 1:
            return self.apply(windows[0], shape, helpers)
        pieces = self._pieces(whole, shape)
        shapes = itertools.product(*([piece.kept for piece in each] for each in pieces))
        parts = [window.reshape(each) for window, each in zip(windows, shapes, strict=True)]  # row-major over pieces
        for dim in reversed(range(len(shape))):  # the last dimension's pieces are next to each other
            count = len(pieces[dim])
            if count > 1:
                parts = [torch.cat(parts[index : index + count], dim) for index in range(0, len(parts), count)]
        return parts[0]

    def split(self, part: Tensor, whole: Shape) -> tuple[Tensor, ...]:
        """What each window on a parameter of shape `whole` has of `part`."""
        found = [part]
        for dim, pieces in enumerate(self._pieces(whole, part.shape)):
            lengths = [piece.kept for piece in pieces]
            found = [each for one in found for each in torch.split(one, lengths, dim)]
        return tuple(found)

    def _pieces(self, whole: Shape, shape: Shape) -> list[list[_Piece]]:
        """What each dimension is taken apart into: one piece, or one for each term of a sum that is cut."""
        if not len(whole) == len(shape) == len(self.groups):
            raise LayoutError(
                f"{self.pattern!r} has {len(self.groups)} dimensions; the parameter's shape is {tuple(whole)}"
            )
        return [self._cut(group, whole[dim], shape[dim]) for dim, group in enumerate(self.groups)]

    def _cut(self, group: Group, whole: int, part: int) -> list[_Piece]:
        large, small = self._lengths(group, whole, 0), self._lengths(group, part, 1)
        if all(large[axis] == small[axis] for axis in _names(group)):  # no need to take it apart
            return [_Piece(0, [(whole, part)])]
        pieces, start = [], 0
        for term in group:
            axes: list[tuple[int, int]] = []
            for axis in term:
                length, kept = large[axis], small[axis]
                if axes and length == kept and axes[-1][0] == axes[-1][1]:  # uncut axes stay together
                    axes[-1] = (axes[-1][0] * length, axes[-1][1] * kept)
                else:
                    axes.append((length, kept))
            piece = _Piece(start, [axis for axis in axes if axis != (1, 1)] or [(1, 1)])
            start += piece.length
            pieces.append(piece)
        return pieces

    def _lengths(self, group: Group, length: int, side: int) -> dict[str, int]:
        """Length of each axis of a dimension that is `length` long, in the whole (side 0) or in the part (side 1)."""
        known = {**self._fixed, **self._found[side]}
        rest, unit, opened = length, 0, ""
        for term in group:
            fixed = _product([known[axis] for axis in term if axis in known])
            free = [axis for axis in term if axis not in known]
            if free:
                opened, unit = free[0], unit + fixed
            else:
                rest -= fixed
        if rest < 0 or (rest % unit if unit else rest):
            given = {axis: known[axis] for axis in _names(group) if axis in known}
            raise LayoutError(f"{self.pattern!r}, dimension {_shown(group)}: length {length} does not fit {given}")
        return {**known, opened: rest // unit} if unit else known

    def __repr__(self) -> str:
        return f"Layout({', '.join([repr(self.pattern), *(f'{axis}={size!r}' for axis, size in self.sizes.items())])})"

    def to_json(self) -> dict[str, Any]:
        """`pattern` and the sizes."""
        return {"kind": self.kind, "pattern": self.pattern, **self.sizes}


class _Piece(NamedTuple):
    """A term of a dimension: where it starts in the whole, and (length, length of the part) of each of its axes."""

    start: int
    axes: list[tuple[int, int]]

    @property
    def length(self) -> int:
        return _product([length for length, _ in self.axes])

    @property
    def kept(self) -> int:
        return _product([kept for _, kept in self.axes])


def _product(lengths: Sequence[int]) -> int:
    product = 1
    for length in lengths:
        product *= length
    return product


def _names(group: Group) -> list[str]:
    """The axes of a dimension, each once."""
    return list(dict.fromkeys(itertools.chain(*group)))


def _shown(group: Group) -> str:
    return f"({' + '.join(' '.join(term) for term in group)})"


def _parse(pattern: str) -> list[Group]:
    """Terms of each dimension: `"(a b + c) d"` is `[(("a", "b"), ("c",)), (("d",),)]`."""
    groups: list[Group] = []
    terms: list[list[str]] | None = None
    for token in _TOKEN.findall(pattern):
        if token == "(":
            if terms is not None:
                raise LayoutError(f"{pattern!r} opens a parenthesis inside another; one level is all there is")
            terms = [[]]
        elif token == ")":
            if terms is None or terms == [[]]:
                reason = "closes a parenthesis that is not open" if terms is None else "has empty parentheses"
                raise LayoutError(f"{pattern!r} {reason}; write groups as in '(qkv dim) in'")
            groups.append(_closed(pattern, terms))
            terms = None
        elif token == "+":
            if terms is None:
                raise LayoutError(f"{pattern!r} has a '+' outside of parentheses; write sums as in '(q + kv dim) in'")
            terms.append([])
        elif not _AXIS.match(token):
            raise LayoutError(f"{pattern!r}: {token!r} is not an axis name; use names, and give sizes by keyword")
        elif terms is None:
            groups.append(((token,),))
        else:
            terms[-1].append(token)
    if terms is not None:
        raise LayoutError(f"{pattern!r} does not close its parenthesis; write groups as in '(qkv dim) in'")
    if not groups:
        raise LayoutError(f"{pattern!r} names no axis; write one name or group a dimension, as in '(qkv dim) in'")
    return groups


def _closed(pattern: str, terms: list[list[str]]) -> Group:
    if not all(terms):
        raise LayoutError(f"{pattern!r} has a '+' without an axis on each side; write sums as in '(q + kv dim) in'")
    return tuple(tuple(term) for term in terms)
