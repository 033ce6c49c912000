"""What the experiments on searches search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Problem:
    """Choices that are numbered, and what they measure.

    Args:
        candidates: of each decision.
        values: (n, decisions) genes -> (n, m) minimised objectives.
        whole: -> (k, m) points whose hypervolume is the whole; None where only what the runs find is known.
    """

    candidates: Sequence[int]
    values: Callable[[np.ndarray], np.ndarray]
    whole: Callable[[], np.ndarray] | None = None

    def __call__(self, genes: Sequence[int]) -> tuple[float, ...]:
        """Objectives of one arch."""
        return tuple(self.values(np.array([genes])).ravel().tolist())
