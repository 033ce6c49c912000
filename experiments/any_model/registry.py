"""Nets as people write them, by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from case import Case
from torch import Tensor, nn

MODELS: dict[str, Callable[[], Case]] = {}
Inputs = tuple[Any, ...] | dict[str, Any]


def on(*inputs: Callable[[], Any], name: str = "", **named: Callable[[], Any]) -> Callable[[Any], Any]:
    """Register what is decorated, a class or a function that makes a module, with the inputs of its call."""

    def register(make: Callable[[], nn.Module]) -> Any:
        def case() -> Case:
            tensors: Inputs = (
                {key: each() for key, each in named.items()} if named else tuple(each() for each in inputs)
            )
            return Case(make(), tensors)

        called = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", make.__name__).lower()
        assert called not in MODELS, called
        MODELS[called] = case
        return make

    return register


def floats(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(*shape)


def words(*shape: int, most: int = 50) -> Callable[[], Tensor]:
    return lambda: torch.randint(1, most, shape)


images = floats(2, 3, 32, 32)
tokens = words(2, 9)
steps = floats(2, 9, 12)
rows = floats(4, 20)
waves = floats(2, 1, 64)
