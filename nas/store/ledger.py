"""Writing a study.

Every operation is one transaction that first reads the study's counters, so that the writers of one study go one after the
other and a copy of the front in memory is known to be current.  Whatever goes wrong, nothing of the transaction stays, in
the database or here.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from nas.errors import StoreError
from nas.store import statements as s
from nas.store.database import Database
from nas.store.records import StudyInfo
from nas.store.spaces import register
from nas.store.wave import Copies, Head, Wave


class Ledger:
    """The writing side of one study.

    Args:
        database: where it is.
        study: which one.
    """

    def __init__(self, database: Database, study: StudyInfo) -> None:
        self._database = database
        self.study = study
        self._copies = Copies()
        # Held until the outcome is known: nobody may use copies of what is then not committed.
        self._lock = threading.RLock()

    @contextmanager
    def write(self) -> Iterator[Wave]:
        """A transaction on the study, committed when the block is left without an exception.

        Raises:
            StoreError: the study was deleted, or the database cannot be written.
        """
        study = self.study
        with self._lock:
            try:
                with self._database.write() as sql:
                    row = sql.one(s.STUDY_HEAD, (study.id, study.created))
                    if row is None:
                        raise StoreError(
                            f"study {study.name!r} was deleted from database {self._database.shown}; create it again"
                        )
                    wave = Wave(study, sql, Head(*row), self._copies)
                    yield wave
                    if wave.head.row() != row:
                        sql.run(s.SET_STUDY_HEAD, (*wave.head.row(), study.id))
            except BaseException:
                self._copies = Copies()
                raise

    def update_space(self, schema: dict[str, Any]) -> None:
        """See `StudyRecord.update_space`."""
        with self.write() as wave:
            space_id = register(wave.sql, schema)
            wave.use_space(space_id)
        self.study = dataclasses.replace(self.study, space_id=space_id, schema=schema)

    def requeue(self, now: float | None, dead: Callable[[str], bool] | None, max_attempts: int) -> int:
        """See `StudyRecord.requeue_expired`.  `dead` is asked outside the transaction: it may take its time."""
        now = time.time() if now is None else now
        with self._database.read() as sql:
            running = sql.all(s.RUNNING, (self.study.id,))
        workers = {worker for _, worker, _, _ in running}
        gone = {worker for worker in workers if dead is not None and dead(worker)}
        if not any(worker in gone or lease_until < now for _, worker, lease_until, _ in running):
            return 0
        with self.write() as wave:
            return wave.requeue(now, gone, max_attempts)
