"""A Gaussian process over archs: sums of kernels on decisions and on counts, fitted by maximum a posteriori.

The covariance of two archs is

    product · exp(−Σ_d θ_d ‖x_d − x'_d‖²) + additive · ⟨x, x'⟩ / D + tally · ⟨c, c'⟩ + profile · exp(−Σ_k φ_k (c_k − c'_k)²)

over the coordinates x and counts c of `nas.search.encoding`: interactions with a length of each decision's own (automatic
relevance determination, Rasmussen, Williams 2006, "Gaussian Processes for Machine Learning", 5.1), effects that add up, and
the same two for counts and features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # a part of it, as scipy.linalg, is imported when it is first used
from numpy.typing import NDArray

from nas.search.encoding import Encoding, Points

Floats = NDArray[np.float64]

JITTER = 1e-6  # of the variance, on the diagonal
ITERATIONS = 30  # of the fit; more changed nothing that a search could tell
FAR = 50.0  # logarithms of parameters beyond which nothing is computed: a line search may try 10^300
TOO_FAR = 1e10  # what is then said of them: as bad as can be
PRODUCT, ADDITIVE, TALLY, PROFILE, NOISE = range(-5, 0)  # where the amplitudes are among the parameters


@dataclass(frozen=True)
class Prior:
    """Independent normal beliefs about the logarithms of the parameters, and which amplitudes take part."""

    mean: Floats
    spread: Floats
    used: Floats
    """(4,) 1.0 for a kernel that takes part; a space without decisions of a kind has no counts."""

    @classmethod
    def of(cls, encoding: Encoding) -> Prior:
        """Lengths at which two random archs are correlated by about 1/e; amplitudes near 0.3, noise near 1 %."""
        decisions, columns = encoding.decisions, encoding.count_columns
        theta = np.full(decisions, np.log(3.0 / decisions))
        phi = np.full(columns, -np.log(max(encoding.counts_apart, 1e-9)))
        mean = np.concatenate([theta, phi, np.log([0.3, 0.3, 0.3, 0.3, 1e-2])])
        spread = np.concatenate([np.ones(decisions + columns + 4), [1.5]])
        return cls(mean, spread, np.array([1.0, 1.0, float(columns > 0), float(columns > 0)]))


class Process:
    """A Gaussian process with given parameters, conditioned on some points.

    Args:
        encoding: what the points were made by.
        parameters: logarithms, as `fit` gives them.
        points: (n,) points that were seen.
    """

    def __init__(self, encoding: Encoding, parameters: Floats, points: Points) -> None:
        theta, phi, amplitudes, noise = _split(encoding, parameters)
        self._encoding, self._amplitudes = encoding, amplitudes
        self.noise = noise + JITTER
        self._theta, self._phi = np.sqrt(theta[encoding.blocks]), np.sqrt(phi)
        self.points = points
        covariance = self.covariance(points, points)
        covariance[np.diag_indices_from(covariance)] += self.noise
        self.root = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)

    def covariance(self, left: Points, right: Points) -> Floats:
        """(n, m) covariance between two sets of points."""
        product, additive, tally, profile = self._amplitudes
        total: Floats = product * _decay(left.coordinates * self._theta, right.coordinates * self._theta)
        total += (additive / self._encoding.decisions) * (left.coordinates @ right.coordinates.T)
        if self._encoding.count_columns:
            total += tally * (left.counts @ right.counts.T)
            total += profile * _decay(left.counts * self._phi, right.counts * self._phi)
        return total

    def variance(self, points: Points) -> Floats:
        """(n,) variance of points before anything was seen."""
        product, additive, tally, profile = self._amplitudes
        total = product + (additive / self._encoding.decisions) * (points.coordinates**2).sum(1)
        if self._encoding.count_columns:
            total = total + tally * (points.counts**2).sum(1) + profile
        return np.asarray(total)

    def overconfidence(self, targets: Floats) -> float:
        """By how many of its standard deviations a typical seen point is off when it is left out: from 1.0 to 2.0.

        In closed form from one inverse (Rasmussen, Williams 2006, 5.4.2).  Typical is what 68 % of the points keep to: a mean
        square would be that of the few that no smooth function explains.
        """
        inverse = scipy.linalg.cho_solve((self.root, True), np.eye(len(targets)))
        off = (inverse @ targets) / np.sqrt(np.diag(inverse))
        return float(np.clip(np.quantile(np.abs(off), 0.68), 1.0, 2.0))

    def at(self, points: Points) -> View:
        """What the process believes at `points`."""
        return View(self, points)


class View:
    """The beliefs of a process at some candidates, which can learn that one of them was asked.

    Args:
        process: whose beliefs they are.
        points: (n,) candidates.
    """

    def __init__(self, process: Process, points: Points) -> None:
        self._process, self._points = process, points
        # (seen, n): with it mean and variance are sums of columns.
        self.whitened: Floats = scipy.linalg.solve_triangular(
            process.root, process.covariance(process.points, points), lower=True
        )
        self.variances: Floats = np.maximum(process.variance(points) - (self.whitened**2).sum(0), 1e-10)
        self._asked: list[Floats] = []

    def mean(self, targets: Floats) -> Floats:
        """(n,) means, given the (seen,) targets; what was asked without an answer changes no mean (a believer's fantasy)."""
        return np.asarray(scipy.linalg.solve_triangular(self._process.root, targets, lower=True) @ self.whitened)

    def ask(self, at: int) -> None:
        """Candidate `at` is being measured: near it, less is left to learn (kriging believer, Ginsbourger et al. 2010)."""
        one = self._points.rows([at])
        cross = self._process.covariance(self._points, one)[:, 0] - self.whitened.T @ self.whitened[:, at]
        for column in self._asked:
            cross -= column * column[at]
        column = cross / np.sqrt(max(cross[at], 0.0) + self._process.noise)
        self._asked.append(column)
        self.variances = np.maximum(self.variances - column**2, 1e-10)


def fit(encoding: Encoding, prior: Prior, points: Points, targets: Floats) -> Floats:
    """Parameters that maximise likelihood times prior, from the prior's mean: the same data give the same parameters.

    Args:
        encoding: what the points were made by.
        prior: `Prior.of(encoding)`.
        points: n of them; the cost grows as n³ and n² · decisions, so give at most a few hundred.
        targets: (n,) standardised values.

    Returns:
        Logarithms of θ, φ, the amplitudes and the noise.
    """
    likelihood = _Likelihood(encoding, prior, points, targets)
    found = scipy.optimize.minimize(
        likelihood, prior.mean.copy(), jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS}
    )
    return np.asarray(found.x)


