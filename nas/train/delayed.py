"""Delayed shrinking: the largest arch alone first, its subnets later and softly.

Annavajjala et al. 2024, "DεpS: Delayed ε-Shrinking for Faster Once-For-All Training": shrinking begins when the full model is
partially trained (`Delayed`), and the subnets' learning rate rises slowly from a small value (`Ramped`).  Their teacher is the
full model as it is at each step (`InPlace`), as in the authors' program (gatech-sysml/DepS): since shrinking begins late, it is a
good one at once, and gets better (IKD-Warmup).  To teach with what it was earlier, too, is ours (`nas.train.snapshots`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nas.checking import Count, Natural, checked
from nas.errors import TrainError
from nas.train.losses import Around, Loss, Step
from nas.train.samplers import Sampler
from nas.train.task import Batch

if TYPE_CHECKING:
    from nas.space import Arch, Space
    from nas.supernet import Supernet


@checked(TrainError)
@dataclass(frozen=True)
class Delayed(Sampler):
    """The largest arch alone for `start` steps, then what `sampler` chooses; its own steps are counted from there.

    Args:
        sampler: chooses the archs of the later steps.
        start: first step that it chooses for; about half of a training.
    """

    sampler: Sampler
    start: Count

    def archs(self, space: Space, step: int, rng: random.Random) -> list[Arch]:
        """The largest, or the sampler's."""
        return [space.largest] if step < self.start else self.sampler.archs(space, step - self.start, rng)

    def begin(self, supernet: Supernet, optimizer: torch.optim.Optimizer, step: int) -> None:
        """The sampler's, once it has begun."""
        if step >= self.start:
            self.sampler.begin(supernet, optimizer, step - self.start)

    def check(self, steps: int) -> None:
        """The sampler's, for the steps that are left to it."""
        self.sampler.check(steps - self.start)

    def describe(self) -> dict[str, Any]:
        """Name, start, and the sampler's own."""
        return {"class": "Delayed", "sampler": self.sampler.describe(), "start": self.start}


@checked(TrainError)
@dataclass(frozen=True)
class Ramped(Around):
    """`loss`, weighing less for subnets until they have been trained for a while; the largest arch's is never changed.

    The weight rises linearly from `least` at step `start` to 1 at `start + steps`.  The paper raises the subnets' learning rate;
    a step here is one update for the sum of its archs' gradients, to which a weight of a subnet's loss is the same for SGD.

    Args:
        loss: any.
        start: as that of `Delayed`.
        steps: of the rise.
        least: weight at `start`; below 1.
    """

    loss: Loss
    start: Natural
    steps: Count
    least: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 <= self.least < 1.0:
            raise TrainError(f"Ramped has least={self.least}; it is a fraction from 0 to below 1")

    def weight(self, step: int) -> float:
        """Of a subnet's loss at step 0, 1, …"""
        return self.least + (1.0 - self.least) * min(1.0, max(0.0, (step - self.start) / self.steps))

    def __call__(self, output: Any, batch: Batch, step: Step) -> Tensor:
        """The loss's, weighed."""
        value = self.loss(output, batch, step)
        return value if step.arch == step.space.largest else self.weight(step.number) * value

    def describe(self) -> dict[str, Any]:
        """Options, and the loss's own."""
        options = {"start": self.start, "steps": self.steps, "least": self.least}
        return {"class": "Ramped", "loss": self.loss.describe(), **options}
