"""Which trials of which earlier studies a new study learns from; settled when it is created, and kept in its record."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.errors import FilterError, SpaceError, StoreError, StudyError, brief
from nas.metrics import Constraint, Metric
from nas.search import Algorithm, Source, Transfer
from nas.search.sources import chosen
from nas.store import Store, StudyRecord
from nas.store.damage import SUSPICIOUS, ArchRule, schema_fault, sentence

if TYPE_CHECKING:
    from nas.space import Space

LEAST = 10  # measured trials of a study that is taken without being named
MOST = 8  # studies that are taken without being named, the youngest


def ready(algorithm: Algorithm, settings: Mapping[str, Any]) -> Algorithm:
    """A new algorithm as it was declared, with the sources that the study was created with."""
    if isinstance(algorithm, Transfer) and algorithm.unresolved != []:
        stored = [_kept(one) for one in settings.get("sources", ())]
        return algorithm.given([*algorithm.sources, *stored])
    return copy.deepcopy(algorithm)


def _kept(record: Any) -> Source:
    """A source as it was kept in a study's settings.

    Raises:
        StoreError: it is none.
    """
    try:
        source = Source.from_json(record)
        fault = schema_fault(source.schema)
        if fault is None and all(map(ArchRule(source.schema).fits, source.rows)):
            return source
        why: object = fault or "an arch is none of its space"
    except SUSPICIOUS as error:
        why = error
    raise StoreError(sentence("studies", f"the settings hold a source that is none ({brief(why)})"))


def sources_for(
    algorithm: Algorithm,
    name: str,
    store: Store,
    *,
    space: Space,
    objectives: Sequence[Metric],
    constraints: Sequence[Constraint],
) -> dict[str, Any]:
    """Settings of a study that is created: the trials of its sources, if its algorithm wants any.

    Raises:
        StudyError: a source that was named is the study itself, measured other metrics, or is of another space.
        StoreError: there is no study of that name.
    """
    if not isinstance(algorithm, Transfer) or algorithm.unresolved == []:
        return {}
    wanted = algorithm.unresolved
    if wanted is not None and name in wanted:
        raise StudyError(f"study {name!r} cannot learn from itself; name other studies, or give from_=None for all")
    found: list[Source] = []
    for other in wanted if wanted is not None else _youngest(store, name):
        source = _source(store.open_study(other), space, objectives, constraints)
        if isinstance(source, Source):
            found.append(source)
        elif wanted is not None:
            raise StudyError(f"study {name!r} cannot learn from study {other!r}: {source}")
        if wanted is None and len(found) == MOST:
            break
    return {"sources": [source.to_json() for source in found]}


def _youngest(store: Store, name: str) -> list[str]:
    """Other studies with enough trials, the youngest first."""
    summaries = [one for one in store.studies() if one.name != name and one.counts.get("COMPLETED", 0) >= LEAST]
    return [one.name for one in reversed(summaries)]


def _source(
    record: StudyRecord, space: Space, objectives: Sequence[Metric], constraints: Sequence[Constraint]
) -> Source | str:
    """The trials of a study that measured all objectives on archs of `space`, or why there are none."""
    stored = record.history()
    columns = [_column(record, metric.name) for metric in objectives]
    missing = [metric.name for metric, column in zip(objectives, columns, strict=True) if column is None]
    if missing:
        return f"it measured no {', '.join(missing)}"
    signed = zip(objectives, columns, strict=True)
    values = np.array(
        [[metric.sign * (column or {}).get(int(n), np.nan) for n in stored.numbers] for metric, column in signed]
    )
    values = values.T.reshape(len(stored), len(objectives))
    at = np.flatnonzero(np.isfinite(values).all(1) & (np.array(stored.states, dtype=object) != "FAILED"))
    if not len(at):
        return "none of its trials has all objectives"
    violations = _violations(record, stored.numbers[at].tolist(), constraints)
    rows, kept, why = [], [], ""
    for one in chosen(values[at], violations):
        row = int(at[one])
        try:
            arch = space.from_row(stored.rows[row], stored.schemas[int(stored.space_ids[row])])
        except SpaceError as error:
            why = str(error)
            continue
        rows.append(list(arch.row()))
        kept.append(one)
    if not rows:
        return why
    wanted = tuple(f"{metric.goal} {metric.name}" for metric in objectives)
    return Source(record.name, wanted, space.schema(), rows, values[at][kept], violations[kept])


def _violations(record: StudyRecord, numbers: Sequence[int], constraints: Sequence[Constraint]) -> Any:
    """(n,) how far trials of another study violate this one's constraints, as far as it measured them."""
    total = np.zeros(len(numbers))
    for constraint in constraints:
        column = _column(record, constraint.metric) or {}
        total += [constraint.violation(column[number]) if number in column else 0.0 for number in numbers]
    return total


def _column(record: StudyRecord, metric: str) -> dict[int, float] | None:
    """Measurements of one metric by trial number; None where the study never heard of it."""
    try:
        series = record.trials(columns=[metric])[metric].dropna()
    except FilterError:
        return None
    return {int(str(number)): float(value) for number, value in series.items()}
