"""Inputs on which two computations of one network are compared."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.supernet import Inputs
from nas.supernet.inputs import convert, repeated


def probes(example: Inputs, any_batch: bool) -> list[Inputs]:
    """The example, noise like it (an example of zeros shows little), and several samples of both."""
    generator = torch.Generator().manual_seed(0)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator).to(tensor) if tensor.is_floating_point() else tensor

    found: list[Inputs] = [example, convert(example, noise)]
    return [*found, *(repeated(probe, 3) for probe in found)] if any_batch else found
