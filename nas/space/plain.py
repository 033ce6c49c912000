"""Search spaces that are described in JSON: plain values, no objects of Python.

    {"width": {"choice": [16, 32, 64]},
     "depth": {"int": [1, 6]},
     "lr": {"float": [1e-4, 1e-1], "scale": "log"},
     "kernels": {"many": 3, "of": [3, 5, 7], "sorted": true},
     "order": {"permutation": ["conv", "norm", "act"]},
     "expand": {"choice": [3, 6], "when": {"depth": [5, 6]}}}

An object with one of the keys `choice`, `int`, `float`, `many` and `permutation` is open; every other object, list and scalar
is itself, and may hold open parts.  Candidates of a choice may as well.  `when` makes a decision active only where another one,
which is not inside a candidate, has one of these values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas.errors import SpaceError, brief
from nas.space import Arch, Space
from nas.space.template import closed

MOST_CANDIDATES, MOST_PARTS, DEEPEST = 256, 5_000, 20
KINDS = ("choice", "int", "float", "many", "permutation")
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,59}\Z")
_OPTIONS = {
    "choice": {"when"},
    "int": {"step", "when"},
    "float": {"scale", "when"},
    "many": {"of", "distinct", "sorted", "when"},
    "permutation": {"when"},
}


def space_of(described: Any, name: str) -> Space:
    """The space that a description means.

    Args:
        described: JSON as above; an object.
        name: of the space.

    Raises:
        SpaceError: it is no description, with the place in it, or it has no decision.
    """
    if not isinstance(described, dict):
        raise SpaceError(f"space: an object is expected, with a value for each name, not {brief(repr(described), 80)}")
    reader = _Reader()
    value = reader.value(described, _Place("space"))
    space = Space(value, name=name, active_when=reader.conditions or None)
    if not space.decisions:
        raise SpaceError("space: nothing is open; make a value one, as in {'width': {'choice': [16, 32]}}")
    return space


class Values:
    """Archs of such a space as plain values, without PyGlove, which takes ten times as long.

    Args:
        space: that `space_of` made.
    """

    def __init__(self, space: Space) -> None:
        self._tree, self._firsts = space.schema()["value"], space.schema().get("firsts")

    def __call__(self, arch: Arch) -> Any:
        """The closed value, as JSON has it."""
        row = arch.row()
        if self._firsts is not None:  # of decisions that are switched off the value has the first candidate
            row = [first if gene is None else gene for gene, first in zip(row, self._firsts, strict=True)]
        return _untold(closed(self._tree, row))


def _untold(tree: Any) -> Any:
    """The value that a closed tree (`nas.space.template`) describes."""
    if not isinstance(tree, dict):
        return tree
    if "list" in tree:
        return [_untold(one) for one in tree["list"]]
    return {key: _untold(one) for key, one in tree["dict"]}


@dataclass(frozen=True)
class _Place:
    """Where a value is: in the description, as a decision's name ("" for the whole), how deep, and whether in a candidate."""

    at: str
    name: str = ""
    depth: int = 0
    inside: bool = False

    def item(self, index: int) -> _Place:
        return _Place(f"{self.at}[{index}]", f"{self.name}[{index}]", self.depth + 1, self.inside)

    def member(self, key: str) -> _Place:
        name = f"{self.name}.{key}" if self.name else key
        return _Place(f"{self.at}.{key}", name, self.depth + 1, self.inside)

    def candidate(self, of: str, index: int) -> _Place:
        return _Place(f"{self.at}.{of}[{index}]", "", self.depth + 1, True)


