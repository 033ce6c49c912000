"""Archs that somebody chose, evaluated one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.checking import checked
from nas.errors import AlgorithmError, SpaceError
from nas.search.base import Algorithm, Exhausted, Finished, History

if TYPE_CHECKING:
    from nas.space import Arch, Space


class Given(Algorithm):
    """The archs of a list in their order, each once: to measure what another search, a person or a rule chose.

    Args:
        archs: archs, or their choices by decision (`arch.choices`).

    Raises:
        AlgorithmError: there is none; or, when it is bound, the space has one of them not, or a rule forbids it.
    """

    name = "given"

    @checked(AlgorithmError, called="name")
    def __init__(self, archs: Sequence[Arch | Mapping[str, Any]] = ()) -> None:
        super().__init__()
        self.archs = [dict(one) if isinstance(one, Mapping) else one.choices for one in archs]

    def _check(self, space: Space) -> None:
        if not self.archs:
            raise AlgorithmError("given has no archs to evaluate; give some, as in Given([arch, {'width': 8, …}])")
        for choices in self.archs:
            try:
                arch = space.arch(choices)
            except SpaceError as error:
                raise AlgorithmError(f"given has an arch that space {space.name!r} has not: {error}") from None
            if not space.allows(arch):
                raise AlgorithmError(f"given has the arch {choices}, which a rule of space {space.name!r} forbids")

    def _ask(self, n: int) -> list[Arch]:
        found: list[Arch] = []
        for choices in self.archs:
            arch = self.space.arch(choices)
            if len(found) < n and self._take(arch):
                found.append(arch)
        if not found:
            raise Exhausted(f"all {len(self.archs)} archs that were given are known")
        return found

    def _tell(self, trials: Sequence[Finished]) -> None:
        """What became of an arch does not matter here."""

    def _restore(self, history: History, rows: NDArray[np.int64]) -> None:
        """Neither does it here."""
