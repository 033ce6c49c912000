"""Type inference for axes: expressions over atoms that are unified as operations demand.

Every axis of every tensor of a captured graph gets an expression: a product of factors, slowest first.  A factor is a fixed
number, an atom, or a sum of axes (`torch.cat`).  What an operation asks of its operands is that axes are equal, or that one is
made of others; atoms are then bound to what they are found to be, as a type checker binds type variables.  An atom that is
still free in the end can be cut wherever it occurs, and the network stays one.  What cannot be cut is frozen, and keeps the
first cause of it through everything that it is unified with.

`nas.supernet.parts` has the same expressions with names in place of atoms, once nothing changes any more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

COPIES = 64
"""A product is written as a sum of copies of its minor part, where it is cut inside them, up to this many copies."""


@dataclass(frozen=True)
class Cause:
    """Why an axis stays whole.

    Attributes:
        reason: one of the reasons of `nas.convert.report`.
        op: operation that asked for it.
        module: path of the module that called it.
    """

    reason: str
    op: str = ""
    module: str = ""


class Conflict(Exception):
    """Two expressions cannot be made equal; whoever asked freezes both."""


@dataclass(frozen=True)
class Fixed:
    """A number, and why it is one: None for numbers that nobody made rigid, such as a repeat."""

    size: int
    cause: Cause | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fixed) and self.size == other.size

    def __hash__(self) -> int:
        return hash(self.size)


class Atom:
    """Units that are cut as one, or, once it is bound, what it was found to be."""

    __slots__ = ("bound", "number", "size")
    _numbers = itertools.count()

    def __init__(self, size: int) -> None:
        self.size = size
        self.bound: Axis | None = None
        self.number = next(Atom._numbers)

    def __repr__(self) -> str:
        return f"a{self.number}:{self.size}" if self.bound is None else f"a{self.number}={self.bound}"


@dataclass(frozen=True)
class Sum:
    """Axes one after the other."""

    terms: tuple[Axis, ...]

    @property
    def size(self) -> int:
        """Their length together."""
        return sum(map(size_of, self.terms))


Factor = Fixed | Atom | Sum
Axis = tuple[Factor, ...]


def size_of(axis: Axis) -> int:
    """Length of an axis; `()` is 1 long."""
    return math.prod(factor.size for factor in axis)


def fixed(size: int, cause: Cause | None = None) -> Axis:
    """A rigid axis."""
    return (Fixed(size, cause),) if size != 1 else ()


def fresh(size: int) -> Axis:
    """An axis that nothing is known of; of none there is nothing to cut."""
    return (Atom(size),) if size > 1 else fixed(size)


def norm(axis: Iterable[Factor]) -> Axis:
    """The same axis with bound atoms replaced, ones dropped, neighbouring numbers multiplied and sums in their simplest form."""
    found: list[Factor] = []
    for factor in axis:
        for each in _resolved(factor):
            if each.size == 1 and not isinstance(each, Sum):
                continue
            last = found[-1] if found else None
            if isinstance(each, Fixed) and isinstance(last, Fixed):
                found[-1] = Fixed(last.size * each.size, last.cause or each.cause)
            else:
                found.append(each)
    return tuple(found)


def _resolved(factor: Factor) -> Axis:
    if isinstance(factor, Atom):
        if factor.bound is None:
            return (factor,)
        factor.bound = norm(factor.bound)
        return factor.bound
    return _sum(factor.terms) if isinstance(factor, Sum) else (factor,)


def _sum(terms: Sequence[Axis]) -> Axis:
    """A sum of axes, as simple as it can be said: of numbers a number, of equal pieces a product."""
    flat: list[Axis] = []
    for term in map(norm, terms):
        inner = term[0].terms if len(term) == 1 and isinstance(term[0], Sum) else (term,)
        for piece in inner:
            if size_of(piece) == 0:
                continue
            if flat and rigid(piece) and rigid(flat[-1]):
                flat[-1] = fixed(size_of(flat[-1]) + size_of(piece), cause_of(flat[-1]) or cause_of(piece))
            else:
                flat.append(piece)
    if not flat:
        return (Fixed(0),)
    if len(flat) == 1:
        return flat[0]
    if all(piece == flat[0] for piece in flat):
        return norm((Fixed(len(flat)), *flat[0]))
    return (Sum(tuple(flat)),)


def joined(axes: Sequence[Axis]) -> Axis:
    """Axes one after the other."""
    return norm((Sum(tuple(axes)),))


def rigid(axis: Axis) -> bool:
    """Whether nothing of it can be cut; of a `norm`ed axis."""
    return not any(True for _ in free(axis))


def cause_of(axis: Axis) -> Cause | None:
    """The first cause for which something of a `norm`ed axis is rigid."""
    for factor in axis:
        if isinstance(factor, Fixed) and factor.cause is not None:
            return factor.cause
        if isinstance(factor, Sum):
            found = next(filter(None, map(cause_of, factor.terms)), None)
            if found is not None:
                return found
    return None


def free(axis: Iterable[Factor]) -> Iterator[Atom]:
    """The unbound atoms of an axis, each as often as it occurs."""
    for factor in norm(axis):
        if isinstance(factor, Atom):
            yield factor
        elif isinstance(factor, Sum):
            for term in factor.terms:
                yield from free(term)


def freeze(axis: Axis, cause: Cause | None) -> None:
    """From now on nothing of `axis` can be cut."""
    for atom in list(free(axis)):
        if atom.bound is None:
            atom.bound = (Fixed(atom.size, cause),)


def prod_split(axis: Axis, low: int) -> tuple[Axis, Axis]:
    """`axis` as a product whose minor part is `low` long: (major part, minor part).

    Raises:
        Conflict: it is none.
    """
    rest: list[Factor] = list(norm(axis))
    need = low
    minor: list[Factor] = []
    while need > 1:
        if not rest:
            raise Conflict
        *rest, factor = norm(rest)  # anew: a factor that was split may occur twice
        if need % factor.size == 0:
            minor.insert(0, factor)
            need //= factor.size
        elif factor.size % need == 0:
            high, small = _split(factor, need)
            rest.extend(high)
            minor[:0] = small
            need = 1
        else:
            raise Conflict
    return norm(rest), norm(minor)


def _split(factor: Factor, low: int) -> tuple[Axis, Axis]:
    """A factor as a product of two."""
    if isinstance(factor, Fixed):
        return fixed(factor.size // low, factor.cause), fixed(low, factor.cause)
    if isinstance(factor, Atom):
        factor.bound = (Atom(factor.size // low), Atom(low))
        return factor.bound[:1], factor.bound[1:]
    if all(size_of(term) % low == 0 for term in factor.terms):
        parts = [prod_split(term, low) for term in factor.terms]
        for _, minor in parts[1:]:
            unify(parts[0][1], minor)
        return joined([major for major, _ in parts]), parts[0][1]
    groups = cut((factor,), range(low, factor.size, low))
    for group in groups[1:]:
        unify(groups[0], group)
    return fixed(len(groups)), groups[0]


def cut(axis: Axis, points: Iterable[int]) -> list[Axis]:
    """The pieces of `axis` between `points`, which rise and are inside it.

    Raises:
        Conflict: it cannot be taken apart there.
    """
    axis, marks = norm(axis), sorted(set(points))
    if not marks:
        return [axis]
    if len(axis) > 1:
        return _cut_product(axis, marks)
    factor = axis[0]
    edges = [0, *marks, factor.size]
    if isinstance(factor, Fixed):
        return [fixed(end - start, factor.cause) for start, end in itertools.pairwise(edges)]
    if isinstance(factor, Atom):
        pieces = [fresh(end - start) for start, end in itertools.pairwise(edges)]
        factor.bound = (Sum(tuple(pieces)),)
        return pieces
    return _cut_sum(factor, marks)


def _cut_product(axis: Axis, marks: list[int]) -> list[Axis]:
    major, minor = axis[0], axis[1:]
    unit = size_of(minor)
    if all(mark % unit == 0 for mark in marks):
        return [norm((*piece, *minor)) for piece in cut((major,), [mark // unit for mark in marks])]
    if major.size > COPIES:
        raise Conflict
    freeze((major,), cause_of(axis))
    return _cut_sum(Sum((minor,) * major.size), marks)


def _cut_sum(total: Sum, marks: list[int]) -> list[Axis]:
    pieces: list[list[Axis]] = [[]]
    start, edges = 0, set(marks)
    for term in total.terms:
        end = start + size_of(term)
        inside = [mark - start for mark in marks if start < mark < end]
        for part in cut(term, inside):
            if start in edges and pieces[-1]:
                pieces.append([])
            pieces[-1].append(part)
            start += size_of(part)
    return [joined(piece) for piece in pieces]


def unify(left: Axis, right: Axis, cause: Cause | None = None) -> None:
    """Let two axes be the same one; where they cannot be, both are frozen, for `cause` or an earlier one."""
    try:
        _unify(left, right, cause)
    except Conflict:
        left, right = norm(left), norm(right)
        why = cause_of(left) or cause_of(right) or cause
        freeze(left, why)
        freeze(right, why)


def _unify(left: Axis, right: Axis, cause: Cause | None) -> None:
    left, right = _without_common(norm(left), norm(right))
    if not left and not right:
        return
    if size_of(left) != size_of(right):
        raise Conflict
    if rigid(left) or rigid(right):
        freeze(right if rigid(left) else left, cause_of(left if rigid(left) else right) or cause)
    elif len(left) == 1 and isinstance(left[0], Atom):
        _bind(left[0], right)
    elif len(right) == 1 and isinstance(right[0], Atom):
        _bind(right[0], left)
    elif _is_sum(left) or _is_sum(right):
        marks = _marks(left) | _marks(right)
        for one, other in zip(cut(left, marks), cut(right, marks), strict=True):
            unify(one, other, cause)
    else:
        _unify_products(left, right, cause)


def _without_common(left: Axis, right: Axis) -> tuple[Axis, Axis]:
    """Both without the factors that they share at their ends."""
    while left and right and left[-1] == right[-1]:
        left, right = left[:-1], right[:-1]
    while left and right and left[0] == right[0]:
        left, right = left[1:], right[1:]
    return left, right


def _bind(atom: Atom, axis: Axis) -> None:
    if any(inner is atom for inner in free(axis)):
        raise Conflict
    atom.bound = axis


def _is_sum(axis: Axis) -> bool:
    return len(axis) == 1 and isinstance(axis[0], Sum)


def _marks(axis: Axis) -> set[int]:
    """Where the terms of a sum meet."""
    if not _is_sum(axis):
        return set()
    lengths = [size_of(term) for term in axis[0].terms]  # type: ignore[union-attr]
    return set(itertools.accumulate(lengths[:-1]))


def _unify_products(left: Axis, right: Axis, cause: Cause | None) -> None:
    """From the minor end, factor by factor; the longer of two is taken apart."""
    low = min(left[-1].size, right[-1].size)
    if left[-1].size == right[-1].size:
        one, other = (left[:-1], left[-1:]), (right[:-1], right[-1:])
    else:
        one, other = prod_split(left, low), prod_split(right, low)
    unify(one[1], other[1], cause)
    unify(one[0], other[0], cause)


def regroup(axes: Sequence[Axis], sizes: Sequence[int]) -> list[Axis]:
    """The axes of a tensor with `axes` that is reshaped to `sizes`.

    Raises:
        Conflict: they cannot be told.
    """
    rest: Axis = norm(factor for axis in axes for factor in axis)
    found: list[Axis] = []
    for size in reversed(sizes):
        rest, minor = prod_split(rest, size)
        found.append(minor)
    if size_of(rest) != 1:
        raise Conflict
    return found[::-1]
