"""The same study on Ray actors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import nas
from tests.study.landscapes import grid, study, trade_off

pytest.importorskip("ray")
pytestmark = pytest.mark.ray


def test_a_study_finds_the_same_on_ray_as_in_this_process(tmp_path: Path) -> None:
    algorithm = nas.NSGA2(population=10, seed=3, synchronous=True)
    searches = [study(tmp_path / "nas.db", name, algorithm=algorithm, space=grid(8, 4)) for name in ("ray", "here")]
    on_ray = searches[0].run(40, workers=2, ray=True, progress=False)
    searches[1].run(40, workers=0, progress=False)
    assert on_ray.counts["COMPLETED"] == 40
    found = [search.trials()[["quality", "cost"]].to_numpy().tolist() for search in searches]
    assert found[0] == found[1]


def cost(arch: nas.Arch) -> dict[str, float]:
    return {"cost": trade_off(arch)["cost"], "pid": float(os.getpid())}


def quality(arch: nas.Arch) -> dict[str, float]:
    return {"quality": trade_off(arch)["quality"], "other_pid": float(os.getpid())}


def test_evaluators_with_needs_have_workers_of_their_own_and_find_the_same(tmp_path: Path) -> None:
    """Also on a Ray of one machine, which is started with what they ask for."""

    def declared(name: str, slow: Any) -> nas.Study:
        return study(
            tmp_path / "nas.db",
            name,
            evaluators=[slow, quality],
            constraints=["quality >= 0"],
            algorithm=nas.Exhaustive(),
        )

    place = nas.needs(lambda arch: cost(arch), resources={"bench": 1}, whole_node=True, workers=1)
    on_ray = declared("ray", place)
    summary = on_ray.run(64, workers=2, ray=True, progress=False)
    here = declared("here", cost)
    here.run(64, workers=0, progress=False)
    assert summary.counts == here.record.counts()
    assert summary.counts["INFEASIBLE"] > 0
    columns = ["quality", "cost"]
    assert on_ray.front()[columns].to_numpy().tolist() == here.front()[columns].to_numpy().tolist()
    trials = on_ray.trials("state == 'COMPLETED'")
    assert not set(trials["pid"]) & set(trials["other_pid"])
    infeasible = on_ray.trials("state == 'INFEASIBLE'")
    assert (
        "pid" not in infeasible.dropna(axis="columns", how="all").columns
    )  # they went no further than their constraint
