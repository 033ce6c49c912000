"""What a module is, apart from the values of its parameters: to tell whether two archs build the same one.

Paths and types of modules, shapes and ties of parameters, values of buffers, and everything in plain attributes.  What cannot be
compared counts as different, so that two archs are never said to be one by mistake.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nas.supernet import attributes
from nas.supernet.skeleton import buffers_of, parameters_of


def fingerprint(module: nn.Module) -> str:
    """Equal where two skeletons are the same network."""
    digest = hashlib.sha256()
    for path, owner in module.named_modules(remove_duplicate=False):
        digest.update(repr((path, type(owner).__module__, type(owner).__qualname__)).encode())
        for key, value in vars(owner).items():
            for part in value if isinstance(value, (list, tuple)) else (value,):
                if hasattr(type(part), "sym_eq"):  # a symbolic object, which `attributes.leaves` leaves alone
                    digest.update(repr((key, str(part))).encode())
    for entry in parameters_of(module):
        digest.update(repr((entry.names, tuple(entry.shape), entry.tensor.requires_grad)).encode())
    for name, (table, key) in buffers_of(module).items():
        digest.update(repr((name, _told(table[key]))).encode())
    for path, value in attributes.leaves(module).items():
        digest.update(repr((path, _told(value))).encode())
    return digest.hexdigest()


def _told(value: Any) -> Any:
    """A text or tuple, equal where values are."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value) if value.dtype.kind in "biuf" else value.tolist()
    if isinstance(value, Tensor):
        shape = (str(value.dtype), tuple(value.shape))
        return shape if value.is_meta else (*shape, hashlib.sha256(repr(value.detach().tolist()).encode()).digest())
    if isinstance(value, types.CodeType):
        return (value.co_filename, value.co_qualname, value.co_firstlineno, value.co_code)
    if isinstance(value, type):
        return (value.__module__, value.__qualname__)
    if isinstance(value, Mapping):
        value = list(value.items())
    if isinstance(value, Set):
        return sorted(repr(_told(one)) for one in value)
    if isinstance(value, (list, tuple)):
        return [_told(one) for one in value]
    return (type(value).__qualname__, repr(value))
