"""How good one subnet of a supernet is: recalibrated, in eval mode, on a split."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from nas.supernet.inputs import Inputs
from nas.train.task import Split, Task, to_device

if TYPE_CHECKING:
    from nas.space import Arch
    from nas.supernet import Supernet


@torch.no_grad()
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
    device = next(supernet.parameters()).device

    def inputs() -> Iterator[Inputs]:
        for one in task.calibration_inputs():
            yield to_device(one, device)

    def forward(batch: Inputs) -> Any:
        return supernet(batch, arch, buffers)

    with evaluating(supernet):
        buffers = supernet.calibrate(arch, inputs()) if calibrate else None
        return task.evaluate(forward, split, device=device)


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Eval mode inside the block."""
    training = module.training
    if training:
        module.eval()
    try:
        yield
    finally:
        if training:
            module.train()
