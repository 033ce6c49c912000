"""Further measurements of finished trials, and fronts that take them in.

What a trial measured when it was evaluated never changes.  A latency that was noisy then may be measured again: that is kept
beside it, as one more entry of a note on the trial, and the least noisy measurement counts on the front.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import MetricError
from nas.measurements import usable
from nas.metrics import Metric, unit_of
from nas.noise import beside, is_noisy, noisy_name
from nas.store.filters import Filter, Table, in_state, metric_key

if TYPE_CHECKING:
    import pandas as pd

    from nas.store.study import StudyRecord

COMPLETED = in_state("COMPLETED")
NOTE = "further_measurements"  # on a trial: a list, oldest first; on the study: the trials that have some


def add(record: StudyRecord, number: int, measurements: Mapping[str, float]) -> None:
    """Keep what a finished trial measured when it was measured again.

    Raises:
        MetricError: a value is no measurement.
        StoreError: there is no such trial.
    """
    values, fault = usable(measurements)
    if fault is not None:
        raise MetricError(f"trial {number} cannot keep what was measured again: {fault}")
    record.annotate({NOTE: [*entries(record, number), {"at": time.time(), "measurements": values}]}, number)
    known = record.notes().get(NOTE, [])
    record.annotate({NOTE: sorted({*known, number})})


def entries(record: StudyRecord, number: int) -> list[dict[str, Any]]:
    """The further measurements of a trial, oldest first: `at`, in seconds since the epoch, and `measurements`."""
    return list(record.notes(number).get(NOTE, []))


def trials_with(record: StudyRecord) -> list[int]:
    """Numbers of the trials that were measured again."""
    return [int(number) for number in record.notes().get(NOTE, [])]


def take_in(record: StudyRecord, frame: pd.DataFrame, metric: str) -> list[int]:
    """Put the least noisy measurement of each trial into a table of trials; the trials of which that is a further one.

    Only measurements of `metric` that the trial's own evaluation flagged as noisy are replaced.
    """
    replaced = []
    for number in trials_with(record):
        if number not in frame.index or not is_noisy(frame.loc[number], metric):
            continue
        own = frame.loc[number].to_dict()
        found = [one["measurements"] for one in entries(record, number) if metric in one["measurements"]]
        best = min([own, *found], key=lambda one: _noise(one, metric))
        if best is not own:
            replaced.append(number)
            for name in _told(metric):
                if name in frame.columns and name in best:
                    frame.loc[number, name] = best[name]
    return replaced


def noisy_metrics(names: Iterable[str]) -> list[str]:
    """Of these columns the metrics that have a flag for noise beside them."""
    known = set(names)
    return sorted(name for name in known if noisy_name(name) in known and noisy_name(name) != name)


def _told(metric: str) -> list[str]:
    """A metric and what tells of it."""
    return [metric, beside(metric, "p10"), beside(metric, "spread"), noisy_name(metric)]


def _noise(measured: Mapping[str, Any], metric: str) -> tuple[bool, float]:
    spread = measured.get(beside(metric, "spread"), math.inf)
    return is_noisy(measured, metric), float(spread) / abs(float(measured[metric])) if measured[metric] else math.inf


def front(record: StudyRecord, where: str | None = None, objectives: Sequence[Metric] | None = None) -> pd.DataFrame:
    """`StudyRecord.front`, with the least noisy measurement of each trial.

    Filters and constraints hold for that measurement.

    Raises:
        FilterError: the filter does not parse, or names a column that is not there.
        StoreError: an objective was never measured.
    """
    from nas.store.frames import whole

    if not trials_with(record):
        return record.front(where=where, objectives=objectives)
    plain = record.front(where=where, objectives=objectives)  # whether what was asked for is there, and its columns
    chosen = tuple(objectives or record.objectives)
    condition = Filter(where) if where else None
    frame = record.trials(COMPLETED)
    again = []
    for metric in noisy_metrics(frame.columns):
        columns = [name for name in _told(metric) if name in frame.columns]
        frame = frame.astype(dict.fromkeys(columns, float))
        take_in(record, frame, metric)
        frame = frame.assign(**{name: whole(frame[name].to_numpy(float)) for name in columns if not unit_of(name)})
        again += columns
    frame = frame.dropna(subset=[metric.name for metric in chosen])
    allowed = allowing(record, condition, again)
    found = non_dominated_rows(frame[allowed(frame)], chosen)
    return found[list(plain.columns)]


def allowing(
    record: StudyRecord, condition: Filter | None, names: Sequence[str]
) -> Callable[[pd.DataFrame], NDArray[np.bool_]]:
    """Which rows of a table of COMPLETED trials meet the constraints and a filter on the columns `names` that it has.

    Whatever else the filter asks for is read from the record, now.
    """
    bounds = [bound for bound in record.constraints if bound.metric in names]
    spelled = {key: name for name in names for key in (name, metric_key(name))}
    columns: dict[str, Any] = {}
    places: dict[int, int] = {}
    candidates: Any = {}
    if condition is not None:
        record.trials(condition.text, columns=[], limit=1)  # whether its names are there, and fit
        table = record.table(["number", *(name for name in condition.names if name not in spelled)], COMPLETED)
        columns, candidates = dict(table), table.candidates
        places = {int(number): at for at, number in enumerate(columns["number"])}

    def allowed(frame: pd.DataFrame) -> NDArray[np.bool_]:
        within = np.ones(len(frame), dtype=np.bool_)
        for bound in bounds:
            within &= np.array([bound.violation(float(value)) <= 0 for value in frame[bound.metric]], dtype=np.bool_)
        if condition is not None:
            at = [places[int(number)] for number in frame.index]
            chosen = {name: values[at] for name, values in columns.items()}
            changed = {key: frame[name].to_numpy(float) for key, name in spelled.items() if key in condition.names}
            within &= condition.mask(Table({**chosen, **changed}, candidates), len(frame))
        return within

    return allowed


def non_dominated_rows(frame: pd.DataFrame, objectives: Sequence[Metric]) -> pd.DataFrame:
    """The rows of a table that none dominates, best first in the first objective."""
    from nas.pareto import non_dominated

    points = np.stack([frame[metric.name].to_numpy(float) * metric.sign for metric in objectives], axis=1)
    first = objectives[0]
    return frame[non_dominated(points)].sort_values(first.name, ascending=first.sign > 0, kind="stable")


def left_out(record: StudyRecord, where: str | None, objectives: Sequence[Metric] | None) -> list[str]:
    """Sentences on objectives that some COMPLETED trials have not measured, which are then not on the front."""
    names = [metric.name for metric in objectives or () if metric.name not in {own.name for own in record.objectives}]
    if not names:
        return []
    found = record.trials(in_state("COMPLETED", where), columns=names)
    return [
        f"{missing} of {len(found)} completed trials have not measured {name!r} and are left out of the front"
        for name in names
        if (missing := int(found[name].isna().sum()))
    ]
