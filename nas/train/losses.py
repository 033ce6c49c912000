"""What each arch of a training step is taught."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nas.checking import Positive, Probability, checked
from nas.errors import TrainError
from nas.identity import IDENTITY, behaviour, described
from nas.supernet.inputs import call
from nas.supernet.skeleton import statistics_of
from nas.train import fitting
from nas.train.divergences import KL, Divergence
from nas.train.fitting import comparing
from nas.train.outputs import Taught, TeacherOutputs
from nas.train.taps import tapped
from nas.train.task import Batch, Task

if TYPE_CHECKING:
    from nas.space import Arch, Space
    from nas.train.trainer import Training


@dataclass
class Step:
    """What a loss knows while one step is made; it is made anew for the next."""

    number: int
    task: Task
    space: Space
    archs: Sequence[Arch]
    arch: Arch
    """The arch whose output is judged now."""
    shared: dict[str, Any] = field(default_factory=dict)
    """What one arch of the step leaves for those after it."""
    features: Mapping[str, Tensor] = field(default_factory=dict)
    """Outputs of the layers that `Loss.taps` names, those that `arch` has."""
    kept: Mapping[Loss, nn.Module] = field(default_factory=dict)
    """What `Loss.keep` made, of each loss that keeps something."""


class Loss(ABC):
    """Teaches the archs of a step.

    A loss holds no state.  What it keeps within a step is in `Step.shared`; what it keeps from step to step is a module that
    `keep` makes, and that the training optimises, checkpoints and hands over in `Step.kept`.
    """

    @property
    def taps(self) -> Sequence[str]:
        """Layers of the subnets whose outputs it wants in `Step.features`."""
        return ()

    @property
    def labels_needed(self) -> bool:
        """Whether it asks the task for a loss of training batches, which takes labels."""
        return True

    def within(self) -> Iterator[Loss]:
        """This loss, and those that it is made of."""
        yield self

    def keep(self, training: Training) -> nn.Module | None:  # noqa: B027 (most keep nothing)
        """What it keeps from step to step, made anew at the beginning of a training, after `prepare`; None is nothing.

        Parameters that require a gradient are trained; the others, and buffers, are changed by `begin`, or by the loss of what
        is the same on all processes (`nas.train.whole`).  It is a function of the training's arguments.  What can be wrong
        between a loss and a model is found here.
        """

    def begin(self, training: Training, kept: nn.Module, step: int) -> None:  # noqa: B027 (most keep nothing)
        """Called before each step for a loss that keeps something, and may change that."""

    def archs(self, archs: Sequence[Arch], space: Space) -> list[Arch]:  # noqa: ARG002
        """The archs of a step, in the order and with the additions that this loss needs."""
        return list(archs)

    def check(self, task: Task) -> None:  # noqa: B027 (most losses fit any task)
        """Whether the loss fits what is trained: asked when a training is made.

        Raises:
            TrainError: its numbers would mean nothing, as a softmax of what are no classes.
        """

    def prepare(self, device: torch.device) -> None:  # noqa: B027 (most losses have nothing to move)
        """Called once before a training: move what the loss computes with to `device`."""

    @abstractmethod
    def __call__(self, output: Any, batch: Batch, step: Step) -> Tensor:
        """Mean loss of `step.arch` over the samples of the batch: a scalar.

        A loss that relates samples to each other takes `nas.train.whole(output)`: a training on several processes has their
        rows apart.

        Args:
            output: what the subnet gave for `batch.inputs`, with its graph.
            batch: on the training's device.
            step: what this step is about.
        """

    def describe(self) -> dict[str, Any]:
        """JSON-able name and options."""
        return described(self)


class Around(Loss):
    """A loss that has another one, `loss`, in it: archs, labels and parts are that one's."""

    loss: Loss

    @property
    def labels_needed(self) -> bool:
        """The loss's."""
        return self.loss.labels_needed

    def within(self) -> Iterator[Loss]:
        """This one, and what the loss is made of."""
        yield self
        yield from self.loss.within()

    def archs(self, archs: Sequence[Arch], space: Space) -> list[Arch]:
        """The loss's."""
        return self.loss.archs(archs, space)


def _check(name: str, temperature: float, divergence: Divergence | None) -> None:
    if divergence is not None and temperature != 1.0:
        raise TrainError(
            f"{name} has temperature={temperature}, which has no effect beside divergence={divergence!r}; "
            f"give the divergence its own, such as KL(temperature={temperature})"
        )


