"""One transaction on a study: its trials, leases, reports, measurements, and the front that is kept with them."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from nas.errors import ReportError, StoreError
from nas.measurements import usable
from nas.metrics import unit_of
from nas.pareto import Front
from nas.store import notes
from nas.store import statements as s
from nas.store.records import Added, ArchRow, ImportedTrial, NewTrial, Receipt, Report, State, StudyInfo
from nas.store.schema import FINAL
from nas.store.settle import Outcome, settle
from nas.store.sql import Answer, Row, Transaction

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


@dataclass(slots=True)
class Head:
    """The study's counters, as the transaction found them and leaves them."""

    next_number: int
    finished: int
    completed: int
    infeasible: int
    failed: int
    front_version: int

    def row(self) -> Row:
        """The counters in the order of their columns."""
        return (self.next_number, self.finished, self.completed, self.infeasible, self.failed, self.front_version)

    def number(self) -> int:
        """The next trial's."""
        self.next_number += 1
        return self.next_number - 1

    def finish(self, state: State) -> int:
        """One more trial ends in `state`; its place in the order of finishing."""
        self.finished += 1
        if state == "COMPLETED":
            self.completed += 1
        elif state == "INFEASIBLE":
            self.infeasible += 1
        else:
            self.failed += 1
        return self.finished


@dataclass(slots=True)
class Copies:
    """What this process remembers of the database; thrown away whenever a transaction fails."""

    metrics: dict[str, int] = field(default_factory=dict)
    front: Front | None = None
    front_version: int = -1


@dataclass(frozen=True, slots=True)
class _Lease:
    """Who holds, or held, a trial."""

    number: int
    state: State
    worker: str | None
    attempt: int
    reason: str | None


