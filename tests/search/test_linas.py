"""LINAS and ConcurrentNAS, and that what they propose is what a slow reading of the paper would propose."""

from __future__ import annotations

import random

import numpy as np
import pytest

from nas.errors import AlgorithmError
from nas.metrics import Metric
from nas.pareto import non_dominated
from nas.search import LINAS, Algorithm, ConcurrentNAS, Finished
from nas.space import Arch
from tests.conformance.algorithm import (
    TWO,
    LearnerConformance,
    area,
    completed,
    drive,
    error_only,
    flat,
    keys,
    small,
    trade_off,
)

QUICK = {"population": 20, "inner": 120, "alphas": [1.0], "costs": [], "history": 60}


class TestLINAS(LearnerConformance):
    def make(self, seed: int = 0) -> Algorithm:
        return LINAS(**QUICK, seed=seed)


class TestConcurrentNAS(LearnerConformance):
    def make(self, seed: int = 0) -> Algorithm:
        return ConcurrentNAS(**QUICK, seed=seed)


def test_the_first_round_proposes_the_front_of_what_it_predicts() -> None:
    # Additive objectives are predicted rightly from 40 of the 64 archs, and the inner search looks at all 64.
    weights = np.random.default_rng(5).random((2, 3, 4))

    def landscape(arch: Arch) -> tuple[float, ...]:
        return tuple(weights[:, [0, 1, 2], list(arch.genome)].sum(axis=1).tolist())

    algorithm = LINAS(population=40, inner=64, alphas=[1e-9], costs=[])
    algorithm.bind(small(), TWO)
    archs = algorithm.ask(40)
    algorithm.tell([completed(landscape)(number, arch) for number, arch in enumerate(archs)])
    left = [arch for arch in small().enumerate() if arch.key not in set(keys(archs))]
    front = non_dominated(np.array([landscape(arch) for arch in left]))
    expected = {arch.key for arch, on in zip(left, front, strict=True) if on}
    assert set(keys(algorithm.ask(len(expected)))) == expected


def test_a_round_begins_when_a_population_has_finished_and_waits_for_nobody() -> None:
    algorithm = LINAS(**QUICK)
    algorithm.bind(flat(), TWO)
    archs = algorithm.ask(20)
    outcome = completed(trade_off)
    algorithm.tell([outcome(i, arch) for i, arch in enumerate(archs[:19])])
    before = algorithm.ask(10)  # still at random
    algorithm.tell([outcome(19, archs[19])])
    after = algorithm.ask(10)

    def mean(found: list[Arch]) -> float:
        return float(np.mean([sum(trade_off(arch)) for arch in found]))

    assert mean(after) < mean(before)


def test_more_under_way_than_the_inner_search_has_seen_is_answered() -> None:
    algorithm = LINAS(**{**QUICK, "inner": 25})
    algorithm.bind(flat(), TWO)
    drive(algorithm, completed(trade_off), 40)
    assert len(set(keys(algorithm.ask(200)))) == 200


def test_only_what_failed_leaves_it_searching_at_random() -> None:
    algorithm = LINAS(**QUICK)
    algorithm.bind(flat(), TWO)
    drive(algorithm, lambda number, arch: Finished(number, arch, None, 0.0, "FAILED"), 45)
    assert len(algorithm.ask(5)) == 5


THREE = (Metric("error", "min"), Metric("a_ms", "min"), Metric("b_ms", "min"))


def two_devices(arch: Arch) -> tuple[float, float, float]:
    """The second device is slow where the first is fast."""
    error, cost = trade_off(arch)
    return error, cost, float(sum((gene or 0) * (1 + i % 3) for i, gene in enumerate(arch.genome)))


def test_concurrent_search_takes_turns_among_the_targets() -> None:
    algorithm = ConcurrentNAS(**QUICK)
    algorithm.bind(flat(), THREE)
    assert [algorithm._columns(number) for number in (1, 2, 3)] == [[0, 1], [0, 2], [0, 1]]
    shared = ConcurrentNAS(shared=2, **QUICK)
    shared.bind(flat(), THREE)
    assert [shared._columns(number) for number in (1, 2)] == [[0, 1, 2], [0, 1, 2]]
    alone = ConcurrentNAS(**QUICK)
    alone.bind(flat(), THREE[:1])
    assert alone._columns(5) == [0]


def test_concurrent_search_serves_both_devices() -> None:
    wins = 0
    for seed in range(6):
        areas = []
        for algorithm in (ConcurrentNAS(**QUICK, seed=seed), LINAS(**QUICK, seed=seed)):
            algorithm.bind(flat(), THREE if isinstance(algorithm, ConcurrentNAS) else TWO)
            landscape = two_devices if isinstance(algorithm, ConcurrentNAS) else trade_off
            trials = drive(algorithm, completed(landscape), 240, seed=seed).finished
            pairs = [trial._replace(values=two_devices(trial.arch)[::2]) for trial in trials]
            areas.append(area(pairs, (27.0, 66.0)))  # error against the second device
        wins += areas[0] > areas[1]
    assert wins >= 5  # a search for the first device alone finds less for the second


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"population": 1}, "linas was given population=1; it is a whole number, 2 or more"),
        ({"population": 50, "inner": 20}, "inner=20; it is a whole number, 50 or more"),
        ({"alphas": []}, r"alphas=\[\]; it is a sequence of 1 or more numbers above 0"),
        ({"alphas": "published"}, "alphas='published'; it is a list"),
        ({"costs": [1.0, -2.0]}, r"costs\[1\]=-2.0; it is a finite number above 0"),
        ({"history": 1}, "history=1; it is a whole number, 2 or more"),
    ],
)
def test_wrong_options_get_one_sentence(option: dict[str, object], sentence: str) -> None:
    with pytest.raises(AlgorithmError, match=sentence):
        LINAS(**option)  # type: ignore[arg-type]


def test_the_published_grid_is_the_default() -> None:
    algorithm = LINAS(population=20, inner=40)
    algorithm.bind(flat(4), (Metric("error", "min"),))
    run = drive(algorithm, completed(error_only), 25)
    best = min(error_only(trial.arch)[0] for trial in run.finished)
    assert best <= error_only(flat(4).sample(random.Random(0)))[0]
    assert algorithm.describe()["alphas"] is None
