"""Policy gradients against finite differences, rewards against the published formula, and the contract."""

from __future__ import annotations

import random
from math import log

import numpy as np
import pytest

from nas.choosing.steps import Choices, Steps
from nas.errors import AlgorithmError
from nas.metrics import Metric
from nas.search import REINFORCE, Algorithm, Finished
from nas.search.reinforce import _Policy, _Scale
from nas.space import Arch
from tests.conformance.algorithm import (
    ONE,
    TWO,
    LearnerConformance,
    completed,
    conditional,
    drive,
    error_only,
    flat,
    trade_off,
)

MOBILE = (Metric("accuracy", "max"), Metric("latency_ms", "min"))


class TestREINFORCE(LearnerConformance):
    rebuilt = 400  # every trial is learnt from again

    def make(self, seed: int = 0) -> Algorithm:
        return REINFORCE(seed=seed)


def log_probability(logits: np.ndarray, steps: Steps, path: Choices) -> float:
    """Of a path, the slow way: decision by decision, among the options that are open."""
    total = 0.0
    for p in steps.order:
        option = path[p]
        if option is not None:
            options = list(steps.options(p, path))
            total += logits[p, option] - log(sum(np.exp(logits[p, other]) for other in options))
    return total


def test_a_step_is_the_gradient_by_finite_differences() -> None:
    rng, steps = random.Random(0), Steps(conditional())
    policy = _Policy(steps, 1)
    policy._logits = np.random.default_rng(0).normal(size=policy._logits.shape)
    paths = [policy.draw(0, rng) for _ in range(3)]
    advantages = [0.7, -0.2, 1.5]
    before = policy._logits.copy()

    def objective(logits: np.ndarray) -> float:
        return sum(a * log_probability(logits, steps, path) for a, path in zip(advantages, paths, strict=True)) / 3

    slow = np.zeros_like(before[0])
    for at in np.ndindex(slow.shape):
        bumped = before[0].copy()
        bumped[at] += 1e-6
        slow[at] = (objective(bumped) - objective(before[0])) / 1e-6
    policy.step(paths, np.array(advantages)[:, None], rate=0.5)
    assert np.allclose(policy._logits[0] - before[0], 0.5 * slow, atol=1e-5)


def test_each_controller_weighs_a_trial_by_how_likely_it_would_have_drawn_it() -> None:
    rng, steps = random.Random(0), Steps(flat(3))
    policy = _Policy(steps, 2)
    policy._logits = np.random.default_rng(1).normal(size=policy._logits.shape)
    path = policy.draw(0, rng)
    before = policy._logits.copy()
    log_p = np.array([log_probability(before[k], steps, path) for k in (0, 1)])
    weight = np.minimum(np.exp(log_p) / np.exp(log_p).mean(), 1.0)
    policy.step([path], np.ones((1, 2)), rate=1.0)
    for k in (0, 1):
        alone = _Policy(steps, 1)
        alone._logits = before[[k]].copy()
        alone.step([path], np.ones((1, 1)), rate=1.0)
        assert np.allclose(policy._logits[k] - before[k], weight[k] * (alone._logits[0] - before[k]))


def test_draws_follow_the_distribution() -> None:
    rng, steps = random.Random(0), Steps(flat(2))
    policy = _Policy(steps, 1)
    policy._logits[0, 0] = np.log([0.1, 0.2, 0.3, 0.4])
    drawn = [policy.draw(0, rng) for _ in range(4000)]
    assert np.allclose(np.bincount([path[0] or 0 for path in drawn]) / 4000, [0.1, 0.2, 0.3, 0.4], atol=0.03)
    assert np.allclose(np.bincount([path[1] or 0 for path in drawn]) / 4000, 0.25, atol=0.03)


