"""Expected gains in hypervolume: against differences of hypervolumes, and means over all combinations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from nas.pareto import hypervolume, non_dominated
from nas.search.improvement import MOST, Region, normals

Floats = NDArray[np.float64]


def front_of(rng: np.random.Generator, count: int, objectives: int) -> Floats:
    points = rng.random((4 * count, objectives))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points = points[non_dominated(points)]
    return np.asarray(points[:count])


ONE = np.ones(1)


@pytest.mark.parametrize("objectives", [1, 2, 3, 4, 5])
def test_the_gain_of_a_point_is_the_difference_of_hypervolumes(objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    for count in (0, 1, 5, 20):
        front = front_of(rng, count, objectives) if count else np.zeros((0, objectives))
        reference = np.full(objectives, 0.9)
        points = rng.random((30, objectives))
        before = hypervolume(front, reference)
        slow = [hypervolume(np.vstack([front, point]), reference) - before for point in points]
        fast = Region(front, reference).gains([column[:, None] for column in points.T], ONE)
        np.testing.assert_allclose(fast, slow, atol=1e-12)


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_the_expected_gain_is_the_mean_over_all_combinations(objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    front, reference = front_of(rng, 6, objectives), np.ones(objectives)
    draws, weights = [rng.random((1, 3)) for _ in range(objectives)], np.array([0.2, 0.5, 0.3])
    region, mean = Region(front, reference), 0.0
    for places in itertools.product(range(3), repeat=objectives):
        point = [column[:, [at]] for column, at in zip(draws, places, strict=True)]
        mean += weights[list(places)].prod() * region.gains(point, ONE)[0]
    np.testing.assert_allclose(region.gains(draws, weights), [mean], rtol=1e-12)


def test_intervals_of_a_normal_distribution_have_its_moments_and_expected_improvements() -> None:
    values, weights = normals(0.5)
    assert weights.sum() == pytest.approx(1.0)
    assert weights @ values == pytest.approx(0.0, abs=1e-12)
    assert weights @ values**2 == pytest.approx(1.0, abs=0.03)
    region = Region(np.zeros((1, 1)), np.ones(1))
    for mean in (-1.0, 0.0, 1.0, 2.0, 3.0):
        exact = scipy.stats.norm.pdf(mean) - mean * scipy.stats.norm.sf(mean)
        assert region.gains([mean + values[None]], weights)[0] == pytest.approx(exact, rel=0.25)


def test_of_a_long_front_those_points_stay_that_dominate_the_most_alone() -> None:
    rng = np.random.default_rng(0)
    front, reference = front_of(rng, 120, 4), np.ones(4)
    assert len(front) > MOST[4]
    region, points = Region(front, reference), rng.random((50, 4))
    before = hypervolume(front, reference)
    exact = np.array([hypervolume(np.vstack([front, point]), reference) - before for point in points])
    gains = region.gains([column[:, None] for column in points.T], ONE)
    assert (gains >= exact - 1e-12).all()
    assert scipy.stats.spearmanr(gains, exact).statistic > 0.9
