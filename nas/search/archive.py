"""What a model-based search remembers of a study: a bounded number of trials, and every point of the front."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import cache, partial
from math import inf, isfinite, nan
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nas.pareto import Front
from nas.search.base import Finished, History, State, is_feasible, violation
from nas.search.selection import constrained_ranks

if TYPE_CHECKING:
    from nas.space import Arch

Floats = NDArray[np.float64]

LATELY = 32  # trials that say whether the front is moving
LEAST = 20  # archs that are bred while none is feasible


class Seen(NamedTuple):
    """Trials as columns."""

    archs: Sequence[Arch]
    values: Floats
    """(n, m) minimised objectives; NaN where they were not measured."""
    violations: Floats
    """(n,) 0.0 where feasible, or below where it is known by how much; inf where it failed."""


class Kept(NamedTuple):
    """A finished trial whose arch is made when it is wanted: reopening a study needs a few hundred, not all."""

    key: str
    arch: Callable[[], Arch]
    values: tuple[float, ...] | None
    """Minimised and finite, where they were measured."""
    violation: float
    feasible: bool

    @classmethod
    def of(cls, trial: Finished) -> Kept:
        """A trial as it was told."""
        arch = trial.arch
        return cls(arch.key, lambda: arch, _measured(trial.values, trial.state), violation(trial), is_feasible(trial))

    @classmethod
    def row(cls, history: History, row: int) -> Kept:
        """A trial of a stored history."""
        state, far = history.states[row], float(history.violations[row])
        values: tuple[float, ...] = tuple(history.values[row].tolist())
        feasible = state == "COMPLETED" and far <= 0
        return cls(
            history.keys[row],
            cache(partial(history.archs.__getitem__, row)),
            _measured(values, state),
            0.0 if feasible else far if far > 0 else inf,
            feasible,
        )


class Archive:
    """Trials that a model learns from.  It depends on the trials and their order, never on how many were told at a time.

    At most 1.5 · `capacity` are held.  When that is reached, `capacity` stay: half of them the best by constrained rank, the
    others a uniform sample of all that were ever told (those with the smallest keys, which are hashes).

    Args:
        objectives: how many there are.
        capacity: of the archive.
    """

    def __init__(self, objectives: int, capacity: int) -> None:
        self.told = 0
        self._entered: deque[bool] = deque(maxlen=LATELY)
        self._capacity = capacity
        self._front = Front(objectives)
        self._objectives = objectives
        self._best: dict[int, Callable[[], Arch]] = {}  # archs of the front, by when they were told
        self._trials: list[Kept] = []

    def add(self, trial: Kept) -> None:
        """Takes one finished trial."""
        self.told += 1
        entered = False
        if trial.feasible and trial.values is not None:
            entered, evicted = self._front.add(self.told, trial.values)
            if entered:
                self._best[self.told] = trial.arch
            for key in evicted:
                del self._best[key]
        self._entered.append(entered)
        self._trials.append(trial)
        if len(self._trials) >= self._capacity + self._capacity // 2:
            self._trials = self._chosen(self._capacity)

    @property
    def progress(self) -> int:
        """How many of the last `LATELY` trials entered the front."""
        return sum(self._entered)

    @property
    def front(self) -> Floats:
        """(k, m) points of the front."""
        return self._front.points.reshape(-1, self._objectives)

    @property
    def front_archs(self) -> list[Arch]:
        """The archs of the front, in the order of `front`."""
        return [self._best[key]() for key in self._front.keys]

    @property
    def parents(self) -> list[Arch]:
        """The archs of the front; while there is none, those that violate the constraints least."""
        if self._best:
            return self.front_archs
        return [trial.arch() for trial in sorted(self._trials, key=lambda trial: trial.violation)[:LEAST]]

    def seen(self, most: int) -> Seen:
        """The best `most` trials and a sample of the others, or all if they are no more."""
        trials = self._trials if len(self._trials) <= most else self._chosen(most)
        return Seen([trial.arch() for trial in trials], self._values(trials), _violations(trials))

    def later(self, most: int) -> Callable[[], Seen]:
        """`seen` of now, whose archs are made when it is called."""
        trials = list(self._trials) if len(self._trials) <= most else self._chosen(most)
        return lambda: Seen([trial.arch() for trial in trials], self._values(trials), _violations(trials))

    def _values(self, trials: Sequence[Kept]) -> Floats:
        unknown = (nan,) * self._objectives
        values = [unknown if trial.values is None else trial.values for trial in trials]
        return np.array(values, dtype=np.float64).reshape(-1, self._objectives)

    def _chosen(self, count: int) -> list[Kept]:
        """Trials that stay, in the order in which they were told."""
        values, violations = self._values(self._trials), _violations(self._trials)
        unknown = (violations <= 0) & np.isnan(values).any(1)  # an infinite value, of a feasible trial
        rank, room = constrained_ranks(values, np.where(unknown, inf, violations))
        order = [int(at) for at in np.lexsort((-room, rank))]
        best, others = order[: count // 2], order[count // 2 :]
        others.sort(key=lambda at: self._trials[at].key)
        return [self._trials[at] for at in sorted(best + others[: count - len(best)])]


def _violations(trials: Sequence[Kept]) -> Floats:
    return np.array([trial.violation for trial in trials], dtype=np.float64)


def _measured(values: tuple[float, ...] | None, state: State) -> tuple[float, ...] | None:
    """Values that a model of the objectives can learn from."""
    return values if values is not None and state != "FAILED" and all(map(isfinite, values)) else None
