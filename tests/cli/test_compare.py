"""Studies beside each other."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nas as library
from nas.errors import StoreError
from nas.metrics import parse_objectives
from nas.pareto import hypervolume
from nas.store import open_store
from nas.store.comparing import compare
from tests.study.landscapes import grid, study, trade_off

Nas = Callable[..., Any]


def more(arch: library.Arch) -> dict[str, float]:
    return {**trade_off(arch), "params": float(arch.choices["x0"])}


@pytest.fixture
def nas(command: Nas) -> Nas:
    with open_store("nas.db") as store:
        study(store, "few", trials=6).run(workers=0, progress=False)
        study(store, "many", trials=40, evaluators=[more], algorithm=library.Exhaustive()).run(
            workers=0, progress=False
        )
        study(store, "other", objectives=["max params"], evaluators=[lambda a: {"params": 1.0}], trials=3).run(
            workers=0, progress=False
        )
        study(store, "opposite", objectives=["min quality"], trials=3).run(workers=0, progress=False)
        library.Study("empty", space=grid(), objectives=["max quality"], store=store).record  # noqa: B018
    return command


def test_fronts_are_compared_by_one_reference_point(nas: Nas) -> None:
    with open_store("nas.db") as store:
        records = [store.open_study(name) for name in ("few", "many")]
        found = compare(records)
        points = [np.stack([-r.trials()["quality"], r.trials()["cost"]], axis=1).astype(float) for r in records]
    every = np.concatenate(points)
    worst, best = every.max(axis=0), every.min(axis=0)
    expected = [hypervolume(one, worst) / np.prod(worst - best) for one in points]
    assert [one.hypervolume for one in found.studies] == pytest.approx(expected)
    assert found.reference == {"quality": -worst[0], "cost": worst[1]}
    few, many = found.studies
    assert (few.finished, many.finished) == (6, 40)
    assert few.curve[-1] == (6, few.hypervolume)
    assert many.attained[0.9] is not None
    assert [volume for _, volume in many.curve] == sorted(volume for _, volume in many.curve)
    assert few.joint + many.joint <= len(few.front) + len(many.front)
    assert "were evaluated differently" in found.notes[0]


def test_the_joint_front_counts_what_several_studies_found_for_each(nas: Nas) -> None:
    with open_store("nas.db") as store:
        for name in ("all-1", "all-2"):
            study(store, name, trials=64, algorithm=library.Exhaustive()).run(workers=0, progress=False)
        records = [store.open_study(name) for name in ("all-1", "few", "all-2")]
        found = {one.name: one for one in compare(records).studies}
        turned = {one.name: one for one in compare(records[::-1]).studies}
    assert {name: one.joint for name, one in found.items()} == {name: one.joint for name, one in turned.items()}
    assert found["all-1"].joint == found["all-2"].joint == len(found["all-1"].front) == 8
    every = {(row.quality, row.cost) for row in found["all-1"].front.itertuples()}
    assert found["few"].joint == len({(row.quality, row.cost) for row in found["few"].front.itertuples()} & every)


def test_a_comparison_in_every_format(nas: Nas, tmp_path: Path) -> None:
    table = nas("compare", "few", "many")
    assert table.code == 0
    for word in ("study", "hypervolume", "best_quality", "trials_to_90", "few", "many", "reference point: quality"):
        assert word in table.out
    data = json.loads(nas("compare", "few", "many", "--format", "json").out)
    assert [one["study"] for one in data["studies"]] == ["few", "many"]
    rows = list(csv.DictReader(nas("compare", "few", "many", "--format", "csv").out.splitlines()))
    assert set(rows[0]) == set(data["studies"][0]) - {"curve"}
    for name in ("c.png", "c.csv", "c.json"):
        assert nas("compare", "few", "many", "-o", name).out == f"wrote {name}\n"
        assert nas("compare", "few", "many", "-o", name).code == 0, "over its own output"
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "mine.csv").write_text("a,b\n")
    assert "exists already" in nas("compare", "few", "many", "-o", "mine.csv").err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["few", "other"], "study 'other' has measured none of the objectives of study 'few' (quality, cost)"),
        (["few", "opposite"], "study 'few' has max quality, study 'opposite' min quality; say which with --objectives"),
        (["few", "empty"], "study 'empty' has no completed trial with quality"),
        (["few", "man"], "no study 'man'; did you mean 'many'?"),
        (["few", "many", "--objectives", "max params"], "study 'few' has not measured 'params'"),
        (["few", "many", "-o", "c.txt"], "a table is not written to a file"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(words: list[str], said: str, nas: Nas) -> None:
    done = nas("compare", *words)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def test_a_metric_that_never_differs_bounds_no_volume(nas: Nas) -> None:
    with open_store("nas.db") as store:
        records = [store.open_study(name) for name in ("few", "other")]
        with pytest.raises(StoreError):
            compare(records)
        found = compare([store.open_study("other"), store.open_study("many")], parse_objectives("max params"))
    assert found.studies[0].hypervolume == pytest.approx(1 / 5, abs=1)
