"""Tables of trials and fronts, as pandas frames."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nas.errors import FilterError, StoreError, suggest
from nas.measurements import TRIAL, heading
from nas.metrics import Metric, unit_of
from nas.noise import half_spread, is_noisy, with_noise
from nas.store import history
from nas.store.columns import Catalog, Columns, Integers, check_all_there, check_measured, check_places, transpose
from nas.store.damage import Suspect, parsed, refuse_strays
from nas.store.filters import Column, Filter, Table
from nas.store.schema import TRIAL_COLUMNS
from nas.store.spaces import Choices
from nas.store.sql import Transaction
from nas.store.statements import FRONT, FRONT_AGREEING, STRAY_FRONT
from nas.text import human, printable

# Beyond so many trials choices are decoded when they are looked at.
_LAZY = 10_000
_EXACT = 2.0**53
_SHOWN = 100  # trials of a table in a notebook


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
    numbers = _completed(sql, catalog, size, condition)
    measured = Columns(sql, catalog, numbers, size).load(metric.name for metric in chosen)
    for metric in own:
        if metric.name in measured:
            check_measured(measured[metric.name], f"objective {metric.name!r}")
    numbers = _non_dominated(numbers, measured, chosen)
    columns = Columns(sql, catalog, numbers, size)
    loaded = columns.load([*(metric.name for metric in chosen), *catalog.metrics])
    return _front_frame(numbers, {**loaded, "choices": columns.choices(lazy=False)}, chosen[0], catalog)


def _kept_front(sql: Transaction, study: int, objectives: Sequence[Metric]) -> pd.DataFrame:
    """The front that is kept with the trials; everything is asked at once, so that a server is waited for once."""
    kept, agreeing = sql.soon(FRONT, (study,)), sql.soon(FRONT_AGREEING, (study,))
    catalog = Catalog(sql, study)
    _check_objectives(catalog, objectives)
    rows = kept()
    numbers, spaces, _, texts = transpose(rows, 4)
    refuse_strays(sql, STRAY_FRONT)
    if set(spaces) - set(catalog.schemas) or agreeing() != [(len(rows),)]:
        raise Suspect("a row of the front is not that of its trial")
    finals = [parsed("front", "finals", text, study, number) for text, number in zip(texts, numbers, strict=True)]
    names = dict.fromkeys([*(metric.name for metric in objectives), *catalog.metrics])
    loaded: dict[str, Column] = {
        name: np.array([values.get(name, math.nan) for values in finals], dtype=np.float64) for name in names
    }
    choices = np.empty(len(numbers), dtype=object)
    for metric in objectives:
        check_measured(loaded[metric.name], f"objective {metric.name!r}")
    for at, (number, space, arch, _) in enumerate(rows):  # one by one: as a list they would be decoded
        choices[at] = dict(Choices(catalog.readers[space], arch, number))
    return _front_frame(np.array(numbers, dtype=np.int64), {**loaded, "choices": choices}, objectives[0], catalog)


def _completed(sql: Transaction, catalog: Catalog, size: int, condition: Filter | None) -> Integers:
    """Numbers of the COMPLETED trials that meet the condition, in the order of finishing."""
    numbers = history.completed(sql, catalog.study)
    check_places(numbers, size)
    if len(numbers) != history.counts(sql, catalog.study)[0]["COMPLETED"]:
        raise Suspect("the study counts other COMPLETED trials than it has")
    return numbers[meeting(sql, catalog, numbers, size, condition)]


def _non_dominated(numbers: Integers, columns: dict[str, Column], objectives: Sequence[Metric]) -> Integers:
    """Of the trials that have every objective those that none dominates; of equal ones, the first to finish."""
    from nas.pareto import non_dominated

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


def _front_frame(numbers: Integers, columns: dict[str, Column], first: Metric, catalog: Catalog) -> pd.DataFrame:
    """Best in the first objective first; `numbers` breaks ties so that the table does not depend on how it was computed."""
    order = np.lexsort((numbers, columns[first.name] * first.sign))
    return _frame(numbers[order], {name: values[order] for name, values in columns.items()}, _counted(catalog))


def trials(
    sql: Transaction,
    study: int,
    own: Sequence[Metric],
    *,
    where: str | None,
    wanted: Sequence[str] | None,
    limit: int | None,
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
    check_all_there(numbers)
    size = len(numbers)
    if size != history.counts(sql, study)[1]:
        raise Suspect("the study counts other trials than it has")
    numbers = numbers[meeting(sql, catalog, numbers, size, condition)][:limit]
    return of_numbers(sql, catalog, own, numbers, size=size, wanted=names)


def of_numbers(
    sql: Transaction,
    catalog: Catalog,
    own: Sequence[Metric],
    numbers: Integers,
    *,
    size: int,
    wanted: Sequence[str] | None = None,
) -> pd.DataFrame:
    """These trials of a study of `size`, in this order; all columns unless some are wanted."""
    names = list(wanted) if wanted is not None else _all_columns(catalog)
    columns = Columns(sql, catalog, numbers, size)
    objectives = {metric.name for metric in own}.intersection(names)
    loaded = columns.load([*(name for name in names if name != "choices"), *(["state"] if objectives else [])])
    for name in objectives:
        check_measured(loaded[name][loaded["state"] == "COMPLETED"], f"objective {name!r}")
    if "choices" in names:
        loaded["choices"] = columns.choices(lazy=len(numbers) > _LAZY)
    return _frame(numbers, {name: loaded[name] for name in names}, _counted(catalog))


def table(sql: Transaction, study: int, names: Sequence[str], where: str) -> Table:
    """See `StudyRecord.table`."""
    catalog = Catalog(sql, study)
    numbers = history.every(sql, study)
    check_all_there(numbers)
    size = len(numbers)
    numbers = numbers[meeting(sql, catalog, numbers, size, Filter(where))]
    return Columns(sql, catalog, numbers, size).table(names)


def _all_columns(catalog: Catalog) -> list[str]:
    trial = [name for name in TRIAL_COLUMNS if name not in ("number", "state")]
    return ["state", *catalog.metrics, *trial, "choices"]


def curve(sql: Transaction, study: int, objectives: Sequence[Metric]) -> pd.DataFrame:
    """See `StudyRecord.curve`."""
    numbers, places = history.completed(sql, study), history.completed_at(sql, study)
    by_state, size = history.counts(sql, study)
    catalog = Catalog(sql, study)
    check_places(numbers, size)
    if len(numbers) != by_state["COMPLETED"]:
        raise Suspect("the study counts other COMPLETED trials than it has")
    columns = Columns(sql, catalog, numbers, size).load(metric.name for metric in objectives)
    for metric in objectives:
        check_measured(columns[metric.name], f"objective {metric.name!r}")
    return pd.DataFrame({"number": numbers, **columns}, index=pd.Index(places, name="finish_seq"))


def meeting(
    sql: Transaction, catalog: Catalog, numbers: Integers, size: int, condition: Filter | None
) -> NDArray[np.bool_]:
    """(n,) which of the trials with these numbers meet a condition."""
    if condition is None:
        return np.ones(len(numbers), dtype=np.bool_)
    condition.check(catalog.kinds, catalog.ambiguous)
    return condition.mask(Columns(sql, catalog, numbers, size).table(condition.names), len(numbers))


class Trials(pd.DataFrame):  # type: ignore[misc]  # pandas has no types here
    """A table whose column `choices` is written as what it holds: labels and numbers by decision.

    Parquet has one type for each decision: where the candidates of one are of several kinds, they are written as JSON text.
    """

    @property
    def _constructor(self) -> Callable[..., pd.DataFrame]:
        return Trials

    def _repr_html_(self) -> str:
        """For a notebook: a person's numbers, short choices, text escaped; `pandas.DataFrame(front)` shows all."""
        shown = self.head(_SHOWN)
        heads = "".join(f"<th>{html.escape(printable(name))}</th>" for name in (TRIAL, *map(heading, shown.columns)))
        rows = []
        for number, row in zip(shown.index, shown.to_dict("records"), strict=True):
            cells = "".join(f"<td>{html.escape(_short(row, str(name)))}</td>" for name in shown.columns)
            rows.append(f"<tr><th>{html.escape(printable(number))}</th>{cells}</tr>")
        more = f"<p>… and {len(self) - _SHOWN} trials more</p>" if len(self) > _SHOWN else ""
        return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>{more}"

    def to_json(self, *arguments: Any, **options: Any) -> Any:
        """As of any frame."""
        return self._plain(dict).to_json(*arguments, **options)

    def to_parquet(self, *arguments: Any, **options: Any) -> Any:
        """As of any frame."""
        mixed = _mixed(self["choices"]) if "choices" in self.columns else frozenset()

        def row(choices: Mapping[str, Any]) -> dict[str, Any] | None:
            typed = {name: json.dumps(value) if name in mixed else value for name, value in choices.items()}
            return typed or None

        return self._plain(row).to_parquet(*arguments, **options)

    def _plain(self, row: Callable[[Mapping[str, Any]], Any]) -> pd.DataFrame:
        plain = pd.DataFrame(self)
        if "choices" in plain.columns:
            values = np.empty(len(plain), dtype=object)
            values[:] = [row(choices) for choices in plain["choices"]]
            plain = plain.assign(choices=pd.Series(values, index=plain.index, dtype=object))
        return plain


