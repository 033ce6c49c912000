"""How good predictions are: errors relative to what was measured, and whether the order is right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nas.errors import PredictorError

Floats = NDArray[np.float64]


def scores(measured: Floats, predicted: Floats) -> dict[str, float]:
    """Mean absolute percentage error, share within ±10 %, and Spearman's rank correlation.

    Args:
        measured: (n,) positive; n of 2 or more.
        predicted: (n,) finite.

    Returns:
        {"mape": fraction, "within10": fraction, "spearman": -1 to 1; 0.0 where either is constant}.

    Raises:
        PredictorError: shapes differ, there are fewer than two, or a value is not usable.
    """
    measured, predicted = np.asarray(measured, float), np.asarray(predicted, float)
    if measured.shape != predicted.shape or measured.ndim != 1 or len(measured) < 2:
        raise PredictorError(
            f"{measured.shape} measurements and {predicted.shape} predictions; give two or more of each, as many of both"
        )
    if not (np.isfinite(measured).all() and np.isfinite(predicted).all() and (measured > 0).all()):
        raise PredictorError("measurements must be positive and predictions finite numbers; leave the others out")
    relative = np.abs(predicted - measured) / measured
    return {
        "mape": float(relative.mean()),
        "within10": float((relative <= 0.1 + 1e-12).mean()),
        "spearman": spearman(measured, predicted),
    }


def spearman(a: Floats, b: Floats) -> float:
    """Correlation of ranks, ties sharing their mean rank; 0.0 where either side is constant."""
    ranks = [_ranks(np.asarray(one, float)) for one in (a, b)]
    centred = [one - one.mean() for one in ranks]
    scale = float(np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return float((centred[0] * centred[1]).sum() / scale) if scale > 0 else 0.0


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    found: Floats = ((ends - counts + ends - 1) / 2.0)[inverse]
    return found


def held_out(count: int, predict: Callable[[NDArray[np.intp], NDArray[np.intp]], Floats], seed: int = 0) -> Floats:
    """Predictions of each of `count` samples by a model that has not seen it: cross-validation with up to five parts.

    Args:
        count: samples, 2 or more.
        predict: of (training indices, test indices), gives values of the test ones.
        seed: of the division.

    Returns:
        (count,) predictions.
    """
    order = np.random.default_rng(seed).permutation(count)
    found = np.empty(count)
    for part in np.array_split(order, min(5, count)):
        found[part] = predict(np.setdiff1d(order, part), part)
    return found
