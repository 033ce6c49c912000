"""Training data without labels beside a labelled task: what a teacher alone can teach on.

Cui et al. 2021, "Beyond Self-Supervision: A Simple Yet Effective Network Distillation Alternative to Improve Backbones" (SSLD): a
student learns nothing but the outputs of a trained teacher, of any inputs that look like the task's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from nas.checking import Count, Natural, checked
from nas.errors import TrainError
from nas.supernet.inputs import Example, Inputs, tensors_in
from nas.train.divergences import Divergence
from nas.train.task import Batch, Forward, Split, Task

NONE: tuple[()] = ()
"""Targets of a batch without labels."""


@checked(TrainError)
@dataclass(frozen=True, eq=False)
class Unlabelled(Task):
    """Inputs to train on, without labels; validation, test and metrics are another task's.

    >>> more = nas.Unlabelled(task, images)  # doctest: +SKIP
    >>> nas.train.train(net, more, loss=nas.Teacher(model, weight=1.0), steps=1000)  # doctest: +SKIP

    A loss that learns from labels is refused.

    Args:
        task: what networks are judged by.
        inputs: (n, …) tensor or array, or a tuple or mapping of them, as the task's model takes them.
        batch: samples a training batch.
        seed: of the order and the augmentation.
        augment: maps the inputs of a training batch and a generator to augmented inputs.
        calibration: of these inputs, for BatchNorm statistics (at most).

    Raises:
        TrainError: the inputs are not such as the task's are; or the task does not say how two networks' outputs are compared.
    """

    task: Task
    inputs: Any
    _: KW_ONLY
    batch: Count = 64
    seed: int = 0
    augment: Callable[..., Any] | None = None
    calibration: Natural = 1024

    def __post_init__(self) -> None:
        if not isinstance(self.task, Task):
            raise TrainError(
                f"Unlabelled has task={type(self.task).__name__}; give the nas.Task that networks are judged by"
            )
        if self.task.divergence is None:
            raise TrainError(
                f"{type(self.task).__name__} does not say how the outputs of two networks are compared, and without labels these "
                "are all there is; give it a divergence (nas.Task.of(…, divergence=nas.KL()))"
            )
        ours, theirs = (_shapes(one) for one in (self._rows.example, self.task.example))
        if ours != theirs:
            raise TrainError(
                f"the inputs without labels have samples of {', '.join(ours)} and those of the task {', '.join(theirs)}; give "
                "such as the task's model takes"
            )

    @functools.cached_property
    def _rows(self) -> Task:
        """A task of the same inputs, whose targets nobody looks at: it knows how to order and augment them."""
        found = tensors_in(self.inputs) if isinstance(self.inputs, (Tensor, tuple, Mapping)) else [self.inputs]
        if not found or not getattr(found[0], "ndim", 0):
            raise TrainError(
                f"Unlabelled has inputs={type(self.inputs).__name__}; give a tensor or array (n, …), or a tuple or mapping "
                "of them"
            )
        axis = self.task.example.batch_axis if isinstance(self.task.example, Example) else 0
        options: dict[str, Any] = {"augment": self.augment, "calibration": self.calibration}
        valid = (
            self.task.example.inputs if isinstance(self.task.example, Example) else self.task.example,
            torch.zeros(1),
        )
        return Task.of(
            (self.inputs, torch.zeros(len(found[0]))),
            valid,
            loss="mse",
            batch=self.batch,
            seed=self.seed,
            batch_axis=axis,
            **options,
        )

    @property
    def labelled(self) -> bool:
        """No."""
        return False

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of the inputs."""
        return self._rows.steps_per_epoch

    @property
    def example(self) -> Inputs:
        """The task's."""
        return self.task.example

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """Shuffled, augmented batches of one epoch, without targets."""
        return (Batch(batch.inputs, NONE) for batch in self._rows.train_batches(epoch))

    def calibration_inputs(self) -> Iterator[Inputs]:
        """Of these inputs, as they are."""
        return self._rows.calibration_inputs()

    def valid_batches(self) -> Iterator[Batch]:
        """The task's."""
        return self.task.valid_batches()

    def test_batches(self) -> Iterator[Batch]:
        """The task's."""
        return self.task.test_batches()

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """The task's, of a batch that has labels: of the other splits.

        Raises:
            TrainError: it has none.
        """
        if batch.targets is NONE or batch.targets == NONE:
            raise TrainError(
                "training data of nas.Unlabelled have no labels, and something asked for their loss; teach with "
                "nas.Teacher(module, weight=1.0), and give the labelled task for everything else"
            )
        return self.task.loss(output, batch)

    def metrics(self, output: Any, batch: Batch) -> Mapping[str, Tensor]:
        """The task's."""
        return self.task.metrics(output, batch)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The task's."""
        return self.task.metric_names

    def logits(self, output: Any) -> Tensor:
        """The task's."""
        return self.task.logits(output)

    @property
    def divergence(self) -> Divergence | None:
        """The task's."""
        return self.task.divergence

    @property
    def note(self) -> str:
        """The task's."""
        return self.task.note

    def check_teacher(self, output: Any, batch: Batch) -> None:
        """The task's."""
        self.task.check_teacher(output, batch)

    def evaluate(
        self, forward: Forward, split: Split = "valid", *, device: torch.device | str = "cpu"
    ) -> dict[str, float]:
        """The task's."""
        return self.task.evaluate(forward, split, device=device)

    def describe(self) -> dict[str, Any]:
        """The task's own, and what the inputs are."""
        return {"class": "Unlabelled", "task": self.task.describe(), "inputs": self._rows.describe()}


def _shapes(example: Inputs) -> list[str]:
    return [f"{tuple(one.shape)} {str(one.dtype).removeprefix('torch.')}" for one in tensors_in(example)]
