"""Sampling archs by what they cost: a group of similar cost first, then one of it."""

from __future__ import annotations

import math
import random
from bisect import bisect
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from nas.checking import Count, NonNegative, Positive, checked
from nas.errors import TrainError
from nas.identity import IDENTITY, identity
from nas.train.samplers import Sampler

if TYPE_CHECKING:
    from nas.space import Arch, Space

LARGEST = 100_000
"""Archs of a space that may be enumerated for it."""


class Bucketed(Sampler):
    """Resource-constrained sampling: `n` archs a step, each from a group of similar cost that is drawn first.

    All archs are sorted by cost; a new group is opened where the cost exceeds that of the group's first by more than
    `width`.  A group is drawn uniformly, then an arch uniformly within it, so that costs which many archs share are not
    trained more often than others (ROS: Pan et al. 2023, "Stitched ViTs are Flexible Vision Backbones", with
    `width=1e9` operations).  With `tilt`, group i of G (0 the cheapest) has a weight of i / tilt + 1 / G.

    Costs are computed once for a space, so `cost` must not change with training: `supernet.macs`, `supernet.params`, a table.

    Args:
        cost: of an arch; any finite number.
        width: of a group, in units of the cost; not negative.
        n: archs a step, each drawn independently.
        tilt: favours dear groups the more the smaller it is; None draws groups uniformly.

    Raises:
        TrainError: an argument is not what it must be.
    """

    @checked(TrainError)
    def __init__(
        self, cost: Callable[[Arch], float], width: NonNegative, *, n: Count = 1, tilt: Positive | None = None
    ) -> None:
        self.cost, self.width, self.n, self.tilt = cost, width, n, tilt
        self._known: tuple[str, list[list[Arch]]] | None = None

    def groups(self, space: Space) -> list[list[Arch]]:
        """The archs of `space` in groups, the cheapest first; worked out once.

        Raises:
            TrainError: the space is too large or has float decisions, or a cost is no finite number.
        """
        if self._known is None or self._known[0] != space.fingerprint:
            self._known = space.fingerprint, self._grouped(space)
        return self._known[1]

    def _grouped(self, space: Space) -> list[list[Arch]]:
        if space.floats or space.size > LARGEST:
            raise TrainError(
                f"Bucketed sorts all archs by cost, and space {space.name!r} has "
                f"{'float decisions' if space.floats else f'more than {LARGEST:,}'}; use Uniform or Sandwich"
            )
        priced = [(self._price(arch), arch) for arch in space.enumerate()]
        priced.sort(key=lambda pair: pair[0])
        groups: list[list[Arch]] = []
        start = -math.inf
        for price, arch in priced:
            if price - start > self.width:
                start = price
                groups.append([])
            groups[-1].append(arch)
        return groups

    def _price(self, arch: Arch) -> float:
        price = self.cost(arch)
        if not isinstance(price, (int, float)) or not math.isfinite(price):
            raise TrainError(f"the cost of arch {arch.choices} is {price!r}, and Bucketed needs a finite number")
        return price

    def archs(self, space: Space, step: int, rng: random.Random) -> list[Arch]:  # noqa: ARG002
        """Drawn independently; fewer where the same arch was drawn twice."""
        groups = self.groups(space)
        heights = list(accumulate(self.weights(len(groups))))
        return list(dict.fromkeys(rng.choice(_draw(groups, heights, rng)) for _ in range(self.n)))

    def weights(self, groups: int) -> list[float]:
        """How often each of so many groups is drawn, relative to one another."""
        if self.tilt is None:
            return [1.0] * groups
        return [group / self.tilt + 1 / groups for group in range(groups)]

    def describe(self) -> dict[str, Any]:
        """Options, and what the cost is."""
        name = getattr(self.cost, "__qualname__", type(self.cost).__qualname__)
        options = {"cost": name, "width": self.width, "n": self.n, "tilt": self.tilt}
        return {"class": "Bucketed", **options, IDENTITY: {"cost": identity(self.cost)}}


def _draw(groups: Sequence[list[Arch]], heights: Sequence[float], rng: random.Random) -> list[Arch]:
    place = bisect(heights, rng.random() * heights[-1])
    return groups[min(place, len(groups) - 1)]
