"""Estimators of a policy's gradient: by the conformance suite, and what each has of its own."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import nas
from nas.choosing.distribution import Floats
from nas.train import Estimator, Flip, MaskGates, Mixture, ScoreFunction
from nas.train.estimators import Options, spread, warmed
from tests.choosing.test_distribution import nested, slope_of, tilted
from tests.conformance.algorithm import flat
from tests.conformance.estimator import EstimatorConformance, Known, expected


class TestScoreFunction(EstimatorConformance):
    def make(self) -> Estimator:
        return ScoreFunction(1)


class TestScoreFunctionWithoutABaseline(TestScoreFunction):
    baseline = 0.0


class TestFlip(EstimatorConformance):
    def make(self) -> Estimator:
        return Flip(1)


class TestFlipOfOneDecision(EstimatorConformance):
    repeats, tolerance = 300, 0.4

    def make(self) -> Estimator:
        return Flip(1, 1)


class TestMaskGates(EstimatorConformance):
    """Of a judge whose losses of other options are exact."""

    def make(self) -> Estimator:
        return MaskGates(1)


class TestMixture(EstimatorConformance):
    additive = True

    def make(self) -> Estimator:
        return Mixture()


def test_flips_ask_no_reward_of_what_a_rule_forbids() -> None:
    space = flat(2).restricted(lambda arch: arch.choices["d0"] != 3)
    judge = Known(tilted(space))
    arch = next(iter(space.enumerate()))
    judge.baseline, asked = 0.0, []
    judge.rewards = lambda archs: asked.extend(archs) or [1.0] * len(archs)  # type: ignore[method-assign,func-returns-value]
    gradient = Flip(1).gradient(judge, [arch], [1.0])
    assert asked
    assert all(space.allows(one) for one in asked)
    probability = judge.distribution.probabilities(0, range(4))
    possible = np.array([1.0, 1.0, 1.0, 0.0]) / probability[:3].sum()
    assert gradient[:4] == pytest.approx(probability * (possible - 1))


def test_the_baseline_is_a_moving_average_that_begins_with_the_first_mean() -> None:
    judge, estimator = Known(tilted(nested())), ScoreFunction(2, baseline=0.9)
    archs = list(judge.distribution.space.enumerate())[:2]
    first = estimator.gradient(judge, archs, [1.0, 3.0])
    assert judge.baseline == pytest.approx(2.0)
    slopes = [judge.distribution.slope(arch) for arch in archs]
    assert first == pytest.approx((-slopes[0] + slopes[1]) / 2)
    estimator.gradient(judge, archs, [4.0, 4.0])
    assert judge.baseline == pytest.approx(0.9 * 2 + 0.1 * 4)


class Linear(Known):
    """Gates of a judge that knows the losses of all options."""

    gated: Sequence[int] = (0, 1)

    def linear(self, archs: Sequence[nas.Arch]) -> list[tuple[float, Options]]:
        return [
            (float(sum(arch.genome)), {p: {option: float(option) for option in range(4)} for p in self.gated})
            for arch in archs
        ]

    def costs(self, archs: Sequence[nas.Arch]) -> list[float]:
        return [float(sum(arch.genome)) for arch in archs]

    def reward(self, quality: float, cost: float) -> float:
        return quality - cost**2

    def rewards(self, archs: Sequence[nas.Arch]) -> list[float]:
        return [self.reward(-c, c) for c in self.costs(archs)]


@pytest.mark.parametrize("others", [None, Flip(1)])
@pytest.mark.parametrize("gated", [(0, 1), (0,), ()])
def test_gates_that_are_right_give_the_gradient_of_the_expected_reward(gated: Sequence[int], others: Any) -> None:
    """With the decisions that have no gates by another estimator, whatever the baseline."""
    judge = Linear(tilted(flat(2)))
    judge.gated = gated
    archs = list(judge.distribution.space.enumerate())
    found: Floats = np.zeros_like(judge.distribution.values)
    for arch in archs:
        judge.baseline = -4.0
        gradient = MaskGates(1, others=others).gradient(judge, [arch], judge.rewards([arch]))
        found += np.exp(judge.distribution.log_p(arch)) * gradient
        assert judge.baseline == pytest.approx(0.95 * -4.0 + 0.05 * judge.rewards([arch])[0])  # moved once
    assert found == pytest.approx(slope_of(judge.distribution, lambda: expected(judge)), abs=1e-6)


def test_noise_under_which_an_option_was_drawn_makes_it_the_largest() -> None:
    """Averaged over what is drawn, the softmax is that of free Gumbel noise."""
    p, rng, draw = np.array([0.5, 0.3, 0.2]), random.Random(0), np.random.default_rng(0)
    found, free = np.zeros(3), np.zeros(3)
    for _ in range(6000):
        taken = rng.choices(range(3), p.tolist())[0]
        soft = warmed(p, taken, 0.7, rng)
        assert soft.argmax() == taken
        found += soft / 6000
        noisy = np.exp((np.log(p) + draw.gumbel(size=3)) / 0.7)
        free += noisy / noisy.sum() / 6000
    assert found == pytest.approx(free, abs=0.02)
    cold = warmed(p, 1, 0.01, random.Random(1))
    assert cold == pytest.approx([0.0, 1.0, 0.0], abs=1e-3)


def _cheap(arch: nas.Arch) -> bool:
    """Forbids a convolution's largest kernel."""
    return None in arch.genome or max(arch.genome) < 2


@pytest.mark.parametrize("space", [flat(2), nested(), nested().restricted(_cheap)], ids=["flat", "nested", "rule"])
def test_the_gradient_of_the_entropy_is_that_of_its_expectation(space: nas.Space) -> None:
    """By enumeration: an option that activates decisions has their entropy as a reward."""
    ours = tilted(space)
    archs = list(space.enumerate())

    def weights() -> Floats:
        found = np.exp([ours.log_p(arch) for arch in archs])
        return np.asarray(found / found.sum())

    def mean() -> float:
        return float(weights() @ [ours.entropy(arch)[0] for arch in archs])

    base = mean()
    found = sum(weight * spread(ours, [arch], base)[1] for weight, arch in zip(weights(), archs, strict=True))
    assert found == pytest.approx(slope_of(ours, mean), abs=1e-7)
