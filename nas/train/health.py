"""Stops a training that has gone wrong, with the step at which it did."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from nas.errors import TrainError

WINDOW = 50


@dataclass
class Health:
    """Losses so far, as much of them as the judgement needs; JSON-able, a part of the checkpoint."""

    baseline: float | None = None
    """Mean loss of the first 50 steps."""
    window: list[float] = field(default_factory=list)
    """The last 50 losses."""

    def look(self, step: int, loss: float, norm: float, divergence: float) -> None:
        """Judges one step.

        Args:
            step: 1, 2, …
            loss: mean over the step's archs.
            norm: of the gradient.
            divergence: how many times the baseline the mean of the last 50 losses may be.

        Raises:
            TrainError: loss or gradient is not finite, or the loss has run away.
        """
        for name, value in (("loss", loss), ("gradient's norm", norm)):
            if not math.isfinite(value):
                raise TrainError(
                    f"the {name} of step {step} is {value}; lower lr, lengthen warmup, or look at the data"
                )
        self.window = [*self.window, loss][-WINDOW:]
        mean = sum(self.window) / len(self.window)
        if step == WINDOW:
            self.baseline = mean
        elif step > WINDOW and self.baseline is not None and mean > divergence * max(self.baseline, 0.0):
            raise TrainError(
                f"the loss has diverged: {mean:.3g} over the {WINDOW} steps up to {step}, {self.baseline:.3g} over the "
                "first ones; lower lr, lengthen warmup, or raise divergence"
            )