class Wave:
    """What a writer does to a study inside one transaction.

    Made when the study's lock was asked for and before it is there, so that what the writer needs to know is asked for together
    with the lock (`look`).  It is answered behind the lock: nobody else changes it any more.

    Attributes:
        head: counters, there once the lock is, to be written back by whoever owns the transaction.

    Args:
        study: which one.
        sql: the transaction.
        copies: of the metrics and the front.
        now: when the operation began.  Work that is done again after a lost connection has the same time: by it a trial shows
            that it is of the first try, which was committed after all.
    """

    head: Head

    def __init__(self, study: StudyInfo, sql: Transaction, copies: Copies, now: float) -> None:
        self.sql = sql
        self._study = study
        self._id = study.id
        self._copies = copies
        self._now = now
        self._leases: Answer | None = None
        self._trials: Answer | None = None
        self._ended: dict[int, State] = {}  # trials that ended in this wave

    def look(self, reports: Sequence[Report] = (), keys: Iterable[str] = ()) -> None:
        """Ask for what `report` of these reports and `add` of these keys, once each, will need."""
        self._leases = self._ask_leases(reports)
        self._trials = self._ask_trials(keys)

    def _ask_leases(self, reports: Sequence[Report]) -> Answer:
        return s.LEASES.soon(self.sql, (self._id,), (report.number for report in reports))

    def _ask_trials(self, keys: Iterable[str]) -> Answer:
        return s.TRIALS_BY_KEY.soon(self.sql, (self._id,), keys)

    # -- trials ------------------------------------------------------------------------------------------------------

    def add(
        self, trials: Sequence[NewTrial], worker: str | None, lease_s: float, most: int | None = None
    ) -> list[Added]:
        """See `StudyRecord.add`; `most`: see `StudyRecord.wave`."""
        answer, self._trials = self._trials or self._ask_trials(trial.key for trial in trials), None
        known = self._known(answer, worker)
        state: State = "WAITING" if worker is None else "RUNNING"
        until, started, attempt = (None, None, 0) if worker is None else (self._now + lease_s, self._now, 1)
        answers: list[Added] = []
        inserts: list[Row] = []
        for trial in trials:
            found = known.get(trial.key)
            if found is not None:
                answers.append(found)
                known[trial.key] = dataclasses.replace(found, existing=True)
                continue
            if most is not None and self.head.next_number >= most:
                break
            added = Added(self.head.number(), trial.key, False, state)
            what = (self._id, added.number, self._study.space_id, trial.key, self._arch(trial.row), state)
            inserts.append((*what, worker, attempt, until, trial.seed, self._now, started, 0))
            known[trial.key] = Added(added.number, trial.key, True, state)
            answers.append(added)
        self.sql.load(s.ADD_TRIALS, inserts)
        return answers

    def import_trials(self, trials: Sequence[ImportedTrial]) -> list[Added]:
        """See `StudyRecord.import_trials`."""
        known = self._known(self._ask_trials(trial.key for trial in trials), None)
        answers: list[Added] = []
        inserts: list[Row] = []
        ended: list[tuple[int, Outcome]] = []
        for trial in trials:
            found = known.get(trial.key)
            if found is not None:
                answers.append(found)
                continue
            outcome = settle(trial, self._study.objectives, self._study.constraints)
            added = Added(self.head.number(), trial.key, False, outcome.state)
            what = (self._id, added.number, self._study.space_id, trial.key, self._arch(trial.row), outcome.state)
            when = (self._now, self._now, self.head.finish(outcome.state), trial.duration_s)
            inserts.append((*what, trial.seed, *when, outcome.violation, outcome.reason, 0, 0))
            ended.append((added.number, outcome))
            known[trial.key] = Added(added.number, trial.key, True, outcome.state)
            answers.append(added)
        self.sql.load(s.ADD_FINISHED, inserts)
        self._record(ended)
        return answers

    def known(self, key: str, worker: str) -> Added | None:
        """Where the arch with this key is, if the study has it."""
        return self._known(self._ask_trials([key]), worker).get(key)

    def _known(self, trials: Answer, worker: str | None) -> dict[str, Added]:
        """What the study has of these archs; trials of an earlier try of this very operation count as new."""
        known: dict[str, Added] = {}
        state: State
        for key, number, state, created, owner in trials():
            ours = self.sql.again and (created, owner) == (self._now, worker)
            known[key] = Added(number, key, not ours, self._ended.get(number, state))
        return known

    def _arch(self, row: ArchRow) -> str:
        width = len(self._study.schema["decisions"])
        if len(row) != width:
            raise StoreError(
                f"an arch of {len(row)} numbers does not fit study {self._study.name!r}, whose space has {width} decisions; "
                "register a changed space with update_space"
            )
        return _encode(row)

    def use_space(self, space_id: int, was: int | None = None, key_of: Callable[[ArchRow], str] | None = None) -> None:
        """Make this the study's space, and that of the trials of space `was`, under the keys that `key_of` gives their rows."""
        self.sql.do(s.SET_STUDY_SPACE, (space_id, self._id))
        if self.sql.one(s.STUDY_SPACE, (self._id, space_id)) is None:
            self.sql.do(s.ADD_STUDY_SPACE, (self._id, space_id))
        if key_of is not None:
            rows = self.sql.all(s.ARCHS_OF_SPACE, (self._id, was))
            keyed = [(key_of(json.loads(text)), space_id, self._id, number) for number, text in rows]
            self.sql.many(s.SET_ARCH, keyed)
            self.sql.do(s.SET_FRONT_SPACE, (space_id, self._id, was))

    # -- leases ------------------------------------------------------------------------------------------------------

    def heartbeat(self, worker: str, lease_s: float) -> int:
        """See `StudyRecord.heartbeat`."""
        return self.sql.run(s.EXTEND, (self._now + lease_s, self._id, worker))

    def release(self, worker: str) -> int:
        """See `StudyRecord.release`."""
        return self.sql.run(s.RELEASE, (self._id, worker))

    def requeue(self, now: float, gone: set[str], max_attempts: int) -> int:
        """See `StudyRecord.requeue_expired`."""
        taken = 0
        for number, worker, lease_until, lost in self.sql.all(s.RUNNING, (self._id,)):
            if worker not in gone and lease_until >= now:
                continue
            taken += 1
            if lost + 1 < max_attempts:
                self.sql.do(s.REQUEUE, (lost + 1, self._id, number))
            else:
                lost_all = Outcome("FAILED", {}, None, f"lost {lost + 1} worker{'s' if lost else ''}")
                self.sql.do(s.FINISH.one, self._ending(number, lost_all))
        return taken

    def retry(self, numbers: Sequence[int], why: str) -> list[int]:
        """See `StudyRecord.retry`; nobody may work on the study."""
        rows = sorted(s.TRIED.all(self.sql, (self._id,), numbers))
        for number, state, *_ in rows:
            if state != "FAILED" and not self.sql.again:
                raise StoreError(f"trial {number} is {state}; only FAILED trials can be tried again")
        failed = [row for row in rows if row[1] == "FAILED"]
        if len(rows) < len(set(numbers)):
            raise StoreError(f"study {self._study.name!r} has not all of trials {', '.join(map(str, numbers))}")
        for number, _, _, worker, attempt, started, ended, duration_s, reason in failed:
            tried = {
                "attempt": attempt,
                "worker": worker,
                "started": started,
                "finished": ended,
                "duration_s": duration_s,
                "reason": reason,
                "measurements": dict(self.sql.all(s.FINALS_OF_TRIAL, (self._id, number))),
                "again": why,
            }
            before = notes.read(self.sql, self._id, number).get(notes.TRIES, [])
            notes.put(self.sql, self._id, number, notes.encoded({notes.TRIES: [*before, tried]}))
            self.sql.do(s.FORGET_FINALS, (self._id, number))
            self.sql.do(s.RETRY, (self._id, number))
        self._close_gaps(sorted(row[2] for row in failed))
        self.head.finished -= len(failed)
        self.head.failed -= len(failed)
        return [row[0] for row in failed]

    def _close_gaps(self, places: Sequence[int]) -> None:
        """Finished trials stay counted 1, 2, 3… in the order of finishing without those at these places."""
        for gone, (low, high) in enumerate(pairwise([*places, self.head.finished + 1]), start=1):
            self.sql.do(s.CLOSE_GAP, (gone, self._id, low, high))

    # -- reports -----------------------------------------------------------------------------------------------------

    def report(self, reports: Sequence[Report]) -> list[Receipt]:
        """See `StudyRecord.report`."""
        answer, self._leases = self._leases or self._ask_leases(reports), None
        leases = {row[0]: _Lease(*row) for row in answer()}
        outcomes: dict[int, Outcome] = {}  # of the trials that end here
        endings: list[Row] = []
        receipts: list[Receipt | None] = []  # None: to be written when the front knows
        for report in reports:
            outcome = settle(report, self._study.objectives, self._study.constraints)
            lease = leases.get(report.number)
            receipt = self._refuse(report, lease)
            if receipt is None and lease is not None and lease.state != "RUNNING":
                receipt = self._repeated(report, outcome, lease, outcomes.get(report.number))
            if receipt is None:
                endings.append(self._ending(report.number, outcome, report.duration_s, report.started))
                outcomes[report.number] = outcome
                leases[report.number] = _Lease(
                    report.number, outcome.state, report.worker, report.attempt, outcome.reason
                )
            receipts.append(receipt)
        self.sql.load(s.FINISH, endings)
        self._ended |= {number: outcome.state for number, outcome in outcomes.items()}
        entered = self._record(list(outcomes.items()))
        new = (
            Receipt(number, True, outcome.note, enters, outcome.state)
            for (number, outcome), enters in zip(outcomes.items(), entered, strict=True)
        )
        return [next(new) if receipt is None else receipt for receipt in receipts]

    def _refuse(self, report: Report, lease: _Lease | None) -> Receipt | None:
        """The receipt of a reporter that holds no lease."""
        if lease is None:
            why = f"study {self._study.name!r} has no trial {report.number}"
            return Receipt(report.number, False, why, False, report.state)
        if (lease.worker, lease.attempt) == (report.worker, report.attempt):
            return None
        return Receipt(report.number, False, _fenced(report, lease), False, lease.state)

    def _repeated(self, report: Report, outcome: Outcome, lease: _Lease, here: Outcome | None) -> Receipt:
        """A finished trial may be reported again by whoever finished it, with the same result only."""
        stored = here.measurements if here else dict(self.sql.all(s.FINALS_OF_TRIAL, (self._id, report.number)))
        if (outcome.state, outcome.reason, outcome.measurements) != (lease.state, lease.reason, stored):
            raise ReportError(_finished_already(report, lease))
        return Receipt(report.number, True, "already recorded", False, lease.state)

    def _ending(
        self, number: int, outcome: Outcome, duration_s: float | None = None, started: float | None = None
    ) -> Row:
        what = (
            outcome.state,
            self._now,
            self.head.finish(outcome.state),
            duration_s,
            outcome.violation,
            outcome.reason,
        )
        return (*what, started, self._id, number)

    # -- measurements and the front ----------------------------------------------------------------------------------

    def measure(self, number: int, name: str, value: float, step: int, held_by: tuple[str, int] | None = None) -> None:
        """See `StudyRecord.measure`."""
        values, fault = usable({name: value})
        if fault is None and step < 0:
            fault = f"step {step} is negative"
        lease = s.LEASES.all(self.sql, (self._id,), [number])
        if fault is None and (not lease or lease[0][1] != "RUNNING"):
            fault = f"it {'is ' + lease[0][1] if lease else 'does not exist'}, and only RUNNING trials have intermediate values"
        if fault is None and held_by is not None and lease[0][2:4] != held_by:
            fault = f"worker {held_by[0]!r} (attempt {held_by[1]}) holds no lease on it"
        if fault is not None:
            raise StoreError(f"trial {number} cannot be measured: {fault}")
        metric, found = self._metric(name), float(values[name])
        if not self.sql.run(s.SET_MEASUREMENT, (found, metric, step, number)):
            self.sql.do(s.ADD_MEASUREMENTS.one, (metric, step, number, found))
            self.sql.do(s.PROGRESSED, (self._id, number))  # what it came to know outlives its worker

    def _metric(self, name: str) -> int:
        """Identity of a metric; a name that was never measured becomes one."""
        known = self._copies.metrics
        if name not in known:
            known.update(self.sql.all(s.METRICS, (self._id,)))
        if name not in known:
            self.sql.do(s.ADD_METRIC, (self._id, name, unit_of(name)))
            known.update(self.sql.all(s.METRICS, (self._id,)))
        return known[name]

    def _record(self, ended: Sequence[tuple[int, Outcome]]) -> list[bool]:
        """Store final values and keep the front; which of the trials entered it (a later one may have driven it out)."""
        rows = [
            (self._metric(name), FINAL, number, value)
            for number, outcome in ended
            for name, value in outcome.measurements.items()
        ]
        self.sql.load(s.ADD_MEASUREMENTS, rows)
        entered = [False] * len(ended)
        came: dict[int, Outcome] = {}
        left: set[int] = set()
        for i, (number, outcome) in enumerate(ended):
            if outcome.state == "COMPLETED":
                point = self._point(outcome)
                if self._copies.front is not None and self._copies.front.covers(point):
                    continue  # fronts only grow better: what an older copy keeps out, the present front does as well
                entered[i], evicted = self._front().add(number, point)
                left.update(evicted)
                if entered[i]:
                    came[number] = outcome
        if came:
            self.sql.many(s.LEAVE_FRONT, [(self._id, number) for number in left - came.keys()])
            stay = [(_finals(outcome), self._id, number) for number, outcome in came.items() if number not in left]
            self.sql.many(s.ENTER_FRONT, stay)
            self.head.front_version += 1
            self._copies.front_version = self.head.front_version
        return entered

    def _point(self, outcome: Outcome) -> tuple[float, ...]:
        return tuple([outcome.measurements[metric.name] * metric.sign for metric in self._study.objectives])

    def _front(self) -> Front:
        """The front in memory, loaded again when another process changed the stored one."""
        copies = self._copies
        if copies.front is None or copies.front_version != self.head.front_version:
            copies.front = self._load_front()
            copies.front_version = self.head.front_version
        return copies.front

    def _load_front(self) -> Front:
        objectives = self._study.objectives
        front = Front(len(objectives))
        for number, finals in self.sql.all(s.FRONT_FINALS, (self._id,)):
            values = json.loads(finals)
            front.add(number, [values[metric.name] * metric.sign for metric in objectives])
        return front


def refuse_leased(sql: Transaction, study: int, name: str, dead: Callable[[str], bool] | None) -> None:
    """Whether nobody works on a study.

    Raises:
        StoreError: a worker that is not `dead` holds a lease on one of its trials.
    """
    for number, worker, _ in sql.all(s.LEASED, (study, time.time())):
        if dead is None or not dead(str(worker)):
            raise StoreError(
                f"study {name!r} is running: worker {worker!r} holds trial {number}; stop the run first, or wait until its "
                "lease has ended"
            )


def _finals(outcome: Outcome) -> str:
    """Measurements as text."""
    return _encode(outcome.measurements)


def _fenced(report: Report, lease: _Lease) -> str:
    mine = f"worker {report.worker!r} (attempt {report.attempt})"
    if lease.state == "RUNNING":
        return (
            f"trial {report.number} is leased to worker {lease.worker!r} (attempt {lease.attempt}), no longer to {mine}"
        )
    if lease.state == "WAITING":
        return f"trial {report.number} is WAITING: {mine} holds no lease on it"
    return _finished_already(report, lease)


def _finished_already(report: Report, lease: _Lease) -> str:
    return f"trial {report.number} is {lease.state} and cannot be reported again (worker {report.worker!r}); claim a new trial"
