"""SQLite: one file, write-ahead log, one writer at a time and any number of readers beside it.

A write transaction takes its lock at once (`BEGIN IMMEDIATE`): a deferred one that reads before it writes is refused
under contention, whatever the time-out.  With `synchronous=NORMAL` a commit survives the death of any process at any
moment; the loss of power may cost the last commits, never the file.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from nas.errors import DatabaseError, StoreError
from nas.store.sql import Transaction

#: Seconds that a writer waits for another one before it gives up.
BUSY_S = 10.0


class Sqlite:
    """Where the file is, how to connect to it, and what its errors mean."""

    begin_read: tuple[str, ...] = ("BEGIN",)
    begin_write: tuple[str, ...] = ("BEGIN IMMEDIATE",)
    begin_alone: tuple[str, ...] = begin_write
    begin_lightly: tuple[str, ...] = begin_write

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shown = repr(str(path))
        self.place = os.path.realpath(path)

    def exists(self) -> bool:
        """Whether there is a database to open.

        Raises:
            StoreError: the path is a folder, or may not be looked at.
        """
        try:
            is_folder, exists = self.path.is_dir(), self.path.exists()
        except OSError as error:
            raise DatabaseError(f"database {self.shown} cannot be opened: {error.strerror}; check the path") from error
        if is_folder:
            raise StoreError(
                f"database {self.shown} is a folder; give the path of a file, as in {self.shown[1:-1]}/nas.db"
            )
        return exists

    def writer(self) -> sa.Engine:
        """An engine whose transactions hold the write lock; makes the file, and its folder, when there is none."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatabaseError(
                f"database {self.shown} cannot be made: no folder {str(self.path.parent)!r} ({error.strerror})"
            ) from error
        return _engine(self._connect_writer, self.begin_write[0])

    def reader(self) -> sa.Engine:
        """An engine whose transactions are snapshots and which can change nothing; never makes a file."""
        return _engine(self._connect_reader, self.begin_read[0])

    def transaction(self, connection: Any, dialect: sa.Dialect, again: bool) -> Transaction:
        """A transaction on a connection of the driver, not begun yet."""
        return Transaction(connection, dialect, again=again)

    @contextmanager
    def lenient(self, connection: Any) -> Iterator[None]:
        """Inside, text that is not UTF-8 can be read, as lone surrogates."""
        driver: sqlite3.Connection = connection.dbapi_connection
        driver.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
        try:
            yield
        finally:
            driver.text_factory = str

    def is_passing(self, error: BaseException) -> bool:  # noqa: ARG002
        """False: there is no connection to lose, and a writer has waited for the others already."""
        return False

    def _open(self, options: str) -> sqlite3.Connection:
        return sqlite3.connect(
            f"file:{quote(os.fsencode(self.path.absolute()))}?{options}",
            uri=True,
            timeout=BUSY_S,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )

    def _connect_writer(self) -> sqlite3.Connection:
        connection = self._open("mode=rwc")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA cache_size=-65536")  # KiB: the index of random keys stays in memory
        return connection

    def _connect_reader(self) -> sqlite3.Connection:
        connection = self._open("mode=rw")
        try:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.OperationalError:
            # A log needs a writable folder beside it.  Without a log there is nobody to wait for.
            connection.close()
            log = Path(f"{self.path}-wal")
            if log.exists() and log.stat().st_size:
                raise
            connection = self._open("immutable=1")
        connection.execute("PRAGMA query_only=ON")
        connection.execute("PRAGMA cache_size=-65536")  # KiB: the pages of a front stay in memory
        return connection

    def explain(self, error: BaseException) -> str:
        """The sentence for an error of the driver."""
        name = str(getattr(error, "sqlite_errorname", ""))
        sentence = next(
            (text for code, text in _SENTENCES.items() if name.startswith(code)), "database {shown} failed: {error}"
        )
        return sentence.format(shown=self.shown, error=error)


# By the start of SQLite's name for the error.
_BUSY = (
    f"database {{shown}} is locked: another process has been writing it for more than {BUSY_S:g} s; "
    "end that process, then try again"
)
_SENTENCES = {
    "SQLITE_BUSY": _BUSY,
    "SQLITE_LOCKED": _BUSY,
    "SQLITE_READONLY": "database {shown} cannot be written: the file or its folder is read-only; "
    "change its permissions or copy it",
    "SQLITE_FULL": "database {shown} cannot grow: the disk is full; make room, nothing that was committed is lost",
    "SQLITE_NOTADB": "{shown} is not a database of supernas: the file has another format; give another path",
    "SQLITE_CORRUPT": "database {shown} is damaged ({error}); restore a copy, or save what is readable with "
    "'sqlite3 FILE .recover'",
    "SQLITE_CANTOPEN": "database {shown} cannot be opened: check that its folder exists and that you may read and write it",
    "SQLITE_IOERR": "database {shown} cannot be read or written ({error}); check the disk and its free space",
}


def _engine(connect: object, begin: str) -> sa.Engine:
    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.QueuePool)

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
