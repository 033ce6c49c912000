"""What a study's trials add up to, and the compositions that it proposes, the best first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas.pareto import non_dominated
from nas.search.beliefs import reference_point
from nas.search.composing import Composer, Composition, Limit
from nas.search.improvement import Region
from nas.search.replacements import Replacements
from nas.search.sums import fit_sum

if TYPE_CHECKING:
    from nas.metrics import Constraint
    from nas.space import Arch, Space

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LATELY = 8  # later trials half of which must be feasible
OVERRATED = 64  # finished archs that should be on the front and are not: they are excluded beforehand


@dataclass(frozen=True)
class Trials:
    """Finished trials as columns, in the order in which they finished."""

    archs: Sequence[Arch]
    values: Floats
    """(n, m + c) minimised objectives, then constrained metrics; NaN where they are not known."""
    single: Bools
    """(n,) whether it is a base, or differs from it in one decision."""
    feasible: Bools

    @property
    def later(self) -> NDArray[np.intp]:
        """Rows of the others."""
        return np.flatnonzero(~self.single)


class Addition:
    """Sums fitted to trials.

    Args:
        space: of the archs.
        replacements: in the base.
        trials: that have finished; one at least.
        front: (k, m) all points of the front.
        constraints: of the study.
        finished: keys of all finished archs.
    """

    def __init__(  # noqa: PLR0917 (made in one place)
        self,
        space: Space,
        replacements: Replacements,
        trials: Trials,
        front: Floats,
        constraints: Sequence[Constraint],
        finished: frozenset[str],
    ) -> None:
        self._space, self._replacements, self._trials = space, replacements, trials
        self._front, self._constraints, self._finished = front, constraints, finished
        self._columns = replacements(trials.archs)
        self._objectives = front.shape[1]
        there = ~np.isnan(trials.values)
        self._whole: Bools = np.asarray(there.all(1))
        self._sums = [
            fit_sum(self._columns[known], column[known], trials.single[known], replacements.decision_of)
            for column, known in zip(trials.values.T, there.T, strict=True)
            if known.any()
        ]
        self._complete = len(self._sums) == trials.values.shape[1] and bool(self._whole.any())
        self._found: list[Composition] = []
        self._is_over = not self._complete

    @property
    def later(self) -> int:
        """How many trials show whether replacements add up."""
        return len(self._trials.later)

    @cached_property
    def error(self) -> float:
        """Largest error of a metric on later trials, in parts of its spread; NaN before there are any, or if one is not known.

        The spread is the front's, or that of all trials where the front is a point.
        """
        if not self._complete:
            return np.nan
        values = self._trials.values[self._whole]
        spread = np.ptp(values, 0)
        if len(self._front) > 1:
            spread[: self._objectives] = np.ptp(self._front, 0)
        errors = [
            one.error / reach if reach > 0 else 0.0 for one, reach in zip(self._sums, spread.tolist(), strict=True)
        ]
        return max(errors)

    @cached_property
    def surprise(self) -> float:
        """The same in parts of how far later trials are from the base."""
        if not self._complete or not self.later:
            return np.nan
        base = self._replacements([self._replacements.base])
        found = []
        for one, column in zip(self._sums, self._trials.values.T, strict=True):
            apart = column[self._trials.later] - one(base)
            known = apart[~np.isnan(apart)]
            if len(known) and known.any():
                found.append(one.error / float(np.sqrt((known**2).mean())))
        return max(found, default=np.nan)

    @property
    def seems_feasible(self) -> bool:
        """Whether half of the last later trials were feasible."""
        lately = self._trials.feasible[self._trials.later[-LATELY:]]
        return bool(lately.mean() >= 0.5) if len(lately) else True

    def composition(self, at: int) -> Composition | None:
        """The arch that adds most after so many others; None if there is none."""
        while len(self._found) <= at and not self._is_over:
            found = self._next()
            self._is_over = found is None
            if found is not None:
                self._found.append(found)
        return self._found[at] if at < len(self._found) else None

    def supported(self) -> list[Arch]:
        """See `Composer.supported`."""
        return self._composer.supported() if self._complete else []

    def _next(self) -> Composition | None:
        points = np.vstack([self._front, *(one.values[None] for one in self._found)])
        keys = {one.arch.key for one in self._found} | self._finished
        excluded = [*self._overrated, *(one.arch for one in self._found)]
        front = points[non_dominated(points)] if len(points) else points
        return self._composer.best(front, self._reference, lambda arch: arch.key not in keys, excluded)

    @cached_property
    def _reference(self) -> Floats:
        """What counts: as for the surrogate, and all of the front that the model has, whose ends nobody may have seen yet."""
        values = self._trials.values[self._whole][:, : self._objectives]
        ends = self._composer.ends()
        return reference_point(np.vstack([values, *ends]), np.vstack([self._front, *ends]))

    @cached_property
    def _overrated(self) -> list[Arch]:
        """Finished archs that the model takes to be on the front, those that should add most."""
        predicted = [one(self._columns) for one in self._sums[: self._objectives]]
        gains = Region(self._front, self._reference).gains([one[:, None] for one in predicted], np.ones(1))
        best = np.argsort(-gains, kind="stable")[:OVERRATED]
        return [self._trials.archs[at] for at in best.tolist() if gains[at] > 0]

    @cached_property
    def _composer(self) -> Composer:
        usable = (self._columns[self._whole] != 0).any(0)
        sums = self._sums[self._objectives :]
        limits = [
            Limit(one, constraint.op, constraint.bound) for one, constraint in zip(sums, self._constraints, strict=True)
        ]
        return Composer(self._space, self._replacements, self._sums[: self._objectives], limits, usable)
