"""Expected gain in hypervolume of candidates whose objectives are independent.

What a point adds to the hypervolume of a front is the volume that it dominates of the region that the front does not.  That
region is cut into boxes, and in a box the expectation of independent objectives is a product of one-dimensional ones
(Emmerich, Giannakoglou, Naujoks 2006; Couckuyt, Deschrijver, Dhaene 2014, "Fast calculation of multiobjective probability of
improvement and expected improvement criteria for Pareto optimization"), for any number of objectives and any distribution.
Nothing depends on the units of an objective.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy  # a part of it, as scipy.special, is imported when it is first used
from numpy.typing import NDArray

from nas.pareto import contributions

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Points of the front that make boxes, by the number of objectives: boxes grow with their square and more.
MOST = {1: 1, 2: 400, 3: 100, 4: 40, 5: 20}
FEW = 12
BLOCK_BYTES = 512  # of one row of numbers of candidates that are worked on at a time: their boxes stay in the cache
LEAST = 1e-12  # of the range of the front: what is better than the reference by less counts as nothing
REACH = 4.0  # of the intervals that a normal distribution is cut into, in deviations


class Region:
    """What is better than the reference in every objective, and dominated by no point of a front: disjoint boxes.

    Of a front with more points than `MOST` those stay that alone dominate the most; the gain of what only the others dominate is
    overrated by at most what they add.

    Args:
        front: (k, m) non-dominated points, minimised; k may be 0.
        reference: (m,) upper bound of what counts.
    """

    def __init__(self, front: Floats, reference: Floats) -> None:
        inside = front[(front < reference).all(1)]
        most = MOST.get(len(reference), FEW)
        if len(inside) > most:
            alone = contributions(_scaled(inside, reference), np.ones(len(reference)))
            inside = inside[np.sort(np.argsort(-alone, kind="stable")[:most])]
        low, high = _boxes(inside, reference)
        self._reference = reference
        self.edges: list[Floats] = []
        """Of each objective, ascending; the first is minus infinity."""
        self.low: list[Ints] = []
        """(boxes,) of each objective: which edge is the box's lower one."""
        self.high: list[Ints] = []
        for below, above in zip(low.T, high.T, strict=True):
            edges, places = np.unique(np.concatenate([[-np.inf], below, above]), return_inverse=True)
            self.edges.append(edges)
            self.low.append(places[1 : 1 + len(below)])
            self.high.append(places[1 + len(below) :])

    def gains(self, draws: Sequence[Floats], weights: Floats, precision: type[np.floating[Any]] = np.float64) -> Floats:
        """(n,) expected gain of each candidate, 0.0 and more, in the units of the hypervolume.

        Args:
            draws: of each objective (n, s) values that it may take.
            weights: (s,) how likely each of them is; they sum to 1.
            precision: that it is computed in.
        """
        count = len(draws[0])
        if not count:
            return np.zeros(0)
        scaled, units = [], 1.0
        for values, edges, reference in zip(draws, self.edges, self._reference.tolist(), strict=True):
            # From the reference in units of the best that may be, so that single precision holds products of any objectives.
            room = reference - values
            unit = max(float(room.max()), LEAST * (reference - float(edges[1:].min())), sys.float_info.min)
            better = (np.maximum(room, 0.0) / -unit).T.astype(precision)
            scaled.append((better, ((edges - reference) / unit).astype(precision)))
            units *= unit
        block = BLOCK_BYTES // np.dtype(precision).itemsize
        gains = np.empty(count)
        for start in range(0, count, block):
            some = slice(start, start + block)
            total = np.ones(1, dtype=precision)
            for (values, edges), low, high in zip(scaled, self.low, self.high, strict=True):
                room = _room(values[:, some], weights.astype(precision), edges)
                side = room[high]
                side -= room[low]
                side *= total
                total = side
            gains[some] = total.sum(0)
        return np.asarray(gains * units)


def _room(values: Floats, weights: Floats, edges: Floats) -> Floats:
    """(e, n) expectation of how far values, (s, n), are below each edge, 0.0 where they are above."""
    room = np.zeros((len(edges), values.shape[1]), dtype=values.dtype)
    part = np.empty((len(edges) - 1, values.shape[1]), dtype=values.dtype)
    for value, weight in zip(values, weights, strict=True):
        np.subtract(edges[1:, None], value, out=part)
        np.maximum(part, 0.0, out=part)
        part *= weight
        room[1:] += part
    return room


def _scaled(points: Floats, reference: Floats) -> Floats:
    """Points with 0.0 where an objective is best, and 1.0 at the reference."""
    best = points.min(0)
    return np.asarray((points - best) / (reference - best))


def _boxes(front: Floats, reference: Floats) -> tuple[Floats, Floats]:
    """Lower and upper corners of disjoint boxes, (b, m) each.

    One point after the other is cut out: a box loses what the point dominates, and what is left of it are up to m boxes.
    """
    low, high = np.full((1, len(reference)), -np.inf), reference[None].copy()
    # Points of the middle first make the fewest boxes: a third of those in the order of an objective, with three objectives.
    for point in front[np.argsort(_scaled(front, reference).max(1), kind="stable")] if len(front) else front:
        hit = (high > point).all(1)
        inner, outer = low[hit], high[hit]
        lows, highs = [low[~hit]], [high[~hit]]
        for at, bound in enumerate(point):
            left = inner[:, at] < bound
            above = outer[left].copy()
            above[:, at] = bound
            lows.append(inner[left].copy())
            highs.append(above)
            inner[:, at] = np.maximum(inner[:, at], bound)
        low, high = np.concatenate(lows), np.concatenate(highs)
    return low, high


@functools.cache
def normals(width: float) -> tuple[Floats, Floats]:
    """(s,) values of a standard normal distribution and how likely they are: the means of intervals of a width."""
    edges = np.arange(-REACH, REACH + width / 2.0, width)
    edges[0], edges[-1] = -np.inf, np.inf
    weights = np.diff(scipy.special.ndtr(edges))
    density = np.exp(-(edges**2) / 2.0) / np.sqrt(2.0 * np.pi)
    return -np.diff(density) / weights, weights
