"""Which stitched networks there are: the published enumerations, over the depths of any anchors.  No torch here.

A *route* says which blocks a network runs, and is written as it is read: `"0:3>1:4"` runs anchor 0 up to and with block 3,
one stitch, and anchor 1 from block 4 on; `"0:3>1:4:7>2:8"` leaves anchor 1 after block 7; `"2"` is anchor 2 alone.
Blocks are numbered through all stages of an anchor.  A *hop* is the part `"0:3>1:4"` of a route: one place of a stitch.
Hops may share a stitch layer; a plan names the layer of each.

`SNNet`: Pan et al. 2023, "Stitchable Neural Networks".
`SNNetV2`: Pan et al. 2023, "Stitched ViTs are Flexible Vision Backbones".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from nas.errors import SpaceError

Depths = Sequence[int]
"""Number of blocks of each stage of one anchor; a plain transformer has one stage."""
Pair = tuple[int, int, int]
"""(last block of the front, first block of the end, number of the stitch layer)."""


@dataclass(frozen=True)
class Hop:
    """One stitch: anchor `front` is left after block `leave`, anchor `end` is entered at block `enter`."""

    front: int
    leave: int
    end: int
    enter: int

    def __str__(self) -> str:
        return f"{self.front}:{self.leave}>{self.end}:{self.enter}"


@dataclass
class Plan:
    """Routes, anchors alone first, and the name of the stitch layer at each hop."""

    routes: list[str] = field(default_factory=list)
    stitches: dict[str, str] = field(default_factory=dict)

    @property
    def layers(self) -> list[str]:
        """Names of the stitch layers, each once."""
        return list(dict.fromkeys(self.stitches.values()))

    def add(self, hop: Hop, layer: int) -> None:
        """Put stitch layer `layer` between the hop's anchors there."""
        self.stitches[str(hop)] = f"{hop.front}to{hop.end}_{layer}"


def parse(route: str) -> list[Hop]:
    """The hops of a route; none for an anchor alone.

    >>> parse("0:3>1:4:7>2:8")
    [Hop(front=0, leave=3, end=1, enter=4), Hop(front=1, leave=7, end=2, enter=8)]

    Raises:
        SpaceError: it is not written as a route.
    """
    try:
        legs = [[int(number) for number in leg.split(":")] for leg in route.split(">")]
    except ValueError:
        raise _no_route(route) from None
    lengths = [1] if len(legs) == 1 else [2, *[3] * (len(legs) - 2), 2]
    if list(map(len, legs)) != lengths or any(number < 0 for leg in legs for number in leg):
        raise _no_route(route)
    hops = [Hop(front[0], front[-1], end[0], end[1]) for front, end in pairwise(legs)]
    if any(left.enter > right.leave for left, right in pairwise(hops)):
        raise _no_route(route)
    return hops


def _no_route(route: str) -> SpaceError:
    return SpaceError(f"{route!r} is no route; write '2' for anchor 2 alone, '0:3>1:4' or '0:3>1:4:7>2:8' for stitches")


def join(hops: Sequence[Hop]) -> str:
    """The route with these hops."""
    legs = [f"{hops[0].front}:{hops[0].leave}"]
    legs += [f"{left.end}:{left.enter}:{right.leave}" for left, right in pairwise(hops)]
    return ">".join([*legs, f"{hops[-1].end}:{hops[-1].enter}"])


class Planner(ABC):
    """Enumerates routes."""

    @abstractmethod
    def plan(self, depths: Sequence[Depths]) -> Plan:
        """The plan for anchors of these depths.

        Raises:
            SpaceError: there are fewer than two anchors, or their stages do not correspond.
        """


@dataclass(frozen=True)
class SNNet(Planner):
    """From smaller anchors into larger ones.

    Stages of equal depth are *paired*: windows of `window` blocks slide by `step`, every (front, end) pair within a window
    is a stitch, and the pairs that are new in a window share one layer.  Stages of unequal depth are *unpaired*: block i of
    the deeper belongs to the nearest block of the shallower, and all of one nearest block share a layer.

    Deviations: anchors may be any number, in any order of depth (a front deeper than its end enters behind the nearest block,
    as in SN-Netv2); chains may be longer than three anchors.

    Args:
        window: blocks in a window.
        step: blocks that the window slides by.
        nearest: stitch neighbours in the list only, once; otherwise any two anchors, and chains.
        longest: anchors in a chain at most, when not nearest.
        strict: leave out pairs whose front is not before their end, as published for stages; None does so where there are
            several stages.  The first block of a stage often changes the resolution and cannot be entered then.
        last_stage: stitch in the last stage too; None does so where it is the only one.
    """

    window: int = 2
    step: int = 1
    nearest: bool = True
    longest: int = 3
    strict: bool | None = None
    last_stage: bool | None = None

    def __post_init__(self) -> None:
        if self.window < 1 or self.step < 1:
            raise SpaceError(f"window={self.window} and step={self.step} must both be 1 or more")
        if self.nearest and self.longest != 3:
            raise SpaceError(f"longest={self.longest} has no effect with nearest=True; give nearest=False for chains")
        if self.longest < 2:
            raise SpaceError(f"longest={self.longest} anchors make no stitch; choose 2 or more")

    def plan(self, depths: Sequence[Depths]) -> Plan:
        """Anchors, pairs, chains."""
        _check(depths)
        plan = Plan(list(map(str, range(len(depths)))))
        hops: dict[int, list[Hop]] = {}
        for front in range(len(depths)):
            ends = range(front + 1, min(front + 2, len(depths)) if self.nearest else len(depths))
            for end in ends:
                for leave, enter, layer in self.pairs(depths[front], depths[end]):
                    hop = Hop(front, leave, end, enter)
                    plan.add(hop, layer)
                    hops.setdefault(front, []).append(hop)
        limit = 2 if self.nearest else self.longest
        chains = [chain for front in sorted(hops) for hop in hops[front] for chain in _chains([hop], hops, limit)]
        plan.routes += [join(chain) for chain in sorted(chains, key=len)]
        return plan

    def pairs(self, front: Depths, end: Depths) -> list[Pair]:
        """Stitches from an anchor with stages `front` to one with stages `end`; layers are numbered through the stages."""
        strict = len(front) > 1 if self.strict is None else self.strict
        last = len(front) == 1 if self.last_stage is None else self.last_stage
        pairs: list[Pair] = []
        layers = at_front = at_end = 0
        for stage, (ours, theirs) in enumerate(zip(front, end, strict=True)):
            if stage < len(front) - 1 or last:
                found = paired(ours, self.window, self.step) if ours == theirs else unpaired(ours, theirs)
                kept = [pair for pair in found if not strict or pair[0] < pair[1] or ours > theirs]
                renumbered = {
                    layer: number for number, layer in enumerate(dict.fromkeys(layer for _, _, layer in kept))
                }
                pairs += [(i + at_front, j + at_end, renumbered[layer] + layers) for i, j, layer in kept]
                layers += len(renumbered)
            at_front, at_end = at_front + ours, at_end + theirs
        return pairs


