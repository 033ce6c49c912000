"""The predictor of LINAS: ridge regression or support vectors, whichever cross-validation prefers.

Cummings, Sridhar, Sarah, Szankin 2022, "A Hardware-Aware Framework for Accelerating Neural Architecture Search Across
Modalities" (DyNAS-T), and its published program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import floor, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Predict = Callable[[Floats], Floats]

ALPHAS = tuple(round(0.1 * k, 1) for k in range(1, 101))  # penalties of the published grid: 0.1, 0.2 ... 10
COSTS = tuple(float(k) for k in range(1, 101))  # costs of the published grid: 1, 2 ... 100
FOLDS = 5
PATIENCE = 10  # costs in a row whose errors are not smaller by GAIN, after which no larger one is tried
GAIN = 0.001
_ITERATIONS = 1_000_000  # of the solver, as published


def fit_grid(x: Floats, y: Floats, alphas: Sequence[float] = ALPHAS, costs: Sequence[float] = COSTS) -> Predict:
    """A predictor of `y`: ridge over `alphas` or an SVR (RBF, gamma 1 / columns, epsilon 0) over `costs`, the better of all.

    The score is the mean absolute percentage error over five consecutive folds, labels are divided by the power of ten that
    brings the largest to 10-100, columns that never change are left out: as published.  What grid search would fit again is
    computed once: a decomposition a fold serves all penalties, one kernel all costs, and a cost that
    bounds no support vector is the answer for every larger one.  Ours are two more: larger costs are not tried after ten in a row
    have lowered the error by less than a thousandth (the solver takes longest for them, and they change nothing); and a label's
    error is taken relative to at least a thousandth of the largest label, or a single zero would decide.

    Args:
        x: (n, d) features, n at least 1.
        y: (n,) labels, finite.
        alphas: penalties of the ridge regression; may be empty if `costs` is not.
        costs: costs C of the SVR; may be empty if `alphas` is not.

    Returns:
        From (k, d) features to (k,) labels.
    """
    varies = np.flatnonzero(x.std(axis=0) > 0)
    if not len(varies) or y.min() == y.max():
        mean = float(y.mean())
        return lambda new: np.full(len(new), mean)
    scale = 10.0 ** (floor(log10(np.abs(y).max())) - 1)
    x, y = x[:, varies], y / scale
    alpha, cost = _choose(x, y, alphas, costs)
    model = _ridge(x, y, alpha) if cost is None else _svr(x, y, cost)
    return lambda new: model(new[:, varies]) * scale


def _choose(x: Floats, y: Floats, alphas: Sequence[float], costs: Sequence[float]) -> tuple[float, float | None]:
    """The penalty, and the cost of the SVR if that is better."""
    if len(alphas) + len(costs) == 1 or len(y) < 2:
        return (alphas[0], None) if alphas else (0.0, costs[0])
    folds = _folds(len(y))
    share = 1 / np.maximum(np.abs(y), 1e-3 * np.abs(y).max())
    penalty, best = _best_alpha(x, y, alphas, folds, share) if alphas else (0.0, np.inf)
    if not costs:
        return penalty, None
    cost, error = _best_cost(_kernel(x, x), y, sorted(costs), folds, share)
    return (penalty, cost) if error < best else (penalty, None)


def _folds(n: int) -> list[tuple[Rows, Rows]]:
    """Rows to train on and to test on: consecutive fifths, as scikit-learn cuts them."""
    rows = np.arange(n)
    return [(np.setdiff1d(rows, test, assume_unique=True), test) for test in np.array_split(rows, min(FOLDS, n))]


def _best_alpha(
    x: Floats, y: Floats, alphas: Sequence[float], folds: Sequence[tuple[Rows, Rows]], share: Floats
) -> tuple[float, float]:
    """The penalty of the smallest error, and that error."""
    error = np.zeros(len(alphas))
    for train, test in folds:
        misses = np.abs(_ridge_path(x[train], y[train], x[test], alphas) - y[test, None])
        error += share[test] @ misses / len(test)
    best = int(error.argmin())
    return alphas[best], float(error[best]) / len(folds)


def _best_cost(
    kernel: Floats, y: Floats, costs: Sequence[float], folds: Sequence[tuple[Rows, Rows]], share: Floats
) -> tuple[float, float]:
    """The cost of the smallest error, and that error; `costs` ascend."""
    best, smallest, mark, since = costs[0], np.inf, np.inf, 0
    settled: dict[int, float] = {}  # error of a fold whose answer no larger cost changes
    for cost in costs:
        error = 0.0
        for fold, (train, test) in enumerate(folds):
            if fold not in settled:
                model = _solved(kernel[np.ix_(train, train)], y[train], cost)
                miss = np.abs(model.predict(kernel[np.ix_(test, train)]) - y[test])
                settled[fold] = float(share[test] @ miss) / len(test)
                error += settled[fold]
                if np.abs(model.dual_coef_).max(initial=0.0) >= cost * (1 - 1e-9):
                    del settled[fold]
            else:
                error += settled[fold]
        since += 1
        if error < smallest:
            best, smallest = cost, error
        if error < mark * (1 - GAIN):
            mark, since = error, 0
        if since == PATIENCE or len(settled) == len(folds):
            break
    return best, smallest / len(folds)


def _ridge_path(x: Floats, y: Floats, new: Floats, alphas: Sequence[float]) -> Floats:
    """(k, a) predictions of a ridge regression for every penalty, from one decomposition."""
    mean = x.mean(axis=0)
    left, singular, right = np.linalg.svd(x - mean, full_matrices=False)
    shrink = singular[:, None] / (singular[:, None] ** 2 + np.asarray(alphas))  # (r, a)
    found: Floats = (new - mean) @ right.T @ (shrink * (left.T @ y)[:, None]) + y.mean()
    return found


def _ridge(x: Floats, y: Floats, alpha: float) -> Predict:
    mean, middle = x.mean(axis=0), y.mean()
    centred = x - mean
    coefficients = np.linalg.solve(centred.T @ centred + alpha * np.eye(x.shape[1]), centred.T @ (y - middle))
    return lambda new: (new - mean) @ coefficients + middle


def _svr(x: Floats, y: Floats, cost: float) -> Predict:
    model = _solved(_kernel(x, x), y, cost)
    support, dual, intercept = x[model.support_], model.dual_coef_[0], float(model.intercept_[0])
    return lambda new: _kernel(new, support) @ dual + intercept


def _solved(kernel: Floats, y: Floats, cost: float) -> Any:
    from sklearn.svm import SVR

    return SVR(kernel="precomputed", C=cost, epsilon=0.0, max_iter=_ITERATIONS).fit(kernel, y)


def _kernel(a: Floats, b: Floats) -> Floats:
    """(n, k) RBF kernel with gamma 1 / columns."""
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * (a @ b.T)
    found: Floats = np.exp(-np.maximum(squares, 0.0) / a.shape[1])
    return found
