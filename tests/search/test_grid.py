"""The predictor of LINAS against scikit-learn's own grid search."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVR

from nas.search import grid
from nas.search.grid import ALPHAS, COSTS, fit_grid


def task(n: int, seed: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """One-hot features of 6 choices among 4, and labels that are a sum of weights plus an interaction."""
    rng = np.random.default_rng(seed)
    genes = rng.integers(0, 4, (n, 6))
    x = np.eye(4)[genes].reshape(n, -1)
    y = 3.0 + x @ rng.random(24) + (genes[:, 0] == genes[:, 1]) + noise * rng.standard_normal(n)
    return x, y


def searched(x: np.ndarray, y: np.ndarray, new: np.ndarray, alphas: list[float], costs: list[float]) -> np.ndarray:
    """The same by scikit-learn, as the published program calls it."""
    scale = 10.0 ** (np.floor(np.log10(np.abs(y).max())) - 1)
    searches = [
        GridSearchCV(Ridge(), {"alpha": alphas}, scoring="neg_mean_absolute_percentage_error"),
        GridSearchCV(
            SVR(kernel="rbf", gamma="auto", epsilon=0.0), {"C": costs}, scoring="neg_mean_absolute_percentage_error"
        ),
    ]
    for search in searches:
        search.fit(x, y / scale)
    best = max(searches, key=lambda search: search.best_score_)
    return best.predict(new) * scale


@pytest.mark.parametrize(("n", "noise"), [(15, 0.0), (40, 0.3), (41, 1.0)])
@pytest.mark.parametrize("factor", [0.01, -1.0, 500.0])
def test_predictions_are_those_of_scikit_learns_grid_search(n: int, noise: float, factor: float) -> None:
    x, y = task(n, n, noise)
    new, _ = task(30, 99, 0.0)
    alphas, costs = [0.1, 0.5, 1.0, 5.0], [1.0, 2.0, 8.0, 40.0, 100.0]
    ours = fit_grid(x, y * factor, alphas, costs)(new)
    theirs = searched(x, y * factor, new, alphas, costs)
    assert np.allclose(ours, theirs, atol=2e-3 * abs(factor) * y.std())


def test_both_kinds_of_predictor_are_chosen_where_they_are_better() -> None:
    rng = np.random.default_rng(0)
    x = np.eye(4)[rng.integers(0, 4, (80, 6))].reshape(80, -1)
    line = 5.0 + x @ rng.random(24)
    curve = 5.0 + np.sin(3 * x @ rng.random(24)) * (x[:, 0] - x[:, 5])
    for y, least in ((line, 0.0), (curve, 0.0)):
        ridge, svr, both = (
            np.abs(fit_grid(x[:60], y[:60], *grid)(x[60:]) - y[60:]).mean() + least
            for grid in (([0.1, 1.0], ()), ((), [1.0, 10.0]), ([0.1, 1.0], [1.0, 10.0]))
        )
        assert both == min(ridge, svr)


def test_published_grids() -> None:
    assert len(ALPHAS) == len(COSTS) == 100
    assert (ALPHAS[0], ALPHAS[-1], COSTS[0], COSTS[-1]) == (0.1, 10.0, 1.0, 100.0)


def test_labels_that_never_change_and_features_that_never_change() -> None:
    x, y = task(10, 0, 0.1)
    assert fit_grid(x, np.full(10, 7.0))(x[:3]).tolist() == [7.0] * 3
    assert fit_grid(np.ones((4, 3)), np.array([1.0, 2.0, 3.0, 6.0]))(np.ones((2, 3))).tolist() == [3.0, 3.0]
    assert fit_grid(x[:1], y[:1])(x[:2]).tolist() == [y[0]] * 2
    wide = np.concatenate([x, np.ones((10, 5))], axis=1)  # gamma is of the columns that vary
    assert np.allclose(fit_grid(wide, y, (), [1.0, 3.0])(wide), fit_grid(x, y, (), [1.0, 3.0])(x))


def test_labels_of_zero_do_not_decide_alone() -> None:
    x, y = task(40, 1, 0.0)
    y[::7] = 0.0
    assert np.isfinite(fit_grid(x, y, [0.1, 10.0], [1.0])(x)).all()
    assert (fit_grid(x, np.arange(40.0) - 20, [0.1, 1.0], ())(x) < 0).any()


def test_costs_that_gain_nothing_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[float] = []
    solved = grid._solved

    def counted(kernel: np.ndarray, y: np.ndarray, cost: float) -> object:
        tried.append(cost)
        return solved(kernel, y, cost)

    monkeypatch.setattr(grid, "_solved", counted)
    x, y = task(60, 3, 0.5)
    fit_grid(x, y, (), COSTS)
    assert 11 <= max(tried) < 60
    best = tried[-1]  # the last fit is of all trials, with the cost that was chosen
    tried.clear()
    fit_grid(x, y, (), [cost for cost in COSTS if cost <= best + 10])
    assert tried[-1] == best
