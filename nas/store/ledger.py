"""Writing a study: trials, leases, reports, measurements, and the front that is kept with them.

Every operation is one transaction that first reads the study's counters, so that the writers of one study go one after the other and a
copy of the front in memory is known to be current.  Whatever goes wrong, nothing of the transaction stays, in the database or here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from nas.errors import StoreError
from nas.metrics import Constraint, Metric, unit_of
from nas.pareto import Front
from nas.store import statements as s
from nas.store.database import Database
from nas.store.records import Added, ArchRow, Claim, ImportedTrial, NewTrial, Receipt, Report, State
from nas.store.schema import FINAL
from nas.store.settle import Outcome, name_fault, settle
from nas.store.sql import Row, Transaction

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


@dataclass(slots=True)
class _Head:
    """The study's counters, as the transaction found them and leaves them."""

    next_number: int
    finished: int
    completed: int
    infeasible: int
    failed: int
    front_version: int

    def count(self, state: State) -> int:
        """One more trial ends in `state`; its place in the order of finishing."""
        self.finished += 1
        if state == "COMPLETED":
            self.completed += 1
        elif state == "INFEASIBLE":
            self.infeasible += 1
        else:
            self.failed += 1
        return self.finished

    def row(self) -> Row:
        return (self.next_number, self.finished, self.completed, self.infeasible, self.failed, self.front_version)


class Ledger:
    """The writing side of one study.

    Args:
        database: where it is.
        study_id, created: which study.
        name: for messages.
        objectives, constraints: what a COMPLETED trial must have and meet.
        width: decisions of the space that new rows belong to.
        space_id: that space.
    """

    def __init__(
        self,
        database: Database,
        study_id: int,
        created: float,
        name: str,
        objectives: Sequence[Metric],
        constraints: Sequence[Constraint],
        space_id: int,
        width: int,
    ) -> None:
        self._database = database
        self._id = study_id
        self._created = created
        self._name = name
        self._objectives = tuple(objectives)
        self._constraints = tuple(constraints)
        self.space_id = space_id
        self.width = width
        # Copies of what the database holds; dropped whenever a transaction fails.
        self._metric_ids: dict[str, int] = {}
        self._front: Front | None = None
        self._front_version = -1

    def add(self, rows: Sequence[NewTrial], worker: str | None, lease_s: float) -> list[Added]:
        with self._transaction() as wave:
            return wave.add(rows, worker, lease_s)

    def report(self, reports: Sequence[Report]) -> list[Receipt]:
        with self._transaction() as wave:
            return wave.report(reports)

    def wave(
        self, reports: Sequence[Report], rows: Sequence[NewTrial], worker: str | None, lease_s: float
    ) -> tuple[list[Receipt], list[Added]]:
        with self._transaction() as wave:
            return wave.report(reports), wave.add(rows, worker, lease_s)

    def claim(self, worker: str, n: int, lease_s: float) -> list[Claim]:
        with self._transaction() as wave:
            return wave.claim(worker, n, lease_s)

    def measure(self, number: int, name: str, value: float, step: int) -> None:
        with self._transaction() as wave:
            wave.measure(number, name, value, step)

    def import_trials(self, trials: Iterable[ImportedTrial]) -> list[Added]:
        with self._transaction() as wave:
            return wave.import_trials(list(trials))

    def heartbeat(self, worker: str, lease_s: float) -> int:
        with self._transaction() as wave:
            return wave.sql.run(s.EXTEND, (time.time() + lease_s, self._id, worker))

    def release(self, worker: str) -> int:
        with self._transaction() as wave:
            return wave.sql.run(s.RELEASE, (self._id, worker))

    def set_space(self, space_id: int, width: int) -> None:
        with self._transaction() as wave:
            wave.sql.run(s.SET_STUDY_SPACE, (space_id, self._id))
        self.space_id, self.width = space_id, width

    def requeue(self, now: float | None, dead: Callable[[str], bool] | None, max_attempts: int) -> int:
        """See `StudyRecord.requeue_expired`.  `dead` is asked outside the transaction: it may take its time."""
        now = time.time() if now is None else now
        with self._database.read() as sql:
            running = sql.all(s.RUNNING, (self._id,))
        gone = {worker for worker in {row[1] for row in running} if dead is not None and dead(worker)}
        if not any(row[1] in gone or row[2] < now for row in running):
            return 0
        with self._transaction() as wave:
            return wave.requeue(now, gone, max_attempts)

    @contextmanager
    def _transaction(self) -> Iterator[_Wave]:
        try:
            with self._database.write() as sql:
                row = sql.one(s.STUDY_HEAD, (self._id, self._created))
                if row is None:
                    raise StoreError(f"study {self._name!r} was deleted from {self._database.shown}; create it again")
                wave = _Wave(self, sql, _Head(*row))
                yield wave
                if wave.head.row() != row:
                    sql.run(s.SET_STUDY_HEAD, (*wave.head.row(), self._id))
        except BaseException:
            self._metric_ids = {}
            self._front = None
            raise


