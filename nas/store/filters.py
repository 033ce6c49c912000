"""`where` filters: a small part of Python's expressions, evaluated on columns.

    latency_ms <= 2 and params < 50_000
    0.9 < accuracy and not layers[0].kernel in (5, 7)
    state == "FAILED" or choices["block=MBConv.kernel"] == 3

Comparisons (chained too), `and`, `or`, `not`, parentheses, numbers, text, True, False and None, and `in` with a list of those.
Names are columns: of trials, metrics, decisions; `choices["…"]` reaches a decision of any name, `measurements["…"]` a metric and
`trial["…"]` a column of trials, where several have that name.  The text is parsed by `ast` and never evaluated, and never
reaches the database.

A trial without a value satisfies no comparison on it, whether negated or not: `not (latency_ms > 2)` is `latency_ms <= 2`
(three-valued logic, as in SQL).

Candidates are compared by kind: 1 and 1.0 are the same number, True is none, and None is a candidate that was chosen, not a
decision that is inactive.  A number finds the candidate that it is short for: `rate == 0.3` finds 0.30000000000000004, unless 0.3
is a candidate, too.  Metrics are compared exactly; True and False stand for the 1 and 0 that are stored of a metric.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nas.errors import FilterError, suggest
from nas.metrics import exact

Kind = Literal["number", "text", "flag", "none"]
#: What a column holds: float64 with NaN where there is no value, or objects (float, str, bool, `NOTHING`) with None.
Column = NDArray[Any]
Mask = NDArray[np.bool_]
#: Where a condition is true, and where it is false; neither where a value is missing.
Truth = tuple[Mask, Mask]
Columns = Mapping[str, Column]

#: In a column of choices: the candidate None, which was chosen.
NOTHING = object()
_SAME = 1e-9  # relative: what separates a number from the one that is shown for it


class Table(dict[str, Column]):
    """Columns by name.

    Args:
        columns: aligned.
        candidates: of the columns that are decisions, the numbers among their candidates.
    """

    def __init__(self, columns: Mapping[str, Column], candidates: Mapping[str, frozenset[float]] | None = None) -> None:
        super().__init__(columns)
        self.candidates = dict(candidates or {})


_OPERATORS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}
_GRAMMAR = "write comparisons joined by and, or, not, as in 'latency_ms <= 2 and params < 50_000'"


@dataclass(frozen=True)
class _Name:
    name: str


@dataclass(frozen=True)
class _Value:
    value: float | str | bool | None


_Operand = _Name | _Value


def column_key(name: str) -> str | None:
    """How a filter spells the column `name`; None when it cannot (then `choices["…"]` can)."""
    try:
        node = ast.parse(name.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute | ast.Subscript) else None


def metric_key(name: str) -> str:
    """How a filter spells a metric, whatever else has its name."""
    return f"measurements[{name!r}]"


def trial_key(name: str) -> str:
    """How a filter spells a column of trials, whatever else has its name."""
    return f"trial[{name!r}]"


def in_state(state: str, where: str | None = None) -> str:
    """A filter: trials in a state, of those that satisfy another one."""
    return f"{trial_key('state')} == {state!r}{f' and ({where})' if where else ''}"


class Filter:
    """A parsed filter.

    Args:
        text: the expression.

    Attributes:
        names: columns that it needs, each once, in the order of their first use.

    Raises:
        FilterError: the text is not such an expression.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._names: dict[str, None] = {}
        self._places: dict[str, tuple[int, int]] = {}
        self._pairs: list[tuple[_Operand, str, _Operand]] = []
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(text.strip(), mode="eval")
            self._truth = self._compile(tree.body)
        except FilterError:
            raise
        except (RecursionError, MemoryError):
            raise FilterError(f"filter {text[:40]!r}… is nested too deeply; simplify it") from None
        except (SyntaxError, ValueError) as error:
            hint = "; compare with '==', not '='" if _single_equals(text) else f"; {_GRAMMAR}"
            message = getattr(error, "msg", None) or str(error)
            raise FilterError(f"filter {text!r} does not parse ({message}){hint}", _where(text, error)) from None
        self.names = tuple(self._names)

    def check(
        self, kinds: Mapping[str, frozenset[Kind]], ambiguous: Mapping[str, Sequence[str]] = MappingProxyType({})
    ) -> None:
        """Whether the filter fits columns of these kinds; `ambiguous` are the spellings of each column with a shared name.

        Raises:
            FilterError: a name is unknown or that of several columns, or text is compared with numbers.
        """
        for name in self.names:
            if name in ambiguous:
                *others, last = ambiguous[name]
                raise FilterError(
                    f"filter {self.text!r}: several columns are called {name!r}; write {', '.join(others)} or {last}",
                    self._places.get(name),
                )
            if name not in kinds:
                plain = [key for key in kinds if not key.startswith(("choices[", "measurements[", "trial["))]
                shown = ", ".join(plain[:20]) + (", …" if len(plain) > 20 else "")
                raise FilterError(
                    f"filter {self.text!r}: there is no column {name!r}{suggest(name, kinds)}; there are {shown}",
                    self._places.get(name),
                )
        for left, operator, right in self._pairs:
            if not _comparable(operator, _kinds(left, kinds), _kinds(right, kinds)):
                raise FilterError(
                    f"filter {self.text!r}: '{_shown(left)} {operator} {_shown(right)}' compares {_a(left, kinds)} "
                    f"with {_a(right, kinds)}; compare numbers with numbers and text with text"
                )

    def mask(self, columns: Columns, size: int) -> Mask:
        """(size,) where the filter is true, given the columns that it names (checked before)."""
        true, _ = self._truth(columns)
        return np.broadcast_to(true, (size,))

    # -- from syntax to closures -------------------------------------------------------------------------------------

    def _compile(self, node: ast.expr) -> Callable[[Columns], Truth]:
        if isinstance(node, ast.BoolOp):
            parts = [self._compile(value) for value in node.values]
            return lambda columns: _join([part(columns) for part in parts], isinstance(node.op, ast.And))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self._compile(node.operand)
            return lambda columns: inner(columns)[::-1]
        if isinstance(node, ast.Compare):
            return self._compare(node)
        raise self._refuse(node, "is not a comparison")

    def _compare(self, node: ast.Compare) -> Callable[[Columns], Truth]:
        sides = [node.left, *node.comparators]
        parts = [
            self._membership(left, right, isinstance(op, ast.NotIn))
            if isinstance(op, ast.In | ast.NotIn)
            else self._pair(node, left, op, right)
            for left, op, right in zip(sides, node.ops, sides[1:], strict=False)
        ]
        return lambda columns: _join([part(columns) for part in parts], True)

    def _pair(self, node: ast.Compare, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Callable[[Columns], Truth]:
        operator = _OPERATORS.get(type(op))
        if operator is None:
            raise self._refuse(node, "uses 'is'; compare with ==")
        return self._test(node, self._operand(left), operator, self._operand(right))

    def _membership(self, left: ast.expr, right: ast.expr, negated: bool) -> Callable[[Columns], Truth]:
        if not isinstance(right, ast.Tuple | ast.List | ast.Set) or not right.elts:
            raise self._refuse(right, "is not a list of values; write NAME in (3, 5)")
        operand = self._operand(left)
        parts = [self._test(left, operand, "==", self._operand(value)) for value in right.elts]

        def truth(columns: Columns) -> Truth:
            found = _join([part(columns) for part in parts], False)
            return found[::-1] if negated else found

        return truth

    def _test(self, node: ast.expr, left: _Operand, operator: str, right: _Operand) -> Callable[[Columns], Truth]:
        if isinstance(left, _Value) and isinstance(right, _Value):
            raise self._refuse(node, "compares two values; name a column")
        if operator not in ("==", "!=") and None in (getattr(left, "value", 0), getattr(right, "value", 0)):
            raise self._refuse(node, "has no order: 'None' is neither more nor less than anything")
        self._pairs.append((left, operator, right))

        def truth(columns: Columns) -> Truth:
            return _evaluate(_read(left, right, columns), operator, _read(right, left, columns))

        return truth

    def _operand(self, node: ast.expr) -> _Operand:
        if isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
            name = ast.unparse(node)
            self._names[name] = None
            self._places.setdefault(name, self._place(node))
            return _Name(name)
        sign = 1.0
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            sign = -1.0 if isinstance(node.op, ast.USub) else 1.0
            node = node.operand
            if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, str | bool)):
                raise self._refuse(node, "has a sign but is not a number")
        if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, bool)):
            return _Value(node.value)
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            try:
                return _Value(sign * float(node.value))
            except OverflowError:
                return _Value(sign * math.inf)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return _Value(node.value)
        raise self._refuse(node, "is neither a column nor a number, a text, True, False or None")

    def _refuse(self, node: ast.expr, why: str) -> FilterError:
        return FilterError(f"filter {self.text!r}: '{ast.unparse(node)}' {why}; {_GRAMMAR}", self._place(node))

    def _place(self, node: ast.expr) -> tuple[int, int]:
        """Where a part of the expression is in the text."""
        first = _character(self.text, node.lineno, node.col_offset)
        last = _character(self.text, node.end_lineno or node.lineno, node.end_col_offset or node.col_offset)
        return first, max(first + 1, last)


