"""Metrics and decisions that are called as each other, or as a column of trials."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyglove as pg
import pytest

import nas
from nas import measurements
from nas.cli.output import records
from nas.errors import FilterError, MetricError
from nas.metrics import Metric, parse_constraint, parse_objective
from nas.page import page
from nas.store import open_store
from nas.store.filters import in_state
from nas.store.frames import flat

SHARED = ("params", "state", "number", "trial")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> nas.Study:
    """Decisions have names of a metric and of columns; `params` is measured as 100 for the candidate 1."""
    space = nas.Space(pg.Dict(**{name: pg.oneof([1, 2, 3]) for name in SHARED}))

    def measure(arch: Any) -> dict[str, float]:
        return {"x": float(arch.choices["state"]), "params": 100.0 * arch.choices["params"]}

    store = tmp_path_factory.mktemp("shared") / "s.db"
    study = nas.Study(
        "shared",
        space=space,
        objectives=["max x", "min params"],
        evaluators=[measure],
        store=store,
        trials=81,
        algorithm=nas.Exhaustive(),
    )
    study.run(workers=0, progress=False)
    assert len(study.trials()) == 81
    return study


@pytest.mark.parametrize(
    ("name", "spellings"),
    [
        ("params", 'measurements["params"] or choices["params"]'),
        ("state", 'trial["state"] or choices["state"]'),
        ("trial", 'trial["number"] or choices["trial"]'),
    ],
)
def test_a_filter_refuses_a_name_that_several_columns_have(shared: nas.Study, name: str, spellings: str) -> None:
    with pytest.raises(
        FilterError, match=f"several columns are called {name!r}; write {re.escape(spellings)}$"
    ) as error:
        shared.trials(f"x > 1 and {name} <= 2")
    assert error.value.place == (10, 10 + len(name))


@pytest.mark.parametrize(
    ("where", "size"),
    [
        ('measurements["params"] <= 2', 0),
        ("measurements['params'] <= 200", 54),
        ('choices["params"] <= 2', 54),
        ("trial['state'] == 'COMPLETED'", 81),
        ('choices["state"] == 1', 27),
        ('trial["number"] < 5', 5),
        (in_state("COMPLETED", 'choices["number"] == 1 or x == 3'), 45),
    ],
)
def test_each_has_a_spelling_of_its_own(shared: nas.Study, where: str, size: int) -> None:
    assert len(shared.trials(where)) == size
    assert len(shared.trials()) == 81


def test_csv_has_no_column_twice(shared: nas.Study) -> None:
    table = flat(shared.front().head(1)).reset_index()
    assert list(table.columns) == ["trial", "x", "params", 'choices["params"]', "state", "number", 'choices["trial"]']


def test_filters_take_trial_for_the_number(tmp_path: Path) -> None:
    study = nas.Study(
        "s",
        space=nas.Space(pg.Dict(a=pg.oneof([1, 2, 3]))),
        objectives=["max x"],
        evaluators=[lambda arch: {"x": 1.0}],
        store=tmp_path / "s.db",
    )
    study.run(3, workers=0, progress=False)
    assert study.trials("trial >= 1").index.tolist() == study.trials("number >= 1").index.tolist() == [1, 2]


def test_no_metric_is_called_trial(tmp_path: Path) -> None:
    for wrong in ("max trial", "min trial"):
        with pytest.raises(MetricError, match="'trial' is reserved"):
            parse_objective(wrong)
    with pytest.raises(MetricError, match="'trial' is reserved"):
        parse_constraint("trial <= 3")


def test_a_stored_metric_called_trial_is_shown_beside_the_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As databases of earlier versions may have it."""
    space = nas.Space(pg.Dict(a=pg.oneof([1, 2])))
    with monkeypatch.context() as earlier:
        earlier.setattr(measurements, "RESERVED", measurements.COLUMNS)
        study = nas.Study(
            "s",
            space=space,
            objectives=[Metric("trial", "max"), "min x"],
            evaluators=[lambda arch: {"x": 1.0, "trial": 30.0}],
            store=tmp_path / "s.db",
        )
        study.run(1, workers=0, progress=False)
    record = open_store(tmp_path / "s.db").open_study("s")
    front = record.front()
    assert records(front) == [
        {"trial": 0, 'measurements["trial"]': 30, "x": 1, "choices": {"a": front["choices"][0]["a"]}}
    ]
    assert list(flat(front).reset_index().columns) == ["trial", 'measurements["trial"]', "x", "a"]
    assert flat(front).reset_index().iloc[0, :2].tolist() == [0, 30]
    assert "<th>trial</th><th>measurements[&quot;trial&quot;]</th>" in page(
        "s", record.objectives, record.trials(), front
    )
    assert json.loads(json.dumps(records(record.trials())))[0]["trial"] == 0
    assert len(record.trials('measurements["trial"] == 30 and trial["number"] == 0')) == 1
    with pytest.raises(FilterError, match="trial"):
        record.trials("trial == 0")
