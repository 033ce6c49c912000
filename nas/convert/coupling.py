"""From a captured and analysed model to the equations that its class imposes."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from torch import fx

from nas.convert.analysis import Analysis
from nas.convert.decisions import Names, atoms_of
from nas.convert.equations import Equation, Solution, solve
from nas.convert.plan import Number
from nas.convert.refusing import place_of
from nas.convert.rules import Path, name_of
from nas.convert.rules.base import arguments
from nas.convert.tracking import UNKNOWN, Expression, evaluate, replaced, unknowns
from nas.supernet import parts

_SIGNS = frozenset({"+", "-", "*", "//", "%"})
_FACTORS = frozenset({("other",), ("scale",), ("value",), ("alpha",), ("beta",), ("exponent",)})
"""Arguments that are numbers to compute with, and no sizes."""


def couple(analysis: Analysis, names: Names, decided: Collection[str], *, tie: bool = True) -> Solution:
    """What the class of a model takes for equal: ties of decisions, atoms that stay whole, and numbers of modules.

    Args:
        analysis: of the model.
        names: of its atoms.
        decided: names of the atoms that a search decides about.
        tie: without it only the numbers that follow for the sizes that the class can have.
    """
    sizes = {name: atom.size for atom, name in names.atoms.items()}
    attributes = {key: value for key, value in analysis.capture.attributes.items() if isinstance(value, int)}
    asked = list(equations(analysis, names))
    found = solve(asked, sizes, decided, attributes)
    if not tie:
        return Solution(numbers=found.numbers)
    while not found.whole:
        unequal = tuple(_unequal(analysis, names, found.numbers))
        more = [one for one in _proportional(unequal, found, decided, sizes) if one not in asked]
        if not more:
            return replace(found, unequal=unequal)
        asked += more
        found = solve(asked, sizes, decided, attributes)
    return found


def _unequal(analysis: Analysis, names: Names, numbers: Collection[Number]) -> Iterator[tuple[Expression, Expression]]:
    """Lengths that the model compared, and found to be different: where they became the same, it would do something else."""
    axes = {("attr", number.module, number.path): number for number in numbers}

    def length(one: tuple[Any, ...]) -> Expression:
        number = axes.get(one)
        if one[0] != "attr":
            return one
        return ("axis", number.axis) if number is not None else int(analysis.capture.attributes[one])

    for pair in analysis.capture.unequal:
        sides = [_of_axes(analysis, names, each) for each in pair]
        if all(side is not None for side in sides):
            left, right = (replaced(side, length) for side in sides if side is not None)
            yield left, right


def _proportional(
    unequal: Collection[tuple[Expression, Expression]], found: Solution, decided: Collection[str], sizes: parts.Sizes
) -> Iterator[Equation]:
    """Lengths that several decisions could make the same keep their ratio."""
    together = {atom: id(tie) for tie in found.ties for atom in tie.times}
    for left, right in unequal:
        groups = {together.get(atom, atom) for atom in atoms_of((left, right)) if atom in decided}
        if len(groups) > 1:
            one, other = (evaluate(side, lambda axis: parts.length(axis[1], sizes)) for side in (left, right))
            shared = math.gcd(one, other)
            if shared:
                yield Equation(("*", other // shared, left), ("*", one // shared, right), ("comparison", ""))


def equations(analysis: Analysis, names: Names) -> Iterator[Equation]:
    """Every argument that follows from an axis, and what the model's code passes for it; and what the code compares."""
    capture = analysis.capture
    for node, derived in analysis.derived.items():
        tracked = capture.tracked.get(node, {})
        where = name_of(node), capture.paths.get(node, "")
        for path, (axis, sign) in derived.items():
            right: Expression = ("axis", names.axis(axis))
            left = _of_axes(analysis, names, tracked[path]) if path in tracked else None
            why = where
            if left is None:  # a number in the source, or one whose way was not seen: it stays what it is
                left, why = _literal(node, path), _with_line(where, node)
            if left is not None:
                yield Equation(left, right if sign > 0 else ("-", 0, right), why)
    yield from _factors(analysis, names)
    for first, second in capture.equal:
        left, other = _of_axes(analysis, names, first), _of_axes(analysis, names, second)
        if left is not None and other is not None:
            swapped = not (isinstance(left, tuple) and left[0] == "attr")
            yield Equation(*((other, left) if swapped else (left, other)), ("comparison", _module(first, second)))


def _factors(analysis: Analysis, names: Names) -> Iterator[Equation]:
    """Lengths that a factor was computed from, such as the scale of attention, must stay: it would be another function."""
    for node, tracked in analysis.capture.tracked.items():
        for path, expression in tracked.items():
            if path in _FACTORS:
                where = _with_line((name_of(node), analysis.capture.paths.get(node, "")), node)
                for part in _whole_parts(expression):
                    left = _of_axes(analysis, names, part)
                    if left is not None:
                        yield Equation(left, _value(analysis, part), where)


def _whole_parts(expression: Expression) -> Iterator[Expression]:
    """The largest parts of an expression that are whole numbers."""
    if _whole(expression):
        yield expression
    elif isinstance(expression, tuple) and expression[0] not in UNKNOWN:
        for part in expression[1:]:
            yield from _whole_parts(part)


def _value(analysis: Analysis, expression: Expression) -> int:
    def value(one: tuple[Any, ...]) -> Any:
        return analysis.capture.attributes[one] if one[0] == "attr" else one[1].meta["val"].shape[one[2]]

    return int(evaluate(expression, value))


def _with_line(where: tuple[str, str], node: fx.Node) -> tuple[str, str]:
    place = place_of(node)
    return where if place is None else (f"{where[0]} ({place[0]}:{place[1]})", where[1])


def _module(*expressions: Expression) -> str:
    return next((one[1] for each in expressions for one in unknowns(each) if one[0] == "attr"), "")


class _Unseen(Exception):
    """An expression has a part that nothing is known of."""


def _of_axes(analysis: Analysis, names: Names, expression: Expression) -> Expression | None:
    """The expression with axes of atoms in the place of those of nodes; None where it has others or is no whole number."""

    def change(one: tuple[Any, ...]) -> Expression:
        if one[0] == "attr":
            if not isinstance(analysis.capture.attributes.get(one), int):
                raise _Unseen
            return one
        return _axis(analysis, names, one[1], one[2])

    if not _whole(expression):
        return None
    try:
        return replaced(expression, change)
    except _Unseen:
        return None


def _axis(analysis: Analysis, names: Names, node: fx.Node | None, dim: int) -> Expression:
    found = None if node is None else analysis.values.get(node)
    if isinstance(found, list):
        found = found[0] if len(found) == 1 else None
    if found is None or dim >= len(found.axes):
        length = None if node is None else _length(node, dim)
        if length is None:
            raise _Unseen
        return length
    return ("axis", names.axis(found.axes[dim]))


def _length(node: fx.Node, dim: int) -> int | None:
    """Length of an axis of something that no rule speaks of: an input, or what no parameter has a part in."""
    shape = getattr(node.meta.get("val"), "shape", ())
    return int(shape[dim]) if dim < len(shape) and isinstance(shape[dim], int) else None


def _whole(expression: Expression) -> bool:
    if not isinstance(expression, tuple):
        return isinstance(expression, int)
    if expression[0] in ("attr", "dim"):
        return True
    return expression[0] in _SIGNS and all(map(_whole, expression[1:]))


def _literal(node: fx.Node, path: Path) -> int | None:
    value: Any = arguments(node)
    for key in path:
        try:
            value = operator.getitem(value, key)
        except (LookupError, TypeError):
            return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
