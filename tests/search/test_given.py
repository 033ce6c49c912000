"""Archs that somebody chose."""

from __future__ import annotations

import pytest

from nas.errors import AlgorithmError
from nas.metrics import Metric
from nas.search import NSGA2, Algorithm, Exhausted, Finished, Given, RegularizedEvolution, make
from nas.space import Space
from tests.conformance.algorithm import (
    TWO,
    AlgorithmConformance,
    archs,
    area,
    completed,
    drive,
    flat,
    small,
    trade_off,
)

ONE = [Metric("error", "min")]


def test_archs_are_asked_in_their_order_each_once() -> None:
    archs = [small().largest, small().smallest, small().largest]
    algorithm = Given(archs)
    algorithm.bind(small(), ONE)
    assert algorithm.ask(1) == archs[:1]
    algorithm.tell([Finished(0, archs[0], (1.0,))])
    assert algorithm.ask(5) == [archs[1]]
    with pytest.raises(Exhausted, match="all 3 archs that were given are known"):
        algorithm.ask(1)


def test_its_description_makes_an_equal_one() -> None:
    algorithm = Given([small().smallest])
    assert algorithm.describe() == make(**algorithm.describe()).describe()
    assert algorithm.archs == [small().smallest.choices]


def test_an_arch_that_the_space_has_not_is_refused() -> None:
    with pytest.raises(AlgorithmError, match="has an arch that space 'flat-3' has not"):
        Given([{"nowhere": 1}]).bind(small(), ONE)
    with pytest.raises(AlgorithmError, match="no archs to evaluate"):
        Given([]).bind(small(), ONE)


def test_an_arch_that_a_rule_forbids_is_refused() -> None:
    largest = small().largest
    fewer = small().restricted(lambda arch: arch.choices != largest.choices)
    with pytest.raises(AlgorithmError, match="which a rule of space 'flat-3' forbids"):
        Given([largest]).bind(fewer, ONE)


class Begun:
    """A search that begins with archs of whatever space it is bound to."""

    def make(self, seed: int = 0) -> Algorithm:
        return Given(archs(flat(), 5), NSGA2(population=20, seed=seed))

    def bound(self, space: Space, objectives: tuple[Metric, ...] = TWO, seed: int = 0) -> Algorithm:
        algorithm = Given(archs(space, 5), self.make(seed).describe()["then"])
        algorithm.bind(space, objectives, ())
        return algorithm


class TestBeginsASearch(Begun, AlgorithmConformance):
    pass


class TestBeginsAnEvolution(Begun, AlgorithmConformance):
    def make(self, seed: int = 0) -> Algorithm:
        return Given(archs(flat(), 5), RegularizedEvolution(population=20, seed=seed))


def test_a_search_goes_on_from_what_was_given() -> None:
    best = sorted(archs(flat(), 2000), key=lambda arch: sum(trade_off(arch)))[:10]
    begun, alone = Given(best, "nsga2"), make("nsga2")
    areas = []
    for algorithm in (begun, alone):
        algorithm.bind(flat(), TWO)
        run = drive(algorithm, completed(trade_off), 60)
        areas.append(area(run.finished, (27.0, 34.0)))
        if algorithm is begun:
            assert [trial.arch for trial in run.finished[:10]] == best
    assert areas[0] > areas[1]


def test_studies_that_were_begun_without_a_search_are_described_as_before() -> None:
    assert Given([small().smallest]).describe() == {"name": "given", "archs": [small().smallest.choices]}
    assert not hasattr(Given([small().smallest]), "then")
    begun = Given([small().smallest], "surrogate")
    assert begun.describe() == make(**begun.describe()).describe()


def test_it_is_not_put_into_itself() -> None:
    with pytest.raises(AlgorithmError, match="it is an algorithm other than itself"):
        Given([small().smallest], Given([small().largest]))
