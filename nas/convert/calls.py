"""How the modules of a model were called while it was captured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass
class Called:
    """How a module was called while the model was captured.

    Attributes:
        times: how often.
        shape: of the first argument; None if that is no tensor.
        extras: entries after the first of the tuple that it gave, None if it gave a tensor, -1 if it gave anything else.
    """

    times: int
    shape: tuple[int, ...] | None
    extras: int | None


def watch_calls(model: nn.Module) -> dict[str, Called]:
    """Note how each module of `model` is called, until the model is gone; by name."""
    found: dict[str, Called] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(_noting(found, name), with_kwargs=True)
    return found


def _noting(found: dict[str, Called], name: str) -> Any:
    def note(_module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        first = next((each for each in (*args, *keywords.values()) if isinstance(each, Tensor)), None)
        shape = tuple(first.shape) if first is not None else None
        times = found[name].times + 1 if name in found else 1
        found[name] = Called(times, shape, _extras(output))

    return note


def _extras(output: Any) -> int | None:
    if isinstance(output, Tensor):
        return None
    if type(output) in (tuple, list) and output and isinstance(output[0], Tensor):
        return len(output) - 1
    return -1