@checked(TrainError)
@dataclass(frozen=True)
class Labels(Loss):
    """The task's own loss for every arch."""

    def __call__(self, output: Any, batch: Batch, step: Step) -> Tensor:
        """`task.loss`."""
        return step.task.loss(output, batch)


@checked(TrainError)
@dataclass(frozen=True, eq=False)
class Teacher(Loss):
    """Labels and a fixed model's soft outputs (Hinton et al. 2015): (1 − weight) · labels + weight · distillation.

    Args:
        module: takes the task's inputs; is put in eval mode and never trained.
        weight: of the teacher.
        temperature: softens both distributions.
        divergence: how far student and teacher are apart; None is the task's own: for classes the forward KL at `temperature`.
        outputs: what it gave is stored there, so that it runs once for each batch; None runs it always.
    """

    module: nn.Module
    weight: Probability = 0.5
    temperature: Positive = 1.0
    divergence: Divergence | None = None
    outputs: TeacherOutputs | None = None

    def __post_init__(self) -> None:
        _check("Teacher", self.temperature, self.divergence)
        if self.divergence is not None and not self.weight:
            raise TrainError("Teacher has weight=0.0, so that its divergence has no effect; use Labels")
        if self._top is not None and (self.temperature != 1.0 or self.divergence not in (None, KL())):
            raise TrainError(
                f"outputs=TeacherOutputs(…, top={self._top}) keeps what the forward KL at temperature 1 needs; leave "
                "temperature= and divergence= out, or top="
            )

    def check(self, task: Task) -> None:
        """Whether outputs of the task are compared so."""
        if self.weight:
            fitting.check("Teacher", task, self.divergence, self.temperature)
        if self._top is not None and task.divergence not in (None, KL()):
            raise TrainError(
                f"{type(task).__name__} compares outputs by {type(task.divergence).__name__}, and top={self._top} keeps the most "
                "probable of classes that exclude each other; leave top= out"
            )

    @property
    def labels_needed(self) -> bool:
        """Not where the teacher is all there is."""
        return self.weight < 1.0

    @property
    def _top(self) -> int | None:
        return None if self.outputs is None else self.outputs.top

    def prepare(self, device: torch.device) -> None:
        """The module goes to `device`, in eval mode."""
        self.module.to(device).eval()

    def keep(self, training: Training) -> None:
        """Nothing; whether the module gives what networks of the task do, and whether that can be stored."""
        check_teacher(self.module, training, self.outputs)

    def __call__(self, output: Any, batch: Batch, step: Step) -> Tensor:
        """The teacher looks at each batch once, however many archs the step has."""
        stored, student = taught(self.module, batch, step, self.outputs), step.task.logits(output)
        if not self.weight:
            return step.task.loss(output, batch)
        compare = comparing("Teacher", step.task, batch, student, chosen=self.divergence, temperature=self.temperature)
        soft = compare(stored.of(student), stored.logits)
        return mixture(soft, self.weight, output, batch, step)

    def describe(self) -> dict[str, Any]:
        """Options and a digest of the teacher's weights."""
        options = {"module": digest(self.module), "weight": self.weight, "temperature": self.temperature}
        stored = {} if self.outputs is None else self.outputs.describe()
        return {"class": "Teacher", **options, **_described(self.divergence), **stored}


def mixture(soft: Tensor, weight: float, output: Any, batch: Batch, step: Step) -> Tensor:
    """(1 − weight) · labels + weight · soft; labels are not asked for where they have no weight."""
    return soft if weight == 1.0 else (1.0 - weight) * step.task.loss(output, batch) + weight * soft


def check_teacher(module: nn.Module, training: Training, outputs: TeacherOutputs | None) -> None:
    """Asks the task, where it has something to say, about the module's output for a first batch, and whether it can be stored.

    Raises:
        TrainError: the module does not take the inputs, or gives what no network of the task does.
    """
    if outputs is not None:
        outputs.ready(module, training)
    task = training.task
    if type(task).check_teacher is not Task.check_teacher:
        batch = next(task.valid_batches()).to(training.device)
        with torch.no_grad():
            task.check_teacher(_asked(module, batch), batch)


def look(module: nn.Module, batch: Batch, step: Step, names: Sequence[str] = ()) -> tuple[Any, Mapping[str, Tensor]]:
    """A teacher's output, and those of its layers `names`: it looks at a batch once, whoever asks, if the first asks for all."""
    key = f"teacher {id(module)}"
    if key not in step.shared or not set(names) <= set(step.shared[key][1]):
        with torch.no_grad(), tapped(module, names) as features:
            step.shared[key] = (_asked(module, batch), features)
    found: tuple[Any, Mapping[str, Tensor]] = step.shared[key]
    return found


