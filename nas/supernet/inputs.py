"""What a model is called with: one tensor, a tuple of positional arguments, or a mapping of keywords; and their batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nas.errors import SupernetError

Axis: TypeAlias = int | tuple[int | None, ...] | Mapping[str, int | None] | None
"""Of the batch: one for all tensors, None where there is none, or one for each of a tuple or mapping."""


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """Inputs that say which of their axes is the batch's, where that is not the first of each.

    >>> nas.Example(torch.zeros(12, 1, 4), batch_axis=1)  # time first  # doctest: +SKIP
    >>> nas.Example((nodes, edges), batch_axis=None)  # a graph: there is no batch  # doctest: +SKIP

    Operations, latencies and memory are of one sample along that axis, and of the whole inputs where there is none.

    Args:
        inputs: a tensor, a tuple of positional arguments, or a mapping of keyword arguments.
        batch_axis: of all tensors, or of each in the form of the inputs; a tensor without that axis is for all samples.

    Raises:
        SupernetError: the axis is none of these, or tensors have other lengths along it.
    """

    inputs: Tensor | tuple[Any, ...] | Mapping[str, Any]
    batch_axis: Axis = 0

    def __post_init__(self) -> None:
        if isinstance(self.inputs, Example):
            raise SupernetError("the inputs are an Example already; give the tensors, and the axis once")
        arguments(self.inputs)
        check_batch(self)


Inputs: TypeAlias = Tensor | tuple[Any, ...] | Mapping[str, Any] | Example


def arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`inputs` as positional and keyword arguments.

    Raises:
        SupernetError: they are none of the forms.
    """
    if isinstance(inputs, Example):
        return arguments(inputs.inputs)
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, tuple):
        return inputs, {}
    raise SupernetError(
        f"inputs of type {type(inputs).__name__} are not understood; give a tensor, a tuple of positional arguments "
        "or a mapping of keyword arguments"
    )


def call(module: nn.Module, inputs: Inputs) -> Any:
    """`module` called with `inputs`."""
    if isinstance(inputs, Tensor):
        return module(inputs)
    positional, keywords = arguments(inputs)
    return module(*positional, **keywords)


def call_with(module: nn.Module, inputs: Inputs, tensors: Mapping[str, Tensor]) -> Any:
    """`module` called with `inputs`, and with other tensors in the place of its own, which it has again afterwards.

    Each place is exchanged once: a module that is registered under two names would be left with what it had meanwhile, by
    torch's `functional_call`, which takes the second name's tensor for its own.

    Args:
        module: it must not be called by another thread meanwhile.
        inputs: of the module.
        tensors: by the names of its parameters and buffers; of one with several names (ties) by all of them.
    """
    places: dict[tuple[int, str], str] = {}
    for name in tensors:
        path, _, key = name.rpartition(".")
        places.setdefault((id(module.get_submodule(path)), key), name)
    positional, keywords = arguments(inputs)
    given = {name: tensors[name] for name in places.values()}
    return functional_call(module, given, positional, keywords, tie_weights=False)


def convert(inputs: Inputs, change: Callable[[Tensor], Any]) -> Any:
    """`inputs` with `change` applied to its tensors, at the top level of each form."""
    return _converted(inputs, lambda tensor, _: change(tensor))


def _converted(inputs: Inputs, change: Callable[[Tensor, int | None], Any]) -> Any:
    """As `convert`; `change` is told the axis of the batch too."""
    if isinstance(inputs, Example):
        changed = dataclasses.replace(inputs)
        plain = _changed(inputs.inputs, change, inputs.batch_axis)
        object.__setattr__(changed, "inputs", plain)  # what it becomes need not be tensors
        return changed
    return _changed(inputs, change, 0)


def _changed(inputs: Any, change: Callable[[Tensor, int | None], Any], axis: Axis) -> Any:
    if isinstance(inputs, Tensor):
        return change(inputs, _along(inputs, axis, 0))
    positional, keywords = arguments(inputs)
    if isinstance(inputs, tuple):
        return tuple(
            change(value, _along(value, axis, place)) if isinstance(value, Tensor) else value
            for place, value in enumerate(positional)
        )
    return {
        key: change(value, _along(value, axis, key)) if isinstance(value, Tensor) else value
        for key, value in keywords.items()
    }


