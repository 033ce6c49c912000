"""NSGA-II, asynchronous by default.

Deb, Pratap, Agarwal, Meyarivan 2002, "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II".
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import le
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nas.checking import checked
from nas.errors import AlgorithmError
from nas.search.base import Algorithm, Finished, History, is_feasible, violation
from nas.search.options import fraction, switch, whole
from nas.search.selection import survivors
from nas.search.steps import mutated

if TYPE_CHECKING:
    import random

    from nas.space import Arch, Space


class _Pool(NamedTuple):
    """Columns of solutions: who they are, how good, how far from feasible, and how lonely (crowding distance)."""

    who: NDArray[np.int64]
    values: NDArray[np.float64]
    violations: NDArray[np.float64]
    room: NDArray[np.float64]


class _Parent(NamedTuple):
    """A row of the pool of survivors."""

    arch: Arch
    values: tuple[float, ...]
    violation: float
    room: float

    def beats(self, other: _Parent) -> bool:
        """Whether it wins a tournament in which it was drawn first."""
        if self.violation or other.violation:
            return self.violation <= other.violation
        if self.values != other.values:
            if all(map(le, self.values, other.values)):
                return True
            if all(map(le, other.values, self.values)):
                return False
        return self.room >= other.room


class NSGA2(Algorithm):
    """Parents by binary tournament, crossover, mutation; the best `population` by constrained rank, then room, survive.

    A tournament is won by the smaller violation, else by dominance, else by room.  So do the authors' own program and
    pymoo; comparing ranks first, as the paper has it, gave smaller hypervolumes on discrete landscapes.

    The survivors are chosen anew whenever `population` trials have finished since the last time, from the parents and these
    trials together: as dear as the generational method, without its barrier.  Until the first time, archs are sampled at
    random.  Of equally good archs the younger survives.

    Args:
        population: how many survive, and how many finished trials make a generation.
        crossover: probability that a child has two parents.
        mutation: probability that a decision of a child mutates; None for 1 / decisions.
        seed: names the sequence of random numbers.
        synchronous: whether a generation waits for the one before: `ask` returns `[]` while the last trials of a generation are
            under way.  Then proposals depend neither on the number of workers nor on who finishes first.
        regrow: probability that a mutation draws a decision anew with all that hangs on it (`Space.regrow`), as in a grammar.

    Raises:
        AlgorithmError: an option is not what it must be.
    """

    name = "nsga2"
    regrow: float
    """There only where subtrees are regrown: studies that were begun without are compared as before."""

    @checked(AlgorithmError, called="name")
    def __init__(
        self,
        population: int = 100,
        crossover: float = 0.9,
        mutation: float | None = None,
        seed: int = 0,
        synchronous: bool = False,
        *,
        regrow: float = 0.0,
    ) -> None:
        super().__init__(seed)
        self._regrow = fraction(self.name, "regrow", regrow)
        if self._regrow > 0:
            self.regrow = self._regrow
        self.population = whole(self.name, "population", population, 2)
        self.crossover = fraction(self.name, "crossover", crossover)
        self.mutation = None if mutation is None else fraction(self.name, "mutation", mutation, above=0.0)
        self.synchronous = switch(self.name, "synchronous", synchronous)
        self._generations = 0
        self._arrivals: list[Finished] = []  # finished since the survivors were chosen, at most `population`
        self._parents: list[_Parent] = []
        self._pool: _Pool | None = None  # the parents as columns; `who` is their position in `_parents`

    def _check(self, space: Space) -> None:
        decisions = max(1, len(space.decisions))
        self._rate = 1 / decisions if self.mutation is None else self.mutation
        # `Space.mutate` changes at least one decision, so that it is called as often as one or more of them would change.
        self._mutates = 1 - (1 - self._rate) ** decisions

    def _ask(self, n: int) -> list[Arch]:
        if self.synchronous:
            n = min(n, (self._generations + 1) * self.population - self.known)
            if n <= 0:
                return []
        return self._fill(n, self._draw)

    def _draw(self, rng: random.Random) -> Arch:
        if not self._parents:
            return self.space.sample(rng)
        child = self._parent(rng)
        if rng.random() < self.crossover:
            child = self.space.crossover(child, self._parent(rng), rng)
        if rng.random() < self._mutates:
            child = mutated(child, rng, self._regrow, self._rate)
        return child

    def _parent(self, rng: random.Random) -> Arch:
        parents = self._parents
        one, other = parents[int(rng.random() * len(parents))], parents[int(rng.random() * len(parents))]
        return one.arch if one.beats(other) else other.arch

    def _tell(self, trials: Sequence[Finished]) -> None:
        for trial in trials:
            self._arrivals.append(trial)
            if len(self._arrivals) == self.population:
                self._select()

    def _select(self) -> None:
        """Chooses the survivors among the parents and the arrivals."""
        alive = [trial for trial in self._arrivals if trial.state != "FAILED"]
        if self.synchronous:
            alive.sort(key=lambda trial: trial.number)
        archs = [parent.arch for parent in self._parents] + [trial.arch for trial in alive]
        unmeasured = (np.nan,) * len(self.objectives)
        values = [trial.values if is_feasible(trial) and trial.values else unmeasured for trial in alive]
        arrivals = _columns(
            np.arange(len(self._parents), len(archs)),
            np.array(values, dtype=np.float64).reshape(-1, len(self.objectives)),
            np.array([violation(trial) for trial in alive], dtype=np.float64),
        )
        self._arrivals = []
        self._generations += 1
        self._settle(_survive(self._pool, arrivals, self.population), archs)

    def _settle(self, pool: _Pool, archs: Sequence[Arch]) -> None:
        """Makes `pool`, whose `who` are positions in `archs`, the parents."""
        values = map(tuple, pool.values.tolist())
        columns = zip(pool.who.tolist(), values, pool.violations.tolist(), pool.room.tolist(), strict=True)
        self._parents = [_Parent(archs[who], *rest) for who, *rest in columns]
        self._pool = pool._replace(who=np.arange(len(self._parents)))

    def _restore(self, history: History, rows: NDArray[np.int64]) -> None:
        """As `_tell`, on columns: only the last survivors become archs."""
        states = np.asarray(history.states)
        violations = np.where(history.violations > 0, history.violations, np.inf)
        violations[(states == "COMPLETED") & ~(history.violations > 0)] = 0.0
        alive = states != "FAILED"
        whole_generations = len(rows) // self.population
        pool: _Pool | None = None
        for generation in range(whole_generations):
            new = rows[generation * self.population : (generation + 1) * self.population]
            new = new[alive[new]]
            if self.synchronous:
                new = new[np.argsort(history.numbers[new], kind="stable")]
            pool = _survive(pool, _columns(new, history.values[new], violations[new]), self.population)
        self._generations = whole_generations
        if pool is not None:
            self._settle(pool, history.archs)
        self._tell([history.trial(row) for row in rows[whole_generations * self.population :].tolist()])


def _columns(who: NDArray[np.int64], values: NDArray[np.float64], violations: NDArray[np.float64]) -> _Pool:
    return _Pool(who, values, violations, np.zeros(len(who)))


def _survive(parents: _Pool | None, arrivals: _Pool, size: int) -> _Pool:
    """The best `size` of both; arrivals first, so that of equals the younger survives."""
    pool = arrivals
    if parents is not None:
        pool = _Pool(
            np.concatenate([arrivals.who, parents.who]),
            np.concatenate([arrivals.values, parents.values]),
            np.concatenate([arrivals.violations, parents.violations]),
            np.concatenate([arrivals.room, parents.room]),
        )
    rows, room = survivors(pool.values, pool.violations, size)
    return _Pool(pool.who[rows], pool.values[rows], pool.violations[rows], room)
