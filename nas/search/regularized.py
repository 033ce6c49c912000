"""Regularised (ageing) evolution.

Real, Aggarwal, Huang, Le 2019, "Regularized Evolution for Image Classifier Architecture Search".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas.checking import checked
from nas.errors import AlgorithmError
from nas.search.base import Algorithm, Finished, History, violation
from nas.search.options import fraction, whole
from nas.search.selection import survivors
from nas.search.steps import mutated

if TYPE_CHECKING:
    import random

    from nas.space import Arch


class RegularizedEvolution(Algorithm):
    """A queue of the youngest archs: the best of a random sample is mutated, the oldest leaves.

    With one objective as published: `sample` candidates are drawn from the queue with replacement and the best of them is
    the parent.  With several objectives the parent is the best of the sample by constrained non-dominated rank, then by
    crowding distance within the sample (ours; the paper has one objective).  Infeasible archs lose to feasible ones and, among
    themselves, by violation; failed ones never enter the queue.

    Args:
        population: length of the queue; as many archs are sampled at random before the first mutation.
        sample: candidates of a tournament.
        seed: names the sequence of random numbers.
        regrow: probability that a mutation draws a decision anew with all that hangs on it (`Space.regrow`), as in a grammar.

    Raises:
        AlgorithmError: an option is not what it must be.
    """

    name = "regularized-evolution"
    regrow: float
    """There only where subtrees are regrown: studies that were begun without are compared as before."""

    @checked(AlgorithmError, called="name")
    def __init__(self, population: int = 100, sample: int = 10, seed: int = 0, *, regrow: float = 0.0) -> None:
        super().__init__(seed)
        self._regrow = fraction(self.name, "regrow", regrow)
        if self._regrow > 0:
            self.regrow = self._regrow
        self.population = whole(self.name, "population", population, 1)
        self.sample = whole(self.name, "sample", sample, 1)
        # (violation, values, arch), oldest first
        self._queue: deque[tuple[float, tuple[float, ...], Arch]] = deque(maxlen=self.population)

    def _ask(self, n: int) -> list[Arch]:
        return self._fill(n, self._draw)

    def _draw(self, rng: random.Random) -> Arch:
        if self.known < self.population or not self._queue:
            return self.space.sample(rng)
        return mutated(self._parent(rng), rng, self._regrow)

    def _parent(self, rng: random.Random) -> Arch:
        queue = self._queue
        candidates = [queue[int(rng.random() * len(queue))] for _ in range(self.sample)]
        if len(self.objectives) == 1:
            best = min(candidates, key=_fitness)
        else:
            values = np.array([candidate[1] for candidate in candidates])
            rows, _ = survivors(values, np.array([candidate[0] for candidate in candidates]), 1)
            best = candidates[int(rows[0])]
        return best[2]

    def _tell(self, trials: Sequence[Finished]) -> None:
        unmeasured = (float("nan"),) * len(self.objectives)
        for trial in trials:
            if trial.state != "FAILED":
                self._queue.append((violation(trial), trial.values or unmeasured, trial.arch))

    def _restore(self, history: History, rows: NDArray[np.int64]) -> None:
        youngest: list[Finished] = []
        for row in reversed(rows.tolist()):
            if len(youngest) == self.population:
                break
            if history.states[row] != "FAILED":
                youngest.append(history.trial(row))
        self._tell(youngest[::-1])


def _fitness(candidate: tuple[float, tuple[float, ...], Arch]) -> tuple[float, float]:
    violated, values, _ = candidate
    return (violated, 0.0) if violated else (0.0, values[0])
