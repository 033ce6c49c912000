"""Who is better, with several objectives and constraints: Deb's constrained domination and crowding.

Deb, Pratap, Agarwal, Meyarivan 2002, "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II": a feasible solution
beats an infeasible one; of two infeasible ones the smaller violation wins; feasible ones are ordered by non-dominated
rank, and within a rank by room (crowding distance).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nas.pareto import crowding, ranks

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def constrained_ranks(values: Floats, violations: Floats) -> tuple[Ints, Floats]:
    """Rank and crowding distance of each solution under constrained domination.

    Infeasible solutions rank after all feasible ones, by violation, and have no room to compare.

    Args:
        values: (n, m) minimised; rows of infeasible solutions are not looked at and may be NaN.
        violations: (n,) 0.0 when feasible.
    """
    feasible = violations <= 0
    if feasible.all():
        rank = ranks(values)
        return rank, crowding(values, rank)
    rank = np.zeros(len(values), dtype=np.int64)
    room = np.zeros(len(values))
    rank[feasible] = ranks(values[feasible])
    room[feasible] = crowding(values[feasible], rank[feasible])
    worst = rank[feasible].max(initial=-1)
    rank[~feasible] = worst + 1 + np.unique(violations[~feasible], return_inverse=True)[1]
    return rank, room


def survivors(values: Floats, violations: Floats, size: int) -> tuple[Ints, Floats]:
    """The best `size` solutions, best first, and the room that each had.

    Of equally good solutions the earlier rows come first.

    Args:
        values: (n, m) minimised; rows of infeasible solutions are not looked at.
        violations: (n,) 0.0 when feasible.
        size: how many survive, at most.

    Returns:
        (k,) rows and (k,) crowding distances, k = min(n, size).
    """
    rank, room = constrained_ranks(values, violations)
    order = np.lexsort((-room, rank))[:size]
    return order, room[order]
