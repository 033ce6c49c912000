"""Archs that a rule forbids: how to keep to the others, and the most extreme of them.

A rule is a function of an arch.  Whatever draws archs asks it and draws again, a bounded number of times.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nas.errors import SpaceError

if TYPE_CHECKING:
    from nas.space.arch import Arch
    from nas.space.compiling import Decision
    from nas.space.forest import Forest

Genome = list[Any]
Rule = Callable[["Arch"], bool]

DRAWS = 1000  # of a sample, before the rule is taken to allow nothing
TRIES = 100  # of a mutation or a crossover
LOOKS = 2000  # archs that are looked at in search of an extreme
COUNTABLE = 20_000  # archs of a space that are counted one by one


def drawn(draw: Callable[[], Arch], allows: Rule, what: str) -> Arch:
    """The first of up to `DRAWS` draws that the rule allows.

    Raises:
        SpaceError: there is none.
    """
    for _ in range(DRAWS):
        arch = draw()
        if allows(arch):
            return arch
    raise SpaceError(
        f"none of {DRAWS} random archs of {what} is allowed; loosen where=, or write the choices so that more are"
    )


def nearest(
    start: Sequence[Any],
    ranks: Sequence[Sequence[int]],
    forest: Forest,
    preferred: Sequence[Any],
    allows: Callable[[Genome], bool],
    *,
    fixed: int | None = None,
) -> Genome | None:
    """The allowed genome closest to `start`, an extreme: the fewest steps down the candidates of all decisions.

    A step counts as a share of its decision's candidates, so that the last candidate of each is equally far.  Float decisions
    stay where they are.

    Args:
        start: a genome.
        ranks: for each decision its different candidates, the most extreme first; empty for a float.
        forest: of the space.
        preferred: what a decision takes that becomes active.
        allows: the rule.
        fixed: a decision that keeps what `start` has.

    Returns:
        None when none of `LOOKS` genomes is allowed.
    """
    seen = {tuple(start)}
    waiting: list[tuple[float, int, Genome]] = [(0.0, 0, list(start))]
    looked = 0
    while waiting and looked < LOOKS:
        cost, _, genome = heapq.heappop(waiting)
        looked += 1
        if allows(genome):
            return genome
        for step, other in _steps(genome, ranks, forest, preferred, fixed):
            if tuple(other) not in seen:
                seen.add(tuple(other))
                heapq.heappush(waiting, (cost + step, len(seen), other))
    return None


def _steps(
    genome: Genome, ranks: Sequence[Sequence[int]], forest: Forest, preferred: Sequence[Any], fixed: int | None
) -> Iterator[tuple[float, Genome]]:
    """Every genome with one decision at its next candidate, and how far that is."""
    for p, order in enumerate(ranks):
        if genome[p] is None or p == fixed or len(order) < 2:
            continue
        at = order.index(genome[p]) + 1
        if at < len(order):
            other = forest.forced(genome, p, order[at], preferred)
            if other is not None and (fixed is None or other[fixed] == genome[fixed]):
                yield 1 / (len(order) - 1), other


def ranks_of(decisions: Iterable[Decision], first: Sequence[Any], *, top: bool) -> list[list[int]]:
    """For each decision its different candidates from `first`, its extreme, on by magnitude."""
    found: list[list[int]] = []
    for decision, extreme in zip(decisions, first, strict=True):
        if decision.point.range is not None:
            found.append([])
            continue
        sizes = decision.tops if top else decision.bottoms
        order = sorted(decision.point.distinct_candidates, key=lambda c: (sizes[c], c), reverse=top)
        found.append([extreme, *(c for c in order if c != extreme)])
    return found