def _asked(module: nn.Module, batch: Batch) -> Any:
    """A teacher's output."""
    try:
        return call(module, batch.inputs)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        said = next(iter(str(error).splitlines()), "").rstrip(".")
        raise TrainError(
            f"the teacher, a {type(module).__name__}, does not take the task's inputs ({said}); give one that does"
        ) from error


def taught(module: nn.Module, batch: Batch, step: Step, outputs: TeacherOutputs | None) -> Taught:
    """The teacher's logits, stored ones where there are."""

    def run() -> Tensor:
        return step.task.logits(look(module, batch, step)[0])

    if outputs is None:
        return Taught(run())
    key = f"stored {id(module)}"
    if key not in step.shared:  # once for all archs of a step
        step.shared[key] = outputs.ask(module, batch, run)
    found: Taught = step.shared[key]
    return found


def _described(divergence: Divergence | None) -> dict[str, Any]:
    """Nothing without one, so that trainings of before there were any still resume."""
    return {} if divergence is None else {"divergence": divergence.describe()}


def digest(module: nn.Module) -> dict[str, Any]:
    """Class, a digest of the weights of a module, and under `IDENTITY` what it computes beside them: JSON-able.

    Statistics of normalisation layers are computed, and rounded otherwise on another machine: of these the digest has three
    decimals of their size.
    """
    found = hashlib.blake2b(digest_size=8)
    statistics = statistics_of(module)
    for name, tensor in module.state_dict().items():
        found.update(name.encode())
        if name in statistics:
            found.update(f"{float(tensor.double().norm()):.3e}".encode())
            continue
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return {"class": type(module).__qualname__, "weights": found.hexdigest(), IDENTITY: behaviour(module)}


@checked(TrainError)
@dataclass(frozen=True)
class InPlace(Loss):
    """The largest arch learns from the labels, the others from its detached soft outputs of the same step.

    Yu & Huang 2019, "Universally Slimmable Networks"; BigNAS (Yu et al. 2020) gives the others no labels, the default here.
    Outputs are compared as fits the task: distributions over classes, numbers by mean squares (see `Task.divergence`).

    From fresh weights a largest arch that still knows nothing teaches the others just that, and weights that they share learn
    late or never; labels=0.5 avoids it (several labels an image: mean average precision of the largest network of the front
    0.96, not 0.49; see experiments/gallery).

    Args:
        temperature: softens both distributions.
        labels: weight of the labels in the loss of the others; the rest is the distillation's.
        divergence: how far the others are from the largest; None is the task's own: for classes the forward KL at
            `temperature`.
    """

    temperature: Positive = 1.0
    labels: Probability = 0.0
    divergence: Divergence | None = None

    def __post_init__(self) -> None:
        _check("InPlace", self.temperature, self.divergence)
        if self.divergence is not None and self.labels == 1.0:
            raise TrainError("InPlace has labels=1.0, so that its divergence has no effect; use Labels")

    def check(self, task: Task) -> None:
        """Whether outputs of the task are compared so."""
        if self.labels < 1.0:
            fitting.check("InPlace", task, self.divergence, self.temperature)

    def archs(self, archs: Sequence[Arch], space: Space) -> list[Arch]:
        """The largest arch first: it is added where the sampler did not choose it."""
        return [space.largest, *(arch for arch in archs if arch != space.largest)]

    def __call__(self, output: Any, batch: Batch, step: Step) -> Tensor:
        """Labels for the largest, distillation for the rest."""
        scores = step.task.logits(output)
        if step.arch == step.space.largest:
            step.shared["largest"] = scores.detach()
            return step.task.loss(output, batch)
        if self.labels == 1.0:
            return step.task.loss(output, batch)
        compare = comparing("InPlace", step.task, batch, scores, chosen=self.divergence, temperature=self.temperature)
        soft = compare(scores, step.shared["largest"])
        if not self.labels:
            return soft
        return self.labels * step.task.loss(output, batch) + (1.0 - self.labels) * soft

    def describe(self) -> dict[str, Any]:
        """Name and options."""
        options = {"temperature": self.temperature, "labels": self.labels}
        return {"class": type(self).__qualname__, **options, **_described(self.divergence)}
