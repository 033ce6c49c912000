"""Proposals of a distribution over archs that was learnt elsewhere: a policy that was trained beside a supernet's weights."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas.checking import Count, checked
from nas.choosing.distribution import Distribution
from nas.errors import AlgorithmError, SpaceError
from nas.search.base import TRIES, Algorithm, Finished, History
from nas.search.steps import beside

if TYPE_CHECKING:
    from nas.space import Arch, Space


class PolicySearch(Algorithm):
    """The likeliest arch of a policy, then archs that are drawn from it, each once.

    >>> nas.Study(algorithm=nas.PolicySearch(policy.logits))  # doctest: +SKIP

    What became of them changes nothing: the policy is what its training left (`nas.Policy`), and a study says how good its archs
    are.  Where its draws are known already, an arch beside one of them is proposed.

    Args:
        logits: decision name -> a number for each option, of all decisions, as `Policy.logits`.
        bins: equal parts of a continuous decision, as the policy's.
        seed: names the sequence of random numbers.

    Raises:
        AlgorithmError: when it is bound, the space has other decisions, or another number of options for one.
    """

    name = "policy"

    @checked(AlgorithmError, called="name")
    def __init__(self, logits: Mapping[str, Sequence[float]] | None = None, bins: Count = 10, *, seed: int = 0) -> None:
        super().__init__(seed)
        self.logits = {name: [float(one) for one in numbers] for name, numbers in (logits or {}).items()}
        self.bins = bins

    def _check(self, space: Space) -> None:
        if lacking := [name for name in space.names if name not in self.logits]:
            raise AlgorithmError(
                f"policy has no logits for {lacking[0]!r} of space {space.name!r}; give PolicySearch(policy.logits) of a policy "
                "that was trained on it"
            )
        try:
            self._distribution = Distribution(space, self.logits, self.bins)
        except SpaceError as error:
            raise AlgorithmError(f"policy was trained on another space: {error}") from None

    def _ask(self, n: int) -> list[Arch]:
        return self._fill(n, self._draw)

    def _draw(self, rng: random.Random) -> Arch:
        arch = self._distribution.likeliest()
        for _ in range(TRIES):
            if arch.key not in self._seen and self.space.allows(arch):
                return arch
            arch = self._distribution.draw(rng)
        return beside(arch, self._seen, rng)

    def _tell(self, trials: Sequence[Finished]) -> None:
        """What became of an arch changes nothing."""

    def _restore(self, history: History, rows: NDArray[np.int64]) -> None:
        """Nor does it here."""
