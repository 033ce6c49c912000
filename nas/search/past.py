"""What an algorithm remembers of the finished trials, and which of them it trains a predictor on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from nas.search.base import Finished, History


class Past:
    """Finished trials in the order in which they finished; those of a stored history become objects when they are looked at."""

    def __init__(self) -> None:
        self._history: History | None = None
        self._rows: Sequence[int] = ()
        self._tail: list[Finished] = []

    def begin(self, history: History, rows: NDArray[np.int64]) -> None:
        """Starts with `rows` of a stored history."""
        assert not len(self), "a past begins once"
        self._history, self._rows = history, rows.tolist()

    def append(self, trial: Finished) -> None:
        """One more trial has finished."""
        self._tail.append(trial)

    def __len__(self) -> int:
        return len(self._rows) + len(self._tail)

    def __getitem__(self, at: int) -> Finished:
        if at < len(self._rows):
            assert self._history is not None
            return self._history.trial(self._rows[at])
        return self._tail[at - len(self._rows)]

    def keys(self, end: int) -> set[str]:
        """Keys of the first `end` archs."""
        stored = self._rows[:end]
        found = {trial.arch.key for trial in self._tail[: max(0, end - len(stored))]}
        if self._history is not None:
            found.update(self._history.keys[row] for row in stored)
        return found

    def training(self, end: int, cap: int) -> list[Finished]:
        """At most `cap` of the first `end` trials, without the failed ones: see `spread`."""
        return alive(self[at] for at in spread(end, cap))


def spread(end: int, cap: int) -> list[int]:
    """Which `cap` of `end` trials a predictor is trained on: the youngest half, and the other half evenly over all before.

    The young ones are where the search is now; the rest keep the predictor from forgetting what the other regions are like.
    The choice depends on the two numbers only, so a rebuilt algorithm makes it again, and a fit costs the same at any length
    of the history.

    >>> spread(10, 4)
    [0, 7, 8, 9]
    """
    if end <= cap:
        return list(range(end))
    young = (cap + 1) // 2
    old = np.linspace(0, end - young - 1, cap - young).astype(int).tolist()
    return [*old, *range(end - young, end)]


def alive(trials: Iterable[Finished]) -> list[Finished]:
    """`trials` without those that failed, which say nothing of an arch."""
    return [trial for trial in trials if trial.state != "FAILED"]
