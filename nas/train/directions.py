"""Teaching features their norm and direction: what a teacher's features of each class are like, beside any loss."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.checking import Positive, checked
from nas.errors import TrainError
from nas.train import taps
from nas.train.comparisons import TINY, Hint, channels_last
from nas.train.features import features_of
from nas.train.losses import Around, Labels, Loss, Step, digest, look
from nas.train.task import Batch, Task, mixed, to_device
from nas.train.validate import device_of, evaluating

if TYPE_CHECKING:
    from nas.train.trainer import Training


@checked(TrainError)
@dataclass(frozen=True, eq=False)
class NormAndDirection(Around):
    """`loss`, and `weight` times how far a layer's features are from the length and the direction that a teacher's have.

    Wang et al. 2023, "Improving Knowledge Distillation via Regularizing Feature Norm and Direction" (ND; with distillation of
    the outputs KD++): the mean over samples of 1 − ⟨f, c⟩ / (‖c‖ · max(‖f‖, ‖t‖)), where f are the student's features, t the
    teacher's of the same sample and c the mean of the teacher's features of the sample's class.  It is 0 for features that
    point where their class does and are as long as the teacher's or longer; 2 is the opposite.

    Features with positions are averaged over them.  The student's go through a projection to the teacher's channels, learned
    with the supernet, of which a narrower subnet uses the first columns, as `Hint` does.  c are of one epoch of the training
    data: the teacher looks at each sample once more before the first step.

    Args:
        layer: name of the subnets' layer, best that before the classifier; an arch without it is taught by `loss` alone.
        teacher: takes the task's inputs; is put in eval mode and never trained.
        loss: what the outputs learn; any.
        weight: the authors' are 0.5 to 2.
        teacher_layer: name of the teacher's layer, where it is another one.

    Raises:
        TrainError: when a training begins, a layer that is not there, or a task whose samples do not have one class each.
    """

    layer: str
    teacher: nn.Module
    loss: Loss = field(default_factory=Labels)
    weight: Positive = 1.0
    teacher_layer: str | None = None

    def __post_init__(self) -> None:
        if not self.layer or self.teacher_layer == "":
            raise TrainError(
                f"NormAndDirection has layer={self.layer!r} and teacher_layer={self.teacher_layer!r}; give the name of a layer, "
                "such as 'blocks.3'"
            )

    @property
    def taps(self) -> Sequence[str]:
        """The layer."""
        return (self.layer,)

    @property
    def labels_needed(self) -> bool:
        """Classes are labels."""
        return True

    @property
    def _theirs(self) -> str:
        return self.layer if self.teacher_layer is None else self.teacher_layer

    def check(self, task: Task) -> None:
        """Whether a sample of the task has a class."""
        if task.divergence is not None and task.divergence.compares[0] != "classes":
            raise TrainError(
                f"NormAndDirection teaches the features of each class, and outputs of {type(task).__name__} are compared by "
                f"{type(task.divergence).__name__}, so that they are no classes; use nas.Features"
            )

    def prepare(self, device: torch.device) -> None:
        """The teacher goes to `device`, in eval mode."""
        self.teacher.to(device).eval()

    def keep(self, training: Training) -> Directions:
        """The directions of the classes, and the projection; all that can be checked is, on one sample."""
        net = training.supernet
        example, binding = to_device(training.task.example, device_of(net)), net.bind(net.space.largest)
        taps.check(binding.module, [self.layer], f"the largest arch of space {net.space.name!r}")
        taps.check(self.teacher, [self._theirs], f"the teacher, a {type(self.teacher).__name__},")
        with evaluating(net):
            ours = features_of(binding.module, lambda: binding(example), [self.layer])[self.layer]
        means = self._means(training)
        draw = torch.Generator().manual_seed(mixed(training.seed, "projections"))
        projection = Hint().adapt(self.layer, pooled(ours), means, draw)
        assert projection is not None
        return Directions(functional.normalize(means.float()), projection)

    def _means(self, training: Training) -> Tensor:
        """(classes, channels) of the teacher's features over one epoch; zeros of a class that does not occur."""
        data, sums = training.data, torch.zeros(0)
        for batch in itertools.islice(data.train_batches(0), data.steps_per_epoch):
            moved = batch.to(training.device)
            step = Step(0, training.task, training.supernet.space, [], training.supernet.space.largest)
            output, found = look(self.teacher, moved, step, [self._theirs])
            if self._theirs not in found:
                raise TrainError(
                    f"layer {self._theirs!r} of a {type(self.teacher).__name__} is there and is not called, so that it has no "
                    "features; name the layer around it"
                )
            rows, classes = pooled(found[self._theirs]).double(), _classes(moved)
            if not len(sums):
                sums = rows.new_zeros(training.task.logits(output).shape[-1], rows.shape[1])
            sums.index_add_(0, classes, rows)
        return sums  # of any length: what counts is their direction

    def __call__(self, output: Any, batch: Batch, step: Step) -> Tensor:
        """The loss's, and the distance where this arch has the layer."""
        theirs = look(self.teacher, batch, step, [self._theirs])[1][self._theirs]
        value = self.loss(output, batch, step)
        if self.layer not in step.features:
            return value
        kept = step.kept[self]
        with torch.autocast(theirs.device.type, enabled=False):
            apart: Tensor = kept(step.features[self.layer].float(), theirs.float(), _classes(batch))
        return value + self.weight * apart

    def describe(self) -> dict[str, Any]:
        """Options, the loss's own, and a digest of the teacher's weights."""
        options = {"layer": self.layer, "teacher_layer": self._theirs, "weight": self.weight}
        return {"class": "NormAndDirection", "loss": self.loss.describe(), **options, "teacher": digest(self.teacher)}


class Directions(nn.Module):
    """Of each class, at a teacher; and the projection of a student's channels to the teacher's."""

    means: Tensor

    def __init__(self, means: Tensor, projection: nn.Module) -> None:
        super().__init__()
        self.register_buffer("means", means)
        self.projection = projection

    def forward(self, student: Tensor, teacher: Tensor, classes: Tensor) -> Tensor:
        """Features of a batch, its classes (n,) -> mean distance: a scalar."""
        ours, theirs = self.projection(pooled(student)), pooled(teacher)
        longer = torch.maximum(ours.norm(dim=-1), theirs.norm(dim=-1)).clamp_min(TINY)
        along: Tensor = (ours * self.means[classes]).sum(-1) / longer
        return (1.0 - along).mean()


def pooled(features: Tensor) -> Tensor:
    """(n, c, h, w), (n, tokens, c) or (n, c) -> (n, c), the mean over positions."""
    last = channels_last(features)
    return last.flatten(1, -2).mean(1) if last.ndim > 2 else last


def _classes(batch: Batch) -> Tensor:
    """(n,), whole numbers."""
    classes = batch.targets
    if not isinstance(classes, Tensor) or classes.ndim != 1 or classes.is_floating_point():
        said = (
            f"{classes.dtype} of shape {tuple(classes.shape)}"
            if isinstance(classes, Tensor)
            else type(classes).__name__
        )
        raise TrainError(
            f"NormAndDirection teaches the features of each class, and the task's targets are {said}; give whole numbers (n,), "
            "a class each, or use nas.Features"
        )
    return classes.long()
