"""Landscapes of 40, 60 and 100 decisions: error in percent against operations of a network."""

from __future__ import annotations

from search_common.landscapes import CANDIDATES, KINDS, landscape
from search_common.problem import Problem

SIZES = (40, 60, 100)


def problems() -> dict[str, Problem]:
    """All of them by name."""
    found = {}
    for decisions in SIZES:
        for kind in KINDS:
            ring = landscape(kind, decisions)
            found[f"{kind} {decisions}"] = Problem([CANDIDATES] * decisions, ring.values, ring.whole)
    return found
