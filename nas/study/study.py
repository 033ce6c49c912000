"""A study: a space, what counts, how archs are proposed and evaluated, and the record of all of it."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas import signals
from nas.checking import Count, Natural, NonNegative, Positive, checked
from nas.errors import EvaluationError, MetricError, SpaceError, StoreError, StudyError, StudyExists, suggest
from nas.evaluate import Evaluation
from nas.evaluate.base import Evaluator, EvaluatorLike, adapted, settings_of
from nas.evaluate.gated import with_conditions
from nas.hardware.idle import wait_for_quiet
from nas.identity import same, setting_changes
from nas.metrics import Constraint, Metric, parse_constraint, parse_objective, parse_objectives
from nas.runners import Outcome, Task
from nas.runners.work import Work
from nas.search import Algorithm, MultiFidelity, Surrogate, make
from nas.search.insight import Insight
from nas.store import Store, StudyRecord, further, open_store
from nas.store.damage import sentence
from nas.store.database import locate, shown
from nas.store.settle import missing, study_name_fault
from nas.study import anew, levels, retrying
from nas.study.binding import bound
from nas.study.driver import Driver, Options, Summary
from nas.study.measured import Measured
from nas.study.owner import is_gone
from nas.study.progress import reporter
from nas.study.resuming import NOTE, check, identity_of
from nas.study.spaces import follow
from nas.study.transferring import ready, sources_for
from nas.text import facts

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from nas.space import Arch, Space
    from nas.train import Training

_MOST_CHANGES = 5
_REHEARSED = 8  # archs that a dry run tries until one is feasible


@dataclass(frozen=True)
class Asked:
    """A trial to evaluate by hand: give its number to `Study.tell`."""

    number: int
    arch: Arch


class Study:
    """Searches `space` for the archs that are best in `objectives`, and remembers every evaluation.

    Making a study touches no file and starts nothing: a job file may build one at its top level.  The database is opened, and
    the study created or resumed by its name, when it is first needed.

    Args:
        name: of the study in the database; the same name goes on where it stopped.
        space: what to search.
        objectives: `"max accuracy"`, `"min latency_ms"`, or `Metric`s; at least one.
        evaluators: callables from an arch to measurements; together they must yield every objective and constraint.  May be
            empty for a study that is only asked and told.
        constraints: `"params <= 50_000"`; an arch that violates one is INFEASIBLE, and is not evaluated further.  Conditions of
            `Gated` evaluators are added to them.
        algorithm: how archs are proposed; a name as the command line takes, or an `Algorithm`.  `Surrogate` unless told.
        training: trains the supernet that the evaluators read (`nas train JOB`).
        store: database URL or path.
        trials: how many finished trials `run` goes on to.
        max_failures: this many failures in a row stop a run.

    Raises:
        StudyError: an argument is not usable.
        MetricError: an objective or a constraint is ill-formed, or no evaluator yields it.
    """

    @checked(StudyError)
    def __init__(
        self,
        name: str,
        *,
        space: Space,
        objectives: Sequence[str | Metric],
        evaluators: Sequence[EvaluatorLike] = (),
        constraints: Sequence[str | Constraint] = (),
        algorithm: str | Algorithm | None = None,
        training: Training | None = None,
        store: str | Path | Store = "nas.db",
        trials: Count = 100,
        max_failures: Count = 20,
    ) -> None:
        self.name = _checked_name(name)
        self.space = space
        self.objectives = tuple(parse_objective(objective) for objective in objectives)
        self.training = training
        self.evaluators: tuple[Evaluator, ...] = bound([adapted(one) for one in evaluators], training, name)
        self.constraints = with_conditions([parse_constraint(one) for one in constraints], self.evaluators)
        self.trials_wanted = trials
        self.max_failures = max_failures
        self.algorithm = make(algorithm) if isinstance(algorithm, str) else algorithm or Surrogate()
        self.job: str | None = None
        self.declared: dict[str, Any] | None = None  # where it was declared in JSON: what it was (`nas.web.declared`)
        self._where = store
        self._store: Store | None = None
        self._opened: StudyRecord | None = None
        self._driver: Driver | None = None
        self._low: Study | None = None
        self._notes: list[str] = []  # on how the study is resumed, until they are said
        self._check_metrics()
        self._identity = identity_of(
            self.evaluators, self.algorithm, self.space
        )  # before an evaluation changes what they keep

    def __repr__(self) -> str:
        return (
            f"Study({self.name!r}, {', '.join(map(str, self.objectives))}, space {self.space.name!r}, "
            f"algorithm {self.algorithm.name!r}, store {self.where})"
        )

    def _repr_html_(self) -> str:
        """What it is, and what the database has of it, without creating either."""
        told: dict[str, object] = {
            "objectives": ", ".join(map(str, self.objectives)),
            "constraints": ", ".join(map(str, self.constraints)) or "none",
            "space": repr(self.space),
            "algorithm": self.algorithm.name,
            "store": self.where,
        }
        try:
            there = self._store is not None or isinstance(self._where, Store) or locate(self._where).exists()
            if there and self.name in self.store.names():
                record = self.store.open_study(self.name)
                told["trials"] = (
                    ", ".join(f"{count} {state}" for state, count in record.counts().items() if count) or "none"
                )
                told["front"] = f"{len(record.front())} trials; study.front() lists them"
            else:
                told["trials"] = "none yet: study.run() or nas run"
        except StoreError as error:
            told["trials"] = str(error)
        return facts(f"Study {self.name}", told)

    # -- what the study holds ------------------------------------------------------------------------------------------

    @property
    def where(self) -> str:
        """The database's path, or its URL without the password."""
        return repr(self._where) if isinstance(self._where, Store) else shown(self._where)

    @property
    def place(self) -> str:
        """The same for every spelling of the database's path or URL; without the password."""
        return self._where.place if isinstance(self._where, Store) else locate(self._where).place

    @property
    def store(self) -> Store:
        """The database, opened; created when it is not there."""
        if self._store is None:
            self._store = self._where if isinstance(self._where, Store) else open_store(self._where)
        return self._store

    def close(self) -> None:
        """Close the database, unless it was given open; what asks for it later opens it again."""
        if self._store is not None and self._store is not self._where:
            self._store.close()
        self._store = self._opened = self._driver = self._low = None

    @property
    def low(self) -> Study:
        """The study of the low evaluations that a `MultiFidelity` search makes; its values are of those alone.

        Raises:
            StudyError: the algorithm makes none, or no evaluator can stop early.
        """
        if self._low is None or self._low.name != levels.low_name(self):
            low = self.evaluation().until(levels.how_far(self))
            self._low = Study(
                levels.low_name(self),
                space=self.space,
                objectives=self.objectives,
                evaluators=low.evaluators,
                constraints=low.constraints,
                algorithm=self.algorithm,
                store=self.store,
                max_failures=self.max_failures,
            )
        return self._low

    @property
    def record(self) -> StudyRecord:
        """The study in the database: created when it is not there, checked against this declaration when it is."""
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def create(self) -> StudyRecord:
        """Create the study in the database, which must not have one of its name.

        Raises:
            StudyExists: it has.
        """
        self._opened = self._create()
        return self._opened

    @checked(StudyError)
    def front(self, where: str | None = None, objectives: str | Sequence[str | Metric] | None = None) -> pd.DataFrame:
        """The Pareto front, best first in the first objective.

        A trial whose latency was measured again, since it was noisy, counts with its least noisy measurement.

        Args:
            where: keep only trials that satisfy a filter, as in `"latency_ms <= 2 and params < 50_000"`, and take the front
                of those.
            objectives: of any metrics that were measured, as in `"max accuracy, min params"`; the study's unless given.  Trials
                that have not measured one are left out, with a warning.

        Returns:
            One row a trial, indexed by its number: the objectives, the other measurements, and `choices`.

        Raises:
            FilterError: the filter does not parse or names a column that is not there.
            StoreError: an objective was never measured.
        """
        chosen = None if objectives is None else parse_objectives(objectives)
        for missing_some in further.left_out(self.record, where, chosen):
            warnings.warn(missing_some, stacklevel=3)
        return further.front(self.record, where, chosen)

    @checked(StudyError)
    def trials(self, where: str | None = None) -> pd.DataFrame:
        """All trials that satisfy `where`, one row each."""
        return self.record.trials(where=where)

    @checked(StudyError)
    def best(self, objective: str | None = None, where: str | None = None) -> pd.Series[Any]:
        """The row of the front that is best in one objective, the first unless named.

        Raises:
            StudyError: nothing is on the front (yet); with the first reason where trials failed and none succeeded.
            MetricError: `objective` is none of the study's.
        """
        names = [metric.name for metric in self.objectives]
        name = objective or names[0]
        if name not in names:
            raise MetricError(
                f"{name!r} is no objective of study {self.name!r}; it has {', '.join(names)}{suggest(name, names)}"
            )
        front = self.front(where)
        if front.empty:
            raise StudyError(retrying.no_front(self.record, where))
        metric = self.objectives[names.index(name)]
        row: pd.Series[Any] = front.loc[(front[name] * metric.sign).idxmin()]
        return row

    @checked(StudyError)
    def arch(self, number: Natural) -> Arch:
        """The arch of a trial.

        Raises:
            StoreError: there is no such trial, or its arch is not the one of its key.
            SpaceError: the space, as it is declared now, has no such arch any more.
        """
        trial = self.record.trial(number)
        try:
            arch = self.space.from_row(trial.row, trial.schema)
        except SpaceError as error:
            raise SpaceError(f"trial {number} of study {self.name!r} has no arch here: {error}") from None
        if trial.schema["fingerprint"] == self.space.fingerprint and arch.key != trial.key:
            raise StoreError(sentence("trials", f"key {trial.key!r} is not that of its arch", self.name, number))
        return arch

    @checked(StudyError)
    def extract(self, number: Natural) -> nn.Module:
        """The subnet of a trial as an ordinary, independent module that computes what was evaluated.

        Raises:
            StudyError: no evaluator says which network it is, or the module does not reproduce what the trial's record says.
        """
        from nas.study.take_home import take_home

        return take_home(self, number).module

    @checked(StudyError)
    def rename(self, name: str, store: str | Path | Store | None = None) -> None:
        """Another name, another database, before anything was asked of this one."""
        self.name = _checked_name(name)
        if store is not None:
            self._where, self._store = store, None
        self._opened = self._driver = self._low = None

    def rehearse(self) -> dict[str, Any]:
        """Check everything and evaluate the smallest arch that is feasible here, without a record: a dry run.

        Returns:
            The study's size and settings, the arch, what its trial would be (COMPLETED or INFEASIBLE, and why), its
            measurements, and the seconds that it took.

        Raises:
            EvaluationError: its trial would be FAILED: the evaluation fails, or gives what is no measurement.
            MetricError: the evaluation gives no value for an objective or a constraint.
        """
        evaluation = self.evaluation()
        evaluation.check(self.space)
        arch, found = self._tried(evaluation)
        if found.state == "FAILED":
            raise EvaluationError(f"the evaluation of arch {arch.choices} fails: {found.reason}")
        lacking = missing(found.measurements, self.objectives, self.constraints)
        if lacking is not None and found.state == "COMPLETED":
            raise MetricError(f"{lacking}; the evaluation gave {', '.join(found.measurements) or 'nothing'}")
        # JSON has no number of any length.
        size = self.space.size if self.space.size < 2**63 else self.space.shown_size
        return {
            "study": self.name,
            "space": {"name": self.space.name, "decisions": len(self.space.decisions), "archs": size},
            "algorithm": self.algorithm.describe(),
            "arch": arch.choices,
            "state": found.state,
            "reason": found.reason or None,
            "measurements": found.measurements,
            "seconds": found.duration_s,
        }

    def _tried(self, evaluation: Evaluation) -> tuple[Arch, Outcome]:
        """The smallest arch and what became of it; where it is infeasible, the first of a few others that is not."""
        work = Work(self.space, evaluation, "rehearsal")
        tried = ((arch, work(Task(0, tuple(arch.row())))) for arch in self._examples())
        first = next(tried)
        if first[1].state != "INFEASIBLE":
            return first
        return next((one for one in tried if one[1].state != "INFEASIBLE"), first)

    def _examples(self) -> Iterator[Arch]:
        """Drawn when they are asked for: where `where=` leaves few archs a draw may find none."""
        yield self.space.smallest
        draw = random.Random(0)
        with suppress(SpaceError):
            yield self.space.largest
            for _ in range(_REHEARSED - 2):
                yield self.space.sample(draw)

    # -- running it -----------------------------------------------------------------------------------------------------

    @signals.exiting()
    @checked(StudyError)
    def run(
        self,
        trials: Count | None = None,
        *,
        workers: Natural = 2,
        ray: bool = False,
        address: str | None = None,
        progress: bool = True,
        batch: Count | None = None,
        time_limit_s: Positive | None = None,
        retry_failed: bool = False,
        wait_s: NonNegative = 0.0,
    ) -> Summary:
        """Evaluate until the study has `trials` finished trials; what it has already is not done again.

        Ctrl-C stops the workers, gives back what they had begun, and raises KeyboardInterrupt; the same call goes on later.
        SIGTERM and SIGHUP do the same and raise SystemExit(128 + number), in the main thread and where the program has not
        given them another meaning.  A second signal, a second later or more, does not wait for the trials to be given back.

        Args:
            trials: finished trials to go on to; the declaration's unless given.
            workers: processes, or Ray actors; 0 evaluates in this process.
            ray: use Ray actors: of the cluster that `address` or RAY_ADDRESS names, else of a Ray that is started here.
            address: host:port of a Ray head, from one of the cluster's machines; implies `ray`.
            progress: show a bar on a terminal, lines in a log.
            batch: evaluations in one message to a worker; chosen by their duration unless given.
            time_limit_s: stop an evaluation that takes longer; it has failed.
            retry_failed: first try all FAILED trials again.  Without it those are that stopped the last run by their failures,
                once, and once more whenever the job has changed.
            wait_s: wait at most so long for a quiet machine, where latencies are measured on this one; it is said.

        Raises:
            StudyError: too many failures in a row, or nothing to evaluate with.
            RunnerError: the workers cannot be started.
        """
        if not self.evaluators:
            raise StudyError(
                f"study {self.name!r} has no evaluators; give Study(evaluators=[...]), or use ask and tell"
            )
        wanted = self.trials_wanted if trials is None else trials
        ray = ray or address is not None
        if ray and workers == 0:
            raise StudyError("workers=0 evaluates in this process; give at least 1 for Ray")
        evaluation = self.evaluation()
        evaluation.check(self.space)
        teller = reporter(progress)
        studies = [self, self.low] if isinstance(self.algorithm, MultiFidelity) else [self]
        source = retrying.source_of(self.job, self._identity)
        for study in studies:
            record = study.record
            study.say_notes(teller.say)
            if said := retrying.begin(record, source, every=retry_failed):
                teller.say(said)
        drivers = [self.driver()]
        driver, loop = drivers[0], None
        if isinstance(driver.algorithm, MultiFidelity):
            drivers.append(self.low.driver_of(driver.algorithm.low_level))
            loop = levels.Loop(driver, drivers[1], levels.how_far(self))
        if driver.finished >= wanted:
            return driver.summary(
                f"the study has {driver.finished} of {wanted} trials already, and more of them (--trials) go on with it"
            )
        options = Options(wanted, workers, ray, batch, time_limit_s, self.max_failures, address)
        if wait_s and not ray and anew.measures_here(self):
            wait_for_quiet(wait_s, teller.say)
        try:
            summary = driver.run(evaluation, options, teller, loop)
        except StudyError as error:
            for study, one in zip(studies, drivers, strict=True):
                if one.failing:
                    retrying.note_stop(study.record, one.failing, one.reason, source)
            raise error
        for study in studies:
            retrying.note_end(study.record, source)
        return summary

    @checked(StudyError)
    def retry(self, where: str | None = None, reason: str | None = None) -> list[int]:
        """FAILED trials wait to be evaluated again, by the next `run`; how they ended is kept (`nas show`, note `tries`).

        Args:
            where: only trials that satisfy a filter.
            reason: only trials whose reason contains this text, whatever its case.

        Returns:
            their numbers.

        Raises:
            FilterError: the filter does not parse, or names a column that is not there.
            StoreError: a run works on the study.
        """
        self._driver = None
        numbers = retrying.failed(self.record, where, reason)
        return self.record.retry(numbers, "asked for", is_gone)

    @checked(StudyError)
    def ask(self, count: Count = 1) -> list[Asked]:
        """Up to `count` archs to evaluate by hand; fewer when the algorithm waits for results, none when it has no more."""
        return [Asked(number, arch) for number, arch in self._hand_driver().ask(count)]

    @checked(StudyError)
    def tell(self, number: Natural, measurements: Mapping[str, Any] | None, reason: str = "") -> None:
        """Report an asked trial: its measurements, or None and why it failed.

        Raises:
            StudyError: the trial was not asked here, or is told already.
            EvaluationError: an objective or a constraint's metric is missing, a value is no finite number, or a name is none of a
                metric; the trial stays as it was, to be told again.
        """
        self._hand_driver().tell(number, measurements, reason)

    def evaluation(self) -> Evaluation:
        """All evaluators as one callable, cheap ones first, stopping at a violated constraint."""
        return Evaluation(self.evaluators, constraints=self.constraints, in_study=True)

    def driver(self) -> Driver:
        """A new driver of the study, for an engine that runs its trials: the one place where its algorithm is made ready.

        The algorithm is a copy of the declared one with the trials of the study's sources (`Transfer`), and knows what can be
        said of archs without evaluating them (`nas.search.insight`).
        """
        algorithm, measured = ready(self.algorithm, self.record.settings), Measured(self.record, self.space)
        algorithm.inform(self._insight(measured))
        return self.driver_of(algorithm, measured)

    def driver_of(self, algorithm: Algorithm, measured: Measured | None = None) -> Driver:
        """A new driver of the study for an algorithm that is made ready; `measured` is what it was informed with."""
        return Driver(self.record, self.space, algorithm, self.objectives, self.constraints, measured)

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _insight(self, measured: Measured) -> Insight:
        """What is known of archs without evaluating them; nothing where all objectives are cheap, since an evaluation is, too."""
        remembering = [evaluator for evaluator in self.evaluators if evaluator.remembers]
        cheap: dict[str, Any] = {}
        for evaluator in self.evaluators:
            if evaluator.cost == "cheap" and evaluator not in remembering:
                cheap |= dict.fromkeys(evaluator.metrics or (), evaluator)
        if isinstance(self.algorithm, MultiFidelity):
            one = levels.partial_one(self)
            cheap = {name: how for name, how in cheap.items() if how is not one}
            others = [other.known for other in remembering if other is not one]
            return Insight(cheap, others, measured, one.fidelity, one.metrics or ())
        if all(metric.name in cheap for metric in self.objectives):
            return Insight()
        fidelity = next((one.fidelity for one in self.evaluators if one.fidelity is not None), None)
        return Insight(cheap, [one.known for one in remembering], measured, fidelity)

    def say_notes(self, say: Callable[[str], None]) -> None:
        """Say, once, what is different from when the study was begun: of its space, and of what cannot be compared."""
        for note in self._notes:
            say(note)
        self._notes = []

    def _hand_driver(self) -> Driver:
        if isinstance(self.algorithm, MultiFidelity):
            raise StudyError(
                f"study {self.name!r} cannot be asked by hand: {self.algorithm.name!r} decides how far its evaluators go; "
                "use run, or give another algorithm"
            )
        if self._driver is None:
            self._driver = self.driver()
            self.say_notes(reporter(False).say)
        return self._driver

    def _settings(self) -> dict[str, Any]:
        described = [settings_of(evaluator) for evaluator in self.evaluators]
        declared = {} if self.declared is None else {"declared": self.declared}
        return {"algorithm": self.algorithm.describe(), "evaluators": described, "job": self.job, **declared}

    def _open(self) -> StudyRecord:
        if self.name not in self.store.names():
            try:
                return self._create()
            except StudyExists:
                pass  # another process that runs the same job was quicker: this one joins it
        record = self.store.open_study(self.name)
        self._check_same(record)
        note = follow(record, self.space)
        compared = check(record, self._identity, sum(record.counts().values()), self.space)
        self._notes = [*([note] if note else []), *compared]
        return record

    def _create(self) -> StudyRecord:
        sources = sources_for(
            self.algorithm,
            self.name,
            self.store,
            space=self.space,
            objectives=self.objectives,
            constraints=self.constraints,
        )
        record = self.store.create_study(
            self.name,
            space_schema=self.space.schema(),
            objectives=self.objectives,
            constraints=self.constraints,
            settings={**self._settings(), **sources},
        )
        record.annotate({NOTE: self._identity})
        return record

    def _check_same(self, record: StudyRecord) -> None:
        settings = record.settings
        pairs = [
            ("objectives", [str(metric) for metric in record.objectives], [str(metric) for metric in self.objectives]),
            # As text with every digit: two bounds that differ are shown to differ.
            ("constraints", [str(c) for c in record.constraints], [str(c) for c in self.constraints]),
            ("algorithm", settings.get("algorithm"), self.algorithm.describe()),
            ("evaluators", settings.get("evaluators"), self._settings()["evaluators"]),
        ]
        for what, stored, declared in pairs:
            was, now = self.space.restated(stored), json.loads(json.dumps(declared))
            if not same(was, now):
                change = ""
                if what == "objectives":
                    change = (
                        f", change the study's (nas objectives {self.name} '{', '.join(map(str, self.objectives))}')"
                    )
                begun = f"{what} {was}, this job has {now}"
                if what in ("algorithm", "evaluators"):
                    begun = f"{what} of other settings: {', '.join(setting_changes(was, now)[:_MOST_CHANGES])}"
                raise StudyError(
                    f"study {self.name!r} was begun with {begun}; restore them{change}, or give the new study another "
                    "name (--name)"
                )

    def _check_metrics(self) -> None:
        if not self.objectives:
            raise StudyError(f"study {self.name!r} has no objectives; give at least one, as in 'max accuracy'")
        names = [metric.name for metric in self.objectives]
        if len(set(names)) < len(names):
            raise StudyError(f"study {self.name!r} has an objective twice: {', '.join(names)}")
        if self.evaluators:
            self.evaluation()  # checks the names that evaluators announce
        declared = [evaluator.metrics for evaluator in self.evaluators]
        if not declared or any(metrics is None for metrics in declared):
            return  # a plain function does not say what it yields; its first result will
        yielded = [name for metrics in declared for name in metrics or ()]
        yields = f"no evaluator of study {self.name!r} yields"
        for name in [*names, *(constraint.metric for constraint in self.constraints)]:
            if name not in yielded:
                raise MetricError(f"{yields} {name!r}; they yield {', '.join(yielded)}{suggest(name, yielded)}")


def _checked_name(name: str) -> str:
    fault = study_name_fault(name)
    if fault is not None:
        raise StudyError(fault)
    return name
