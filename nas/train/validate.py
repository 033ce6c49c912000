"""How good one subnet of a supernet is: recalibrated, in eval mode, on a split."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nas.checking import checked
from nas.errors import TrainError
from nas.supernet.inputs import Inputs, like
from nas.train.task import Split, Task, to_device

if TYPE_CHECKING:
    from nas.space import Arch
    from nas.supernet import Supernet


@torch.no_grad()
@checked(TrainError)
def subnet_metrics(
    supernet: Supernet, arch: Arch, task: Task, split: Split = "valid", *, calibrate: bool = True
) -> dict[str, float]:
    """Metrics of one subnet; depends on the weights, the arch and the task alone.

    BatchNorm statistics of a subnet are not a slice of the supernet's: each subnet computes its own from
    `task.calibration_inputs()` (Yu & Huang 2019).  A model without BatchNorm pays nothing for it.

    Args:
        supernet: is left as it is, its mode included.
        calibrate: False keeps the supernet's own statistics, to see what that costs.
    """

    def forward(inputs: Inputs) -> Any:
        return supernet(inputs, arch, buffers)

    with evaluating(supernet):
        buffers = calibrated(supernet, arch, task) if calibrate else None
        return task.evaluate(forward, split, device=device_of(supernet))


def calibrated(supernet: Supernet, arch: Arch, task: Task) -> dict[str, Tensor]:
    """BatchNorm statistics of one subnet over the task's calibration inputs; {} for a model without."""
    device = device_of(supernet)
    example = task.example
    batches = (like(to_device(inputs, device), example) for inputs in task.calibration_inputs())
    return supernet.calibrate(arch, batches)


def device_of(module: nn.Module) -> torch.device:
    """Where the module's parameters are; the CPU if it has none."""
    return next((one.device for one in module.parameters()), torch.device("cpu"))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside the block."""
    training = module.training
    if training:
        module.eval()
    try:
        yield
    finally:
        if training:
            module.train()
