"""Statements written once in SQLAlchemy Core and run at the speed of the driver.

SQLAlchemy's own execution costs 30-50 µs a statement, the driver's 3 µs.  A `Statement` keeps the dialect-neutral
construct, compiles it once per dialect, and hands tuples of parameters to a bare cursor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

Row = tuple[Any, ...]

#: Rows that were asked for ahead; called once.
Answer = Callable[[], list[Row]]

_TYPES = {"i": np.dtype(np.int64), "d": np.dtype(np.float64)}
_PYTHON: dict[str, set[type]] = {"i": {int}, "d": {float}}
_MANY = 100_000  # rows that become arrays at a time


class Statement:
    """A Core construct whose parameters are given as tuples, in the order declared here.

    Args:
        construct: the statement; its parameters are `sa.bindparam(name)`.
        names: all parameter names, separated by spaces, in the order in which callers give the values.
    """

    def __init__(self, construct: sa.Executable, names: str = "") -> None:
        self.construct: Any = construct
        self.names = tuple(names.split())
        self._joined: dict[tuple[str, str], Statement] = {}
        self._compiled: dict[str, tuple[str, Callable[[Row], Any] | None]] = {}

    def joined(self, function: str, separator: str) -> Statement:
        """The statement's one column of text as one value, by the database's function for that."""
        how = function, separator
        if how not in self._joined:
            rows = self.construct.subquery()
            (text,) = rows.c
            value = getattr(sa.func, function)(text, sa.literal_column(f"'{separator}'"))
            self._joined[how] = Statement(sa.select(value).select_from(rows), " ".join(self.names))
        return self._joined[how]

    def on(self, dialect: sa.Dialect) -> tuple[str, Callable[[Row], Any] | None]:
        """SQL text for `dialect`, and how a tuple becomes the driver's parameters (None: it is them already)."""
        found = self._compiled.get(dialect.name)
        if found is None:
            found = self._compiled[dialect.name] = self._compile(dialect)
        return found

    def _compile(self, dialect: sa.Dialect) -> tuple[str, Callable[[Row], Any] | None]:
        compiled: Any = self.construct.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
        text = str(compiled)
        # What the dialect itself adds, as SQLite does the offset of a limit, goes after the caller's values.
        extra = {name: value for name, value in compiled.params.items() if name not in self.names}
        names, constants = (*self.names, *extra), tuple(extra.values())
        if not compiled.positional:
            return text, lambda values: dict(zip(names, values + constants, strict=True))
        order = [names.index(name) for name in compiled.positiontup]
        if order == list(range(len(self.names))):
            return text, None
        return text, lambda values: tuple([(values + constants)[i] for i in order])


class Bulk(ABC):
    """Rows of one table, many at a time: a statement for each (`one`), or one for all (`together`) where waits are the cost.

    Args:
        table: where the rows are.
        names: columns in the order in which callers give the values, separated by spaces.
    """

    def __init__(self, table: sa.Table, names: str) -> None:
        self.table, self.columns = table, [table.c[name] for name in names.split()]
        self._parameters = [f"v{i}" for i in range(len(self.columns))]
        values = [sa.bindparam(name, type_=of.type) for name, of in zip(self._parameters, self.columns, strict=True)]
        self.one = Statement(self._with_values(values), " ".join(self._parameters))

    @cached_property
    def together(self) -> Statement:
        """With one parameter a column, the list of its values, where the database knows lists."""
        lists = [
            sa.bindparam(name, type_=sa.ARRAY(of.type)) for name, of in zip(self._parameters, self.columns, strict=True)
        ]
        given = [sa.column(of.name, of.type) for of in self.columns]
        rows = sa.func.unnest(*lists).table_valued(*given).render_derived(name="given")
        return Statement(self._with_rows(rows), " ".join(self._parameters))

    @abstractmethod
    def _with_values(self, values: Sequence[sa.ColumnElement[Any]]) -> sa.Executable: ...

    @abstractmethod
    def _with_rows(self, rows: sa.TableValuedAlias) -> sa.Executable: ...


