"""A teacher that begins near the student and moves away from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nas.checking import Count, Positive, checked
from nas.errors import TrainError
from nas.train.fitting import comparing
from nas.train.losses import Loss, Step, check_teacher, digest, mixture, taught
from nas.train.outputs import TeacherOutputs
from nas.train.synced import whole
from nas.train.task import Batch, Task

if TYPE_CHECKING:
    from nas.train.trainer import Training

MEMORY = 0.99
"""Of the momentum of the pace; the paper's beta."""


@checked(TrainError)
@dataclass(frozen=True, eq=False)
class Interpolated(Loss):
    """A teacher that begins near the student and moves away from it (Shing et al. 2025, "TAID").

    KL(softmax((1 − t) · student + t · teacher) ‖ softmax(student)), the student's logits in the target held fixed, t rising from
    `start` at the first step to 1 at step `steps` and after.  Outputs that are no classes are compared as the task says.

    With a `pace` t rises faster while the distance J falls: m becomes 0.99 m + 0.01 (J' − J) / J', where J' is the distance at
    the step before, and t becomes t + pace · σ(m) · (1 − t), never below the line.  J is the mean over the archs of a step and
    the samples of its batches, on all processes.

    Args:
        module: takes the task's inputs; is put in eval mode and never trained.
        steps: of the rise.
        start: t of the first step.
        weight: of the teacher; the rest is the labels'.
        outputs: what it gave is stored there, so that it runs once for each batch; None runs it always.
        pace: of the adaptive rise, the paper's alpha (5e-4 there); None is linear in the step, the paper's baseline.
    """

    module: nn.Module
    steps: Count
    start: float = 0.4
    weight: float = 0.5
    outputs: TeacherOutputs | None = None
    pace: Positive | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.start < 1.0:
            raise TrainError(f"Interpolated has start={self.start}; it is a fraction from 0 to below 1")
        if not 0.0 < self.weight <= 1.0:
            raise TrainError(f"Interpolated has a weight of {self.weight}; it is above 0 and at most 1")
        if self.outputs is not None and self.outputs.top is not None:
            raise TrainError(
                f"Interpolated takes the mean of all logits, and top={self.outputs.top} keeps some; leave top= out, or use "
                "nas.Teacher"
            )

    @property
    def labels_needed(self) -> bool:
        """Not where the teacher is all there is."""
        return self.weight < 1.0

    def check(self, task: Task) -> None:
        """Whether outputs can be interpolated: embeddings of two networks have no axes in common."""
        if task.divergence is not None and task.divergence.compares[0] == "embeddings":
            raise TrainError(
                f"Interpolated takes the mean of two networks' outputs, and those of {type(task).__name__} are embeddings, whose "
                "axes differ from network to network; use nas.Teacher"
            )

    def prepare(self, device: torch.device) -> None:
        """The module goes to `device`, in eval mode."""
        self.module.to(device).eval()

    def keep(self, training: Training) -> Pace | None:
        """The pace, where it adapts; whether the module gives what networks of the task do, and whether that can be stored."""
        check_teacher(self.module, training, self.outputs)
        return None if self.pace is None else Pace(self.start)

    def begin(self, training: Training, kept: nn.Module, step: int) -> None:  # noqa: ARG002
        """Moves t by what the step before has shown."""
        assert isinstance(kept, Pace)
        assert self.pace is not None
        kept.move(self.pace, self.share(step))

    def share(self, step: int) -> float:
        """t of step 0, 1, … on the line."""
        return self.start + (1.0 - self.start) * min(1.0, step / self.steps)

    def __call__(self, output: Any, batch: Batch, step: Step) -> Tensor:
        """The teacher looks at each batch once, however many archs the step has."""
        student, teacher = step.task.logits(output), taught(self.module, batch, step, self.outputs).logits
        if student.shape != teacher.shape:
            raise TrainError(
                f"the student's logits are {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}; "
                "they must agree"
            )
        compare = comparing("Interpolated", step.task, batch, student)
        kept = step.kept.get(self)
        share = kept.share if isinstance(kept, Pace) else student.new_tensor(self.share(step.number)).float()
        between = torch.lerp(student.detach().float(), teacher.float(), share)
        soft = compare(student, torch.where(teacher.isneginf(), teacher, between))  # −∞ times a share of 0 is none
        if isinstance(kept, Pace):
            kept.look(soft, len(student))
        return mixture(soft, self.weight, output, batch, step)

    def describe(self) -> dict[str, Any]:
        """Options and a digest of the teacher's weights."""
        options = {"steps": self.steps, "start": self.start, "weight": self.weight}
        if self.pace is not None:  # so that trainings of before there was one still resume
            options["pace"] = self.pace
        return {"class": "Interpolated", "module": digest(self.module), **options}


class Pace(nn.Module):
    """How far a teacher has moved away: t, and what the next step needs to move it.  Buffers, which a checkpoint keeps."""

    share: Tensor
    momentum: Tensor
    before: Tensor
    total: Tensor
    count: Tensor

    def __init__(self, start: float) -> None:
        super().__init__()
        self.register_buffer("share", torch.tensor(start))
        for name in ("momentum", "before", "total", "count"):
            self.register_buffer(name, torch.zeros(()))

    def look(self, distance: Tensor, rows: int) -> None:
        """One arch's distance on one batch of so many rows, here; on several processes all ranks' rows."""
        each = whole(distance.detach().float().expand(rows).contiguous())
        self.total += each.sum()
        self.count += len(each)

    def move(self, pace: float, least: float) -> None:
        """To the next step's t, which is at least `least`.  Nothing waits for a GPU."""
        now = self.total / self.count.clamp_min(1.0)
        change = torch.where(
            self.before > 0.0, (self.before - now) / self.before.clamp_min(1e-8), torch.zeros_like(now)
        )
        seen = self.count > 0.0
        self.momentum.copy_(torch.where(seen, MEMORY * self.momentum + (1.0 - MEMORY) * change, self.momentum))
        moved = self.share + pace * torch.sigmoid(self.momentum) * (1.0 - self.share)
        self.share.copy_(torch.where(seen, moved, self.share).clamp(least, 1.0))
        self.before.copy_(torch.where(seen, now, self.before))
        self.total.zero_()
        self.count.zero_()
