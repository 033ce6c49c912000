"""ConcurrentNAS: one search for several hardware targets, whose evaluations all of them share.

Sarah, Cummings, Sridhar et al. 2022, "A Hardware-Aware System for Accelerating Deep Neural
Network Optimization".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.checking import checked
from nas.errors import AlgorithmError
from nas.search.base import Algorithm, Finished, violation
from nas.search.forecast import measured
from nas.search.linas import LINAS
from nas.search.options import whole
from nas.search.selection import survivors


class ConcurrentNAS(LINAS):
    """LINAS whose rounds take turns among several targets, such as the latencies of several devices.

    The first `shared` objectives (accuracy) belong to every target; each other objective is one target.  The rounds' inner
    searches go by the shared objectives and one target each, in turn.  Every trial measures all objectives, so the predictors
    of a target learn from the rounds of all the others, and its inner search starts from the best that any of them has
    measured.  With one target, and with none, it is LINAS that starts its inner searches so.

    Args:
        shared: how many objectives, from the first, belong to every target.
        population: see `LINAS`, as for the others.
        inner: archs that the inner search looks at.
        alphas: penalties of the ridge regression.
        costs: costs of the support vector regression.
        history: trials that a predictor is trained on at most.
        seed: names the sequence of random numbers.

    Raises:
        AlgorithmError: an option is not what it must be.
    """

    name = "concurrent-nas"

    @checked(AlgorithmError, called="name")
    def __init__(
        self,
        shared: int = 1,
        population: int = 50,
        inner: int = 5_000,
        *,
        alphas: Sequence[float] | None = None,
        costs: Sequence[float] | None = None,
        history: int = 400,
        seed: int = 0,
    ) -> None:
        super().__init__(population, inner, alphas=alphas, costs=costs, history=history, seed=seed)
        self.shared = whole(self.name, "shared", shared, 0)

    def _columns(self, number: int) -> list[int]:
        targets = list(range(self.shared, len(self.objectives)))
        turn = [targets[(number - 1) % len(targets)]] if targets else []
        return [*range(min(self.shared, len(self.objectives))), *turn]

    def _start(self, inner: Algorithm, trials: Sequence[Finished], columns: Sequence[int]) -> None:
        """The first generation are the best archs measured, whichever target they were measured for."""
        values = measured(trials, columns)
        violations = np.array([violation(trial) for trial in trials])
        best, _ = survivors(values, violations, self.population)
        inner.tell(
            trials[row]._replace(values=tuple(values[row].tolist())) if trials[row].values else trials[row]
            for row in best.tolist()
        )