def _along(tensor: Tensor, axis: Axis, place: int | str) -> int | None:
    """The axis of the batch of the tensor in one place, 0 or more; None where it has none."""
    if isinstance(axis, Mapping):
        axis = axis.get(str(place))
    elif isinstance(axis, tuple):
        axis = axis[int(place)] if isinstance(place, int) and place < len(axis) else None
    if axis is not None and (isinstance(axis, bool) or not isinstance(axis, int)):
        raise SupernetError(
            f"batch_axis={axis!r} is no axis; give a whole number, None, or one for each of the inputs in their form"
        )
    if axis is None or not -tensor.dim() <= axis < tensor.dim():
        return None
    return axis % tensor.dim()


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in inputs or an output, in order: of nested tuples, lists, mappings and dataclasses."""
    if isinstance(value, Tensor):
        return [value]
    if dataclasses.is_dataclass(value) and not isinstance(value, (type, Mapping)):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    return [tensor for item in items for tensor in tensors_in(item)]


# -- the batch


def axis_of(inputs: Inputs) -> Axis:
    """The axis that `inputs` say, or the first."""
    return inputs.batch_axis if isinstance(inputs, Example) else 0


def like(inputs: Inputs, example: Inputs) -> Inputs:
    """`inputs` with the axis of `example`, where they say none themselves."""
    if isinstance(inputs, Example) or not isinstance(example, Example):
        return inputs
    return Example(inputs, example.batch_axis)


def plain(inputs: Inputs) -> Any:
    """The tensors alone, as a model is called with."""
    return inputs.inputs if isinstance(inputs, Example) else inputs


def sample_axes(inputs: Inputs) -> dict[int, int]:
    """Axis of samples of each tensor of `inputs` that has one, by its `id`."""
    found: dict[int, int] = {}

    def note(tensor: Tensor, axis: int | None) -> Tensor:
        if axis is not None and axis < tensor.dim():
            found[id(tensor)] = axis
        return tensor

    _converted(inputs, note)
    return found


def has_batch(inputs: Inputs) -> bool:
    """Whether any tensor has an axis of the batch."""
    return bool(_lengths(inputs))


def batch_size(inputs: Inputs) -> int:
    """Number of samples: the length that the tensors of `inputs` have along the axis of the batch; 1 where there is none.

    A tensor of length 1 is for all samples, and so are those of other lengths than the first where no axis is said: see
    `check_batch`.
    """
    lengths = _lengths(inputs)
    several = set(lengths) - {1}
    return (several.pop() if len(several) == 1 else lengths[0]) if several else 1


def check_batch(inputs: Inputs) -> None:
    """Whether all tensors of `inputs` have as many samples, as those have that models are measured with.

    Raises:
        SupernetError: they have not.
    """
    several = sorted(set(_lengths(inputs)) - {1})
    if len(several) < 2:
        return
    if isinstance(inputs, Example):
        said = f"batch_axis={inputs.batch_axis!r}: tensors have {' and '.join(map(str, several))} samples along it"
    else:
        said = f"tensors of the inputs have {' and '.join(map(str, several))} along their first axis, which is no batch"
    raise SupernetError(
        f"{said}; say which axis is the batch's with nas.Example(inputs, batch_axis=...): a number, None where there is "
        "no batch (a graph), or one for each tensor"
    )


def _lengths(inputs: Inputs) -> list[int]:
    found: list[int] = []

    def note(tensor: Tensor, axis: int | None) -> Tensor:
        if axis is not None:
            found.append(tensor.shape[axis])
        return tensor

    _converted(inputs, note) if not isinstance(inputs, Example) else _changed(inputs.inputs, note, inputs.batch_axis)
    return found


def batch_axes(inputs: Inputs, named: Any) -> Any:
    """`{axis: named}` for each tensor of `inputs` that has samples, None for the others, in the form of the inputs."""
    size = batch_size(inputs)

    def mark(tensor: Tensor, axis: int | None) -> Any:
        return None if axis is None or tensor.shape[axis] != size else {axis: named}

    found = _changed(plain(inputs), mark, axis_of(inputs))
    if isinstance(found, tuple):
        return tuple(None if not isinstance(one, dict) else one for one in found)
    if isinstance(plain(inputs), Mapping):
        return {key: one if isinstance(one, dict) else None for key, one in found.items()}
    return found


def some(inputs: Inputs, rows: slice) -> Any:
    """The samples `rows` of `inputs`; what is for all samples stays whole."""
    size = batch_size(inputs)
    start, stop, _ = rows.indices(size)

    def cut(tensor: Tensor, axis: int | None) -> Tensor:
        if axis is None or tensor.shape[axis] != size:
            return tensor
        return tensor.narrow(axis, start, max(0, stop - start))

    return _converted(inputs, cut)


def repeated(inputs: Inputs, times: int) -> Any:
    """Every sample of `inputs` so often, in the order of the inputs; inputs without a batch stay what they are."""
    size = batch_size(inputs)

    def repeat(tensor: Tensor, axis: int | None) -> Tensor:
        if axis is None or tensor.shape[axis] != size:
            return tensor
        return tensor.repeat([times if place == axis else 1 for place in range(tensor.dim())])

    return _converted(inputs, repeat)


def spread(inputs: Inputs, size: int) -> Any:
    """One sample of each tensor as `size` of them; tensors of several samples stay what they are."""

    def expand(tensor: Tensor, axis: int | None) -> Tensor:
        if axis is None or tensor.shape[axis] != 1:
            return tensor
        return tensor.expand([size if place == axis else -1 for place in range(tensor.dim())]).contiguous()

    return _converted(inputs, expand)


def joined(first: Inputs, second: Inputs) -> Any:
    """The samples of both, or None where other axes do not fit; `second` is of the form of `first`.

    What is for all samples is taken from `first`.
    """
    others = iter(tensors_in(list(_values(second))))
    sizes = batch_size(first), batch_size(second)
    fits = True

    def join(tensor: Tensor, axis: int | None) -> Tensor:
        nonlocal fits
        other = next(others, None)
        if axis is None or tensor.shape[axis] != sizes[0]:
            return tensor
        rest = [
            [length for place, length in enumerate(one.shape) if place != axis]
            for one in (tensor, other)
            if one is not None
        ]
        if other is None or tensor.dim() != other.dim() or rest[0] != rest[1] or other.shape[axis] != sizes[1]:
            fits = False
            return tensor
        return torch.cat([tensor, other], axis)

    found = _converted(first, join)
    return found if fits else None


def _values(inputs: Inputs) -> list[Any]:
    positional, keywords = arguments(inputs)
    return [value for value in (*positional, *keywords.values()) if isinstance(value, Tensor)]


# -- written down


def few_samples(inputs: Inputs, most: int = 2) -> Any:
    """The first samples of `inputs`: of each tensor that is as long as a batch along its axis."""
    size = batch_size(inputs)

    def first(tensor: Tensor, axis: int | None) -> Tensor:
        return tensor if axis is None or tensor.shape[axis] != size else tensor.narrow(axis, 0, min(most, size))

    return _converted(inputs, first)


def sample_text(inputs: Inputs) -> str:
    """Shapes and dtypes of one sample of `inputs` and where its batch was: what latency, memory and operations belong to.

    >>> sample_text(torch.zeros(8, 3, 32, 32))
    '(3, 32, 32) float32'
    >>> sample_text(Example((torch.zeros(12, 8, 4), torch.zeros(5, 5)), batch_axis=(1, None)))
    '((12, 4) float32 along batch axis 1, (5, 5) float32 without batch)'

    Equal for batches of any size.  Values are no part, but for those of other arguments than tensors.
    """
    size = batch_size(inputs)

    def text(tensor: Tensor, axis: int | None) -> str:
        dtype, shape = str(tensor.dtype).split(".")[1], list(tensor.shape)
        if axis is None or shape[axis] not in (1, size):
            return f"{_shape_text(shape)} {dtype} without batch"
        del shape[axis]
        return f"{_shape_text(shape)} {dtype}{f' along batch axis {axis}' if axis else ''}"

    found = plain(_converted(inputs, text))
    if isinstance(found, str):
        return found
    if isinstance(found, tuple):
        return f"({', '.join(map(_argument_text, found))})"
    return f"{{{', '.join(f'{name}: {_argument_text(found[name])}' for name in sorted(found, key=str))}}}"


def _shape_text(shape: list[int]) -> str:
    return f"({', '.join(map(str, shape))})"


def _argument_text(value: Any) -> str:
    """Of an argument that is no tensor, or of the text of a tensor."""
    if isinstance(value, str):
        return value
    if isinstance(value, Tensor):
        return f"{_shape_text(list(value.shape))} {str(value.dtype).split('.')[1]}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_argument_text, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_argument_text(one)}' for key, one in value.items())}}}"
    return repr(value) if isinstance(value, (bool, int, float, type(None))) else type(value).__name__


def describe(inputs: Inputs) -> Any:
    """JSON-able shapes and dtypes of `inputs`; values that are no tensors must be JSON themselves."""
    shapes = convert(
        plain(inputs), lambda tensor: {"shape": list(tensor.shape), "dtype": str(tensor.dtype).split(".")[1]}
    )
    form = "tensor" if isinstance(plain(inputs), Tensor) else "tuple" if isinstance(plain(inputs), tuple) else "mapping"
    described = {"form": form, "value": shapes}
    if isinstance(inputs, Example):
        axis = inputs.batch_axis
        described["batch_axis"] = (
            list(axis) if isinstance(axis, tuple) else dict(axis) if isinstance(axis, Mapping) else axis
        )
    return described


def zeros(description: Mapping[str, Any]) -> Any:
    """Inputs of the shapes and dtypes that `describe` gave, filled with zeros."""

    def make(value: Any) -> Any:
        if isinstance(value, Mapping) and set(value) == {"shape", "dtype"}:
            return torch.zeros(value["shape"], dtype=getattr(torch, value["dtype"]))
        return value

    value = description["value"]
    if description["form"] == "tensor":
        found = make(value)
    elif description["form"] == "tuple":
        found = tuple(make(item) for item in value)
    else:
        found = {key: make(item) for key, item in value.items()}
    if "batch_axis" not in description:
        return found
    axis = description["batch_axis"]
    return Example(found, tuple(axis) if isinstance(axis, list) else axis)
