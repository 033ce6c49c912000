"""A Gaussian process over archs: sums of kernels on decisions and on counts, fitted by maximum a posteriori.

The covariance of two archs is

    product · exp(−Σ_d θ_d ‖x_d − x'_d‖²) + additive · ⟨x, x'⟩ / D + tally · ⟨c, c'⟩ + profile · exp(−Σ_k φ_k (c_k − c'_k)²)
    + paired · ⟨q, q'⟩

over the coordinates x, counts c and pairs q of `nas.search.encoding`: interactions with a length of each decision's own
(automatic relevance determination, Rasmussen, Williams 2006, "Gaussian Processes for Machine Learning", 5.1), effects that
add up, the same two for counts and features, and effects of neighbouring decisions together that add up (as the weighted
degree kernel of strings: Rätsch, Sonnenburg 2004, "Accurate splice site detection for Caenorhabditis elegans").  A kernel
that is an inner product is a prior mean with normal coefficients, integrated out: ridge regression whose penalty has the
largest likelihood.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy  # a part of it, as scipy.linalg, is imported when it is first used
from numpy.typing import NDArray

from nas.search.encoding import Encoding, Points

Floats = NDArray[np.float64]

JITTER = 1e-6  # of the variance, on the diagonal
ITERATIONS = 30  # of the fit; more changed nothing that a search could tell
NONE = -50.0  # logarithm of the amplitude of a kernel that takes no part
# Logarithm of about their amplitude, where pairs take part.  Where they always did, sums over decisions were learnt from more
# trials.
PAIRS = -2.3
FAR = 50.0  # logarithms of parameters beyond which nothing is computed: a line search may try 10^300
BLOCK = 192  # candidates that are worked on at a time: their matrices stay in the cache
TOO_FAR = 1e10  # what is then said of them: as bad as can be
PRODUCT, ADDITIVE, TALLY, PROFILE, PAIRED, NOISE = range(-6, 0)  # where the amplitudes are among the parameters


@dataclass(frozen=True)
class Prior:
    """Independent normal beliefs about the logarithms of the parameters, and which amplitudes take part."""

    mean: Floats
    spread: Floats
    used: Floats
    """(5,) 1.0 for a kernel that takes part; a space without decisions of a kind has no counts, as none has pairs."""

    @classmethod
    def of(cls, encoding: Encoding) -> Prior:
        """Lengths at which two random archs are correlated by about 1/e; amplitudes near 0.3, noise near 1 %; no pairs."""
        decisions, columns = encoding.decisions, encoding.count_columns
        theta = np.full(decisions, np.log(3.0 / decisions))
        phi = np.full(columns, -np.log(max(encoding.counts_apart, 1e-9)))
        mean = np.concatenate([theta, phi, np.append(np.log([0.3, 0.3, 0.3, 0.3]), [NONE, np.log(1e-2)])])
        spread = np.concatenate([np.ones(decisions + columns + 5), [1.5]])
        counted, paired = float(columns > 0), float(encoding.pair_columns > 0)
        return cls(mean, spread, np.array([1.0, 1.0, counted, counted, paired]))


class Process:
    """A Gaussian process with given parameters, conditioned on some points.

    Args:
        encoding: what the points were made by.
        parameters: logarithms, as `fit` gives them.
        points: (n,) points that were seen.
    """

    def __init__(self, encoding: Encoding, parameters: Floats, points: Points) -> None:
        theta, phi, amplitudes, noise = _split(encoding, parameters)
        # Python's numbers, which leave arrays in the precision that they have.
        self._product, additive, self._tally, self._profile, self._pairs = amplitudes.tolist()
        self._additive = additive / encoding.decisions
        self._counted, self._paired = encoding.count_columns > 0, bool(parameters[PAIRED] > NONE)
        self.noise = noise + JITTER
        self._theta, self._phi = np.sqrt(2.0 * theta[encoding.blocks]), np.sqrt(2.0 * phi)
        self.points = points if self._paired else points._replace(pairs=points.pairs[:, :0])
        self._seen = self._left(self.points)
        covariance = self.covariance(self.points, self.points)
        covariance[np.diag_indices_from(covariance)] += self.noise
        root = np.linalg.cholesky(covariance)
        # Products with the inverse are twice as fast as solving, and what is believed is a product of it.
        self.whitening: Floats = np.asarray(scipy.linalg.lapack.dtrtri(root, lower=1)[0], dtype=np.float64)
        """(n, n) inverse of the lower root of the covariance of what was seen."""

    def covariance(self, left: Points, right: Points, grams: Points | None = None) -> Floats:
        """(n, m) covariance between two sets of points, in the precision of the points.

        Args:
            left: n points.
            right: m points.
            grams: what `products` gives for them, where it is known.
        """
        near, alike = self._seen if left is self.points else self._left(left)
        coordinates, counts, pairs = grams or products(left, right)
        total = near @ _right(right.coordinates * self._theta).T
        np.exp(total, out=total)
        total += self._additive * coordinates
        if self._paired:
            total += self._pairs * pairs
        if self._counted:
            profile = alike @ _right(right.counts * self._phi).T
            total += np.exp(profile, out=profile)
            total += self._tally * counts
        return total

    def _left(self, points: Points) -> tuple[Floats, Floats]:
        """Factors of the logarithms of the product and of the profile kernel."""
        near = _left(points.coordinates * self._theta, np.log(self._product))
        return near, _left(points.counts * self._phi, np.log(self._profile))

    def variance(self, points: Points) -> Floats:
        """(n,) variance of points before anything was seen."""
        total = self._product + self._additive * (points.coordinates**2).sum(1)
        if self._paired:
            total = total + self._pairs * np.einsum("ij,ij->i", points.pairs, points.pairs)
        if self._counted:
            total = total + self._tally * (points.counts**2).sum(1) + self._profile
        return np.asarray(total)

    def overconfidence(self, targets: Floats) -> float:
        """By how many of its standard deviations a typical seen point is off when it is left out: from 1.0 to 2.0.

        In closed form from the inverse of the covariance (Rasmussen, Williams 2006, 5.4.2).  Typical is what 68 % of the points
        keep to: a mean square would be that of the few that no smooth function explains.
        """
        off = (self.whitening.T @ (self.whitening @ targets)) / np.sqrt((self.whitening**2).sum(0))
        return float(np.clip(np.quantile(np.abs(off), 0.68), 1.0, 2.0))

    def single(self) -> Process:
        """The same in single precision: half of the time, and enough to find candidates that are worth a closer look."""
        other = copy.copy(self)
        other.points = self.points.astype(np.float32)
        other._theta, other._phi = self._theta.astype(np.float32), self._phi.astype(np.float32)
        other._seen = other._left(other.points)
        other.whitening = self.whitening.astype(np.float32)
        return other

    def at(self, points: Points, grams: Points | None = None) -> View:
        """What the process believes at `points`; `grams` are their products with what was seen, where those are known."""
        return View(self, points, grams or products(self.points, points))


class View:
    """The beliefs of a process at some candidates, which can learn that one of them was asked.

    Args:
        process: whose beliefs they are.
        points: (n,) candidates.
        grams: their products with what was seen.
    """

    def __init__(self, process: Process, points: Points, grams: Points) -> None:
        self._process, self._points = process, points
        count = len(points.coordinates)
        # (seen, n): with it mean and variance are sums of columns.
        self.whitened: Floats = np.empty((len(process.whitening), count), dtype=process.whitening.dtype)
        for start in range(0, count, BLOCK):
            some = slice(start, start + BLOCK)
            part = Points(*(gram[:, some] for gram in grams))
            covariance = process.covariance(process.points, points.rows(some), part)
            np.matmul(process.whitening, covariance, out=self.whitened[:, some])
        explained = np.einsum("ij,ij->j", self.whitened, self.whitened)
        self.variances: Floats = np.maximum(process.variance(points) - explained, 1e-10)
        # Of what is being measured: the points, whitened (seen, k), the root of what is left to learn of them (k, k), and how
        # much of it the candidates share (k, n).
        self._asked = points.rows(slice(0))
        self._asked_whitened = self.whitened[:, :0]
        self._root, self._shared = np.zeros((0, 0)), self.whitened[:0]

    def mean(self, targets: Floats) -> Floats:
        """(n,) means, given the (seen,) targets; what was asked without an answer changes no mean (a believer's fantasy)."""
        return np.asarray((self._process.whitening @ targets) @ self.whitened)

    def ask(self, points: Points) -> None:
        """Some points are being measured: near them, less is left to learn (kriging believer, Ginsbourger et al. 2010)."""
        process, before = self._process, self._asked
        whitened = process.whitening @ process.covariance(process.points, points)
        common = process.covariance(before, points) - self._asked_whitened.T @ whitened
        old = scipy.linalg.solve_triangular(self._root, common, lower=True) if len(common) else common
        left = process.covariance(points, points) - whitened.T @ whitened - old.T @ old
        left[np.diag_indices_from(left)] += process.noise
        root = np.linalg.cholesky(left)
        shared = process.covariance(points, self._points) - whitened.T @ self.whitened - old.T @ self._shared
        self._take(points, whitened, old, root, scipy.linalg.solve_triangular(root, shared, lower=True))

    def ask_candidate(self, at: int) -> None:
        """The same of one of the candidates, of which all is known already."""
        old, whitened = self._shared[:, at], self.whitened[:, at]
        left = self._covariance[at] - whitened @ self.whitened - old @ self._shared
        root = np.sqrt(max(left[at], 0.0) + self._process.noise)
        self._take(self._points.rows([at]), whitened[:, None], old[:, None], np.array([[root]]), left[None] / root)

    @cached_property
    def _covariance(self) -> Floats:
        """(n, n) of the candidates before anything was seen."""
        return self._process.covariance(self._points, self._points)

    def _take(self, points: Points, whitened: Floats, old: Floats, root: Floats, shared: Floats) -> None:
        """Books what is being measured, and what it shares with what was seen, was asked before, and may be asked."""
        self._asked = Points(*(np.concatenate(both) for both in zip(self._asked, points, strict=True)))
        self._asked_whitened = np.concatenate([self._asked_whitened, whitened], 1)
        self._root = np.block([[self._root, np.zeros_like(old)], [old.T, root]])
        self._shared = np.concatenate([self._shared, shared])
        self.variances = np.maximum(self.variances - (shared**2).sum(0), 1e-10)


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
    alone = _minimum(likelihood)
    if not encoding.pair_columns:
        return np.asarray(alone.x)
    paired = _minimum(likelihood.with_pairs())
    return np.asarray(min(alone, paired, key=lambda found: found.fun).x)


def _minimum(likelihood: _Likelihood) -> Any:
    start = likelihood.prior.mean.copy()
    return scipy.optimize.minimize(likelihood, start, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS})


