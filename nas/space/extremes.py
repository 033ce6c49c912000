"""The largest and the smallest arch, and archs that together show every candidate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nas.errors import SpaceError, suggest
from nas.space.checking import Checker, gene_of
from nas.space.compiling import Decision


def preferred(checker: Checker, overrides: Mapping[str, Any], option: str) -> list[Any]:
    """For each decision the gene that is its extreme, as if everything were active.

    Args:
        checker: of the space.
        overrides: decision name -> the value that counts as the extreme.
        option: "largest" or "smallest".

    Raises:
        SpaceError: an override names no decision or candidate, or the extremes break a rule of a manyof.
    """
    top = option == "largest"
    genes = [_extreme(decision, top) for decision in checker.decisions]
    for group in checker.forest.groups:
        for slot, c in zip(group.slots, _best_slots(checker.decisions[group.slots[0]], top), strict=True):
            genes[slot] = c
    for name, value in overrides.items():
        decision = checker.by_name.get(name)
        if decision is None:
            raise SpaceError(f"{option}= names {name!r}, which is no decision{suggest(name, checker.by_name)}")
        try:
            genes[decision.index] = gene_of(decision, value)
        except SpaceError as error:
            raise SpaceError(f"{option}= is wrong: {error}") from None
    try:
        checker.from_numbers(checker.forest.fill([None] * len(genes), genes))
    except SpaceError as error:
        raise SpaceError(f"{option}= is wrong: {error}") from None
    return genes


def covering(
    decisions: Sequence[Decision],
    checker: Checker,
    largest: Sequence[Any],
    top: Sequence[Any],
    settle: Callable[[list[Any], int], list[Any] | None],
) -> list[list[Any]]:
    """Genomes in which every reachable candidate of every decision occurs, the rest being largest; the largest first.

    Args:
        decisions: of the space.
        checker: likewise.
        largest: genome of the largest arch.
        top: what each decision takes that becomes active.
        settle: an allowed genome close to one, with the same candidate of that decision; None where there is none.
    """
    genomes = [list(largest)]
    covered = set(enumerate(largest))
    for decision in decisions:
        for c in decision.point.distinct_candidates:
            if (decision.index, c) not in covered:
                forced = checker.forest.forced(largest, decision.index, c, top)
                genome = None if forced is None else settle(forced, decision.index)
                if genome is not None:
                    covered.update(enumerate(genome))
                    genomes.append(genome)
    return genomes


def _extreme(decision: Decision, top: bool) -> Any:
    if decision.point.range:
        return decision.point.range.high if top else decision.point.range.low
    return _ranked(decision, top)[0]


def _ranked(decision: Decision, top: bool) -> list[int]:
    """Different candidates, the most extreme first: ties go to the later when largest, to the earlier when smallest."""
    candidates = decision.point.distinct_candidates
    if top:
        return sorted(candidates, key=lambda c: (decision.tops[c], c), reverse=True)
    return sorted(candidates, key=lambda c: (decision.bottoms[c], c))


def _best_slots(decision: Decision, top: bool) -> list[int]:
    """The k most extreme candidates for the slots of a group, in the order of the candidates."""
    group = decision.point.group
    assert group is not None
    ranked = _ranked(decision, top)
    return sorted(ranked[: len(group.slots)]) if group.distinct else [ranked[0]] * len(group.slots)
