"""The best measurement of a training so far, and whether to wait for a better one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nas.errors import MetricError, TrainError, suggest
from nas.metrics import Metric, parse_objective


@dataclass(frozen=True)
class Watch:
    """By what a training's best weights are chosen, and when it stops.

    Args:
        metric: of the task, which is the mean over the watched subnets; or with "largest_" or "smallest_" before it, of that one.
        patience: measurements in a row without an improvement before the training stops; None makes all steps.
        min_delta: an improvement is more than this.
    """

    metric: Metric
    patience: int | None
    min_delta: float

    def value(self, measured: Mapping[str, Mapping[str, float]]) -> float:
        """Of the metrics of the watched subnets by their labels."""
        label, _, name = self.metric.name.partition("_")
        if self.metric.name not in measured["largest"] and label in ("largest", "smallest"):
            return measured.get(label, measured["largest"])[name]  # of a space of one arch both are one
        return sum(one[self.metric.name] for one in measured.values()) / len(measured)


@dataclass
class Best:
    """What is known of the best so far; a part of the checkpoint."""

    step: int
    value: float
    reference: float
    """The value that the next improvement has to exceed by `min_delta`."""
    waited: int = 0
    """Measurements since then."""
    digest: str | None = None
    """Of the weights' folder."""

    @property
    def folder(self) -> str:
        """Where its weights are, inside the training's folder, until the training has finished."""
        return f"best-{self.step:08d}"

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def judged(watch: Watch, best: Best | None, step: int, value: float) -> Best:
    """The best after a measurement: with its step where it is the best so far.  NaN is worse than any number."""
    sign = watch.metric.sign
    if best is None:
        return Best(step, value, value)
    best.waited += 1
    if _exceeds(value, best.reference, sign, watch.min_delta):
        best.reference, best.waited = value, 0
    if _exceeds(value, best.value, sign, 0.0):
        return Best(step, value, best.reference, best.waited)
    return best


def _exceeds(value: float, other: float, sign: float, by: float) -> bool:
    return not math.isnan(value) and (math.isnan(other) or sign * (other - value) > by)


def watching(best: str | None, patience: int | None, min_delta: float, names: Iterable[str]) -> Watch | None:
    """What a training's arguments ask for.

    Raises:
        TrainError: the task has no such metric, or an argument has no effect without another.
    """
    if best is None or patience is None:
        if patience is not None:
            raise TrainError(
                f"patience={patience} needs to know what to wait for; give best='max accuracy', for example"
            )
        if min_delta:
            raise TrainError(f"min_delta={min_delta} has no effect without patience; give patience=, or leave it out")
    if best is None:
        return None
    try:
        metric = parse_objective(best)
    except MetricError as error:
        raise TrainError(f"best={best!r} says which metric of the task decides: {error}") from error
    known = [label + name for label in ("", "largest_", "smallest_") for name in names]
    if metric.name not in known:
        raise TrainError(
            f"best={best!r}, and the task's metrics are {', '.join(names)}{suggest(metric.name, known)}; with 'largest_' or "
            "'smallest_' before it, a metric of that subnet alone"
        )
    return Watch(metric, patience, min_delta)
