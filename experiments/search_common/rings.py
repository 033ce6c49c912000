"""Landscapes over decisions in a ring: sums of terms, each of a decision and the two before it; and their best fronts.

A weighted sum of such objectives is minimised exactly by dynamic programming over pairs of neighbouring decisions, so
that the supported points of the front are known, whatever the number of decisions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BETWEEN = 64  # points on a line between two supported points
ROUNDING = 1e-9  # of a weighted sum


@dataclass(frozen=True)
class Ring:
    """Two minimised objectives.

    Args:
        terms: (2, decisions, K, K, K) what a decision adds: indices are the decision two before it, the one before it, and
            itself.
    """

    terms: np.ndarray

    def values(self, genes: np.ndarray) -> np.ndarray:
        """(n, decisions) genes -> (n, 2) objectives."""
        places = np.arange(self.terms.shape[1])
        return self.terms[:, places, np.roll(genes, 2, 1), np.roll(genes, 1, 1), genes].sum(-1).T

    def best(self, weights: np.ndarray) -> np.ndarray:
        """(2,) objectives of an arch that minimises their weighted sum."""
        _, decisions, count, _, _ = self.terms.shape
        terms = self.terms.transpose(1, 2, 3, 4, 0)
        # Objectives of the best way to here, by the first two decisions and the last two.
        ends = np.full((count, count, count, count, 2), np.inf)
        first, second = np.ogrid[:count, :count]
        ends[first, second, first, second] = 0.0
        for at in range(2, decisions + 2):  # the terms of the first two close the ring
            longer = ends[..., None, :] + terms[at % decisions]
            if at >= decisions:  # the decision is the first or the second again
                other = np.arange(count) != np.arange(count).reshape(
                    (-1, 1, 1, 1, 1) if at == decisions else (-1, 1, 1, 1)
                )
                longer[np.broadcast_to(other, longer.shape[:-1])] = np.inf
            weighed = (longer * weights).sum(-1)
            ends = np.take_along_axis(longer, weighed.argmin(2)[:, :, None, ..., None], 2)[:, :, 0]
        ends = ends.reshape(-1, 2)
        return ends[int((ends * weights).sum(1).argmin())]

    def supported(self) -> np.ndarray:
        """(k, 2) points of the front that minimise a weighted sum, by the first objective."""
        ends = [self.best(np.array(weights)) for weights in ((1.0, 1e-9), (1e-9, 1.0))]
        found, open_ = list(ends), [tuple(ends)]
        while open_:
            left, right = open_.pop()
            weights = np.array([left[1] - right[1], right[0] - left[0]])
            if (weights <= 0).any():
                continue
            weights /= weights.sum()
            middle = self.best(weights)
            if middle @ weights < left @ weights - ROUNDING * abs(left @ weights):
                found.append(middle)
                open_ += [(left, middle), (middle, right)]
        return np.array(sorted(map(tuple, found)))

    def whole(self) -> np.ndarray:
        """(k, 2) points on the lines between neighbouring supported points: no arch dominates any of them."""
        points = self.supported()
        steps = np.arange(BETWEEN) / BETWEEN
        lines = points[:-1, None] + (points[1:] - points[:-1])[:, None] * steps[:, None]
        return np.vstack([lines.reshape(-1, 2), points[-1:]])
