"""Spaces as the store knows them: schemas that give names and labels to the numbers of an arch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from nas.errors import StoreError
from nas.store import statements as s
from nas.store.damage import ArchRule, schema_fault
from nas.store.sql import Transaction


def register(sql: Transaction, schema: Mapping[str, Any]) -> int:
    """Identity of the space with this schema, which is stored when it is new.

    Raises:
        StoreError: `schema` is not what `Space.schema()` gives.
    """
    try:
        which = (schema["fingerprint"], schema["name"], schema["version"])
        text = json.dumps(schema, separators=(",", ":"))
        fault = schema_fault(json.loads(text))
        if fault is not None:
            raise TypeError(f"it is not {fault}")
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"space schema cannot be stored ({type(error).__name__}: {error}); give Space.schema()"
        ) from error
    found = sql.one(s.FIND_SPACE, which)
    if found is None:
        sql.run(s.ADD_SPACE, (*which, text))
        found = sql.one(s.FIND_SPACE, which)
    assert found is not None
    return int(found[0])


def parse_rows(texts: Sequence[str]) -> list[list[float | None]]:
    """Many stored archs at once, as they are."""
    rows: list[list[float | None]] = json.loads(f"[{','.join(texts)}]")
    return rows


class Rows(Sequence["list[float | None]"]):
    """Stored archs as lists of numbers, each parsed when it is looked at: a rebuilt algorithm looks at few of 100,000.

    Args:
        texts: as stored.
        readers: of each space.
        spaces: identity of each arch's space.
        numbers: of the trials.

    Raises:
        StoreError: an arch that is looked at cannot be one of its space.
    """

    __slots__ = ("_numbers", "_readers", "_spaces", "_texts")

    def __init__(
        self, texts: Sequence[str], readers: Mapping[int, Reader], spaces: Sequence[int], numbers: Sequence[int]
    ) -> None:
        self._texts, self._readers, self._spaces, self._numbers = texts, readers, spaces, numbers

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, at: int) -> list[float | None]: ...
    @overload
    def __getitem__(self, at: slice) -> Rows: ...
    def __getitem__(self, at: int | slice) -> list[float | None] | Rows:
        if isinstance(at, slice):
            return Rows(self._texts[at], self._readers, self._spaces[at], self._numbers[at])
        return self._readers[int(self._spaces[at])].row(self._texts[at], int(self._numbers[at]))

    def __iter__(self) -> Iterator[list[float | None]]:
        try:
            rows = parse_rows(self._texts)
        except (ValueError, RecursionError):
            rows = []
        for at in range(len(self)):
            good = len(rows) == len(self) and self._readers[int(self._spaces[at])].fits(rows[at])
            yield rows[at] if good else self[at]


class Choices(Mapping[str, Any]):
    """Label or value by decision name, active decisions only: a dictionary that is read when it is first looked at.

    A front of hundreds of archs is a few milliseconds of reading; decoding all of their decisions would be several times that.
    """

    __slots__ = ("_decoded", "_number", "_reader", "_text")

    def __init__(self, reader: Reader, text: str, number: int) -> None:
        self._reader, self._text, self._number = reader, text, number
        self._decoded: dict[str, Any] | None = None

    def _all(self) -> dict[str, Any]:
        if self._decoded is None:
            self._decoded = self._reader.decode(self._reader.row(self._text, self._number))
        return self._decoded

    def __getitem__(self, name: str) -> Any:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return repr(self._all())


class Reader:
    """Gives the numbers of stored archs of one schema their names and labels.

    Args:
        schema: of the space, checked.
        study: name or identity, for messages.
    """

    def __init__(self, schema: Mapping[str, Any], study: object = None) -> None:
        self._names, self._tables = _tables(schema)
        self._rule, self._study = ArchRule(schema), study

    def fits(self, row: Any) -> bool:
        """Whether a row may be one of the space."""
        return self._rule.fits(row)

    def row(self, text: str, number: int) -> list[float | None]:
        """The numbers of a stored arch.

        Raises:
            StoreError: it cannot be one of the space.
        """
        return self._rule.parse(text, "trials", self._study, number)

    def decode(self, row: Sequence[float | None]) -> dict[str, Any]:
        """Label or value by decision name, active decisions only."""
        return {
            name: number if table is None else table[number]
            for name, table, number in zip(self._names, self._tables, row, strict=True)
            if number is not None
        }


def _tables(schema: Mapping[str, Any]) -> tuple[list[str], list[dict[float | None, Any] | None]]:
    """Names of the decisions, and label by index; None where the number is the value."""
    decisions = schema["decisions"]
    labels = [decision.get("candidates") for decision in decisions]
    tables = [None if given is None else {**dict(enumerate(given)), None: None} for given in labels]
    return [decision["name"] for decision in decisions], tables
