"""An arch as a sequence of choices: what may be chosen next, given what was.  For what walks down the tree of a space."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.space import Arch, Decision, Space

Choices = list[int | None]


class Steps:
    """The decisions of a space, those that control others first.

    A continuous decision is a choice among `bins` equal parts of its scaled range, in which the number is then drawn uniformly.
    Slots of a choice of several distinct or ordered candidates allow what the slots before them leave.

    Args:
        space: the space.
        bins: parts of a continuous decision's range.
    """

    def __init__(self, space: Space, bins: int = 10) -> None:
        self._space = space
        self._points = [decision.point for decision in space.decisions]
        self.bins = bins
        self.count = len(self._points)
        self.order = self._parents_first()
        self.widths = [self._width(p) for p in range(self.count)]  # how many options each decision has at most
        self._sizes = [self._numbers(decision) for decision in space.decisions]
        # What a choice depends on: nothing for most decisions, whose options are made once.
        self._fixed = [
            None if point.parent >= 0 or point.group else self._free(p) for p, point in enumerate(self._points)
        ]

    def _parents_first(self) -> list[int]:
        order: list[int] = []
        waiting = list(range(self.count))
        while waiting:
            done = {-1, *order}
            ready = [p for p in waiting if self._points[p].parent in done]
            order += ready
            waiting = [p for p in waiting if p not in ready]
        return order

    def _width(self, p: int) -> int:
        point = self._points[p]
        return self.bins if point.range else len(point.canonical)

    def _numbers(self, decision: Decision) -> Sequence[float] | None:
        """The numbers that a decision chooses among, by option; None where it chooses among anything else."""
        if decision.point.range:
            return range(self.bins)
        sizes = decision.candidates
        if not all(isinstance(size, int | float) and not isinstance(size, bool) for size in sizes):
            return None
        return [float(size) for size in sizes]

    def _free(self, p: int) -> Sequence[int]:
        point = self._points[p]
        return range(self.bins) if point.range else point.distinct_candidates

    def is_free(self, p: int) -> bool:
        """Whether the options of decision `p` are the same whatever the others are."""
        return self._fixed[p] is not None

    def branches(self, p: int, options: Sequence[int]) -> dict[int, Sequence[int]]:
        """Open options of decision `p`, split in a smaller and a larger half, 0 and 1, where they are several numbers.

        Others are each a branch of its own, called as the option.  Halving until one is left is the bisection tree of Negrinho &
        Gordon 2017, "DeepArchitect", in which numbers that are alike have most of their way in common.
        """
        sizes = self._sizes[p]
        if sizes is None or len(options) == 1:
            return {option: (option,) for option in options}
        ordered = sorted(options, key=sizes.__getitem__)
        middle = len(ordered) // 2
        return {0: ordered[:middle], 1: ordered[middle:]}

    def options(self, p: int, chosen: Sequence[int | None]) -> Sequence[int]:
        """What decision `p` may be, given the decisions before it in `order`; empty where it is inactive."""
        fixed = self._fixed[p]
        if fixed is not None:
            return fixed
        point = self._points[p]
        if point.parent >= 0 and chosen[point.parent] not in point.allowed:
            return ()
        group = point.group
        if group is None:
            return self._free(p)
        at = group.slots.index(p)
        before = [chosen[slot] for slot in group.slots[:at]]
        if not group.sorted:
            return [c for c in range(group.n) if c not in before]
        step = int(group.distinct)
        first = (before[-1] or 0) + step if before else 0
        return range(first, group.n - step * (len(group.slots) - at - 1))

    def below(self, p: int) -> list[int]:
        """The decisions whose options can change with that of `p`, in order: what it controls, later slots, and so on."""
        above, found = {p}, []
        for q in self.order[self.order.index(p) + 1 :]:
            group = self._points[q].group
            before = group.slots[: group.slots.index(q)] if group else ()
            if self._points[q].parent in above or above.intersection(before):
                above.add(q)
                found.append(q)
        return found

    def arch(self, chosen: Sequence[int | None], rng: random.Random) -> Arch:
        """The arch of these choices, an entry a decision."""
        genome: list[Any] = list(chosen)
        for p, point in enumerate(self._points):
            if point.range is not None and genome[p] is not None:
                genome[p] = point.range.value((genome[p] + rng.random()) / self.bins)
        return self._space.from_row(genome)

    def choices(self, arch: Arch) -> Choices:
        """An entry a decision: the option that the arch has, None where inactive."""
        chosen: Choices = list(arch.genome)
        for p, point in enumerate(self._points):
            if point.range is not None and (value := arch.genome[p]) is not None:
                chosen[p] = min(int(point.range.unit(value) * self.bins), self.bins - 1)
        return chosen
