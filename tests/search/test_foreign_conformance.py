"""Generators of PyGlove's and samplers of Optuna's keep the contract of `nas.search.Algorithm` through their adapters.

They take 1-20 ms a proposal, so that the suite runs a share of its trials, and apart from the quick tests.
"""

from __future__ import annotations

import pyglove as pg
import pytest

from nas.search import Algorithm, DNASearch, OptunaSearch
from tests.conformance.algorithm import AlgorithmConformance

pytestmark = pytest.mark.slow


class Foreign(AlgorithmConformance):
    share = 0.15
    rebuilt = 10**6  # the whole history goes through somebody else's program


class TestRandomDNA(Foreign):
    def make(self, seed: int = 0) -> Algorithm:
        return DNASearch(pg.geno.Random(), seed=seed)


class TestRandomSampler(Foreign):
    def make(self, seed: int = 0) -> Algorithm:
        return OptunaSearch("random", seed=seed)


class TestNSGA2Sampler(Foreign):
    def make(self, seed: int = 0) -> Algorithm:
        return OptunaSearch("nsga2", {"population_size": 20}, seed=seed)


class TestTPESampler(Foreign):
    def make(self, seed: int = 0) -> Algorithm:
        return OptunaSearch("tpe", history=40, seed=seed)
