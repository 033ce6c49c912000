"""Cells of NAS-Bench-201 as problems."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from search_common.problem import Problem

from searchspaces.nasbench201 import EDGES, Table


def cells(table: Table, columns: Sequence[str]) -> Problem:
    """NAS-Bench-201: the first column is maximised, the others are costs; a cell without a value is as bad as the worst."""
    genes = table.values(list(EDGES)).astype(int)
    measured = table.values(list(columns))
    measured[:, 0] *= -1.0
    worst = np.nanmax(measured, 0)
    measured = np.where(np.isnan(measured).any(1)[:, None], worst, measured)
    rows = np.zeros((5,) * len(EDGES), dtype=int)
    rows[tuple(genes.T)] = np.arange(len(genes))
    return Problem([5] * len(EDGES), lambda some: measured[rows[tuple(some.T)]], lambda: measured)
