"""Slots of a `manyof` whose candidates constrain each other: distinct, sorted, or both."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Group:
    """Slots of one `manyof` whose candidates constrain each other.

    Args:
        slots: the points of the slots, in order; slot j and all that is nested in it are the points
            `slots[j] .. slots[j] + stride - 1`.
        stride: number of points of one slot.
        n: number of candidates.
        distinct: no candidate twice.
        sorted: candidate indices do not decrease.
    """

    slots: tuple[int, ...]
    stride: int
    n: int
    distinct: bool
    sorted: bool

    def next(self, values: Sequence[int]) -> list[int] | None:
        """The lexicographically next valid values, or None after the last."""
        for j in reversed(range(len(values))):
            head = list(values[:j])
            for c in range(values[j] + 1, self.n):
                filled = self._complete([*head, c]) if self._fits(head, c) else None
                if filled is not None:
                    return filled
        return None

    def first(self) -> list[int]:
        """The lexicographically first valid values."""
        filled = self._complete([])
        assert filled is not None, "PyGlove refuses a distinct manyof with too few candidates"
        return filled

    def fault(self, values: Sequence[int]) -> str | None:
        """Why `values` break the rule of this group, or None."""
        if self.distinct and len(set(values)) < len(values):
            return "must be distinct"
        if self.sorted and any(a > b for a, b in itertools.pairwise(values)):
            return "must be in the order of the candidates"
        return None

    def holding(self, values: Sequence[int], j: int, c: int) -> list[int] | None:
        """Valid values with `c` in slot j and the others as in `values` where that can be; None when nothing has it.

        Where sorted values must give way they go to the nearest candidates.
        """
        changed = list(values)
        if not self.sorted:
            if c in changed:
                changed[changed.index(c)] = changed[j]
            changed[j] = c
            return changed
        step = 1 if self.distinct else 0
        changed[j] = c
        for i in range(j + 1, len(changed)):
            changed[i] = max(changed[i], changed[i - 1] + step)
        for i in range(j - 1, -1, -1):
            changed[i] = min(changed[i], changed[i + 1] - step)
        return changed if changed[0] >= 0 and changed[-1] < self.n else None

    def draw(self, rng: Random) -> list[int]:
        """Valid values, uniformly (sorted with repetition: sorted independent draws, as PyGlove does)."""
        k = len(self.slots)
        values = rng.sample(range(self.n), k) if self.distinct else [int(rng.random() * self.n) for _ in range(k)]
        return sorted(values) if self.sorted else values

    @property
    def movable(self) -> bool:
        """Whether one slot can change at all."""
        if not self.distinct:
            return self.n > 1
        return self.n > len(self.slots) or (not self.sorted and self.n > 1)

    def _fits(self, head: Sequence[int], c: int) -> bool:
        return not (self.distinct and c in head) and not (self.sorted and head and c < head[-1])

    def _complete(self, head: list[int]) -> list[int] | None:
        while len(head) < len(self.slots):
            c = next((c for c in range(self.n) if self._fits(head, c)), None)
            if c is None:
                return None
            head.append(c)
        return head


def repaired(group: Group, values: Sequence[int]) -> list[int]:
    """`values` made valid: repetitions replaced by the first unused candidates where they must be distinct, then sorted."""
    fixed: list[int] = []
    free = [c for c in reversed(range(group.n)) if c not in values]
    for value in values:
        fixed.append(free.pop() if group.distinct and value in fixed else value)
    return sorted(fixed) if group.sorted else fixed


def group_size(group: Group, weights: list[list[int]]) -> int:
    """Number of valid assignments of candidates to slots, each weighted by `weights[slot][candidate]`."""
    if group.sorted:
        return _sorted_size(weights, strict=group.distinct)
    assert group.distinct, "slots without a rule are independent points"
    if all(w == weights[0] for w in weights):
        # k! e_k(w): elementary symmetric polynomial, one candidate at a time.
        e = [1] + [0] * len(weights)
        for w in weights[0]:
            for j in range(len(weights), 0, -1):
                e[j] += w * e[j - 1]
        return math.factorial(len(weights)) * e[-1]
    return _permanent(weights)


def _sorted_size(weights: list[list[int]], *, strict: bool) -> int:
    """Weighted count of (strictly) increasing index sequences: ways[c] = sequences so far that end in c."""
    ways = list(weights[0])
    for row in weights[1:]:
        sums = [0, *itertools.accumulate(ways)]
        ways = [row[c] * sums[c if strict else c + 1] for c in range(len(row))]
    return sum(ways)


def _permanent(weights: list[list[int]]) -> int:
    """Weighted count of injective assignments when slots differ; exponential in the slots only (compile bounds them)."""
    k = len(weights)
    ways = {0: 1}
    for c in range(len(weights[0])):
        new = dict(ways)
        for used, count in ways.items():
            for j in range(k):
                if not used >> j & 1:
                    new[used | 1 << j] = new.get(used | 1 << j, 0) + count * weights[j][c]
        ways = new
    return ways.get((1 << k) - 1, 0)