class _Wave:
    """One transaction on a study."""

    def __init__(self, ledger: Ledger, sql: Transaction, head: _Head) -> None:
        self._ledger = ledger
        self._id = ledger._id
        self.sql = sql
        self.head = head
        self._now = time.time()

    # -- trials ------------------------------------------------------------------------------------------------------

    def add(self, rows: Sequence[NewTrial], worker: str | None, lease_s: float) -> list[Added]:
        known = self._known(row.key for row in rows)
        state: State = "WAITING" if worker is None else "RUNNING"
        lease = (None, 0, None) if worker is None else (worker, 1, self._now + lease_s)
        started = None if worker is None else self._now
        answers, inserts = [], []
        for new in rows:
            found = known.get(new.key)
            if found is None:
                number = self._next_number()
                arch = self._arch(new.row)
                inserts.append(
                    (
                        self._id,
                        number,
                        self._ledger.space_id,
                        new.key,
                        arch,
                        state,
                        *lease,
                        new.seed,
                        self._now,
                        started,
                    )
                )
                known[new.key] = (number, state)
            answers.append(
                Added(number, new.key, False, state) if found is None else Added(found[0], new.key, True, found[1])
            )
        self.sql.many(s.ADD_TRIAL, inserts)
        return answers

    def import_trials(self, trials: Sequence[ImportedTrial]) -> list[Added]:
        known = self._known(trial.key for trial in trials)
        ledger = self._ledger
        answers, inserts = [], []
        finals: list[tuple[int, Outcome]] = []
        for new in trials:
            found = known.get(new.key)
            if found is not None:
                answers.append(Added(found[0], new.key, True, found[1]))
                continue
            outcome = settle(
                new.state, new.measurements, new.violation, new.reason, ledger._objectives, ledger._constraints
            )
            number, place = self._next_number(), self.head.count(outcome.state)
            inserts.append(
                (self._id, number, ledger.space_id, new.key, self._arch(new.row), outcome.state, new.seed)
                + (self._now, self._now, place, new.duration_s, outcome.violation, outcome.reason)
            )
            finals.append((number, outcome))
            known[new.key] = (number, outcome.state)
            answers.append(Added(number, new.key, False, outcome.state))
        self.sql.many(s.ADD_FINISHED, inserts)
        self._measured(finals)
        return answers

    def _known(self, keys: Iterable[str]) -> dict[str, tuple[int, State]]:
        return {key: (number, state) for key, number, state in s.TRIALS_BY_KEY.all(self.sql, (self._id,), keys)}

    def _next_number(self) -> int:
        number = self.head.next_number
        self.head.next_number = number + 1
        return number

    def _arch(self, row: ArchRow) -> str:
        if len(row) != self._ledger.width:
            raise StoreError(
                f"an arch of {len(row)} numbers does not fit study {self._ledger._name!r}, whose space has "
                f"{self._ledger.width} decisions; register a changed space with update_space"
            )
        return _encode(row)

    # -- leases ------------------------------------------------------------------------------------------------------

    def claim(self, worker: str, n: int, lease_s: float) -> list[Claim]:
        rows = self.sql.all(s.NEXT_WAITING, (self._id, n))
        until = self._now + lease_s
        self.sql.many(s.LEASE, [(worker, row[1] + 1, until, self._now, self._id, row[0]) for row in rows])
        return [
            Claim(number, attempt + 1, key, json.loads(arch), seed, space_id)
            for number, attempt, key, arch, seed, space_id in rows
        ]

    def requeue(self, now: float, gone: set[str], max_attempts: int) -> int:
        requeued = 0
        for number, worker, lease_until, lost in self.sql.all(s.RUNNING, (self._id,)):
            if worker not in gone and lease_until >= now:
                continue
            requeued += 1
            if lost + 1 < max_attempts:
                self.sql.run(s.REQUEUE, (lost + 1, self._id, number))
            else:
                plural = "s" if lost else ""
                self._finish(number, Outcome("FAILED", {}, None, f"lost {lost + 1} worker{plural}"), None, None)
        return requeued

    # -- reports -----------------------------------------------------------------------------------------------------

    def report(self, reports: Sequence[Report]) -> list[Receipt]:
        ledger = self._ledger
        leases = {row[0]: row[1:] for row in s.LEASES.all(self.sql, (self._id,), (r.number for r in reports))}
        accepted: dict[int, Outcome] = {}  # in this batch, by number
        order: list[tuple[int, Outcome]] = []
        receipts: list[Receipt | int] = []
        for r in reports:
            outcome = settle(r.state, r.measurements, r.violation, r.reason, ledger._objectives, ledger._constraints)
            lease = leases.get(r.number)
            if lease is None:
                receipts.append(
                    Receipt(r.number, False, f"study {ledger._name!r} has no trial {r.number}", False, r.state)
                )
                continue
            state, worker, attempt = lease[:3]
            if worker != r.worker or attempt != r.attempt:
                receipts.append(Receipt(r.number, False, _fenced(r, state, worker, attempt), False, state))
            elif state == "RUNNING":
                self._finish(r.number, outcome, r.duration_s, r.started)
                accepted[r.number] = outcome
                leases[r.number] = (outcome.state, worker, attempt, outcome.reason)
                order.append((r.number, outcome))
                receipts.append(len(order) - 1)
            else:
                self._check_repeated(r, outcome, state, lease[3], accepted.get(r.number))
                receipts.append(Receipt(r.number, True, "already recorded", False, state))
        entered = self._measured(order)
        return [
            receipt
            if isinstance(receipt, Receipt)
            else Receipt(order[receipt][0], True, order[receipt][1].note, entered[receipt], order[receipt][1].state)
            for receipt in receipts
        ]

    def _check_repeated(
        self, r: Report, outcome: Outcome, state: State, reason: str | None, here: Outcome | None
    ) -> None:
        """A finished trial may be reported again by whoever finished it, with the same result only."""
        stored = here.measurements if here else dict(self.sql.all(s.FINALS_OF_TRIAL, (self._id, r.number)))
        if (outcome.state, outcome.reason, outcome.measurements) != (state, reason, stored):
            raise StoreError(
                f"trial {r.number} is {state} and cannot be reported again (worker {r.worker!r}); claim a new trial"
            )

    def _finish(self, number: int, outcome: Outcome, duration_s: float | None, started: float | None) -> None:
        place = self.head.count(outcome.state)
        self.sql.run(
            s.FINISH,
            (outcome.state, self._now, place, duration_s, outcome.violation, outcome.reason, started, self._id, number),
        )

    # -- measurements and the front ----------------------------------------------------------------------------------

    def _measured(self, finals: Sequence[tuple[int, Outcome]]) -> list[bool]:
        """Store final values, keep the front; which of the trials entered it (some may have left since)."""
        rows = [
            (self._metric_id(name), FINAL, number, value)
            for number, outcome in finals
            for name, value in outcome.measurements.items()
        ]
        self.sql.many(s.ADD_MEASUREMENT, rows)
        front = self._current_front() if any(outcome.state == "COMPLETED" for _, outcome in finals) else None
        if front is None:
            return [False] * len(finals)
        entered: list[bool] = []
        left: set[int] = set()
        came: set[int] = set()
        for number, outcome in finals:
            if outcome.state != "COMPLETED":
                entered.append(False)
                continue
            enters, evicted = front.add(number, self._point(outcome))
            entered.append(enters)
            left.update(evicted)
            if enters:
                came.add(number)
        self.sql.many(s.LEAVE_FRONT, [(self._id, number) for number in left - came])
        self.sql.many(s.ENTER_FRONT, [(self._id, number) for number in came - left])
        if came:
            self.head.front_version += 1
            self._ledger._front_version = self.head.front_version
        return entered

    def _point(self, outcome: Outcome) -> tuple[float, ...]:
        return tuple(outcome.measurements[metric.name] * metric.sign for metric in self._ledger._objectives)

    def _current_front(self) -> Front:
        ledger = self._ledger
        if ledger._front is None or ledger._front_version != self.head.front_version:
            ledger._front = self._load_front()
            ledger._front_version = self.head.front_version
        return ledger._front

    def _load_front(self) -> Front:
        objectives = self._ledger._objectives
        columns = [self.sql.all(s.FRONT_VALUES, (self._id, self._metric_id(metric.name))) for metric in objectives]
        front = Front(len(objectives))
        for values in zip(*columns, strict=True):
            point = tuple(value * metric.sign for (_, value), metric in zip(values, objectives, strict=True))
            front.add(values[0][0], point)
        return front

    def measure(self, number: int, name: str, value: float, step: int) -> None:
        fault = name_fault(name)
        if fault or value != value or step < 0:
            fault = fault or (
                f"step {step} is negative" if step < 0 else f"metric {name!r} is {value!r}, which is not a number"
            )
            raise StoreError(f"trial {number} cannot be measured: {fault}")
        leases = s.LEASES.all(self.sql, (self._id,), [number])
        if not leases or leases[0][1] != "RUNNING":
            is_what = f"is {leases[0][1]}" if leases else "does not exist"
            raise StoreError(
                f"trial {number} {is_what} and cannot be measured; only RUNNING trials have intermediate values"
            )
        metric = self._metric_id(name)
        if not self.sql.run(s.SET_MEASUREMENT, (float(value), metric, step, number)):
            self.sql.run(s.ADD_MEASUREMENT, (metric, step, number, float(value)))

    def _metric_id(self, name: str) -> int:
        ids = self._ledger._metric_ids
        if name not in ids:
            ids.update(self.sql.all(s.METRICS, (self._id,)))
        if name not in ids:
            self.sql.run(s.ADD_METRIC, (self._id, name, unit_of(name)))
            ids.update(self.sql.all(s.METRICS, (self._id,)))
        return ids[name]


def _fenced(report: Report, state: State, worker: str | None, attempt: int) -> str:
    if state == "RUNNING":
        return (
            f"trial {report.number} is leased to worker {worker!r} (attempt {attempt}), "
            f"no longer to {report.worker!r} (attempt {report.attempt})"
        )
    if state == "WAITING":
        return (
            f"trial {report.number} is WAITING: the lease of worker {report.worker!r} (attempt {report.attempt}) ended"
        )
    return (
        f"trial {report.number} is {state} and cannot be reported again (worker {report.worker!r}); claim a new trial"
    )
