"""What archs would measure, predicted from those that were measured: a predictor an objective, and one of the violation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas.search.base import Finished, violation

if TYPE_CHECKING:
    from nas.space import Arch, Space

Floats = NDArray[np.float64]
Predict = Callable[[Floats], Floats]
Fit = Callable[[Floats, Floats], Predict]


class Forecast:
    """Predicts minimised objective values and the violation of archs, from one-hot features.

    Archs are told apart as feasible or not by the predicted violation that errs least often on the training trials.

    Args:
        space: the space of all archs.
        trials: what to learn from, none of them failed, at least one.
        columns: which objectives to predict, in this order.
        fit: makes a predictor of (n, d) features and (n,) labels.
    """

    def __init__(self, space: Space, trials: Sequence[Finished], columns: Sequence[int], fit: Fit) -> None:
        self._space = space
        features = space.features([trial.arch for trial in trials])
        values = measured(trials, columns)
        known = ~np.isnan(values).any(axis=1)
        self._values = [fit(features[known], column) for column in finite(values[known]).T] if known.any() else []
        self._columns = len(columns)
        self._violation: Predict | None = None
        violations = finite(np.array([[violation(trial)] for trial in trials]))[:, 0]
        if (violations > 0).any():
            self._violation = fit(features, violations)
            self._bound = _bound(self._violation(features), violations > 0)

    def __call__(self, archs: Sequence[Arch]) -> tuple[Floats, Floats]:
        """(n, m) minimised values, zeros if none was ever measured, and (n,) violations, 0.0 where feasible."""
        features = self._space.features(archs)
        values = np.array([predict(features) for predict in self._values]).reshape(-1, len(archs)).T
        if not self._values:
            values = np.zeros((len(archs), self._columns))
        if self._violation is None:
            return values, np.zeros(len(archs))
        return values, np.maximum(self._violation(features) - self._bound, 0.0)


def measured(trials: Sequence[Finished], columns: Sequence[int]) -> Floats:
    """(n, m) values of some objectives; NaN rows where they were not measured."""
    rows = [[trial.values[c] for c in columns] if trial.values else [np.nan] * len(columns) for trial in trials]
    return np.array(rows, dtype=np.float64).reshape(len(trials), len(columns))


def finite(values: Floats) -> Floats:
    """`values` with infinities moved one range beyond the finite ones of their column."""
    if np.isfinite(values).all():
        return values
    values = values.copy()
    for column in values.T:
        real = column[np.isfinite(column)]
        low, high = (real.min(), real.max()) if len(real) else (0.0, 0.0)
        reach = high - low or max(1.0, abs(high))
        column[column == np.inf] = high + reach
        column[column == -np.inf] = low - reach
    return values


def _bound(predicted: Floats, infeasible: NDArray[np.bool_]) -> float:
    """The prediction up to which an arch counts as feasible: the one that errs least often; below all if all are infeasible."""
    order = np.argsort(predicted, kind="stable")
    # Errors if the first k are called feasible, k = 0 ... n.
    bad = infeasible[order]
    errors = np.concatenate([[0], bad.cumsum()]) + np.concatenate([(~bad)[::-1].cumsum()[::-1], [0]])
    k = int(errors.argmin())
    if k == 0:
        return float(predicted.min() - 1.0)
    return float(predicted[order[k - 1]])
