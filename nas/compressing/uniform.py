"""Networks between the smallest and the largest that are as much smaller in every number: the baseline of every compression."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from nas.checking import Probability, checked
from nas.convert.elastic import ElasticSpace
from nas.convert.spelling import spelled
from nas.errors import SpaceError

if TYPE_CHECKING:
    from nas.space import Arch, Space

STEPS = 48  # shares that are tried


@checked(SpaceError)
def uniform(space: Space, share: Probability) -> Arch:
    """The arch that has `share` of the largest one's numbers: each decision the candidate nearest to that, others as they are.

    What is no number, as whether a block is kept, stays as in the largest arch, and so does a number whose largest candidate
    is not positive, and the rank of a layer, which is no size of what goes through the network.

    Args:
        space: any.
        share: from 0 to 1, of widths, heads and whatever else is a number.

    Raises:
        SpaceError: no such arch is allowed.
    """
    largest = space.largest
    ranks = {spelled(name) for name in space.plan.ranks} if isinstance(space, ElasticSpace) else set()
    genes = [
        _nearest(decision.candidates, gene, share)
        if decision.point.range is None and gene is not None and decision.name not in ranks
        else gene or 0
        for decision, gene in zip(space.decisions, largest.genome, strict=True)
    ]
    found = space.repair(genes)
    if not space.allows(found):
        raise SpaceError(f"the arch of space {space.name!r} with {share:.0%} of every number is not allowed")
    return found


def ladder(space: Space) -> list[Arch]:
    """Different uniform archs, from the smallest share to the largest arch.

    Between two of them, whose decisions all take their next candidate at once, are archs in which the first ones have done so:
    without these a budget would be met by what is much smaller.
    """
    found: dict[Arch, None] = {}
    before: Arch | None = None
    for step in range(STEPS + 1):
        try:
            arch = uniform(space, step / STEPS)
        except SpaceError:
            continue
        if before is not None:
            found |= dict.fromkeys(_between(space, before, arch))
        found[arch] = None
        before = arch
    return list(found)


def _between(space: Space, low: Arch, high: Arch) -> list[Arch]:
    """Archs in which the first decisions are as in `high` and the rest as in `low`, those that are allowed."""
    genes = [0 if gene is None else gene for gene in low.genome]
    found = []
    for place, gene in enumerate(high.genome):
        if gene is not None and gene != genes[place]:
            genes[place] = gene
            found.append(space.repair(genes))
    return [arch for arch in found if space.allows(arch)]


def largest_within(archs: Sequence[Arch], cost: Callable[[Arch], float], bound: float) -> Arch | None:
    """The last of rising `archs` whose cost is within `bound`, by bisection; None if the first is not.

    Args:
        archs: that cost more and more.
        cost: asked for about the logarithm of their number.
        bound: the most.
    """
    low, high = -1, len(archs)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(archs[middle]) <= bound else (low, middle)
    return archs[low] if low >= 0 else None


def _nearest(candidates: Sequence[Any], gene: int, share: float) -> int:
    """Index of the candidate nearest to a share of the chosen one."""
    largest = candidates[gene]
    if not _is_number(largest) or largest <= 0 or not all(map(_is_number, candidates)):
        return gene
    return min(range(len(candidates)), key=lambda at: (abs(candidates[at] - share * largest), -candidates[at]))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
