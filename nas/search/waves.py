"""The archs that a model proposes between two results, the best first, each the less welcome for its likes under way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from nas.search.beliefs import Beliefs

if TYPE_CHECKING:
    from nas.space import Arch

COMPARED = 64  # candidates, those of largest gain alone, that are compared for each proposal
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
        self._short = list(short.values())
        self._view = beliefs.view(self._short)
        self._view.know_all(known.get(key, {}) for key in short)
        self._first = len(known)  # archs of which most is known
        self._alone = self._view.gains()
        self._free = np.array([key not in waiting for key in short], dtype=bool)
        self._next_mutants = iter([arch for key, arch in mutants.items() if key not in waiting])
        self._view.ask(list(waiting.values()))

    def next(self, mutant: bool, under_way: int) -> Arch | None:
        """The arch of largest gain, or the next mutant, which is under way from now on; None if there is none left."""
        if mutant:
            arch = next(self._next_mutants, None)
            if arch is not None and under_way < WAITING:
                self._view.ask([arch])
            return arch
        at = self._best(under_way)
        if at is None:
            return None
        if under_way < WAITING:
            self._view.ask_candidate(at)
        return self._short[at]

    def _best(self, under_way: int) -> int | None:
        free = np.flatnonzero(self._free)
        if not len(free):
            return None
        free = free[free < self._first] if (free < self._first).any() else free
        if under_way > WAITING:
            gains = self._alone[free]
        else:
            # What is under way near a candidate makes it the less welcome; of those that were never welcome none gets to be.
            free = free[np.sort(np.argsort(-self._alone[free], kind="stable")[:COMPARED])]
            gains = self._view.gains(free)
        # Rounded, so that the order in which archs went under way, which moves the last digits, decides nothing.
        top = gains.max()
        at = int(free[np.argmax(np.round(gains / top, 9))]) if top > 0 else int(free[0])
        self._free[at] = False
        return at