class Insert(Bulk):
    """New rows; columns that are not named are NULL."""

    def _with_values(self, values: Sequence[sa.ColumnElement[Any]]) -> sa.Executable:
        return sa.insert(self.table).values({of.name: value for of, value in zip(self.columns, values, strict=True)})

    def _with_rows(self, rows: sa.TableValuedAlias) -> sa.Executable:
        return sa.insert(self.table).from_select(self.columns, sa.select(*rows.c))


class Update(Bulk):
    """New values in rows that are there.

    Args:
        table: where the rows are.
        names: columns that get values, and then those of the key by which their row is found.
        unless_none: the column that stays as it is where the value is None.
        clear: the column that becomes NULL.
    """

    def __init__(self, table: sa.Table, names: str, *, unless_none: str, clear: str) -> None:
        self._unless_none, self._clear = unless_none, clear
        super().__init__(table, names)

    def _with_values(self, values: Sequence[sa.ColumnElement[Any]]) -> sa.Executable:
        key = set(self.table.primary_key.columns)
        given = list(zip(self.columns, values, strict=True))
        new = {of: sa.func.coalesce(value, of) if of.name == self._unless_none else value for of, value in given}
        return (
            sa.update(self.table)
            .where(*(of == value for of, value in given if of in key))
            .values({of.name: value for of, value in new.items() if of not in key} | {self._clear: sa.null()})
        )

    def _with_rows(self, rows: sa.TableValuedAlias) -> sa.Executable:
        return self._with_values(list(rows.c))


class Transaction:
    """Statements of one transaction, on a bare cursor of the driver.

    Where the database is across a network, those that are not asked for an answer (`do`, `many`, `load`) and those that are
    asked ahead (`soon`) travel with the next one that is: what is wrong with them is said there, or by `commit`.

    Args:
        connection: of the driver, used by nobody else meanwhile.
        dialect: what its SQL is.
        again: an earlier try of the same work lost its connection, perhaps after it was committed.
    """

    _join = "group_concat"

    def __init__(self, connection: Any, dialect: sa.Dialect, *, again: bool = False) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._dialect = dialect
        self.again = again

    def begin(self, statements: Iterable[str]) -> None:
        """Start, by the database's own statements for that."""
        for statement in statements:
            self._cursor.execute(statement)

    def commit(self) -> None:
        """End, and keep everything."""
        self._cursor.execute("COMMIT")

    def rollback(self) -> None:
        """End, and keep nothing; nothing is done where the database has ended the transaction itself."""
        self._connection.rollback()

    def close(self) -> None:
        """Let go of the connection."""
        self._cursor.close()

    def run(self, statement: Statement, values: Row = ()) -> int:
        """Execute; the number of rows that changed."""
        text, convert = statement.on(self._dialect)
        self._cursor.execute(text, convert(values) if convert else values)
        return int(self._cursor.rowcount)

    def do(self, statement: Statement, values: Row = ()) -> None:
        """Execute, without an answer."""
        self.run(statement, values)

    def soon(self, statement: Statement, values: Row = ()) -> Answer:
        """Every row, when the answer is called for."""
        rows = self.all(statement, values)
        return lambda: rows

    def many(self, statement: Statement, rows: Sequence[Row]) -> None:
        """Execute once for each tuple."""
        if rows:
            text, convert = statement.on(self._dialect)
            self._cursor.executemany(text, [convert(row) for row in rows] if convert else rows)

    def load(self, bulk: Bulk, rows: Sequence[Row]) -> None:
        """Insert or change many rows."""
        self.many(bulk.one, rows)

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

    def stream(self, statement: Statement, size: int) -> Iterator[list[Row]]:
        """Every row of a statement without parameters, `size` at a time, whatever else is done in between."""
        text, _ = statement.on(self._dialect)
        cursor = self._cursor.connection.cursor()
        try:
            cursor.execute(text)
            while rows := cursor.fetchmany(size):
                yield rows
        finally:
            with suppress(Exception):  # the connection may be closed by now, where a copy failed
                cursor.close()

    def joined(self, statement: Statement, values: Iterable[Row], separator: str) -> Iterator[str]:
        """A text column without NULL for each tuple of values, in the statement's order: one message, one object.

        While the caller works on one of them, a server works on the next.
        """
        asked = (self.soon(statement.joined(self._join, separator), row) for row in values)
        answer = next(asked, None)
        while answer is not None:
            ((text,),) = answer()
            answer = next(asked, None)
            yield str(text or "")

    def grown(self, before: int, after: int) -> None:
        """Tell the database that a study grew, where it plans by statistics."""

    def count_on(self, table: sa.Table) -> None:
        """Give new rows identities beyond those that were inserted with their own."""

    def one(self, statement: Statement, values: Row = ()) -> Row | None:
        """The first row, if there is one."""
        self.run(statement, values)
        row: Row | None = self._cursor.fetchone()
        return row

    def among(self, statement: Among, values: Row, among: list[Any]) -> Answer:
        """Rows for every one of `among`, each given once."""
        rows: list[Row] = []
        while among:
            size = next((size for size in Among.SIZES if size >= len(among)), Among.SIZES[-1])
            part, among = among[:size], among[size:]
            part += part[-1:] * (size - len(part))  # a repeated value changes nothing
            rows += self.all(statement.listed(size), (*values, *part))
        return lambda: rows

    def arrays(self, statement: Statement, values: Row, types: str) -> list[NDArray[Any]]:
        """Columns without NULL as arrays.

        Args:
            types: one letter a column: i for int64, d for float64.
        """
        self.run(statement, values)
        parts: list[list[NDArray[Any]]] = []
        while rows := self._cursor.fetchmany(_MANY):
            columns = zip(*rows, strict=True)
            parts.append([_array(column, letter) for column, letter in zip(columns, types, strict=True)])
        empty = [np.empty(0, dtype=_TYPES[letter]) for letter in types]
        return [np.concatenate(columns) for columns in zip(empty, *parts, strict=True)]


