"""Are the queries, keys and values of a subnet's attention those of heads that the largest network has?

Where heads are shared among others, what comes out of attention differs for good reasons: a subnet of fewer keys has queries
that read other keys.  What goes in does not: each head's queries, keys and values are still those of one head of the largest
network.  Where they are not, a packed projection was cut across its parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from nas.supernet.comparing import TOLERANCE, Place, Sides, reached
from nas.supernet.probing import Base


class Foreign(NamedTuple):
    """What attention is given that no head of the largest network has.

    Attributes:
        what: "queries", "keys" or "values".
        writers: the dimensions of parameters that write it in the subnet.
    """

    what: str
    writers: tuple[Place, ...]


def foreign(sides: Sides) -> Iterator[Foreign]:
    """In the order in which attention is computed, where both networks compute as much of it."""
    ours, theirs = sides.small.attended, sides.large.attended
    if [what for what, _ in ours] != [what for what, _ in theirs]:
        return
    for (what, small), (_, large) in zip(ours, theirs, strict=True):
        if _missing(small.detach(), large.detach()):
            bases = reached(sides.small, small)
            if all(_same(sides, base) for base in bases):
                made = (sides.small.made[base] for base in bases)
                yield Foreign(what, tuple(dict.fromkeys(Place(one.name, one.dim) for one in made)))


def _same(sides: Sides, base: Base) -> bool:
    """Has the largest network the same numbers there, at the units of the subnet?  Another layer's say nothing about the cut."""
    ours, theirs = sides.small.made[base], sides.large.made.get(base)
    if theirs is None or base in sides.large.foreign:
        return False
    there = (
        theirs.tensor
        if theirs.axis is None or theirs.units is None
        else theirs.tensor.index_select(theirs.axis, theirs.units)
    )
    return there.shape == ours.tensor.shape and bool(torch.equal(there, ours.tensor))


def _missing(small: Tensor, large: Tensor) -> bool:
    """Is a head of the one, along the third axis from the end, none of the other?  Not of other sizes: those are not compared."""
    if small.dim() != large.dim() or small.dim() < 4:
        return False
    ours, theirs = (one.movedim(-3, 0).flatten(1) for one in (small, large))
    if ours.shape[1] != theirs.shape[1] or small.shape[-1] != large.shape[-1] or not ours.isfinite().all():
        return False
    allowed = TOLERANCE * float(ours.abs().max())
    return any(bool((theirs - head).abs().amax(1).min() > allowed) for head in ours.unbind(0))
