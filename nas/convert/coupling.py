"""From a captured and analysed model to the equations that its class imposes."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator
from typing import Any

from torch import fx

from nas.convert.analysis import Analysis
from nas.convert.decisions import Names
from nas.convert.equations import Equation, Solution, solve
from nas.convert.rules import Path, name_of
from nas.convert.rules.base import arguments
from nas.convert.tracking import Expression, replaced, unknowns

_SIGNS = frozenset({"+", "-", "*", "//", "%"})


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
    found = solve(list(equations(analysis, names)), sizes, decided, attributes)
    return found if tie else Solution(numbers=found.numbers)


def equations(analysis: Analysis, names: Names) -> Iterator[Equation]:
    """Every argument that follows from an axis, and what the model's code passes for it; and what the code compares."""
    capture = analysis.capture
    for node, derived in analysis.derived.items():
        tracked = capture.tracked.get(node, {})
        where = name_of(node), capture.paths.get(node, "")
        for path, (axis, sign) in derived.items():
            right: Expression = ("axis", names.axis(axis))
            left = _of_axes(analysis, names, tracked[path]) if path in tracked else None
            if left is None:
                left = _literal(
                    node, path
                )  # a number in the source, or one whose way was not seen: it stays what it is
            if left is not None:
                yield Equation(left, right if sign > 0 else ("-", 0, right), where)
    for first, second in capture.equal:
        left, other = _of_axes(analysis, names, first), _of_axes(analysis, names, second)
        if left is not None and other is not None:
            swapped = not (isinstance(left, tuple) and left[0] == "attr")
            yield Equation(*((other, left) if swapped else (left, other)), ("comparison", _module(first, second)))


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