class _Likelihood:
    """Negative logarithm of likelihood times prior and its gradient."""

    def __init__(self, encoding: Encoding, prior: Prior, points: Points, targets: Floats) -> None:
        self._encoding, self.prior, self._targets = encoding, prior, targets
        x, c, q = points
        self._apart = np.stack([_apart(x[:, encoding.blocks == at]) for at in range(encoding.decisions)])
        self._spread = np.stack([np.zeros((len(x), len(x))), *(_apart(c[:, [at]]) for at in range(c.shape[1]))])[1:]
        self._additive = x @ x.T / encoding.decisions
        self._tally, self._paired = c @ c.T, q @ q.T

    def with_pairs(self) -> _Likelihood:
        """The same with an amplitude of pairs that is not nothing."""
        other = copy.copy(self)
        mean = self.prior.mean.copy()
        mean[PAIRED] = PAIRS
        other.prior = replace(self.prior, mean=mean)
        return other

    def __call__(self, parameters: Floats) -> tuple[float, Floats]:
        prior, targets = self.prior, self._targets
        if np.abs(parameters).max() > FAR:
            return TOO_FAR, np.zeros_like(parameters)
        theta, phi, amplitudes, noise = _split(self._encoding, parameters)
        product, additive, tally, profile, paired = amplitudes * prior.used
        near = product * np.exp(-np.tensordot(theta, self._apart, 1))
        alike = profile * np.exp(-np.tensordot(phi, self._spread, 1))
        covariance = near + additive * self._additive + tally * self._tally + alike + paired * self._paired
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
        gradient[PAIRED] = 0.5 * paired * (rest * self._paired).sum()
        gradient[NOISE] = 0.5 * noise * np.trace(rest)
        off = (parameters - prior.mean) / prior.spread
        loss = 0.5 * targets @ weights + np.log(np.diag(root)).sum() + 0.5 * off @ off
        return float(loss), gradient + off / prior.spread


