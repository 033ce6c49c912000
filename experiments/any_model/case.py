"""What the conversion is tried on: a model and the inputs of one plain call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass
class Case:
    """`model(*inputs)`, or `model(**inputs)` where they are a mapping; of a model that draws, the same draws each time."""

    model: nn.Module
    inputs: tuple[Any, ...] | dict[str, Any]

    def __call__(self, model: nn.Module | None = None) -> Any:
        model = self.model if model is None else model
        torch.manual_seed(0)
        return model(**self.inputs) if isinstance(self.inputs, dict) else model(*self.inputs)
