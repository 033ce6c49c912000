"""Skeletons: the model itself, without its weights.

A skeleton is built by the model's own constructor, with every *parameter* moved to the meta device at the moment it is
registered: initialisation then costs and changes nothing.  Building the whole model under `torch.device("meta")` would be
simpler and wrong: buffers and plain tensors that the constructor computes (rotary tables, position ids, drop rates that go
through `.tolist()`) are needed with their real values.
"""

from __future__ import annotations

import random
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from nas.errors import SupernetError
from nas.space import Arch, Space
from nas.supernet.layouts import Shape

T = TypeVar("T")
Slot = tuple[dict[str, Any], str]
"""Where a tensor hangs: a module's `_parameters` or `_buffers`, and the key in it."""


@contextmanager
def quiet() -> Iterator[None]:
    """Leave torch's and Python's random states, and the caller's inference mode and autocast, out of it."""
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    try:
        with torch.inference_mode(False), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_rng_state(torch_state)
        random.setstate(python_state)


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Parameters that this thread registers meanwhile become meta parameters; a parameter registered twice stays one."""
    thread = threading.get_ident()
    # id of a real parameter -> itself (ids are reused once it is gone) and its stand-in
    stand_ins: dict[int, tuple[weakref.ref[nn.Parameter], nn.Parameter]] = {}

    def hook(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta or threading.get_ident() != thread:
            return None
        known = stand_ins.get(id(parameter))
        if known is not None and known[0]() is parameter:
            return known[1]
        stand_in = _meta(parameter)
        stand_ins[id(parameter)] = (weakref.ref(parameter), stand_in)
        return stand_in

    handle = register_module_parameter_registration_hook(hook)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()


def _meta(parameter: nn.Parameter) -> nn.Parameter:
    if is_lazy(parameter):
        raise SupernetError(
            "a lazy module has no shapes before its first call; give its sizes (nn.Linear, not nn.LazyLinear)"
        )
    empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
    stand_in = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    stand_in.__dict__.update(parameter.__dict__)  # marks that libraries leave on parameters
    return stand_in


def build(space: Space, arch: Arch) -> nn.Module:
    """The ordinary module of `arch`, as the space builds it.

    Raises:
        SupernetError: what the space builds is no module.
    """
    module = space.build(arch)
    if not isinstance(module, nn.Module):
        raise SupernetError(
            f"space {space.name!r} builds a {type(module).__name__}, and a supernet needs an nn.Module; "
            "wrap the model with nas.model and return the module"
        )
    return module


def build_skeleton(space: Space, arch: Arch) -> nn.Module:
    """The module of `arch` with its parameters on the meta device and everything else real.

    A constructor that reads the values of its own parameters cannot run so; it is then built for real.
    """
    with quiet():
        try:
            with parameters_on_meta():
                return build(space, arch)
        except Exception as error:
            if not _reads_meta(error):
                raise
            return build(space, arch)


def _reads_meta(error: BaseException | None) -> bool:
    """Did somebody ask a meta tensor for its values?"""
    while error is not None:
        if isinstance(error, (NotImplementedError, RuntimeError)) and "meta" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False


@dataclass(slots=True)
class Entry:
    """One parameter of a module: its names (several when it is tied), where it hangs, its shape."""

    names: list[str]
    slots: list[Slot]
    tensor: nn.Parameter

    @property
    def shape(self) -> Shape:
        """Shape of the subnet's parameter."""
        return self.tensor.shape


def parameters_of(module: nn.Module) -> list[Entry]:
    """The parameters of `module` in order, tied ones once."""
    entries: dict[int, Entry] = {}
    for name, slot, parameter in _walk(module, lambda owner: owner._parameters):
        entry = entries.get(id(parameter))
        if entry is None:
            entries[id(parameter)] = Entry([name], [slot], parameter)
        else:
            entry.names.append(name)
            entry.slots.append(slot)
    return list(entries.values())


def buffers_of(module: nn.Module) -> dict[str, Slot]:
    """Name and place of every buffer of `module`."""
    return {name: slot for name, slot, _ in _walk(module, lambda owner: owner._buffers)}


def statistics_of(module: nn.Module) -> set[str]:
    """Names of the buffers that are learnt: running statistics of normalisation layers."""
    return {
        f"{prefix}.{key}" if prefix else key
        for prefix, owner in module.named_modules(remove_duplicate=False)
        if isinstance(owner, _NormBase)
        for key, value in owner._buffers.items()
        if value is not None
    }


def _walk(module: nn.Module, table_of: Callable[[nn.Module], dict[str, Any]]) -> Iterator[tuple[str, Slot, Any]]:
    """(name, slot, tensor) of all tensors, under each of their names; a module used twice is walked twice."""
    stack: list[tuple[str, nn.Module]] = [("", module)]
    while stack:
        prefix, owner = stack.pop()
        table = table_of(owner)
        for key, value in table.items():
            if value is not None:
                yield prefix + key, (table, key), value
        stack.extend((f"{prefix}{key}.", child) for key, child in reversed(owner._modules.items()) if child is not None)


def check_no_meta(module: nn.Module) -> None:
    """Refuse a model that keeps tensors computed from its parameters outside parameters and buffers.

    Raises:
        SupernetError: there is one; a subnet would compute with it instead of its weights.
    """
    for prefix, owner in module.named_modules():
        for key, value in vars(owner).items():
            if isinstance(value, Tensor) and value.is_meta:
                raise SupernetError(
                    f"attribute {f'{prefix}.{key}'.lstrip('.')!r} is computed from parameters in the constructor; "
                    "compute it in forward, so that it follows the supernet's weights"
                )
