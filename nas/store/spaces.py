"""Spaces as the store knows them: schemas that give names and labels to the numbers of an arch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from nas.errors import StoreError
from nas.store import statements as s
from nas.store.sql import Transaction


def register(sql: Transaction, schema: Mapping[str, Any]) -> int:
    """Identity of the space with this schema, which is stored when it is new.

    Raises:
        StoreError: `schema` is not what `Space.schema()` gives.
    """
    try:
        which = (schema["fingerprint"], schema["name"], schema["version"])
        _tables(schema)
        text = json.dumps(schema, separators=(",", ":"))
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
    """Many stored archs at once."""
    rows: list[list[float | None]] = json.loads(f"[{','.join(texts)}]")
    return rows


class Rows(Sequence["list[float | None]"]):
    """Stored archs as lists of numbers, each parsed when it is looked at: a rebuilt algorithm looks at few of 100,000."""

    __slots__ = ("_texts",)

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, at: int) -> list[float | None]: ...
    @overload
    def __getitem__(self, at: slice) -> Rows: ...
    def __getitem__(self, at: int | slice) -> list[float | None] | Rows:
        if isinstance(at, slice):
            return Rows(self._texts[at])
        row: list[float | None] = json.loads(self._texts[at])
        return row

    def __iter__(self) -> Iterator[list[float | None]]:
        return iter(parse_rows(self._texts))


class Choices(Mapping[str, Any]):
    """Label or value by decision name, active decisions only: a dictionary that is read when it is first looked at.

    A front of hundreds of archs is a few milliseconds of reading; decoding all of their decisions would be several times that.
    """

    __slots__ = ("_decoded", "_reader", "_text")

    def __init__(self, reader: Reader, text: str) -> None:
        self._reader, self._text = reader, text
        self._decoded: dict[str, Any] | None = None

    def _all(self) -> dict[str, Any]:
        if self._decoded is None:
            self._decoded = self._reader.decode(json.loads(self._text))
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
    """Gives the numbers of stored archs of one schema their names and labels."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._names, self._tables = _tables(schema)

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
