"""What a model-based search believes of archs it has not measured: objectives, feasibility, and the gain of knowing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy  # a part of it, as scipy.special, is imported when it is first used
from numpy.typing import NDArray

from nas.search.archive import Seen
from nas.search.breeding import Genes, genes_of
from nas.search.duplicates import Duplicates, discount
from nas.search.encoding import Encoding, Points
from nas.search.gaussian import Prior, Process, View, fit, products
from nas.search.improvement import Region, normals
from nas.search.warp import Warp

if TYPE_CHECKING:
    from nas.space import Arch

Floats = NDArray[np.float64]

ALL = slice(None)
MARGIN = 0.1  # of the front's range, beyond its worst values


class Accuracy(NamedTuple):
    """How exact gains are.

    Args:
        width: of the intervals that normal distributions are cut into.
        precision: of numbers.
    """

    width: float
    precision: type[np.floating[Any]]


FINE, ROUGH = Accuracy(0.5, np.float64), Accuracy(1.0, np.float32)


class Violations:
    """How far trials violate the constraints, as targets of a process.

    Args:
        violations: (n,) above 0.0 where infeasible, inf where a trial failed or nobody knows how far, which counts as the
            worst known; below 0.0 where it is known by how much a feasible trial keeps to the constraints (Gardner et al.
            2014, "Bayesian Optimization with Inequality Constraints"), 0.0 where it is not.
    """

    def __init__(self, violations: Floats) -> None:
        known = violations[np.isfinite(violations)]
        finite = np.minimum(violations, max(1.0, float(known.max(initial=0.0))))
        self.informative = bool(np.ptp(finite) > 0)
        """Whether some violate them more than others."""
        warp = Warp(finite)
        self.targets = warp(finite)
        positive = finite[finite > 0]
        # Where feasible trials are exactly 0, what is believed to be below half of the least violation is one of them.
        bound = 0.0 if (finite < 0).any() or not len(positive) else positive.min() / 2.0
        self.goal = float(warp(np.array([bound]))[0])


class Models:
    """Parameters of one Gaussian process for each objective, and of one for feasibility where it is not certain.

    Args:
        encoding: of the space.
        seen: trials that the parameters are fitted to.
    """

    def __init__(self, encoding: Encoding, seen: Seen) -> None:
        self._encoding = encoding
        self._prior = Prior.of(encoding)
        points, measured = encoding(seen.archs), ~np.isnan(seen.values).any(1)
        known = points.rows(np.flatnonzero(measured))
        few = measured.sum() < 2
        self._parameters = [
            self._prior.mean if few else fit(encoding, self._prior, known, Warp(column)(column))
            for column in seen.values[measured].T
        ]
        over = Violations(seen.violations)
        self._feasibility = fit(encoding, self._prior, points, over.targets) if over.informative else self._prior.mean

    def condition(self, seen: Seen, front: Floats, duplicates: Duplicates | None = None) -> Beliefs:
        """Beliefs after `seen`.

        Args:
            seen: trials.
            front: (k, m) all points of the front.
            duplicates: which archs measure what is known; None where no two trials measured the same.
        """
        points, measured = self._encoding(seen.archs), ~np.isnan(seen.values).any(1)
        known = points.rows(np.flatnonzero(measured))
        some = self._parameters if measured.any() else ()
        objectives = [Process(self._encoding, parameters, known) for parameters in some]
        over = Violations(seen.violations)
        feasibility = Process(self._encoding, self._feasibility, points) if over.informative else None
        return Beliefs(self._encoding, objectives, seen.values[measured], feasibility, over, front, duplicates)


class Beliefs:
    """Processes that have seen trials.

    Args:
        encoding: of the space.
        objectives: a process for each objective.
        values: (n, m) what they saw.
        feasibility: a process on how far the constraints are violated; None when there is nothing to learn.
        over: what it saw.
        front: (f, m) all points of the front.
        duplicates: which archs measure what is known.
    """

    def __init__(  # noqa: PLR0917 (made in one place)
        self,
        encoding: Encoding,
        objectives: Sequence[Process],
        values: Floats,
        feasibility: Process | None,
        over: Violations,
        front: Floats,
        duplicates: Duplicates | None,
    ) -> None:
        self.encoding, self._objectives, self._feasibility = encoding, objectives, feasibility
        columns = values.T if len(values) else ()
        self.warps = [Warp(column) for column in columns]
        self.targets = [warp(column) for warp, column in zip(self.warps, columns, strict=True)]
        self.doubt = [process.overconfidence(seen) for process, seen in zip(objectives, self.targets, strict=True)]
        self.over = over
        self.duplicates = duplicates
        self.region = Region(front, reference_point(values, front)) if len(values) and len(front) else None

    def view(self, archs: Sequence[Arch]) -> Candidates:
        """What is believed of `archs`, which can learn that others are being measured."""
        return self.at(genes_of(archs, self.encoding.decisions), self.encoding(archs))

    def at(self, genes: Genes, points: Points) -> Candidates:
        """The same of archs given by their rows and points."""
        feasibility = None if self._feasibility is None else self._feasibility.at(points)
        return Candidates(self, genes, _views(self._objectives, points), feasibility)

    def screened(self, genes: Genes) -> Floats:
        """(n,) expected gain of each arch alone, about: it says which are worth a closer look.

        Args:
            genes: rows of the archs; what else is known of them is not looked at.
        """
        if not len(genes):
            return np.zeros(0)
        points = self.encoding.plain(genes).astype(np.float32)
        objectives, feasibility = self._single
        feasible = None if feasibility is None else feasibility.at(points)
        return Candidates(self, genes, _views(objectives, points), feasible, ROUGH).gains()

    @cached_property
    def _single(self) -> tuple[list[Process], Process | None]:
        feasibility = None if self._feasibility is None else self._feasibility.single()
        return [process.single() for process in self._objectives], feasibility


class Candidates:
    """Beliefs about a number of archs.

    Args:
        beliefs: what they come from.
        genes: (n, decisions) rows of the archs.
        objectives: one view for each objective.
        feasibility: a view on the violations, or None.
        accuracy: of the gains.
    """

    def __init__(
        self,
        beliefs: Beliefs,
        genes: Genes,
        objectives: Sequence[View],
        feasibility: View | None,
        accuracy: Accuracy = FINE,
    ) -> None:
        self._beliefs, self._objectives, self._accuracy = beliefs, objectives, accuracy
        self._means = [view.mean(target) for view, target in zip(objectives, beliefs.targets, strict=True)]
        self._known: Floats = np.ones((len(objectives), len(genes)))  # 0.0 where there is no doubt
        self._genes = genes
        self._same: Floats = np.zeros(len(genes))  # how likely each is to measure what another did, or will
        if beliefs.duplicates is not None:
            self._same = beliefs.duplicates.chance(genes)
        self.feasible: Floats = np.ones(len(genes))
        if feasibility is not None:
            over = beliefs.over
            room = over.goal - feasibility.mean(over.targets)
            self.feasible = scipy.special.ndtr(room / np.sqrt(feasibility.variances))

    def gains(self, at: NDArray[np.intp] | slice = ALL) -> Floats:
        """Expected gain in hypervolume times the probability of being feasible, or only that while nothing is.

        It is less for an arch that may measure the same as another.

        Args:
            at: of which candidates.
        """
        region, feasible = self._beliefs.region, self.feasible[at] * discount(self._same[at])
        if region is None:  # first of all, something feasible
            return feasible
        values, weights = normals(self._accuracy.width)
        gain = region.gains(self.draws(values, at), weights, self._accuracy.precision)
        if not gain.any():  # all look hopeless at this confidence
            gain = region.gains(self.draws(values * 3.0, at), weights, self._accuracy.precision)
        worth: Floats = gain * feasible
        return worth

    def know(self, at: int, objective: int, value: float) -> None:
        """What candidate `at` has in an objective that was computed."""
        self._means[objective][at] = self._beliefs.warps[objective](np.array([value]))[0]
        self._known[objective, at] = 0.0

    def know_all(self, known: Iterable[Mapping[int, float]]) -> None:
        """What the first candidates have in objectives that were computed, one mapping each."""
        if self._beliefs.targets:
            for at, values in enumerate(known):
                for objective, value in values.items():
                    self.know(at, objective, value)

    def ask_candidate(self, at: int) -> None:
        """Candidate `at` is being measured."""
        for view in self._objectives:
            view.ask_candidate(at)

    def ask(self, archs: Sequence[Arch]) -> None:
        """Some archs, candidates or not, are being measured."""
        if not archs:
            return
        if self._beliefs.duplicates is not None:
            others = genes_of(archs, self._genes.shape[1])
            self._same = np.maximum(self._same, self._beliefs.duplicates.chance(self._genes, others))
        if not self._objectives:
            return
        points = self._beliefs.encoding(archs)
        for view in self._objectives:
            view.ask(points)

    def draws(self, normal: Floats, at: NDArray[np.intp] | slice = ALL) -> list[Floats]:
        """Of each objective (n, s): what it would be at so many deviations from its mean."""
        doubt = np.array([np.sqrt(view.variances) for view in self._objectives]) * self._known
        doubt *= np.array(self._beliefs.doubt)[:, None]
        return [
            warp.back(mean[at, None] + deviation[at, None] * normal)
            for warp, mean, deviation in zip(self._beliefs.warps, self._means, doubt, strict=True)
        ]


def _views(processes: Sequence[Process], points: Points) -> list[View]:
    """What processes that saw the same believe at `points`."""
    widest = max((process.points for process in processes), key=lambda seen: seen.pairs.shape[1], default=None)
    grams = None if widest is None else products(widest, points)
    return [process.at(points, grams) for process in processes]


def reference_point(values: Floats, front: Floats) -> Floats:
    """(m,) what an arch must be better than to count.

    The worst values measured, and at least a tenth beyond the front's: a reference that keeps close to a front found so far
    would never reward an arch that extends it.
    """
    worst: Floats = values.max(0)
    if not len(front):
        return worst
    reach = np.where(np.ptp(front, 0) > 0, np.ptp(front, 0), np.ptp(values, 0))
    beyond: Floats = np.maximum(front.max(0) + MARGIN * reach, worst)
    return beyond
