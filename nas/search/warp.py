"""Objective values as a Gaussian process likes them: centred, of unit spread, with a short bad tail."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Warp:
    """A monotone map of one minimised objective and its inverse.

    What is worse than the median by more than the best is better than it is compressed logarithmically: a search needs to know
    that a network is bad, not how bad, and a few hopeless ones would hide the differences among the good.

    Args:
        values: (n,) finite values, minimised; n is 1 or more.
    """

    def __init__(self, values: Floats) -> None:
        self._middle = float(np.median(values))
        scale = self._middle - float(values.min())
        self._scale = scale if scale > 0 else float(np.ptp(values)) or 1.0
        tail = self._short((values - self._middle) / self._scale)
        self._mean, self._spread = float(tail.mean()), float(tail.std()) or 1.0

    def __call__(self, values: Floats) -> Floats:
        """Standardised values."""
        return (self._short((values - self._middle) / self._scale) - self._mean) / self._spread

    def back(self, standard: Floats) -> Floats:
        """The values that standardised ones stand for."""
        tail = standard * self._spread + self._mean
        long = np.where(tail > 1.0, np.exp(np.minimum(tail - 1.0, 50.0)), tail)
        return np.asarray(self._middle + self._scale * long)

    @staticmethod
    def _short(values: Floats) -> Floats:
        return np.where(values > 1.0, 1.0 + np.log(np.maximum(values, 1.0)), values)
