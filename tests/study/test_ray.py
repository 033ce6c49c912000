"""The same study on Ray actors."""

from __future__ import annotations

from pathlib import Path

import pytest

import nas
from tests.study.landscapes import grid, study

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
