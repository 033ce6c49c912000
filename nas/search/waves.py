"""The archs that a model proposes between two results, the best first, each the less welcome for its likes under way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas.search.beliefs import Beliefs

if TYPE_CHECKING:
    from nas.space import Arch

WAITING = 256  # archs under way that proposals keep away from; with more, they are chosen as if there were none


class Wave:
    """Archs in the order in which they are proposed as long as nothing is told.

    Args:
        beliefs: of the model.
        short: archs for the model to choose from, by key.
        mutants: archs that take their turn whatever the model says.
        waiting: archs under way.
        known: objectives that were computed of `short`, or of its first; those are proposed first.
    """

    def __init__(
        self,
        beliefs: Beliefs,
        short: Mapping[str, Arch],
        mutants: Mapping[str, Arch],
        waiting: Mapping[str, Arch],
        known: Mapping[str, Mapping[int, float]],
    ) -> None:
        own = {**short, **mutants}
        self._archs = [*own.values(), *waiting.values()]
        self._view = beliefs.view(self._archs)
        self._view.know_all(known.get(key, {}) for key in own)
        self._first = len(known)  # archs of which most is known
        self._alone = self._view.gains()
        self._free = np.array([key not in waiting for key in own] + [False] * len(waiting), dtype=bool)
        self._short = np.arange(len(self._archs)) < len(short)
        for at in range(len(own), len(self._archs)):
            self._view.ask(at)

    def next(self, mutant: bool, under_way: int) -> Arch | None:
        """The arch of largest gain, or the next mutant, which is under way from now on; None if there is none left."""
        free = np.flatnonzero(self._free & (self._short != mutant))
        if not len(free):
            return None
        at = int(free[0]) if mutant else self._best(free, under_way)
        self._free[at] = False
        if under_way < WAITING:
            self._view.ask(at)
        return self._archs[at]

    def _best(self, free: NDArray[np.intp], under_way: int) -> int:
        free = free[free < self._first] if (free < self._first).any() else free
        # Rounded, so that the order in which archs went under way, which moves the last digits, decides nothing.
        gains = (self._view.gains() if under_way <= WAITING else self._alone)[free]
        top = gains.max()
        return int(free[np.argmax(np.round(gains / top, 9))]) if top > 0 else int(free[0])
