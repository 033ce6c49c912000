"""Which trainings of many deserve to go on, with several objectives: successive halving by non-dominated sorting.

Asynchronous successive halving (Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning", the stopping variant)
with the ranking of Schmucker et al. 2021, "Multi-objective Asynchronous Successive Halving": fronts first, and inside a front
the crowding distance, so that the ends of a front and lonely points go on.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Annotated

import numpy as np

from nas.checking import Count, Range, checked
from nas.errors import RunnerError
from nas.pareto import crowding, ranks


class Rungs:
    """The values that trials had at epochs `grace`, `grace * factor`, `grace * factor**2`, …

    Args:
        epochs: of a full training; nobody is judged there.
        grace: epochs that everybody gets.
        factor: one in so many goes on from a rung.

    Raises:
        RunnerError: numbers that make no rung.
    """

    @checked(RunnerError)
    def __init__(self, epochs: Count, *, grace: Count = 1, factor: Annotated[int, Range(least=2)] = 3) -> None:
        if grace >= epochs:
            raise RunnerError(
                f"grace={grace} lets every training of {epochs} epochs finish; give fewer epochs of grace"
            )
        count = math.ceil(math.log(epochs / grace, factor) - 1e-9)
        self.levels = [grace * factor**k for k in range(count)]
        self.factor = factor
        self._values: dict[int, dict[Hashable, tuple[float, ...]]] = {level: {} for level in self.levels}

    def goes_on(self, trial: Hashable, epoch: int, values: Sequence[float]) -> bool:
        """Takes what `trial` measures at `epoch`; whether it is among the best of those that have come to this rung.

        The first at a rung always goes on.  The same trial at the same rung again, as after a restart, replaces its values.

        Args:
            trial: names it.
            epoch: 1, 2, …; between rungs everybody goes on.
            values: minimised objective values; a trial with a NaN is worse than all others.
        """
        rung = self._values.get(epoch)
        if rung is None:
            return True
        rung[trial] = tuple(math.inf if math.isnan(value) else float(value) for value in values)
        if not all(map(math.isfinite, rung[trial])):
            return False
        known = [key for key, found in rung.items() if all(map(math.isfinite, found))]
        best = max(1, math.ceil(len(known) / self.factor))
        points = np.array([rung[key] for key in known])
        fronts = ranks(points)
        order = np.lexsort((-crowding(points, fronts), fronts))  # stable: of equals the older one first
        return known.index(trial) in order[:best]
