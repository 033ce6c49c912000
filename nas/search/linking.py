"""What a search believes of full evaluations, given low ones of the same archs and of others.

The low value of an arch is an input of the Gaussian process of the full value, beside the arch itself (Perdikaris et al. 2017,
"Nonlinear Information Fusion Algorithms for Data-Efficient Multi-Fidelity Modelling"; linear and nonlinear links are kernels on
that input).  Where an arch has no low value, the low process says what it may be, and every such value is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import scipy  # a part of it, as scipy.special, is imported when it is first used
from numpy.typing import NDArray

from nas.search.archive import Seen
from nas.search.beliefs import FINE, Beliefs, Violations, reference_point
from nas.search.breeding import Genes
from nas.search.encoding import Encoding, Points
from nas.search.gaussian import Prior, Process, fit
from nas.search.improvement import Region, normals
from nas.search.warp import Warp

if TYPE_CHECKING:
    from nas.space import Arch

Floats = NDArray[np.float64]
Known = Mapping[int, float]
"""Objectives of an arch that are known, by their place."""

# Low values that an arch may have, in deviations, and how likely they are (Gauss-Hermite, exact to degree 9).
_NODES, _WEIGHTS = (np.asarray(one, dtype=np.float64) for one in np.polynomial.hermite_e.hermegauss(5))
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


class Link:
    """Parameters of the processes of full values.

    Args:
        encoding: of the space.
        varying: places of the objectives that depend on how far an evaluation goes.
        seen: full trials that the parameters are fitted to.
        low: (n, v) low values of their archs in the varying objectives, NaN where there are none.
    """

    def __init__(self, encoding: Encoding, varying: Sequence[int], seen: Seen, low: Floats) -> None:
        self._encoding, self.varying = encoding, tuple(varying)
        self._sized = encoding.widened(len(self.varying))
        known = [column[np.isfinite(column)] for column in low.T]
        self._scales = [Warp(column) if len(column) else None for column in known]
        prior = Prior.of(self._sized)
        points, measured = self.points(seen.archs, low), ~np.isnan(seen.values).any(1)
        rows = points.rows(np.flatnonzero(measured))
        self._parameters = [
            prior.mean if measured.sum() < 2 else fit(self._sized, prior, rows, Warp(column)(column))
            for column in seen.values[measured][:, list(self.varying)].T
        ]
        over = Violations(seen.violations)
        self._feasibility = fit(self._sized, prior, points, over.targets) if over.informative else prior.mean

    def points(self, archs: Sequence[Arch], low: Floats) -> Points:
        """The points of archs with low values; (n, v), NaN where there are none."""
        return self.with_low(self._encoding(archs), low)

    def with_low(self, points: Points, low: Floats) -> Points:
        """Points of archs, with low values beside their counts; an unknown one counts as the mean."""
        columns = [
            np.zeros(len(low)) if scale is None else np.where(np.isfinite(column), scale(column), 0.0)
            for scale, column in zip(self._scales, low.T, strict=True)
        ]
        width = np.sqrt(max(1, len(columns)))
        return points._replace(counts=np.column_stack([points.counts, *(column / width for column in columns)]))

    def condition(self, seen: Seen, low: Floats) -> tuple[list[Process], Process | None, Violations]:
        """Processes of the varying objectives and of feasibility after full trials; feasibility None where nothing is known."""
        points, measured = self.points(seen.archs, low), ~np.isnan(seen.values).any(1)
        rows = points.rows(np.flatnonzero(measured))
        over = Violations(seen.violations)
        feasibility = Process(self._sized, self._feasibility, points) if over.informative else None
        return [Process(self._sized, parameters, rows) for parameters in self._parameters], feasibility, over


class Prospects:
    """What full evaluations of archs would gain, of those that have a low one and of those that have none.

    Args:
        low: beliefs about low evaluations: all that is known of objectives that do not vary.
        link: from low values to full ones.
        seen: full trials; one at least was measured.
        known: (n, v) low values of their archs.
        front: (f, m) all points of the front.
        lows: (k, m) values of low evaluations: of objectives that do not vary the worst of them count, too.
    """

    def __init__(  # noqa: PLR0917 (made in one place)
        self, low: Beliefs, link: Link, seen: Seen, known: Floats, front: Floats, lows: Floats
    ) -> None:
        self._low, self._link = low, link
        self._processes, self._feasibility, self._over = link.condition(seen, known)
        values = seen.values[~np.isnan(seen.values).any(1)]
        columns = [values[:, at] for at in link.varying]
        self._warps = [Warp(column) for column in columns]
        self._targets = [warp(column) for warp, column in zip(self._warps, columns, strict=True)]
        self._doubt = [
            process.overconfidence(target) for process, target in zip(self._processes, self._targets, strict=True)
        ]
        self._objectives = values.shape[1]
        # Or few full evaluations that are all of one kind would hide what is gained by others.
        worst = lows.max(0, initial=-np.inf)
        worst[list(link.varying)] = -np.inf
        self._region = Region(front, np.maximum(reference_point(values, front), worst))

    def full(
        self, archs: Sequence[Arch], low: Floats, under_way: Sequence[Arch] = (), lows: Floats | None = None
    ) -> Floats:
        """(n,) expected gain of full evaluations of archs that have low ones.

        Args:
            archs: n of them.
            low: (n, m) what their low evaluations measured.
            under_way: archs of which a full evaluation is under way.
            lows: (k, m) what their low evaluations measured.
        """
        if not archs:
            return np.zeros(0)
        varying = list(self._link.varying)
        asked = None if lows is None or not under_way else self._link.points(under_way, lows[:, varying])
        return self._gains(self._link.points(archs, low[:, varying]), [column[:, None] for column in low.T], asked)

    def low(
        self, archs: Genes, bars: Sequence[float], under_way: Sequence[Arch] = (), known: Sequence[Known] = ()
    ) -> Floats:
        """(b, n) by how much the gain of a full evaluation would exceed each bar once the low value is known, on average.

        Args:
            archs: n rows of archs without low values.
            bars: as the gain of the best full evaluation that can be made without; 0.0 for the gain itself.
            under_way: archs of which a low evaluation is under way.
            known: objectives of the first archs that were computed.
        """
        if not len(archs):
            return np.zeros((len(bars), 0))
        gains = self._gains_by_low(archs, under_way, known)
        return np.array([np.maximum(gains - bar, 0.0) @ _WEIGHTS for bar in bars])

    def _gains_by_low(self, archs: Genes, under_way: Sequence[Arch], known: Sequence[Known]) -> Floats:
        """(n, j) gain of a full evaluation of each arch for every low value that it may have."""
        once = self._low.encoding.plain(archs)
        view = self._low.at(archs, once)
        view.ask(under_way)
        view.know_all(known)
        count, nodes = len(archs), len(_NODES)
        guesses = view.draws(_NODES)
        low = np.column_stack([guesses[at].ravel() for at in self._link.varying])
        points = self._link.with_low(once.rows(np.repeat(np.arange(count), nodes)), low)
        steady = [np.repeat(draws, nodes, 0) for draws in view.draws(normals(FINE.width)[0])]
        return self._gains(points, steady).reshape(count, nodes) * view.feasible[:, None]

    def _gains(self, points: Points, steady: Sequence[Floats], asked: Points | None = None) -> Floats:
        """(n,) gains of points, given draws of objectives that do not vary, while others are being evaluated in full."""
        views = [process.at(points) for process in self._processes]
        if asked is not None:
            for view in views:
                view.ask(asked)
        normal, weights = normals(FINE.width)
        gain = np.zeros(len(points.coordinates))
        for factor in (1.0, 3.0):  # all look hopeless at this confidence
            draws = list(steady)
            for place, view, target, warp, doubt in zip(
                self._link.varying, views, self._targets, self._warps, self._doubt, strict=True
            ):
                deviation = factor * doubt * np.sqrt(view.variances[:, None])
                draws[place] = warp.back(view.mean(target)[:, None] + deviation * normal)
            gain = self._region.gains([np.broadcast_to(one, (len(gain), len(normal))) for one in draws], weights)
            if gain.any():
                break
        if self._feasibility is None:
            return gain
        over, chance = self._over, self._feasibility.at(points)
        room = (over.goal - chance.mean(over.targets)) / np.sqrt(chance.variances)
        return np.asarray(gain * scipy.special.ndtr(room))
