"""LINAS: rounds of measuring, fitting a predictor an objective, and evolving on the predictors.

Cummings, Sridhar, Sarah, Szankin 2022, "A Hardware-Aware Framework for Accelerating Neural Architecture Search Across
Modalities" (DyNAS-T).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas.checking import checked
from nas.errors import AlgorithmError
from nas.search.base import Algorithm, Exhausted, Finished, History
from nas.search.forecast import Forecast
from nas.search.grid import ALPHAS, COSTS, fit_grid
from nas.search.nsga2 import NSGA2
from nas.search.options import positives, whole
from nas.search.past import Past
from nas.search.selection import survivors

if TYPE_CHECKING:
    import random

    from nas.space import Arch


class LINAS(Algorithm):
    """Lightweight iterative search: the predicted front of each round is measured, and what was measured teaches the next.

    The first `population` archs are random.  Whenever `population` trials have finished, a predictor of each objective (and of
    the violation, where trials were infeasible) is fitted and NSGA-II evaluates `inner` archs on the predictors; the best of
    them that are not measured yet are proposed next, in the order of predicted rank and crowding distance.  So a front is always
    one of measured archs, which that of DyNAS-T's program is not; no arch is measured twice; and nobody waits at the end of
    a round: workers that are free early take the next best.  Operators are the space's own (uniform crossover, one mutation in as
    many decisions), where the paper has simulated binary crossover and polynomial mutation on candidate numbers.

    Args:
        population: trials of a round, and survivors of the inner search.
        inner: archs that the inner search looks at: 5,000 for ResNet-50, 10,000 for a transformer, 20,000 for MobileNetV3 and
            BERT in the paper.
        alphas: penalties of the ridge regression that cross-validation chooses from; None for the published 0.1, 0.2 ... 10.
        costs: costs of the support vector regression; None for the published 1, 2 ... 100, empty for ridge alone.
        history: trials that a predictor is trained on at most (the published one takes all): the youngest half, and as many
            evenly over those before, so that a round costs the same at any length of the history.
        seed: names the sequence of random numbers.

    Raises:
        AlgorithmError: an option is not what it must be.
    """

    name = "linas"

    @checked(AlgorithmError, called="name")
    def __init__(
        self,
        population: int = 50,
        inner: int = 5_000,
        *,
        alphas: Sequence[float] | None = None,
        costs: Sequence[float] | None = None,
        history: int = 400,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.population = whole(self.name, "population", population, 2)
        self.inner = whole(self.name, "inner", inner, self.population)
        self.alphas = None if alphas is None else positives(self.name, "alphas", alphas, least=1)
        self.costs = None if costs is None else positives(self.name, "costs", costs)
        self.history = whole(self.name, "history", history, 2)
        self._fit = partial(fit_grid, alphas=self.alphas or ALPHAS, costs=COSTS if self.costs is None else self.costs)
        self._past = Past()
        self._done: set[str] = set()  # keys of the trials of `_past`
        self._batch: list[Arch] = []  # what the last round proposes, best first
        self._next = 0  # those before it in `_batch` are known

    def _ask(self, n: int) -> list[Arch]:
        return self._fill(n, self._draw)

    def _draw(self, rng: random.Random) -> Arch:
        batch = self._batch
        while self._next < len(batch):
            arch = batch[self._next]
            self._next += 1
            if arch.key not in self._seen:
                return arch
        if batch:  # more under way than the inner search has looked at: go on beside its best
            return self.space.mutate(batch[int(rng.random() * min(len(batch), self.population))], rng)
        return self.space.sample(rng)

    def _tell(self, trials: Sequence[Finished]) -> None:
        for trial in trials:
            self._past.append(trial)
            self._done.add(trial.arch.key)
            if len(self._past) % self.population == 0:
                self._round(len(self._past))

    def _restore(self, history: History, rows: NDArray[np.int64]) -> None:
        """Only the last round is searched again."""
        self._past.begin(history, rows)
        end = len(rows) - len(rows) % self.population
        if end:
            self._done = self._past.keys(end)
            self._round(end)
        self._done = self._past.keys(len(rows))

    def _round(self, end: int) -> None:
        """Makes the batch that follows the first `end` trials."""
        self._batch, self._next = [], 0
        trials = self._past.training(end, self.history)
        if trials:
            columns = self._columns(end // self.population)
            self._batch = self._evolve(Forecast(self.space, trials, columns, self._fit), trials, columns)

    def _columns(self, _number: int) -> list[int]:
        """Which objectives the inner search of a round (1 for the first) looks at."""
        return list(range(len(self.objectives)))

    def _start(self, _inner: Algorithm, _trials: Sequence[Finished], _columns: Sequence[int]) -> None:
        """What the inner search knows before it begins: nothing, as published."""

    def _evolve(self, forecast: Forecast, trials: Sequence[Finished], columns: Sequence[int]) -> list[Arch]:
        """Archs that the inner search looked at and that are not measured, best first."""
        inner = NSGA2(self.population, seed=self.seed)
        inner.bind(self.space, [self.objectives[c] for c in columns])
        self._start(inner, trials, columns)
        archs: list[Arch] = []
        values, violations = [np.zeros((0, len(columns)))], [np.zeros(0)]
        while len(archs) < self.inner:
            try:
                asked = inner.ask(min(self.population, self.inner - len(archs)))
            except Exhausted:
                break
            predicted, violated = forecast(asked)
            inner.tell(map(_outcome, asked, predicted.tolist(), violated.tolist()))
            archs += asked
            values.append(predicted)
            violations.append(violated)
        new = np.array([arch.key not in self._done for arch in archs], dtype=bool)
        order, _ = survivors(np.concatenate(values)[new], np.concatenate(violations)[new], len(archs))
        return [archs[row] for row in np.flatnonzero(new)[order].tolist()]


def _outcome(arch: Arch, values: list[float], violated: float) -> Finished:
    """A prediction, told like a measurement."""
    return Finished(0, arch, tuple(values), violated, "INFEASIBLE" if violated else "COMPLETED")
