"""A model that adds up what single replacements do, and what few pairs of them do together.

What an arch measures is what the base measures plus the effect of every replacement, in linear or in logarithmic values.
Effects are taken from the archs that differ from the base in one decision; later trials correct them by ridge regression, as
far as cross-validation on those trials shows that it pays.  Effects of two replacements together are added one by one, by the
risk inflation criterion (Foster, George 1994, "The risk inflation criterion for multiple regression"): there are many pairs,
and the best of many looks good by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CORRECTIONS = (0.0, 0.03, 0.3, 1.0)  # variance of an effect that a single replacement showed, in that of effects
NOISES = (1e-6, 1e-2, 0.1, 1.0, 10.0, 100.0)  # variance of what does not add up, likewise
PAIRS = 24  # effects of two replacements at most: each costs the integer program three rows
LEAST_PAIRED, LEAST_TOGETHER = 8, 3  # later trials before there are any, and those that have both replacements
CLOSER = 16  # pairs whose gain is computed exactly in each step
ROUNDING = 1e-18  # mean square of an error, in the variance of effects, that is none


@dataclass(frozen=True)
class Sum:
    """What archs measure, as a sum.

    Args:
        offset: what the base measures.
        effects: (width,) of every column.
        pairs: columns that have an effect together.
        together: their effects.
        logarithmic: whether all of these are of the logarithm.
        error: root mean square of the errors on later trials, each predicted without itself, in units of the metric; NaN
            where there are none.
    """

    offset: float
    effects: Floats
    pairs: Sequence[tuple[int, int]]
    together: Floats
    logarithmic: bool
    error: float

    def __call__(self, columns: Floats) -> Floats:
        """(n,) what archs with these columns measure."""
        found = self.offset + columns @ self.effects
        for (one, other), effect in zip(self.pairs, self.together.tolist(), strict=True):
            found = found + effect * columns[:, one] * columns[:, other]
        return np.asarray(_linear(found, self.logarithmic))

    def of(self, values: Floats) -> Floats:
        """Values of the metric in units in which it adds up."""
        return np.log(np.maximum(values, np.finfo(float).tiny)) if self.logarithmic else values


class _Data(NamedTuple):
    """Trials in units that may add up."""

    offset: float
    effects: Floats
    shown: Bools
    """(width,) whether a single replacement showed the effect."""
    later: Floats
    """(k, width) columns of the other trials."""
    values: Floats
    """(k,) what they measured."""


def fit_sum(columns: Floats, values: Floats, single: Bools, group: NDArray[np.int64]) -> Sum:
    """The model of one metric.

    Whether values or logarithms add up is decided by the errors on later trials; before there are any, logarithms do if all
    values are positive and the best effects of all decisions would together bring them to 0 or below.

    Args:
        columns: (n, width) of the trials.
        values: (n,) finite values.
        single: (n,) whether a trial is the base or differs from it in one decision.
        group: (width,) decision of each column.
    """
    linear = _fit(_data(columns, values, single), False, group)
    if (values <= 0).any():
        return linear
    logarithmic = _fit(_data(columns, np.log(values), single), True, group)
    if np.isnan(linear.error):
        least = np.zeros(int(group.max(initial=-1)) + 1)
        np.minimum.at(least, group, linear.effects)
        return logarithmic if linear.offset + least.sum() <= 0 else linear
    return logarithmic if logarithmic.error < 0.999 * linear.error else linear


def _data(columns: Floats, values: Floats, single: Bools) -> _Data:
    base = np.flatnonzero(single & ~columns.any(1))
    effects, shown = np.zeros(columns.shape[1]), np.zeros(columns.shape[1], dtype=bool)
    if not len(base):
        return _Data(float(values.mean()), effects, shown, columns, values)
    offset, waiting, left = float(values[base[0]]), np.flatnonzero(single).tolist(), -1
    while len(waiting) != left:  # what a decision inside an alternative does is known after what that alternative does
        left, again = len(waiting), []
        for row in waiting:
            new = (columns[row] != 0) & ~shown
            if new.sum() == 1:
                effects[new] = (values[row] - offset - columns[row, ~new] @ effects[~new]) / columns[row, new]
                shown |= new
            elif new.any():
                again.append(row)
        waiting = again
    later = ~single
    later[waiting] = True
    return _Data(offset, effects, shown, columns[later], values[later])


def _fit(data: _Data, logarithmic: bool, group: NDArray[np.int64]) -> Sum:
    count = len(data.values)
    if not count:
        return Sum(data.offset, data.effects, (), np.zeros(0), logarithmic, np.nan)
    rest = data.values - data.offset - data.later @ data.effects
    scale = float((data.effects[data.shown] ** 2).mean()) if data.shown.any() else float(data.values.var())
    scale = scale if scale > 0 else float((rest**2).mean()) or 1.0
    best: _Ridge | None = None
    for correction in CORRECTIONS:
        spread = scale * np.where(data.shown, correction, 1.0)
        covariance = (data.later * spread) @ data.later.T
        if not data.shown.any():
            covariance += scale
        roots, vectors = np.linalg.eigh(covariance)
        for noise in NOISES:
            found = _Ridge.of(roots, vectors, noise * scale, rest, spread)
            if best is None or found.loss < (1.0 - 1e-9) * best.loss:
                best = found
    assert best is not None
    pairs, best = _paired(best, data, rest, scale, group)
    effects = data.effects + best.spread * (data.later.T @ best.weights)
    products = np.array([data.later[:, one] * data.later[:, other] for one, other in pairs]).reshape(-1, count)
    offset = data.offset + (0.0 if data.shown.any() else scale * float(best.weights.sum()))
    without = _linear(data.values - best.left_out, logarithmic)
    error = float(np.sqrt(((without - _linear(data.values, logarithmic)) ** 2).mean()))
    return Sum(offset, effects, pairs, scale * products @ best.weights, logarithmic, error)


@dataclass(frozen=True)
class _Ridge:
    """Ridge regression of what is left on later trials, in its dual form."""

    inverse: Floats
    weights: Floats
    spread: Floats
    """(width,) variances of the effects."""

    @classmethod
    def of(cls, roots: Floats, vectors: Floats, noise: float, rest: Floats, spread: Floats) -> _Ridge:
        inverse = (vectors / (np.maximum(roots, 0.0) + noise)) @ vectors.T
        return cls(inverse, inverse @ rest, spread)

    @property
    def left_out(self) -> Floats:
        """(k,) error of each trial's prediction by the others."""
        return np.asarray(self.weights / np.diag(self.inverse))

    @property
    def loss(self) -> float:
        return float((self.left_out**2).sum())

    def with_column(self, column: Floats, variance: float, rest: Floats) -> _Ridge:
        """The same with one more effect."""
        seen = self.inverse @ column
        inverse = self.inverse - np.outer(seen, seen) * (variance / (1.0 + variance * (column @ seen)))
        return _Ridge(inverse, inverse @ rest, self.spread)


