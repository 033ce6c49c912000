"""The range of a float decision, and its scale: linear, 'log' (dense near the minimum) or 'rlog' (dense near the maximum)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Range:
    """Bounds (inclusive) and scale of a float decision, as `pg.floatv` defines them.

    `unit` maps [low, high] to [0, 1]: linear (v - low) / (high - low), 'log' log(v / low) / log(high / low),
    'rlog' 1 - log((high + low - v) / low) / log(high / low).  `value` is its inverse.
    """

    low: float
    high: float
    scale: str | None = None

    def holds(self, value: float) -> bool:
        """Whether `value` is within the bounds; NaN is not."""
        return self.low <= value <= self.high

    def unit(self, value: float) -> float:
        """Where `value` lies in the scaled range, 0 to 1; 0 when the range is a single value."""
        if self.low == self.high:
            return 0.0
        if self.scale == "log":
            return math.log(value / self.low) / math.log(self.high / self.low)
        if self.scale == "rlog":
            return 1.0 - math.log((self.high + self.low - value) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def value(self, unit: float) -> float:
        """The value at `unit` of the scaled range, within the bounds whatever the rounding."""
        if self.scale == "log":
            value = self.low * math.pow(self.high / self.low, unit)
        elif self.scale == "rlog":
            value = self.high + self.low - self.low * math.pow(self.high / self.low, 1.0 - unit)
        else:
            value = self.low + unit * (self.high - self.low)
        # + 0.0 turns -0.0 into 0.0: equal values have one key.
        return min(max(value, self.low), self.high) + 0.0

    def moved(self, value: float, rng: Random) -> float:
        """Another value: a Gaussian step of a tenth of the scaled range, clipped, or (one time in ten) anywhere."""
        unit = self.unit(value)
        for _ in range(16):
            there = rng.random() if rng.random() < 0.1 else min(max(rng.gauss(unit, 0.1), 0.0), 1.0)
            if (new := self.value(there)) != value:
                return new
        return self.high if value < self.high else self.low
