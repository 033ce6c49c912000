"""Some samples of a batch, and two batches as one: inputs along the axis that the task's example says, targets along theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from nas.errors import TrainError
from nas.supernet.inputs import Example, Inputs, axis_of, batch_size, has_batch, joined, like, plain, some
from nas.train.task import Batch, Task


def part_of(batch: Batch, rows: slice, example: Inputs) -> Batch:
    """The samples `rows` of a batch; what is for all samples stays whole.

    Raises:
        TrainError: the inputs have no batch, or two axes of a target may be.
    """
    inputs = like(batch.inputs, example)
    if not has_batch(inputs):
        raise TrainError("the task's inputs have no batch that could be shared or cut; train with one process")
    total, axis = batch_size(inputs), axis_of(inputs)
    start, stop, _ = rows.indices(total)

    def cut(target: Tensor) -> Tensor:
        place = _axis(target, total, axis)
        return target if place is None else target.narrow(place, start, max(0, stop - start))

    chosen = some(inputs, rows)
    return Batch(chosen if isinstance(batch.inputs, Example) else plain(chosen), _mapped(batch.targets, cut))


def lent(batches: Iterable[Batch], task: Task, count: int) -> Iterator[Batch]:
    """The `count` batches of an epoch, as many as there are; one of one sample gets another from its neighbour.

    A batch of one has no variance.  One batch less would move all that follow, which a resumed training counts.  The batch
    after one is taken early only where it may be needed: behind a single sample, and at the end, where the last may be one.
    """
    example = task.example
    if not has_batch(example):
        yield from batches
        return
    held: Batch | None = None
    for index, batch in enumerate(batches):
        if held is not None:
            held, batch = _lent(held, batch, task, example)  # noqa: PLW2901
            yield held
            held = None
        if index == count - 2 or task.samples(batch) == 1:
            held = batch
        else:
            yield batch
    if held is not None:
        yield held


def _lent(first: Batch, second: Batch, task: Task, example: Inputs) -> tuple[Batch, Batch]:
    """The two, where one is a single sample and the other is not: with two samples or more each, and one twice where needed."""
    sizes = task.samples(first), task.samples(second)
    if min(sizes) > 1 or max(sizes) == 1:
        return first, second
    if sizes[1] == 1:
        together = _both(part_of(first, slice(sizes[0] - 1, None), example), second, example)
        left = first if sizes[0] == 2 else part_of(first, slice(sizes[0] - 1), example)
        return (first, second) if together is None else (left, together)
    together = _both(first, part_of(second, slice(1), example), example)
    left = second if sizes[1] == 2 else part_of(second, slice(1, None), example)
    return (first, second) if together is None else (together, left)


def _both(first: Batch, second: Batch, example: Inputs) -> Batch | None:
    """One sample of each; None where they do not fit."""
    inputs = joined(like(first.inputs, example), like(second.inputs, example))
    if inputs is None:
        return None
    axis = axis_of(like(first.inputs, example))
    try:
        targets = _together(first.targets, second.targets, axis)
    except (TypeError, ValueError, RuntimeError):
        return None
    return Batch(inputs if isinstance(first.inputs, Example) else plain(inputs), targets)


def _together(first: Any, second: Any, axis: Any) -> Any:
    if isinstance(first, Tensor):
        place = _axis(first, 1, axis)
        return first if place is None else torch.cat([first, second], place)
    if isinstance(first, Mapping):
        return {name: _together(item, second[name], axis) for name, item in first.items()}
    if isinstance(first, (tuple, list)):
        return type(first)(_together(*pair, axis) for pair in zip(first, second, strict=True))
    return first


def _axis(target: Tensor, total: int, axis: Any) -> int | None:
    """The axis of a target that has the samples: the first, or that of the inputs; None where neither has so many."""
    places = [0] if target.ndim else []
    if isinstance(axis, int) and 0 < axis < target.ndim:
        places.append(axis)
    fits = [place for place in places if target.shape[place] == total]
    if len(fits) > 1 and total > 1:
        raise TrainError(
            f"targets of shape {tuple(target.shape)} have {total} along two axes, of which either may be the batch's; "
            "give batches of another size"
        )
    return fits[-1] if fits else None


def _mapped(value: Any, change: Any) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(item, change) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_mapped(item, change) for item in value)
    return value
