"""Copies of a module, of its own class, on other tensors: what is proved or resized is never the user's own object.

`copy.deepcopy` with a memo does nearly all of it: ties, hooks, lists that hold parameters and `nn.Module` subclasses with
constructors of their own follow.  What it does not: tensors that were computed under autograd cannot be copied by it, and
what an earlier forward left in plain attributes (a table computed from weights) would belong to other weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nas.supernet import attributes
from nas.supernet.skeleton import memory


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer under each of its names."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def tied(module: nn.Module) -> dict[str, str]:
    """Each name of a parameter or buffer -> the first name of what shares its memory; parameters come first."""
    first: dict[Any, str] = {}
    return {name: first.setdefault(_place(tensor), name) for name, tensor in named_tensors(module)}


def _place(tensor: Tensor) -> Any:
    # Tensors without elements have no memory to agree on.
    return memory(tensor) if tensor.numel() and tensor.layout == torch.strided else id(tensor)


def with_tensors(module: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
    """A copy of `module` in eval mode on `values`; other parameters and buffers are shared with it, and nothing is copied.

    Args:
        module: of any class; left as it is.
        values: by name of parameter or buffer, one name for tied ones; of any shape and type.
    """
    names = tied(module)
    given = {names[name]: value for name, value in values.items()}
    memo: dict[int, Any] = {}
    for tensor in attributes.tensors(module):
        memo[id(tensor)] = tensor.detach().clone()
    for name, tensor in named_tensors(module):
        value = given.get(names[name])
        memo[id(tensor)] = tensor if value is None else _as(tensor, value)
    copied = copy.deepcopy(module, memo)
    forget(copied)
    return copied


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
