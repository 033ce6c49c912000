"""Taking the outputs of named layers while a model runs.

A layer is named by its path in the model, as `named_modules` gives it: "stages.1", "blocks.3.attention".  Hooks are on the
layers only while the model runs, whatever happens in it, and what they take is a copy, so that a layer that changes its input
in place (a ReLU) does not change what was taken before it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from nas.errors import TrainError, suggest

SHOWN = 12
"""Names that an error lists."""


@contextmanager
def tapped(module: nn.Module, names: Iterable[str], *, strict: bool = True) -> Iterator[dict[str, Tensor]]:
    """What the layers `names` of `module` give inside the block, each with its graph; of several runs the last.

    Layers that the module does not have are left out, because a shallower subnet has fewer: see `check`.

    Args:
        module: runs inside the block.
        names: of layers.
        strict: False leaves out layers whose output holds no tensor.

    Raises:
        TrainError: a layer's output holds no tensor.
    """
    caught: dict[str, Tensor] = {}
    handles = []
    try:
        for name in names:
            if has(module, name):
                hook = functools.partial(_catch, caught, name, strict)
                handles.append(module.get_submodule(name).register_forward_hook(hook))
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def has(module: nn.Module, name: str) -> bool:
    """Whether `module` has a layer of that path."""
    owner: Any = module
    for part in name.split("."):
        owner = getattr(owner, "_modules", {}).get(part)
        if owner is None:
            return False
    return True


def check(module: nn.Module, names: Sequence[str], whose: str) -> None:
    """Refuse layers that are not there.

    Raises:
        TrainError: one is not; the sentence says which are.
    """
    there = [name for name, _ in module.named_modules() if name]
    for name in names:
        if name not in there:
            more = f", … ({len(there)} in all)" if len(there) > SHOWN else ""
            near = [one for one in there if one.startswith(name.rpartition(".")[0] + ".")]
            listed = ", ".join((near or sorted(there, key=lambda one: one.count(".")))[:SHOWN])
            raise TrainError(f"{whose} has no layer {name!r}; there are: {listed}{more}{suggest(name, there)}")


def _catch(caught: dict[str, Tensor], name: str, strict: bool, _module: nn.Module, _inputs: Any, output: Any) -> None:
    tensor = _tensor(output)
    if tensor is None and not strict:
        return
    if tensor is None:
        raise TrainError(
            f"layer {name!r} gives a {type(output).__name__} that does not begin with a tensor; name a layer inside it"
        )
    caught[name] = tensor.clone()


def _tensor(output: Any) -> Tensor | None:
    """The tensor that a layer's output is, or begins with."""
    if isinstance(output, Mapping):
        output = next(iter(output.values()), None)
    elif isinstance(output, (tuple, list)):
        output = output[0] if output else None
    return output if isinstance(output, Tensor) else None
