"""Which archs a training step trains."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas.checking import Count, Natural, checked
from nas.errors import TrainError
from nas.identity import described

if TYPE_CHECKING:
    import torch

    from nas.space import Arch, Space
    from nas.supernet import Supernet


class Sampler(ABC):
    """Chooses the archs of one step.  A sampler holds no state: the same step and random numbers, the same archs."""

    @abstractmethod
    def archs(self, space: Space, step: int, rng: random.Random) -> list[Arch]:
        """At least one arch, each once.

        Args:
            space: where the archs come from.
            step: 0, 1, …: for samplers that change with time.
            rng: seeded by the training's seed and the step.
        """

    def begin(self, supernet: Supernet, optimizer: torch.optim.Optimizer, step: int) -> None:  # noqa: B027 (most do nothing)
        """Called before each step, before `archs`: may change the weights, as a function of the step and the weights alone."""

    def check(self, steps: int) -> None:  # noqa: B027 (most fit any)
        """Called before the first of `steps` steps of a training.

        Raises:
            TrainError: so many do not fit the sampler.
        """

    def describe(self) -> dict[str, Any]:
        """JSON-able name and options."""
        return described(self)


@checked(TrainError)
@dataclass(frozen=True)
class Uniform(Sampler):
    """`n` random archs a step (single-path one-shot: Guo et al. 2020)."""

    n: Count = 1

    def archs(self, space: Space, step: int, rng: random.Random) -> list[Arch]:  # noqa: ARG002
        """Drawn independently; fewer where the same arch was drawn twice."""
        return list(dict.fromkeys(space.sample(rng) for _ in range(self.n)))


@checked(TrainError)
@dataclass(frozen=True)
class Sandwich(Sampler):
    """The largest, the smallest and `n` random archs a step (Yu & Huang 2019, "Universally Slimmable Networks")."""

    n: Natural = 2

    def archs(self, space: Space, step: int, rng: random.Random) -> list[Arch]:  # noqa: ARG002
        """Largest first, because it may teach the others."""
        return list(dict.fromkeys([space.largest, space.smallest, *(space.sample(rng) for _ in range(self.n))]))


@checked(TrainError)
@dataclass(frozen=True)
class Widened(Sampler):
    """The largest arch alone, with a probability that falls linearly from 1 to 0 over the first `steps`; else another sampler's.

    The warm-up of filters of Bender et al. 2020 ("TuNAS"), before a policy draws.
    """

    sampler: Sampler
    steps: Count

    def archs(self, space: Space, step: int, rng: random.Random) -> list[Arch]:
        """One of the two."""
        if rng.random() < 1 - step / self.steps:
            return [space.largest]
        return self.sampler.archs(space, step, rng)

    def begin(self, supernet: Supernet, optimizer: torch.optim.Optimizer, step: int) -> None:
        """The other sampler's."""
        self.sampler.begin(supernet, optimizer, step)

    def check(self, steps: int) -> None:
        """The other sampler's."""
        self.sampler.check(steps)

    def describe(self) -> dict[str, Any]:
        """Options, and what the other sampler says."""
        return {"class": "Widened", "steps": self.steps, "sampler": self.sampler.describe()}
