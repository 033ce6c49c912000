"""Writing a study.

Every operation is one transaction.  All but claims first read the study's counters and lock them, so that the writers of one
study go one after the other and a copy of the front in memory is known to be current.  Whatever goes wrong, nothing of the
transaction stays, in the database or here; when the connection is lost the operation is done again, and finds out whether it
had been committed.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from nas.errors import StoreError
from nas.store import statements as s
from nas.store.damage import Suspect, of_row
from nas.store.database import Database
from nas.store.records import ArchRow, Claim, StudyInfo
from nas.store.spaces import register
from nas.store.sql import Row, Transaction
from nas.store.wave import Copies, Head, Wave

T = TypeVar("T")


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

    def write(self, work: Callable[[Wave], T], *, look: Callable[[Wave], None] | None = None, alone: bool = False) -> T:
        """What `work` gives, called with a transaction on the study that is committed when it returns.

        Args:
            work: called again, with a new transaction, when the connection is lost.
            look: calls `Wave.look` for what `work` will need.
            alone: it registers something that studies share.

        Raises:
            StoreError: the study was deleted, or the database cannot be written.
        """
        now = time.time()
        with self._lock:
            done, self._copies = self._database.writing(lambda sql: self._once(sql, work, look, now), alone=alone)
        return done

    def _once(
        self, sql: Transaction, work: Callable[[Wave], T], look: Callable[[Wave], None] | None, now: float
    ) -> tuple[T, Copies]:
        # Whatever fails from here on, the commit too, leaves no copies behind.
        copies, self._copies = self._copies, Copies()
        study = self.study
        head = sql.soon(s.STUDY_HEAD, (study.id, study.created))
        wave = Wave(study, sql, copies, now)
        if look is not None:
            look(wave)
        found = head()
        if not found:
            raise self._deleted()
        row = found[0]
        of_row("studies", "next_number finished completed infeasible failed front_version", row, study.name)
        if row[1] != sum(row[2:5]) or row[0] < row[1]:
            raise Suspect("the study counts other trials than it has")
        wave.head = Head(*row)
        done = work(wave)
        if wave.head.row() != row:
            sql.do(s.SET_STUDY_HEAD, (*wave.head.row(), study.id))
            sql.grown(row[0], wave.head.next_number)
        return done, copies

    def _deleted(self) -> StoreError:
        return StoreError(
            f"study {self.study.name!r} was deleted from database {self._database.shown}; create it again"
        )

    def claim(self, worker: str, n: int, lease_s: float, lost_below: int | None = None) -> list[Claim]:
        """See `StudyRecord.claim`.  It waits neither for those who write the study nor for the disk.

        A server that crashes may forget the claims of its last second: those trials wait again, and whoever reports one of
        them is told that it holds no lease.
        """
        now = time.time()
        study = self.study
        which = (study.id, study.created)

        def take(sql: Transaction) -> list[Claim]:
            rows = sql.all(s.CLAIMED, (study.id, worker, now)) if sql.again else []
            if not rows:
                what = (worker, now + lease_s, now, *which)
                rows = (
                    sql.all(s.CLAIM, (*what, n))
                    if lost_below is None
                    else sql.all(s.CLAIM_UNSUSPECTED, (*what, lost_below, n))
                )
            if not rows and sql.one(s.STUDY_THERE, which) is None:
                raise self._deleted()
            for row in rows:
                of_row("trials", "number attempt key arch seed space_id", row, study.name, row[0])
            return [
                Claim(number, attempt, key, json.loads(arch), seed, space_id)
                for number, attempt, key, arch, seed, space_id in sorted(rows)
            ]

        return self._database.writing(take, lightly=True)

    def update_space(self, schema: dict[str, Any], key_of: Callable[[ArchRow], str] | None = None) -> None:
        """See `StudyRecord.update_space`."""

        def use(wave: Wave) -> int:
            space_id = register(wave.sql, schema)
            wave.use_space(space_id, self.study.space_id if key_of else None, key_of)
            return space_id

        space_id = self.write(use, alone=True)
        self.study = dataclasses.replace(self.study, space_id=space_id, schema=schema)

    def _running(self, sql: Transaction) -> list[Row]:
        rows = sql.all(s.RUNNING, (self.study.id,))
        for row in rows:
            of_row("trials", "number worker lease_until lost", row, self.study.name, row[0])
            if row[1] is None or row[2] is None:
                raise Suspect(f"trial {row[0]} is RUNNING without a worker or a lease")
        return rows

    def requeue(self, now: float | None, dead: Callable[[str], bool] | None, max_attempts: int) -> int:
        """See `StudyRecord.requeue_expired`.  `dead` is asked outside the transaction: it may take its time."""
        now = time.time() if now is None else now
        running = self._database.reading(self._running)
        workers = {worker for _, worker, _, _ in running}
        gone = {worker for worker in workers if dead is not None and dead(worker)}
        if not any(worker in gone or lease_until < now for _, worker, lease_until, _ in running):
            return 0
        return self.write(lambda wave: wave.requeue(now, gone, max_attempts))
