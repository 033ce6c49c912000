"""Generators of PyGlove's and samplers of Optuna's keep the contract of `nas.search.Algorithm` through their adapters.

They take 1-20 ms a proposal, so that the suite runs a share of its trials, and apart from the quick tests.
"""

from __future__ import annotations

import pyglove as pg
import pytest

from nas.errors import AlgorithmError
from nas.search import Algorithm, DNASearch, History, OptunaSearch, make
from tests.conformance.algorithm import AlgorithmConformance, completed, drive, flat, keys, trade_off, troubled

pytestmark = pytest.mark.slow


class Foreign(AlgorithmConformance):
    share = 0.15
    rebuilt = 10**6  # the whole history goes through somebody else's program


class TestRandomDNA(Foreign):
    def make(self, seed: int = 0) -> Algorithm:
        return DNASearch(pg.geno.Random(), seed=seed)


class TestNSGA2DNA(Foreign):
    """PyGlove's NSGA-II turns a cursor over its elites with every proposal, which no history tells.

    Told the same, it goes on from the same population with other proposals; and it holds a function that has no name.
    """

    share = 0.1

    def make(self, seed: int = 0) -> Algorithm:
        return DNASearch(pg.evolution.nsga2(population_size=5), seed=seed)

    def test_rebuilds_from_history_to_the_same_proposals(self) -> None:  # type: ignore[override]
        live, restored = self.bound(flat()), self.bound(flat())
        run = drive(live, troubled(trade_off), 40, workers=6)
        restored.restore(History.of(run.finished, 2, [arch for _, arch in run.running]))
        assert [dna.to_numbers() for dna in restored._running.population] == [
            dna.to_numbers() for dna in live._running.population
        ]
        assert not set(keys(restored.ask(5))) & set(keys(run.asked))

    def test_a_trial_told_twice_counts_once(self) -> None:
        algorithm = self.bound(flat())
        run = drive(algorithm, completed(trade_off), 20)
        fed = algorithm._running.num_feedbacks
        algorithm.tell([trial._replace(number=trial.number + 1000) for trial in run.finished])
        assert algorithm._running.num_feedbacks == fed

    def test_history_may_hold_an_arch_twice(self) -> None:
        restored = self.bound(flat())
        run = drive(self.bound(flat()), completed(trade_off), 20)
        restored.restore(History.of([trial for trial in run.finished for _ in range(2)], 2))
        assert restored._running.num_feedbacks == len(run.finished)

    def test_described_options_make_it_again(self) -> None:
        with pytest.raises(AlgorithmError, match="holds functions that are not stored"):
            make(**self.make().describe())


class TestRandomSampler(Foreign):
    def make(self, seed: int = 0) -> Algorithm:
        return OptunaSearch("random", seed=seed)


class TestNSGA2Sampler(Foreign):
    def make(self, seed: int = 0) -> Algorithm:
        return OptunaSearch("nsga2", {"population_size": 20}, seed=seed)


class TestTPESampler(Foreign):
    def make(self, seed: int = 0) -> Algorithm:
        return OptunaSearch("tpe", history=40, seed=seed)
