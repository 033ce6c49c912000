"""Random and exhaustive search beyond the contract."""

from __future__ import annotations

import pyglove as pg
import pytest

from nas.errors import AlgorithmError
from nas.search import Exhaustive, RandomSearch
from nas.space import Space
from tests.conformance.algorithm import ONE, conditional, continuous, flat, keys


def test_exhaustive_goes_in_the_order_of_the_enumeration() -> None:
    algorithm = Exhaustive()
    algorithm.bind(conditional(), ONE)
    expected = [arch.key for arch in conditional().enumerate()]
    assert keys(algorithm.ask(1000) + algorithm.ask(5000)) == expected


def test_exhaustive_refuses_what_it_cannot_enumerate() -> None:
    with pytest.raises(AlgorithmError, match="space 'continuous' with 2 continuous decisions; it enumerates discrete"):
        Exhaustive().bind(continuous(), ONE)
    huge = flat(40)
    with pytest.raises(AlgorithmError, match=r"space 'flat-40' of about 1e24 archs; it takes at most 10,000,000"):
        Exhaustive().bind(huge, ONE)


def test_random_search_is_uniform_in_each_decision() -> None:
    algorithm = RandomSearch(seed=5)
    algorithm.bind(flat(), ONE)
    archs = algorithm.ask(4000)
    for at in range(11):
        counts = [sum(arch.genome[at] == value for arch in archs) for value in range(4)]
        assert all(abs(count - 1000) < 5 * 27.4 for count in counts)  # 27.4: binomial standard deviation


def test_consecutive_draws_and_seeds_are_unrelated() -> None:
    # Each draw reseeds the generator with the next number: neighbouring seeds must not give similar archs.
    columns = []
    for seed in (0, 1):
        algorithm = RandomSearch(seed=seed)
        algorithm.bind(flat(), ONE)
        columns.append([arch.genome for arch in algorithm.ask(3001)])
    pairs = [(columns[0][i], columns[0][i + 1]) for i in range(3000)] + list(zip(*columns, strict=True))
    same = sum(x == y for a, b in pairs for x, y in zip(a, b, strict=True)) / (11 * len(pairs))
    assert abs(same - 0.25) < 5 * (0.25 * 0.75 / (11 * len(pairs))) ** 0.5


def test_a_mixed_space_is_never_exhausted() -> None:
    space = Space(pg.Dict(a=pg.oneof([1, 2]), b=pg.floatv(0.0, 1.0)), name="mixed")
    algorithm = RandomSearch()
    algorithm.bind(space, ONE)
    assert len(set(keys(algorithm.ask(500)))) == 500
