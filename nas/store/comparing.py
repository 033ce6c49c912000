"""Studies beside each other: their fronts by one reference point, and how fast each came to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import StoreError
from nas.metrics import Metric
from nas.pareto import growth, non_dominated
from nas.store.filters import in_state
from nas.store.study import StudyRecord

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
ATTAINED = (0.9, 0.99)  # shares of the best study's hypervolume, of which it is told how many trials they took


@dataclass(frozen=True)
class Compared:
    """One study of a comparison.

    Args:
        name: of the study.
        finished: trials.
        completed: of them, those that have all objectives.
        front: its Pareto front, indexed by trial number.
        best: best value by objective.
        hypervolume: of its front, as a share of the box between the best and the worst value of each objective in all studies.
        joint: points of its front that no trial of any study dominates; a point that several studies found counts for each.
        curve: (trials finished, hypervolume then), where it grew, and at the end.
        attained: share of the best study's hypervolume to the trials that it took; None where it never came so far.
    """

    name: str
    finished: int
    completed: int
    front: pd.DataFrame
    best: dict[str, float]
    hypervolume: float
    joint: int
    curve: list[tuple[int, float]]
    attained: dict[float, int | None]

    def row(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "study": self.name,
            "trials": self.finished,
            "completed": self.completed,
            "front": len(self.front),
            "hypervolume": self.hypervolume,
            "joint_front": self.joint,
            **{f"best_{name}": value for name, value in self.best.items()},
            **{f"trials_to_{share:.0%}".rstrip("%"): trials for share, trials in self.attained.items()},
        }


@dataclass(frozen=True)
class Comparison:
    """Studies by the same objectives and the same reference point, the worst value of each objective in all of them."""

    objectives: tuple[Metric, ...]
    reference: dict[str, float]
    studies: list[Compared]
    notes: list[str]


def compare(
    records: Sequence[StudyRecord], objectives: Sequence[Metric] | None = None, where: str | None = None
) -> Comparison:
    """Compare studies over metrics that all of them measured.

    Args:
        records: two or more studies.
        objectives: unless given, those of the first study that the others have measured too.
        where: only trials that satisfy a filter.

    Raises:
        StoreError: they have no metric in common, one has no completed trial, or two of them want the opposite of a metric.
        FilterError: the filter does not parse, or names a column that is not there.
    """
    chosen = _common(records) if objectives is None else tuple(objectives)
    points = [_points(record, chosen, where) for record in records]
    everything = np.concatenate([one.values for one in points])
    worst, best = everything.max(axis=0), everything.min(axis=0)
    box = float(np.prod(np.where(worst > best, worst - best, 1.0)))
    # Where all values of an objective are equal it bounds no volume: it is given a side of 1.
    reference = np.where(worst > best, worst, best + 1.0)
    curves = [_curve(one, reference, box) for one in points]
    most = max(curve[-1][1] for curve in curves)
    best_of_all = np.split(
        non_dominated(everything, duplicates=True), np.cumsum([len(one.values) for one in points])[:-1]
    )
    compared = []
    for record, one, curve, undominated in zip(records, points, curves, best_of_all, strict=True):
        own = non_dominated(one.values)
        compared.append(
            Compared(
                record.name,
                one.finished,
                len(one.values),
                one.frame[own].sort_values(chosen[0].name, ascending=chosen[0].sign > 0),
                {m.name: float(one.values[:, i].min() * m.sign) for i, m in enumerate(chosen)},
                curve[-1][1],
                int((own & undominated).sum()),
                curve,
                {share: next((n for n, volume in curve if volume >= share * most), None) for share in ATTAINED},
            )
        )
    told = {m.name: float(value * m.sign) for m, value in zip(chosen, worst, strict=True)}
    return Comparison(chosen, told, compared, _notes(records))


def _common(records: Sequence[StudyRecord]) -> tuple[Metric, ...]:
    measured = [set(record.metric_names()) for record in records]
    first, *others = records
    found = tuple(metric for metric in first.objectives if all(metric.name in names for names in measured))
    if not found:
        own = ", ".join(metric.name for metric in first.objectives)
        lacking = next(r.name for r, names in zip(records, measured, strict=True) if not names & set(own.split(", ")))
        raise StoreError(
            f"study {lacking!r} has measured none of the objectives of study {first.name!r} ({own}); give --objectives that all "
            "of them have measured"
        )
    goals = {metric.name: metric.goal for metric in found}
    for record in others:
        for metric in record.objectives:
            if goals.get(metric.name, metric.goal) != metric.goal:
                raise StoreError(
                    f"study {first.name!r} has {goals[metric.name]} {metric.name}, study {record.name!r} {metric}; say which "
                    "with --objectives"
                )
    return found


@dataclass(frozen=True)
class _Points:
    """The trials of a study that have all objectives, in the order in which they finished.

    Args:
        finished: trials that have finished, whatever became of them.
        places: (n,) of them, how many trials had finished then.
        values: (n, m) signed: less is better.
        frame: n rows.
    """

    finished: int
    places: NDArray[np.int64]
    values: Floats
    frame: pd.DataFrame


def _points(record: StudyRecord, objectives: Sequence[Metric], where: str | None) -> _Points:
    names = [metric.name for metric in objectives]
    known = set(record.metric_names())
    for name in names:
        if name not in known:
            raise StoreError(f"study {record.name!r} has not measured {name!r}; it has {', '.join(sorted(known))}")
    history = record.history()
    place = {int(number): at + 1 for at, number in enumerate(history.numbers)}
    frame = record.trials(in_state("COMPLETED", where), columns=[*names, "choices"])
    frame = frame.dropna(subset=names)
    if frame.empty:
        raise StoreError(f"study {record.name!r} has no completed trial with {', '.join(names)}; run it first")
    frame = frame.assign(_place=[place[int(number)] for number in frame.index]).sort_values("_place")
    values = np.stack([frame[metric.name].to_numpy(float) * metric.sign for metric in objectives], axis=1)
    places = frame.pop("_place").to_numpy(np.int64)
    return _Points(len(history), places, values, frame)


def _curve(study: _Points, reference: Floats, box: float) -> list[tuple[int, float]]:
    counts, volumes = growth(study.values, reference)
    curve = [(int(study.places[at - 1]), float(one) / box) for at, one in zip(counts, volumes, strict=True)]
    return [*curve, (study.finished, curve[-1][1])]


def _notes(records: Sequence[StudyRecord]) -> list[str]:
    """What makes the studies differ in more than their search."""
    first, *others = records
    found = []
    for record in others:
        if record.settings.get("evaluators") != first.settings.get("evaluators"):
            found.append(
                f"studies {first.name!r} and {record.name!r} were evaluated differently: a metric of one name may mean another "
                "thing in each"
            )
        if record.schema["fingerprint"] != first.schema["fingerprint"]:
            found.append(f"studies {first.name!r} and {record.name!r} search different spaces")
    return found
