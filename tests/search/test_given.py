"""Archs that somebody chose."""

from __future__ import annotations

import pytest

from nas.errors import AlgorithmError
from nas.metrics import Metric
from nas.search import Exhausted, Finished, Given, make
from tests.conformance.algorithm import small

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
