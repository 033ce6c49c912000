"""The two searches without a memory of quality: the baselines that every other must beat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas.errors import AlgorithmError
from nas.search.base import Algorithm, Exhausted, Finished, History

if TYPE_CHECKING:
    from nas.space import Arch, Space

LARGEST = 10_000_000


class RandomSearch(Algorithm):
    """Archs drawn as `Space.sample` draws them, without repeats.

    Args:
        seed: names the sequence of random numbers.
    """

    name = "random"

    def _ask(self, n: int) -> list[Arch]:
        return self._fill(n, self.space.sample)

    def _tell(self, trials: Sequence[Finished]) -> None:
        """What became of an arch does not matter here."""

    def _restore(self, history: History, rows: NDArray[np.int64]) -> None:
        """Neither does it here."""


class Exhaustive(Algorithm):
    """Every arch of the space once, in the order of `Space.enumerate`.

    For spaces of at most 10 million archs whose choices are all discrete.
    """

    name = "exhaustive"

    def __init__(self) -> None:
        super().__init__()
        self._archs: Iterator[Arch] | None = None

    def _check(self, space: Space) -> None:
        if space.floats:
            raise AlgorithmError(
                f"exhaustive was given space {space.name!r} with {space.floats} continuous decisions; "
                "it enumerates discrete choices only, so use random or replace floatv by oneof"
            )
        if space.size > LARGEST:
            raise AlgorithmError(
                f"exhaustive was given space {space.name!r} of {space.shown_size} archs; it takes at most {LARGEST:,}, "
                "so use regularized-evolution, nsga2 or random"
            )

    def _ask(self, n: int) -> list[Arch]:
        if self._archs is None:
            self._archs = self.space.enumerate()
        archs: list[Arch] = []
        for arch in self._archs:
            if self._take(arch):
                archs.append(arch)
                if len(archs) == n:
                    break
        if not archs:
            raise Exhausted(f"all {self._size} archs of space {self.space.name!r} are known")
        return archs

    def _tell(self, trials: Sequence[Finished]) -> None:
        """What became of an arch does not matter here."""

    def _restore(self, history: History, rows: NDArray[np.int64]) -> None:
        """Neither does it here."""
