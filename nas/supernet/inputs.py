"""What a model is called with: one tensor, a tuple of positional arguments, or a mapping of keywords."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import SupernetError

Inputs = Tensor | tuple[Any, ...] | Mapping[str, Any]


def arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`inputs` as positional and keyword arguments.

    Raises:
        SupernetError: they are none of the three forms.
    """
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


def convert(inputs: Inputs, change: Callable[[Tensor], Any]) -> Any:
    """`inputs` with `change` applied to its tensors, at the top level of each form."""
    if isinstance(inputs, Tensor):
        return change(inputs)
    positional, keywords = arguments(inputs)
    if isinstance(inputs, tuple):
        return tuple(change(value) if isinstance(value, Tensor) else value for value in positional)
    return {key: change(value) if isinstance(value, Tensor) else value for key, value in keywords.items()}


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in inputs or an output, in order: of nested tuples, lists, mappings and dataclasses."""
    if isinstance(value, Tensor):
        return [value]
    if dataclasses.is_dataclass(value) and not isinstance(value, (type, Mapping)):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    return [tensor for item in items for tensor in tensors_in(item)]


def batch_size(inputs: Inputs) -> int:
    """Length of the first axis of the first tensor of `inputs`; 1 when there is none."""
    positional, keywords = arguments(inputs)
    tensors = (value for value in (*positional, *keywords.values()) if isinstance(value, Tensor) and value.dim())
    return next((len(tensor) for tensor in tensors), 1)


def describe(inputs: Inputs) -> Any:
    """JSON-able shapes and dtypes of `inputs`; values that are no tensors must be JSON themselves."""
    described = convert(inputs, lambda tensor: {"shape": list(tensor.shape), "dtype": str(tensor.dtype).split(".")[1]})
    if isinstance(inputs, Tensor):
        return {"form": "tensor", "value": described}
    return {"form": "tuple" if isinstance(inputs, tuple) else "mapping", "value": described}


def zeros(description: Mapping[str, Any]) -> Any:
    """Inputs of the shapes and dtypes that `describe` gave, filled with zeros."""

    def make(value: Any) -> Any:
        if isinstance(value, Mapping) and set(value) == {"shape", "dtype"}:
            return torch.zeros(value["shape"], dtype=getattr(torch, value["dtype"]))
        return value

    value = description["value"]
    if description["form"] == "tensor":
        return make(value)
    if description["form"] == "tuple":
        return tuple(make(item) for item in value)
    return {key: make(item) for key, item in value.items()}
