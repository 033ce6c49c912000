"""Cells of NAS-Bench-201, of which those that compute the same measure the same; and a made-up space without a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from search_common.problem import Problem

from searchspaces.nasbench201 import EDGES, Table

COLUMNS = {
    "c10 raspi4 2": ("c10_test_200", "hw_c10_raspi4_latency"),
    "c100 edgegpu 3": ("c100_test_200", "hw_c100_edgegpu_latency", "params_m_c10"),
    "in16 fpga 4": ("in16_test_200", "hw_in16_fpga_latency", "hw_in16_fpga_energy", "params_m_in16"),
}


def cells(table: Table, columns: Sequence[str]) -> Problem:
    """The first column is maximised, the others are costs; a cell without a value is as bad as the worst.

    All cells that compute the same answer what the first of them measured.
    """
    measured = table.values(list(columns))
    measured[:, 0] *= -1.0
    measured = np.where(np.isnan(measured).any(1)[:, None], np.nanmax(measured, 0), measured)[table.functions()]
    rows = np.zeros((5,) * len(EDGES), dtype=int)
    rows[tuple(table.values(list(EDGES)).astype(int).T)] = np.arange(len(measured))
    return Problem([5] * len(EDGES), lambda some: measured[rows[tuple(some.T)]], lambda: measured)


def depths() -> Problem:
    """Four stages of one to three blocks: what a block is matters only where the stage is deep enough to have it."""
    draw = np.random.default_rng(0)
    worth, cost = np.sort(draw.gamma(2.0, 1.0, (2, 4, 3, 3)), 3)

    def values(genes: np.ndarray) -> np.ndarray:
        stages = genes.reshape(len(genes), 4, 4)
        there = np.arange(3) <= stages[:, :, :1]
        chosen = stages[:, :, 1:]
        stage, block = np.arange(4)[:, None], np.arange(3)
        gain = np.sqrt(worth[stage, block, chosen]) * there
        return np.stack([-(gain.sum(2) ** 1.5).sum(1), (cost[stage, block, chosen] * there).sum((1, 2))], 1)

    return Problem([3] * 16, values)


def problems(table: Table | None) -> dict[str, Problem]:
    """All of them by name; those of the table where it is there."""
    found = {"depths 2": depths()}
    if table is None:
        return found
    return found | {name: cells(table, columns) for name, columns in COLUMNS.items()}
