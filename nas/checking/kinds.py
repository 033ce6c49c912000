"""Kinds of values: each takes a value, as Python's own where it is a number, or says what it is and what was expected."""

from __future__ import annotations

import collections.abc
import contextlib
import inspect
import math
import numbers
import operator
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.checking.scalars import is_number, plain_scalar, shown
from nas.errors import suggest

_LARGEST = 2**63 - 1  # what a database and a tensor hold


@dataclass(frozen=True)
class Range:
    """Which numbers are meant, beside an annotation: `Annotated[float, Range(above=0)]`; infinite ones only if said so."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    infinite: bool = False

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most and (
            self.above < value < self.below or (self.infinite and math.isinf(value))
        )

    def __str__(self) -> str:
        low = f"{self.least:g} or more" if self.least > -math.inf else f"above {self.above:g}"
        high = f"at most {self.most:g}" if self.most < math.inf else f"below {self.below:g}"
        there = [text for text in (low, high) if "inf" not in text]
        return ", " + " and ".join(there) if there else ""


class Unfit(Exception):
    """A value that is not what its annotation says.  `path` is where: the argument, or an item of it."""

    def __init__(self, path: str, value: Any, expected: str, hint: str = "") -> None:
        super().__init__(path)
        self.path, self.value, self.expected, self.hint = path, value, expected, hint

    def __str__(self) -> str:
        return f"{self.path}={shown(self.value)}; it is {self.expected}{self.hint}"


class Kind:
    """What an annotation asks of a value; this one takes anything.  `expected` says it in a sentence."""

    expected = "anything"

    def take(self, path: str, value: Any) -> Any:
        """The value, with Python's numbers for others'.

        Raises:
            Unfit: it is not of this kind.
        """
        return self._take(path, value)

    def unfit(self, path: str, value: Any, hint: str = "") -> Unfit:
        """Says so."""
        return Unfit(path, value, self.expected, hint)

    def _take(self, path: str, value: Any) -> Any:  # noqa: ARG002
        return value


class Nothing(Kind):
    """None."""

    expected = "None"

    def _take(self, path: str, value: Any) -> Any:
        if value is not None:
            raise self.unfit(path, value)
        return value


class Bool(Kind):
    """True or False, of numpy's too; not 0 or 1."""

    expected = "True or False"

    def _take(self, path: str, value: Any) -> Any:
        value = plain_scalar(value)
        if not isinstance(value, bool):
            raise self.unfit(path, value)
        return value


class Int(Kind):
    """A whole number that fits into 64 bits; no bool, and no float."""

    def __init__(self, range_: Range) -> None:
        self.range = range_
        self.expected = f"a whole number{range_}"

    def _take(self, path: str, value: Any) -> Any:
        value = plain_scalar(value)
        if not isinstance(value, int):
            with contextlib.suppress(TypeError):
                value = operator.index(value)
        if not isinstance(value, int) or isinstance(value, bool) or value not in self.range:
            raise self.unfit(path, value)
        if not -_LARGEST <= value <= _LARGEST:
            raise self.unfit(path, value, ", and at most 2**63 - 1")
        return value


class Float(Kind):
    """A finite number (unless its range says otherwise); no bool."""

    def __init__(self, range_: Range) -> None:
        self.range = range_
        self.expected = f"a number{range_}" if range_.infinite else f"a finite number{range_}"

    def _take(self, path: str, value: Any) -> Any:
        value = plain_scalar(value)
        if not isinstance(value, int | float) and isinstance(value, numbers.Real):
            value = float(value)
        if not is_number(value) or value not in self.range or abs(value) > sys.float_info.max < math.inf != abs(value):
            raise self.unfit(path, value)
        return value


class Text(Kind):
    """A str that can be encoded: it holds no bytes that were no UTF-8, as arguments and names of files may."""

    expected = "a string"

    def _take(self, path: str, value: Any) -> Any:
        value = plain_scalar(value)
        if not isinstance(value, str):
            raise self.unfit(path, value)
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise self.unfit(path, value, " in Unicode; this one holds bytes that are no UTF-8")
        return value


class Path(Kind):
    """A str or a path, of any bytes but NUL."""

    expected = "a path"

    def _take(self, path: str, value: Any) -> Any:
        if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
            raise self.unfit(path, value)
        if not os.fspath(value) or "\0" in os.fspath(value):
            raise self.unfit(path, value, ", neither empty nor with a NUL in it")
        return value


class Literal(Kind):
    """One of a few values."""

    def __init__(self, options: tuple[Any, ...]) -> None:
        self.options = options
        self.expected = f"one of {', '.join(map(repr, options))}" if len(options) > 1 else repr(options[0])

    def _take(self, path: str, value: Any) -> Any:
        for option in self.options:
            if type(option) is type(value) and option == value:
                return option
        raise self.unfit(path, value, suggest(value, self.options) if isinstance(value, str) else "")


