"""PostgreSQL: writers of several studies beside each other, those of one study one after the other, readers beside all.

A write transaction locks the row of its study; a claim locks only the trials that it takes, and skips those that others are
taking (`SKIP LOCKED`).  Connections that are lost, as they are when a server restarts, are replaced.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from functools import cache
from typing import Any, cast

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from nas.errors import StoreError
from nas.store.sql import Among, Answer, Bulk, Insert, Row, Statement, Transaction

# "supernas" in ASCII, as a number: what processes that change more than one study lock.
_ALONE = 0x73757065726E6173

# A process that is stopped inside a transaction must not hold everybody up: its session ends, and it starts again.
_SESSION = """
SET idle_in_transaction_session_timeout = '30s'; SET lock_timeout = '60s'; SET jit = off; SET client_min_messages = warning
"""
_CONNECTION = {
    "application_name": "supernas",
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}

#: Whether statements travel together; `experiments/postgres_scale` measures what that saves.
PIPELINED = True
# Below so many rows the round trips of COPY cost more than the rows.
_COPIED = 512

# Of an established connection, by SQLSTATE: ended or restarting server, deadlock, serialisation, session timed out.
_STARTING = "57P03"
_PASSING = ("57P01", "57P02", "57P03", "40001", "40P01", "25P03", "08", "53300")


class Postgres:
    """Where the server is, how to connect to it, and what its errors mean.

    Args:
        url: `postgresql://user:password@host:port/database?option=…`, as PostgreSQL's own programs take it.

    Raises:
        StoreError: the URL is not understood, or psycopg is not installed.
    """

    begin_read: tuple[str, ...] = ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",)
    begin_write: tuple[str, ...] = ("BEGIN",)
    begin_alone: tuple[str, ...] = ("BEGIN", f"SELECT pg_advisory_xact_lock({_ALONE})")
    begin_lightly: tuple[str, ...] = ("BEGIN", "SET LOCAL synchronous_commit = off")

    def __init__(self, url: str) -> None:
        self._url = _parsed(url)
        self.place = _hidden(self._url)
        self.shown = repr(self.place)
        self._engine: sa.Engine | None = None
        self._connected = False

    def exists(self) -> bool:
        """True: whether it answers shows when it is used."""
        return True

    def reader(self) -> sa.Engine:
        """The engine, the same for reading and writing."""
        if self._engine is None:
            self._engine = self._new_engine()
        return self._engine

    def writer(self) -> sa.Engine:
        """The engine, the same for reading and writing."""
        return self.reader()

    def transaction(self, connection: Any, dialect: sa.Dialect, again: bool) -> Transaction:
        """A transaction on a connection of the driver, not begun yet."""
        return PostgresTransaction(connection, dialect, again=again)

    def _new_engine(self) -> sa.Engine:
        arguments = {name: value for name, value in _CONNECTION.items() if name not in self._url.query}
        engine = sa.create_engine(
            self._url.set(drivername="postgresql+psycopg"),
            isolation_level="AUTOCOMMIT",  # transactions are begun by `Database`
            connect_args=arguments,
            max_overflow=20,
            hide_parameters=True,
        )

        @sa.event.listens_for(engine, "connect")
        def _connect(connection: Any, _: object) -> None:
            connection.execute(_SESSION)
            self._connected = True

        @sa.event.listens_for(engine, "begin")
        def _begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql(self.begin_write[0])

        return engine

    def lenient(self, connection: Any) -> AbstractContextManager[None]:  # noqa: ARG002
        """Nothing: a server keeps no such text."""
        return nullcontext()

    def is_passing(self, error: BaseException) -> bool:
        """Whether the server was there and may come back; a first connection that fails is the user's to mend."""
        import psycopg

        if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | psycopg.InternalError):
            return False
        state = error.sqlstate or _refusal(str(error))
        if state is None:
            return self._connected
        return state.startswith(_PASSING) and (self._connected or state == _STARTING)

    def explain(self, error: BaseException) -> str:
        """The sentence for an error of the driver."""
        state = str(getattr(error, "sqlstate", None) or "")
        text = " ".join(str(error).split())
        sentence = next((text for code, text in _SENTENCES.items() if state.startswith(code)), None) if state else None
        if sentence is None and not state:
            refusal = _refusal(text)
            unreached = next((says for mark, says in _UNREACHED.items() if mark in text), None)
            sentence = _SENTENCES[refusal] if refusal else unreached
        return (sentence or "database {shown} failed: {error}").format(
            shown=self.shown,
            error=self._without_password(text),
            user=self._url.username or "of this process",
            name=self._url.database,
            host=self._url.host or self._url.query.get("host") or "this machine",
            port=self._url.port or 5432,
        )

    def _without_password(self, text: str) -> str:
        secrets = [self._url.password, self._url.query.get("password")]
        for secret in secrets:
            if secret:
                text = text.replace(str(secret), "***")
        return text


