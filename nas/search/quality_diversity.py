"""Quality-diversity: the best arch of each cost bucket, and children of all of them.

Mouret, Clune 2015, "Illuminating Search Spaces by Mapping Elites"; Wang, Li, Gong, Chandra 2021, "AttentiveNAS: Improving
Neural Architecture Search via Attentive Sampling" (a target cost is drawn first, then archs of about that cost compete).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import le
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nas.checking import checked
from nas.errors import AlgorithmError
from nas.search.base import Algorithm, Finished, History, violation
from nas.search.options import fraction, whole
from nas.search.steps import mutated

if TYPE_CHECKING:
    import random

    from nas.space import Arch

Cell = tuple[int, ...]


class _Elite(NamedTuple):
    """The best of its bucket."""

    values: tuple[float, ...]
    arch: Callable[[], Arch]


class QualityDiversity(Algorithm):
    """Keeps the best arch by the first objective in each bucket of the others, and breeds from a bucket drawn uniformly.

    The range of each cost (every objective but the first), as far as it is known, is cut into `buckets` equal parts; when a cost
    beyond it is measured the elites are sorted into buckets anew.  A child comes from the best elite within a budget that
    is drawn uniformly from the whole range, by a mutation of one decision, after a crossover with another such at times: every
    part of the range has the same attention, however hard it is.  With one objective there is one bucket.  While nothing
    feasible is known, the arch that violates the constraints least is the parent.

    Args:
        buckets: parts of the range of each cost.
        start: random archs at the beginning.
        crossover: probability that a child has two parents.
        seed: names the sequence of random numbers.
        regrow: probability that a mutation draws a decision anew with all that hangs on it (`Space.regrow`), as in a grammar.

    Raises:
        AlgorithmError: an option is not what it must be.
    """

    name = "quality-diversity"
    regrow: float
    """There only where subtrees are regrown: studies that were begun without are compared as before."""

    @checked(AlgorithmError, called="name")
    def __init__(
        self, buckets: int = 40, start: int = 20, crossover: float = 0.5, seed: int = 0, *, regrow: float = 0.0
    ) -> None:
        super().__init__(seed)
        self._regrow = fraction(self.name, "regrow", regrow)
        if self._regrow > 0:
            self.regrow = self._regrow
        self.buckets = whole(self.name, "buckets", buckets, 1)
        self.start = whole(self.name, "start", start, 1)
        self.crossover = fraction(self.name, "crossover", crossover)
        self._elites: dict[Cell, _Elite] = {}
        self._low: list[float] = []  # of each cost, as far as feasible trials have shown it
        self._high: list[float] = []
        self._least = float("inf")  # violation of the least infeasible arch
        self._near: Callable[[], Arch] | None = None  # that arch

    def _ask(self, n: int) -> list[Arch]:
        return self._fill(n, self._draw)

    def _draw(self, rng: random.Random) -> Arch:
        if self.known < self.start:
            return self.space.sample(rng)
        if not self._elites:
            return mutated(self._near(), rng, self._regrow) if self._near else self.space.sample(rng)
        child = self._parent(rng)
        if rng.random() < self.crossover:
            child = self.space.crossover(child, self._parent(rng), rng)
        return mutated(child, rng, self._regrow)

    def _parent(self, rng: random.Random) -> Arch:
        """The best elite within a budget that is drawn uniformly; that of the nearest bucket if there is none."""
        budget = [int(rng.random() * self.buckets) for _ in self._low]
        within = [elite for cell, elite in self._elites.items() if all(map(le, cell, budget))]
        if within:
            return min(within, key=lambda elite: elite.values).arch()
        nearest = min(self._elites, key=lambda cell: sum(abs(a - b) for a, b in zip(cell, budget, strict=True)))
        return self._elites[nearest].arch()

    def _tell(self, trials: Sequence[Finished]) -> None:
        for trial in trials:
            if trial.state != "FAILED":
                self._take_in(trial.values, violation(trial), lambda trial=trial: trial.arch)  # type: ignore[misc]

    def _take_in(self, values: tuple[float, ...] | None, violated: float, arch: Callable[[], Arch]) -> None:
        """One more trial has finished and did not fail."""
        if violated:
            if violated < self._least or self._near is None:
                self._least, self._near = violated, arch
            return
        assert values is not None
        if not all(map(np.isfinite, values[1:])):
            return  # of no bucket
        self._widen(values[1:])
        self._place(_Elite(values, arch))

    def _widen(self, costs: Sequence[float]) -> None:
        """Sorts the elites into buckets anew if `costs` are beyond what was known."""
        if not self._low:
            self._low, self._high = list(costs), list(costs)
        low = [min(pair) for pair in zip(self._low, costs, strict=True)]
        high = [max(pair) for pair in zip(self._high, costs, strict=True)]
        if (low, high) != (self._low, self._high):
            self._low, self._high = low, high
            elites, self._elites = self._elites, {}
            for elite in elites.values():
                self._place(elite)

    def _place(self, elite: _Elite) -> None:
        cell = self._cell(elite.values[1:])
        holder = self._elites.get(cell)
        if holder is None or elite.values < holder.values:  # of equal quality the cheaper
            self._elites[cell] = elite

    def _cell(self, costs: Sequence[float]) -> Cell:
        ranges = zip(costs, self._low, self._high, strict=True)
        shares = ((cost - low) / (high - low) if high > low else 0.0 for cost, low, high in ranges)
        return tuple(min(int(share * self.buckets), self.buckets - 1) for share in shares)

    def _restore(self, history: History, rows: NDArray[np.int64]) -> None:
        """As `_tell`; archs are made when they are parents."""
        for row in rows.tolist():
            state, over = history.states[row], float(history.violations[row])
            if state == "FAILED":
                continue
            violated = 0.0 if state == "COMPLETED" and over <= 0 else over if over > 0 else float("inf")
            values = history.values[row]
            measured = None if np.isnan(values).any() else tuple(values.tolist())
            self._take_in(measured, violated, lambda row=row: history.archs[row])  # type: ignore[misc]
