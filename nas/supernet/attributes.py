"""What a module keeps beside its parameters and buffers: plain attributes, and what is inside them.

A tensor in a list, an array, a table of indices, the closure of an activation: none of them is in a `state_dict`, and forward
computes with them all the same.
"""

from __future__ import annotations

import enum
import functools
import math
import random
import re
import types
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nas.supernet import parts

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_INTERNAL = frozenset(vars(nn.Module())) | {
    "_flat_weights",
    "_flat_weight_refs",  # both: views of recurrent layers
    parts.SIZES,
    parts.AXES,
    parts.ORDERED,
    parts.HELD,
}
_SCALARS = (bool, int, float, complex, str, bytes, np.generic, type(None), type, enum.Enum, torch.dtype, torch.device)
_COMMON: frozenset[type] = frozenset({bool, int, float, str, type(None)})
_OPAQUE = (
    *(types.ModuleType, weakref.ReferenceType),
    *(torch.Generator, random.Random, np.random.Generator, np.random.RandomState),
)
_FOREIGN = frozenset({"torch", "numpy", "pyglove", "builtins", "threading", "_thread", "logging", "nas"})
_DEPTH = 8
_NAME = re.compile(
    r"[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}\Z"
)  # a UUID says which one it is, and nothing else
TOLERANCE = 1e-4
"""How far floating-point values may differ, relative to the largest, and be the same: far above rounding."""


def leaves(module: nn.Module) -> dict[str, Any]:
    """Path -> value of everything that `module` and its submodules keep in plain attributes and hooks, taken apart.

    Values are tensors, arrays, scalars, plain sequences and mappings of scalars, and code objects.  The module's own
    parameters and submodules are left out where only a reference to the latter is kept; random generators too, which hold
    no data but what will be drawn.
    """
    return _walked(module, frozenset()).found


def tensors(module: nn.Module) -> list[Tensor]:
    """The tensors among `leaves`: in a fraction of the time, since most attributes are numbers and flags."""
    return [value for value in _walked(module, _COMMON).found.values() if isinstance(value, Tensor)]


def _walked(module: nn.Module, skipped: frozenset[type]) -> _Walk:
    walk = _Walk({id(one) for one in module.modules()})
    for prefix, owner in module.named_modules():
        entries, hooks = vars(owner), vars(owner)["_forward_pre_hooks"]
        internal = _INTERNAL | _computed_by(hooks.values()) if hooks else _INTERNAL
        for key, value in entries.items():
            if type(value) not in skipped and key not in internal:
                walk(f"{prefix}.{key}" if prefix else key, value)
        for key in _HOOKS:
            if entries[key]:
                walk(f"{prefix}.{key}" if prefix else key, list(entries[key].values()))
    return walk


class _Walk:
    """Takes values apart into leaves, each container and object once."""

    def __init__(self, modules: set[int]) -> None:
        self.found: dict[str, Any] = {}
        self._modules = modules  # of the tree, which is walked by whoever asks
        self._seen: dict[int, Any] = {}  # kept alive, so that no id is used again

    def __call__(self, path: str, value: Any, depth: int = 0) -> None:
        if isinstance(value, (*_SCALARS, Tensor, np.ndarray)):
            self.found[path] = value
            return
        if depth > _DEPTH or isinstance(value, _OPAQUE) or id(value) in self._seen or id(value) in self._modules:
            return
        self._seen[id(value)] = value
        if _plain(value):
            self.found[path] = value
            return
        for suffix, part in _parts(value):
            self(path + suffix, part, depth + 1)


