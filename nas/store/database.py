"""Opening a database, its revision, its transactions, and its errors as sentences.

Everything here is the same for every backend; `sqlite.py` and `postgres.py` hold what is not.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa

from nas.errors import DatabaseError, NasError, StoreError
from nas.store.damage import SUSPICIOUS, Suspect, explain, find
from nas.store.postgres import Postgres
from nas.store.schema import HEAD, REVISIONS, metadata
from nas.store.sql import Statement, Transaction
from nas.store.sqlite import Sqlite

T = TypeVar("T")

# Not alembic's default name: other programs' databases have a table of that name.
VERSION_TABLE = "supernas_version"

#: Seconds for which work is tried again when the connection is lost, as it is when a server restarts.
PATIENCE_S = 120.0

# As alembic makes it.
_version = sa.Table(
    VERSION_TABLE,
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),
)
_REVISION = Statement(sa.select(_version.c.version_num))
_LONGEST_WAIT_S = 5.0
_jitter = random.Random()  # never the global one: a user's seeds are theirs


class Backend(Protocol):
    """What is special to a kind of database.

    Attributes:
        shown: the database as sentences name it, without its password.
        place: the same for every spelling of its path or address; without its password.
        begin_read: the statements that start a snapshot in which nothing can be written.
        begin_write: those that start a transaction that writes.
        begin_alone: those that start one beside which no other of these runs, in any process.
        begin_lightly: those that start one that a crash of the server may undo within a second of its commit.
    """

    shown: str
    place: str
    begin_read: tuple[str, ...]
    begin_write: tuple[str, ...]
    begin_alone: tuple[str, ...]
    begin_lightly: tuple[str, ...]

    def exists(self) -> bool:
        """Whether there is a database to open."""

    def reader(self) -> sa.Engine:
        """An engine for reading."""

    def writer(self) -> sa.Engine:
        """An engine for writing; makes the database where that is a matter of making a file."""

    def transaction(self, connection: Any, dialect: sa.Dialect, again: bool) -> Transaction:
        """A transaction on a connection of the driver, not begun yet."""

    def explain(self, error: BaseException) -> str:
        """The sentence for an error of the driver."""

    def lenient(self, connection: Any) -> AbstractContextManager[None]:
        """Inside, text that is not UTF-8 can be read, as lone surrogates."""

    def is_passing(self, error: BaseException) -> bool:
        """Whether the same work may succeed a little later, on another connection."""


def locate(url: str | Path) -> Backend:
    """The backend for a path (`results.db`) or URL (`sqlite:///results.db`, `postgresql://user@host/database`).

    Raises:
        StoreError: the URL is not understood, or its database is not supported.
    """
    text = str(url)
    scheme, colon, rest = text.partition(":")
    is_url = (
        isinstance(url, str) and colon and len(scheme) > 1 and scheme.replace("+", "").isalnum() and "/" not in scheme
    )
    if not is_url:
        if not text or text == ":memory:":
            raise StoreError(f"database {text!r} is not a file; give a path, as in 'results.db'")
        return Sqlite(at_home(text))
    if scheme.partition("+")[0] in ("postgresql", "postgres"):
        return Postgres(text)
    if scheme != "sqlite":
        raise StoreError(
            f"database '{scheme}:…' is not supported; give a path, 'sqlite:///results.db' or 'postgresql://user@host/database'"
        )
    path = rest.removeprefix("///")
    if not rest.startswith("///") or not path or path == ":memory:":
        raise StoreError(
            f"database {text!r} names no file; write 'sqlite:///results.db', or 'sqlite:////' for an absolute path"
        )
    return Sqlite(at_home(path))


def at_home(path: str) -> Path:
    """The path, with ~ as the home that it names.

    Raises:
        StoreError: there is no such home, or the path is none.
    """
    if "\0" in path:
        raise StoreError(f"database {path!r} has a NUL in its name; give a path")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise StoreError(
            f"database {path!r} is in the home of a user who is not there; correct it, or write ./{path}"
        ) from None


def shown(url: str | Path) -> str:
    """A database's path or URL as it may be printed: without its password."""
    try:
        backend = locate(url)
    except StoreError:
        return str(url).partition("://")[0] + "://…" if "://" in str(url) else str(url)
    return backend.shown[1:-1] if isinstance(backend, Postgres) else str(url)


