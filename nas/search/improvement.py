"""Expected hypervolume gain of candidates whose objectives are normal and independent.

With two objectives the gain of each sample is exact.  With more, the hypervolume is written as an average over directions
(Zhang, Golovin 2020, "Random Hypervolume Scalarizations for Provable Multi-Objective Black Box Optimization"), which costs
the same for any number of objectives.
"""

from __future__ import annotations

import functools
from math import gamma, pi

import numpy as np
import scipy  # a part of it, as scipy.stats, is imported when it is first used
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SAMPLES = 32  # of a candidate's objectives; half as many where each is looked at from every direction
DIRECTIONS = 64


def expected_gain(draws: Floats, front: Floats, reference: Floats) -> Floats:
    """Mean gain in hypervolume of each candidate.

    Args:
        draws: (n, s, m) samples of the objectives of n candidates, minimised.
        front: (k, m) non-dominated points; k may be 0.
        reference: (m,) upper bound of what counts.

    Returns:
        (n,) in the units of the hypervolume, 0.0 and more.
    """
    match draws.shape[2]:
        case 1:
            best = min(float(front.min(initial=np.inf)), float(reference[0]))
            gain = np.maximum(best - draws[..., 0], 0.0)
        case 2:
            gain = gain_2d(draws, front, reference)
        case _:
            gain = gain_scalarised(draws, front, reference)
    return np.asarray(gain.mean(1))


def gain_2d(points: Floats, front: Floats, reference: Floats) -> Floats:
    """Exact gain in hypervolume of each of (…, 2) points, each alone, against a front of two objectives.

    The area below the staircase and right above a point is a sum over the steps between them: two look-ups and two
    cumulated sums, whatever the front's size.
    """
    front = front[(front < reference).all(1)]
    front = front[np.argsort(front[:, 0])]
    x, y = np.minimum(points[..., 0], reference[0]), np.minimum(points[..., 1], reference[1])
    # Step j reaches to edge j and is height j high.
    edges = np.append(front[:, 0], reference[0])
    heights = np.insert(front[:, 1], 0, reference[1])
    first = np.minimum(np.searchsorted(edges, x, side="right"), len(edges) - 1)
    last = len(heights) - 1 - np.searchsorted(heights[::-1], y, side="right")
    widths = np.diff(edges, prepend=edges[0])
    width, area = np.cumsum(widths), np.cumsum(widths * heights)
    reached = last >= first
    last = np.maximum(last, first)
    gain = (edges[first] - x) * (heights[first] - y) + area[last] - area[first] - (width[last] - width[first]) * y
    return np.where(reached, np.maximum(gain, 0.0), 0.0)


def gain_scalarised(points: Floats, front: Floats, reference: Floats) -> Floats:
    """Gain of each of (n, s, m) points, as the mean over directions λ of max(0, s_λ(point) − max over the front of s_λ).

    s_λ(y) = min_i max(0, (reference_i − y_i) / λ_i)^m; its mean over the positive part of the sphere is proportional to the
    hypervolume, which `scale` makes an equality.
    """
    objectives = len(reference)
    directions, scale = _directions(objectives)
    inverse = 1.0 / directions
    best = np.zeros(len(directions))
    if len(front):
        room = np.maximum(reference - front, 0.0)
        best = (room[:, None, :] * inverse).min(2).max(0) ** objectives
    room = np.maximum(reference - points, 0.0)
    gain = np.zeros(points.shape[:2])
    for direction, known in zip(inverse, best, strict=True):
        gain += np.maximum((room * direction).min(2) ** objectives - known, 0.0)
    return gain * (scale / len(directions))


@functools.cache
def normals(objectives: int) -> Floats:
    """(s, m) quasi-random standard normal numbers, always the same."""
    uniform = scipy.stats.qmc.Sobol(objectives, seed=0).random(SAMPLES if objectives < 3 else SAMPLES // 2)
    return np.asarray(scipy.special.ndtri(0.001 + 0.998 * uniform))


@functools.cache
def _directions(objectives: int) -> tuple[Floats, float]:
    """(DIRECTIONS, m) unit vectors, evenly over the positive part of the sphere, and the constant c_m."""
    uniform = scipy.stats.qmc.Sobol(objectives, seed=1).random(DIRECTIONS)
    vectors = np.abs(scipy.special.ndtri(0.5 + 0.4995 * uniform + 1e-4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    half = objectives / 2.0
    return vectors, pi**half / (2.0**objectives * gamma(half + 1.0))
