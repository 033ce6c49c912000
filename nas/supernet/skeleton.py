"""Skeletons: the model itself, without its weights.

A skeleton is built by the model's own constructor, with every *parameter* moved to the meta device at the moment it is
registered: initialisation then costs and changes nothing.  Building the whole model under `torch.device("meta")` would be
simpler and wrong: buffers and plain tensors that the constructor computes (rotary tables, position ids, drop rates that go
through `.tolist()`) are needed with their real values.

A constructor that reads the values of its parameters, or computes tensors from them, is run again for real.  Constructors
run in one fixed random state, so that what they draw is a function of the arch, in every process; `nas.supernet.constructor`
finds out what they draw.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from nas.errors import Infeasible, SupernetError
from nas.space import Arch, Space
from nas.supernet import attributes
from nas.supernet.parts import Shape

T = TypeVar("T")
Slot = tuple[dict[str, Any], str]
"""Where a tensor hangs: a module's `_parameters` or `_buffers`, and the key in it."""


STATE = 0
"""Random state in which constructors run, but for the supernet's own initial weights."""


@contextmanager
def quiet(seed: int | None = None) -> Iterator[None]:
    """Leave the process's random states, and the caller's inference mode and autocast, out of it.

    Args:
        seed: of torch's, NumPy's and Python's generators inside; None leaves them as they are.
    """
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    try:
        if seed is not None:
            # torch.manual_seed formats the call stack for devices that are not initialised: milliseconds under a deep one.
            (torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed)(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
        with torch.inference_mode(False), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)


_WITHOUT_VALUES = ContextVar("without_values", default=False)


def values_wanted() -> bool:
    """Whether what is built now gets the values of its parameters: false under `parameters_on_meta`."""
    return not _WITHOUT_VALUES.get()


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Parameters that this thread registers meanwhile become meta parameters; a parameter registered twice stays one."""
    thread = threading.get_ident()
    # Where a parameter's values are -> its storage (its place is used again once it is gone) and its stand-in.
    stand_ins: dict[Memory, tuple[StorageWeakRef, nn.Parameter]] = {}

    def hook(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta or threading.get_ident() != thread or is_lazy(parameter):
            return None
        place = memory(parameter)
        known = stand_ins.get(place)
        if known is not None and not known[0].expired():  # type: ignore[no-untyped-call]
            return known[1]
        stand_in = on_meta(parameter)
        stand_ins[place] = (StorageWeakRef(parameter.untyped_storage()), stand_in)  # type: ignore[no-untyped-call]
        return stand_in

    handle = register_module_parameter_registration_hook(hook)  # type: ignore[arg-type]
    token = _WITHOUT_VALUES.set(True)
    try:
        yield
    finally:
        _WITHOUT_VALUES.reset(token)
        handle.remove()


def on_meta(parameter: nn.Parameter, shape: Sequence[int] | None = None) -> nn.Parameter:
    """A parameter like this one, by default of its shape, without values."""
    whole = parameter.shape if shape is None else shape
    return like(parameter, torch.empty(tuple(whole), dtype=parameter.dtype, device="meta"))


def like(parameter: nn.Parameter, values: Tensor) -> nn.Parameter:
    """A parameter of these values that is otherwise as `parameter` is."""
    made = nn.Parameter(values, requires_grad=parameter.requires_grad)
    made.__dict__.update(parameter.__dict__)  # marks that libraries leave on parameters
    return made


Memory = tuple[int, int, tuple[int, ...], tuple[int, ...]]
"""Storage, offset, shape and strides: two tensors that agree are one, whatever the objects."""


def memory(tensor: Tensor) -> Memory:
    """Where the values of a tensor are."""
    return (tensor.untyped_storage()._cdata, int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride())


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


def build_skeleton(space: Space, arch: Arch, seed: int = STATE) -> nn.Module:
    """The module of `arch` with its parameters on the meta device and everything else real.

    A constructor that fails on parameters without values, or leaves other tensors without values, is run for real.

    Args:
        space: the arch's.
        arch: what to build.
        seed: of the random states that the constructor sees.
    """
    with quiet(seed):
        module = _without_values(space, arch)
    if module is None:
        with quiet(seed):
            module = build(space, arch)
    return module


def _without_values(space: Space, arch: Arch) -> nn.Module | None:
    """The module with parameters on the meta device; None where its constructor needs their values."""
    try:
        with parameters_on_meta():
            module = build(space, arch)
    except Infeasible:
        raise
    except Exception:  # of any kind: whoever reads numbers of a meta tensor fails in a way of its own
        return None
    left = (*module.buffers(), *attributes.tensors(module))
    if not any(one.is_meta for one in left):
        return module
    own = {id(parameter) for parameter in module.parameters()}
    return None if any(one.is_meta and id(one) not in own for one in left) else module


def check_sizes(space: Space, module: nn.Module) -> None:
    """Refuse lazy modules.

    Raises:
        SupernetError: there is one.
    """
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise SupernetError(
                f"a lazy module has no shapes before its first call, as that of {name!r} in space {space.name!r}; "
                "give its sizes (nn.Linear, not nn.LazyLinear)"
            )


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
    """The parameters of `module` in order, tied ones once; `nn.Parameter(other)` is tied to the other."""
    entries: dict[Any, Entry] = {}
    for name, slot, parameter in _walk(module, lambda owner: owner._parameters):
        # Parameters without elements, or not strided, have no memory to agree on.
        strided = parameter.layout == torch.strided and parameter.numel()
        place = memory(parameter) if strided else id(parameter)
        entry = entries.get(place)
        if entry is None:
            entries[place] = Entry([name], [slot], parameter)
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
