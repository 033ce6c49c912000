"""In-place distillation from the full model as it is, and as it was.

This is ours.  Annavajjala et al. 2024, "DεpS: Delayed ε-Shrinking for Faster Once-For-All Training", speak of several partially
trained full models (IKD-Warmup), and their program (gatech-sysml/DepS) distils each step from the present one alone, which is a
better one at every step: that is `Delayed` and `Ramped` with `InPlace`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nas.checking import checked
from nas.errors import TrainError
from nas.supernet.inputs import call
from nas.train import fitting
from nas.train.fitting import distillation
from nas.train.losses import Loss, Step
from nas.train.task import Batch, Task
from nas.train.validate import calibrated

if TYPE_CHECKING:
    from nas.space import Arch, Space
    from nas.supernet import Supernet
    from nas.train.trainer import Training


@checked(TrainError)
@dataclass(frozen=True)
class Snapshots(Loss):
    """The largest arch learns from the labels, the others from it and from what it was at earlier steps.

    A teacher's distribution is softened by the temperature, and the target is the mean over the copies that were taken so far
    and the present largest arch.  A copy keeps its BatchNorm statistics, which are calibrated when it is taken; it is a part of
    the checkpoint.  Each costs one forward of the largest arch a step, without gradients, as soon as a subnet is in the step.

    Args:
        steps: before which the largest arch is copied, e.g. three of those of `Delayed`.
        temperature: softens both distributions.
        labels: weight of the labels in the loss of the others; the rest is the distillation's.
    """

    steps: tuple[int, ...]
    temperature: float = 1.0
    labels: float = 0.0

    def __post_init__(self) -> None:
        given = tuple(self.steps)
        if (
            not given
            or any(not isinstance(step, int) or step < 1 for step in given)
            or sorted(set(given)) != list(given)
        ):
            raise TrainError(f"Snapshots has steps={self.steps!r}; give rising positive steps, or use InPlace without")
        if not 0.0 <= self.labels < 1.0:
            raise TrainError(f"Snapshots has labels={self.labels}; it is a fraction from 0 to below 1, else use Labels")
        if not self.temperature > 0.0:
            raise TrainError(f"Snapshots has temperature={self.temperature}; it is a positive number")
        object.__setattr__(self, "steps", given)

    def check(self, task: Task) -> None:
        """Whether outputs of the task are compared so."""
        fitting.check("Snapshots", task, None, self.temperature)

    def archs(self, archs: Sequence[Arch], space: Space) -> list[Arch]:
        """The largest arch first: it is added where the sampler did not choose it."""
        return [space.largest, *(arch for arch in archs if arch != space.largest)]

    def keep(self, training: Training) -> nn.Module:
        """Room for the copies.

        Raises:
            TrainError: the training is over before one of them is taken.
        """
        if self.steps[-1] >= training.steps:
            raise TrainError(
                f"Snapshots has steps={self.steps}, and the training's last step is {training.steps - 1}; "
                "a copy that is taken later has no effect"
            )
        net = training.supernet
        return nn.ModuleList(net.extract(net.space.largest).requires_grad_(False) for _ in self.steps).eval()

    def begin(self, training: Training, kept: nn.Module, step: int) -> None:
        """Copies the largest arch where it is time."""
        if step in self.steps:
            assert isinstance(kept, nn.ModuleList)
            kept[self.steps.index(step)].load_state_dict(_copy(training.supernet, training).state_dict())

    def __call__(self, output: Any, batch: Batch, step: Step) -> Tensor:
        """Labels for the largest, the mean teacher for the rest."""
        scores = step.task.logits(output)
        if step.arch == step.space.largest:
            step.shared["present"] = scores.detach()
            return step.task.loss(output, batch)
        soft = self._soft(scores, batch, step)
        return self.labels * step.task.loss(output, batch) + (1.0 - self.labels) * soft if self.labels else soft

    def _soft(self, scores: Tensor, batch: Batch, step: Step) -> Tensor:
        """How far the outputs are from the mean teacher's; of what are no classes, the mean distance from the teachers'."""
        if "teachers" not in step.shared:
            step.shared["teachers"] = self._teachers(batch, step)
        teachers: list[Tensor] = step.shared["teachers"]
        if fitting.kind_of(step.task, batch, scores) != "classes":
            compare = fitting.comparing("Snapshots", step.task, batch, scores, temperature=self.temperature)
            return torch.stack([compare(scores, one) for one in teachers]).mean()
        if "target" not in step.shared:
            # Logits whose softened distribution is the mean of the teachers'.
            logs = [torch.log_softmax(one.float() / self.temperature, -1) for one in teachers]
            step.shared["target"] = self.temperature * torch.stack(logs).logsumexp(0)
        return distillation(scores, step.shared["target"], self.temperature)

    def _teachers(self, batch: Batch, step: Step) -> list[Tensor]:
        """Outputs of the present largest arch, and of the copies so far."""
        kept = step.kept.get(self)
        copies = (
            list(kept)[: sum(taken <= step.number for taken in self.steps)] if isinstance(kept, nn.ModuleList) else []
        )
        with torch.no_grad():
            return [step.shared["present"], *(step.task.logits(call(copy, batch.inputs)) for copy in copies)]


def _copy(net: Supernet, training: Training) -> nn.Module:
    """The largest arch as it is now, with BatchNorm statistics of its own."""
    largest = net.space.largest
    return net.extract(largest, calibrated(net, largest, training.task))
