"""The loop of a search: propose, record, evaluate, record, tell.

The driver is the one process that owns proposals.  A wave of results and the proposals that follow it are one transaction,
written before the new tasks are handed out: whatever is killed, the record knows every finished trial and every started one.
The algorithm is rebuilt from that record, so that a resumed search is the same code as a new one.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nas import signals
from nas.errors import EvaluationError, SpaceError, StudyError, text_of
from nas.metrics import Constraint, Metric
from nas.placement import Needs
from nas.runners import InlineRunner, LocalRunner, Outcome, Runner, StagedRunner, Task
from nas.search import Algorithm, Exhausted, Finished, History, LazyArchs
from nas.store import Added, NewTrial, Receipt, Report, State, StudyRecord, TrialRecord
from nas.store import History as Stored
from nas.store.filters import in_state
from nas.store.records import ImportedTrial
from nas.store.settle import Outcome as Settled
from nas.store.settle import settle
from nas.study.constant import ENOUGH, constant
from nas.study.curves import Curves
from nas.study.measured import Measured
from nas.study.owner import is_gone, owner_id
from nas.study.progress import Reporter

if TYPE_CHECKING:
    from nas.space import Arch, Space
    from nas.store.looking import Position

LEASE_S = 60.0
# Drivers that may vanish with a trial, unless it came further with each: whoever kills a driver kills whatever is under way with
# it.  From the first number on a trial runs alone, when no other is left to run; with the second it has failed.
SUSPECT, LOSSES = 3, 6
_WAIT_S = 1.0
# How often a run looks for other drivers of its study, and how often when it only waits for them.
_LOOK_S = 1.0
_WAITING_LOOK_S = 0.2
# Waves in a row of which proposals were known to the store (another driver's), before the space counts as exhausted.
_KNOWN_WAVES = 1000


@dataclass(frozen=True, slots=True)
class Handed:
    """A trial that a worker elsewhere evaluates; `attempt` goes back with what it measured."""

    number: int
    attempt: int
    arch: Arch


@dataclass(frozen=True)
class Options:
    """How a run is run; see `Study.run`."""

    trials: int
    workers: int
    ray: bool
    batch: int | None
    time_limit_s: float | None
    max_failures: int
    address: str | None = None


@dataclass(frozen=True)
class Summary:
    """Where a study stands when a run ends.

    Args:
        name: of the study.
        counts: trials by state.
        front: trials on the Pareto front.
        best: objective name to its best feasible value.
        evaluated: trials that this run finished.
        seconds: that this run took from when its workers were ready until the last trial was recorded.
        message: why it ended.
        note: what is suspicious about the results; "" if nothing is.
    """

    name: str
    counts: dict[State, int]
    front: int
    best: dict[str, float]
    evaluated: int
    seconds: float
    message: str
    note: str = ""

    def __str__(self) -> str:
        note = f"; note: {self.note}" if self.note else ""
        states = ", ".join(f"{count} {state}" for state, count in self.counts.items() if count)
        best = "".join(f", best {name} {value:.4g}" for name, value in self.best.items())
        return f"study {self.name!r}: {self.message}; {states or 'no trials'}; {self.front} on the front{best}{note}"


class Driver:
    """Owns the proposals of one study in this process.

    Args:
        record: the study in the store.
        space: the space that the job declares.
        algorithm: new; it is rebuilt from the record here.
        objectives: as the study declares them.
        constraints: likewise.
        measured: what the algorithm asks of trials that finished, if it does.
    """

    def __init__(  # noqa: PLR0917 (made in one place)
        self,
        record: StudyRecord,
        space: Space,
        algorithm: Algorithm,
        objectives: Sequence[Metric],
        constraints: Sequence[Constraint],
        measured: Measured | None = None,
    ) -> None:
        self._record, self._space, self._algorithm = record, space, algorithm
        self._objectives, self._constraints = objectives, constraints
        self._measured = measured or Measured(record, space)
        self._owner = owner_id()
        self._attempts: dict[
            int, int
        ] = {}  # trials that this process holds: number to the attempt that fences its report
        self._archs: dict[int, Arch] = {}
        self._failures: list[str] = []
        self.failing: list[int] = []  # the trials that failed last, one after the other
        self._exhausted = False
        self._most: int | None = None  # trials that the study may have
        self._started, self._evaluated = time.monotonic(), 0
        self._next_heartbeat = time.monotonic() + LEASE_S / 3
        self._next_look = 0.0
        self._mine: set[int] = set()  # trials that this process has finished since it last looked for others'
        self._elsewhere = 0  # trials that others hold, or nobody
        self._added = -1  # trials that the study had when the algorithm knew all of them, where they are handed out
        self._one_space = True
        self._strange: set[int] = set()  # pending trials held back here: the space has no such arch any more
        algorithm.bind(space, objectives, constraints)
        record.requeue_expired(dead=is_gone, max_attempts=LOSSES)
        self._looked = 0  # up to where, in the order of finishing, the record is known here
        self.finished = self._rebuild()

    # -- by hand --------------------------------------------------------------------------------------------------------

    def ask(self, count: int) -> list[tuple[int, Arch]]:
        """Up to `count` trials to evaluate, started in the record."""
        tasks = self._claim(count, suspect=True)
        tasks += self._wave([], count - len(tasks))
        return [(task.number, self._archs[task.number]) for task in tasks]

    def tell(self, number: int, measurements: Mapping[str, float] | None, reason: str) -> None:
        """Record the outcome of an asked trial.

        Raises:
            StudyError: it was not asked here, or is told already.
            EvaluationError: what came is no measurements, or too few; the trial is still to be told.
        """
        if number not in self._attempts:
            raise StudyError(f"trial {number} was not asked here, or is told already; ask() gives the trials to tell")
        if measurements is None:
            self.finish(Outcome(number, "FAILED", reason=text_of(reason or "reported as failed"), started=time.time()))
            return
        settled = settle(ImportedTrial("", (), measurements), self._objectives, self._constraints)
        if settled.state == "FAILED":
            raise EvaluationError(f"trial {number} cannot be told: {settled.reason}")
        self.finish(Outcome(number, "COMPLETED", settled.measurements, started=time.time()))

    def finish(self, outcome: Outcome) -> None:
        """Record the outcome of an asked trial, whatever it is."""
        self.report([outcome])

    def report(self, outcomes: Sequence[Outcome]) -> None:
        """Record outcomes of trials that this process holds."""
        self._wave(outcomes, 0)

    def tasks(self, count: int) -> list[Task]:
        """Up to `count` tasks, started in the record: trials that wait there, then proposals."""
        waiting = self._claim(count)
        return waiting + self._wave([], count - len(waiting))

    def hand_out(
        self, worker: str, count: int, holding: Collection[int], lease_s: float, most: int | None
    ) -> list[Handed]:
        """Up to `count` trials for a worker that is no process of ours: it keeps its leases and reports to the record itself.

        Those come first that the record leases to it and that it does not know of, since an answer was lost; then those that
        wait, then proposals.

        Args:
            worker: to which they are leased.
            count: at most so many.
            holding: numbers of the trials that it evaluates already.
            lease_s: seconds of the lease.
            most: trials that the study may have; None when there is no limit.
        """
        standing = self._record.standing(worker)
        if standing.lease_ends is not None and standing.lease_ends < time.time():
            self._record.requeue_expired(dead=is_gone, max_attempts=LOSSES)
            standing = self._record.standing(worker)
        self._catch_up(standing.position)
        handed = self._lost(standing.held.difference(holding), count)
        if standing.position.counts["WAITING"] and len(handed) < count and self._one_space:
            claims = self._record.claim(worker, count - len(handed), lease_s)
            handed += [Handed(one.number, one.attempt, self._space.from_row(one.row)) for one in claims]
        full = most is not None and standing.position.added >= most
        for _ in range(0 if full else _KNOWN_WAVES):
            archs = self._propose(count - len(handed))
            if not archs:
                break
            trials = [NewTrial(arch.key, arch.row()) for arch in archs]
            _, added = self._record.wave([], trials, worker, lease_s, most=most)
            new = [Handed(one.number, 1, arch) for arch, one in zip(archs, added, strict=False) if not one.existing]
            self._added += len(new)
            handed += new
            if len(added) < len(archs):
                break
        return handed

    def _catch_up(self, position: Position) -> None:
        """Take in what finished since the last look, and what others than this driver began."""
        if position.finished != self.finished:
            self._take_in(self._record.history(after=self._looked, pending=False))
            self._looked = self.finished
        if position.added != self._added:
            stored = self._record.history(after=self._looked)
            pending = (self._arch(one.row, stored.schemas[one.space_id]) for one in stored.pending)
            self._algorithm.reserve(arch for arch in pending if arch is not None)
            self._added = position.added
            # Of a study whose space changed some trials that wait may be of no arch that there is: a run sorts them out.
            self._one_space = len(stored.schemas) == 1
        self._elsewhere = position.counts["WAITING"] + position.counts["RUNNING"]

    def _lost(self, numbers: Collection[int], count: int) -> list[Handed]:
        """Trials that are leased to a worker that does not know of them."""
        if not numbers:
            return []
        stored = self._record.history(after=self._looked)
        found = [one for one in stored.pending if one.number in numbers][:count]
        archs = [self._arch(one.row, stored.schemas[one.space_id]) for one in found]
        return [
            Handed(one.number, one.attempt, arch) for one, arch in zip(found, archs, strict=True) if arch is not None
        ]

    @property
    def algorithm(self) -> Algorithm:
        """What proposes; it knows all trials."""
        return self._algorithm

    @property
    def name(self) -> str:
        """Of the study."""
        return self._record.name

    @property
    def elsewhere(self) -> int:
        """Trials under way that other drivers hold, or nobody."""
        return self._elsewhere

    @property
    def in_flight(self) -> Mapping[int, Arch]:
        """Trials that this process holds, by number."""
        return self._archs

    @property
    def exhausted(self) -> bool:
        """Nothing is left to propose."""
        return self._exhausted

    def heartbeat(self) -> None:
        """Keep what was asked: to be called now and then, the lease is a minute."""
        self._keep_leases()

    def release(self) -> None:
        """Give back what was asked and not told; another run takes it up."""
        self._release()
        self._attempts.clear()
        self._archs.clear()

    def _release(self) -> None:
        self._record.release(self._owner)
        self._strange.clear()

    # -- the loop -------------------------------------------------------------------------------------------------------

    def run(
        self, evaluation: Any, options: Options, progress: Reporter, loop: Callable[..., str] | None = None
    ) -> Summary:
        """Evaluate until `options.trials` are finished, the space is exhausted, or too many fail in a row.

        Args:
            evaluation: of the study.
            options: of the run.
            progress: is told how far it is.
            loop: another one than the usual, with its arguments (`nas.study.levels.Loop`).
        """
        self._started, self._evaluated, self._failures = time.monotonic(), 0, []
        self._most = options.trials
        progress.begin(self._record.name, self.finished, options.trials)
        try:
            with self._runner(evaluation, options) as runner:
                self._started = time.monotonic()
                message = (loop or self._loop)(runner, options, progress, Curves(self._record, evaluation))
                # Ending the workers is no part of it, as starting them is none.
                seconds = time.monotonic() - self._started
        finally:
            self.release()
            progress.end()
        return self.summary(message, seconds)

    def summary(self, message: str, seconds: float | None = None) -> Summary:
        """Where the study stands after `seconds`, or so many as have passed since the driver was made."""
        if seconds is None:
            seconds = time.monotonic() - self._started
        front = self._record.front()
        best = {}
        for metric in self._objectives:
            if len(front):
                best[metric.name] = float((front[metric.name] * metric.sign).min() * metric.sign)
        counts = self._record.counts()
        if counts.get("INFEASIBLE") and not counts.get("COMPLETED"):
            message += "; " + self._nothing_feasible(counts["INFEASIBLE"])
        note = constant(self._record, self._objectives) if counts.get("COMPLETED", 0) >= ENOUGH else ""
        return Summary(self._record.name, counts, len(front), best, self._evaluated, seconds, message, note)

    def _runner(self, evaluation: Any, options: Options) -> Runner:
        if options.ray:
            return self._on_ray(evaluation, options)
        if options.workers == 0:
            if options.time_limit_s is not None or options.batch is not None:
                raise StudyError(
                    "workers=0 evaluates in this process, which knows no batch and no time_limit_s; use workers"
                )
            return InlineRunner(self._space, evaluation)
        return LocalRunner(
            self._space, evaluation, options.workers, batch=options.batch, time_limit_s=options.time_limit_s
        )

    def _on_ray(self, evaluation: Any, options: Options) -> Runner:
        """Actors that evaluate everything, or pools one behind the other where evaluators need different places."""
        from nas.runners import RayRunner

        parts = [(needs or Needs(), part) for needs, part in evaluation.stages()]
        altogether: Counter[str] = Counter()
        for needs, _ in parts:
            workers = needs.workers or options.workers
            altogether.update({name: workers * amount for name, amount in needs.reserved.items()})
        pools = [
            RayRunner(
                self._space,
                part,
                needs.workers or options.workers,
                batch=options.batch,
                time_limit_s=options.time_limit_s,
                address=options.address,
                needs=needs,
                altogether=altogether,
            )
            for needs, part in parts
        ]
        return pools[0] if len(pools) == 1 else StagedRunner(pools)

    def _loop(self, runner: Runner, options: Options, progress: Reporter, curves: Curves) -> str:
        runner.submit(self._claim(options.trials - self.finished))
        outcomes: list[Outcome] = []
        while True:
            signals.check()
            self.look()
            in_flight = len(self._attempts) - len(outcomes)
            left = options.trials - self.finished - self._elsewhere
            wanted = min(runner.capacity - in_flight, left - in_flight - len(outcomes))
            if options.trials <= self.finished + len(outcomes) or (self._exhausted and not in_flight):
                wanted = 0
            runner.submit(self._wave(outcomes, wanted))
            if outcomes:
                progress.update(self.finished, self.state)
            self.check_failures(options.max_failures)
            if self.finished >= options.trials:
                return f"{self.finished} trials"
            if not self._attempts and self._elsewhere:
                outcomes = []
                runner.submit(self.take_over(runner.capacity))
                progress.update(self.finished, self.state)
                continue
            if not self._attempts:
                if self._exhausted:
                    return "every arch of the space that can be proposed has been evaluated"
                raise StudyError(f"algorithm {self._algorithm.name!r} proposes nothing and nothing is in flight")
            outcomes = runner.wait(_WAIT_S)
            curves.keep({outcome.number: self._archs[outcome.number] for outcome in outcomes})
            for number in curves.look(self._archs):
                runner.progressed(number)
            self._keep_leases()

    # -- one wave -------------------------------------------------------------------------------------------------------

    def _wave(self, outcomes: Sequence[Outcome], wanted: int) -> list[Task]:
        """Tell and record `outcomes`, propose and record up to `wanted` archs; the tasks to hand out."""
        told = [self._report(outcome) for outcome in outcomes]
        if told:
            self._measured.unrecorded = {trial.arch.key: found for _, trial, found in told}
            self._algorithm.tell([trial for _, trial, _ in told])
        reports = [report for report, _, _ in told]
        tasks: list[Task] = []
        for _ in range(_KNOWN_WAVES):
            archs = self._propose(wanted - len(tasks))
            if not (reports or archs):
                return tasks
            trials = [NewTrial(arch.key, arch.row()) for arch in archs]
            most = None if self._most is None else self._most + len(self._strange)
            receipts, added = self._record.wave(reports, trials, self._owner, LEASE_S, most=most)
            if reports:
                self._count(outcomes, receipts)
                reports, self._measured.unrecorded = [], {}
            tasks += self._take(archs, added)
            if len(added) < len(archs):
                self._elsewhere += 1  # others have entered the last ones; the next look, which is now, counts them
                self._next_look = 0.0
                return tasks
            if not any(trial.existing for trial in added):
                return tasks
        self._exhausted = True
        return tasks

    def _propose(self, wanted: int) -> list[Arch]:
        if wanted <= 0 or self._exhausted:
            return []
        try:
            return self._algorithm.ask(wanted)
        except Exhausted:
            self._exhausted = True
            return []

    def _take(self, archs: Sequence[Arch], added: Sequence[Added]) -> list[Task]:
        """Tasks of the trials that are new; one that the store knows already is answered by it."""
        tasks, answered = [], []
        for arch, trial in zip(archs, added, strict=False):  # no answer: the study has as many trials as it may
            if not trial.existing:
                self._hold(trial.number, 1, arch)
                tasks.append(Task(trial.number, tuple(arch.row())))
            elif trial.state in ("COMPLETED", "INFEASIBLE", "FAILED"):
                answered.append(finished(trial.number, arch, self._record.trial(trial.number), self._objectives))
        if answered:
            self._algorithm.tell(answered)
        return tasks

    def _claim(self, count: int, *, suspect: bool = False) -> list[Task]:
        """Trials that wait in the record, what a run that was killed had started: none that may have killed it but when told."""
        below = None if suspect else SUSPECT
        tasks: list[Task] = []
        while len(tasks) < count:
            claims = self._record.claim(self._owner, count - len(tasks), LEASE_S, below)
            for claim in claims:
                arch = self._arch(claim.row, self._record.schema_of(claim.space_id))
                if arch is None:
                    self._strange.add(claim.number)
                    continue
                self._hold(claim.number, claim.attempt, arch)
                tasks.append(Task(claim.number, tuple(arch.row())))
            if not claims:
                break
        return tasks

    def _arch(self, row: Sequence[Any], schema: Mapping[str, Any]) -> Arch | None:
        """The arch of a stored row; None where the space, as the job declares it now, has no such arch."""
        try:
            return self._space.from_row(row, schema)
        except SpaceError:
            return None

    def _hold(self, number: int, attempt: int, arch: Arch) -> None:
        self._attempts[number], self._archs[number] = attempt, arch

    # -- from outcomes to the record ------------------------------------------------------------------------------------

    def _report(self, outcome: Outcome) -> tuple[Report, Finished, Mapping[str, float]]:
        """What the record is told, what the algorithm is, and what it measured: the same judgement, `nas.store.settle`'s."""
        report = Report(
            number=outcome.number,
            worker=self._owner,
            attempt=self._attempts[outcome.number],
            state=outcome.state,
            measurements=outcome.measurements,
            reason=outcome.reason or None,
            duration_s=outcome.duration_s,
            started=outcome.started,
        )
        settled = settle(report, self._objectives, self._constraints)
        trial = finished(outcome.number, self._archs[outcome.number], settled, self._objectives)
        return report, trial, settled.measurements

    def _count(self, outcomes: Sequence[Outcome], receipts: Sequence[Receipt]) -> None:
        for outcome, receipt in zip(outcomes, receipts, strict=True):
            del self._attempts[outcome.number], self._archs[outcome.number]
            if not receipt.accepted:
                continue  # another driver took it over when our lease had ended, and reports it
            self.finished += 1
            self._evaluated += 1
            self._mine.add(outcome.number)
            failed = receipt.state == "FAILED"
            self._failures = [*self._failures, receipt.why or outcome.reason] if failed else []
            self.failing = [*self.failing, outcome.number] if failed else []

    # -- the record as history ------------------------------------------------------------------------------------------

    def _rebuild(self) -> int:
        """Tell the algorithm everything that is stored; how many trials have finished."""
        stored = self._record.history()
        pending = [self._arch(trial.row, stored.schemas[trial.space_id]) for trial in stored.pending]
        self._algorithm.restore(self._history(stored, [arch for arch in pending if arch is not None]))
        self._looked = stored.last
        return len(stored)

    def _history(self, stored: Stored, pending: Sequence[Arch]) -> History:
        """The finished trials of archs that the space has, as an algorithm is told of them."""
        archs, keys = self._archs_of(stored)
        violations = np.where(np.isnan(stored.violations), math.inf, stored.violations)
        values = stored.values * [metric.sign for metric in self._objectives]
        values[[state == "FAILED" for state in stored.states]] = np.nan
        states: Any = stored.states  # all of finished trials
        if isinstance(archs, LazyArchs):
            return History(keys, archs, stored.numbers, values, violations, states, pending)
        at = [i for i, arch in enumerate(archs) if arch is not None]
        kept: Any = [archs[i] for i in at]
        return History(
            [keys[i] for i in at],
            kept,
            stored.numbers[at],
            values[at],
            violations[at],
            [states[i] for i in at],
            pending,
        )

    def look(self) -> None:
        """Take in what other drivers of this study have finished and begun since the last look."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_S
        counts = self._record.counts()
        pending = counts["WAITING"] + counts["RUNNING"]
        if sum(counts.values()) - pending == self.finished and pending == len(self._attempts) + len(self._strange):
            self._elsewhere = 0
        else:
            self._take_in(self._record.history(after=self._looked))
        self._looked = self.finished
        self._mine.clear()

    def _take_in(self, stored: Stored) -> None:
        history = self._history(stored, [])
        theirs = [history.trial(row) for row, number in enumerate(history.numbers) if number not in self._mine]
        if theirs:
            self._algorithm.tell(theirs)
        held = self._attempts.keys() | self._strange
        elsewhere = [trial for trial in stored.pending if trial.number not in held]
        reserved = (self._arch(one.row, stored.schemas[one.space_id]) for one in elsewhere)
        self._algorithm.reserve(arch for arch in reserved if arch is not None)
        self._elsewhere = len(elsewhere)
        self.finished = stored.last

    def take_over(self, capacity: int) -> list[Task]:
        """While others evaluate the last trials: those of a driver that has died, if there are any."""
        time.sleep(_WAITING_LOOK_S)
        # A claim may be committed after its connection was given up, and nobody knows of it but our heartbeats.
        self._release()
        self._record.requeue_expired(dead=is_gone, max_attempts=LOSSES)
        tasks = self._claim(capacity) or self._claim(1, suspect=True)  # which now is alone
        self._next_look = 0.0
        return tasks

    def _archs_of(self, stored: Stored) -> tuple[Sequence[Arch | None], Sequence[str]]:
        """Archs and keys in the space as it is now, whatever space the trials were stored with; None where it has none."""
        fingerprints = {space_id: schema["fingerprint"] for space_id, schema in stored.schemas.items()}
        if all(fingerprint == self._space.fingerprint for fingerprint in fingerprints.values()):
            return LazyArchs(self._space, stored.rows), stored.keys
        archs = [
            self._arch(row, stored.schemas[space_id])
            for row, space_id in zip(stored.rows, stored.space_ids.tolist(), strict=True)
        ]
        return archs, ["" if arch is None else arch.key for arch in archs]

    def _keep_leases(self) -> None:
        if time.monotonic() >= self._next_heartbeat:
            self._record.heartbeat(self._owner, LEASE_S)
            self._next_heartbeat = time.monotonic() + LEASE_S / 3

    # -- sentences ------------------------------------------------------------------------------------------------------

    def check_failures(self, most: int) -> None:
        """Raises StudyError if so many evaluations in a row failed."""
        if len(self._failures) >= most:
            raise StudyError(self._too_many_failures())

    def state(self) -> str:
        """How many trials are on the front, and the best of each objective."""
        front = self._record.front()
        best = "".join(
            f", best {metric.name} {float((front[metric.name] * metric.sign).min() * metric.sign):.4g}"
            for metric in self._objectives
            if len(front)
        )
        return f"{len(front)} on the front{best}"

    @property
    def reason(self) -> str:
        """The most frequent reason of the trials that failed last, one after the other."""
        return max(self._failures, key=self._failures.count, default="")

    def _too_many_failures(self) -> str:
        reasons = sorted(set(self._failures), key=self._failures.count, reverse=True)
        return (
            f"{len(self._failures)} evaluations in a row failed, so study {self._record.name!r} stops; "
            f"{self._failures.count(reasons[0])} of them: {reasons[0]}; mend the evaluation and give the same command again, "
            f"which tries these again, or see all with: nas show {self._record.name} --state FAILED"
        )

    def _nothing_feasible(self, infeasible: int) -> str:
        constraints = " and ".join(map(str, self._constraints)) or "the evaluators' own conditions"
        closest = self._record.trials(where=in_state("INFEASIBLE"), columns=["violation", "reason"])
        closest = closest.sort_values("violation").head(1)
        nearest = "".join(f"; closest was trial {number}: {row['reason']}" for number, row in closest.iterrows())
        return f"none of {infeasible} archs met {constraints}{nearest}; relax the constraint or widen the space"


def finished(number: int, arch: Arch, trial: Settled | TrialRecord, objectives: Sequence[Metric]) -> Finished:
    """A trial as an algorithm sees it; an infeasible one that does not say how far is worse than any that does.

    The same as when it is restored from the record: with values wherever all were measured and it has not failed.
    """
    state: Any = trial.state  # of a finished trial
    measured = state != "FAILED" and all(metric.name in trial.measurements for metric in objectives)
    values = tuple(trial.measurements[metric.name] * metric.sign for metric in objectives) if measured else None
    return Finished(number, arch, values, math.inf if trial.violation is None else trial.violation, state)