def _where(text: str, error: Exception) -> tuple[int, int] | None:
    """Where a text stops being an expression."""
    line, column = getattr(error, "lineno", None), getattr(error, "offset", None)
    if line is None:
        return None
    if not column:  # it ends too soon
        return len(text), len(text)
    lines = text.strip().splitlines(keepends=True)
    first = min(len(text) - len(text.lstrip()) + sum(map(len, lines[: line - 1])) + column - 1, max(0, len(text) - 1))
    return first, first + 1


def _character(text: str, line: int, column: int) -> int:
    """The character at a line and a column in bytes of UTF-8, as syntax trees count, of the text without spaces around."""
    lines = text.strip().splitlines(keepends=True)
    within = lines[line - 1].encode()[:column].decode(errors="ignore")
    return len(text) - len(text.lstrip()) + sum(map(len, lines[: line - 1])) + len(within)


def _single_equals(text: str) -> bool:
    return any(
        character == "="
        for before, character, after in zip(" " + text, text, text[1:] + " ", strict=False)
        if before not in "=<>!" and after != "="
    )


def _comparable(operator: str, left: frozenset[Kind], right: frozenset[Kind]) -> bool:
    """Whether some values of these kinds can be asked for: equal or not, or which is more."""
    if operator not in ("==", "!="):
        return bool((left & right) - {"flag", "none"})
    asked = {"flag", "number"}  # 1 is not True, and may be asked for where True is a candidate
    return bool(left & right) or (bool(left & asked) and bool(right & asked))


