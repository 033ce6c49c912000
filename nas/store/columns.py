"""The columns of a study by name: of trials, of metrics, of decisions; loaded when they are asked for.

Rows come from a bare cursor and become arrays at once: as objects, a million of them cost fourteen times as much.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import bindparam as p

from nas.measurements import TRIAL
from nas.store.damage import RULES, Suspect, check, parsed, refuse_strays
from nas.store.filters import NOTHING, Column, Kind, Table, column_key, kind_of, metric_key, trial_key
from nas.store.numbers import Numbers
from nas.store.schema import FINAL, TRIAL_COLUMNS, measurements, metrics, spaces, study_spaces, trials
from nas.store.spaces import Choices, Reader
from nas.store.sql import Among, Answer, Row, Statement, Transaction
from nas.store.statements import STRAY_MEASUREMENTS, STRAY_METRICS

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_BATCH = 50_000
CHUNK = 200_000

_METRICS = Statement(
    sa.select(metrics.c.name, metrics.c.id).where(metrics.c.study_id == p("study")).order_by(metrics.c.id), "study"
)
_SCHEMAS = Statement(
    sa.select(spaces.c.id, spaces.c.schema)
    .join_from(study_spaces, spaces, spaces.c.id == study_spaces.c.space_id)
    .where(study_spaces.c.study_id == p("study"))
    .order_by(spaces.c.id),
    "study",
)
_FINAL = measurements.c.step == sa.literal_column(str(FINAL))
_OF_METRIC = (measurements.c.metric_id == p("metric"), _FINAL)
_VALUES = Statement(sa.select(measurements.c.value).where(*_OF_METRIC).order_by(measurements.c.number), "metric")
_MEASURED = Statement(sa.select(measurements.c.number).where(*_OF_METRIC).order_by(measurements.c.number), "metric")
# By these it shows whether the trials that have a value are 0, 1, 2…, all of them.
_EXTENT = Statement(
    sa.select(
        sa.func.count(),
        sa.func.min(measurements.c.number),
        sa.func.max(measurements.c.number),
        sa.func.sum(measurements.c.number),
    ).where(*_OF_METRIC),
    "metric",
)
_METRIC_AMONG = Among(
    lambda within: sa.select(measurements.c.number, measurements.c.value).where(
        *_OF_METRIC, within(measurements.c.number)
    ),
    "metric",
)


def _of_trials(*names: str) -> tuple[Statement, Among]:
    """Columns of all trials of a study, and of some of them; the number comes first."""
    select = sa.select(trials.c.number, *(trials.c[name] for name in names)).where(trials.c.study_id == p("study"))
    return Statement(select, "study"), Among(lambda within: select.where(within(trials.c.number)), "study")


_TRIAL = {name: _of_trials(name) for name in TRIAL_COLUMNS if name != "number"}
_ARCHS = _of_trials("arch", "space_id")


def texts_of(name: str) -> Statement:
    """A column of texts of the trials with numbers in a range (`chunks`), in their order, for `Transaction.joined`."""
    select = sa.select(trials.c[name]).where(
        trials.c.study_id == p("study"), trials.c.number >= p("low"), trials.c.number < p("high")
    )
    return Statement(select.order_by(trials.c.number), "study low high")


ARCH_TEXTS = texts_of("arch")


def chunks(study: int, size: int) -> list[tuple[int, int, int]]:
    """Parameters of `texts_of` that together are all trials of a study of this size."""
    return [(study, low, low + CHUNK) for low in range(0, max(size, 1), CHUNK)]


def schemas(sql: Transaction, study: int) -> dict[int, dict[str, Any]]:
    """Schemas of the study's spaces by identity, oldest first."""
    return _schemas(sql.all(_SCHEMAS, (study,)))


def _schemas(rows: Sequence[Row]) -> dict[int, dict[str, Any]]:
    found = {identity: parsed("spaces", "schema", text) for identity, text in rows}
    if not found:
        raise Suspect("a study has no space")
    return found