def test_the_reward_with_a_target_is_the_published_one() -> None:
    algorithm = REINFORCE(target=80.0)
    algorithm.bind(flat(), MOBILE)
    trial = Finished(0, flat().largest, (-0.75, 100.0))
    assert algorithm._product(trial) == pytest.approx(-0.75 * (100 / 80) ** -0.07)
    steep = REINFORCE(target=80.0, exponent=-1.0)
    steep.bind(flat(), (*MOBILE, Metric("energy_mj", "min")))
    assert steep._product(trial._replace(values=(-0.75, 160.0, 40.0))) == pytest.approx(-0.75)
    assert steep._product(trial._replace(values=(0.5, 160.0, 40.0))) == 0.0


def test_a_target_leads_to_archs_of_about_that_cost() -> None:
    def phone(arch: Arch) -> tuple[float, float]:
        error, cost = trade_off(arch)
        return -(1 - error / 30), 10 + 5 * cost  # 10 to 175 ms

    means = []
    for exponent in (-0.01, -2.0):
        algorithm = REINFORCE(target=50.0, exponent=exponent)
        algorithm.bind(flat(), MOBILE)
        run = drive(algorithm, completed(phone), 600)
        means.append(np.mean([phone(arch)[1] for arch in run.asked[-100:]]))
    assert means[0] > means[1] + 40


def test_trade_offs_reach_from_the_first_objective_to_the_last() -> None:
    algorithm = REINFORCE(controllers=3)
    algorithm.bind(flat(), TWO)
    assert algorithm._trade_offs.tolist() == [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    asked = drive(algorithm, completed(trade_off), 600).asked[-150:]
    costs = [trade_off(arch)[1] for arch in asked]
    assert min(costs) <= 4
    assert max(costs) >= 26
    three = REINFORCE(controllers=5)
    three.bind(flat(), (*TWO, Metric("third", "min")))
    assert np.allclose(three._trade_offs.sum(axis=1), 1.0)
    assert three._trade_offs[:3].tolist() == np.eye(3).tolist()


def test_values_are_scaled_by_mean_and_deviation_of_all_so_far() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, (50, 2))
    scale = _Scale(2)
    scale(values[:20])
    scaled = scale(values[20:])
    expected = (values[20:] - values.mean(axis=0)) / values.std(axis=0)
    assert np.allclose(scaled, np.clip(expected, -3, 3))
    odd = scale(np.array([[np.inf, np.nan], [-np.inf, 5.0]]))
    assert odd[0].tolist() == [3.0, 0.0]
    assert odd[1, 0] == -3.0


def test_one_objective_is_learnt_to_its_optimum() -> None:
    algorithm = REINFORCE()
    algorithm.bind(flat(), ONE)
    run = drive(algorithm, completed(error_only), 600)
    assert min(error_only(arch)[0] for arch in run.asked) <= 1.0


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"rate": 0}, "reinforce was given rate=0; it is a finite number above 0"),
        ({"batch": 0}, "batch=0; it is a whole number"),
        ({"baseline": 1.5}, "baseline=1.5; it is a number"),
        ({"controllers": 0}, "controllers=0; it is a whole number"),
        ({"target": -1.0}, "target=-1.0; it is a finite number above 0"),
        ({"exponent": -0.07}, "exponent=-0.07 without a target; give both or neither"),
        ({"target": 80.0, "controllers": 3}, "controllers=3 and a target; with a target there is one"),
    ],
)
def test_wrong_options_get_one_sentence(option: dict[str, float], sentence: str) -> None:
    with pytest.raises(AlgorithmError, match=sentence):
        REINFORCE(**option)  # type: ignore[arg-type]


def test_options_that_do_not_go_with_the_objectives_get_one_sentence() -> None:
    with pytest.raises(AlgorithmError, match="target and the objectives min error, min cost; expected a quality first"):
        REINFORCE(target=3.0).bind(flat(), TWO)
    with pytest.raises(AlgorithmError, match="target and the objectives max accuracy; expected"):
        REINFORCE(target=3.0).bind(flat(), MOBILE[:1])
    with pytest.raises(AlgorithmError, match="controllers=4 and one objective, which has no trade-offs"):
        REINFORCE(controllers=4).bind(flat(), ONE)