def _array(values: Sequence[Any], letter: str) -> NDArray[Any]:
    """Values of one type as an array: numpy would take text and fractions for whole numbers."""
    if set(map(type, values)) - _PYTHON[letter]:
        raise TypeError("a column has values of another type")
    return np.array(values, dtype=_TYPES[letter])


#: How a statement says that a column is one of a list of values.
Within = Callable[[sa.ColumnElement[Any]], sa.ColumnElement[bool]]


class Among:
    """`… WHERE column IN (many values)`.

    Where a list is no single parameter its text depends on a few list lengths only.

    Args:
        select: given what says that a column is in the list, the construct.
        names: the parameters that come before the list.
    """

    SIZES = (1, 8, 64, 256, 1024)

    def __init__(self, select: Callable[[Within], sa.Executable], names: str) -> None:
        self._select, self._names = select, names
        self._listed: dict[int, Statement] = {}

    def listed(self, size: int) -> Statement:
        """With a parameter for each of `size` values."""
        if size not in self._listed:
            places = [f"v{i}" for i in range(size)]
            construct = self._select(lambda column: column.in_([sa.bindparam(place) for place in places]))
            self._listed[size] = Statement(construct, " ".join([self._names, *places]))
        return self._listed[size]

    @cached_property
    def whole(self) -> Statement:
        """With one parameter, a list, where the database knows lists."""
        construct = self._select(lambda column: column == sa.any_(sa.bindparam("list", type_=sa.ARRAY(column.type))))
        return Statement(construct, f"{self._names} list")

    def soon(self, transaction: Transaction, values: Row, among: Iterable[Any]) -> Answer:
        """Rows for every one of `among`, in no particular order, when the answer is called for."""
        return transaction.among(self, values, list(dict.fromkeys(among)))

    def all(self, transaction: Transaction, values: Row, among: Iterable[Any]) -> list[Row]:
        """Rows for every one of `among`, in no particular order."""
        return self.soon(transaction, values, among)()
