"""Tables of trials and fronts, as pandas frames."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nas.errors import FilterError, StoreError, suggest
from nas.metrics import Metric
from nas.store import history
from nas.store.columns import Catalog, Columns, Integers, transpose
from nas.store.filters import Column, Filter
from nas.store.schema import TRIAL_COLUMNS
from nas.store.spaces import Choices
from nas.store.sql import Transaction
from nas.store.statements import FRONT


def front(
    sql: Transaction, study: int, own: Sequence[Metric], where: str | None, objectives: Sequence[Metric] | None
) -> pd.DataFrame:
    """See `StudyRecord.front`."""
    chosen = tuple(own if objectives is None else objectives)
    if where is None and chosen == tuple(own):
        return _kept_front(sql, study, chosen)
    condition = Filter(where) if where is not None else None
    catalog = Catalog(sql, study)
    _check_objectives(catalog, chosen)
    _, size = history.counts(sql, study)
    numbers = _computed_front(sql, catalog, size, condition, chosen)
    columns = Columns(sql, catalog, numbers, size)
    loaded = columns.load([*(metric.name for metric in chosen), *catalog.metrics])
    return _front_frame(numbers, {**loaded, "choices": columns.choices()}, chosen[0])


def _kept_front(sql: Transaction, study: int, objectives: Sequence[Metric]) -> pd.DataFrame:
    """The front that is kept with the trials; everything is asked at once, so that a server is waited for once."""
    kept = sql.soon(FRONT, (study,))
    catalog = Catalog(sql, study)
    _check_objectives(catalog, objectives)
    numbers, spaces, archs, texts = transpose(kept(), 4)
    finals = [json.loads(text) for text in texts]
    names = dict.fromkeys([*(metric.name for metric in objectives), *catalog.metrics])
    loaded: dict[str, Column] = {
        name: np.array([values.get(name, math.nan) for values in finals], dtype=np.float64) for name in names
    }
    choices = np.empty(len(numbers), dtype=object)
    for at, (space, arch) in enumerate(zip(spaces, archs, strict=True)):  # one by one: as a list they would be decoded
        choices[at] = Choices(catalog.readers[space], arch)
    return _front_frame(np.array(numbers, dtype=np.int64), {**loaded, "choices": choices}, objectives[0])


def _computed_front(
    sql: Transaction, catalog: Catalog, size: int, condition: Filter | None, objectives: Sequence[Metric]
) -> Integers:
    """Non-dominated COMPLETED trials that meet the condition and have every objective; of equal ones, the first to finish."""
    from nas.pareto import non_dominated

    numbers = history.completed(sql, catalog.study)
    numbers = numbers[_where(sql, catalog, numbers, size, condition)]
    columns = Columns(sql, catalog, numbers, size).load(metric.name for metric in objectives)
    points = np.stack([columns[metric.name] * metric.sign for metric in objectives], axis=1)
    whole = ~np.isnan(points).any(axis=1)
    numbers, points = numbers[whole], points[whole]
    return numbers[non_dominated(points)]


def _check_objectives(catalog: Catalog, objectives: Sequence[Metric]) -> None:
    if not objectives:
        raise StoreError("a front needs an objective; give one, as in 'max accuracy'")
    for metric in objectives:
        if metric.name not in catalog.metrics:
            raise StoreError(
                f"metric {metric.name!r} was not measured in this study{suggest(metric.name, catalog.metrics)}; "
                f"there are {', '.join(catalog.metrics)}"
            )


def _front_frame(numbers: Integers, columns: dict[str, Column], first: Metric) -> pd.DataFrame:
    """Best in the first objective first; `numbers` breaks ties so that the table does not depend on how it was computed."""
    order = np.lexsort((numbers, columns[first.name] * first.sign))
    return _frame(numbers[order], {name: values[order] for name, values in columns.items()})


def trials(
    sql: Transaction, study: int, where: str | None, wanted: Sequence[str] | None, limit: int | None
) -> pd.DataFrame:
    """See `StudyRecord.trials`."""
    condition = Filter(where) if where is not None else None
    catalog = Catalog(sql, study)
    names = list(wanted) if wanted is not None else _all_columns(catalog)
    for name in names:
        if name != "choices" and name not in catalog:
            known = [*_all_columns(catalog), *catalog.decisions]
            raise FilterError(f"there is no column {name!r}{suggest(name, known)}; there are {', '.join(known[:20])}")
    numbers = history.every(sql, study)
    size = len(numbers)
    numbers = numbers[_where(sql, catalog, numbers, size, condition)][:limit]
    columns = Columns(sql, catalog, numbers, size)
    loaded = columns.load(name for name in names if name != "choices")
    if "choices" in names:
        loaded["choices"] = columns.choices()
    return _frame(numbers, {name: loaded[name] for name in names})


def _all_columns(catalog: Catalog) -> list[str]:
    trial = [name for name in TRIAL_COLUMNS if name not in ("number", "state")]
    return ["state", *catalog.metrics, *trial, "choices"]


def curve(sql: Transaction, study: int, objectives: Sequence[Metric]) -> pd.DataFrame:
    """See `StudyRecord.curve`."""
    numbers, places = history.completed(sql, study), history.completed_at(sql, study)
    _, size = history.counts(sql, study)
    catalog = Catalog(sql, study)
    columns = Columns(sql, catalog, numbers, size).load(metric.name for metric in objectives)
    return pd.DataFrame({"number": numbers, **columns}, index=pd.Index(places, name="finish_seq"))


def _where(
    sql: Transaction, catalog: Catalog, numbers: Integers, size: int, condition: Filter | None
) -> NDArray[np.bool_]:
    if condition is None:
        return np.ones(len(numbers), dtype=np.bool_)
    condition.check(catalog.kinds)
    return condition.mask(Columns(sql, catalog, numbers, size).load(condition.names), len(numbers))


def _frame(numbers: Integers, columns: dict[str, Column]) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index(numbers, name="number"))
