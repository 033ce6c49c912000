"""A study as it happened: finished trials in the order of finishing, single trials, and counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import bindparam as p

from nas.store.columns import ARCH_TEXTS, CHUNK, Catalog, Columns, Integers, texts_of, transpose
from nas.store.records import FINISHED, History, Pending, State, TrialRecord
from nas.store.schema import FINAL, front, measurements, metrics, spaces, studies, trials
from nas.store.spaces import Reader, Rows
from nas.store.sql import Statement, Transaction

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
# Without NULL: -1 is a violation that is not known.
_FINISHED_NUMBERS = Statement(
    sa.select(
        trials.c.number,
        trials.c.finish_seq,
        trials.c.space_id,
        sa.case(
            (trials.c.state == sa.literal_column("'COMPLETED'"), sa.literal_column("0")),
            (trials.c.state == sa.literal_column("'INFEASIBLE'"), sa.literal_column("1")),
            else_=sa.literal_column("2"),
        ),
        sa.func.coalesce(trials.c.violation, sa.literal_column("-1.0")),
    )
    .where(_MINE, trials.c.finish_seq > sa.literal_column("0"))
    .order_by(trials.c.finish_seq),
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
_COMPLETED = Statement(
    sa.select(trials.c.number, trials.c.finish_seq)
    .where(_MINE, trials.c.finish_seq > sa.literal_column("0"), trials.c.state == sa.literal_column("'COMPLETED'"))
    .order_by(trials.c.finish_seq),
    "study",
)
_NUMBERS = Statement(sa.select(trials.c.number).where(_MINE).order_by(trials.c.number), "study")
_KEYS = Statement(sa.select(trials.c.key).where(_MINE), "study")
_FRONT = Statement(sa.select(front.c.number).where(front.c.study_id == p("study")), "study")
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
).join_from(trials, spaces, spaces.c.id == trials.c.space_id)
_BY_NUMBER = Statement(_RECORD.where(_MINE, trials.c.number == p("no")), "study no")
_BY_KEY = Statement(_RECORD.where(_MINE, trials.c.key == p("arch_key")), "study arch_key")
_MEASURED = Statement(
    sa.select(metrics.c.name, measurements.c.step, measurements.c.value)
    .join_from(metrics, measurements, measurements.c.metric_id == metrics.c.id)
    .where(metrics.c.study_id == p("study"), measurements.c.number == p("no"))
    .order_by(metrics.c.id, measurements.c.step),
    "study no",
)


def history(sql: Transaction, study: int, objectives: Sequence[str], after: int) -> History:
    """See `StudyRecord.history`."""
    size = counts(sql, study)[1]
    finished = _at_once(sql, study, size) if after == 0 and size > _MANY else _row_by_row(sql, study, after)
    catalog = Catalog(sql, study)
    measured = Columns(sql, catalog, finished.numbers, size).load(objectives)
    return History(
        numbers=finished.numbers,
        keys=finished.keys,
        rows=Rows(finished.archs),
        space_ids=finished.space_ids,
        states=finished.states,
        values=np.stack([measured[name] for name in objectives], axis=1),
        violations=finished.violations,
        schemas=catalog.schemas,
        pending=[Pending(row[0], row[1], json.loads(row[2]), *row[3:]) for row in sql.all(_PENDING, (study,))],
        last=finished.last or after,
    )


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


def _row_by_row(sql: Transaction, study: int, after: int) -> _Trials:
    numbers, keys, archs, space_ids, states, violations, places = transpose(sql.all(_FINISHED, (study, after)), 7)
    return _Trials(
        np.array(numbers, dtype=np.int64),
        list(keys),
        archs,
        np.array(space_ids, dtype=np.int64),
        list(states),
        np.array(violations, dtype=np.float64),  # None becomes NaN
        places[-1] if places else 0,
    )


def _at_once(sql: Transaction, study: int, size: int) -> _Trials:
    """All of them, by columns: the numbers as arrays, the texts as one text a chunk, by trial number."""
    numbers, places, space_ids, codes, violations = sql.arrays(_FINISHED_NUMBERS, (study,), "iiiid")
    keys: list[str] = []
    archs: list[str] = []
    for low in range(0, size, CHUNK):
        keys += sql.joined(_KEY_TEXTS, (study, low, low + CHUNK)).split(",")
        archs += sql.joined(ARCH_TEXTS, (study, low, low + CHUNK)).replace("],[", "];[").split(";")
    order = numbers.tolist()
    return _Trials(
        numbers,
        [keys[number] for number in order],
        [archs[number] for number in order],
        space_ids,
        [FINISHED[code] for code in codes.tolist()],
        np.where(violations < 0, np.nan, violations),
        int(places[-1]) if len(places) else 0,
    )


def completed(sql: Transaction, study: int) -> tuple[Integers, Integers]:
    """Numbers of the COMPLETED trials in the order in which they finished, and their places in it among all finished ones."""
    numbers, places = sql.arrays(_COMPLETED, (study,), "ii")
    return numbers, places


def every(sql: Transaction, study: int) -> Integers:
    """Numbers of all trials."""
    return sql.arrays(_NUMBERS, (study,), "i")[0]


def keys(sql: Transaction, study: int) -> set[str]:
    """Keys of all trials."""
    return set(chain.from_iterable(sql.all(_KEYS, (study,))))


def on_front(sql: Transaction, study: int) -> Integers:
    """Numbers of the trials on the maintained front."""
    return sql.arrays(_FRONT, (study,), "i")[0]


def counts(sql: Transaction, study: int) -> tuple[dict[State, int], int]:
    """Trials by state, and all of them; the counters of the study, and the pending ones counted."""
    finished, waiting = sql.soon(_COUNTS, (study,)), sql.soon(_PENDING_COUNTS, (study,))
    row = next(iter(finished()), (0, 0, 0, 0))
    pending: dict[str, int] = dict(waiting())
    by_state: dict[State, int] = {
        "WAITING": pending.get("WAITING", 0),
        "RUNNING": pending.get("RUNNING", 0),
        "COMPLETED": row[0],
        "INFEASIBLE": row[1],
        "FAILED": row[2],
    }
    return by_state, row[3]


def record(sql: Transaction, study: int, *, number: int | None = None, key: str | None = None) -> TrialRecord | None:
    """The trial with this number or key, if there is one."""
    row = sql.one(_BY_KEY, (study, key)) if number is None else sql.one(_BY_NUMBER, (study, number))
    if row is None:
        return None
    finals: dict[str, float] = {}
    curves: dict[str, list[tuple[int, float]]] = {}
    for name, step, value in sql.all(_MEASURED, (study, row[0])):
        if step == FINAL:
            finals[name] = value
        else:
            curves.setdefault(name, []).append((step, value))
    numbers = json.loads(row[3])
    schema: dict[str, Any] = json.loads(row[4])
    return TrialRecord(
        number=row[0],
        key=row[1],
        state=row[2],
        row=numbers,
        choices=Reader(schema).decode(numbers),
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