def _chains(chain: list[Hop], hops: dict[int, list[Hop]], limit: int) -> Iterator[list[Hop]]:
    """`chain`, and what it becomes with more hops, up to `limit` anchors."""
    yield chain
    if len(chain) + 1 < limit:
        for hop in hops.get(chain[-1].end, []):
            if hop.leave >= chain[-1].enter:
                yield from _chains([*chain, hop], hops, limit)


def paired(depth: int, window: int = 2, step: int = 1) -> list[Pair]:
    """Sliding windows over two stages of equal depth.

    >>> len(paired(12)), len({layer for _, _, layer in paired(12)})
    (34, 11)
    """
    pairs: dict[tuple[int, int], int] = {}
    layer = 0
    for start in range(0, depth, step):
        blocks = range(start, min(start + window, depth))
        new = [(i, j) for i in blocks for j in blocks if (i, j) not in pairs]
        pairs |= dict.fromkeys(new, layer)
        layer += bool(new)
    return [(i, j, layer) for (i, j), layer in pairs.items()]


def nearest(short: int, long: int) -> list[int]:
    """For each of `long` blocks the nearest of `short`, as nearest-neighbour interpolation has it."""
    return [block * short // long for block in range(long)]


def unpaired(front: int, end: int) -> list[Pair]:
    """Two stages of unequal depth.

    >>> unpaired(2, 4)
    [(0, 1, 0), (1, 2, 1), (1, 3, 1)]
    """
    if front < end:
        return [(near, block, near) for block, near in enumerate(nearest(front, end)) if near < block]
    return [(block, near + 1, near) for block, near in enumerate(nearest(end, front)) if near + 1 < end]


@dataclass(frozen=True)
class SNNetV2(Planner):
    """Both ways between neighbours in the list, and there and back again; a stitch layer a position and direction.

    With two anchors as published.  Deviations: more than two anchors are stitched as each pair of neighbours is; a stitch
    back into the shallower anchor behind its last block, which depths that do not divide can give, is left out.
    """

    def plan(self, depths: Sequence[Depths]) -> Plan:
        """Anchors; up, down, down and up, up and down."""
        _check(depths)
        if len(depths[0]) > 1:
            raise SpaceError(
                f"SN-Netv2 stitches anchors of one stage and these have {len(depths[0])}; use SNNet for stages"
            )
        plan = Plan(list(map(str, range(len(depths)))))
        for small in range(len(depths) - 1):
            ours, theirs = depths[small][0], depths[small + 1][0]
            if ours > theirs:
                raise SpaceError(
                    f"anchor {small} has {ours} blocks and the next {theirs}; for SN-Netv2 give anchors by rising depth"
                )
            self._between(plan, small, ours, theirs)
        return plan

    def _between(self, plan: Plan, small: int, ours: int, theirs: int) -> None:
        large, ratio = small + 1, theirs // ours
        up = [Hop(small, i, large, (i + 1) * ratio) for i in range(ours - 1)]
        odd = [i for i in range(theirs - 1) if i % 2 or ours == theirs]
        near = nearest(ours, theirs)
        down = [Hop(large, i, small, near[i] + 1) for i in odd if near[i] + 1 < ours]
        for hop in up:
            plan.add(hop, hop.leave)
        for hop in down:
            plan.add(hop, hop.leave // ratio)
        chains = [[hop] for hop in (*up, *down)]
        chains += [[one, two] for one in down for two in up if two.leave >= one.enter]
        chains += [[one, two] for one in up for two in down if two.leave >= one.enter]
        plan.routes += [join(chain) for chain in chains]


def _check(depths: Sequence[Depths]) -> None:
    if len(depths) < 2:
        raise SpaceError(f"stitching needs two anchors or more, and {len(depths)} was given")
    for number, stages in enumerate(depths):
        if len(stages) != len(depths[0]):
            raise SpaceError(
                f"anchor {number} has {len(stages)} stages of blocks and anchor 0 has {len(depths[0])}; "
                "stitching needs the same number"
            )
