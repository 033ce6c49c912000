"""Quality-diversity: the best of each bucket, and the contract."""

from __future__ import annotations

import random

import pytest

from nas.errors import AlgorithmError
from nas.metrics import Metric
from nas.search import Algorithm, Finished, QualityDiversity
from tests.conformance.algorithm import ONE, TWO, LearnerConformance, completed, drive, flat, trade_off


class TestQualityDiversity(LearnerConformance):
    def make(self, seed: int = 0) -> Algorithm:
        return QualityDiversity(start=20, seed=seed)


class TestRegrowingQualityDiversity(LearnerConformance):
    def make(self, seed: int = 0) -> Algorithm:
        return QualityDiversity(start=20, seed=seed, regrow=0.5)


def test_elites_are_the_best_of_equal_parts_of_the_cost_range() -> None:
    algorithm = QualityDiversity(buckets=4, start=1)
    algorithm.bind(flat(), TWO)
    rng = random.Random(0)
    for number, values in enumerate([(5.0, 0.0), (4.0, 1.0), (3.0, 8.0), (2.0, 7.9), (9.0, 4.0), (5.0, -0.0)]):
        algorithm.tell([Finished(number, flat().sample(rng), values)])
    assert {cell: elite.values for cell, elite in algorithm._elites.items()} == {
        (0,): (4.0, 1.0),
        (2,): (9.0, 4.0),
        (3,): (2.0, 7.9),
    }
    algorithm.tell(
        [Finished(9, flat().sample(rng), (1.0, 32.0))]
    )  # the range is four times as wide: all others share a part
    assert {cell: elite.values for cell, elite in algorithm._elites.items()} == {(0,): (2.0, 7.9), (3,): (1.0, 32.0)}


def test_of_equal_quality_the_cheaper_is_the_elite() -> None:
    algorithm = QualityDiversity(buckets=1)
    algorithm.bind(flat(), TWO)
    rng = random.Random(0)
    algorithm.tell([Finished(i, flat().sample(rng), (1.0, cost)) for i, cost in enumerate((3.0, 2.0, 5.0))])
    assert [elite.values for elite in algorithm._elites.values()] == [(1.0, 2.0)]


def test_every_part_of_the_cost_range_is_searched() -> None:
    algorithm = QualityDiversity(buckets=11)
    algorithm.bind(flat(), TWO)
    run = drive(algorithm, completed(trade_off), 600)
    costs = [trial.values[1] for trial in run.finished if trial.values]
    random_costs = [trade_off(flat().sample(random.Random(seed)))[1] for seed in range(600)]
    assert min(costs) < min(random_costs) < max(random_costs) < max(costs)
    middle = [cost for cost in costs if 12 <= cost <= 21]
    assert len(middle) < 0.7 * len(costs)  # of random archs 80 %


def test_three_objectives_have_a_grid_of_buckets_and_one_has_one() -> None:
    three = QualityDiversity(buckets=3)
    three.bind(flat(), (*TWO, Metric("third", "min")))
    drive(three, completed(lambda arch: (*trade_off(arch), float(arch.genome[0]))), 120)
    assert all(len(cell) == 2 and max(cell) < 3 for cell in three._elites)
    assert len(three._elites) > 3
    one = QualityDiversity()
    one.bind(flat(), ONE)
    drive(one, completed(lambda arch: trade_off(arch)[:1]), 120)
    assert list(one._elites) == [()]


def test_costs_without_bound_are_of_no_bucket() -> None:
    algorithm = QualityDiversity(start=1)
    algorithm.bind(flat(), TWO)
    algorithm.tell([Finished(0, flat().largest, (0.0, float("inf")))])
    assert not algorithm._elites
    assert len(algorithm.ask(3)) == 3


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"buckets": 0}, "quality-diversity was given buckets=0"),
        ({"start": 0}, "start=0; it is a whole number, 1 or more"),
        ({"crossover": 1.5}, "crossover=1.5; it is a number"),
    ],
)
def test_wrong_options_get_one_sentence(option: dict[str, float], sentence: str) -> None:
    with pytest.raises(AlgorithmError, match=sentence):
        QualityDiversity(**option)  # type: ignore[arg-type]
