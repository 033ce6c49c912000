"""Made-up tables of 30 decisions, and cells of NAS-Bench-201 with two and three objectives."""

from __future__ import annotations

import numpy as np
from search_common.cells import cells
from search_common.landscapes import CANDIDATES, KINDS, landscape
from search_common.problem import Problem

from nas.pareto import non_dominated
from searchspaces.nasbench201 import Table

DECISIONS = 30
SINGLES = 1 + DECISIONS * (CANDIDATES - 1)  # the base and one evaluation for each alternative
CHECKS = 4  # compositions after 8, 16, 32 and 64 of them
ROUNDING = 1e-9  # of a value

NB201 = {
    "nb201 c10 edgegpu": ("c10_test_200", "hw_c10_edgegpu_latency"),
    "nb201 in16 eyeriss": ("in16_test_200", "hw_in16_eyeriss_latency"),
    "nb201 c10 3": ("c10_test_200", "hw_c10_edgegpu_latency", "params_m_c10"),
}


def problems(table: Table | None) -> dict[str, Problem]:
    """All of them by name; those of the table where it is there."""
    rings = {kind: landscape(kind, DECISIONS) for kind in KINDS}
    found = {kind: Problem([CANDIDATES] * DECISIONS, ring.values, ring.whole) for kind, ring in rings.items()}
    return found if table is None else found | {name: cells(table, columns) for name, columns in NB201.items()}


def additive_front() -> np.ndarray:
    """(k, 2) all points of the front of the additive table: decision by decision, the non-dominated sums so far."""
    terms = landscape("additive", DECISIONS).terms[:, :, 0, 0]
    front = np.zeros((1, 2))
    for decision in range(DECISIONS):
        sums = (front[:, None] + terms[:, decision].T[None]).reshape(-1, 2)
        front = sums[non_dominated(sums)]
    return front


def exact(points: np.ndarray) -> float:
    """Share of the evaluations after the single replacements and the checks that are on the front of the additive table."""
    after = points[SINGLES + CHECKS :]
    if points.shape[1] != 2 or not len(after):
        return 0.0
    front = additive_front()
    apart = np.abs(front[None] - after[:, None]) / np.abs(after[:, None])
    return float((apart.max(2).min(1) < ROUNDING).mean())
