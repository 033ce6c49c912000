"""The learning rate as a function of the step: nothing to store, nothing to restore."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nas.checking import checked
from nas.errors import TrainError


@checked(TrainError)
@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then half a cosine down to a floor (Loshchilov & Hutter 2017, without restarts).

    Args:
        lr: the highest rate, reached at the end of the warm-up.
        steps: number of steps of the training.
        warmup: steps of the rise; the first of them has `lr / warmup`.
        floor: rate of the last step, as a fraction of `lr`.

    Raises:
        TrainError: numbers that make no schedule.
    """

    lr: float
    steps: int
    warmup: int = 0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise TrainError(f"lr={self.lr} is not a positive number")
        if self.steps < 1:
            raise TrainError(f"steps={self.steps} is not a positive number of steps")
        if not 0 <= self.warmup < self.steps:
            raise TrainError(f"warmup={self.warmup} does not fit {self.steps} steps; choose 0 to {self.steps - 1}")
        if not 0.0 <= self.floor <= 1.0:
            raise TrainError(f"floor={self.floor} is not a fraction of lr between 0 and 1")

    def __call__(self, step: int) -> float:
        """Rate of step 0, 1, …, steps − 1."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - 1 - self.warmup)
        return self.lr * (self.floor + (1.0 - self.floor) * 0.5 * (1.0 + math.cos(math.pi * done)))
