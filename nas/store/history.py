"""A study as it happened: finished trials in the order of finishing, single trials, and counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import bindparam as p

from nas.metrics import Metric
from nas.store.columns import (
    ARCH_TEXTS,
    Catalog,
    Columns,
    Integers,
    check_all_there,
    check_measured,
    check_places,
    chunks,
    texts_of,
    transpose,
)
from nas.store.damage import Suspect, check, of_row, parsed, refuse_strays
from nas.store.records import FINISHED, History, Pending, State, TrialRecord
from nas.store.schema import FINAL, measurements, metrics, spaces, studies, trials
from nas.store.spaces import Reader, Rows
from nas.store.sql import Row, Statement, Transaction
from nas.store.statements import STRAY_MEASUREMENTS, STRAY_METRICS

# From so many trials on, a whole history is read by columns.
_MANY = 2_000

_MINE = trials.c.study_id == p("study")

_FINISHED = Statement(
    sa.select(
        trials.c.number,
        trials.c.key,
        trials.c.arch,
        trials.c.space_id,
        trials.c.state,
        trials.c.violation,
        trials.c.finish_seq,
    )
    .where(_MINE, trials.c.finish_seq > p("after"))
    .order_by(trials.c.finish_seq),
    "study after",
)
_BY_FINISH = (_MINE, trials.c.finish_seq > sa.literal_column("0"))
_FINISHED_NUMBERS = Statement(sa.select(trials.c.number).where(*_BY_FINISH).order_by(trials.c.finish_seq), "study")
_FINISH_EXTENT = Statement(
    sa.select(sa.func.count(), sa.func.min(trials.c.finish_seq), sa.func.max(trials.c.finish_seq)).where(
        _MINE, trials.c.finish_seq.is_not(None)
    ),
    "study",
)
_SPACES = Statement(sa.select(trials.c.space_id).where(*_BY_FINISH).order_by(trials.c.finish_seq), "study")
_NOT_COMPLETED = Statement(
    sa.select(trials.c.finish_seq, trials.c.state, trials.c.violation).where(
        *_BY_FINISH, trials.c.state != sa.literal_column("'COMPLETED'")
    ),
    "study",
)
_KEY_TEXTS = texts_of("key")
_PENDING = Statement(
    sa.select(
        trials.c.number,
        trials.c.key,
        trials.c.arch,
        trials.c.space_id,
        trials.c.state,
        trials.c.worker,
        trials.c.attempt,
        trials.c.seed,
    )
    .where(_MINE, trials.c.finish_seq.is_(None))
    .order_by(trials.c.number),
    "study",
)
_IS_COMPLETED = (*_BY_FINISH, trials.c.state == sa.literal_column("'COMPLETED'"))
_COMPLETED = Statement(sa.select(trials.c.number).where(*_IS_COMPLETED).order_by(trials.c.finish_seq), "study")
_COMPLETED_AT = Statement(sa.select(trials.c.finish_seq).where(*_IS_COMPLETED).order_by(trials.c.finish_seq), "study")
_NUMBERS = Statement(sa.select(trials.c.number).where(_MINE).order_by(trials.c.number), "study")
_KEYS = Statement(sa.select(trials.c.key).where(_MINE), "study")
_COUNTS = Statement(
    sa.select(studies.c.completed, studies.c.infeasible, studies.c.failed, studies.c.next_number).where(
        studies.c.id == p("study")
    ),
    "study",
)
_PENDING_COUNTS = Statement(
    sa.select(trials.c.state, sa.func.count()).where(_MINE, trials.c.finish_seq.is_(None)).group_by(trials.c.state),
    "study",
)
_RECORD = sa.select(
    trials.c.number,
    trials.c.key,
    trials.c.state,
    trials.c.arch,
    spaces.c.schema,
    trials.c.worker,
    trials.c.attempt,
    trials.c.seed,
    trials.c.created,
    trials.c.started,
    trials.c.finished,
    trials.c.duration_s,
    trials.c.violation,
    trials.c.reason,
).join_from(trials, spaces, spaces.c.id == trials.c.space_id, isouter=True)
_COLUMNS = "number key state arch schema worker attempt seed created started finished duration_s violation reason"
_BY_NUMBER = Statement(_RECORD.where(_MINE, trials.c.number == p("no")), "study no")
_BY_KEY = Statement(_RECORD.where(_MINE, trials.c.key == p("arch_key")), "study arch_key")
_MEASURED = Statement(
    sa.select(metrics.c.name, measurements.c.step, measurements.c.value)
    .join_from(metrics, measurements, measurements.c.metric_id == metrics.c.id)
    .where(metrics.c.study_id == p("study"), measurements.c.number == p("no"))
    .order_by(metrics.c.id, measurements.c.step),
    "study no",
)


def history(sql: Transaction, study: int, objectives: Sequence[str], after: int, *, pending: bool = True) -> History:
    """See `StudyRecord.history`."""
    by_state, size = counts(sql, study)
    catalog = Catalog(sql, study)
    waiting = [_pending(row, catalog) for row in sql.all(_PENDING, (study,))] if pending else []
    at_once = after == 0 and size > _MANY
    finished = _at_once(sql, catalog, size) if at_once else _row_by_row(sql, catalog, after)
    _check_whole(finished, waiting if pending else None, by_state, size, after)
    measured = Columns(sql, catalog, finished.numbers, size).load(objectives)
    completed = np.array(finished.states, dtype=object) == "COMPLETED"
    for name in objectives:
        check_measured(measured[name][completed], f"objective {name!r}")
    return History(
        numbers=finished.numbers,
        keys=finished.keys,
        rows=Rows(finished.archs, catalog.readers, finished.space_ids.tolist(), finished.numbers.tolist()),
        space_ids=finished.space_ids,
        states=finished.states,
        values=np.stack([measured[name] for name in objectives], axis=1),
        violations=finished.violations,
        schemas=catalog.schemas,
        pending=waiting,
        last=finished.last or after,
    )


def _pending(row: Row, catalog: Catalog) -> Pending:
    number, key, arch, space, state, worker, attempt, seed = row
    of_row("trials", "number key arch space_id state worker attempt seed", row, catalog.study, number)
    if state in FINISHED or space not in catalog.readers:
        raise Suspect(f"trial {number} is {state} and has not finished, or is of a space that is not its study's")
    return Pending(number, key, catalog.readers[space].row(arch, number), space, state, worker, attempt, seed)


def _check_whole(
    finished: _Trials, pending: Sequence[Pending] | None, by_state: Mapping[State, int], size: int, after: int
) -> None:
    """Whether a history is that of the whole study.

    Raises:
        Suspect: a trial is missing, or is none.
    """
    if finished.last - after != len(finished.numbers) and len(finished.numbers):
        raise Suspect("finished trials are not counted 1, 2, 3…")
    if after + len(finished.numbers) != sum(by_state[state] for state in FINISHED):
        raise Suspect("the study counts other trials than it has")
    if after == 0:
        if any(by_state[state] != finished.states.count(state) for state in FINISHED):
            raise Suspect("the study counts other states than its trials have")
        if pending is not None:
            waiting = np.array([one.number for one in pending], dtype=np.int64)
            check_all_there(np.concatenate([finished.numbers, waiting]))
    check_places(finished.numbers, size)


@dataclass(frozen=True)
class _Trials:
    """Finished trials in the order of finishing; `last` is the place of the last one, 0 when there is none."""

    numbers: Integers
    keys: list[str]
    archs: Sequence[str]
    space_ids: Integers
    states: list[State]
    violations: NDArray[np.float64]
    last: int


def _row_by_row(sql: Transaction, catalog: Catalog, after: int) -> _Trials:
    rows = sql.all(_FINISHED, (catalog.study, after))
    for at, row in enumerate(rows):
        of_row("trials", "number key arch space_id state violation finish_seq", row, catalog.study, row[0])
        if row[3] not in catalog.schemas or row[4] not in FINISHED or row[6] != after + at + 1:
            raise Suspect(f"trial {row[0]} is of another space, has not finished, or is not counted")
    numbers, keys, archs, space_ids, states, violations, places = transpose(rows, 7)
    return _Trials(
        np.array(numbers, dtype=np.int64),
        list(keys),
        archs,
        np.array(space_ids, dtype=np.int64),
        list(states),
        np.array(violations, dtype=np.float64),  # None becomes NaN
        places[-1] if places else 0,
    )


def _at_once(sql: Transaction, catalog: Catalog, size: int) -> _Trials:
    """All of them, by columns: the numbers as arrays, the texts as one text a chunk, by trial number.

    Places in the order of finishing count 1, 2, 3…, most trials are COMPLETED and most studies have one space: only what
    differs from that is read.
    """
    study, schemas = catalog.study, catalog.schemas
    check_order(sql, study)
    (numbers,) = sql.arrays(_FINISHED_NUMBERS, (study,), "i")
    if len(schemas) > 1:
        (space_ids,) = sql.arrays(_SPACES, (study,), "i")
    else:
        space_ids = np.full(len(numbers), next(iter(schemas)), dtype=np.int64)
    states: list[State] = ["COMPLETED"] * len(numbers)
    violations = np.zeros(len(numbers))
    for place, state, violation in sql.all(_NOT_COMPLETED, (study,)):
        of_row("trials", "finish_seq state violation", (place, state, violation), study)
        if state not in FINISHED or place > len(numbers):
            raise Suspect(f"a trial that has finished is {state}")
        states[place - 1] = state
        violations[place - 1] = math.nan if violation is None else violation
    if set(space_ids.tolist()) - set(schemas) or len(space_ids) != len(numbers):
        raise Suspect("a trial is of a space that is not its study's")
    check_places(numbers, size)
    order = numbers.tolist()
    keys, archs = (
        list(chain.from_iterable(text.split(";") for text in sql.joined(texts, chunks(study, size), ";")))
        for texts in (_KEY_TEXTS, ARCH_TEXTS)
    )
    if len(keys) != size or len(archs) != size:
        raise Suspect("a trial has no key or no arch")
    return _Trials(
        numbers,
        list(map(keys.__getitem__, order)),
        list(map(archs.__getitem__, order)),
        space_ids,
        states,
        violations,
        len(numbers),
    )


def check_order(sql: Transaction, study: int) -> None:
    """Whether finished trials are counted 1, 2, 3…: what is none of these sorts to an end.

    Raises:
        Suspect: they are not.
    """
    row = sql.one(_FINISH_EXTENT, (study,))
    if row is None or row not in {(0, None, None), (row[0], 1, row[0])} or type(row[2]) not in (int, type(None)):
        raise Suspect("finished trials are not counted 1, 2, 3…")


def completed(sql: Transaction, study: int) -> Integers:
    """Numbers of the COMPLETED trials in the order in which they finished."""
    check_order(sql, study)
    return sql.arrays(_COMPLETED, (study,), "i")[0]


def completed_at(sql: Transaction, study: int) -> Integers:
    """Places of the COMPLETED trials in the order in which all finished."""
    return sql.arrays(_COMPLETED_AT, (study,), "i")[0]


def every(sql: Transaction, study: int) -> Integers:
    """Numbers of all trials."""
    return sql.arrays(_NUMBERS, (study,), "i")[0]


def keys(sql: Transaction, study: int) -> set[str]:
    """Keys of all trials."""
    return set(chain.from_iterable(sql.all(_KEYS, (study,))))


def counts(sql: Transaction, study: int) -> tuple[dict[State, int], int]:
    """Trials by state, and all of them; the counters of the study, and the pending ones counted."""
    finished, waiting = sql.soon(_COUNTS, (study,)), sql.soon(_PENDING_COUNTS, (study,))
    row = next(iter(finished()), (0, 0, 0, 0))
    of_row("studies", "completed infeasible failed next_number", row, study)
    pending: dict[str, int] = dict(waiting())
    if set(pending) - {"WAITING", "RUNNING"} or sum(row[:3]) + sum(pending.values()) != row[3]:
        raise Suspect("the study counts other trials than it has")
    by_state: dict[State, int] = {
        "WAITING": pending.get("WAITING", 0),
        "RUNNING": pending.get("RUNNING", 0),
        "COMPLETED": row[0],
        "INFEASIBLE": row[1],
        "FAILED": row[2],
    }
    return by_state, row[3]


def record(
    sql: Transaction, study: int, own: Sequence[Metric], *, number: int | None = None, key: str | None = None
) -> TrialRecord | None:
    """The trial with this number or key, if there is one."""
    row = sql.one(_BY_KEY, (study, key)) if number is None else sql.one(_BY_NUMBER, (study, number))
    if row is None:
        return None
    of_row("trials", _COLUMNS, row, study, row[0])
    schema: dict[str, Any] = parsed("spaces", "schema", row[4], study)
    reader = Reader(schema, study)
    finals: dict[str, float] = {}
    curves: dict[str, list[tuple[int, float]]] = {}
    for name, step, value in sql.all(_MEASURED, (study, row[0])):
        check("metrics", {"name": name}, study)
        of_row("measurements", "step value", (step, value), study, row[0])
        if step == FINAL:
            finals[name] = value
        else:
            curves.setdefault(name, []).append((step, value))
    refuse_strays(sql, STRAY_METRICS, STRAY_MEASUREMENTS)
    missing = [metric.name for metric in own if metric.name not in finals]
    if row[2] == "COMPLETED" and missing:
        raise Suspect(f"objective {missing[0]!r} of COMPLETED trial {row[0]} was not measured")
    numbers = reader.row(row[3], row[0])
    return TrialRecord(
        number=row[0],
        key=row[1],
        state=row[2],
        row=numbers,
        choices=reader.decode(numbers),
        schema=schema,
        worker=row[5],
        attempt=row[6],
        seed=row[7],
        created=row[8],
        started=row[9],
        finished=row[10],
        duration_s=row[11],
        violation=row[12],
        reason=row[13],
        measurements=finals,
        curves=curves,
    )
