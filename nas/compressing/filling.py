"""What a search leaves of a budget is filled: decisions become larger as long as the network stays within it and is no worse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from nas.compressing.sensitivity import SPREAD
from nas.search.replacements import Replacements

if TYPE_CHECKING:
    from nas.space import Arch, Space

Size = Callable[["Arch"], tuple[float, ...]]


def larger(space: Space, arch: Arch, size: Size, has: Callable[[Arch], bool] | None = None) -> list[Arch]:
    """For each decision the next larger network of those that differ from `arch` in it, where there is one.

    What a decision activates, as the widths of a block that is kept again, has its largest candidates or its first ones.

    Args:
        space: of the arch.
        arch: that is made larger.
        size: operations, and parameters where these are equal.
        has: whether there is such a network at all; only these have a size.  None: all of them.
    """
    now, found = size(arch), []
    for place, genes in enumerate(Replacements(space, arch, SPREAD).genes):
        ways = (one for gene in genes for one in _replaced(space, arch, place, gene))
        above = [one for one in dict.fromkeys(ways) if (has is None or has(one)) and size(one) > now]
        if above:
            found.append(min(above, key=size))
    return list(dict.fromkeys(found))


def filled(
    arch: Arch,
    *,
    wider: Callable[[Arch], Sequence[Arch]],
    fits: Callable[[Arch], bool],
    losses: Callable[[Sequence[Arch]], Mapping[Arch, float]],
    most: int,
) -> list[Arch]:
    """The networks that `arch` grows into, each larger than the one before and of no higher loss; the last one fills the budget.

    A pass measures every next larger network that fits.  Those of no higher loss are put together, the best first, as long as
    the whole fits; where the whole has a higher loss than the best of them, that one is taken alone.  The passes end when
    nothing larger fits or none is as good.

    Args:
        arch: within the budget.
        wider: next larger networks of one.
        fits: whether a network is within the budget.
        losses: measures some networks; one that could not be measured is left out.
        most: networks that are measured.
    """
    found: list[Arch] = []
    known = dict(losses([arch]))
    while arch in known and len(known) < most:
        near = [one for one in wider(arch) if fits(one)][: most - len(known)]
        known |= losses(near)
        as_good = sorted((one for one in near if known.get(one, _NONE) <= known[arch]), key=known.__getitem__)
        if not as_good:
            break
        whole = _together(arch, as_good, fits)
        if whole not in known:
            known |= losses([whole])
        arch = whole if known.get(whole, _NONE) <= known[as_good[0]] else as_good[0]
        found.append(arch)
    return found


_NONE = float("inf")


def _together(arch: Arch, changed: Sequence[Arch], fits: Callable[[Arch], bool]) -> Arch:
    """The first of the changes of an arch, and each further one with which the whole fits."""
    whole, space = changed[0], arch.space
    for one in changed[1:]:
        genes = [
            new if new != old else now for old, new, now in zip(arch.genome, one.genome, whole.genome, strict=True)
        ]
        both = space.repair([0 if gene is None else gene for gene in genes])
        if both != whole and space.allows(both) and fits(both):
            whole = both
    return whole


def _replaced(space: Space, arch: Arch, place: int, gene: int | float) -> list[Arch]:
    """The arch with another candidate in one decision: what that activates largest, and first."""
    found = space.replaced(arch, place, gene)
    if found is None or found == arch:
        return []
    genes = [
        0 if new is None or (old is None and at != place) else new
        for at, (old, new) in enumerate(zip(arch.genome, found.genome, strict=True))
    ]
    first = space.repair(genes)
    return [found, first] if space.allows(first) else [found]