def _split(encoding: Encoding, parameters: Floats) -> tuple[Floats, Floats, Floats, float]:
    """θ, φ, the five amplitudes and the noise."""
    values = np.exp(parameters)
    decisions = encoding.decisions
    return values[:decisions], values[decisions:PRODUCT], values[PRODUCT:NOISE], float(values[NOISE])


def _apart(x: Floats) -> Floats:
    """(n, n) squared distances between rows."""
    square = (x**2).sum(1)
    apart: Floats = np.maximum(square[:, None] + square[None] - 2.0 * x @ x.T, 0.0)
    return apart


def products(left: Points, right: Points) -> Points:
    """(n, m) inner products of two sets of points, the same for every process; of pairs those that `left` has."""
    pairs = left.pairs @ right.pairs[:, : left.pairs.shape[1]].T
    return Points(left.coordinates @ right.coordinates.T, left.counts @ right.counts.T, pairs)


def _left(x: Floats, logarithm: float) -> Floats:
    """With `_right`, one product of matrices is ⟨x, y⟩ − (‖x‖² + ‖y‖²)/2 + logarithm, which is that of a kernel."""
    square = np.einsum("ij,ij->i", x, x)[:, None]
    return np.concatenate([x, x.dtype.type(logarithm) - square / 2, np.ones_like(square)], 1)


def _right(y: Floats) -> Floats:
    square = np.einsum("ij,ij->i", y, y)[:, None]
    return np.concatenate([y, np.ones_like(square), -square / 2], 1)
