from __future__ import annotations

from pathlib import Path

import pytest

import nas
from nas.study.constant import ENOUGH
from tests.study.landscapes import grid, study


def flat(arch: nas.Arch) -> dict[str, float]:
    """As accurate as guessing, whatever the arch is."""
    return {"quality": 0.1, "cost": float(sum(arch.choices.values()))}


@pytest.mark.parametrize(("trials", "told"), [(ENOUGH - 1, False), (ENOUGH, True)])
def test_an_objective_with_one_value_in_many_trials_is_told(tmp_path: Path, trials: int, told: bool) -> None:
    search = study(tmp_path / "nas.db", algorithm=nas.RandomSearch(), space=grid(8, 4), evaluators=[flat])
    summary = search.run(trials, workers=0, progress=False)
    assert bool(summary.note) == told
    assert (f"; note: quality is 0.1 in all {trials} completed trials" in str(summary)) == told
    assert "cost" not in summary.note


def test_objectives_that_differ_are_not_told(tmp_path: Path) -> None:
    summary = study(tmp_path / "nas.db", algorithm=nas.RandomSearch(), trials=30).run(workers=0, progress=False)
    assert summary.counts["COMPLETED"] == 30
    assert not summary.note
