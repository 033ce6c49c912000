"""Genomes and what can be done with them: a forest of decisions, in flat tables, without a symbolic object in sight.

A genome is a list with one entry a decision: the index of a candidate, a float, or None where the decision is inactive.  A
decision is active when it is a root, or when its parent has one of the `allowed` candidates (an inactive parent has None, which
is never allowed).  Slots of a `manyof` that must be distinct or sorted form a `Group`: drawn, moved and enumerated as one unit.

Every method takes and gives canonical genomes: of equal candidates the first one's index, None exactly where inactive.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any

from nas.space.group import Group, group_size, repaired
from nas.space.scale import Range

# A gene is int | float | None; `Any` keeps the inner loops free of casts.
Genome = list[Any]


@dataclass
class Point:
    """One entry of the genome.

    Args:
        parent: the point that decides whether this one is active; -1 for none.
        allowed: candidate indices of the parent under which it is active.
        canonical: for each candidate the index of the first equal one; empty for a float.
        range: bounds and scale of a float; None for a categorical point.
        group: the group of slots it belongs to, if any.
    """

    parent: int = -1
    allowed: frozenset[int] = frozenset()
    canonical: tuple[int, ...] = ()
    range: Range | None = None
    group: Group | None = None
    distinct_candidates: tuple[int, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        self.distinct_candidates = tuple(sorted(set(self.canonical)))

    @property
    def movable(self) -> bool:
        """Whether it can take another value."""
        if self.range is not None:
            return self.range.low < self.range.high
        return self.group.movable if self.group else len(self.distinct_candidates) > 1


# What is drawn at once: (first point, parent or n, allowed, point, group or None).
Unit = tuple[int, int, frozenset[int], Point, Group | None]
_ROOT = frozenset({0})
REGROWTHS = 32  # draws of a subtree before it is moved instead; one draw is the old subtree at most every other time


class Forest:
    """The points of a space in flat tables, with the operations on genomes."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.points = tuple(points)
        self.n = len(self.points)
        self.units = self._ordered_units()
        self.groups = tuple(unit[4] for unit in self.units if unit[4])
        self.movable = tuple(p for p, point in enumerate(self.points) if point.movable)
        self.plain = self._plain_counts()
        self._below = [self._descendants(p) for p in range(self.n)]

    # -- tables ------------------------------------------------------------------------------------------------

    def _ordered_units(self) -> tuple[Unit, ...]:
        """Units with parents first, otherwise in genome order."""
        done: set[int] = {-1}
        waiting = [p for p, point in enumerate(self.points) if not point.group or point.group.slots[0] == p]
        units: list[Unit] = []
        while waiting:
            p = next(p for p in waiting if self.points[p].parent in done)
            waiting.remove(p)
            point = self.points[p]
            done.update(point.group.slots if point.group else (p,))
            parent, allowed = (point.parent, point.allowed) if point.parent >= 0 else (self.n, _ROOT)
            units.append((p, parent, allowed, point, point.group))
        return tuple(units)

    def _plain_counts(self) -> tuple[int, ...] | None:
        """Number of candidates of each point when all are plain, independent choices."""
        for point in self.points:
            if point.parent >= 0 or point.range or point.group or len(point.distinct_candidates) < len(point.canonical):
                return None
        return tuple(len(point.canonical) for point in self.points)

    def _descendants(self, p: int) -> tuple[Unit, ...]:
        """Units whose activity can change with point `p` (or with the group it is a slot of)."""
        group = self.points[p].group
        above = set(group.slots if group else (p,))
        below = []
        for unit in self.units:
            if unit[1] in above:
                below.append(unit)
                above.update(unit[4].slots if unit[4] else (unit[0],))
        return tuple(below)

    @cached_property
    def children(self) -> dict[int, tuple[Unit, ...]]:
        """Units by parent; the roots under -1."""
        table: dict[int, list[Unit]] = {}
        for unit in self.units:
            table.setdefault(-1 if unit[1] == self.n else unit[1], []).append(unit)
        return {p: tuple(units) for p, units in table.items()}

    # -- filling -----------------------------------------------------------------------------------------------

    def sample(self, rng: Random) -> Genome:
        """A genome drawn uniformly a decision (not uniformly over archs), as PyGlove does."""
        if self.plain is not None:
            random = rng.random
            return [int(random() * n) for n in self.plain]
        genome: Genome = [None] * self.n
        genome.append(0)  # what root units look at
        self._draw(genome, self.units, rng)
        genome.pop()
        return genome

    def _draw(self, genome: Genome, units: Sequence[Unit], rng: Random) -> None:
        """Draw what is active and None; clear what is inactive.  `genome` has the root's entry at its end."""
        random = rng.random
        for p, parent, allowed, point, group in units:
            if genome[parent] not in allowed:
                if genome[p] is not None:
                    for slot in group.slots if group else (p,):
                        genome[slot] = None
            elif genome[p] is None:
                if group is not None:
                    for slot, value in zip(group.slots, group.draw(rng), strict=True):
                        genome[slot] = value
                elif point.range is not None:
                    genome[p] = point.range.value(random())
                else:
                    choices = point.distinct_candidates
                    genome[p] = choices[int(random() * len(choices))]

    def fill(self, genome: Genome, preferred: Sequence[Any], units: Sequence[Unit] | None = None) -> Genome:
        """`genome` with what is active and None set as in `preferred` (an entry a point), and what is inactive cleared."""
        genome = [*genome, 0]
        for p, parent, allowed, _, group in self.units if units is None else units:
            active = genome[parent] in allowed
            if not active or genome[p] is None:
                for slot in group.slots if group else (p,):
                    genome[slot] = preferred[slot] if active else None
        genome.pop()
        return genome

    @cached_property
    def firsts(self) -> tuple[Any, ...]:
        """For each point its first candidate (lower bound of a float), as if everything were active."""
        firsts: list[Any] = [point.range.low if point.range else 0 for point in self.points]
        for group in self.groups:
            for slot, value in zip(group.slots, group.first(), strict=True):
                firsts[slot] = value
        return tuple(firsts)

    def repair(self, numbers: Sequence[Any]) -> Genome:
        """The genome of a full vector (a number for every point): inactive ones dropped, groups made valid from the left."""
        numbers = list(numbers)
        for group in self.groups:
            for slot, value in zip(group.slots, repaired(group, [numbers[s] for s in group.slots]), strict=True):
                numbers[slot] = value
        return self.fill([None] * self.n, numbers)

    # -- moving ------------------------------------------------------------------------------------------------

    def mutate(self, genome: Sequence[Any], rng: Random, probability: float | None = None) -> Genome:
        """A different genome: one active decision moved, or each with `probability` but at least one.

        What the moves activate is drawn.  The only genome of a space of one arch is given back as it is.
        """
        random = rng.random
        active = [p for p in self.movable if genome[p] is not None]
        if not active:
            return list(genome)
        changed: Genome = [*genome, 0]
        if probability is not None:
            for p in active:
                if random() < probability and changed[p] is not None:
                    self._move(changed, p, rng)
        # Nothing was hit, or two moves cancelled out.
        if probability is None or changed[: self.n] == list(genome):
            self._move(changed, active[int(random() * len(active))], rng)
        changed.pop()
        return changed

    def _move(self, genome: Genome, p: int, rng: Random) -> None:
        """Give point `p` another value and draw what that activates."""
        point = self.points[p]
        if point.range is not None:
            genome[p] = point.range.moved(genome[p], rng)
            return
        old = genome[p]
        if point.group is not None:
            options = list(self._slot_options(point.group, genome, old))
            self._set_slot(point.group, genome, p, options[int(rng.random() * len(options))])
        else:
            choices = point.distinct_candidates
            i = int(rng.random() * (len(choices) - 1))
            # The last one stands in for the old one, so that the others are equally likely.
            genome[p] = choices[i] if choices[i] != old else choices[-1]
        if self._below[p]:
            self._draw(genome, self._below[p], rng)

    def regrow(self, genome: Sequence[Any], rng: Random) -> Genome:
        """A different genome: one active decision, and all that hangs on it, drawn anew; slots of a group together.

        The only genome of a space of one arch is given back as it is.
        """
        active = [p for p in self.movable if genome[p] is not None]
        if not active:
            return list(genome)
        p = active[int(rng.random() * len(active))]
        group = self.points[p].group
        top = group.slots[0] if group else p
        units = [unit for unit in self.units if unit[0] == top] + list(self._below[p])
        bare: Genome = [*genome, 0]
        for q, _, _, _, below in units:
            for slot in below.slots if below else (q,):
                bare[slot] = None
        for _ in range(REGROWTHS):
            grown = list(bare)
            self._draw(grown, units, rng)
            grown.pop()
            if grown != list(genome):
                return grown
        grown = [*genome, 0]
        self._move(grown, p, rng)
        grown.pop()
        return grown

    def _slot_options(self, group: Group, genome: Genome, old: int) -> Iterator[int]:
        taken = {genome[slot] for slot in group.slots} if group.distinct and group.sorted else {old}
        return (c for c in range(group.n) if c not in taken)

    def _set_slot(self, group: Group, genome: Genome, p: int, value: int) -> None:
        """Put candidate `value` into slot `p`; a distinct slot that holds it already is swapped with `p`, whole blocks."""
        stride = group.stride
        holder = next((slot for slot in group.slots if group.distinct and genome[slot] == value), None)
        if holder is not None:
            here, there = slice(p, p + stride), slice(holder, holder + stride)
            genome[here], genome[there] = genome[there], genome[here]
            return
        genome[p] = value
        if group.sorted:
            blocks = sorted((genome[slot : slot + stride] for slot in group.slots), key=lambda block: block[0])
            for slot, block in zip(group.slots, blocks, strict=True):
                genome[slot : slot + stride] = block

    def crossover(self, a: Sequence[Any], b: Sequence[Any], rng: Random) -> Genome:
        """A genome that takes each decision from `a` or `b` with equal odds where both have it; a group whole."""
        bits = rng.getrandbits(self.n) if self.n else 0
        if self.plain is not None:
            return [x if bits >> p & 1 else y for p, (x, y) in enumerate(zip(a, b, strict=True))]
        genome: Genome = [None] * self.n
        genome.append(0)
        for p, parent, allowed, _, group in self.units:
            if genome[parent] in allowed:
                # Its parent's value came from one of the two, in which this point was active: one of them has it.
                source = a if b[p] is None or (a[p] is not None and bits >> p & 1) else b
                for slot in group.slots if group else (p,):
                    genome[slot] = source[slot]
        genome.pop()
        return genome

    def neighbours(self, genome: Sequence[Any]) -> Iterator[Genome]:
        """Every genome that differs in one categorical decision; what that activates takes its first candidate."""
        seen = {tuple(genome)}
        for p in self.movable:
            if genome[p] is None or self.points[p].range is not None:
                continue
            for changed in self._variants(genome, p):
                filled = self.fill(changed, self.firsts, self._below[p]) if self._below[p] else changed
                if tuple(filled) not in seen:
                    seen.add(tuple(filled))
                    yield filled

    def _variants(self, genome: Sequence[Any], p: int) -> Iterator[Genome]:
        point = self.points[p]
        group = point.group
        old = genome[p]
        for value in self._slot_options(group, list(genome), old) if group else point.distinct_candidates:
            changed = list(genome)
            if group:
                self._set_slot(group, changed, p, value)
                yield changed
            elif value != old:
                changed[p] = value
                yield changed

    def forced(self, genome: Sequence[Any], p: int, value: int, preferred: Sequence[Any]) -> Genome | None:
        """`genome` with candidate `value` at point `p`, its ancestors changed where they must, the rest as in `preferred`.

        Returns:
            None when no genome has it: the last candidate cannot stand in the first of two sorted, distinct slots.
        """
        changed = list(genome)
        path = [(p, frozenset({value}))]
        while (point := self.points[path[-1][0]]).parent >= 0:
            path.append((point.parent, point.allowed))
        for q, allowed in reversed(path):
            if changed[q] in allowed:
                continue
            best = preferred[q] if preferred[q] in allowed else max(allowed)
            group = self.points[q].group
            if group:
                values = group.holding([changed[slot] for slot in group.slots], group.slots.index(q), best)
                if values is None:
                    return None
                for slot, c in zip(group.slots, values, strict=True):
                    changed[slot] = c
            else:
                changed[q] = best
            changed = self.fill(changed, preferred, self._below[q])
        return changed

    # -- all of them -------------------------------------------------------------------------------------------

    def enumerate(self) -> Iterator[Genome]:
        """Every genome without floats once, in lexicographic order of the decisions (controllers before what they control)."""
        genome = self.fill([None] * self.n, self.firsts)
        while True:
            yield list(genome)
            for i in reversed(range(len(self.units))):
                if self._advance(genome, self.units[i]):
                    later = self.units[i + 1 :]
                    for p, _, _, _, group in later:
                        for slot in group.slots if group else (p,):
                            genome[slot] = None
                    genome = self.fill(genome, self.firsts, later)
                    break
            else:
                return

    def _advance(self, genome: Genome, unit: Unit) -> bool:
        p, _, _, point, group = unit
        if genome[p] is None or point.range is not None:
            return False
        if group:
            values = group.next([genome[slot] for slot in group.slots])
            for slot, value in zip(group.slots, values or (), strict=False):
                genome[slot] = value
            return values is not None
        later = [c for c in point.distinct_candidates if c > genome[p]]
        genome[p] = later[0] if later else genome[p]
        return bool(later)

    @cached_property
    def size(self) -> int:
        """Exact number of genomes; a float counts once."""
        return math.prod(self._unit_size(unit) for unit in self.children.get(-1, ()))

    def _unit_size(self, unit: Unit) -> int:
        p, _, _, point, group = unit
        if group:
            return group_size(group, [self._weights(slot) for slot in group.slots])
        return 1 if point.range is not None else sum(self._weights(p))

    def _weights(self, p: int) -> list[int]:
        """For each different candidate of `p` the number of genomes of what it activates."""
        sizes = [(unit[2], self._unit_size(unit)) for unit in self.children.get(p, ())]
        return [math.prod(size for allowed, size in sizes if c in allowed) for c in self.points[p].distinct_candidates]

    # -- checking ----------------------------------------------------------------------------------------------

    def valid(self, genome: Sequence[Any]) -> bool:
        """Whether a list of canonical genes is a genome: active ones there, inactive ones None, floats and groups right."""
        if self.plain is not None:
            return None not in genome
        looked: Genome = [*genome, 0]
        for p, parent, allowed, point, group in self.units:
            active = looked[parent] in allowed
            if group is not None:
                values = [looked[slot] for slot in group.slots]
                if values.count(None) != (0 if active else len(values)) or (active and group.fault(values)):
                    return False
            elif active is (looked[p] is None) or (active and point.range and not point.range.holds(looked[p])):
                return False
        return True

    def activity(self, genome: Sequence[Any]) -> list[bool]:
        """For each point whether it is active, given the values of the others."""
        active = [False] * self.n
        for p, parent, allowed, _, group in self.units:
            if parent == self.n or (active[parent] and genome[parent] in allowed):
                for slot in group.slots if group else (p,):
                    active[slot] = True
        return active
