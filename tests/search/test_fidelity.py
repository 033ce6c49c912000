"""The multi-fidelity search: its contract, what it decides, and that it is rebuilt from its two histories."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

import nas
from nas.errors import AlgorithmError
from nas.metrics import Metric
from nas.search import Algorithm, Finished, History, MultiFidelity, Surrogate, make
from nas.search.insight import Insight
from nas.space import Arch
from tests.conformance.algorithm import ONE, TWO, CostlyConformance, area, completed, drive, flat, keys, trade_off

WHOLE = 9.0
REFERENCE = (27.0, 34.0)


def informed(seed: int = 0, low: float | None = None, *, varying: tuple[str, ...] = ("error",)) -> MultiFidelity:
    algorithm = MultiFidelity(low, initial=8, candidates=32, seed=seed)
    algorithm.inform(Insight(fidelity=("epochs", WHOLE), varying=varying))
    return algorithm


class TestMultiFidelity(CostlyConformance):
    """Where no low evaluation was ever asked for."""

    share = 0.25
    rebuilt = 450

    def make(self, seed: int = 0) -> Algorithm:
        return informed(seed)

    def test_described_options_make_it_again(self) -> None:
        algorithm = MultiFidelity(3, initial=8, seed=5)
        assert repr(make(**json.loads(json.dumps(algorithm.describe())))) == repr(algorithm)


def early(arch: Arch) -> tuple[float, float]:
    """What a ninth of the training shows of `trade_off`: the error is larger, and somewhat another."""
    error, cost = trade_off(arch)
    return 10.0 + 1.5 * error + 2.0 * (sum(i * (gene or 0) for i, gene in enumerate(arch.genome)) % 3), cost


def noise(arch: Arch) -> tuple[float, float]:
    """A low evaluation that says nothing of the error."""
    return float(random.Random(arch.key).random()), trade_off(arch)[1]


@dataclass
class Levels:
    """A search that is driven at both of its levels."""

    algorithm: MultiFidelity
    low: Callable[[Arch], tuple[float, float]] = early
    told: list[Finished] = field(default_factory=list)
    told_low: list[Finished] = field(default_factory=list)
    running: list[tuple[bool, Arch]] = field(default_factory=list)
    asked: list[tuple[bool, str]] = field(default_factory=list)

    def bind(self) -> Levels:
        self.algorithm.bind(flat(), TWO)
        self.algorithm.low_level.bind(flat(), TWO)
        return self

    def spent(self) -> float:
        return len(self.told) + len(self.told_low) / WHOLE

    def ask(self) -> bool:
        """One proposal, of either level; False where the search waits."""
        for is_low, level in ((True, self.algorithm.low_level), (False, self.algorithm)):
            for arch in level.ask(1):
                self.running.append((is_low, arch))
                self.asked.append((is_low, arch.key))
                return True
        return False

    def finish(self, at: int = 0) -> None:
        is_low, arch = self.running.pop(at)
        trials, level = (self.told_low, self.algorithm.low_level) if is_low else (self.told, self.algorithm)
        trials.append(Finished(len(trials), arch, (self.low if is_low else trade_off)(arch)))
        level.tell(trials[-1:])

    def spend(self, budget: float) -> Levels:
        while self.spent() < budget:
            assert self.ask()
            self.finish()
        return self

    def rebuilt(self, algorithm: MultiFidelity) -> Levels:
        """Another search that is told the two histories."""
        again = Levels(algorithm, self.low, list(self.told), list(self.told_low), list(self.running)).bind()
        lows, fulls = ([arch for is_low, arch in self.running if is_low == level] for level in (True, False))
        algorithm.restore(History.of(self.told, 2, fulls))
        algorithm.low_level.restore(History.of(self.told_low, 2, lows))
        return again


def test_a_rebuilt_search_decides_as_the_old_one_would_have() -> None:
    levels, rng = Levels(informed()).bind(), random.Random(0)
    for turn in range(70):
        while len(levels.running) < 3 and levels.ask():
            pass
        if turn % 9 == 0:
            again, before = levels.rebuilt(informed()), len(levels.asked)
            for one in (levels, again):
                one.finish(0)
                for _ in range(2):
                    one.ask()
            assert again.asked == levels.asked[before:]
        levels.finish(rng.randrange(len(levels.running)))
    assert len(levels.told) > 8
    assert len(levels.told_low) > 16


def test_low_evaluations_find_a_better_front_at_the_same_cost() -> None:
    """Five of five seeds, of which chance gives one in 32."""
    for seed in range(5):
        alone = Surrogate(initial=8, candidates=32, seed=seed)
        alone.bind(flat(), TWO)
        run = drive(alone, completed(trade_off), 14)
        both = Levels(informed(seed)).bind().spend(14)
        assert area(both.told, REFERENCE) > area(run.finished, REFERENCE)


def test_low_evaluations_that_say_nothing_are_not_believed() -> None:
    for seed in range(2):
        both = Levels(informed(seed), noise).bind().spend(40)
        by_chance = nas.RandomSearch(seed=seed)
        by_chance.bind(flat(), TWO)
        assert area(both.told, REFERENCE) > area(drive(by_chance, completed(trade_off), 60).finished, REFERENCE)


def test_low_evaluations_never_cost_more_than_full_ones_by_much() -> None:
    both = Levels(informed(), noise).bind()
    for _ in range(90):
        assert both.ask()
        both.finish()
        assert len(both.told_low) / WHOLE <= len(both.told) + 3.2


@pytest.mark.parametrize("factor", [1e4, 1e-3])
def test_units_of_low_values_decide_nothing(factor: float) -> None:
    def scaled(arch: Arch) -> tuple[float, float]:
        error, cost = early(arch)
        return error * factor, cost

    plain, other = Levels(informed()).bind().spend(14), Levels(informed(), scaled).bind().spend(14)
    assert other.asked == plain.asked


def test_every_full_evaluation_after_the_first_is_of_an_arch_with_a_low_one() -> None:
    both = Levels(informed()).bind().spend(15)
    low = {key for is_low, key in both.asked if is_low}
    full = [key for is_low, key in both.asked if not is_low]
    assert set(full) <= low
    assert len(set(full)) == len(full)
    assert len(low) == len(both.told_low)


def test_archs_whose_low_evaluation_failed_or_is_infeasible_are_not_evaluated_in_full() -> None:
    both, lost = Levels(informed()).bind(), set()
    while both.spent() < 15:
        assert both.ask()
        is_low, arch = both.running[-1]
        if is_low and int(arch.key[:2], 16) % 3 == 0:
            lost.add(both.running.pop()[1].key)
            state = "FAILED" if len(lost) % 2 else "INFEASIBLE"
            both.told_low.append(Finished(len(both.told_low), arch, None, float("inf"), state))  # type: ignore[arg-type]
            both.algorithm.low_level.tell(both.told_low[-1:])
        else:
            both.finish()
    assert lost
    assert not lost & set(keys([trial.arch for trial in both.told]))


def test_how_far_a_low_evaluation_goes() -> None:
    assert MultiFidelity().far(9.0) == 1.0
    assert MultiFidelity().far(200.0) == 22.0
    assert MultiFidelity().far(2.0) == 1.0
    assert MultiFidelity().far(1.0) == pytest.approx(1 / 9)
    assert MultiFidelity(12).far(200.0) == 12
    with pytest.raises(AlgorithmError, match="low=9, and a full evaluation goes to 9"):
        MultiFidelity(9).far(9.0)
    with pytest.raises(AlgorithmError, match="low"):
        MultiFidelity(0.0)


@pytest.mark.parametrize("varying", [(), ("loss",)])
def test_a_search_without_an_objective_that_varies_is_refused(varying: tuple[str, ...]) -> None:
    with pytest.raises(AlgorithmError, match="no objective that depends on how far"):
        informed(varying=varying).bind(flat(), TWO)
    with pytest.raises(AlgorithmError, match="no objective that depends on how far"):
        MultiFidelity().bind(flat(), TWO)


def test_one_objective_and_several_that_vary() -> None:
    for objectives, varying, values in (
        (ONE, ("error",), lambda found: found[:1]),
        (TWO, ("error", "cost"), lambda found: found),
    ):
        algorithm = informed(varying=varying)
        algorithm.bind(flat(), objectives)
        low = algorithm.low_level
        low.bind(flat(), objectives)
        best = []
        for number in range(90):
            is_low = bool(archs := low.ask(1))
            (arch,) = archs or algorithm.ask(1)
            found = values((early if is_low else trade_off)(arch))
            (low if is_low else algorithm).tell([Finished(number, arch, found)])
            best += [] if is_low else [found[0]]
        assert min(best) <= 2.0, "the least error is 0, that of a random arch 13 on average"


def test_metrics_are_named_as_the_objectives_are() -> None:
    algorithm = informed(varying=("accuracy", "epochs"))
    algorithm.bind(flat(), (Metric("params", "min"), Metric("accuracy", "max")))
    assert algorithm.varying == (1,)
