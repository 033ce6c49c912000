"""The trials of a study as trials of Ray Tune: its schedulers stop what does not deserve to go on, our store remembers.

Tune's own files are thrown away.  What it would need to go on after a crash is better known elsewhere: proposals, states and
the measurements of every epoch are in the store, weights are in the checkpoints that each epoch leaves.  So a run that is
killed is started again like any other; its trials that had not finished come first, and their finished epochs are read
instead of trained.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from nas import signals
from nas.checking import checked
from nas.errors import StoreError, StudyError, suggest
from nas.runners import Outcome, cluster
from nas.runners.work import Payload
from nas.search import MultiFidelity
from nas.store import StudyRecord
from nas.study.curves import keep_epoch
from nas.study.driver import Driver, Summary
from nas.study.progress import Reporter, reporter
from nas.tune.candidate import MEASURED, REASON, STATE, Candidate, Epochs
from nas.tune.halving import ParetoHalving

if TYPE_CHECKING:
    from nas.metrics import Metric
    from nas.study import Study

_ATTEMPTS = 3  # how often a trial's process may die without a new epoch
_HEARTBEAT_S = 5.0
# Tune without its tables, its files and its hold on Ctrl-C.
_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # CSV, JSON and TensorBoard files of what the store has
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: it gives the trials back
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # names are checked before; a trial that failed has no values
    "RAY_AIR_NEW_OUTPUT": "0",  # tables of trials, printed where the bar is
}
_CLOCKS = ("training_iteration", "time_total_s")  # what schedulers may count by: epochs, or seconds


@checked(StudyError)
@signals.exiting()
def run(
    study: Study,
    trials: int | None = None,
    *,
    scheduler: Any = None,
    workers: int = 2,
    resources: Mapping[str, float] | None = None,
    progress: bool = True,
) -> Summary:
    """Evaluate a study that trains its candidates (`nas.Trained`) on Ray Tune until it has `trials` finished trials.

    A trial that the scheduler stops is COMPLETED with what it measured last; `epochs` says how far it came, so that
    `study.front("epochs == 9")` is the front of the full trainings.  Every epoch is in the trial's curves.
    Ctrl-C, SIGTERM, a kill or a lost node lose at most the epochs under way: the same call goes on.

    Args:
        study: one of its evaluators trains in epochs; the others are evaluated before the training.
        trials: finished trials to go on to; the declaration's unless given.
        scheduler: of `ray.tune.schedulers` (ASHA, median stopping) or `ParetoHalving`; None trains everything to the end.  It
            counts epochs as `training_iteration`; one without a metric gets the study's first objective.
        workers: candidates that train at the same time.
        resources: of each: {"cpu": 1, "gpu": 0.5}; one CPU unless given.
        progress: show a bar on a terminal, lines in a log.

    Raises:
        StudyError: not one evaluator trains in epochs, the scheduler moves weights between trials or pauses them, or too many
            trials failed in a row.
        RunnerError: no node of the Ray has the resources.
    """
    wanted = _positive("trials", study.trials_wanted if trials is None else trials)
    _positive("workers", workers)
    if isinstance(study.algorithm, MultiFidelity):
        raise StudyError(
            f"{study.algorithm.name!r} of study {study.name!r} decides itself how far archs are trained; use study.run, or give "
            "another algorithm and a scheduler"
        )
    evaluation = study.evaluation()
    epochs = Epochs(evaluation)
    _check_scheduler(scheduler, evaluation.metrics)
    evaluation.check(study.space)
    driver, shown = study.driver(), reporter(progress)
    study.say_notes(shown.say)
    if driver.finished >= wanted:
        return driver.summary(f"the study has {driver.finished} of {wanted} trials already")
    needs = {"cpu": 1.0, **(resources or {})}
    try:
        with cluster.connected(workers * needs["cpu"]):
            cluster.check(needs)
            if isinstance(scheduler, ParetoHalving):
                _remember(scheduler, study.record)
            proposals = _Trials(driver, study, epochs.names, wanted=wanted, progress=shown)
            trainable = _trainable(study, epochs, needs)
            with (
                cluster.quiet("ray.tune", _SETTINGS),
                _alive(driver),
                _shown(shown, study.name, driver.finished, wanted),
            ):
                _fit(trainable, proposals, scheduler, first=study.objectives[0], workers=workers)
    finally:
        driver.release()
    if proposals.stopped:
        raise StudyError(proposals.stopped)
    over = "" if driver.finished >= wanted else "; every arch that can be proposed has been evaluated"
    return driver.summary(f"{driver.finished} trials{over}")


class _Trials(tune.search.Searcher):
    """The study's driver as a search algorithm of Tune's: proposals from it, results to it."""

    def __init__(self, driver: Driver, study: Study, curves: Sequence[str], *, wanted: int, progress: Reporter) -> None:
        super().__init__()
        self._driver, self._record, self._curves = driver, study.record, curves
        self._wanted, self._max_failures, self._progress = wanted, study.max_failures, progress
        self._numbers: dict[str, int] = {}
        self._failures: list[str] = []
        self.stopped = ""

    def suggest(self, trial_id: str) -> Any:
        """A trial of the study, begun in the record."""
        if self.stopped or self._driver.finished + len(self._driver.in_flight) >= self._wanted:
            return self.FINISHED
        asked = self._driver.ask(1)
        if not asked:
            if self._driver.exhausted:
                return self.FINISHED
            if not self._driver.in_flight:
                self.stopped = "the algorithm proposes nothing and nothing is in flight"
                return self.FINISHED
            return None
        ((number, arch),) = asked
        self._numbers[trial_id] = number
        return {"number": number, "row": list(arch.row())}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keeps an epoch."""
        self._keep(self._numbers[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Records how the trial ended."""
        number = self._numbers.pop(trial_id)
        result = result or {}
        if not error and STATE not in result:
            self._keep(number, result)
        took = float(result.get("time_total_s", 0.0))
        state: Any = "FAILED" if error else result.get(STATE, "COMPLETED")
        died = f"its process died {_ATTEMPTS} times" if error else ""
        reason = died or str(result.get(REASON, ""))
        where = f"{result.get('hostname', '')}/{result.get('pid', '')}"
        self._driver.finish(
            Outcome(number, state, {} if error else _measured(result), reason, time.time() - took, took, where)
        )
        self._failures = [*self._failures, reason] if state == "FAILED" else []
        if len(self._failures) >= self._max_failures:
            self.stopped = f"{len(self._failures)} trainings in a row failed; the last: {reason}"
        self._progress.update(self._driver.finished, lambda: f"{len(self._numbers)} in training")

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store knows."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, likewise."""

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:  # noqa: ARG002
        """Any."""
        return True

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it into files that nobody reads

    def _keep(self, number: int, result: Mapping[str, Any]) -> None:
        measured = _measured(result)
        epoch = {name: measured[name] for name in self._curves if name in measured}
        with contextlib.suppress(StoreError):  # somebody else has taken the trial over: the report will be refused
            keep_epoch(self._record, number, int(result["training_iteration"]), epoch)


class _Deaths(tune.Callback):
    """Counts the deaths of a trial's processes since its last new epoch only, where Tune counts all."""

    def __init__(self) -> None:
        self._epochs: dict[str, int] = {}

    def on_trial_result(  # Tune's signature
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Any],  # noqa: ARG002
        trial: Any,
        result: dict[str, Any],
        **info: Any,  # noqa: ARG002
    ) -> None:
        """Forgets them when the epoch is new: after a restart the finished ones are read once more."""
        epoch = int(result["training_iteration"])
        if epoch > self._epochs.get(trial.trial_id, 0):
            self._epochs[trial.trial_id] = epoch
            trial.run_metadata.num_failures = 0


def _measured(result: Mapping[str, Any]) -> dict[str, float]:
    prefix = f"{MEASURED}/"
    return {name.removeprefix(prefix): value for name, value in result.items() if name.startswith(prefix)}


def _positive(name: str, given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise StudyError(f"{name} is {given!r}; give a whole number, 1 or more")
    return given


def _trainable(study: Study, epochs: Epochs, needs: Mapping[str, float]) -> Any:
    evaluate: Any = epochs  # packed as an evaluation is, with the job file that it came from
    payload = Payload.pack(study.space, evaluate, max(1, int(needs["cpu"])), ray.cloudpickle.dumps)
    return tune.with_resources(tune.with_parameters(Candidate, payload=payload), dict(needs))


def _fit(trainable: Any, proposals: _Trials, scheduler: Any, *, first: Metric, workers: int) -> None:
    """One run of Tune, in a folder that is thrown away."""
    by_first = scheduler is not None and not isinstance(scheduler, ParetoHalving) and scheduler.metric is None
    config = tune.TuneConfig(
        search_alg=proposals,
        scheduler=scheduler,
        metric=first.name if by_first else None,
        mode=first.goal if by_first else None,
        num_samples=-1,
        max_concurrent_trials=workers,
        reuse_actors=True,
    )
    with tempfile.TemporaryDirectory(prefix="nas-tune-") as folder:
        kept = tune.RunConfig(
            name="study",
            storage_path=folder,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=_ATTEMPTS - 1),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[_Deaths()],
        )
        tune.Tuner(trainable, tune_config=config, run_config=kept).fit()


def _check_scheduler(scheduler: Any, metrics: Sequence[str] | None) -> None:
    from ray.tune import schedulers

    if scheduler is None:
        return
    if not isinstance(scheduler, schedulers.TrialScheduler):
        raise StudyError(f"scheduler is a {type(scheduler).__name__}; give one of ray.tune.schedulers or nas.tune")
    movers = (schedulers.PopulationBasedTraining, schedulers.PopulationBasedTrainingReplay)
    if isinstance(scheduler, (*movers, schedulers.HyperBandScheduler)):
        raise StudyError(
            f"{type(scheduler).__name__} pauses trials or copies weights from one to another, and a trial of a study is one arch "
            "with its own weights; use ASHAScheduler, MedianStoppingRule or nas.tune.ParetoHalving"
        )
    looked_at = [scheduler.metric] if scheduler.metric is not None else []
    if isinstance(scheduler, ParetoHalving):
        looked_at = [metric.name for metric in scheduler.objectives]
    for name in looked_at if metrics is not None else ():
        if name not in (metrics or ()):
            raise StudyError(
                f"{type(scheduler).__name__} looks at {name!r}, which no evaluator yields; "
                f"they yield {', '.join(metrics or ())}{suggest(name, metrics or ())}"
            )
    clock = getattr(scheduler, "_time_attr", _CLOCKS[0])
    if clock not in _CLOCKS:
        raise StudyError(
            f"{type(scheduler).__name__} has time_attr={clock!r}; it is one of {', '.join(_CLOCKS)}{suggest(clock, _CLOCKS)}"
        )


def _remember(scheduler: ParetoHalving, record: StudyRecord) -> None:
    """Gives the scheduler the epochs of all trials that have finished, as it had them before a restart."""
    for number in record.history().numbers.tolist():
        trial = record.trial(number)
        curves = {name: dict(steps) for name, steps in trial.curves.items()}
        for level in scheduler.rungs.levels:
            at = {**trial.measurements, **{name: steps[level] for name, steps in curves.items() if level in steps}}
            if any(level in steps for steps in curves.values()) and all(m.name in at for m in scheduler.objectives):
                scheduler.judge(number, level, at)


@contextlib.contextmanager
def _shown(progress: Reporter, title: str, done: int, wanted: int) -> Iterator[None]:
    progress.begin(title, done, wanted)
    try:
        yield
    finally:
        progress.end()


@contextlib.contextmanager
def _alive(driver: Driver) -> Iterator[None]:
    """Keeps the leases while epochs last longer than they do."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_HEARTBEAT_S):
            driver.heartbeat()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