class Database:
    """Transactions on one database, from any thread of this process.

    Args:
        backend: where it is.
        read_only: refuse to write.
        patience_s: seconds for which work is tried again when the connection is lost; `PATIENCE_S` unless given.
    """

    def __init__(self, backend: Backend, *, read_only: bool = False, patience_s: float | None = None) -> None:
        self.backend = backend
        self.shown = backend.shown
        self.read_only = read_only
        self._patience_s = patience_s
        self._reader = backend.reader()
        self._writer: sa.Connection | None = None
        self._lock = threading.RLock()
        self._errors: tuple[type[BaseException], ...] = (self._reader.dialect.loaded_dbapi.Error, sa.exc.DBAPIError)

    # -- transactions ------------------------------------------------------------------------------------------------

    def reading(self, work: Callable[[Transaction], T]) -> T:
        """What `work` reads from a snapshot: what other processes write meanwhile is not seen.

        It is called again, on another snapshot, when the connection is lost.

        Raises:
            StoreError: the database cannot be read, in one sentence.
        """

        def once(_: bool) -> T:
            with self._reader.connect() as connection, self._begun(connection, self.backend.begin_read) as sql:
                return work(sql)

        return self._soundly(once)

    def writing(self, work: Callable[[Transaction], T], *, alone: bool = False, lightly: bool = False) -> T:
        """What `work` gives, committed as a whole, or not at all when it raises.

        When the connection is lost `work` is called again, with `Transaction.again` set: what the first call did may have been
        committed although nobody heard of it.

        Args:
            work: reads and writes.
            alone: no other process may do such a thing meanwhile.
            lightly: nothing is lost when a crash of the server undoes it, so that no disk is waited for.

        Raises:
            StoreError: the database cannot be written, in one sentence.
        """
        begin = self.backend.begin_lightly if lightly else self.backend.begin_write
        begin = self.backend.begin_alone if alone else begin

        def once(again: bool) -> T:
            with self._begun(self._writing(), begin, again) as sql:
                return work(sql)

        with self._lock:
            return self._soundly(once)

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A snapshot, as `reading` gives, that is not tried again."""
        try:
            with self._reader.connect() as connection, self._begun(connection, self.backend.begin_read) as sql:
                yield sql
        except self._errors as error:
            raise self._explained(error) from error

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A transaction, as `writing` gives, that is not tried again."""
        with self._lock:
            try:
                with self._begun(self._writing(), self.backend.begin_write) as sql:
                    yield sql
            except self._errors as error:
                raise self._explained(error) from error

    def _soundly(self, once: Callable[[bool], T]) -> T:
        """`_patiently`; where a damaged value makes it fail, that is said."""
        try:
            return self._patiently(once)
        except NasError:
            raise
        except (*SUSPICIOUS, Suspect) as error:
            damaged = self.damage(error)
            if damaged is None:
                raise
            raise damaged from error

    def damage(self, error: BaseException) -> DatabaseError | None:
        """The value that made a reading fail, as an error; None when all tables hold what they must."""
        with (
            self._reader.connect() as connection,
            self.backend.lenient(connection.connection),
            self._begun(connection, self.backend.begin_read) as sql,
        ):
            found = find(sql)
        return explain(error, found, self.shown)

    def _patiently(self, once: Callable[[bool], T]) -> T:
        """Call `once` until it is done, with growing pauses; its argument says that it was called before."""
        deadline: float | None = None
        wait = 0.05
        while True:
            try:
                return once(deadline is not None)
            except self._errors as error:
                if not self.backend.is_passing(_driver_error(error)):
                    raise self._explained(error) from error
                patience_s = PATIENCE_S if self._patience_s is None else self._patience_s
                deadline = deadline or time.monotonic() + patience_s
                if time.monotonic() + wait > deadline:
                    raise DatabaseError(
                        f"{self._explained(error)} (tried again for {patience_s:g} s; what was committed is kept)"
                    ) from error
            time.sleep(wait * _jitter.uniform(0.5, 1.0))
            wait = min(2 * wait, _LONGEST_WAIT_S)

    @contextmanager
    def _begun(self, connection: sa.Connection, begin: tuple[str, ...], again: bool = False) -> Iterator[Transaction]:
        """A transaction on a bare cursor.  A connection that breaks is not used again."""
        try:
            sql = self.backend.transaction(connection.connection, connection.dialect, again)
            sql.begin(begin)
        except BaseException:  # an interrupt may have come behind the first statement
            self._discard(connection)
            raise
        try:
            yield sql
            sql.commit()
        except BaseException:
            try:
                sql.rollback()
            except self._errors:
                self._discard(connection)
            raise
        finally:
            with suppress(*self._errors):  # a broken one is closed already
                sql.close()

    def _discard(self, connection: sa.Connection) -> None:
        connection.invalidate()
        if connection is self._writer:
            connection.close()
            self._writer = None

    def _writing(self) -> sa.Connection:
        if self.read_only:
            raise StoreError(f"database {self.shown} was opened for reading only; open it without read_only to write")
        if self._writer is None:
            self._writer = self.backend.writer().connect()
        return self._writer

    def _explained(self, error: BaseException) -> DatabaseError:
        if "decode to UTF-8" in str(error):
            return self.damage(error) or DatabaseError(f"database {self.shown} holds text that is not UTF-8: {error}")
        return DatabaseError(self.backend.explain(_driver_error(error)))

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            if self._writer is not None:
                engine = self._writer.engine
                self._writer.close()
                engine.dispose()
                self._writer = None
            self._reader.dispose()

    # -- the schema --------------------------------------------------------------------------------------------------

    def revision(self) -> str | None:
        """Revision of the tables; None when there are none yet.

        Raises:
            StoreError: the tables are somebody else's.
        """
        if not self.backend.exists():
            return None
        tables = self._patiently(lambda _: self._tables())
        if VERSION_TABLE not in tables:
            if not tables:
                return None
            some = ", ".join(sorted(tables)[:3])
            raise StoreError(
                f"{self.shown} is not a database of supernas: it holds other tables ({some}); give another {self._kind}"
            )
        row = self.reading(lambda sql: sql.one(_REVISION))
        return str(row[0]) if row else None

    def _tables(self) -> set[str]:
        with self._reader.connect() as connection:
            return set(sa.inspect(connection).get_table_names())

    @property
    def _kind(self) -> str:
        return "database" if isinstance(self.backend, Postgres) else "path"

    def check(self) -> None:
        """Whether this code can work with the tables.

        Raises:
            StoreError: they are empty, older, newer or somebody else's.
        """
        revision = self.revision()
        if revision == HEAD:
            return
        if revision is None:
            raise DatabaseError(f"database {self.shown} is empty; run a study in it first")
        if revision in REVISIONS:
            raise DatabaseError(
                f"database {self.shown} has the older revision {revision!r}, this version needs {HEAD!r}; run 'nas db upgrade'"
            )
        raise DatabaseError(
            f"database {self.shown} was written by a newer supernas (revision {revision!r}, this version knows {HEAD!r}); "
            "upgrade supernas"
        )

    def upgrade(self) -> None:
        """Bring the tables to the newest revision, creating them when there are none.

        Processes that do this at once wait for each other.

        Raises:
            StoreError: the tables are newer than the code, or somebody else's.
        """
        revision = self.revision()
        if revision is not None and revision not in REVISIONS:
            self.check()
        with self._lock:
            try:
                connection = self._writing()
                with connection.begin():
                    for statement in self.backend.begin_alone[1:]:  # the first one is what `begin` does
                        connection.exec_driver_sql(statement)
                    if sa.inspect(connection).get_table_names():
                        _migrate(connection)
                    else:
                        _create(connection)
            except self._errors as error:
                raise self._explained(error) from error


def _driver_error(error: BaseException) -> BaseException:
    return getattr(error, "orig", None) or error


def _create(connection: sa.Connection) -> None:
    """Make the tables as all migrations together leave them, without the time that alembic takes to import and to run."""
    metadata.create_all(connection, checkfirst=False)
    _version.create(connection, checkfirst=False)
    connection.execute(_version.insert(), {"version_num": HEAD})


def _migrate(connection: sa.Connection) -> None:
    """Run the migrations after the revision that the database has, or all of them."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    attributes: dict[str, Any] = config.attributes
    attributes["connection"] = connection
    attributes["version_table"] = VERSION_TABLE
    command.upgrade(config, "head")