def transpose(rows: Sequence[Row], width: int) -> list[tuple[Any, ...]]:
    """Columns of rows; `width` empty ones when there are no rows."""
    return list(zip(*rows, strict=True)) if rows else [()] * width


def column(sql: Transaction, metric: int | None, size: int) -> Floats:
    """(size,) final values of a metric by trial number; NaN where there is none."""
    if metric is None:
        return np.full(size, np.nan)
    extent = sql.soon(_EXTENT, (metric,))
    found: Floats = sql.arrays(_VALUES, (metric,), "d")[0]
    _check_numbers(found)
    ((count, first, last, total),) = extent()
    if (count, first, last, total) == (size, 0, size - 1, size * (size - 1) // 2):
        return found  # every trial has one, so that nobody need say which
    values = np.full(size, np.nan)
    if len(found):
        (numbers,) = sql.arrays(_MEASURED, (metric,), "i")
        check_places(numbers, size)
        values[numbers] = found
    return values


def check_places(numbers: Integers, size: int) -> None:
    """Whether these are different trials of a study with `size` of them.

    Raises:
        Suspect: they are not.
    """
    if len(numbers) and not (
        numbers.min() >= 0 and numbers.max() < size and np.bincount(numbers, minlength=size).max() == 1
    ):
        raise Suspect("values belong to trials that are not there")


def check_all_there(numbers: Integers) -> None:
    """Whether these are trials 0, 1, 2, … in any order.

    Raises:
        Suspect: they are not.
    """
    if not np.array_equal(np.sort(numbers), np.arange(len(numbers))):
        raise Suspect("trials are not numbered 0, 1, 2…")


def check_measured(values: Floats, what: str) -> None:
    """Whether every COMPLETED trial has the objectives of its study.

    Raises:
        Suspect: one has not.
    """
    if np.isnan(values).any():
        raise Suspect(f"{what} of a COMPLETED trial was not measured")


def _check_numbers(found: Floats) -> None:
    if np.isnan(found).any():
        raise Suspect("a measurement is no number")


def _scatter(values: NDArray[Any], numbers: Integers | None, rows: Sequence[Row], name: str) -> None:
    """Put the second column of `rows` where the first one says: at that index, or at that number's place in `numbers`."""
    at, found = transpose(rows, 2)
    rule = RULES["trials"][name] if name in RULES["trials"] else RULES["measurements"]["value"]
    if any(type(index) is not int for index in at) or any(map(rule, found)):
        raise Suspect(f"{name} has values that it cannot have")
    index = np.array(at, dtype=np.int64)
    if numbers is None:
        check_places(index, len(values))
        places = index
    else:
        places = np.searchsorted(numbers, index)
        if not np.array_equal(numbers[np.minimum(places, len(numbers) - 1)], index):
            raise Suspect(f"{name} belongs to trials that are not there")
    values[places] = np.array(found, dtype=values.dtype)


@dataclass(frozen=True)
class _Decision:
    """Where a decision is in the rows of each space, and what its numbers mean there."""

    name: str
    places: dict[int, tuple[int, list[Any] | None]] = field(default_factory=dict)  # space → index, labels

    @property
    def labels(self) -> list[Any]:
        return [label for _, labels in self.places.values() for label in labels or ()]

    @property
    def kinds(self) -> frozenset[Kind]:
        kinds = {kind_of(label) for label in self.labels}
        if any(labels is None for _, labels in self.places.values()):
            kinds.add("number")
        return frozenset(kinds)

    @property
    def numbers(self) -> frozenset[float]:
        """Candidates that are numbers."""
        return frozenset(float(label) for label in self.labels if kind_of(label) == "number")


class Catalog:
    """What columns a study has: by name, and by the way a filter spells it.

    A name that several have means the trial's column, then the metric, and no filter may use it; `trial["name"]`,
    `measurements["name"]` and `choices["name"]` always mean the trial's column, the metric and the decision.
    """

    def __init__(self, sql: Transaction, study: int) -> None:
        self.study = study
        names, texts = sql.soon(_METRICS, (study,)), sql.soon(_SCHEMAS, (study,))
        refuse_strays(sql, STRAY_METRICS, STRAY_MEASUREMENTS)
        self.metrics: dict[str, int] = {}
        for name, identity in names():
            check("metrics", {"name": name, "id": identity}, study)
            self.metrics[name] = identity
        self.schemas: dict[int, dict[str, Any]] = _schemas(texts())
        self.whole: dict[int, Floats] = {}  # metrics that were read whole, for what asks for them again

    @cached_property
    def readers(self) -> dict[int, Reader]:
        """What gives archs their labels, by space."""
        return {space: Reader(schema, self.study) for space, schema in self.schemas.items()}

    @cached_property
    def decisions(self) -> dict[str, _Decision]:
        """Decisions by name and by every way a filter spells it."""
        named: dict[str, _Decision] = {}
        for space, schema in self.schemas.items():
            for index, entry in enumerate(schema["decisions"]):
                decision = named.setdefault(entry["name"], _Decision(entry["name"]))
                decision.places[space] = (index, entry.get("candidates"))
        spelled: dict[str, _Decision] = {}
        for name, decision in named.items():
            for spelling in (name, column_key(name), column_key(f"choices[{name!r}]")):
                if spelling is not None:
                    spelled.setdefault(spelling, decision)
        return spelled

    @cached_property
    def measured(self) -> dict[str, int]:
        """Metrics by name and by every way a filter spells it."""
        return self.metrics | {metric_key(name): identity for name, identity in self.metrics.items()}

    @cached_property
    def of_trials(self) -> dict[str, str]:
        """Columns of trials by name and by every way a filter spells it; tables call the number `trial`."""
        number = {} if TRIAL in self.metrics else {TRIAL: "number"}
        return {name: name for name in TRIAL_COLUMNS} | {trial_key(name): name for name in TRIAL_COLUMNS} | number

    @property
    def kinds(self) -> dict[str, frozenset[Kind]]:
        """Kind of every column by the way a filter spells it, metrics first."""
        kinds: dict[str, frozenset[Kind]] = {name: frozenset({"number"}) for name in self.measured}
        kinds |= {name: frozenset({TRIAL_COLUMNS[column]}) for name, column in self.of_trials.items()}
        for spelling, decision in self.decisions.items():
            if spelling == column_key(spelling):
                kinds.setdefault(spelling, decision.kinds)
        return kinds

    @property
    def ambiguous(self) -> dict[str, tuple[str, ...]]:
        """What a filter may mean by a name that several columns have, as it spells each."""
        found: dict[str, tuple[str, ...]] = {}
        for name in {*TRIAL_COLUMNS, TRIAL, *self.metrics}:
            column = "number" if name == TRIAL else name
            meant = [f'trial["{column}"]'] if column in TRIAL_COLUMNS else []
            meant += [f'measurements["{name}"]'] if name in self.metrics else []
            meant += [f'choices["{name}"]'] if name in self.decisions else []
            if len(meant) > 1:
                found[name] = tuple(meant)
        return found

    def __contains__(self, name: str) -> bool:
        return name in self.measured or name in self.of_trials or name in self.decisions


class Columns:
    """Columns of some trials of a study, aligned with their numbers.

    Args:
        numbers: (n,) trial numbers, in any order.
        size: how many trials the study has, to choose between a scan and a search.
    """

    def __init__(self, sql: Transaction, catalog: Catalog, numbers: Integers, size: int) -> None:
        self._sql = sql
        self._catalog = catalog
        self._numbers = numbers
        self._few = len(numbers) * 8 < size
        self._size = size
        self._asked: dict[int, Answer] = {}

    @cached_property
    def _order(self) -> Integers:
        return np.argsort(self._numbers, kind="stable")

    @cached_property
    def _sorted(self) -> Integers:
        return self._numbers[self._order]

    def table(self, names: Iterable[str]) -> Table:
        """Columns as a filter reads them: of a decision that chose the candidate None, `NOTHING`."""
        wanted = list(names)
        catalog = self._catalog
        decided = [name for name in wanted if name not in catalog.of_trials and name not in catalog.measured]
        return Table(self.load(wanted, nothing=NOTHING), {name: catalog.decisions[name].numbers for name in decided})

    def load(self, names: Iterable[str], nothing: object = None) -> dict[str, Column]:
        """Columns by name: float64 with NaN, or objects with None, where a trial has no value.

        Args:
            names: of the columns.
            nothing: stands for the candidate None, where that was chosen.
        """
        wanted = list(dict.fromkeys(names))
        catalog = self._catalog
        self._ask([catalog.measured[name] for name in wanted if name in catalog.measured])
        loaded: dict[str, Column] = {}
        decisions = []
        for name in wanted:
            if name in catalog.of_trials:
                loaded[name] = self._trial(catalog.of_trials[name])
            elif name in catalog.measured:
                loaded[name] = self._metric(catalog.measured[name])
            else:
                decisions.append(name)
        if decisions:
            loaded |= self._decided({name: catalog.decisions[name] for name in decisions}, nothing)
        return {name: loaded[name] for name in wanted}

    def choices(self, *, lazy: bool) -> Column:
        """Label or value by decision name, a dict a trial, or (`lazy`) a mapping that is decoded when it is looked at."""
        values = np.empty(len(self._numbers), dtype=object)
        readers = self._catalog.readers
        for at, space, texts in self._archs():
            reader = readers[space]
            for place, text in zip(at.tolist(), texts, strict=True):
                choices = Choices(reader, text, int(self._sorted[place]))
                values[place] = choices if lazy else dict(choices)
        return self._given_order(values)

    def _given_order(self, values: Column) -> Column:
        """From the order of numbers, in which rows arrive, to the order in which the numbers were given."""
        given = np.empty_like(values)
        given[self._order] = values
        return given

    def _ask(self, metrics: Iterable[int]) -> None:
        """Ask ahead for the values of metrics, where they are searched for."""
        if self._few:
            among = self._sorted.tolist()
            self._asked = {metric: _METRIC_AMONG.soon(self._sql, (metric,), among) for metric in metrics}

    def _metric(self, metric: int) -> Column:
        if not self._few:
            whole = self._catalog.whole
            if metric not in whole:
                whole[metric] = column(self._sql, metric, self._size)
            return whole[metric][self._numbers]
        values = np.full(len(self._numbers), np.nan)
        _scatter(values, self._sorted, self._asked[metric](), "value")
        return self._given_order(values)

    def _trial(self, name: str) -> Column:
        if name == "number":
            return self._numbers.astype(np.float64)
        scan, among = _TRIAL[name]
        rows = among.all(self._sql, (self._catalog.study,), self._sorted.tolist()) if self._few else self._scan(scan)
        values = np.empty(len(self._numbers), dtype=object if TRIAL_COLUMNS[name] == "text" else np.float64)
        if self._few:
            _scatter(values, self._sorted, rows, name)
            return self._given_order(values)
        every = np.empty(self._size, dtype=values.dtype)
        _scatter(every, None, rows, name)
        return every[self._numbers]

    def _scan(self, statement: Statement) -> list[Row]:
        return self._sql.all(statement, (self._catalog.study,))

    def _archs(self) -> Iterator[tuple[Integers, int, Sequence[str]]]:
        """Batches of archs of one space: (places in the order of numbers, space, rows as text)."""
        scan, among = _ARCHS
        study = (self._catalog.study,)
        if self._few:
            batches: Iterable[list[Row]] = [among.all(self._sql, study, self._sorted.tolist())]
        else:
            batches = self._sql.batches(scan, study, _BATCH)
        wanted = None
        if not self._few and len(self._sorted) < self._size:
            wanted = np.zeros(self._size, dtype=np.bool_)
            wanted[self._sorted] = True
        for batch in batches:
            rows = batch if wanted is None else [row for row in batch if wanted[row[0]]]
            for space in {row[2] for row in rows}:
                if space not in self._catalog.schemas:
                    raise Suspect("an arch is of a space that is not the study's")
                numbers, archs = zip(*((number, arch) for number, arch, of in rows if of == space), strict=True)
                yield np.searchsorted(self._sorted, np.array(numbers, dtype=np.int64)), space, archs

    def _decided(self, decisions: dict[str, _Decision], nothing: object) -> dict[str, Column]:
        """Values of decisions, one pass over the archs for all of them."""
        numeric = {name: decision.kinds == {"number"} for name, decision in decisions.items()}
        if not self._few and len(self._catalog.schemas) == 1:
            return self._decided_at_once(decisions, numeric, nothing)
        n = len(self._sorted)
        values: dict[str, Column] = {
            name: np.full(n, np.nan) if numeric[name] else np.full(n, None, dtype=object) for name in decisions
        }
        for at, space, texts in self._archs():
            reader = self._catalog.readers[space]
            numbers = self._sorted[at].tolist()
            rows = [reader.row(text, number) for text, number in zip(texts, numbers, strict=True)]
            for name, decision in decisions.items():
                if space in decision.places:
                    index, labels = decision.places[space]
                    raw = np.array([row[index] for row in rows], dtype=np.float64)  # None becomes NaN
                    values[name][at] = _labelled(raw, labels, numeric[name], nothing)
        return {name: self._given_order(column) for name, column in values.items()}

    def _decided_at_once(
        self, decisions: dict[str, _Decision], numeric: dict[str, bool], nothing: object
    ) -> dict[str, Column]:
        """`_decided` of most trials of one space: their archs as one text a chunk, and no Python object a trial."""
        (space,) = self._catalog.schemas
        width = len(self._catalog.schemas[space]["decisions"])
        raw: dict[str, list[Floats]] = {name: [] for name in decisions}
        for text in self._sql.joined(ARCH_TEXTS, chunks(self._catalog.study, self._size), ","):
            numbers = Numbers(text, width)
            for name, decision in decisions.items():
                index, _ = decision.places[space]
                raw[name].append(_within(numbers.column(index), self._catalog.schemas[space]["decisions"][index]))
        whole = {name: np.concatenate(parts) for name, parts in raw.items()}
        if any(len(column) != self._size for column in whole.values()):
            raise Suspect("a trial has no arch")
        values = {name: column[self._numbers] for name, column in whole.items()}
        return {
            name: _labelled(values[name], decision.places[space][1], numeric[name], nothing)
            for name, decision in decisions.items()
        }


def _within(raw: Floats, entry: dict[str, Any]) -> Floats:
    """Numbers of a decision, if they may be that: indices of its candidates, or values of its range; NaN is inactive."""
    known = raw[~np.isnan(raw)]
    if (labels := entry.get("candidates")) is not None:
        good = (known == np.floor(known)) & (known >= 0) & (known < len(labels))
    else:
        good = (known >= entry.get("min", -np.inf)) & (known <= entry.get("max", np.inf))
    if not good.all():
        raise Suspect("an arch is not one of its space")
    return raw


def _labelled(raw: Floats, labels: list[Any] | None, numeric: bool, nothing: object) -> Column:
    """What the numbers of a decision mean: values as they are, indices as their labels; NaN is inactive."""
    if labels is None:
        if numeric:
            return raw
        mixed = raw.astype(object)
        mixed[np.isnan(raw)] = None
        return mixed
    table = np.empty(len(labels) + 1, dtype=np.float64 if numeric else object)
    table[:] = [*(_value(label, nothing) for label in labels), None]
    return table[np.where(np.isnan(raw), len(labels), raw).astype(np.int64)]


def _value(label: Any, nothing: object) -> Any:
    if label is None:
        return nothing
    return label if isinstance(label, str | bool) else float(label)
