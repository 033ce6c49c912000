"""Studies that measure what is expensive only where what is cheaper is good enough."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nas
from nas.errors import EvaluationError, StudyError
from nas.evaluate import Evaluator
from nas.pareto import hypervolume
from nas.space import Arch
from tests.study.landscapes import BY_NAME, grid
from tests.study.test_levels import Cost, Quality

SIDE, AXES = 6, 4
ENOUGH = "accuracy >= 0.75"


class Accurate(Evaluator):
    """Of the archs of the grid 28 % have 0.75 or more."""

    metrics = ("accuracy",)

    def __call__(self, arch: Arch) -> Mapping[str, float]:
        x = [value / (SIDE - 1) for value in arch.choices.values()]
        score = 0.4 * x[0] + 0.3 * x[1] + 0.2 * x[2] * x[0] + 0.1 * (1 - abs(x[3] - 0.4))
        return {"accuracy": 0.45 + 0.5 * score}


class Timed(Evaluator):
    """Refuses to be asked for archs that are not accurate enough, and notes the others."""

    metrics = ("latency_ms",)

    def __init__(self, strict: bool = True) -> None:
        self.strict = strict
        self.asked: list[str] = []

    def __call__(self, arch: Arch) -> Mapping[str, float]:
        assert not self.strict or Accurate()(arch)["accuracy"] >= 0.75
        self.asked.append(arch.key)
        x = [float(value) for value in arch.choices.values()]
        return {"latency_ms": 1 + x[0] ** 1.5 + 0.7 * x[1] + 0.3 * x[2] + 0.5 * x[3]}

    def describe(self) -> dict[str, Any]:
        return {"name": "Timed"}


def study(folder: Path, name: str = "s", *, evaluators: Any = None, **changes: Any) -> nas.Study:
    declared: dict[str, Any] = {
        "space": grid(SIDE, AXES),
        "objectives": ["max accuracy", "min latency_ms"],
        "evaluators": evaluators or [Accurate(), nas.Gated(Timed(), where=ENOUGH)],
        "algorithm": nas.Surrogate(candidates=100),
        "store": folder / "nas.db",
    }
    return nas.Study(name, **{**declared, **changes})


def check_trials(one: nas.Study) -> None:
    """What was not accurate enough is INFEASIBLE by how much, and has no latency."""
    trials = one.trials()
    missed = trials[trials["accuracy"] < 0.75]
    assert len(missed)
    assert set(missed["state"]) == {"INFEASIBLE"}
    assert missed["latency_ms"].isna().all()
    assert np.allclose(missed["violation"], (0.75 - missed["accuracy"]) / 0.75)
    assert missed["reason"].str.contains("not >= 0.75, so 'Timed' is not asked").all()
    met = trials[trials["accuracy"] >= 0.75]
    assert (met["state"] == "COMPLETED").all()
    assert met["latency_ms"].notna().all()
    assert set(one.front().index) <= set(met.index)


@pytest.mark.parametrize("workers", [0, 2])
def test_only_archs_that_pass_are_measured(tmp_path: Path, workers: int) -> None:
    one = study(tmp_path, algorithm="random")
    assert [str(constraint) for constraint in one.constraints] == [ENOUGH]
    one.run(30, workers=workers, progress=False)
    check_trials(one)


@pytest.mark.ray
def test_ray_actors_measure_elsewhere_only_what_passes(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    costly = nas.needs(nas.Gated(Timed(), where=ENOUGH), resources={"bench": 1}, workers=1)
    one = study(tmp_path, algorithm="random", evaluators=[Accurate(), costly])
    one.run(20, workers=1, ray=True, progress=False)
    check_trials(one)
    here = study(tmp_path, "here", algorithm="random")
    here.run(20, workers=0, progress=False)
    columns = ["accuracy", "latency_ms"]
    assert one.front()[columns].to_numpy().tolist() == here.front()[columns].to_numpy().tolist()


@pytest.mark.parametrize("name", BY_NAME)
def test_every_search_goes_on_from_what_was_not_measured(tmp_path: Path, name: str) -> None:
    one = study(tmp_path, algorithm=name)
    summary = one.run(24, workers=0, progress=False)
    assert sum(summary.counts.values()) == 24
    assert not summary.counts["FAILED"]
    assert summary.counts["INFEASIBLE"] == 24 if name == "exhaustive" else summary.counts["COMPLETED"]
    check_trials(one)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_front_takes_fewer_expensive_measurements(tmp_path: Path, seed: int) -> None:
    def searched(name: str, trials: int, *, gated: bool) -> tuple[float, int]:
        timed = Timed(strict=gated)
        evaluators = [Accurate(), nas.Gated(timed, where=ENOUGH) if gated else timed]
        one = study(tmp_path, name, evaluators=evaluators, algorithm=nas.Surrogate(seed=seed))
        one.run(trials, workers=0, progress=False)
        front = one.front(ENOUGH)
        points = np.stack([-front["accuracy"], front["latency_ms"]], axis=1)
        return hypervolume(points, np.array([-0.75, 20.0])), len(timed.asked)

    whole, all_of_them = searched("whole", 50, gated=False)
    some, fewer = searched("some", 50, gated=True)
    assert all_of_them == 50
    assert fewer <= 44
    assert some >= 0.995 * whole


def test_a_study_that_is_stopped_and_resumed_is_one_that_is_not(tmp_path: Path) -> None:
    whole = study(tmp_path, "whole")
    whole.run(20, workers=0, progress=False)
    for trials in (5, 12, 20):
        parts = study(tmp_path, "parts")
        parts.run(trials, workers=0, progress=False)
        parts.close()
    assert [str(c) for c in parts.trials()["choices"]] == [str(c) for c in whole.trials()["choices"]]
    others = [nas.Gated(Timed(), where="accuracy >= 0.8"), Timed(strict=False)]
    for other in others:
        with pytest.raises(StudyError, match=r"begun with constraints \['accuracy >= 0.75'\], this job has"):
            study(tmp_path, "parts", evaluators=[Accurate(), other]).run(21, workers=0, progress=False)
    plain = study(tmp_path, "parts", evaluators=[Accurate(), Timed(strict=False)], constraints=[ENOUGH])
    with pytest.raises(StudyError, match="begun with evaluators"):
        plain.run(21, workers=0, progress=False)


def test_conditions_are_refused_before_work_starts(tmp_path: Path) -> None:
    for evaluators, sentence in (
        (
            [Accurate(), nas.Gated(Timed(), where="acuracy >= 0.7")],
            "none before it gives 'acuracy'; they give accuracy; did",
        ),
        ([nas.Gated(Timed(), where=ENOUGH), Accurate()], "'Accurate', which gives that, comes after it"),
    ):
        with pytest.raises(EvaluationError, match=sentence):
            study(tmp_path, evaluators=evaluators)


def test_by_hand_the_condition_is_a_constraint(tmp_path: Path) -> None:
    one = study(tmp_path, algorithm="random")
    first, second = one.ask(2)
    one.tell(first.number, {"accuracy": 0.6})
    with pytest.raises(EvaluationError, match="'latency_ms' was not measured"):
        one.tell(second.number, {"accuracy": 0.8})
    one.tell(second.number, {"accuracy": 0.8, "latency_ms": 3.0})
    assert one.trials()["state"].tolist() == ["INFEASIBLE", "COMPLETED"]


def test_a_part_of_the_way_does_not_judge_what_depends_on_it(tmp_path: Path) -> None:
    def declared(where: str) -> nas.Study:
        return study(
            tmp_path,
            space=grid(),
            objectives=["max quality", "min size"],
            evaluators=[Quality(), Cost(), nas.Gated(Size(), where=where)],
            algorithm=nas.MultiFidelity(initial=4, candidates=32),
        )

    with pytest.raises(
        StudyError, match="asked only where quality >= 0, and 'multi-fidelity' evaluates archs a part of the"
    ):
        declared("quality >= 0").run(3, workers=0, progress=False)
    one = declared("cost <= 40")
    one.run(8, workers=0, progress=False)
    for trials in (one.trials(), one.low.trials()):
        assert (trials["cost"][trials["size"].notna()] <= 40).all()
        assert (trials["state"] == np.where(trials["cost"] <= 40, "COMPLETED", "INFEASIBLE")).all()


class Size(Evaluator):
    metrics = ("size",)

    def __call__(self, arch: Arch) -> Mapping[str, float]:
        return {"size": math.fsum(map(float, arch.choices.values()))}
