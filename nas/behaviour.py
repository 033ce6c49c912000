"""What a module computes beside its weights: attributes, buffers that no checkpoint has, and the code of a user's classes.

Equal after a copy, a pickle, in another process, and before and after a forward pass: what `forward`, or a method that it
calls, assigns or fills is what the module keeps, and no part of what it was given.
"""

from __future__ import annotations

import dataclasses
import dis
import enum
import itertools
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from nas import code

Json: TypeAlias = Any

_BOOKKEEPING = frozenset(vars(nn.Module()))
# Of models of Hugging Face's: where they came from and how they are called, and no part of what is computed.
_ORIGIN = frozenset({
    "_commit_hash", "_name_or_path", "architectures", "dtype", "name_or_path", "torch_dtype", "transformers_version",
})  # fmt: skip
_PLAIN = (bool, int, float, str, bytes, type(None), enum.Enum)


def attributes(module: nn.Module, describe: Callable[[Any], Json]) -> dict[str, Json]:
    """By "layer.name": plain attributes of all layers, and buffers that are not persistent, as `describe` describes them."""
    space: Any = vars(module).get("space")
    if hasattr(space, "fingerprint"):  # a supernet: the space says what its networks are
        return {"space": space.fingerprint, "code": describe(space.code)}
    found: dict[str, Json] = {}
    for path, layer in module.named_modules():
        at = f"{path}." if path else ""
        found |= {f"{at}class": type(layer).__qualname__} if path else {}
        found |= {f"{at}{name}": describe(value) for name, value in _told(layer)}
    return found


def functions(module: nn.Module) -> dict[str, types.FunctionType]:
    """By "Class.name": `forward` of the user's own classes of layers, and the methods that it calls."""
    classes = dict.fromkeys(type(layer) for layer in module.modules())
    return {
        f"{method.__qualname__}": method for kind in classes for method in _class(kind).methods if code.is_own(method)
    }


def _told(layer: nn.Module) -> Iterator[tuple[str, Any]]:
    """Attributes that decide what a layer computes, as far as its own code does not change them."""
    if isinstance(getattr(layer, "code", None), str):  # a graph or a script
        yield "code", layer.code
        return
    known = _class(type(layer))
    for name in sorted(layer._non_persistent_buffers_set - known.changed):
        yield name, layer._buffers.get(name)
    counts = _counts_of_own if code.is_own(type(layer)) else _counts_of_others
    left_out = _BOOKKEEPING | known.changed | (_ORIGIN if hasattr(layer, "config") else frozenset())
    for name, value in sorted(vars(layer).items()):
        if name == "config" and hasattr(value, "to_dict"):
            yield name, {key: item for key, item in value.to_dict().items() if key not in _ORIGIN}
        elif name not in left_out and counts(name, value, known):
            yield name, value


def _counts_of_own(name: str, value: Any, known: _Class) -> bool:
    """Not what is one of the weights or made of them, where the layer is, nor what its code may fill."""
    if isinstance(value, Tensor):
        return not value.requires_grad
    return not isinstance(value, torch.device) and not (name in known.aliased and not _is_plain(value))


def _counts_of_others(name: str, value: Any, known: _Class) -> bool:
    """Options of layers of libraries: numbers, names and functions."""
    del known
    return not name.startswith("_") and _is_plain(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, (*_PLAIN, types.FunctionType, types.BuiltinFunctionType, torch.dtype))


# -- classes -------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Class:
    """`forward` of a class and the methods that it calls, and the names of attributes that their code may change."""

    methods: tuple[types.FunctionType, ...]
    changed: frozenset[str]
    """Assigned, or changed in place."""
    aliased: frozenset[str]
    """Put into variables, by which a container may be changed."""


_classes: weakref.WeakKeyDictionary[type, _Class] = weakref.WeakKeyDictionary()


def _class(kind: type) -> _Class:
    if kind not in _classes:
        methods = tuple(_methods(kind))
        changed, aliased = set[str](), set[str]()
        for part in (part for method in methods for part in code.codes_of(method.__code__)):
            steps = list(dis.get_instructions(part))
            changed.update(code.changed(steps))
            pairs = itertools.pairwise(steps)
            aliased |= {
                str(one.argval) for one, after in pairs if one.opname == code.ATTRIBUTE and after.opname == "STORE_FAST"
            }
        _classes[kind] = _Class(methods, frozenset(changed), frozenset(aliased))
    return _classes[kind]


def _methods(kind: type) -> Iterator[types.FunctionType]:
    """`forward` and what it calls by name, of the class and of those that it is derived from."""
    bases = [vars(base) for base in kind.__mro__ if base not in (nn.Module, object)]
    waiting, seen = ["forward"], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for method in (code.function_of(base[name]) for base in bases if name in base):
            if method is not None:
                yield method
                waiting += [called for part in code.codes_of(method.__code__) for called in part.co_names]
