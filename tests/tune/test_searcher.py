from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nas
from nas.errors import AlgorithmError, MetricError
from tests.study.landscapes import grid, trade_off

pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

OBJECTIVES = ["max quality", "min cost"]


def searcher(algorithm: Any = None, side: int = 8, **options: Any) -> Any:
    from nas.tune import Searcher

    algorithm = algorithm or nas.NSGA2(population=6, seed=3)
    return Searcher(grid(side), algorithm, **{"objectives": OBJECTIVES, **options})


def measured(config: dict[str, Any]) -> dict[str, float]:
    return trade_off(grid().arch(config["arch"]["choices"]))


def go_on(one: Any, trials: range) -> list[Any]:
    found = []
    for number in trials:
        config = one.suggest(f"t{number}")
        found.append(config["arch"]["choices"])
        one.on_trial_complete(f"t{number}", measured(config))
    return found


def test_it_proposes_what_the_algorithm_proposes_to_a_study(tmp_path: Path) -> None:
    study = nas.Study(
        "grid",
        space=grid(),
        objectives=OBJECTIVES,
        evaluators=[trade_off],
        algorithm=nas.NSGA2(population=6, seed=3),
        store=tmp_path / "nas.db",
        trials=20,
    )
    study.run(workers=0, progress=False)
    assert go_on(searcher(), range(20)) == [study.arch(number).choices for number in range(20)]


def test_unless_told_it_is_the_algorithm_of_a_study_that_is_not_told(tmp_path: Path) -> None:
    from nas.tune import Searcher

    study = nas.Study("grid", space=grid(), objectives=OBJECTIVES, evaluators=[trade_off], store=tmp_path / "nas.db")
    study.run(10, workers=0, progress=False)
    untold = Searcher(grid(), objectives=OBJECTIVES)
    assert go_on(untold, range(10)) == [study.arch(number).choices for number in range(10)]


def test_saved_and_restored_it_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = go_on(searcher(), range(30))
    first, second = searcher(), searcher()
    begun = go_on(first, range(15))
    open_one = first.suggest("open")
    first.save_to_dir(str(tmp_path))
    (saved,) = tmp_path.iterdir()
    json.loads(saved.read_text())  # no pickle
    second.restore_from_dir(str(tmp_path))
    second.on_trial_complete("open", measured(open_one))
    rest = go_on(second, range(16, 30))
    assert [*begun, open_one["arch"]["choices"], *rest] == whole
    copied = pickle.loads(pickle.dumps(second))  # as Tune does with its own files
    assert copied.suggest("next") == second.suggest("next")


def test_failures_and_constraints_reach_the_algorithm() -> None:
    one = searcher(constraints=["cost <= 10"])
    for name, result, error in (
        ("good", {"quality": 1.0, "cost": 1.0}, False),
        ("dear", {"quality": 1.0, "cost": 20.0}, False),
        ("died", None, True),
        ("nan", {"quality": float("nan"), "cost": 1.0}, False),
        ("inf", {"quality": float("inf"), "cost": 1.0}, False),
        ("text", {"quality": "0.5", "cost": 1.0}, False),
        ("numpy", {"quality": np.array([0.5]), "cost": np.float32(1.0)}, False),
    ):
        one.suggest(name)
        one.on_trial_complete(name, result, error=error)
    assert [trial.state for trial in one._told] == ["COMPLETED", "INFEASIBLE", *["FAILED"] * 4, "COMPLETED"]
    assert one._told[0].values == (-1.0, 1.0)
    assert one._told[1].violation == pytest.approx(1.0)


def test_it_ends_when_every_arch_was_proposed() -> None:
    one = searcher(nas.RandomSearch(seed=0), side=2)
    seen = {json.dumps(one.suggest(f"t{number}")["arch"]["choices"]) for number in range(4)}
    assert len(seen) == 4
    assert one.suggest("more") == one.FINISHED


def test_a_searcher_that_waits_says_so() -> None:
    one = searcher(nas.NSGA2(population=2, synchronous=True, seed=0))
    assert one.suggest("a") is not None
    assert one.suggest("b") is not None
    assert one.suggest("c") is None


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    one = searcher()
    one.suggest("a")
    with pytest.raises(MetricError, match="ended without 'quality'.*did you mean 'qualty'"):
        one.on_trial_complete("a", {"qualty": 1.0, "cost": 1.0})
    with pytest.raises(MetricError, match="mode 'min' for 'quality'"):
        one.set_search_properties("quality", "min", {})
    with pytest.raises(AlgorithmError, match="at least one"):
        searcher(objectives=[])
    with pytest.raises(AlgorithmError, match="is not the state of a nas.tune.Searcher"):
        one.restore(str(tmp_path / "nothing"))
    one.save(str(tmp_path / "state"))
    with pytest.raises(AlgorithmError, match="is of algorithm .*restore with the same"):
        searcher(nas.RandomSearch()).restore(str(tmp_path / "state"))


def trainable(config: dict[str, Any]) -> None:
    from ray import tune

    tune.report(measured(config))


@pytest.mark.slow
def test_a_tuner_uses_it_limited_and_restores_it(tmp_path: Path, cluster: None) -> None:
    from ray import tune
    from ray.tune.search import ConcurrencyLimiter

    one = searcher(nas.RandomSearch(seed=1))
    tuner = tune.Tuner(
        trainable,
        param_space={"constant": 3},
        tune_config=tune.TuneConfig(
            search_alg=ConcurrencyLimiter(one, max_concurrent=2), num_samples=4, reuse_actors=True
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path), name="ours", verbose=0),
    )
    results = tuner.fit()
    assert len(results) == 4
    assert all(result.config["constant"] == 3 for result in results)
    assert len(one._told) == 4
    found = sorted((result.metrics["quality"], result.metrics["cost"]) for result in results)
    assert found == sorted((-trial.values[0], trial.values[1]) for trial in one._told)
    (saved,) = tmp_path.glob("ours/searcher-state-*")
    again = searcher(nas.RandomSearch(seed=1))
    again.restore_from_dir(str(saved.parent))
    assert again.suggest("next") == one.suggest("next")
