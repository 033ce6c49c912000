"""Studies that PyGlove's generators and Optuna's samplers drive: stopped and gone on with, they end as undisturbed ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
import pyglove as pg
import pytest

import nas
from nas.errors import StudyError
from nas.search import Algorithm
from nas.space import Arch

ALGORITHMS: list[Callable[[], Algorithm]] = [
    lambda: nas.DNASearch(pg.evolution.regularized_evolution(population_size=8, tournament_size=3)),
    lambda: nas.OptunaSearch("tpe", {"n_startup_trials": 5}),
    lambda: nas.OptunaSearch(optuna.samplers.NSGAIISampler(population_size=6)),
]


def score(arch: Arch) -> dict[str, float]:
    if arch.choices["d0"] == 3:
        raise nas.Infeasible("too large")
    if arch.choices["d1"] == 3 and arch.choices["d2"] == 3:
        raise ValueError("does not build")
    return {"score": float(sum(arch.genome))}


def study(store: Path, algorithm: Algorithm) -> nas.Study:
    space = nas.Space(pg.Dict({f"d{i}": pg.oneof([0, 1, 2, 3]) for i in range(5)}), name="toy")
    return nas.Study("toy", space=space, objectives=["max score"], evaluators=[score], algorithm=algorithm, store=store)


@pytest.mark.parametrize("make", ALGORITHMS)
def test_a_study_that_was_stopped_ends_as_an_undisturbed_one(make: Callable[[], Algorithm], tmp_path: Path) -> None:
    for trials in (7, 15, 24):
        study(tmp_path / "stopped.db", make()).run(trials, workers=0, progress=False)
    study(tmp_path / "whole.db", make()).run(24, workers=0, progress=False)
    stopped, whole = (study(tmp_path / f"{name}.db", make()).record for name in ("stopped", "whole"))
    assert [stopped.trial(number).key for number in range(24)] == [whole.trial(number).key for number in range(24)]
    assert len(stopped.keys()) == 24
    assert stopped.counts()["COMPLETED"] > 10


def test_a_study_goes_on_with_the_algorithm_that_it_was_begun_with(tmp_path: Path) -> None:
    study(tmp_path / "nas.db", ALGORITHMS[0]()).run(3, workers=0, progress=False)
    with pytest.raises(StudyError, match="begun with algorithm"):
        study(tmp_path / "nas.db", nas.DNASearch(pg.geno.Random())).run(5, workers=0, progress=False)
