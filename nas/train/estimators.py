"""How the gradient of the expected reward is estimated, with respect to the logits of a policy."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nas.checking import Count, Probability, checked
from nas.choosing.distribution import Distribution, Floats
from nas.errors import TrainError
from nas.identity import described

if TYPE_CHECKING:
    from nas.space import Arch


class Judge(Protocol):
    """What an estimator may ask at one step of a policy."""

    distribution: Distribution
    baseline: float | None
    """Moving average of the rewards; None before the first."""
    rng: random.Random
    """Random numbers of this step."""

    def rewards(self, archs: Sequence[Arch]) -> list[float]:
        """Reward of each arch on the batches of this step."""

    def usable(self, arch: Arch) -> bool:
        """Whether the arch can be built, and no rule of the space forbids it."""


class Estimator(ABC):
    """Estimates ∇ E[reward] from archs that were drawn from the policy."""

    draws: int
    """Archs that are drawn for a step."""

    @abstractmethod
    def gradient(self, judge: Judge, archs: Sequence[Arch], rewards: Sequence[float]) -> Floats:
        """(total,) ∇ E[reward] with respect to the logits of `judge.distribution`.

        Args:
            judge: gives more rewards.
            archs: independent draws, some of which may be equal.
            rewards: theirs.
        """

    def describe(self) -> dict[str, Any]:
        """JSON-able name and options."""
        return described(self)


@checked(TrainError)
@dataclass(frozen=True)
class ScoreFunction(Estimator):
    """(reward − moving average) · ∇ log p(arch): forward passes alone, of any space, for any reward, a measured time too.

    Williams 1992, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning".

    Args:
        draws: archs a step.
        baseline: decay of the moving average of rewards.
    """

    draws: Count = 4
    baseline: Probability = 0.95

    def gradient(self, judge: Judge, archs: Sequence[Arch], rewards: Sequence[float]) -> Floats:
        """Mean over the draws; at the first step their own mean is the baseline."""
        base = float(np.mean(rewards)) if judge.baseline is None else judge.baseline
        slopes = [(reward - base) * judge.distribution.slope(arch) for arch, reward in zip(archs, rewards, strict=True)]
        found: Floats = np.mean(slopes, axis=0)
        judge.baseline = self.baseline * base + (1 - self.baseline) * float(np.mean(rewards))
        return found
