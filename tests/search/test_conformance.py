"""Every algorithm keeps the contract of `nas.search.Algorithm`."""

from __future__ import annotations

from nas.search import NSGA2, Algorithm, Exhaustive, RandomSearch, RegularizedEvolution
from tests.conformance.algorithm import AlgorithmConformance, LearnerConformance


class TestRandomSearch(AlgorithmConformance):
    def make(self, seed: int = 0) -> Algorithm:
        return RandomSearch(seed=seed)


class TestExhaustive(AlgorithmConformance):
    seeded = continuous = False

    def make(self, seed: int = 0) -> Algorithm:
        return Exhaustive()


class TestRegularizedEvolution(LearnerConformance):
    def make(self, seed: int = 0) -> Algorithm:
        return RegularizedEvolution(population=20, sample=5, seed=seed)


class TestRegrowingEvolution(LearnerConformance):
    def make(self, seed: int = 0) -> Algorithm:
        return RegularizedEvolution(population=20, sample=5, seed=seed, regrow=1.0)


class TestRegrowingNSGA2(LearnerConformance):
    def make(self, seed: int = 0) -> Algorithm:
        return NSGA2(population=20, seed=seed, regrow=0.5)


class TestNSGA2(LearnerConformance):
    def make(self, seed: int = 0) -> Algorithm:
        return NSGA2(population=20, seed=seed)


class TestSynchronousNSGA2(LearnerConformance):
    def make(self, seed: int = 0) -> Algorithm:
        return NSGA2(population=20, seed=seed, synchronous=True)
