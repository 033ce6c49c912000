"""The database of a running server: opened once, and again where another file is in its place."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from nas.errors import StoreError, brief, suggest
from nas.store import open_store
from nas.store.database import locate, shown
from nas.store.sqlite import Sqlite
from nas.web.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from nas.store import Store, StudyRecord

PATIENCE_S = 10.0
"""Seconds that a request waits for a database that is away; whoever asked tries again."""
_MOST_RECORDS = 100
_LOOK_S = 2.0  # how often the revision of the tables is asked for


class Opened:
    """A database for requests.

    Args:
        url: where it is.
        read_only: nothing is written.
        replaced: called when another database is in its place.
    """

    def __init__(self, url: str, *, read_only: bool, replaced: Callable[[], None]) -> None:
        self.shown = shown(url)
        self._url, self._read_only, self._replaced = url, read_only, replaced
        backend = locate(url)
        self._path: Path | None = backend.path if isinstance(backend, Sqlite) else None
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._file: tuple[int, int] | None = None
        self._next_look = 0.0
        self._records: dict[str, tuple[object, StudyRecord]] = {}  # handles, which have fronts in memory

    @property
    def store(self) -> Store:
        """The database.

        Raises:
            Problem: it is gone, or its tables are another version's.
        """
        with self._lock:
            found = self._ready()
            looks = time.monotonic() >= self._next_look
            if looks:
                self._next_look = time.monotonic() + _LOOK_S
        if looks:  # by one request at a time, and the others do not wait for it
            try:
                found.check()
            except StoreError as error:
                self._next_look = 0.0
                raise Problem(503, str(error), headers={"Retry-After": "5"}) from None
        return found

    def _ready(self) -> Store:
        """The database as it is opened, anew where another file is in its place."""
        if self._store is not None and self._there() != self._file:
            self._store.close()
            self._store = None
            self._records.clear()
            self._replaced()
        if self._store is None:
            try:
                self._store = open_store(self._url, create=False, read_only=self._read_only, patience_s=PATIENCE_S)
            except StoreError as error:
                raise Problem(503, str(error), headers={"Retry-After": "5"}) from None
            self._file, self._next_look = self._there(), 0.0
        return self._store

    def _there(self) -> tuple[int, int] | None:
        """Which file is there; None where the database is no file."""
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            raise Problem(
                503,
                f"database {self.shown} is gone; put it back, or start the server with another",
                headers={"Retry-After": "5"},
            ) from None
        return found.st_dev, found.st_ino

    def study(self, name: str) -> StudyRecord:
        """A study by its name.

        Raises:
            Problem: there is none.
        """
        store = self.store
        mark = store.mark(name)
        if mark is None:
            near = suggest(name, store.names())
            raise Problem(404, f"there is no study {brief(repr(name), 220)}{near}; /api/v1/studies lists them")
        with self._lock:
            kept = self._records.get(name)
            if kept is not None and kept[0] == mark:
                return kept[1]
        record = store.open_study(name)
        with self._lock:
            if len(self._records) >= _MOST_RECORDS:
                self._records.clear()
            self._records[name] = mark, record
        return record

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            if self._store is not None:
                self._store.close()
                self._store = None