class Function(Kind):
    """Anything that can be called."""

    expected = "a function"

    def _take(self, path: str, value: Any) -> Any:
        if not callable(value):
            raise self.unfit(path, value)
        return value


class Object(Kind):
    """An object of a class; not the class."""

    def __init__(self, kind: type) -> None:
        self.kind = kind
        self.expected = f"a {public_name(kind)}"

    def _take(self, path: str, value: Any) -> Any:
        if isinstance(value, self.kind):
            return value
        made = isinstance(value, type) and issubclass(value, self.kind)
        raise self.unfit(path, value, f"; make one, as {value.__name__}(...) does" if made else "")


class Like(Kind):
    """An object that has what a protocol asks for; not a class that makes such."""

    def __init__(self, protocol: type) -> None:
        bases = [base for base in protocol.__mro__ if getattr(base, "_is_protocol", False)]
        names = {name for base in bases for name in {**vars(base), **inspect.get_annotations(base)}}
        self.names = sorted(name for name in names if not name.startswith("_"))
        self.expected = f"a {public_name(protocol)}"

    def _take(self, path: str, value: Any) -> Any:
        if isinstance(value, type) or not all(hasattr(value, name) for name in self.names):
            made = isinstance(value, type) and all(hasattr(value, name) for name in self.names)
            raise self.unfit(path, value, f"; make one, as {value.__name__}(...) does" if made else "")
        return value


class Items(Kind):
    """A sequence, or another iterable that is only looked into where that does not use it up."""

    def __init__(self, item: Kind, kind: type, lengths: tuple[Kind, ...] = ()) -> None:
        self.item, self.kind, self.slots = item, kind, lengths
        many = f"{len(lengths)} values" if lengths else "a list" if issubclass(kind, Sequence) else "a collection"
        self.expected = many if lengths or type(item) is Kind else f"{many}, each item {item.expected}"

    def _take(self, path: str, value: Any) -> Any:
        value = plain_scalar(value)
        listed = list(value) if getattr(value, "ndim", 0) == 1 else value  # an array, a column, a tensor
        allowed = (list, tuple) if self.kind is tuple else self.kind
        if isinstance(value, str | bytes | Mapping) or not isinstance(listed, allowed):
            raise self.unfit(path, value)
        if not isinstance(listed, collections.abc.Collection):
            return value
        if self.slots and len(listed) != len(self.slots):
            raise self.unfit(path, value)
        kinds = self.slots or [self.item] * len(listed)
        taken = [kind.take(f"{path}[{at}]", item) for at, (kind, item) in enumerate(zip(kinds, listed, strict=True))]
        if self.kind is tuple:
            return value if isinstance(value, tuple) and _same(taken, value) else tuple(taken)
        if listed is value and _same(taken, listed):
            return value
        return type(value)(taken) if type(value) in (list, tuple, set, frozenset) else taken


class Pairs(Kind):
    """A mapping, by its keys and values."""

    expected = "a mapping"

    def __init__(self, key: Kind, item: Kind) -> None:
        self.key, self.item = key, item

    def _take(self, path: str, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise self.unfit(path, value)
        items = list(value.items())
        taken = [(self.key.take(f"a key of {path}", k), self.item.take(f"{path}[{k!r}]", item)) for k, item in items]
        return value if all(map(_same, taken, items)) else dict(taken)


class Union(Kind):
    """What is of one kind or another."""

    def __init__(self, options: Sequence[Kind]) -> None:
        self.options = options

    @property
    def expected(self) -> str:  # type: ignore[override]  # noqa: D102 (what `Kind` says of it)
        *others, last = [option.expected for option in sorted(self.options, key=lambda one: isinstance(one, Nothing))]
        return f"{', '.join(others)} or {last}" if others else last

    def _take(self, path: str, value: Any) -> Any:
        if value is None and any(isinstance(option, Nothing) for option in self.options):
            return value
        faults: list[Unfit] = []
        for option in self.options:
            if not isinstance(option, Nothing):
                try:
                    return option.take(path, value)
                except Unfit as fault:
                    faults.append(fault)
        # An item of a sequence that is wrong, or what else only one option says, is the better sentence.
        deeper = [fault for fault in faults if fault.path != path]
        if deeper:
            raise deeper[0]
        raise self.unfit(path, value, next((fault.hint for fault in faults if fault.hint), ""))


def _same(new: Iterable[Any], old: Iterable[Any]) -> bool:
    return all(a is b for a, b in zip(new, old, strict=True))


def public_name(kind: type) -> str:
    """How a user imports a class: `nas.Space`, not where it is defined."""
    import nas

    if kind.__name__ in nas.__all__ and kind.__module__.startswith("nas."):
        return f"nas.{kind.__name__}"
    package, _, rest = kind.__module__.partition(".")
    public = f"{package}.{rest.partition('.')[0]}" if package == "nas" and rest else package
    return kind.__name__ if package == "builtins" else f"{public}.{kind.__name__}"
