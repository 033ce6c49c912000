"""Statements written once in SQLAlchemy Core and run at the speed of the driver.

SQLAlchemy's own execution costs 30-50 µs a statement, the driver's 3 µs.  A `Statement` keeps the dialect-neutral
construct, compiles it once per dialect, and hands tuples of parameters to a bare cursor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

Row = tuple[Any, ...]


class Statement:
    """A Core construct whose parameters are given as tuples, in the order declared here.

    Args:
        construct: the statement; its parameters are `sa.bindparam(name)`.
        names: all parameter names, separated by spaces, in the order in which callers give the values.
    """

    def __init__(self, construct: sa.Executable, names: str = "") -> None:
        self._construct = construct
        self._names = tuple(names.split())
        self._compiled: dict[str, tuple[str, Callable[[Row], Any] | None]] = {}

    def on(self, dialect: sa.Dialect) -> tuple[str, Callable[[Row], Any] | None]:
        """SQL text for `dialect`, and how a tuple becomes the driver's parameters (None: it is them already)."""
        found = self._compiled.get(dialect.name)
        if found is None:
            found = self._compiled[dialect.name] = self._compile(dialect)
        return found

    def _compile(self, dialect: sa.Dialect) -> tuple[str, Callable[[Row], Any] | None]:
        assert isinstance(self._construct, sa.ClauseElement)
        compiled: Any = self._construct.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
        text = str(compiled)
        # What the dialect itself adds, as SQLite does the offset of a limit, goes after the caller's values.
        extra = {name: value for name, value in compiled.params.items() if name not in self._names}
        names, constants = (*self._names, *extra), tuple(extra.values())
        if not compiled.positional:
            return text, lambda values: dict(zip(names, values + constants, strict=True))
        order = [names.index(name) for name in compiled.positiontup]
        if order == list(range(len(self._names))):
            return text, None
        return text, lambda values: tuple([(values + constants)[i] for i in order])


class Transaction:
    """Statements of one transaction, on a bare cursor of the driver."""

    def __init__(self, cursor: Any, dialect: sa.Dialect) -> None:
        self._cursor = cursor
        self._dialect = dialect

    def run(self, statement: Statement, values: Row = ()) -> int:
        """Execute; the number of rows that changed."""
        text, convert = statement.on(self._dialect)
        self._cursor.execute(text, convert(values) if convert else values)
        return int(self._cursor.rowcount)

    def many(self, statement: Statement, rows: Sequence[Row]) -> None:
        """Execute once for each tuple."""
        if rows:
            text, convert = statement.on(self._dialect)
            self._cursor.executemany(text, [convert(row) for row in rows] if convert else rows)

    def all(self, statement: Statement, values: Row = ()) -> list[Row]:
        """Every row."""
        self.run(statement, values)
        rows: list[Row] = self._cursor.fetchall()
        return rows

    def batches(self, statement: Statement, values: Row, size: int) -> Iterator[list[Row]]:
        """Every row, `size` at a time."""
        self.run(statement, values)
        while rows := self._cursor.fetchmany(size):
            yield rows

    def each(self, statement: Statement, values: Row = ()) -> Iterator[Row]:
        """Every row as it arrives; to be used up before the next statement of this transaction."""
        self.run(statement, values)
        return iter(self._cursor)

    def one(self, statement: Statement, values: Row = ()) -> Row | None:
        """The first row, if there is one."""
        self.run(statement, values)
        row: Row | None = self._cursor.fetchone()
        return row


class Among:
    """`… WHERE column IN (many values)`, whose text depends on a few list lengths only.

    Args:
        select: from the list of bound parameters to the construct.
        names: the parameters that come before the list.
    """

    _SIZES = (1, 8, 64, 256, 1024)

    def __init__(self, select: Callable[[list[sa.BindParameter[Any]]], sa.Executable], names: str) -> None:
        self._statements = {}
        for size in self._SIZES:
            places = [f"v{i}" for i in range(size)]
            construct = select([sa.bindparam(place) for place in places])
            self._statements[size] = Statement(construct, " ".join([names, *places]))

    def all(self, transaction: Transaction, values: Row, among: Iterable[Any]) -> list[Row]:
        """Rows for every one of `among`, in no particular order."""
        rest = list(dict.fromkeys(among))
        rows: list[Row] = []
        while rest:
            size = next((size for size in self._SIZES if size >= len(rest)), self._SIZES[-1])
            part, rest = rest[:size], rest[size:]
            part += part[-1:] * (size - len(part))  # a repeated value changes nothing
            rows += transaction.all(self._statements[size], (*values, *part))
        return rows
