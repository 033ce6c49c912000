"""From values to genes, and why something is no arch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nas.checking import is_number, plain_scalar
from nas.errors import SpaceError, suggest
from nas.space.compiling import Decision
from nas.space.forest import Forest
from nas.space.labels import identity, short
from nas.space.scalars import plain_candidate

_BOOLS = frozenset({bool, np.bool_})


class Checker:
    """Turns choices and numbers into genomes of one space, quickly when they are right and with a reason when not."""

    def __init__(self, decisions: Sequence[Decision], forest: Forest) -> None:
        self.decisions = decisions
        self.forest = forest
        self.by_name = {decision.name: decision for decision in decisions}
        self._of_label = [(decision.name, _by_label(decision)) for decision in decisions]
        self._of_number = [_by_number(decision) for decision in decisions]

    def from_choices(self, choices: Mapping[str, Any]) -> list[Any]:
        """The genome of choices by name.

        Raises:
            SpaceError: with the reason alone, to be put into a sentence.
        """
        genome: list[Any] = []
        given = 0
        try:
            for name, table in self._of_label:
                if name in choices:
                    given += 1
                    genome.append(table[choices[name]])
                else:
                    genome.append(None)
        except (KeyError, TypeError):  # not a label, or not hashable: a candidate itself, or nothing
            given = sum(name in choices for name in self.by_name)
            genome = [gene_of(d, choices[d.name]) if d.name in choices else None for d in self.decisions]
        if given < len(choices):
            stranger = next(name for name in choices if name not in self.by_name)
            raise SpaceError(f"there is no decision {stranger!r}{suggest(str(stranger), self.by_name)}")
        return self._checked(genome)

    def from_numbers(self, numbers: Sequence[Any]) -> list[Any]:
        """The genome of candidate indices, floats and None.

        Raises:
            SpaceError: with the reason alone.
        """
        if len(numbers) != len(self.decisions):
            raise SpaceError(f"{len(numbers)} numbers do not fit {len(self.decisions)} decisions")
        try:
            genome = self._looked_up(numbers)
        except (KeyError, TypeError):
            plain = [plain_scalar(number) for number in numbers]
            if any(number is not old for number, old in zip(plain, numbers, strict=True)):
                return self.from_numbers(plain)
            stranger, number = next(
                (decision, number)
                for decision, table, number in zip(self.decisions, self._of_number, numbers, strict=True)
                if number is not None and not _has(table, number)
            )
            what = expected(stranger) if stranger.point.range else f"an index from 0 to {len(stranger.labels) - 1}"
            raise SpaceError(f"{stranger.name} is {what}, not {short(number)}") from None
        return self._checked(genome)

    def _looked_up(self, numbers: Sequence[Any]) -> list[Any]:
        if not _BOOLS.isdisjoint(map(type, numbers)):
            raise KeyError("a bool is no index")
        return [
            None if number is None else table[number] for table, number in zip(self._of_number, numbers, strict=True)
        ]

    def _checked(self, genome: list[Any]) -> list[Any]:
        if not self.forest.valid(genome):
            raise SpaceError(next(self._faults(genome)))
        return genome

    def _faults(self, genome: Sequence[Any]) -> Iterator[str]:
        active = self.forest.activity(genome)
        for decision, gene, on in zip(self.decisions, genome, active, strict=True):
            range_, group = decision.point.range, decision.point.group
            if on and gene is None:
                yield f"{decision.name} is missing; it is {expected(decision)}"
            elif not on and gene is not None:
                yield f"{decision.name} is not active beside the other choices; leave it out"
            elif on and range_ and not range_.holds(gene):
                yield f"{decision.name} is {expected(decision)}, not {gene}"
            elif on and group and group.slots[0] == decision.index:
                values = [genome[slot] for slot in group.slots]
                if None not in values and (rule := group.fault(values)):
                    yield f"the choices {decision.name} to [{len(values) - 1}] {rule}"


def gene_of(decision: Decision, value: Any) -> Any:
    """The gene for a candidate, its label, or a float.

    Raises:
        SpaceError: `value` is none of the decision's, with that reason alone.
    """
    value = plain_scalar(value)
    if decision.point.range:
        if is_number(value):
            return float(value) + 0.0
    else:
        index = index_of(decision, value)
        if index is not None:
            return index
    near = suggest(value, map(str, decision.labels)) if isinstance(value, str) else ""
    raise SpaceError(f"{decision.name} is {expected(decision)}, not {short(value)}{near}")


def index_of(decision: Decision, value: Any) -> int | None:
    """The canonical index of the candidate that is `value` or is called so; None when there is none."""
    value = plain_candidate(value)
    for c, label in enumerate(decision.labels):
        if type(label) is type(value) and label == value:
            return decision.point.canonical[c]
    try:
        wanted = identity(value)
    except SpaceError:
        return None
    for c, candidate in enumerate(decision.candidates):
        if identity(candidate) == wanted:
            return decision.point.canonical[c]
    # 3.0 for 3: numbers are compared by value when nothing fits exactly.
    if is_number(value):
        for c, label in enumerate(decision.labels):
            if is_number(label) and label == value:
                return decision.point.canonical[c]
    return None


def expected(decision: Decision) -> str:
    """What a decision may be, for a message; at most ten candidates are listed."""
    if decision.point.range:
        return f"a float from {decision.point.range.low} to {decision.point.range.high}"
    labels = [str(label) for label in dict.fromkeys(decision.labels)]
    return "one of " + ", ".join(labels[:10]) + (f", ... ({len(labels)} in all)" if len(labels) > 10 else "")


class _Floats(dict[Any, Any]):
    """Table of a float decision: every float is its own gene; whether it is in the range is checked later."""

    def __missing__(self, value: Any) -> float:
        # NaN is in no range; -0.0 becomes 0.0, so that equal values have one key.
        value = plain_scalar(value)
        if is_number(value):
            return float(value) + 0.0
        raise KeyError(value)


class _Strict(dict[Any, Any]):
    """Label -> gene where 0, 1, False or True are labels: a bool is no number, though Python finds one by the other."""

    def __init__(self, labels: Sequence[Any], genes: Sequence[int]) -> None:
        super().__init__(((type(label) in _BOOLS, label), gene) for label, gene in zip(labels, genes, strict=True))

    def __getitem__(self, label: Any) -> Any:
        return super().__getitem__((type(label) in _BOOLS, label))


def _by_label(decision: Decision) -> dict[Any, Any]:
    """Label -> gene where Python tells the labels apart; empty where it does not (1 and 1.0), for the slow way."""
    if decision.point.range:
        return _Floats()
    if len(set(decision.labels)) < len(decision.point.distinct_candidates):
        return {}
    if any(label in (0, 1) for label in decision.labels):
        return _Strict(decision.labels, decision.point.canonical)
    return dict(zip(decision.labels, decision.point.canonical, strict=True))


def _by_number(decision: Decision) -> dict[Any, Any]:
    """Index -> canonical index; 3.0 finds 3."""
    return _Floats() if decision.point.range else dict(enumerate(decision.point.canonical))


def _has(table: dict[Any, Any], number: Any) -> bool:
    if type(number) in _BOOLS:
        return False
    try:
        table[number]
    except (KeyError, TypeError):
        return False
    return True