class PostgresTransaction(Transaction):
    """Statements on psycopg cursors, in pipeline mode: the server is waited for only where an answer is needed.

    A wave holds the lock on its study while it runs, so that each round trip of one writer is a wait of all others.
    """

    _join = "string_agg"

    def __init__(self, connection: Any, dialect: sa.Dialect, *, again: bool = False) -> None:
        super().__init__(connection, dialect, again=again)
        self._pipeline = ExitStack()  # while it is open, statements travel together
        self._pipe: Any = None
        self._piped = PIPELINED and _has_pipeline()

    def begin(self, statements: Iterable[str]) -> None:
        """Start; what is wrong with the connection may show only when an answer is needed."""
        try:
            self._open()
            super().begin(statements)
        except BaseException:
            self._abandon()
            raise

    def commit(self) -> None:
        """End, and keep everything: with all that was not answered yet."""
        self._cursor.execute("COMMIT", prepare=False)  # never by a prepared name: it stays readable on the wire
        self._pipeline.close()

    def rollback(self) -> None:
        """End, and keep nothing."""
        self._abandon()
        if self._connection.pgconn.pipeline_status:
            self._connection.dbapi_connection.close()  # interrupted in the middle of an answer
        super().rollback()

    def run(self, statement: Statement, values: Row = ()) -> int:
        """Execute; the number of rows that changed."""
        return int(self._asked(statement, values).rowcount)

    def do(self, statement: Statement, values: Row = ()) -> None:
        """Execute, without an answer."""
        self._send(self._cursor, statement, values)

    def soon(self, statement: Statement, values: Row = ()) -> Answer:
        """Every row, when the answer is called for."""
        cursor = self._new_cursor()
        self._send(cursor, statement, values)

        def answer() -> list[Row]:
            self._sync(cursor)
            return cast(list[Row], cursor.fetchall())

        return answer

    def all(self, statement: Statement, values: Row = ()) -> list[Row]:
        """Every row."""
        return self.soon(statement, values)()

    def one(self, statement: Statement, values: Row = ()) -> Row | None:
        """The first row, if there is one."""
        rows = self.all(statement, values)
        return rows[0] if rows else None

    def batches(self, statement: Statement, values: Row, size: int) -> Iterator[list[Row]]:
        """Every row, `size` at a time."""
        cursor = self._asked(statement, values)
        while rows := cursor.fetchmany(size):
            yield rows

    def load(self, bulk: Bulk, rows: Sequence[Row]) -> None:
        """Insert or change many rows by one statement, and insert very many by COPY."""
        if len(rows) < 2:
            super().load(bulk, rows)
            return
        if len(rows) < _COPIED or not isinstance(bulk, Insert):
            self.do(bulk.together, _lists(bulk, rows))
            return
        columns = ", ".join(f'"{column.name}"' for column in bulk.columns)
        self._pipeline.close()  # COPY is a protocol of its own
        with self._cursor.copy(f'COPY "{bulk.table.name}" ({columns}) FROM STDIN') as copy:
            for row in rows:
                copy.write_row(row)
        self._open()

    def _open(self) -> None:
        if self._piped:
            self._pipe = self._pipeline.enter_context(self._connection.pipeline())

    def _abandon(self) -> None:
        with suppress(Exception):  # of a statement under way, or of the connection
            self._pipeline.close()

    def _new_cursor(self) -> Any:
        return self._connection.cursor(binary=True)  # numbers as they are stored, not as text

    def _send(self, cursor: Any, statement: Statement, values: Row) -> None:
        text, convert = statement.on(self._dialect)
        cursor.execute(text, convert(values) if convert else values)

    def _asked(self, statement: Statement, values: Row) -> Any:
        """A cursor that has its answer."""
        cursor = self._new_cursor()
        self._send(cursor, statement, values)
        self._sync(cursor)
        return cursor

    def _sync(self, cursor: Any) -> None:
        """Wait for an answer, and let the server know that we do: without that a client that stands still is none to it."""
        if self._piped and cursor.pgresult is None:
            self._pipe.sync()

    def stream(self, statement: Statement, size: int) -> Iterator[list[Row]]:
        """Every row of a statement without parameters, of which the server keeps those that were not fetched yet."""
        text, _ = statement.on(self._dialect)
        cursor = self._new_cursor()
        name = f"rows_{id(cursor)}"
        try:
            cursor.execute(f"DECLARE {name} NO SCROLL CURSOR FOR {text}")
            while rows := cursor.execute(f"FETCH {size} FROM {name}").fetchall():
                yield rows
            cursor.execute(f"CLOSE {name}")
        finally:
            cursor.close()

    def grown(self, before: int, after: int) -> None:
        """Have statistics made whenever a study has doubled: without them the front is looked for in whole tables.

        The server does so by itself, but a minute later.
        """
        if after >= 1024 and after.bit_length() > before.bit_length():
            self._cursor.execute("ANALYZE trials")
            self._cursor.execute("ANALYZE measurements")

    def count_on(self, table: sa.Table) -> None:
        """Give new rows identities beyond those that were inserted with their own."""
        newest = f'(SELECT max(id) FROM "{table.name}")'
        self._cursor.execute(
            f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), {newest}) WHERE {newest} > 0"
        )

    def among(self, statement: Among, values: Row, among: list[Any]) -> Answer:
        """Rows for every one of `among`, which is one parameter."""
        return self.soon(statement.whole, (*values, among)) if among else list

    def arrays(self, statement: Statement, values: Row, types: str) -> list[NDArray[Any]]:
        """Columns without NULL as arrays: the server sends each as one value, whose bytes are the array's.

        Rows would be a million messages, each of which becomes Python objects.
        """
        result = self._asked(_aggregated(statement, types), values).pgresult
        return [_array(result.get_value(0, i), letter) for i, letter in enumerate(types)]


