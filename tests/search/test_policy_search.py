"""Proposals of a policy that was learnt elsewhere: in its order, and the contract."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from nas.choosing.distribution import Distribution
from nas.errors import AlgorithmError
from nas.metrics import Metric
from nas.search import Algorithm, PolicySearch
from nas.space import Space
from tests.conformance.algorithm import TWO, AlgorithmConformance, flat


def tilted(space: Space) -> dict[str, list[float]]:
    found = Distribution(space)
    found.values = np.random.default_rng(0).normal(size=found.values.shape)
    return found.logits


class TestPolicySearch(AlgorithmConformance):
    def make(self, seed: int = 0) -> Algorithm:
        return PolicySearch(tilted(flat()), seed=seed)

    def bound(self, space: Space, objectives: tuple[Metric, ...] = TWO, seed: int = 0) -> Algorithm:
        algorithm = PolicySearch(tilted(space), seed=seed)
        algorithm.bind(space, objectives, ())
        return algorithm


def test_the_likeliest_arch_comes_first_and_the_others_as_often_as_they_are_likely() -> None:
    space = flat(2)
    distribution, firsts = Distribution(space, tilted(space)), Counter[str]()
    for seed in range(300):
        algorithm = PolicySearch(tilted(space), seed=seed)
        algorithm.bind(space, TWO)
        first, second = algorithm.ask(2)
        assert first == distribution.likeliest()
        firsts[second.key] += 1
    likely = {arch.key: np.exp(distribution.log_p(arch)) for arch in space.enumerate()}
    rest = 1 - likely.pop(distribution.likeliest().key)
    for key, p in likely.items():
        assert firsts[key] / 300 == pytest.approx(p / rest, abs=0.1)


def test_a_policy_without_doubt_proposes_what_is_beside_it() -> None:
    space = flat(4)
    sure = {name: [50.0, 0.0, 0.0, 0.0] for name in space.names}
    algorithm = PolicySearch(sure)
    algorithm.bind(space, TWO)
    best, *others = algorithm.ask(9)
    assert best.genome == (0, 0, 0, 0)
    assert all(sum(map(bool, arch.genome)) <= 2 for arch in others)
    assert len({arch.key for arch in others}) == 8


def test_a_policy_of_another_space_is_refused() -> None:
    with pytest.raises(AlgorithmError, match="policy was trained on another space: logits are given for 'd2'"):
        PolicySearch(tilted(flat(3))).bind(flat(2), TWO)
    for logits in (None, {}, tilted(flat(2))):
        with pytest.raises(
            AlgorithmError, match="policy has no logits for 'd[02]' of space 'flat-3'; give PolicySearch"
        ):
            PolicySearch(logits).bind(flat(3), TWO)


def test_archs_that_a_rule_forbids_are_not_proposed() -> None:
    space = flat(2).restricted(
        lambda arch: arch.genome[0] != Distribution(flat(2), tilted(flat(2))).likeliest().genome[0]
    )
    algorithm = PolicySearch(tilted(flat(2)))
    algorithm.bind(space, TWO)
    assert all(space.allows(arch) for arch in algorithm.ask(8))
