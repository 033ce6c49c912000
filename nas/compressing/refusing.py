"""What cannot be compressed, said before any work: data that do not fit the model, outputs that are not repeatable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import EvaluationError, MetricError, NasError, brief, suggest
from nas.metrics import Metric, parse_objective
from nas.supernet import Supernet
from nas.supernet.effects import varies
from nas.supernet.inputs import Inputs, call, like, plain, tensors_in
from nas.supernet.skeleton import quiet
from nas.train import Task
from nas.train.task import Batch, to_device
from nas.train.trainer import check_options
from nas.train.validate import device_of

DECIDED = (
    *("supernet", "task", "path", "sampler", "loss", "steps", "epochs", "device"),
    *("checkpoint_every", "validate_every", "best", "patience", "min_delta", "warmup", "policy"),
)
"""Options of `nas.Training` that a compression decides itself, or that mean something else in it."""


def goal_of(best: str, task: Task) -> Metric:
    """The metric that decides between tuned networks.

    Args:
        best: as "max accuracy"; "" is "min loss".

    Raises:
        MetricError: it is not of that form, or the task does not measure it.
    """
    names = task.metric_names
    if not best and "loss" not in names:
        raise MetricError(
            f"{type(task).__name__} measures {', '.join(names)} and no loss; give best=, as best='max {names[0]}', to say "
            "which network is the better one"
        )
    try:
        found = parse_objective(best or "min loss")
    except MetricError:
        raise MetricError(
            f"best={best!r} is not understood; write 'max NAME' or 'min NAME' with one of {', '.join(names)}"
        ) from None
    if found.name not in names:
        raise MetricError(
            f"best={best!r} names no metric of {type(task).__name__}, which measures {', '.join(names)}"
            f"{suggest(found.name, names)}"
        )
    return found


def weight_of(teacher: float | None, task: Task) -> float:
    """Weight of the original's outputs in the loss: half, or nothing for a task that does not compare outputs.

    Raises:
        EvaluationError: one is asked for, and the task does not compare outputs.
    """
    if task.divergence is not None:
        return 0.5 if teacher is None else teacher
    if teacher:
        raise EvaluationError(
            f"teacher={teacher:g} has no effect on {type(task).__name__}, which does not say how outputs of two networks are "
            "compared; give it a property `divergence` (Task.of: divergence=), or leave teacher= out"
        )
    return 0.0


def check_stored(stored: bool | None, weight: float, task: Task) -> None:
    """Refuse to store the original's outputs where nothing would read them.

    Raises:
        EvaluationError: labels alone teach, or the task's batches cannot be asked again.
    """
    if not stored:
        return
    if not weight:
        raise EvaluationError(
            "stored=True has no effect where labels alone teach; leave it out, or give teacher= above 0"
        )
    if not task.repeatable:
        raise EvaluationError(
            f"stored=True has no effect on {type(task).__name__}, whose training data have an order of their own that cannot be "
            "asked again; leave it out, or give a data set"
        )


def check_hidden(hidden: float, weight: float, tune: str, stored: bool | None) -> None:
    """Refuse to teach layers where no teacher runs beside one network.

    Raises:
        EvaluationError: labels alone teach, networks are tuned together, or outputs alone are to be stored.
    """
    if not hidden:
        return
    if not weight:
        raise EvaluationError(
            f"hidden={hidden:g} has no effect where labels alone teach; leave it out, or give teacher= above 0"
        )
    if tune == "family":
        raise EvaluationError(
            f"hidden={hidden:g} has no effect with tune='family', whose networks have layers of different shapes; leave it out"
        )
    if stored:
        raise EvaluationError(
            f"stored=True has no effect with hidden={hidden:g}, for which the original runs with every batch; leave one out"
        )


def check_training(options: Mapping[str, Any]) -> None:
    """Refuse options that no training takes, or that a compression decides.

    Raises:
        EvaluationError: there is one.
    """
    check_options(options, DECIDED, "nas.compress", EvaluationError)


def check_fits(model: nn.Module | Supernet, task: Task) -> None:
    """Run the model on the first batches of a task, in eval mode.

    Raises:
        EvaluationError: the model does not take the task's inputs, the task does not take its outputs, an output or a loss is
            not a number, or the same inputs give other outputs at the next call.
        TrainError: the task says so.
    """
    who, what, device = _name(model), type(task).__name__, device_of(model)

    def run(inputs: Inputs) -> Any:
        if isinstance(model, Supernet):
            return model(inputs, model.space.largest)
        return call(model, inputs)

    with _as_it_is(model):
        for split, batch in _batches(task):
            moved = batch.to(device)
            try:
                output = run(moved.inputs)
            except Exception as error:
                raise EvaluationError(
                    f"{who} does not take the {split} inputs of {what} ({shown(batch.inputs)}): {type(error).__name__}: "
                    f"{brief(error, 300)}; give data that the model was trained on, or a model for these data"
                ) from error
            if any(bool(one.isnan().any()) for one in tensors_in(output) if one.is_floating_point()):
                raise EvaluationError(
                    f"{who} gives outputs that are not a number (NaN) for the {split} data; a model that was trained well is "
                    "what can be made smaller: look at its weights and at the data"
                )
            if batch.targets is None:
                continue
            _judge(who, task, split, output, moved)
            if split == "validation" and varies(lambda moved=moved: run(moved.inputs)):  # type: ignore[misc]
                raise EvaluationError(
                    f"{who} gives other outputs at each call in eval mode for the same inputs, so that no measurement of it or "
                    "of a part of it would mean anything; draw at random (dropout, noise) and change buffers only under "
                    "`if self.training:`"
                )


def shown(value: Any) -> str:
    """Types and shapes of the tensors in inputs or outputs: "float32 (32, 3, 8, 8)"."""
    found = [f"{str(one.dtype).removeprefix('torch.')} {tuple(one.shape)}" for one in tensors_in(plain(value))]
    return ", ".join(found[:4]) + (", …" if len(found) > 4 else "") or f"a {type(value).__name__}"


def _judge(who: str, task: Task, split: str, output: Any, batch: Batch) -> None:
    """Whether the task takes an output of the model."""
    try:
        loss = task.loss(output, batch)
        measured = task.metrics(output, batch) if split == "validation" else {}
    except NasError:
        raise
    except Exception as error:
        raise EvaluationError(
            f"{type(task).__name__} does not take what {who} gives for the {split} data (outputs {shown(output)}, targets "
            f"{shown(batch.targets)}): {type(error).__name__}: {brief(error, 300)}; the model's last layer must fit the targets"
        ) from error
    for name, value in {"loss": loss, **measured}.items():
        if isinstance(value, Tensor) and value.numel() == 1 and not bool(torch.isfinite(value)):
            raise EvaluationError(
                f"the {name} of {who} on the first {split} batch of {type(task).__name__} is {float(value):g}; look at the "
                "targets and at the loss"
            )


def _batches(task: Task) -> Iterator[tuple[str, Batch]]:
    """The example, and the first training, calibration and validation batches; those without targets have None.

    Raises:
        EvaluationError: there is no training or validation batch.
    """
    yield "example", Batch(task.example, None)
    for split, batches in (("training", task.train_batches(0)), ("validation", task.valid_batches())):
        found = list(islice(batches, 1))
        if not found:
            raise EvaluationError(f"{type(task).__name__} has no {split} batch; give it {split} data")
        yield split, found[0]
    for inputs in islice(task.calibration_inputs(), 1):
        yield "calibration", Batch(like(to_device(inputs, "cpu"), task.example), None)


def _name(model: nn.Module | Supernet) -> str:
    return f"space {model.space.name!r}" if isinstance(model, Supernet) else type(model).__name__


@contextmanager
def _as_it_is(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients inside the block; afterwards modes, buffers and random states are what they were."""
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    model.eval()
    try:
        with quiet(), torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
