"""What is searched: cells of NAS-Bench-201 trained for 12 epochs or for 200, and a closed form for dry runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from problems import cells, closed
from search_common.problem import Problem

from searchspaces.nasbench201_table import Table

LOW = 12 / 200  # cost of a low evaluation; a full one costs 1


@dataclass(frozen=True)
class Levels:
    """A problem at two levels of training; only the first objective depends on the level.

    Args:
        full: the problem that is asked.
        low: the same archs, trained for a little while.
        cost: of a low evaluation.
    """

    full: Problem
    low: Problem
    cost: float = LOW


CELLS = {
    "c10 latency": ("c10_test_{}", "hw_c10_edgegpu_latency"),
    "c10 params": ("c10_test_{}", "params_m_c10"),
    "c100 latency": ("c100_test_{}", "hw_c100_edgegpu_latency"),
    "in16 latency": ("in16_test_{}", "hw_in16_eyeriss_latency"),
}


def closed_form() -> Levels:
    """Two objectives; the low level sees the first distorted, more where it is worse."""
    full = closed(2, 0.5)

    def low(genes: np.ndarray) -> np.ndarray:
        values = full.values(genes)
        odd = np.sin(genes @ np.arange(1, genes.shape[1] + 1))
        return np.stack([0.6 * values[:, 0] + 0.5 * odd, values[:, 1]], 1)

    return Levels(full, Problem(full.candidates, low))


def problems(table: Table | None) -> dict[str, Levels]:
    """All of them by name; those of the table where it is there."""
    found = {"closed form": closed_form()}
    for name, (accuracy, cost) in CELLS.items() if table is not None else ():
        full, low = (cells(table, (accuracy.format(epochs), cost)) for epochs in (200, 12))
        found[name] = Levels(full, low)
    return found
