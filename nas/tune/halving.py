"""`ParetoHalving`: the rungs as a scheduler of Ray Tune."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from nas.checking import checked
from nas.errors import MetricError, RunnerError, suggest
from nas.metrics import Metric, parse_objective
from nas.tune.rungs import Rungs


class ParetoHalving(FIFOScheduler):
    """Stops trainings early by several objectives at once; for `nas.tune.run` and for a `Tuner` of one's own.

    Give it to `TuneConfig(scheduler=…)` without metric and mode.  A training reports all objectives after each epoch.

    Args:
        objectives: `"max accuracy"`, `"min params"`; names of what trials report.
        epochs: of a full training.
        grace: epochs that everybody gets.
        factor: one in so many goes on from a rung.

    Raises:
        MetricError: an objective is ill-formed.
        RunnerError: numbers that make no rung.
    """

    @checked(RunnerError)
    def __init__(self, objectives: Sequence[str | Metric], *, epochs: int, grace: int = 1, factor: int = 3) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.objectives = tuple(parse_objective(one) for one in objectives)
        if not self.objectives:
            raise MetricError("ParetoHalving was given no objective; give at least one, as in 'max accuracy'")
        self.rungs = Rungs(epochs, grace=grace, factor=factor)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:  # noqa: ARG002
        """Whether the trial goes on."""
        key = trial.config.get("number", trial.trial_id)  # a trial of a study keeps its number over restarts
        on = self.judge(key, int(result["training_iteration"]), result)
        return str(TrialScheduler.CONTINUE if on else TrialScheduler.STOP)

    def judge(self, key: Any, epoch: int, measured: dict[str, Any]) -> bool:
        """Takes what a trial measured at an epoch; whether it goes on.

        Raises:
            MetricError: an objective is missing.
        """
        for metric in self.objectives:
            if metric.name not in measured:
                raise MetricError(
                    f"trial {key} reported no {metric.name!r} for ParetoHalving{suggest(metric.name, measured)}"
                )
        values = [float(measured[metric.name]) * metric.sign for metric in self.objectives]
        return self.rungs.goes_on(key, epoch, values)
