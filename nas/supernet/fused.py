"""Axes of fused parameters, in einops' grammar.  Parsed once; errors name the pattern and the dimension.

A pattern is another way to write axes of atoms (`nas.supernet.parts`), whose lengths follow from shapes; cutting is done there.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

from nas.checking import checked, shown
from nas.errors import LayoutError, suggest
from nas.supernet.layouts import KNOWN, Selected
from nas.supernet.parts import Axis, Shape, Sum
from nas.supernet.selection import Selection

Term = tuple[str, ...]
"""Axes fused into one, slowest first."""

Group = tuple[Term, ...]
"""What one dimension consists of: terms, one after the other."""

_AXIS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_TOKEN = re.compile(r"[()+]|[^\s()+]+")
_REFERENCE = re.compile(r"([^\s\[\]]+?)(?:\[([0-9]+)\])?\Z")


class Layout(Selected):
    """Axes of a fused parameter, in einops' grammar; each axis is cut to its leading part on its own.

    Axes in parentheses are fused into one dimension, slowest first; `+` puts several of them one after the other.  Sizes
    given by keyword are fixed; in each dimension one axis may be without a size: the elastic one, whose length follows from
    the dimension's.

    With `"(qkv heads dim) in", qkv=3, dim=64` a weight of shape (3·6·64, 384) = (1152, 384) holds 6 heads, and a subnet's
    weight of shape (3·4·64, 256) = (768, 256) is made of the first 4 heads of the queries, of the keys and of the values:

    >>> layout = Layout("(qkv heads dim) in", qkv=3, dim=64)
    >>> layout.window(torch.zeros(1152, 384), (768, 256)).shape
    torch.Size([3, 256, 256])

    With `"(q + kv dim + kv dim) in", q=32, dim=8` a weight of (32 + 4·8 + 4·8, 5) = (96, 5) holds 4 key-value heads, and one of
    (32 + 2·8 + 2·8, 5) = (64, 5) is made of all queries, the first 2 heads of the keys and the first 2 of the values:

    >>> layout = Layout("(q + kv dim + kv dim) in", q=32, dim=8)
    >>> [tuple(window.shape) for window in layout.windows(torch.zeros(96, 5), (64, 5))]
    [(32, 5), (16, 5), (16, 5)]

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
        self._selections: dict[tuple[Shape, Shape], Selection] = {}
        self._placed: dict[tuple[tuple[int, ...], tuple[int, ...]], Layout] = {}
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
        large, small = self._look_up(name, whole), self._look_up(name, part)
        key = (tuple(large.values()), tuple(small.values()))
        if key not in self._placed:
            if len(self._placed) == KNOWN:
                self._placed.clear()
            self._placed[key] = Layout(self.pattern, **self.sizes)
            self._placed[key]._found = (large, small)
        return self._placed[key]

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

    def selection(self, whole: Shape, shape: Shape) -> Selection:
        """What the part of shape `shape` keeps of a parameter of shape `whole`; lengths of open axes follow from the shapes'."""
        key = (tuple(whole), tuple(shape))
        if key not in self._selections:
            if len(self._selections) == KNOWN:
                self._selections.clear()
            self._selections[key] = self._select(*key)
        return self._selections[key]

    def _select(self, whole: Shape, shape: Shape) -> Selection:
        if not len(whole) == len(shape) == len(self.groups):
            raise LayoutError(f"{self.pattern!r} has {len(self.groups)} dimensions; the parameter's shape is {whole}")
        large, small = (
            {
                axis: size
                for group, length in zip(self.groups, lengths, strict=True)
                for axis, size in self._lengths(group, length, side).items()
            }
            for side, lengths in enumerate((whole, shape))
        )
        for axis, size in small.items():
            if size > large[axis]:
                raise LayoutError(
                    f"{self.pattern!r}: axis {axis!r} is {size} long, and {large[axis]} in the supernet; "
                    "a part of an axis is never longer than the whole"
                )
        return Selection([_axis(group) for group in self.groups], large, small)

    def _lengths(self, group: Group, length: int, side: int) -> dict[str, int]:
        """Length of each axis of a dimension that is `length` long, in the whole (side 0) or in the part (side 1)."""
        known = {**self._fixed, **self._found[side]}
        rest, unit, opened = length, 0, ""
        for term in group:
            fixed = math.prod(known[axis] for axis in term if axis in known)
            free = [axis for axis in term if axis not in known]
            if free:
                opened, unit = free[0], unit + fixed
            else:
                rest -= fixed
        if rest < 0 or (rest % unit if unit else rest):
            given = {axis: known[axis] for axis in _names(group) if axis in known}
            raise LayoutError(f"{self.pattern!r}, dimension {_shown(group)}: length {length} does not fit {given}")
        return {**known, opened: rest // unit} if unit else known

    @property
    def _shown(self) -> str:
        return repr(self.pattern)

    def __repr__(self) -> str:
        return f"Layout({', '.join([repr(self.pattern), *(f'{axis}={size!r}' for axis, size in self.sizes.items())])})"

    def to_json(self) -> dict[str, Any]:
        """`pattern` and the sizes."""
        return {"kind": self.kind, "pattern": self.pattern, **self.sizes}


def _axis(group: Group) -> Axis:
    """What a dimension consists of, its axes being atoms."""
    return group[0] if len(group) == 1 else (Sum(group),)


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