def _plain(value: Any) -> bool:
    """A sequence, set or mapping of scalars."""
    if isinstance(value, Mapping):
        return all(isinstance(one, _SCALARS) for one in value.values()) and all(
            isinstance(one, _SCALARS) for one in value
        )
    if isinstance(value, (list, tuple, deque, Set)):
        return all(isinstance(one, _SCALARS) for one in value)
    return isinstance(value, (range, bytearray, types.CodeType))


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What `value` is made of, with what is added to the path."""
    if isinstance(value, Mapping):
        named = all(isinstance(key, (str, int, float, bool, tuple)) for key in value)
        yield from ((f"[{key if named else place!r}]", one) for place, (key, one) in enumerate(value.items()))
    elif isinstance(value, (list, tuple, deque)):
        yield from ((f"[{place}]", one) for place, one in enumerate(value))
    elif isinstance(value, functools.partial):
        yield from (("", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, types.MethodType):
        yield from (("", value.__func__), (".__self__", value.__self__))
    elif isinstance(value, types.BuiltinFunctionType):  # a method of an object, too
        yield ".__name__", value.__name__
        yield ".__self__", value.__self__
    elif isinstance(value, types.FunctionType):
        yield "", value.__code__
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=False)
        yield from ((f".{name}", cell.cell_contents) for name, cell in cells if _filled(cell))
        yield from ((".defaults", value.__defaults__ or ()), (".defaults", value.__kwdefaults__ or {}))
    elif isinstance(value, nn.Module):  # outside the tree, hence in no state_dict
        yield from ((f".{key}", one) for key, one in vars(value).items() if key not in _INTERNAL)
        for table in (value._parameters, value._buffers, value._modules):
            yield from ((f".{key}", one) for key, one in table.items())
    elif type(value).__module__.partition(".")[0] not in _FOREIGN:
        slots = [slot for kind in type(value).__mro__ for slot in _names(kind.__dict__.get("__slots__", ()))]
        yield from ((f".{key}", one) for key, one in getattr(value, "__dict__", {}).items())
        yield from ((f".{slot}", getattr(value, slot)) for slot in slots if slot[:2] != "__" and hasattr(value, slot))


def _names(slots: Any) -> Sequence[str]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _computed_by(hooks: Iterable[Any]) -> set[str]:
    """Attributes that torch's hooks compute anew before each call: the older weight and spectral norm, and pruning."""
    torch_own = [one for one in hooks if type(one).__module__.startswith("torch.nn.utils.")]
    return {str(getattr(one, "name", None) or getattr(one, "_tensor_name", "")) for one in torch_own}


def same(one: Any, other: Any, tolerance: float = TOLERANCE) -> bool:
    """Whether two leaves are equal: numbers of types with a fraction up to `tolerance`, all others exactly; NaN equals NaN."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return _same_tensors(one.detach(), other.detach(), tolerance)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return _same_arrays(one, other, tolerance)
    if isinstance(one, (float, complex, np.inexact)) and isinstance(other, (int, float, complex, np.number)):
        return _same_numbers(complex(one), complex(other), tolerance)
    if isinstance(one, (int, np.integer)) and isinstance(other, (int, np.integer)):
        return int(one) == int(other)
    return type(one) is type(other) and _same_others(one, other, tolerance)


def _same_others(one: Any, other: Any, tolerance: float) -> bool:
    """Of two values of one type."""
    if isinstance(one, str) and _NAME.match(one) and _NAME.match(other):
        return True
    if isinstance(one, type):  # one that the constructor makes is another object each time
        return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)
    if isinstance(one, (list, tuple, deque)):
        return len(one) == len(other) and all(same(*pair, tolerance) for pair in zip(one, other, strict=True))
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(same(value, other[key], tolerance) for key, value in one.items())
    return bool(one == other)


def _same_numbers(one: complex, other: complex, tolerance: float) -> bool:
    if one == other or (math.isnan(abs(one)) and math.isnan(abs(other))):
        return True
    return bool(abs(one - other) <= tolerance * max(abs(one), abs(other)) < math.inf)


def _same_arrays(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any], tolerance: float) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype == object:
        return all(same(*pair, tolerance) for pair in zip(one.ravel().tolist(), other.ravel().tolist(), strict=True))
    if one.dtype.kind not in "fc":
        return bool((one == other).all())
    left, right = (torch.from_numpy(np.array(each).astype("D")) for each in (one, other))
    return _same_tensors(left, right, tolerance)


def _same_tensors(one: Tensor, other: Tensor, tolerance: float) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype or one.layout != other.layout:
        return False
    if one.is_meta or other.is_meta:
        return one.is_meta and other.is_meta
    if one.layout != torch.strided:
        one, other = one.to_dense(), other.to_dense()
    if not one.numel() or torch.equal(one, other):
        return True
    if not (one.is_floating_point() or one.is_complex()):
        return False
    kind = torch.complex128 if one.is_complex() else torch.float64
    one, other = one.to(kind), other.to(kind)
    finite = one.isfinite() & other.isfinite()
    if not bool((finite | (one == other) | (one.isnan() & other.isnan())).all()):
        return False
    one, other = one[finite], other[finite]
    return not one.numel() or bool((one - other).abs().max() <= tolerance * torch.maximum(one.abs(), other.abs()).max())