def _paired(
    ridge: _Ridge, data: _Data, rest: Floats, scale: float, group: NDArray[np.int64]
) -> tuple[list[tuple[int, int]], _Ridge]:
    """Pairs of columns that the later trials support, the strongest first, and the regression with them."""
    later = data.later
    pairs: list[tuple[int, int]] = []
    if len(rest) < LEAST_PAIRED or ridge.loss <= ROUNDING * scale * len(rest):
        return [], ridge
    whole = (later == 0) | (later == 1)
    binary = np.where(whole.all(0), later, 0.0)
    possible = np.triu((binary.T @ binary >= LEAST_TOGETHER) & (group[:, None] != group[None]))
    candidates = int(possible.sum())
    while candidates and len(pairs) < PAIRS:
        gain = (binary.T * ridge.weights) @ binary
        doubt = (binary.T * np.diag(ridge.inverse)) @ binary
        with np.errstate(divide="ignore", invalid="ignore"):
            about = np.where(possible & (doubt > 0), gain**2 / doubt, 0.0)
        places = np.argsort(-about, axis=None, kind="stable")[:CLOSER]
        ones, others = np.unravel_index(places, about.shape)
        products = (binary[:, ones] * binary[:, others]).T
        exact = (products @ ridge.weights) ** 2 / np.maximum(((products @ ridge.inverse) * products).sum(1), 1e-300)
        exact[about[ones, others] <= 0] = 0.0
        at = int(np.argmax(exact))
        if exact[at] <= 2.0 * np.log(max(candidates, 2)) * float(rest @ ridge.weights) / len(rest):
            break
        longer = ridge.with_column(products[at], scale, rest)
        if longer.loss >= ridge.loss:
            break
        pairs.append((int(ones[at]), int(others[at])))
        possible[pairs[-1]] = False
        ridge = longer
    return pairs, ridge


def _linear(values: Floats, logarithmic: bool) -> Floats:
    return np.exp(np.minimum(values, 700.0)) if logarithmic else values
