"""What is searched: closed forms with three and four objectives in unlike units, and cells of NAS-Bench-201."""

from __future__ import annotations

import numpy as np
from search_common.cells import cells
from search_common.problem import Problem

from searchspaces.nasbench201 import Table

UNITS = (1.0, 1e-3, 1e4, 50.0)  # of the objectives: what is measured in seconds, in bytes, in points of accuracy
DECISIONS, CANDIDATES = 24, 4


def closed(objectives: int, pairs: float) -> Problem:
    """Quality that grows with costs, decision by decision; `pairs` is the weight of what neighbouring decisions add together.

    Quality is concave in the size of each decision, costs are linear in it with factors of their own, and every objective has
    another unit.
    """
    draw = np.random.default_rng(objectives)
    size = np.sort(draw.gamma(2.0, 1.0, (DECISIONS, CANDIDATES)), 1)
    weight = draw.gamma(1.0, 1.0, (DECISIONS, 1))
    costs = [
        size * draw.uniform(0.2, 1.8, (DECISIONS, 1)) * draw.uniform(0.7, 1.3, size.shape)
        for _ in range(objectives - 1)
    ]
    together = [draw.normal(0.0, 1.0, (DECISIONS - 1, CANDIDATES, CANDIDATES)) for _ in range(objectives)]
    places = np.arange(DECISIONS)

    def values(genes: np.ndarray) -> np.ndarray:
        alone = [-(weight * np.sqrt(size))[places, genes].sum(1), *(cost[places, genes].sum(1) for cost in costs)]
        paired = [table[places[:-1], genes[:, :-1], genes[:, 1:]].sum(1) for table in together]
        return np.stack([(one + pairs * two) * unit for one, two, unit in zip(alone, paired, UNITS, strict=False)], 1)

    return Problem([CANDIDATES] * DECISIONS, values)


NB201 = {
    "nb201 3": ("c10_test_200", "hw_c10_edgegpu_latency", "params_m_c10"),
    "nb201 4": ("c10_test_200", "hw_c10_edgegpu_latency", "hw_c10_edgegpu_energy", "params_m_c10"),
    "nb201 in16 4": ("in16_test_200", "hw_in16_eyeriss_latency", "hw_in16_eyeriss_energy", "params_m_in16"),
}


def problems(table: Table | None) -> dict[str, Problem]:
    """All of them by name; those of the table where it is there."""
    found = {f"{kind} {m}": closed(m, pairs) for kind, pairs in (("additive", 0.0), ("pairwise", 0.5)) for m in (3, 4)}
    return found if table is None else found | {name: cells(table, columns) for name, columns in NB201.items()}
