"""Copies of a module, of its own class, on other tensors: what is proved or resized is never the user's own object.

`copy.deepcopy` with a memo does nearly all of it: ties, hooks, lists that hold parameters and `nn.Module` subclasses with
constructors of their own follow.  What it does not: tensors that were computed under autograd cannot be copied by it, and
what an earlier forward left in plain attributes (a table computed from weights) would belong to other weights.
"""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nas.supernet import attributes
from nas.supernet.skeleton import memory


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter, buffer and table under each of its names."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
    yield from named_tables(module)


def named_tables(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors of fractions that modules keep in attributes of their own, as positions are: no parameters and no buffers.

    What shares the memory of one of these, or was computed under autograd, is none.
    """
    found = [
        (f"{path}.{key}" if path else key, value)
        for path, owner in module.named_modules(remove_duplicate=False)
        for key, value in vars(owner).items()
        if isinstance(value, Tensor) and _is_table(value)
    ]
    if found:
        own = {
            one.untyped_storage()._cdata
            for one in (*module.parameters(), *module.buffers())
            if one.layout == torch.strided
        }
        yield from ((name, value) for name, value in found if value.untyped_storage()._cdata not in own)


def _is_table(value: Tensor) -> bool:
    plain = value.layout == torch.strided and value.is_leaf and not value.requires_grad
    return plain and value.is_floating_point() and value.dim() > 0


def tied(module: nn.Module) -> dict[str, str]:
    """Each name of a parameter, buffer or table -> the first name of what shares its memory; parameters come first."""
    first: dict[Any, str] = {}
    return {name: first.setdefault(_place(tensor), name) for name, tensor in named_tensors(module)}


def _place(tensor: Tensor) -> Any:
    # Tensors without elements have no memory to agree on.
    return memory(tensor) if tensor.numel() and tensor.layout == torch.strided else id(tensor)


def with_tensors(module: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
    """A copy of `module` in eval mode on `values`; other parameters and buffers are shared with it, and nothing is copied.

    Args:
        module: of any class; left as it is.
        values: by name of parameter, buffer or table, one name for tied ones; of any shape and type.
    """
    names = tied(module)
    given = {names[name]: value for name, value in values.items()}
    memo: dict[int, Any] = {}
    for tensor in (*attributes.tensors(module), *computed(module)):
        memo[id(tensor)] = tensor.detach().clone()
    for name, tensor in named_tensors(module):
        value = given.get(names[name])
        memo[id(tensor)] = tensor if value is None else _as(tensor, value)
    copied = deep_copied(module, memo)
    forget(copied)
    return copied


def deep_copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """What `copy.deepcopy(module, memo)` gives, in a fraction of the time: a skeleton is copied for every arch that is trained.

    Most of what a module has are its tables, nearly all of them empty, and numbers.
    """
    found: list[nn.Module] = []
    stack = [module]
    while stack:
        each = stack.pop()
        kind: Any = type(each)
        if id(each) not in memo and _is_plain(kind):
            memo[id(each)] = kind.__new__(kind)
            found.append(each)
            stack.extend(child for child in each._modules.values() if child is not None)
    for each in found:
        own = vars(memo[id(each)])
        for key, value in each.__getstate__().items():  # type: ignore[no-untyped-call]
            own[key] = value if type(value) in _SCALARS else _copied(value, memo)
    copied: nn.Module = copy.deepcopy(module, memo)  # of those that copy themselves; one of the others is there
    return copied


_SCALARS = frozenset({bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size})
_TABLES = (dict, OrderedDict, set, list)


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    if type(value) not in _TABLES or id(value) in memo:
        return copy.deepcopy(value, memo)
    if not value:
        made = memo[id(value)] = type(value)()
        return made
    if type(value) is not dict or not all(type(key) is str for key in value):
        return copy.deepcopy(value, memo)
    table: dict[str, Any] = {}
    memo[id(value)] = table
    for key, item in value.items():
        table[key] = (
            item if type(item) in _SCALARS else memo[id(item)] if id(item) in memo else copy.deepcopy(item, memo)
        )
    return table


@functools.lru_cache(maxsize=4096)
def _is_plain(kind: Any) -> bool:
    """Whether objects of a class are copied attribute by attribute, as far as the class says."""
    names = ("__deepcopy__", "__getnewargs__", "__getnewargs_ex__", "__slots__")
    told = ("__new__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")
    return not any(hasattr(kind, name) for name in names) and all(
        getattr(kind, name) is getattr(nn.Module, name) for name in told
    )


def computed(module: nn.Module) -> Iterator[Tensor]:
    """What hooks compute from parameters before each call and keep in attributes; `copy.deepcopy` refuses it."""
    for owner in module.modules():
        yield from (value for value in vars(owner).values() if isinstance(value, Tensor) and not value.is_leaf)


def _as(tensor: Tensor, value: Tensor) -> Tensor:
    """`value` as a parameter or buffer, as `tensor` is one."""
    if not isinstance(tensor, nn.Parameter):
        return value
    parameter = nn.Parameter(value, requires_grad=tensor.requires_grad)
    parameter.__dict__.update(tensor.__dict__)  # marks that libraries leave on parameters
    return parameter


def forget(module: nn.Module) -> None:
    """Drop what an earlier forward left in attributes, which libraries do when the mode changes; eval mode after that."""
    module.train()
    module.eval()


def restores_itself(module: nn.Module) -> bool:
    """Whether the class of `module` says what a copy is made of, which may not be all that the module has."""
    names = ("__getstate__", "__reduce__", "__reduce_ex__", "__deepcopy__")
    return any(getattr(type(module), name, None) is not getattr(nn.Module, name, None) for name in names)