def flat(front: pd.DataFrame) -> pd.DataFrame:
    """One column a decision instead of `choices`; a decision with the name of another column as filters spell it."""
    measured = front.drop(columns="choices", errors="ignore").rename(columns=heading)
    if "choices" not in front.columns:
        return measured.rename_axis(index=TRIAL)
    choices = pd.DataFrame(front["choices"].map(dict).tolist(), index=front.index, dtype=object)
    taken = {TRIAL, *measured.columns}
    choices = choices.rename(columns=lambda name: f'choices["{name}"]' if name in taken else name)
    flat = pd.concat([measured, choices], axis=1)
    flat = flat.rename(columns=printable).map(lambda value: printable(value) if isinstance(value, str) else value)
    return flat.rename_axis(index=TRIAL)


def _short(row: Mapping[Any, Any], name: str) -> str:
    value = row[name]
    if isinstance(value, Mapping):
        return printable(" ".join(f"{choice}={label}" for choice, label in value.items()))
    if value is None or value is pd.NA:
        return ""
    if isinstance(value, (int, float)) and math.isfinite(value) and (half := half_spread(row, name)) is not None:
        return with_noise(float(value), half, is_noisy(row, name))
    return printable(human(value))


def _mixed(choices: pd.Series[Any]) -> frozenset[str]:
    """Decisions whose values are of several kinds, or beyond 64 bits."""
    kinds: dict[str, set[str]] = {}
    for one in choices:
        for name, value in one.items():
            if value is not None:
                huge = isinstance(value, int) and not -(2**63) <= value < 2**63
                kinds.setdefault(name, set()).add("huge" if huge else type(value).__name__)
    return frozenset(
        name for name, found in kinds.items() if found == {"huge"} or (len(found) > 1 and found != {"int", "float"})
    )


def _frame(numbers: Integers, columns: dict[str, Column], counted: Iterable[str]) -> pd.DataFrame:
    """A table of these columns, of which those that are `counted` and whole are integers, as counts are."""
    names = set(counted)
    typed = {name: whole(values) if name in names else values for name, values in columns.items()}
    return Trials(typed, index=pd.Index(numbers, name="number"))


def whole(values: Column) -> Any:
    """Integers (nullable where one is missing) if all values are whole numbers that a float holds exactly; else as they are."""
    known = ~np.isnan(values)
    found = values[known]
    if not len(found) or (found != np.floor(found)).any() or (np.abs(found) > _EXACT).any():
        return values
    if known.all():
        return values.astype(np.int64)
    return pd.arrays.IntegerArray(np.where(known, values, 0).astype(np.int64), ~known)


def _counted(catalog: Catalog) -> list[str]:
    """Columns that may be counts: attempts, and metrics whose names carry no unit."""
    return ["attempt", *(name for name in catalog.metrics if not unit_of(name))]
