"""Looks at a study of any size: how far it is, a page of its trials, a sample for a picture, who works on it, why trials failed.

Nothing here reads all rows unless a filter or an order asks for a whole column.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import bindparam as p

from nas.errors import FilterError, suggest
from nas.store import history
from nas.store.columns import Catalog, Columns, Integers
from nas.store.damage import Suspect, of_row
from nas.store.filters import Column, Filter
from nas.store.records import FINISHED, State
from nas.store.schema import TRIAL_COLUMNS, studies, trials
from nas.store.sql import Statement, Transaction

if TYPE_CHECKING:
    import pandas as pd

    from nas.metrics import Metric

_MINE = trials.c.study_id == p("study")
_HEAD = Statement(
    sa.select(studies.c.created, studies.c.finished, studies.c.next_number, studies.c.front_version).where(
        studies.c.id == p("study")
    ),
    "study",
)
_SINCE = Statement(
    sa.select(trials.c.finish_seq, trials.c.number, trials.c.state)
    .where(_MINE, trials.c.finish_seq > p("after"))
    .order_by(trials.c.finish_seq)
    .limit(p("most")),
    "study after most",
)
_LEASES = Statement(
    sa.select(trials.c.number, trials.c.worker, trials.c.started, trials.c.lease_until)
    .where(_MINE, trials.c.finish_seq.is_(None), trials.c.state == sa.literal_column("'RUNNING'"))
    .order_by(trials.c.number),
    "study",
)
_WHY = sa.func.substr(trials.c.reason, 1, 300).label("why")
_REASONS = Statement(
    sa.select(trials.c.state, _WHY, sa.func.count().label("n"), sa.func.min(trials.c.number))
    .where(
        _MINE,
        trials.c.finish_seq > sa.literal_column("0"),
        trials.c.state.in_([sa.literal_column("'FAILED'"), sa.literal_column("'INFEASIBLE'")]),
    )
    .group_by(trials.c.state, _WHY)
    .order_by(sa.desc("n"))
    .limit(p("most")),
    "study most",
)
_TIMES = Statement(
    sa.select(trials.c.finished)
    .where(_MINE, trials.c.finish_seq > p("after"), trials.c.finished.is_not(None))
    .order_by(trials.c.finish_seq),
    "study after",
)
_EXTENT = Statement(
    sa.select(sa.func.count(), sa.func.min(trials.c.number), sa.func.max(trials.c.number)).where(_MINE), "study"
)
_LEASED = Statement(
    sa.select(sa.func.min(trials.c.lease_until)).where(
        _MINE, trials.c.finish_seq.is_(None), trials.c.state == sa.literal_column("'RUNNING'")
    ),
    "study",
)
_HELD = Statement(
    sa.select(trials.c.number).where(
        _MINE,
        trials.c.finish_seq.is_(None),
        trials.c.state == sa.literal_column("'RUNNING'"),
        trials.c.worker == p("owner"),
    ),
    "study owner",
)
_MOST_REASONS = 2_000  # texts that are looked at, the most frequent first
_NUMBER = re.compile(r"(?<![\w.])[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?(?!\w)", re.IGNORECASE)
_SPAN = 200  # trials of which the present rate is taken


@dataclass(frozen=True, slots=True)
class Position:
    """How far a study is.  Two that are equal say that nothing was finished, added, or tried again in between.

    Args:
        finished: trials that have finished; the place of the last one in the order of finishing.
        added: trials that there are.
        front_version: grows with every change of the front.
        counts: trials by state.
    """

    finished: int
    added: int
    front_version: int
    counts: dict[State, int]


@dataclass(frozen=True, slots=True)
class Standing:
    """What whoever hands out trials asks first.

    Args:
        position: of the study.
        held: numbers of the trials that are leased to a worker.
        lease_ends: when the first of all leases ends, in seconds since the epoch; None where there is none.
    """

    position: Position
    held: frozenset[int]
    lease_ends: float | None


@dataclass(frozen=True, slots=True)
class Ended:
    """A trial that finished: its place in the order of finishing, its number and its state."""

    place: int
    number: int
    state: State


@dataclass(frozen=True, slots=True)
class Lease:
    """Who evaluates a trial, since when, and until when it is theirs (seconds since the epoch)."""

    number: int
    worker: str
    started: float
    until: float


@dataclass(frozen=True, slots=True)
class Reasons:
    """Trials that failed, or are infeasible, for one reason (its first 300 letters), and the first of them.

    Reasons that differ in their numbers alone are one, which then has … in their places.
    """

    state: State
    reason: str
    count: int
    first: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some trials of those that a filter leaves, in an order, and how many it leaves."""

    frame: pd.DataFrame
    total: int


def position(sql: Transaction, study: int) -> Position:
    """See `StudyRecord.position`."""
    row = sql.one(_HEAD, (study,))
    if row is None:
        raise Suspect("the study is not there")
    of_row("studies", "created finished next_number front_version", row, study)
    counts, size = history.counts(sql, study)
    return Position(row[1], size, row[3], counts)


def standing(sql: Transaction, study: int, worker: str) -> Standing:
    """See `StudyRecord.standing`."""
    held = sql.all(_HELD, (study, worker))
    first = sql.one(_LEASED, (study,))
    ends = None if first is None else first[0]
    for row in held:
        of_row("trials", "number", row, study)
    of_row("trials", "lease_until", (ends,), study)
    return Standing(position(sql, study), frozenset(number for (number,) in held), ends)