def _lists(bulk: Bulk, rows: Sequence[Row]) -> Row:
    """The columns of rows, each of one type: the driver refuses a list that mixes integers and floats."""
    return tuple(
        [None if value is None else _PLAIN[type(of.type)](value) for value in values]
        for of, values in zip(bulk.columns, zip(*rows, strict=True), strict=True)
    )


_PLAIN: dict[type, Callable[[Any], Any]] = {
    sa.Double: float,
    sa.Integer: int,
    sa.BigInteger: int,
    sa.Text: str,
    sa.LargeBinary: bytes,
}


@cache
def _has_pipeline() -> bool:
    """Whether the driver's library is new enough: libpq 14."""
    import psycopg

    return psycopg.Pipeline.is_supported()


_AGGREGATED: dict[Statement, Statement] = {}


def _aggregated(statement: Statement, types: str) -> Statement:
    """`statement` with each of its columns as one array, in one order."""
    found = _AGGREGATED.get(statement)
    if found is None:
        rows = statement.construct.subquery()
        cast = {"i": sa.BigInteger, "d": sa.Double}
        columns: list[sa.ColumnElement[Any]] = [
            sa.func.array_agg(sa.cast(column, cast[letter])) for column, letter in zip(rows.c, types, strict=True)
        ]
        found = _AGGREGATED[statement] = Statement(sa.select(*columns), " ".join(statement.names))
    return found


_ELEMENT = {letter: np.dtype([("length", ">i4"), ("value", kind)]) for letter, kind in {"i": ">i8", "d": ">f8"}.items()}
_ARRAY_HEADER = 20  # dimensions, flags, type; length and lower bound of the one dimension


