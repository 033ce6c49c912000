"""A module as JSON: the objects that it is made of, by class and attributes, from which another process builds it.

A network of a search need not be what any constructor gives (a converted one has sizes of its own), and the function that built
it needs the search's libraries.  What a module *is* needs its classes alone.
"""

from __future__ import annotations

import collections
import copyreg
import enum
import functools
import math
import sys
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nas.errors import StudyError
from nas.study.slices import Slices

Json = Any
_TABLES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
_FLAT = ("_flat_weights", "_flat_weight_refs")  # of a recurrent layer, which makes them again
_HOOKS = tuple(name for name in vars(nn.Module()) if "hook" in name)


class Structure:
    """What `load.py` needs to build a module.

    Attributes:
        objects: the instances, the module first.
        parameters: shape, type and whether it is trained, of each parameter.
        constants: tensors that are not in the state dict, by name.

    Raises:
        StudyError: a part of it cannot be written, with its place.
    """

    def __init__(self, module: nn.Module, slices: Slices) -> None:
        self._slices = slices
        self.objects: list[Json] = []
        self.parameters: list[Json] = []
        self.constants: dict[str, Tensor] = {}
        self._known: dict[int, int] = {}
        self._tensors: dict[int, Json] = {}
        self._alive: list[Any] = []  # so that no id is used again
        self._state = {id(one) for one in module.state_dict(keep_vars=True).values()}
        self._object(module, "model")

    def to_json(self) -> Json:
        """Objects and parameters."""
        return {"objects": self.objects, "parameters": self.parameters}

    def _object(self, value: Any, at: str) -> Json:
        if id(value) in self._known:
            return {"object": self._known[id(value)]}
        self._alive.append(value)
        place = self._known[id(value)] = len(self.objects)
        self.objects.append(None)
        kind = type(value)
        parametrized = isinstance(value, nn.Module) and parametrize.is_parametrized(value)
        if parametrized:  # torch has made a class of its own for this module, on the one that it had
            kind = parametrize.type_before_parametrizations(value)
        made: dict[str, Json] = {"class": self._named(kind, at)}
        if parametrized:
            made["parametrized"] = True
        attributes = dict(vars(value))
        if isinstance(value, nn.Module):
            made |= self._tables_of(value, at)
            skipped = (*_TABLES, *_HOOKS)
            attributes = {name: item for name, item in attributes.items() if name not in skipped}
            if isinstance(value, nn.RNNBase):
                made["rnn"] = True
                attributes = {name: item for name, item in attributes.items() if name not in _FLAT}
        made["attributes"] = {name: self._value(item, f"{at}.{name}") for name, item in attributes.items()}
        self.objects[place] = made
        return {"object": place}

    def _tables_of(self, module: nn.Module, at: str) -> dict[str, Json]:
        for name in _HOOKS:
            found = vars(module).get(name)
            if isinstance(found, Mapping) and not all(_is_reader(name, hook) for hook in found.values()):
                raise StudyError(f"{at} has hooks, which are functions of this process")
        return {
            "parameters": {
                name: None if one is None else self._tensor(one, at) for name, one in module._parameters.items()
            },
            "buffers": {
                name: None if one is None else self._buffer(one, f"{at}.{name}")
                for name, one in module._buffers.items()
            },
            "transient": sorted(module._non_persistent_buffers_set),
            "modules": {
                name: None if one is None else self._object(one, f"{at}.{name}")
                for name, one in module._modules.items()
            },
        }

    def _buffer(self, one: Tensor, at: str) -> Json:
        if id(one) in self._state:
            return self._tensor(one, at)
        return self._constant(one, at)

    def _tensor(self, one: Tensor, at: str) -> Json:
        """One of the state dict: its form, whose values come from the weights."""
        del at
        if id(one) not in self._tensors:
            self._alive.append(one)
            self._tensors[id(one)] = {"tensor": len(self.parameters)}
            trains = one.requires_grad if isinstance(one, nn.Parameter) else None
            self.parameters.append([list(one.shape), str(one.dtype).removeprefix("torch."), trains])
        return self._tensors[id(one)]

    def _constant(self, one: Tensor, at: str) -> Json:
        if id(one) not in self._tensors:
            self._alive.append(one)
            self.constants[at] = one.detach().clone().contiguous()
            self._tensors[id(one)] = {"constant": at}
        return self._tensors[id(one)]

    def _value(self, value: Any, at: str) -> Json:  # noqa: PLR0911, PLR0912 (one for each kind of value)
        if value is None or type(value) in (bool, str, int):
            return value
        if type(value) is float and math.isfinite(value):
            return value
        if isinstance(value, enum.Enum):
            return {"enum": [self._named(type(value), at), value.name]}
        if type(value) is float:
            return {"float": str(value)}
        if isinstance(value, Tensor):
            in_state = id(value) in self._state or id(value) in self._tensors
            return self._tensor(value, at) if in_state else self._constant(value, at)
        if isinstance(value, torch.dtype):
            return {"torch": str(value).removeprefix("torch.")}
        if isinstance(value, torch.device):
            return {"device": str(value)}
        kinds: dict[type, str] = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset", torch.Size: "size"}
        if type(value) in kinds:
            items = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
            return {kinds[type(value)]: [self._value(item, f"{at}[{n}]") for n, item in enumerate(items)]}
        if type(value) in (dict, collections.OrderedDict):
            kind = "dict" if type(value) is dict else "ordered"
            return {kind: [[self._value(k, at), self._value(v, f"{at}[{k!r}]")] for k, v in value.items()]}
        if isinstance(value, functools.partial):
            given = [self._value(one, at) for one in (value.func, list(value.args), dict(value.keywords))]
            return {"partial": given}
        if isinstance(value, types.MethodType):
            return {"method": [self._value(value.__self__, at), value.__name__]}
        if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
            return {"name": self._named(value, at)}
        if type(value).__module__.partition(".")[0] == "pyglove":
            raise StudyError(
                f"{at} is a value of the search ({type(value).__name__}); let the model keep plain numbers"
            )
        if not _is_plain(value):
            raise StudyError(f"{at} is a {type(value).__name__}, which is more than its attributes")
        return self._object(value, at)

    def _named(self, thing: Any, at: str) -> Json:
        """[module, name, whether it is written beside]."""
        module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", "")
        module = module or "builtins"
        found: Any = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is not thing:
            raise StudyError(f"{at} needs {name or thing!r}, which no other process finds by that name")
        if not self._slices.owns(module):
            return [module, name, False]
        return [self._slices.take(module, name.split(".")[0]), name, True]


def _is_reader(table: str, hook: Any) -> bool:
    """Whether a hook is torch's own and reads state dicts of earlier versions, as that of its weight norm."""
    module = str(getattr(getattr(hook, "hook", hook), "__module__", None))
    return table == "_load_state_dict_pre_hooks" and module.partition(".")[0] == "torch"


def _is_plain(value: Any) -> bool:
    """Whether an object is its class and its attributes, as Python itself copies it."""
    if isinstance(value, types.ModuleType) or not hasattr(value, "__dict__"):
        return False
    try:
        made, given, *rest = value.__reduce_ex__(4)
    except Exception:  # a handle of this process
        return False
    state = rest[0] if rest else None
    return made is copyreg.__newobj__ and given == (type(value),) and not any(rest[1:]) and not isinstance(state, tuple)  # type: ignore[attr-defined]