def _kinds(operand: _Operand, kinds: Mapping[str, frozenset[Kind]]) -> frozenset[Kind]:
    if isinstance(operand, _Name):
        return kinds[operand.name]
    return frozenset({kind_of(operand.value)})


def kind_of(value: object) -> Kind:
    """Kind of a candidate or a value."""
    if value is None or value is NOTHING:
        return "none"
    return "flag" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"


def _shown(operand: _Operand) -> str:
    if isinstance(operand, _Name):
        return operand.name
    value = operand.value
    return exact(value) if isinstance(value, float) and kind_of(value) == "number" else repr(value)


def _a(operand: _Operand, kinds: Mapping[str, frozenset[Kind]]) -> str:
    found = _kinds(operand, kinds)
    names = {"number": "a number", "text": "text", "flag": "True or False", "none": "None"}
    return next(name for kind, name in names.items() if kind in found)


def _read(operand: _Operand, other: _Operand, columns: Columns) -> Any:
    """A column, or a value as it is compared with the column `other`."""
    known: Mapping[str, frozenset[float]] = getattr(columns, "candidates", {})
    if isinstance(operand, _Value):
        value = NOTHING if operand.value is None else operand.value
        measured = isinstance(other, _Name) and other.name not in known and columns[other.name].dtype == np.float64
        return float(operand.value) if isinstance(operand.value, bool) and measured else value
    column = columns[operand.name]
    candidates = known.get(operand.name)
    if candidates is None or not isinstance(other, _Value) or not isinstance(other.value, float):
        return column
    return column if other.value in candidates else _snapped(column, other.value)


def _snapped(column: Column, value: float) -> Column:
    """The column with `value` in the place of numbers that differ from it by rounding."""
    if column.dtype == np.float64:
        return np.where(np.isclose(column, value, rtol=_SAME, atol=0.0), value, column)
    snapped = column.copy()
    for at, one in enumerate(column):
        if kind_of(one) == "number" and math.isclose(one, value, rel_tol=_SAME):
            snapped[at] = value
    return snapped


def _join(parts: Sequence[Truth], conjunction: bool) -> Truth:
    """Kleene's `and` (or `or`): true where all (any) are, false where any (all) are."""
    true, false = parts[0]
    for other_true, other_false in parts[1:]:
        true = true & other_true if conjunction else true | other_true
        false = false | other_false if conjunction else false & other_false
    return true, false


def _evaluate(left: Any, operator: str, right: Any) -> Truth:
    """A comparison, known only where both sides have a value."""
    compare = _COMPARE[operator]
    if _is_float(left) and _is_float(right):
        known = ~(np.isnan(left) | np.isnan(right))
        true = compare(left, right) & known
        return true, known & ~true
    lefts, rights = np.broadcast_arrays(np.asarray(left, dtype=object), np.asarray(right, dtype=object))
    known = _present(lefts) & _present(rights)
    kinds = _kinds_of(lefts), _kinds_of(rights)
    alike = np.asarray(kinds[0] == kinds[1], dtype=np.bool_)
    if operator not in ("==", "!="):  # there is an order among numbers and among texts, none between them
        known &= alike & (kinds[0] != "flag") & (kinds[0] != "none")
    true = np.full(lefts.shape, operator == "!=", dtype=np.bool_)
    both = known & alike
    true[both] = np.asarray(compare(lefts[both], rights[both]), dtype=np.bool_)
    true &= known
    return true, known & ~true


def _is_float(side: Any) -> bool:
    return isinstance(side, float) or (isinstance(side, np.ndarray) and side.dtype == np.float64)


def _present(values: Column) -> Mask:
    """Neither None nor NaN."""
    return np.asarray(np.not_equal(values, np.array(None)) & np.equal(values, values), dtype=np.bool_)


def _kinds_of(values: Column) -> NDArray[Any]:
    return np.array([kind_of(value) for value in values.flat], dtype=object).reshape(values.shape)
