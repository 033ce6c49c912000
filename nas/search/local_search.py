"""Local search: the neighbours of the best, and again from elsewhere when none of them is better.

White, Nolen, Savani 2021, "Exploring the Loss Landscape in Neural Architecture Search" (local search from the best of a few
random archs); Paquete, Chiarandini, Stützle 2004, "Pareto Local Optimum Sets in the Biobjective Traveling Salesman Problem"
(the neighbours of a whole front).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas.checking import checked
from nas.errors import AlgorithmError
from nas.pareto import Front
from nas.search.base import Algorithm, Finished, History, State, violation
from nas.search.options import whole

if TYPE_CHECKING:
    import random

    from nas.space import Arch, Space

_STRIDES = (-0.1, 0.1, -0.01, 0.01)  # neighbours of a float: steps of a tenth and a hundredth of its scaled range


@dataclass
class _Member:
    """An arch whose neighbours are looked at."""

    neighbours: list[Arch]
    left: set[str]  # keys of those that have not finished
    closed: bool = False  # whether none of them can be proposed any more


class LocalSearch(Algorithm):
    """Proposes neighbours of the front: archs that differ from one of its members in one decision.

    It starts from the front (with one objective: the best) of `start` random archs.  When every neighbour of every member has
    finished and the front is still the same, it starts again from other random archs.  While nothing feasible is known the
    front is the arch that violates the constraints least.

    Args:
        start: random archs before the first step, and before the first one after a restart.
        seed: names the sequence of random numbers.

    Raises:
        AlgorithmError: an option is not what it must be.
    """

    name = "local-search"

    @checked(AlgorithmError, called="name")
    def __init__(self, start: int = 10, seed: int = 0) -> None:
        super().__init__(seed)
        self.start = whole(self.name, "start", start, 1)
        self._done: set[str] = set()
        self._restart()

    def _restart(self) -> None:
        self._finished = 0  # trials since the last restart
        self._members: dict[int, _Member] = {}
        self._front: Front | None = None
        self._least = float("inf")  # violation of the only member, 0.0 when the members are feasible

    def _ask(self, n: int) -> list[Arch]:
        return self._fill(n, self._draw)

    def _draw(self, rng: random.Random) -> Arch:
        if self._finished >= self.start:
            open_members = [member for member in self._members.values() if not self._is_closed(member)]
            if open_members:
                return self._unknown(open_members[int(rng.random() * len(open_members))], rng)
        return self.space.sample(rng)  # at a start; and while the last neighbours are under way

    def _is_closed(self, member: _Member) -> bool:
        """Whether all neighbours were proposed.  A function of what is known, so that a search that is rebuilt draws the same."""
        member.closed = member.closed or all(key in self._seen for key in member.left)
        return member.closed

    def _unknown(self, member: _Member, rng: random.Random) -> Arch:
        """A neighbour that was never proposed, of a member that has one."""
        count = len(member.neighbours)
        first = int(rng.random() * count)
        around = (member.neighbours[at % count] for at in range(first, first + count))
        return next(arch for arch in around if arch.key not in self._seen)

    def _tell(self, trials: Sequence[Finished]) -> None:
        for trial in trials:
            values = None if trial.values is None else list(trial.values)
            self._take_in(trial.arch.key, trial.state, values, violation(trial), lambda trial=trial: trial.arch)  # type: ignore[misc]

    def _take_in(
        self, key: str, state: State, values: Sequence[float] | None, violated: float, arch: Callable[[], Arch]
    ) -> None:
        """One more trial has finished."""
        self._done.add(key)
        for member in self._members.values():
            member.left.discard(key)
        self._finished += 1
        number = len(self._done)
        if state != "FAILED" and self._enters(number, values, violated):
            neighbours = list(_neighbours(self.space, arch()))
            left = {neighbour.key for neighbour in neighbours}
            self._members[number] = _Member(neighbours, left - self._done)
        if self._finished >= self.start and not any(member.left for member in self._members.values()):
            self._restart()

    def _enters(self, number: int, values: Sequence[float] | None, violated: float) -> bool:
        """Whether a trial becomes a member; those that it is better than are members no more."""
        if violated:
            if violated >= self._least:
                return False
            self._members, self._least = {}, violated
            return True
        assert values is not None
        if self._front is None:
            self._members, self._least, self._front = {}, 0.0, Front(len(self.objectives))
        entered, evicted = self._front.add(number, values)
        for gone in evicted:
            del self._members[gone]
        return entered

    def _restore(self, history: History, rows: NDArray[np.int64]) -> None:
        """As `_tell`; only members become archs."""
        for row in rows.tolist():
            values, state, over = history.values[row], history.states[row], float(history.violations[row])
            measured = None if np.isnan(values).any() else values.tolist()
            violated = 0.0 if state == "COMPLETED" and over <= 0 else over if over > 0 else float("inf")
            self._take_in(history.keys[row], state, measured, violated, lambda row=row: history.archs[row])  # type: ignore[misc]


def _neighbours(space: Space, arch: Arch) -> Iterator[Arch]:
    """Every arch that differs in one decision."""
    yield from space.neighbours(arch)
    for decision in space.decisions:
        range_, value = decision.point.range, arch.genome[decision.index]
        if range_ is None or value is None:
            continue
        for stride in _STRIDES:
            genome = list(arch.genome)
            genome[decision.index] = range_.value(min(max(range_.unit(value) + stride, 0.0), 1.0))
            if genome[decision.index] != value and space.allows(near := space.from_row(genome)):
                yield near
