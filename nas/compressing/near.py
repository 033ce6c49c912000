"""Which networks a supernet is trained for when only those about as large as a budget matter."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nas.checking import checked
from nas.compressing.uniform import uniform
from nas.errors import TrainError
from nas.train import Sampler

if TYPE_CHECKING:
    from nas.space import Arch, Space
    from nas.supernet import Supernet

LEAST, MOST = 0.7, 1.4  # times the operations that are aimed at
TRIES = 50


class Near(Sampler):
    """One arch a step, of about as many operations as one of the targets: a uniform arch with some decisions changed.

    A trained network that is cut in half computes nothing of use before it is trained again, so that archs of other sizes
    would only take its steps.

    Args:
        supernet: counts operations.
        targets: multiply-accumulates of one sample, each as often as the others.
    """

    @checked(TrainError)
    def __init__(self, supernet: Supernet, targets: Sequence[float]) -> None:
        if not targets or min(targets) <= 0:
            raise TrainError(f"Near has targets={list(targets)}; give numbers of operations above 0")
        self._supernet, self.targets = supernet, tuple(map(float, targets))

    def archs(self, space: Space, step: int, rng: random.Random) -> list[Arch]:
        """One arch; the uniform one nearest to the target where no other was found."""
        target = self.targets[step % len(self.targets)]
        nearest: tuple[float, Arch] | None = None
        for _ in range(TRIES):
            arch = uniform(space, rng.random())
            off = abs(self._supernet.macs(arch) / target - 1.0)
            if nearest is None or off < nearest[0]:
                nearest = off, arch
            for _ in range(rng.randrange(len(space.decisions))):
                arch = space.mutate(arch, rng)
            if self._supernet.has(arch) and LEAST <= self._supernet.macs(arch) / target <= MOST:
                return [arch]
        assert nearest is not None
        return [nearest[1]]

    def describe(self) -> dict[str, Any]:
        """JSON-able name and targets."""
        return {"class": "Near", "targets": list(self.targets)}