class _Likelihood:
    """Negative logarithm of likelihood times prior and its gradient."""

    def __init__(self, encoding: Encoding, prior: Prior, points: Points, targets: Floats) -> None:
        self._encoding, self._prior, self._targets = encoding, prior, targets
        x, c = points
        self._apart = np.stack([_apart(x[:, encoding.blocks == at]) for at in range(encoding.decisions)])
        self._spread = np.stack([np.zeros((len(x), len(x))), *(_apart(c[:, [at]]) for at in range(c.shape[1]))])[1:]
        self._additive = x @ x.T / encoding.decisions
        self._tally = c @ c.T

    def __call__(self, parameters: Floats) -> tuple[float, Floats]:
        prior, targets = self._prior, self._targets
        if np.abs(parameters).max() > FAR:
            return TOO_FAR, np.zeros_like(parameters)
        theta, phi, amplitudes, noise = _split(self._encoding, parameters)
        product, additive, tally, profile = amplitudes * prior.used
        near = product * np.exp(-np.tensordot(theta, self._apart, 1))
        alike = profile * np.exp(-np.tensordot(phi, self._spread, 1))
        covariance = near + additive * self._additive + tally * self._tally + alike
        covariance[np.diag_indices_from(covariance)] += noise + JITTER
        try:
            root = np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:
            return TOO_FAR, np.zeros_like(parameters)
        weights = scipy.linalg.cho_solve((root, True), targets)
        rest = scipy.linalg.cho_solve((root, True), np.eye(len(targets))) - np.outer(weights, weights)
        gradient = np.zeros_like(parameters)
        near_rest, alike_rest = near * rest, alike * rest
        gradient[: len(theta)] = -0.5 * theta * np.tensordot(self._apart, near_rest, 2)
        gradient[len(theta) : len(theta) + len(phi)] = -0.5 * phi * np.tensordot(self._spread, alike_rest, 2)
        gradient[PRODUCT] = 0.5 * near_rest.sum()
        gradient[ADDITIVE] = 0.5 * additive * (rest * self._additive).sum()
        gradient[TALLY] = 0.5 * tally * (rest * self._tally).sum()
        gradient[PROFILE] = 0.5 * alike_rest.sum()
        gradient[NOISE] = 0.5 * noise * np.trace(rest)
        off = (parameters - prior.mean) / prior.spread
        loss = 0.5 * targets @ weights + np.log(np.diag(root)).sum() + 0.5 * off @ off
        return float(loss), gradient + off / prior.spread


def _split(encoding: Encoding, parameters: Floats) -> tuple[Floats, Floats, Floats, float]:
    """θ, φ, the four amplitudes and the noise."""
    values = np.exp(parameters)
    decisions = encoding.decisions
    return values[:decisions], values[decisions:PRODUCT], values[PRODUCT:NOISE], float(values[NOISE])


def _apart(x: Floats) -> Floats:
    """(n, n) squared distances between rows."""
    square = (x**2).sum(1)
    apart: Floats = np.maximum(square[:, None] + square[None] - 2.0 * x @ x.T, 0.0)
    return apart


def _decay(left: Floats, right: Floats) -> Floats:
    """exp(-squared distance) between the rows of two arrays."""
    apart = (left**2).sum(1)[:, None] + (right**2).sum(1)[None] - 2.0 * left @ right.T
    near: Floats = np.exp(-np.maximum(apart, 0.0))
    return near
