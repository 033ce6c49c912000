"""What data give, as inputs of a model and targets: pairs, tuples with the target last, mappings with labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from nas.errors import TrainError
from nas.supernet.inputs import Axis, tensors_in
from nas.train.task import Batch

Names: TypeAlias = str | Sequence[str] | None

LABELS = ("labels", "label", "targets", "target", "y")
"""Names that mean the target in a mapping, in the order in which they are looked for."""


def as_batch(raw: Any, inputs: Names, target: str | None, whose: str) -> Batch:
    """A batch as a loader gives it, as `Batch`.

    Args:
        raw: (inputs, target), a tuple of several inputs with the target last, a mapping with the target among it, or a `Batch`.
        inputs: names of a mapping to call the model with by place; None calls it with all others by name.
        target: name of the target in a mapping; None looks for `LABELS`.
        whose: split, for the sentence.

    Raises:
        TrainError: it is none of these, or a part is no tensor.
    """
    if isinstance(raw, Batch):
        return raw
    if isinstance(raw, Mapping):
        return _of_mapping(
            {str(name): tensors(item, f"{whose}'s {name!r}") for name, item in raw.items()}, inputs, target, whose
        )
    if isinstance(raw, (tuple, list)) and len(raw) >= 2 and inputs is None and target is None:
        *given, last = (tensors(item, f"{whose}'s part {at}") for at, item in enumerate(raw))
        return Batch(given[0] if len(given) == 1 else tuple(given), last)
    if inputs is not None or target is not None:
        raise TrainError(
            f"{whose} gives a {_named(raw)}, and inputs= and target= name parts of a mapping; leave them out"
        )
    raise TrainError(
        f"{whose} gives a {_named(raw)} where a pair is expected: (inputs, target), a tuple with the target last, or a mapping "
        f"with one of {', '.join(LABELS)}"
    )


def _of_mapping(raw: dict[str, Any], inputs: Names, target: str | None, whose: str) -> Batch:
    there = ", ".join(raw)
    label = target if target is not None else next((name for name in LABELS if name in raw), None)
    if label is None or label not in raw:
        said = f"no {target!r}" if target is not None else f"none of {', '.join(LABELS)}"
        raise TrainError(f"{whose} gives a mapping with {there}, and {said} in it; name the target with target=")
    if inputs is None:
        rest = {name: item for name, item in raw.items() if name != label}
        if not rest:
            raise TrainError(f"{whose} gives a mapping with the target {label!r} alone; the model needs inputs")
        return Batch(rest, raw[label])
    names = [inputs] if isinstance(inputs, str) else list(inputs)
    for name in names:
        if name not in raw:
            raise TrainError(f"{whose} gives a mapping with {there}, and no {name!r} in it; inputs= names parts of it")
    return Batch(raw[names[0]] if len(names) == 1 else tuple(raw[name] for name in names), raw[label])


def tensors(value: Any, what: str) -> Any:
    """`value` with arrays and numbers as tensors: float64 of NumPy, its default, is float32, torch's.

    Raises:
        TrainError: it is text, None, an image without numbers, …
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise TrainError(f"{what} is an array of {array.dtype}, which no model takes; give numbers")
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    if isinstance(value, (bool, int, float)):
        return torch.tensor(value)
    if isinstance(value, Mapping):
        return {name: tensors(item, what) for name, item in value.items()}
    if isinstance(value, list) and value and all(isinstance(item, (bool, int, float)) for item in value):
        return torch.tensor(value)
    if isinstance(value, (tuple, list)):
        return tuple(tensors(item, what) for item in value)
    raise TrainError(
        f"{what} is a {_named(value)} and no tensor; turn it into numbers in the data set (a transform, a tokenizer), or name "
        "what the model takes with inputs="
    )


def check_finite(batch: Batch, whose: str) -> None:
    """Refuses NaN and infinities, with which every number after is one.

    Raises:
        TrainError: with the part that has them.
    """
    for part, value in (("inputs", batch.inputs), ("targets", batch.targets)):
        for tensor in tensors_in(value):
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                what = "NaN" if bool(torch.isnan(tensor).any()) else "infinity"
                raise TrainError(f"{whose} has {what} in its {part}; fill or leave out such samples")


def placed(inputs: Any, axis: Axis) -> Any:
    """Inputs with their samples first, moved to the axis that the model takes: one for all, or one for each."""
    if axis in (0, None):
        return inputs
    if isinstance(inputs, Tensor):
        return inputs.movedim(0, axis).contiguous() if isinstance(axis, int) else inputs
    if isinstance(inputs, Mapping):
        each = axis if isinstance(axis, Mapping) else dict.fromkeys(inputs, axis)
        return {name: placed(item, each.get(name)) for name, item in inputs.items()}
    if isinstance(inputs, tuple):
        places = axis if isinstance(axis, tuple) else [axis] * len(inputs)
        return tuple(placed(item, place) for item, place in zip(inputs, places, strict=True))
    return inputs


def _named(value: Any) -> str:
    return type(value).__name__
