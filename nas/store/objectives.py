"""Other objectives for a study that has trials: the front is taken anew from what they measured."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import sqlalchemy as sa
from sqlalchemy import bindparam as p

from nas.errors import StoreError, suggest
from nas.metrics import Metric
from nas.store import history
from nas.store import statements as s
from nas.store.columns import Catalog, Columns, check_places
from nas.store.records import StudyInfo
from nas.store.schema import front, studies
from nas.store.sql import Statement, Transaction

_SET = Statement(
    sa.update(studies)
    .where(studies.c.id == p("study"))
    .values(objectives=p("v"), front_version=studies.c.front_version + sa.literal_column("1")),
    "v study",
)
_CLEAR = Statement(sa.delete(front).where(front.c.study_id == p("study")), "study")


def encoded(objectives: Sequence[Metric]) -> str:
    """Objectives as the database keeps them."""
    return json.dumps([{"name": m.name, "goal": m.goal, "unit": m.unit} for m in objectives])


def change(sql: Transaction, study: StudyInfo, objectives: Sequence[Metric]) -> None:
    """Make `objectives` the study's, on which nobody works.

    Raises:
        StoreError: a COMPLETED trial has no value of one.
    """
    from nas.pareto import non_dominated

    catalog = Catalog(sql, study.id)
    for metric in objectives:
        if metric.name not in catalog.metrics:
            raise StoreError(
                f"metric {metric.name!r} was not measured in study {study.name!r}{suggest(metric.name, catalog.metrics)}; "
                f"there are {', '.join(catalog.metrics)}"
            )
    _, size = history.counts(sql, study.id)
    numbers = history.completed(sql, study.id)
    check_places(numbers, size)
    measured = Columns(sql, catalog, numbers, size).load(metric.name for metric in objectives)
    for metric in objectives:
        lacking = numbers[np.isnan(measured[metric.name])]
        if len(lacking):
            raise StoreError(
                f"{metric.name!r} cannot be an objective of study {study.name!r}: {len(lacking)} of {len(numbers)} COMPLETED "
                f"trials have not measured it, the first is trial {lacking.min()}; nas front --objectives shows the others"
            )
    points = np.stack([measured[metric.name] * metric.sign for metric in objectives], axis=1)
    sql.run(_SET, (encoded(objectives), study.id))
    sql.run(_CLEAR, (study.id,))
    best = numbers[non_dominated(points)].tolist() if len(numbers) else []
    rows = [
        (json.dumps(dict(sql.all(s.FINALS_OF_TRIAL, (study.id, number))), separators=(",", ":")), study.id, number)
        for number in best
    ]
    sql.many(s.ENTER_FRONT, rows)
