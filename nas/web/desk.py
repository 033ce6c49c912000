"""Who takes part over HTTP: trials are asked for, kept alive, and told, with the leases and the judge of every other worker.

A study's proposals have one owner in this process, behind a lock.  What is told goes to the record at once, whoever asked.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import DatabaseError, NasError, ReportError, StoreError
from nas.search import MultiFidelity
from nas.space.plain import Values
from nas.store import Report
from nas.store.settle import settle
from nas.web import declared
from nas.web.problems import Problem

if TYPE_CHECKING:
    from nas.space import Arch
    from nas.store import Store, StudyRecord
    from nas.study import Study
    from nas.study.driver import Driver
    from nas.web.jobs import Jobs


@dataclass(frozen=True)
class Handout:
    """What an `ask` is answered: trials, and whether there will be more."""

    trials: list[dict[str, Any]]
    done: bool
    why: str


@dataclass(frozen=True)
class Told:
    """What a worker says of a trial: intermediate values (step, metric, value), and how it ended, if it has."""

    number: int
    attempt: int
    steps: Sequence[tuple[int, str, float]]
    end: Report | None


def owner(worker: str) -> str:
    """A worker's name in the record: never that of a process of ours."""
    return f"http:{worker}"


class Desk:
    """The proposals of one study.

    Args:
        study: declared in JSON, or by a job of the operator's.
        plain: archs are plain values, which are handed out whole.
    """

    def __init__(self, study: Study, *, plain: bool) -> None:
        self.study = study
        self._values = Values(study.space) if plain else None
        self._driver: Driver | None = None
        self._lock = threading.Lock()
        if isinstance(study.algorithm, MultiFidelity):
            raise Problem(
                409,
                f"study {study.name!r} decides how far its evaluations go, which no worker over HTTP can be told; run its job",
            )

    def ask(self, worker: str, count: int, holding: Collection[int], lease_s: float) -> Handout:
        """Up to `count` trials for a worker, leased to it for so long."""
        wanted = self.study.trials_wanted
        with self._lock:
            driver = self._ready()
            handed = driver.hand_out(owner(worker), count, holding, lease_s, wanted)
            finished, exhausted, elsewhere = driver.finished, driver.exhausted, driver.elsewhere
        trials = [self._described(one.number, one.attempt, one.arch, lease_s) for one in handed]
        full = finished + elsewhere >= wanted
        if trials or not (full or exhausted):
            return Handout(trials, False, "" if trials else "the algorithm waits for results; ask again in a while")
        if elsewhere:
            return Handout([], False, "all other trials are under way; one that is lost is handed out again")
        said = f"the study has its {wanted} trials" if full else "every arch that can be proposed has been evaluated"
        return Handout([], True, said)

    def _ready(self) -> Driver:
        """The driver, made anew where trials were taken back from it (`nas retry`)."""
        if self._driver is not None and self.study.record.position().finished < self._driver.finished:
            self._driver = None
        if self._driver is None:
            self._driver = self.study.driver()
        return self._driver

    def _described(self, number: int, attempt: int, arch: Arch, lease_s: float) -> dict[str, Any]:
        value = {} if self._values is None else {"value": self._values(arch)}
        return {
            "number": number,
            "attempt": attempt,
            "key": arch.key,
            "choices": arch.choices,
            "row": list(arch.row()),
            "lease_s": lease_s,
            **value,
        }


class Desks:
    """Desks of one database by study, made when they are first asked.

    Args:
        jobs: of the operator's folder; None where there is none.
    """

    def __init__(self, jobs: Jobs | None) -> None:
        self._jobs = jobs
        self._desks: dict[tuple[int, float], Desk] = {}
        self._making: dict[tuple[int, float], threading.Lock] = {}
        self._lock = threading.Lock()

    def of(self, record: StudyRecord, store: Store) -> Desk:
        """The desk of a study.

        Raises:
            Problem: this server does not know its space.
        """
        which = record.id, record.created
        with self._lock:
            making = self._making.setdefault(which, threading.Lock())
        with making:  # which takes seconds where a job is imported, and holds nobody else
            if which not in self._desks:
                self._desks[which] = self._made(record, store)
            return self._desks[which]

    def keep(self, study: Study) -> None:
        """The desk of a study that was just made."""
        record = study.record
        with self._lock:
            self._desks[record.id, record.created] = Desk(study, plain=True)

    def forget(self) -> None:
        """The database is another one."""
        with self._lock:
            self._desks.clear()

    def _made(self, record: StudyRecord, store: Store) -> Desk:
        study = declared.again(record, store)
        if study is not None:
            return Desk(study, plain=True)
        job = self._jobs.file_of(record) if self._jobs is not None else None
        if job is None:
            raise Problem(
                409,
                f"the space of study {record.name!r} is known to its job alone; give the job's folder to the server "
                "(nas serve --jobs FOLDER), or declare the study over HTTP",
            )
        return Desk(_of_job(job, record, store), plain=False)


def _of_job(job: Path, record: StudyRecord, store: Store) -> Study:
    from nas.study.job import load_job

    try:
        study = load_job(str(job))
        study.rename(record.name, store=store)
        _ = study.record  # whether it is the same study
    except NasError as error:
        raise Problem(409, f"job {job.name!r} does not give study {record.name!r}: {error}") from None
    return study


def tell(record: StudyRecord, worker: str, told: Sequence[Told]) -> list[dict[str, Any]]:
    """Record what a worker reports; for each in order what is true of the trial then, or `status` 409 and why it was refused.

    Telling the same again is answered the same.
    """
    steps = [_step(record, worker, one) for one in told]
    ends = iter(_ended(record, [one.end for one in told if one.end is not None]))
    return [
        next(ends) if one.end is not None else refused or _accepted(one.number, "RUNNING")
        for one, refused in zip(told, steps, strict=True)
    ]


def _step(record: StudyRecord, worker: str, one: Told) -> dict[str, Any] | None:
    """Record intermediate values; what is wrong with the first that is refused.

    Those of a trial that has ended count with its end, which may be told again.
    """
    try:
        for step, name, value in one.steps:
            record.measure(one.number, name, value, step, (owner(worker), one.attempt))
    except DatabaseError:
        raise  # not refused: the worker holds its lease, and tells it again
    except StoreError as error:
        return _refused(one.number, str(error))
    return None


def _ended(record: StudyRecord, reports: Sequence[Report]) -> list[dict[str, Any]]:
    """Report in one transaction; one by one where one of them contradicts what is stored."""
    if not reports:
        return []
    try:
        receipts = record.report(reports)
    except ReportError as error:
        if len(reports) == 1:
            return [_refused(reports[0].number, str(error))]
        return [answer for report in reports for answer in _ended(record, [report])]
    return [
        _accepted(receipt.number, receipt.state, settle(report, record.objectives, record.constraints).reason)
        if receipt.accepted
        else _refused(receipt.number, receipt.why)
        for receipt, report in zip(receipts, reports, strict=True)
    ]


def _accepted(number: int, state: str, reason: str | None = None) -> dict[str, Any]:
    return {"number": number, "status": 200, "state": state, "reason": reason or ""}


def _refused(number: int, why: str) -> dict[str, Any]:
    return {"number": number, "status": 409, "detail": why}
