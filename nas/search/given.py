"""Archs that somebody chose, evaluated one after the other, and a search that begins with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.checking import checked
from nas.errors import AlgorithmError, SpaceError
from nas.search.base import Algorithm, Exhausted, Finished, History
from nas.search.inner import inner, restored
from nas.search.insight import Insight

if TYPE_CHECKING:
    from nas.metrics import Constraint, Metric
    from nas.space import Arch, Space


class Given(Algorithm):
    """The archs of a list in their order, each once: to measure what another search, a person or a rule chose.

    With `then` a search goes on from them: it is told what became of them as of its own, so that a population, or a model,
    begins with what is known to be good.

    Args:
        archs: archs, or their choices by decision (`arch.choices`).
        then: proposes when all of them were asked: an algorithm, its name, or what it describes itself as; None ends there.

    Raises:
        AlgorithmError: there is none; or, when it is bound, the space has one of them not, or a rule forbids it.
    """

    name = "given"
    then: Algorithm
    """There only where something comes then: studies that were begun without are compared as before."""

    @checked(AlgorithmError, called="name")
    def __init__(
        self,
        archs: Sequence[Arch | Mapping[str, Any]] = (),
        then: str | Algorithm | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.archs = [dict(one) if isinstance(one, Mapping) else one.choices for one in archs]
        self._next = None if then is None else inner(then, 0, self)
        if self._next is not None:
            self.then = self._next

    def describe(self) -> dict[str, Any]:
        """See `Algorithm.describe`."""
        then = {} if self._next is None else {"then": self._next.describe()}
        return {"name": self.name, "archs": self.archs, **then}

    def inform(self, insight: Insight) -> None:
        """See `Algorithm.inform`: the algorithm inside is told."""
        if self._next is not None:
            self._next.inform(insight)

    def bind(self, space: Space, objectives: Sequence[Metric], constraints: Sequence[Constraint] = ()) -> None:
        """See `Algorithm.bind`."""
        super().bind(space, objectives, constraints)
        if self._next is not None:
            self._next.bind(space, objectives, constraints)

    def reserve(self, archs: Iterable[Arch]) -> None:
        """See `Algorithm.reserve`."""
        archs = list(archs)
        super().reserve(archs)
        if self._next is not None:
            self._next.reserve(archs)

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
        if self._next is not None:
            self._next.reserve(found)
            return found + self._ask_inside(self._next, n - len(found), found) if len(found) < n else found
        if not found:
            raise Exhausted(f"all {len(self.archs)} archs that were given are known")
        return found

    def _tell(self, trials: Sequence[Finished]) -> None:
        if self._next is not None:
            self._next.tell(trials)

    def _restore(self, history: History, rows: NDArray[np.int64]) -> None:  # noqa: ARG002 (what comes then takes all)
        if self._next is not None:
            restored(self._next, history)
