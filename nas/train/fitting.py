"""Which comparison of outputs fits a task: what a loss with a teacher takes by default, and what it refuses."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from nas.errors import TrainError
from nas.supernet.inputs import tensors_in
from nas.train.divergences import KL, Divergence, Kind, MeanSquares, relative
from nas.train.task import Batch, Task

Compare: TypeAlias = Callable[[Tensor, Tensor], Tensor]

_SAID = {
    "classes": "logits of classes",
    "values": "numbers",
    "labels": "logits of labels that do not exclude each other",
    "embeddings": "embeddings",
}


def distillation(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), mean over all but the last dimension.

    T² keeps the gradient's size independent of T (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network").

    Args:
        student: (…, classes) logits.
        teacher: the same shape; no gradient goes to it.
    """
    if student.shape != teacher.shape:
        raise TrainError(
            f"the student's logits are {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}; they must agree"
        )
    log_q = functional.log_softmax(student.float() / temperature, -1)
    log_p = functional.log_softmax(teacher.detach().float() / temperature, -1)
    return relative(log_p, log_q).mean() * temperature**2


def check(who: str, task: Task, chosen: Divergence | None = None, temperature: float = 1.0) -> None:
    """Refuses a loss that compares outputs in a way which means nothing for the task.

    A task that does not say what its outputs are is judged by its first batch: see `comparing`.

    Args:
        who: the loss, for the sentence.
        task: what is trained.
        chosen: the loss's divergence; None is the task's own.
        temperature: the loss's.

    Raises:
        TrainError: they do not fit.
    """
    own = task.divergence
    if own is not None and chosen is not None:
        _check_kind(who, type(task).__name__, own.compares[0], chosen)
    if own is not None and chosen is None and temperature != 1.0:
        _softened(own, temperature, who)


def comparing(
    who: str, task: Task, batch: Batch, scores: Tensor, *, chosen: Divergence | None = None, temperature: float = 1.0
) -> Compare:
    """How far outputs are apart, as fits the task: what the loss chose, else the task's own.

    Args:
        who: the loss, for the sentence.
        task: what is trained.
        batch: whose targets tell what the outputs are, where the task does not.
        scores: `task.logits` of the student.
        chosen: the loss's divergence, or None.
        temperature: softens distributions.

    Raises:
        TrainError: the task does not say what its outputs are, and the targets do not either.
    """
    own = task.divergence
    if own is None:
        own = _guessed(task, batch, scores)
        if chosen is not None:
            _check_kind(who, type(task).__name__, own.compares[0], chosen)
    if chosen is not None:
        return chosen
    if own == KL():
        return functools.partial(distillation, temperature=temperature)
    return own if temperature == 1.0 else _softened(own, temperature, who)


def kind_of(task: Task, batch: Batch, scores: Tensor) -> Kind:
    """What the outputs are, as the task says or the targets tell."""
    return (task.divergence or _guessed(task, batch, scores)).compares[0]


def _check_kind(who: str, name: str, kind: Kind, chosen: Divergence) -> None:
    if kind not in chosen.compares:
        raise TrainError(
            f"{who} compares outputs by {type(chosen).__name__}, which is made for {_SAID[chosen.compares[0]]}, and those of "
            f"{name} are {_SAID[kind]}; leave the divergence out, or teach with loss=nas.Labels()"
        )


def _softened(own: Any, temperature: float, who: str) -> Divergence:
    if not dataclasses.is_dataclass(own) or not hasattr(own, "temperature"):
        raise TrainError(
            f"{who} has temperature={temperature}, which has no effect on outputs that are compared by {type(own).__name__}; "
            "leave it out"
        )
    found: Any = dataclasses.replace(own, temperature=temperature)  # type: ignore[type-var]
    assert isinstance(found, Divergence)
    return found


def _guessed(task: Task, batch: Batch, scores: Tensor) -> Divergence:
    """Of a task that does not say: classes where integers have all but the last axis, numbers where floats have all axes."""
    targets = tensors_in(batch.targets)
    shape = scores.shape
    whole = [one for one in targets if not one.is_floating_point() and not one.is_complex()]
    if scores.ndim >= 2 and any(one.shape == shape[:-1] for one in whole):
        return KL()
    fractions = [one for one in targets if one.is_floating_point() and one.shape == shape]
    if fractions:
        return KL() if scores.ndim >= 2 and shape[-1] > 1 and _distributions(fractions[0]) else MeanSquares()
    said = ", ".join(str(tuple(one.shape)) for one in targets) or f"a {type(batch.targets).__name__}"
    raise TrainError(
        f"{type(task).__name__} does not say how outputs of two networks are compared, and outputs of shape {tuple(shape)} with "
        f"targets of {said} do not tell; give it a property `divergence` (nas.KL() for classes on the last axis of Task.logits, "
        "nas.MeanSquares() for numbers), or teach with loss=nas.Labels()"
    )


def _distributions(targets: Tensor) -> bool:
    """Whether each row is a distribution over classes, as soft labels are."""
    return bool((targets >= 0).all()) and bool(torch.allclose(targets.sum(-1), targets.new_ones(()), atol=1e-3))
