"""Numbers of numpy's and torch's in a symbolic value, as Python's own: one candidate, whoever made the number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyglove as pg

from nas.checking import plain_scalar
from nas.space.labels import object_items, raw_elements, raw_items


def with_plain_scalars(value: Any) -> Any:
    """`value` with Python's numbers where numpy's are, so that `np.arange` gives the candidates that `range` does.

    Candidates may be arrays and tensors without dimensions too, as iterating over one gives them.  Elsewhere those are arguments
    like any other: a model function may want a tensor.
    """
    if not isinstance(value, pg.Symbolic) or not any(_differs(leaf, chosen) for leaf, chosen in _leaves(value, False)):
        return value
    with pg.as_sealed(False):
        copy = value.clone()
        copy.rebind(lambda _, leaf, parent: _plain(leaf, _is_chosen(parent)), raise_on_no_change=False)
    return copy.seal() if value.is_sealed else copy


def plain_candidate(value: Any) -> Any:
    """`value`, given as a candidate of a choice, as the space has it: what `with_plain_scalars` makes of one."""
    return _plain(value, True) if not isinstance(value, pg.Symbolic) else with_plain_scalars(value)


def _leaves(value: Any, chosen: bool) -> Iterator[tuple[Any, bool]]:
    """What PyGlove does not look into, and whether it is part of a candidate."""
    if isinstance(value, pg.Object):
        inside = [item for _, item in object_items(value)]
    elif isinstance(value, pg.Dict):
        inside = [item for _, item in raw_items(value)]
    elif isinstance(value, pg.List):
        inside = raw_elements(value)
    else:
        yield value, chosen
        return
    for item in inside:
        yield from _leaves(item, chosen or isinstance(value, pg.hyper.Choices))


def _plain(leaf: Any, chosen: bool) -> Any:
    if isinstance(leaf, pg.Symbolic):
        return leaf
    if isinstance(leaf, list | tuple):
        items = [_plain(item, chosen) for item in leaf]
        if all(item is old for item, old in zip(items, leaf, strict=True)):
            return leaf
        return type(leaf)(*items) if hasattr(leaf, "_fields") else type(leaf)(items)
    if isinstance(leaf, dict):
        return {key: _plain(item, chosen) for key, item in leaf.items()}
    return plain_scalar(leaf) if chosen or isinstance(leaf, np.generic) else leaf


def _differs(leaf: Any, chosen: bool) -> bool:
    return _plain(leaf, chosen) is not leaf


def _is_chosen(parent: Any) -> bool:
    while parent is not None and not isinstance(parent, pg.hyper.Choices):
        parent = parent.sym_parent
    return parent is not None
