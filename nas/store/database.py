"""Opening a database, its revision, its transactions, and its errors as sentences.

Everything here is the same for every backend; `sqlite.py` holds what is not.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from nas.errors import StoreError
from nas.store.schema import HEAD, REVISIONS
from nas.store.sql import Statement, Transaction
from nas.store.sqlite import Sqlite

# Not alembic's default name: other programs' databases have a table of that name.
VERSION_TABLE = "supernas_version"

_REVISION = Statement(sa.select(sa.column("version_num")).select_from(sa.table(VERSION_TABLE)))


def locate(url: str | Path) -> Sqlite:
    """The backend for a URL (`sqlite:///results.db`) or a path (`results.db`).

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
        return Sqlite(Path(text).expanduser())
    if scheme != "sqlite":
        raise StoreError(f"database {text!r} is not supported; give a path or 'sqlite:///results.db'")
    path = rest.removeprefix("///")
    if not rest.startswith("///") or not path or path == ":memory:":
        raise StoreError(
            f"database {text!r} names no file; write 'sqlite:///results.db', or 'sqlite:////' for an absolute path"
        )
    return Sqlite(Path(path).expanduser())


class Database:
    """Transactions on one database, from any thread of this process.

    Args:
        backend: where it is.
        read_only: refuse to write.
    """

    def __init__(self, backend: Sqlite, *, read_only: bool = False) -> None:
        self.backend = backend
        self.shown = backend.shown
        self.read_only = read_only
        self._reader = backend.reader()
        self._writer: sa.Connection | None = None
        self._lock = threading.RLock()
        self._errors: tuple[type[BaseException], ...] = (self._reader.dialect.loaded_dbapi.Error, sa.exc.DBAPIError)

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A snapshot: what other processes write meanwhile is not seen.

        Raises:
            StoreError: the database cannot be read, in one sentence.
        """
        try:
            with self._reader.connect() as connection, connection.begin():
                yield Transaction(connection.connection.cursor(), connection.dialect)
        except self._errors as error:
            raise self._explained(error) from error

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A transaction that is committed as a whole, or not at all when an exception leaves the block.

        Raises:
            StoreError: the database cannot be written, in one sentence.
        """
        with self._lock:
            try:
                connection = self._writing()
                with connection.begin():
                    yield Transaction(connection.connection.cursor(), connection.dialect)
            except self._errors as error:
                raise self._explained(error) from error

    def _writing(self) -> sa.Connection:
        if self.read_only:
            raise StoreError(f"database {self.shown} was opened for reading only; open it without read_only to write")
        if self._writer is None:
            self._writer = self.backend.writer().connect()
        return self._writer

    def _explained(self, error: BaseException) -> StoreError:
        return StoreError(self.backend.explain(getattr(error, "orig", None) or error))

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            if self._writer is not None:
                self._writer.close()
                self._writer.engine.dispose()
                self._writer = None
            self._reader.dispose()

    def revision(self) -> str | None:
        """Revision of the tables; None when there are none yet.

        Raises:
            StoreError: the tables are somebody else's.
        """
        if not self.backend.exists():
            return None
        try:
            with self._reader.connect() as connection:
                tables = set(sa.inspect(connection).get_table_names())
        except self._errors as error:
            raise self._explained(error) from error
        if VERSION_TABLE not in tables:
            if not tables:
                return None
            some = ", ".join(sorted(tables)[:3])
            raise StoreError(
                f"{self.shown} is not a database of supernas: it holds other tables ({some}); give another path"
            )
        with self.read() as transaction:
            row = transaction.one(_REVISION)
        return str(row[0]) if row else None

    def check(self) -> None:
        """Whether this code can work with the tables.

        Raises:
            StoreError: they are empty, older, newer or somebody else's.
        """
        revision = self.revision()
        if revision == HEAD:
            return
        if revision is None:
            raise StoreError(f"database {self.shown} is empty; run a study in it first")
        if revision in REVISIONS:
            raise StoreError(
                f"database {self.shown} has the older revision {revision!r}, this version needs {HEAD!r}; run 'nas db upgrade'"
            )
        raise StoreError(
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
                    _migrate(connection)
            except self._errors as error:
                raise self._explained(error) from error


def _migrate(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    attributes: dict[str, Any] = config.attributes
    attributes["connection"] = connection
    attributes["version_table"] = VERSION_TABLE
    command.upgrade(config, "head")
