"""How much a subnet lost, from a few training batches alone: what a trained network is searched by before anything is tuned."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nas.checking import Count, checked
from nas.errors import EvaluationError
from nas.evaluate.subnets import OfSubnets, Source, Weights
from nas.identity import IDENTITY, behaviour
from nas.supernet import Inputs, Supernet
from nas.supernet.inputs import call
from nas.train import Task
from nas.train.fitting import comparing
from nas.train.task import Batch
from nas.train.trainer import device_named
from nas.train.validate import calibrated, device_of, evaluating

if TYPE_CHECKING:
    from nas.space import Arch, Space

LOSS, DIVERGENCE = "calibration_loss", "divergence"


class Calibration(OfSubnets):
    """Loss of a subnet on a few training batches, and how far its outputs are from those of the largest arch.

    The validation split stays unseen.  The divergence is the task's own (`Task.divergence`), of tasks that have one; a
    lower one is less lost.

    Args:
        source: a supernet, a training or a checkpoint's folder.
        task: gives the batches, the first of its first epoch.
        batches: their number.
        device: where subnets are evaluated; None is where the supernet is.

    Raises:
        EvaluationError: the task has no training batch.
    """

    weights: Weights
    task: Task
    metrics: tuple[str, ...] = (LOSS,)

    @checked(EvaluationError)
    def __init__(self, source: Source, task: Task, *, batches: Count = 8, device: str | None = None) -> None:
        self.weights, self.task, self.batches, self.device = Weights(source), task, batches, device
        if device is not None:
            device_named(device)
        self._moved: Supernet | None = None
        self._held: list[Batch] | None = None
        self._taught: list[Tensor] | None = None
        if task.divergence is not None:
            self.metrics = (LOSS, DIVERGENCE)

    @torch.no_grad()
    def __call__(self, arch: Arch) -> dict[str, float]:
        """Means over the samples of the batches."""
        supernet = self.supernet(arch.space)
        with evaluating(supernet):
            buffers = calibrated(supernet, arch, self.task)
            return self._measured(supernet, lambda inputs: supernet(inputs, arch, buffers))

    @torch.no_grad()
    def measure_module(self, module: nn.Module) -> dict[str, float]:
        """The same of an ordinary module in the place of a subnet.

        Raises:
            EvaluationError: the supernet is in a folder, and no arch has said yet of which space it is.
        """
        loaded = self.weights.loaded
        if loaded is None:
            raise EvaluationError(
                "Calibration has not loaded its supernet yet; give it a supernet, or evaluate an arch first"
            )
        supernet = self.supernet(loaded.space)
        if device_of(module) != device_of(supernet):
            module = copy.deepcopy(module).to(device_of(supernet))
        with evaluating(supernet), evaluating(module):
            return self._measured(supernet, lambda inputs: call(module, inputs))

    def _measured(self, supernet: Supernet, network: Callable[[Inputs], Any]) -> dict[str, float]:
        device = device_of(supernet)
        if self._taught is None and DIVERGENCE in self.metrics:
            largest = supernet.space.largest
            self._taught = [self.task.logits(supernet(batch.to(device).inputs, largest)) for batch in self._batches()]
        found, count = dict.fromkeys(self.metrics, 0.0), 0
        for number, batch in enumerate(self._batches()):
            moved, size = batch.to(device), self.task.samples(batch)
            output = network(moved.inputs)
            found[LOSS] += float(self.task.loss(output, moved)) * size
            if self._taught is not None:
                student = self.task.logits(output)
                compare = comparing("Calibration", self.task, moved, student)
                found[DIVERGENCE] += float(compare(student, self._taught[number])) * size
            count += size
        return {name: total / count for name, total in found.items()}

    def describe(self) -> dict[str, Any]:
        """JSON-able name, weights, options and what the largest network computes beside its weights, where it is loaded."""
        return {
            "name": "Calibration",
            "supernet": self.weights.describe(),
            "task": self.task.describe(),
            "batches": self.batches,
            **self._network,
        }

    @property
    def _network(self) -> dict[str, Any]:
        loaded = self.weights.loaded
        return {} if loaded is None else {IDENTITY: {"network": behaviour(loaded.extract(loaded.space.largest))}}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_held": None, "_taught": None, "_moved": None}

    def supernet(self, space: Space) -> Supernet:
        """A copy on the device, where the weights are elsewhere: others measure times with them."""
        found = self.weights.get(space)
        if self.device is None or device_of(found) == torch.device(self.device):
            return found
        if self._moved is None:
            self._moved = copy.deepcopy(found).to(self.device)
        return self._moved

    def _batches(self) -> Sequence[Batch]:
        if self._held is None:
            self._held = first_batches(self.task, self.batches)
        return self._held


def first_batches(task: Task, count: int) -> list[Batch]:
    """The first training batches of a task, at most so many.

    Raises:
        EvaluationError: there is none.
    """
    found = list(islice(task.train_batches(0), count))
    if not found:
        raise EvaluationError(f"{type(task).__name__} has no training batch to calibrate with; give it training data")
    return found