class _Reader:
    """From JSON to a value of PyGlove's, counting its parts."""

    def __init__(self) -> None:
        self.conditions: dict[str, tuple[str, list[Any]]] = {}
        self._parts = 0

    def value(self, told: Any, place: _Place) -> Any:
        """A value, closed or open."""
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise SpaceError(f"space: it has more than {MOST_PARTS:,} parts; leave out what is not searched")
        if place.depth > DEEPEST:
            raise SpaceError(f"{place.at}: it is nested more than {DEEPEST} deep; write it flatter")
        if isinstance(told, list):
            return [self.value(one, place.item(index)) for index, one in enumerate(told)]
        if not isinstance(told, dict):
            return _scalar(told, place.at)
        kinds = [kind for kind in KINDS if kind in told]
        if kinds:
            return self._open(kinds, told, place)
        for key in told:
            if not _KEY.match(key):
                name = brief(repr(key), 80)
                raise SpaceError(f"{place.at}: {name} is no name; use letters, digits and _, a letter first")
        return {key: self.value(one, place.member(key)) for key, one in told.items()}

    def _open(self, kinds: list[str], told: dict[str, Any], place: _Place) -> Any:
        import pyglove as pg

        kind, at = kinds[0], place.at
        if len(kinds) > 1:
            raise SpaceError(f"{at}: {' and '.join(kinds)} together; give one of {', '.join(KINDS)}")
        unknown = sorted(set(told) - {kind} - _OPTIONS[kind])
        if unknown:
            known = ", ".join(sorted(_OPTIONS[kind]))
            raise SpaceError(f"{at}: {kind!r} has no {brief(repr(unknown[0]), 80)}; beside it there may be {known}")
        if "when" in told:
            self._condition(told["when"], place)
        if kind == "choice":
            return pg.oneof(self._candidates(told, kind, place))
        if kind == "int":
            return pg.oneof(_whole(told, at))
        if kind == "float":
            return _real(told, at)
        if kind == "permutation":
            return pg.permutate(self._candidates(told, kind, place))
        return self._many(told, place)

    def _many(self, told: dict[str, Any], place: _Place) -> Any:
        import pyglove as pg

        count, candidates = told["many"], self._candidates(told, "of", place)
        distinct, ordered = told.get("distinct", True), told.get("sorted", False)
        if not isinstance(distinct, bool) or not isinstance(ordered, bool):
            raise SpaceError(f"{place.at}: distinct and sorted are true or false")
        most = min(64, len(candidates)) if distinct else 64
        if not _is_whole(count) or not 1 <= count <= most:
            raise SpaceError(f"{place.at}.many: {brief(repr(count), 40)} is no number of choices; give 1 to {most}")
        return pg.manyof(count, candidates, choices_distinct=distinct, choices_sorted=ordered)

    def _candidates(self, told: dict[str, Any], of: str, place: _Place) -> list[Any]:
        given = told.get(of)
        if not isinstance(given, list) or not given:
            raise SpaceError(f"{place.at}.{of}: a list of candidates is expected, not {brief(repr(given), 80)}")
        _check_count(len(given), f"{place.at}.{of}")
        return [self.value(one, place.candidate(of, index)) for index, one in enumerate(given)]

    def _condition(self, told: Any, place: _Place) -> None:
        at = f"{place.at}.when"
        if place.inside:
            raise SpaceError(f"{at}: a decision inside a candidate is there with the candidate alone; leave it out")
        good = isinstance(told, dict) and len(told) == 1
        other, values = next(iter(told.items())) if good else ("", None)
        if not isinstance(values, list) or not values:
            raise SpaceError(f"{at}: one name with a list of values is expected, as in {{'depth': [5, 6]}}")
        self.conditions[place.name] = other, [_scalar(value, at) for value in values]


def _scalar(told: Any, at: str) -> Any:
    if isinstance(told, float) and not math.isfinite(told):
        raise SpaceError(f"{at}: {told} is no finite number")
    if isinstance(told, int) and abs(told) >= 2**63:
        raise SpaceError(f"{at}: {brief(told, 40)} is beyond 64 bits")
    if isinstance(told, str) and (len(told) > 200 or not told.isprintable()):
        raise SpaceError(f"{at}: texts have up to 200 printable letters, not {brief(repr(told), 80)}")
    if told is None or isinstance(told, (bool, int, float, str)):
        return told
    raise SpaceError(f"{at}: {type(told).__name__} is no JSON")


def _whole(told: Mapping[str, Any], at: str) -> list[int]:
    low, high = _bounds(told["int"], f"{at}.int", _is_whole, "whole numbers")
    step = told.get("step", 1)
    if not _is_whole(step) or step < 1:
        raise SpaceError(f"{at}.step: {brief(repr(step), 40)} is no step; give a whole number, 1 or more")
    found = range(low, high + 1, step)
    _check_count(len(found), f"{at}.int")
    return list(found)


def _real(told: Mapping[str, Any], at: str) -> Any:
    import pyglove as pg

    low, high = _bounds(told["float"], f"{at}.float", _is_number, "numbers")
    scale = told.get("scale", "linear")
    if scale not in ("linear", "log"):
        raise SpaceError(f"{at}.scale: {brief(repr(scale), 40)} is none; give 'linear' or 'log'")
    if scale == "log" and low <= 0:
        raise SpaceError(f"{at}.float: {low:g} has no logarithm; give bounds above 0, or scale 'linear'")
    return pg.floatv(float(low), float(high), scale=None if scale == "linear" else scale)


def _bounds(told: Any, at: str, fits: Any, what: str) -> tuple[Any, Any]:
    good = isinstance(told, list) and len(told) == 2 and all(map(fits, told)) and told[0] < told[1]
    if not good:
        raise SpaceError(f"{at}: two {what} are expected, the smaller first, not {brief(repr(told), 80)}")
    return told[0], told[1]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and abs(value) < 1e300
    )


def _check_count(count: int, at: str) -> None:
    if count > MOST_CANDIDATES:
        raise SpaceError(
            f"{at}: {count:,} candidates; one choice has at most {MOST_CANDIDATES}, give a float, a larger step, or two choices"
        )
