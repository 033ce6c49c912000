"""How large a candidate is, and whether two candidates can be one value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pyglove as pg

from nas.space import nodes
from nas.space.labels import identity, object_items, raw_elements, raw_items

Extreme = Callable[[Iterable[float]], float]


def magnitude(node: nodes.Node, extreme: Extreme) -> float:
    """How large a candidate is: a number or bool by value, None -inf, others the sum of their numeric leaves.

    Args:
        node: the candidate's plan.
        extreme: `max` or `min`: where choices nested in it stand.
    """
    if isinstance(node, nodes.Const):
        return -math.inf if node.value is None else _leaves(node.value)
    if isinstance(node, nodes.One):
        return extreme(magnitude(candidate, extreme) for candidate in node.candidates)
    if isinstance(node, nodes.Real):
        return extreme((node.range.low, node.range.high))
    return sum(value for part in parts(node) if (value := magnitude(part, extreme)) != -math.inf)


def _leaves(value: Any) -> float:
    """Sum of the numeric leaves; strings, classes, functions and None inside count nothing."""
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, pg.Object):
        return sum(_leaves(item) for _, item in object_items(value))
    if isinstance(value, dict):
        return sum(_leaves(item) for _, item in raw_items(value))
    if isinstance(value, list | tuple):
        return sum(_leaves(item) for item in raw_elements(value))
    return 0.0


def parts(node: nodes.Node) -> list[nodes.Node]:
    """What a container holds, in the order of its points; nothing for the rest."""
    if isinstance(node, nodes.Many):
        return list(node.slots)
    if isinstance(node, nodes.List):
        return node.items
    if isinstance(node, nodes.Dict | nodes.Object):
        return [item for _, item in node.items]
    return []


def overlap(a: nodes.Node, b: nodes.Node) -> bool:
    """Whether the two can close to one value.

    A float range overlaps another float range, but not a constant in it: `pg.oneof([0.0, pg.floatv(0.0, 1.0)])` is a useful space
    and meets itself with probability zero.
    """
    if isinstance(a, nodes.One):
        return any(overlap(candidate, b) for candidate in a.candidates)
    if isinstance(b, nodes.One):
        return overlap(b, a)
    if isinstance(a, nodes.Real):
        return isinstance(b, nodes.Real) and a.range.low <= b.range.high and b.range.low <= a.range.high
    if isinstance(a, nodes.Const) and isinstance(b, nodes.Const):
        return identity(a.value) == identity(b.value)
    here, there = _opened(a), _opened(b)
    if here is None or there is None or here.keys() != there.keys():
        return False
    return all(overlap(item, there[key]) for key, item in here.items())


def _opened(node: nodes.Node) -> dict[Any, nodes.Node] | None:
    """A container's parts by key, with its type as one more key so that different types differ; None for a leaf."""
    kind: Any
    items: Iterable[tuple[Any, nodes.Node]]
    value = node.value if isinstance(node, nodes.Const) else None
    if isinstance(node, nodes.Many | nodes.List):
        kind, items = list, enumerate(parts(node))
    elif isinstance(node, nodes.Dict | nodes.Object):
        kind, items = dict if isinstance(node, nodes.Dict) else node.cls, node.items
    elif isinstance(value, pg.List):
        kind, items = list, ((i, nodes.Const(item)) for i, item in enumerate(raw_elements(value)))
    elif isinstance(value, pg.Dict | pg.Object):
        pairs = raw_items(value) if isinstance(value, pg.Dict) else object_items(value)
        kind, items = dict if isinstance(value, pg.Dict) else type(value), ((k, nodes.Const(v)) for k, v in pairs)
    else:
        return None
    return {kind: nodes.Const(None), **dict(items)}
