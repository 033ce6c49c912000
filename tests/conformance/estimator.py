"""What every estimator of a policy must do: be the gradient of the expected reward, of active decisions alone."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Sequence

import numpy as np
import pytest

import nas
from nas.choosing.distribution import Distribution, Floats
from nas.train import Estimator
from nas.train.estimators import Options
from tests.choosing.test_distribution import nested, slope_of, tilted
from tests.conformance.algorithm import flat


class Known:
    """A judge of a space whose rewards are a function of the arch, and that knows them exactly, whatever it is asked."""

    baseline: float | None = None
    progress = 1.0

    def __init__(self, distribution: Distribution, seed: int = 0) -> None:
        self.distribution, self.rng = distribution, random.Random(seed)

    def rewards(self, archs: Sequence[nas.Arch]) -> list[float]:
        return [float(int(arch.key[:6], 16) % 97) / 10 for arch in archs]

    def usable(self, arch: nas.Arch) -> bool:
        return self.distribution.space.allows(arch)

    def costs(self, archs: Sequence[nas.Arch]) -> list[float]:
        return [0.0] * len(archs)

    def reward(self, quality: float, cost: float) -> float:
        return quality - cost

    def linear(self, archs: Sequence[nas.Arch]) -> list[tuple[float, Options]]:
        return [(-self.rewards([arch])[0], self._flips(arch)) for arch in archs]

    def _flips(self, arch: nas.Arch) -> Options:
        found = {}
        for p, options, _ in self.distribution.active(arch):
            near = [self.distribution.flipped(arch, p, option, self.rng) for option in options]
            found[p] = {option: -reward for option, reward in zip(options, self.rewards(near), strict=True)}
        return found

    def mixture(self) -> tuple[float, Options]:
        raise NotImplementedError


class Additive(Known):
    """Rewards are sums over the decisions of a flat space, so that the mixture's is the expected one."""

    def _of(self, p: int, option: int) -> float:
        return float((7 * p + 3 * option**2) % 11)

    def rewards(self, archs: Sequence[nas.Arch]) -> list[float]:
        return [sum(self._of(p, gene) for p, gene in enumerate(arch.genome)) for arch in archs]

    def mixture(self) -> tuple[float, Options]:
        losses = {
            p: {option: -self._of(p, option) for option in options}
            for p, options, _ in self.distribution.active(self.distribution.space.largest)
        }
        chances = {p: self.distribution.probabilities(p, list(of)) for p, of in losses.items()}
        return sum(float(chances[p] @ list(of.values())) for p, of in losses.items()), losses


def expected(judge: Known) -> float:
    """E[reward] of archs that are drawn until one is allowed, by enumeration."""
    archs = list(judge.distribution.space.enumerate())
    chances = [np.exp(judge.distribution.log_p(arch)) for arch in archs]
    return float(np.dot(chances, judge.rewards(archs)) / np.sum(chances))


class EstimatorConformance:
    """Inherit, and give `make`."""

    additive = False
    """Whether it is right for rewards that are sums over decisions alone."""
    repeats, tolerance = 1, 1e-6
    """How often an arch's gradient is drawn, and how far the mean may be from what is expected."""
    baseline: float | None = 3.0
    """That the judge has before each gradient."""

    def make(self) -> Estimator:
        """Of one draw."""
        raise NotImplementedError

    def judge(self, space: nas.Space, seed: int = 0) -> Known:
        return (Additive if self.additive else Known)(tilted(space), seed)

    def mean(self, judge: Known) -> Floats:
        """Of the gradients of all archs, by their probability."""
        found: Floats = np.zeros_like(judge.distribution.values)
        archs = list(judge.distribution.space.enumerate())
        whole = sum(np.exp(judge.distribution.log_p(arch)) for arch in archs)
        for arch in archs:
            weight = np.exp(judge.distribution.log_p(arch)) / whole / self.repeats
            for _ in range(self.repeats):
                judge.baseline = self.baseline
                found += weight * self.make().gradient(judge, [arch], judge.rewards([arch]))
        return found

    def test_it_is_the_gradient_of_the_expected_reward(self) -> None:
        judge = self.judge(flat(2))
        assert self.mean(judge) == pytest.approx(
            slope_of(judge.distribution, lambda: expected(judge)), abs=self.tolerance
        )

    def test_it_is_so_in_a_conditional_space(self) -> None:
        """In expectation over what an option activates, where it draws that."""
        if self.make().mixes:
            pytest.skip("a mixture has all options at once")
        self.repeats, self.tolerance = max(self.repeats, 300), 0.12
        judge = self.judge(nested())
        assert self.mean(judge) == pytest.approx(
            slope_of(judge.distribution, lambda: expected(judge)), abs=self.tolerance
        )

    def test_it_is_so_where_rules_forbid_archs(self) -> None:
        """A forbidden option is not as likely as it would be without the rule, nor are those that it goes with."""
        if self.make().mixes:
            pytest.skip("a mixture has all options at once")
        judge = self.judge(flat(2).restricted(lambda arch: arch.choices["d0"] + arch.choices["d1"] <= 4))
        self.baseline = expected(judge)
        assert self.mean(judge) == pytest.approx(
            slope_of(judge.distribution, lambda: expected(judge)), abs=self.tolerance
        )

    def test_inactive_decisions_have_no_part(self) -> None:
        if self.make().mixes:
            pytest.skip("a mixture has all options at once")
        judge = self.judge(nested())
        arch = next(one for one in judge.distribution.space.enumerate() if None in one.genome)
        judge.baseline = self.baseline
        gradient = self.make().gradient(judge, [arch], judge.rewards([arch]))
        for p, gene in enumerate(arch.genome):
            assert gradient[judge.distribution.of(p)].any() is np.bool_(gene is not None)

    def test_the_logits_of_a_decision_move_against_each_other(self) -> None:
        judge = self.judge(flat(3))
        arch = judge.distribution.draw(judge.rng)
        judge.baseline = self.baseline
        gradient = self.make().gradient(judge, [arch], judge.rewards([arch]))
        assert gradient.shape == judge.distribution.values.shape
        for p in range(3):
            assert gradient[judge.distribution.of(p)].sum() == pytest.approx(0.0, abs=1e-9)

    def test_the_same_random_numbers_give_the_same_gradient(self) -> None:
        found = []
        for seed in (1, 1):
            judge = self.judge(flat(3), seed)
            archs = [judge.distribution.draw(judge.rng)] * self.make().draws
            found.append(self.make().gradient(judge, archs, judge.rewards(archs)))
        assert np.array_equal(*found)

    def test_it_is_a_value(self) -> None:
        one = self.make()
        assert one.draws == 1
        assert one == self.make()
        assert pickle.loads(pickle.dumps(one)) == one
        assert json.loads(json.dumps(one.describe()))["class"] == type(one).__name__