def _array(data: bytes | None, letter: str) -> NDArray[Any]:
    """An array in PostgreSQL's binary form; None is that of no rows."""
    native = np.int64 if letter == "i" else np.float64
    if data is None:
        return np.empty(0, dtype=native)
    return np.frombuffer(data, dtype=_ELEMENT[letter], offset=_ARRAY_HEADER)["value"].astype(native)


# By the start of SQLSTATE.
_SENTENCES = {
    "28": "database {shown} refuses user {user}: wrong password or user; correct the address, or set PGPASSWORD or PGPASSFILE",
    "3D000": "database {shown} does not exist on server {host}; make it with: createdb {name}",
    "42501": "database {shown} does not let user {user} do that ({error}); grant it the rights to create and write tables",
    "25006": "database {shown} cannot be written: the server is read-only, as a standby is; give the primary's address",
    "53100": "database {shown} cannot grow: the server's disk is full; make room, nothing that was committed is lost",
    "53300": "database {shown} has no connection left; end other clients, or raise max_connections of the server",
    "55P03": "database {shown} is locked: another process has been writing the study for a minute; end it, then try again",
    "57P03": "database {shown} does not answer yet: its server is starting up or shutting down; try again",
    "57P0": "database {shown} was shut down; start its server, then try again",
    "25P03": "database {shown} ended a transaction that stood still too long; try again",
}
# What a server says when it refuses a connection, of which the driver tells no SQLSTATE.
_REFUSALS = (
    (re.compile(r"password authentication failed|no password supplied|role .* does not exist|pg_hba"), "28"),
    (re.compile(r"database .* does not exist"), "3D000"),
    (re.compile(r"too many clients|remaining connection slots|too many connections"), "53300"),
    (re.compile(r"system is (starting up|shutting down|in recovery)|not yet accepting connections"), "57P03"),
)
_UNREACHED = {
    "could not translate host name": "database {shown}: there is no host {host}; correct the address",
    "failed to resolve host": "database {shown}: there is no host {host}; correct the address",
    "Name or service not known": "database {shown}: there is no host {host}; correct the address",
    "Connection refused": "database {shown}: no server answers at {host}, port {port}; start it, or correct the address",
    "No such file or directory": "database {shown}: no server answers at {host}, port {port}; start it, or correct the address",
    "timeout expired": "database {shown}: {host}, port {port}, does not answer within the time; check network and firewall",
    "timed out": "database {shown}: {host}, port {port}, does not answer within the time; check network and firewall",
    "closed the connection unexpectedly": "database {shown}: the connection was lost; check the server and the network",
    "connection is closed": "database {shown}: the connection was lost; check the server and the network",
}


def _refusal(text: str) -> str | None:
    """SQLSTATE, or its start, of a server's refusal of a connection; None when it is something else."""
    return next((state for mark, state in _REFUSALS if mark.search(text)), None)


def _parsed(text: str) -> sa.URL:
    hidden = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", text)
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        raise StoreError(
            f"database {hidden!r} is no address; write 'postgresql://user@host:5432/database', "
            "with %40 for an @ in a password"
        ) from None
    driver = url.drivername.partition("+")[2]
    if driver not in ("", "psycopg"):
        raise StoreError(
            f"database {hidden!r} names the driver {driver!r}; supernas uses psycopg: write 'postgresql://…'"
        )
    if not url.database:
        raise StoreError(f"database {hidden!r} names no database; write 'postgresql://user@host:5432/database'")
    if importlib.util.find_spec("psycopg") is None:
        raise StoreError(f"database {hidden!r} needs psycopg; install it with: pip install 'supernas[postgres]'")
    return url


def _hidden(url: sa.URL) -> str:
    """The URL without its passwords, as its owner wrote the rest."""
    options = {name: value for name, value in url.query.items() if name != "password"}
    text = url.set(drivername="postgresql", query=options).render_as_string(hide_password=True)
    if "password" not in url.query:
        return text
    return f"{text}{'&' if options else '?'}password=***"
