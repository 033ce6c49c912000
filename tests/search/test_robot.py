"""RoBoT keeps the contract, and does what the paper says."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from nas.errors import AlgorithmError
from nas.search import Algorithm, Finished, make
from nas.search.robot import RoBoT, _bound, _process, _scaled
from tests.conformance.algorithm import (
    ONE,
    TWO,
    AlgorithmConformance,
    LearnerConformance,
    completed,
    drive,
    error_only,
    flat,
    keys,
    sign_test,
    small,
    trade_off,
)


def noise(archs, scale):
    return np.array([random.Random(arch.key).gauss(0, scale) for arch in archs])


def hints(archs):
    """What proxies are: parts of the truth in other units, with noise, and one that says nothing."""
    errors, costs = np.array([trade_off(arch) for arch in archs]).T
    distances = np.array([error_only(arch)[0] for arch in archs])
    return np.stack([errors + noise(archs, 1), -costs, distances**2 + noise(archs, 30), noise(archs, 1)], 1)


def guesses(archs):
    """Two bad proxies and their difference, which is right up to noise."""
    right = np.array([error_only(arch)[0] for arch in archs])
    wrong = np.array([random.Random(arch.key).uniform(0, 40) for arch in archs])
    return np.stack([wrong - right, wrong, np.zeros(len(archs))], 1)


class TestRoBoT(AlgorithmConformance):
    def make(self, seed: int = 0) -> Algorithm:
        return RoBoT("tests.search.test_robot:hints", explore=40, pool=400, weights=64, seed=seed)


@pytest.mark.slow
class TestRoBoTLearns:
    """With a pool much larger than the number of trials: of one used up, every order is as good."""

    def _play(self, play: Callable[[Algorithm], float]) -> float:
        pairs = ((RoBoT(hints, pool=2000, seed=seed), make("random", seed=seed)) for seed in range(14))
        return sign_test(sum(play(ours) > play(rival) for ours, rival in pairs), 14)

    test_beats_random_search_on_a_front = LearnerConformance.test_beats_random_search_on_a_front
    test_finds_a_small_feasible_region = LearnerConformance.test_finds_a_small_feasible_region


def test_it_finds_the_best_of_its_pool_in_a_twentieth_of_it():
    ranks = []
    for seed in range(8):
        algorithm = RoBoT(hints, pool=2000, seed=seed)
        algorithm.bind(flat(), ONE)
        found = min(trial.values[0] for trial in drive(algorithm, completed(error_only), 100).finished)
        ranks.append(sum(error_only(arch)[0] < found for arch in algorithm._ranking.archs))
    assert sorted(ranks)[5] <= 3  # of 2,000; random search expects 20
    assert sum(ranks) / 8 <= 6


def test_it_finds_the_combination_that_no_single_proxy_is():
    def best(algorithm):
        algorithm.bind(flat(), ONE)
        return min(trial.values[0] for trial in drive(algorithm, completed(error_only), 20).finished)

    combined = [best(RoBoT(guesses, seed=seed)) for seed in range(12)]
    single = [
        best(RoBoT(lambda archs, at=at: guesses(archs)[:, [at]], seed=seed)) for at in (0, 1) for seed in range(6)
    ]
    assert sum(combined) / 12 < sum(single) / 12 - 1.5
    assert (
        max(combined) <= sorted(single)[6]
    )  # the worst of it against their median: archs that score alike go by their keys


def test_it_explores_tops_of_weights_and_then_follows_the_best_ranking():
    algorithm = RoBoT(hints, explore=8, pool=500, seed=3)
    algorithm.bind(flat(), ONE)
    run = drive(algorithm, completed(error_only), 20)
    ranking = algorithm._ranking
    at = [ranking.keys.index(key) for key in keys(run.asked)]
    assert set(at[:8]) <= set(ranking.tops.tolist())
    values = {ranking.keys.index(trial.arch.key): trial.values[0] for trial in run.finished[:8]}
    best = min((values.get(int(top), np.inf), place) for place, top in enumerate(ranking.tops))[1]
    order = np.argsort(-ranking.scores(ranking.weights[best]), kind="stable")
    expected = [int(one) for one in order if one not in at[:8]]
    assert at[8] == expected[0]


def test_trials_under_way_spread_the_next_ones():
    weights = np.array([[-0.9], [-0.88], [0.0], [0.9]])
    quality = np.array([np.nan, np.nan, 0.0, np.nan])
    known, none = np.array([False, False, True, False]), np.zeros(4, bool)
    before = _bound(weights, quality, known, none, 2.0)
    after = _bound(weights, quality, known, np.array([True, False, False, False]), 2.0)
    assert before[1] > 0.5
    assert after[1] < 0.2 < after[3]


def test_the_process_goes_through_what_is_known_and_is_unsure_elsewhere():
    x = np.linspace(-1, 1, 9)[:, None]
    y = np.sin(2 * x[:, 0]) * 7 + 3
    mean, spread = _process(x, y, np.array([[-1.0], [0.125], [3.0]]))
    assert mean[:2] == pytest.approx([np.sin(-2) * 7 + 3, np.sin(0.25) * 7 + 3], abs=0.15)
    assert spread[2] > 5 * spread[1]
    flat_mean, _ = _process(x, np.full(9, 2.0), x)
    assert flat_mean == pytest.approx(np.full(9, 2.0))


def test_undefined_proxies_do_not_squeeze_the_rest():
    given = [[1.0, 5.0], [3.0, 5.0], [-1e8, 5.0], [np.nan, 5.0], [2.0, np.inf], [2.0, 5.0]]
    scaled, defined = _scaled("robot", given, 6)
    assert scaled[:, 0].tolist() == [0.0, 1.0, 0.0, 0.0, 0.0, 0.5]
    assert scaled[:, 1].tolist() == [0.0] * 6
    assert defined.tolist() == [True, True, False, False, False, True]
    assert not _scaled("robot", [[np.nan], [-1e8]], 2)[1].any()


def test_archs_without_a_proxy_come_last():
    def some(archs):
        values = hints(archs)
        values[[arch.genome[0] == 0 for arch in archs], 1] = -1e8
        return values

    algorithm = RoBoT(some, explore=5)
    algorithm.bind(small(), ONE)
    asked = [arch.genome[0] == 0 for arch in drive(algorithm, completed(error_only), 64).asked]
    assert asked == [False] * 48 + [True] * 16


def test_a_failed_arch_is_never_the_best():
    def outcome(number, arch):
        if error_only(arch)[0] < 8:
            return Finished(number, arch, None, 0.0, "FAILED")
        return Finished(number, arch, error_only(arch))

    algorithm = RoBoT(guesses, explore=10, seed=1)
    algorithm.bind(flat(), ONE)
    run = drive(algorithm, outcome, 40)
    assert {trial.state for trial in run.finished} == {"COMPLETED", "FAILED"}
    quality = algorithm._quality(algorithm._ranking, random.Random(0))
    failed = [algorithm._ranking.keys.index(t.arch.key) for t in run.finished if t.state == "FAILED"]
    good = [algorithm._ranking.keys.index(t.arch.key) for t in run.finished if t.state == "COMPLETED"]
    assert quality[failed].max() < quality[good].min()


def test_beyond_the_pool_it_goes_on():
    algorithm = RoBoT(hints, pool=10)
    algorithm.bind(small(), ONE)
    assert len(set(keys(drive(algorithm, completed(error_only), 64).asked))) == 64


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "robot was given no proxies; give a function from archs to .n, k. values"),
        ({"proxies": 3}, "proxies=3; it is a function"),
        ({"proxies": "tests.search.test_robot:hnts"}, "which cannot be imported .*hnts.*; give a function or 'module:"),
        ({"proxies": "nowhere"}, "which cannot be imported"),
        ({"proxies": hints, "explore": 0}, "explore=0; it is a whole number, 1 or more"),
        ({"proxies": hints, "kappa": -1}, "kappa=-1; it is a finite number, 0 or more"),
    ],
)
def test_mistakes_get_one_sentence(options, sentence):
    with pytest.raises(AlgorithmError, match=sentence):
        make("robot", **options)


def test_proxies_of_the_wrong_shape_are_refused():
    algorithm = RoBoT(lambda archs: np.zeros(len(archs)))
    algorithm.bind(small(), TWO)
    with pytest.raises(AlgorithmError, match=r"gave an array of shape \(64,\) for 64 archs; it must be \(64, k\)"):
        algorithm.ask(1)


class Described:
    def describe(self):
        return {"name": "mine"}

    def values(self, archs):
        return hints(archs)


def test_proxies_are_described_by_themselves_or_by_name():
    assert RoBoT(Described().values).describe()["proxies"] == {"name": "mine"}
    assert RoBoT(hints).describe()["proxies"] == f"{hints.__module__}:hints"
