"""Problems whose measurements are noisy, and what the archs that were measured are truly worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from search_common.problem import Problem

from searchspaces.nasbench201 import EDGES, Table

COLUMNS = {
    "c10 raspi4": ("c10_test_200", "hw_c10_raspi4_latency"),
    "c100 edgegpu": ("c100_test_200", "hw_c100_edgegpu_latency"),
}
POINTS, SHARE = 0.3, 0.05  # standard deviations: of accuracy, and of latency as a share of it


class Measured:
    """A problem as a search sees it: every measurement is another, and what was measured is kept.

    Args:
        problem: its first objective is in points of accuracy, the others are costs.
        noise: 1.0 for the noise above, 0.0 for none.
        seed: of the noise.
    """

    def __init__(self, problem: Problem, noise: float, seed: int) -> None:
        self.candidates, self._problem = problem.candidates, problem
        self._noise, self._draw = noise, np.random.default_rng(seed)
        self.true: dict[tuple[float, ...], tuple[float, ...]] = {}
        """What was measured -> what is true of it."""

    def __call__(self, genes: Sequence[int]) -> tuple[float, ...]:
        """One measurement."""
        true = self._problem(genes)
        first, *costs = true
        deviations = self._noise * self._draw.normal(size=1 + len(costs))
        others = [cost * (1.0 + SHARE * float(part)) for cost, part in zip(costs, deviations[1:], strict=True)]
        measured = (first + POINTS * float(deviations[0]), *others)
        self.true[measured] = true
        return measured


def cells(table: Table, columns: Sequence[str]) -> Problem:
    """Accuracy and a cost of the cells of NAS-Bench-201; a cell without a value is as bad as the worst."""
    measured = table.values(list(columns))
    measured[:, 0] *= -1.0
    measured = np.where(np.isnan(measured).any(1)[:, None], np.nanmax(measured, 0), measured)
    rows = np.zeros((5,) * len(EDGES), dtype=int)
    rows[tuple(table.values(list(EDGES)).astype(int).T)] = np.arange(len(measured))
    return Problem([5] * len(EDGES), lambda some: measured[rows[tuple(some.T)]], lambda: measured)


def closed() -> Problem:
    """Twelve decisions of four candidates: errors of 5 to 30 points that fall as a cost grows."""
    draw = np.random.default_rng(0)
    size = np.sort(draw.gamma(2.0, 1.0, (12, 4)), 1)
    weight, price = draw.gamma(1.0, 1.0, (12, 1)), draw.uniform(0.2, 1.8, (12, 1))
    worth, cost, places = weight * np.sqrt(size), price * size, np.arange(12)
    scale = 25.0 / (worth.max(1) - worth.min(1)).sum()

    def values(genes: np.ndarray) -> np.ndarray:
        error = 5.0 + scale * (worth.max(1) - worth[places, genes]).sum(1)
        return np.stack([error, cost[places, genes].sum(1)], 1)

    return Problem([4] * 12, values)


def problems(table: Table | None) -> dict[str, Problem]:
    """All of them by name; those of the table where it is there."""
    found = {"closed": closed()}
    return found if table is None else found | {name: cells(table, columns) for name, columns in COLUMNS.items()}