def ended(sql: Transaction, study: int, after: int, most: int) -> list[Ended]:
    """See `StudyRecord.ended`."""
    rows = sql.all(_SINCE, (study, after, most))
    for place, number, state in rows:
        of_row("trials", "finish_seq number state", (place, number, state), study, number)
        if state not in FINISHED:
            raise Suspect(f"trial {number} is {state} and has finished")
    return [Ended(*row) for row in rows]


def leases(sql: Transaction, study: int) -> list[Lease]:
    """See `StudyRecord.leases`."""
    rows = sql.all(_LEASES, (study,))
    for row in rows:
        of_row("trials", "number worker started lease_until", row, study, row[0])
        if None in row:
            raise Suspect(f"trial {row[0]} is RUNNING without a worker or a lease")
    return [Lease(*row) for row in rows]


def reasons(sql: Transaction, study: int, most: int) -> list[Reasons]:
    """See `StudyRecord.reasons`."""
    rows = sql.all(_REASONS, (study, _MOST_REASONS))
    merged: dict[tuple[State, str], Reasons] = {}
    for state, why, count, first in rows:
        of_row("trials", "state reason number", (state, why, first), study, first)
        kind = state, _NUMBER.sub("…", why or "")
        known = merged.get(kind)
        merged[kind] = (
            Reasons(state, why or "", count, first)
            if known is None
            else Reasons(state, kind[1], known.count + count, min(known.first, first))
        )
    return sorted(merged.values(), key=lambda one: (-one.count, one.first))[:most]


def times(sql: Transaction, study: int) -> list[float]:
    """See `StudyRecord.recent_times`."""
    row = sql.one(_HEAD, (study,))
    if row is None:
        raise Suspect("the study is not there")
    of_row("studies", "created finished next_number front_version", row, study)
    found = sql.all(_TIMES, (study, max(0, row[1] - _SPAN)))
    for one in found:
        of_row("trials", "finished", one, study)
    return [one for (one,) in found]


def page(
    sql: Transaction,
    study: int,
    own: Sequence[Metric],
    *,
    where: str | None,
    by: str,
    descending: bool,
    start: int,
    count: int,
) -> Page:
    """See `StudyRecord.page`."""
    from nas.store import frames

    catalog = Catalog(sql, study)
    if by not in catalog:
        known = [*catalog.metrics, *TRIAL_COLUMNS, *catalog.decisions]
        raise FilterError(f"trials cannot be sorted by {by!r}{suggest(by, known)}; there are {', '.join(known[:30])}")
    numbers, size = _among(sql, catalog, where)
    if by == "number":
        numbers = numbers[::-1] if descending else numbers
    else:
        values = Columns(sql, catalog, numbers, size).load([by])[by]
        numbers = numbers[_order(values, numbers, descending)]
    return Page(frames.of_numbers(sql, catalog, own, numbers[start : start + count], size=size), len(numbers))


def metric_names(sql: Transaction, study: int) -> list[str]:
    """See `StudyRecord.metric_names`."""
    return list(Catalog(sql, study).metrics)


def check_names(sql: Transaction, study: int, names: Sequence[str]) -> None:
    """See `StudyRecord.check_names`."""
    catalog = Catalog(sql, study)
    for name in names:
        if name not in catalog:
            known = [*catalog.metrics, *TRIAL_COLUMNS, *catalog.decisions]
            raise FilterError(f"there is no column {name!r}{suggest(name, known)}; there are {', '.join(known[:20])}")


def sample(
    sql: Transaction, study: int, own: Sequence[Metric], names: Sequence[str], *, where: str | None, most: int
) -> Page:
    """See `StudyRecord.sample`."""
    from nas.store import frames

    catalog = Catalog(sql, study)
    numbers, size = _among(sql, catalog, where)
    total = len(numbers)
    if total > most:
        numbers = numbers[np.linspace(0, total - 1, most).astype(np.int64)]
    return Page(frames.of_numbers(sql, catalog, own, numbers, size=size, wanted=names), total)


def _among(sql: Transaction, catalog: Catalog, where: str | None) -> tuple[Integers, int]:
    """Numbers of the trials that a filter leaves, ascending, and how many trials there are."""
    from nas.store import frames

    _, size = history.counts(sql, catalog.study)
    if where is None:
        return np.arange(size, dtype=np.int64), size
    condition = Filter(where)
    numbers = np.arange(size, dtype=np.int64)
    if sql.one(_EXTENT, (catalog.study,)) != ((size, 0, size - 1) if size else (0, None, None)):
        raise Suspect("trials are not numbered 0, 1, 2…")
    return numbers[frames.meeting(sql, catalog, numbers, size, condition)], size


def _order(values: Column, numbers: Integers, descending: bool) -> Any:
    """Places in an order by value, then by number; what has no value comes last."""
    if values.dtype == np.float64:
        return np.lexsort((numbers, -values if descending else values, np.isnan(values)))
    known = {value for value in values if value is not None}
    ranks = {value: rank for rank, value in enumerate(sorted(known, key=_sortable))}
    ranked = np.array([ranks.get(value, 0) for value in values], dtype=np.int64)
    missing = np.array([value is None for value in values], dtype=np.bool_)
    return np.lexsort((numbers, -ranked if descending else ranked, missing))


def _sortable(value: object) -> tuple[bool, float, str]:
    """Numbers by size, then flags and texts by name."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (not is_number, float(value) if is_number else 0.0, "" if is_number else str(value))  # type: ignore[arg-type]
