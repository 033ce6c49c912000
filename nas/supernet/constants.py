"""What constructors compute for an arch, beside what a supernet holds: it must be the same where a checkpoint is read.

Another process may compute something else: from the hash of a text, the time, the machine, or code that has changed since.
A checkpoint has a summary of each table of the largest arch, by which that is noticed.
"""

from __future__ import annotations

import hashlib
import weakref
from collections import deque
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas.errors import Infeasible
from nas.space import Space
from nas.supernet import attributes
from nas.supernet.constructor import drawn
from nas.supernet.skeleton import build_skeleton

Summary = dict[str, list[Any]]
"""Path of a buffer or plain attribute -> its shape, and two sums over it; or a digest of texts."""

_TOLERANCE = 1e-3  # relative: other processors round otherwise, and a table may hold differences of large numbers
_known: weakref.WeakKeyDictionary[Space, Summary] = weakref.WeakKeyDictionary()


def summary(space: Space) -> Summary:
    """Of the buffers and tables of the largest arch; made once for a space."""
    if space not in _known:
        _known[space] = _summary(space)
    return _known[space]


def changed(saved: Mapping[str, list[Any]], space: Space, held: Set[str]) -> str | None:
    """What is not as it was in the process that made the summary `saved`, the buffers `held` aside; None if all is."""
    now = summary(space)
    for path, ours in now.items():
        theirs = saved.get(path)
        if theirs is not None and path not in held and not _same(ours, theirs):
            return path
    return None


def drawn_buffers(space: Space) -> set[str]:
    """Names of buffers that covering archs have from a random state or from initial weights.

    Raises:
        SupernetError: something else is.
    """
    found: set[str] = set()
    for arch in space.representatives():
        try:
            found |= drawn(space, arch, build_skeleton(space, arch), lambda _: False).buffers
        except Infeasible:
            continue
    return found


def _summary(space: Space) -> Summary:
    try:
        module = build_skeleton(space, space.largest)
    except Infeasible:
        return {}
    tables = {path: _numbers(value) for path, value in attributes.leaves(module).items()}
    tables |= {name: buffer.detach() for name, buffer in module.named_buffers(remove_duplicate=False)}
    found = {path: _sums(value) for path, value in tables.items() if value is not None}
    texts = {path: value for path, value in attributes.leaves(module).items() if _texts(value)}
    return found | {path: [hashlib.blake2b("\0".join(value).encode()).hexdigest()] for path, value in texts.items()}


def _numbers(value: Any) -> Tensor | None:
    """A table of two numbers or more; a single one may say when or where it was made."""
    if isinstance(value, (list, tuple, deque)) and all(isinstance(one, (int, float, np.number)) for one in value):
        value = np.array(value, dtype=np.float64) if len(value) > 1 else None
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value.astype(np.float64)) if value.dtype.kind in "biuf" else None
    return value if isinstance(value, Tensor) and value.numel() > 1 and not value.is_meta else None


def _texts(value: Any) -> bool:
    return isinstance(value, (list, tuple, deque)) and len(value) > 1 and all(isinstance(one, str) for one in value)


def _sums(table: Tensor) -> list[Any]:
    dense = table.cpu() if table.layout == torch.strided else table.cpu().to_dense()
    numbers = (torch.view_as_real(dense) if dense.is_complex() else dense).double().flatten().nan_to_num()
    weights = torch.cos(1.7 * torch.arange(len(numbers), dtype=torch.float64))
    return [list(table.shape), float(numbers.abs().sum()), float(numbers @ weights)]


def _same(ours: list[Any], theirs: list[Any]) -> bool:
    if len(ours) != 3 or len(theirs) != 3:
        return ours == theirs
    scale = _TOLERANCE * max(abs(ours[1]), abs(theirs[1]))
    return ours[0] == theirs[0] and all(
        abs(one - other) <= scale for one, other in zip(ours[1:], theirs[1:], strict=True)
    )
