"""Constrained domination against its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nas.search.selection import constrained_ranks, survivors

SOLUTION = st.tuples(
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
    st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.0, float("inf")]),
)
SOLUTIONS = st.lists(SOLUTION, min_size=1, max_size=20)


def columns(solutions: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    values = np.array([v if c == 0 else (np.nan, np.nan) for v, c in solutions], dtype=float)
    return values, np.array([c for _, c in solutions])


def dominates(a: Any, b: Any) -> bool:
    """Deb et al. 2002, definition 1, with violations of a constraint summed."""
    (va, ca), (vb, cb) = a, b
    if ca or cb:
        return bool(ca < cb)
    return va != vb and va[0] <= vb[0] and va[1] <= vb[1]


@given(SOLUTIONS)
def test_ranks_follow_constrained_domination(solutions: list[Any]) -> None:
    rank, room = constrained_ranks(*columns(solutions))
    left, level = set(range(len(solutions))), 0
    while left:
        front = {i for i in left if not any(dominates(solutions[j], solutions[i]) for j in left)}
        assert all(rank[i] == level for i in front)
        left -= front
        level += 1
    assert all(room[i] == 0 for i, (_, violation) in enumerate(solutions) if violation)


@given(SOLUTIONS, st.integers(1, 12))
def test_no_survivor_is_worse_than_one_that_did_not(solutions: list[Any], size: int) -> None:
    rank, room = constrained_ranks(*columns(solutions))
    rows, rooms = survivors(*columns(solutions), size)
    assert len(rows) == len(set(rows.tolist())) == min(size, len(solutions))
    assert rooms.tolist() == room[rows].tolist()
    merit = [(rank[i], -room[i], i) for i in range(len(solutions))]
    assert [merit[i] for i in rows] == sorted(merit)[:size]
