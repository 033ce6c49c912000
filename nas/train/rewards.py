"""What a policy is rewarded with: a quality, and what an arch costs against a target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from nas.checking import checked
from nas.errors import TrainError
from nas.identity import described


class Reward(ABC):
    """A number that is better when it is higher."""

    positive = False
    """Whether qualities below 0 have no meaning in it."""

    @abstractmethod
    def __call__(self, quality: float, ratio: float) -> float:
        """The reward of an arch.

        Args:
            quality: higher is better.
            ratio: its cost divided by the target.
        """

    def describe(self) -> dict[str, Any]:
        """JSON-able name and options."""
        return described(self)


@checked(TrainError)
@dataclass(frozen=True)
class AbsoluteReward(Reward):
    """quality + weight · |cost / target − 1|: best at the target itself, whatever the weight.

    Bender et al. 2020, "Can Weight Sharing Outperform Random Architecture Search? An Investigation with TuNAS".

    Args:
        weight: below 0; in units of the quality.
    """

    weight: float = -0.1

    def __post_init__(self) -> None:
        if not self.weight < 0:
            raise TrainError(
                f"AbsoluteReward has weight={self.weight:g}, which rewards missing the target; give a negative one"
            )

    def __call__(self, quality: float, ratio: float) -> float:
        """As above."""
        return quality + self.weight * abs(ratio - 1)


@checked(TrainError)
@dataclass(frozen=True)
class LinearReward(Reward):
    """quality + weight · cost / target: a price for costs, whose cost may end anywhere.

    With the negative loss as its quality that of ProxylessNAS's gradients (Cai, Zhu & Han 2019).

    Args:
        weight: below 0; in units of the quality.
    """

    weight: float = -0.1

    def __post_init__(self) -> None:
        if not self.weight < 0:
            raise TrainError(f"LinearReward has weight={self.weight:g}, which rewards costs; give a negative one")

    def __call__(self, quality: float, ratio: float) -> float:
        """As above."""
        return quality + self.weight * ratio


@checked(TrainError)
@dataclass(frozen=True)
class ProductReward(Reward):
    """quality · (cost / target) ^ exponent: a trade-off, whose cost may end anywhere.

    Tan et al. 2019, "MnasNet: Platform-Aware Neural Architecture Search for Mobile"; with exponent −1 and below 0 it is their
    hard constraint.

    Args:
        exponent: above the target; 0 or below.
        below: up to the target; None is `exponent`.
    """

    exponent: float = -0.07
    below: float | None = None
    positive = True

    def __post_init__(self) -> None:
        for name, value in (("exponent", self.exponent), ("below", self.below)):
            if value is not None and not value <= 0:
                raise TrainError(f"ProductReward has {name}={value:g}, which rewards costs; give 0 or a negative one")

    def __call__(self, quality: float, ratio: float) -> float:
        """As above; a quality below 0 counts as 0, and a cost of 0 as a millionth of the target."""
        exponent = self.below if self.below is not None and ratio <= 1 else self.exponent
        return float(max(quality, 0.0) * max(ratio, 1e-6) ** exponent)
