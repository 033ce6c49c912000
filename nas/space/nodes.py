"""The plan that closes a space: a tree like the symbolic value, with the points of a genome where choices were.

`close` makes what `pg.template(value).decode(dna)` makes: fresh symbolic objects.  `light` makes the same for the arguments of a model
function at a fraction of the cost: plain lists, dicts with attribute access, and records shared between builds where nobody can
change them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyglove as pg

from nas.space.labels import identity, object_items, raw_elements, raw_items
from nas.space.scale import Range

Extreme = Callable[..., float]


class Const:
    """A part without open choices."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def close(self, genome: Sequence[Any]) -> Any:  # noqa: ARG002
        """The value; symbolic ones as a copy, which may enter another tree."""
        return self.value.clone(deep=True) if isinstance(self.value, pg.Symbolic) else self.value

    light = close


class One:
    """A choice of one candidate, or a slot of a `Many`."""

    def __init__(self, point: int, candidates: list[Node], canonical: tuple[int, ...]) -> None:
        self.point = point
        self.candidates = candidates
        self.canonical = canonical

    def close(self, genome: Sequence[Any]) -> Any:
        """The chosen candidate, closed."""
        return self.candidates[genome[self.point]].close(genome)

    def light(self, genome: Sequence[Any]) -> Any:
        """The chosen candidate, closed."""
        return self.candidates[genome[self.point]].light(genome)


class Many:
    """A choice of several: a list."""

    def __init__(self, slots: list[One]) -> None:
        self.slots = slots

    def close(self, genome: Sequence[Any]) -> Any:
        """The chosen candidates, closed."""
        return [slot.close(genome) for slot in self.slots]

    def light(self, genome: Sequence[Any]) -> Any:
        """The chosen candidates, closed."""
        return [slot.light(genome) for slot in self.slots]


class Real:
    """A float choice."""

    def __init__(self, point: int, range_: Range) -> None:
        self.point = point
        self.range = range_

    def close(self, genome: Sequence[Any]) -> Any:
        """The float."""
        return genome[self.point]

    light = close


class List:
    """A list with open choices in it."""

    def __init__(self, value: pg.List, items: list[Node]) -> None:
        self.value = value
        self.items = items

    def close(self, genome: Sequence[Any]) -> Any:
        """A symbolic list."""
        return pg.List([item.close(genome) for item in self.items])

    def light(self, genome: Sequence[Any]) -> Any:
        """A plain list."""
        return [item.light(genome) for item in self.items]


class Dict:
    """A dict with open choices in it."""

    def __init__(self, value: pg.Dict, items: list[tuple[Any, Node]]) -> None:
        self.value = value
        self.items = items

    def close(self, genome: Sequence[Any]) -> Any:
        """A symbolic dict."""
        return pg.Dict({key: item.close(genome) for key, item in self.items})

    def light(self, genome: Sequence[Any]) -> Any:
        """A dict with attribute access."""
        return pg.Dict({key: item.light(genome) for key, item in self.items})


class Object:
    """A symbolic object (or functor) with open arguments; `span` are the points inside it."""

    def __init__(self, value: pg.Object, items: list[tuple[str, Node]], span: tuple[int, int]) -> None:
        self.value = value
        self.items = items
        self.span = span
        self.specified = value.specified_args if isinstance(value, pg.Functor) else {key for key, _ in items}

    def close(self, genome: Sequence[Any]) -> Any:
        """A new object of the same class."""
        arguments = {key: item.close(genome) for key, item in self.items if key in self.specified}
        return type(self.value)(allow_partial=True, **arguments)

    light = close


Node = Const | One | Many | Real | List | Dict | Object


def magnitude(node: Node, extreme: Extreme) -> float:
    """How large a candidate is: a number or bool by value, None -inf, others the sum of their numeric leaves.

    Args:
        node: the candidate's plan.
        extreme: `max` or `min`: at which end nested choices stand.
    """
    if isinstance(node, Const):
        return -math.inf if node.value is None else _leaves(node.value)
    if isinstance(node, One):
        return extreme(magnitude(candidate, extreme) for candidate in node.candidates)
    if isinstance(node, Real):
        return extreme(node.range.low, node.range.high)
    if isinstance(node, Many):
        return _finite_sum(magnitude(slot, extreme) for slot in node.slots)
    if isinstance(node, List):
        return _finite_sum(magnitude(item, extreme) for item in node.items)
    return _finite_sum(magnitude(item, extreme) for _, item in node.items)


def _finite_sum(values: Any) -> float:
    return sum(value for value in values if value != -math.inf)


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


def overlap(a: Node, b: Node) -> bool:
    """Whether the two can close to one value.

    A float range overlaps another float range, but not a constant in it: `pg.oneof([0.0, pg.floatv(0.0, 1.0)])` is a useful space
    and meets itself with probability zero.
    """
    if isinstance(a, One):
        return any(overlap(candidate, b) for candidate in a.candidates)
    if isinstance(b, One):
        return overlap(b, a)
    if isinstance(a, Const) and isinstance(b, Const):
        return identity(a.value) == identity(b.value)
    if isinstance(a, Real) or isinstance(b, Real):
        return (
            isinstance(a, Real)
            and isinstance(b, Real)
            and max(a.range.low, b.range.low) <= min(a.range.high, b.range.high)
        )
    parts_a, parts_b = _parts(a), _parts(b)
    if parts_a is None or parts_b is None or parts_a[0] != parts_b[0] or len(parts_a[1]) != len(parts_b[1]):
        return False
    return all(overlap(x, y) for x, y in zip(parts_a[1], parts_b[1], strict=True))


def _parts(node: Node) -> tuple[Any, list[Node]] | None:
    """What makes two containers comparable (type and keys), and their parts in a common order."""
    if isinstance(node, Many):
        return "list", list(node.slots)
    if isinstance(node, List):
        return "list", list(node.items)
    if isinstance(node, Dict | Object):
        kind = "dict" if isinstance(node, Dict) else type(node.value)
        items = sorted(node.items, key=lambda item: str(item[0]))
        return (kind, [key for key, _ in items]), [item for _, item in items]
    value = getattr(node, "value", None)
    if isinstance(value, pg.List):
        return "list", [Const(item) for item in raw_elements(value)]
    if isinstance(value, pg.Dict | pg.Object):
        pairs = raw_items(value) if isinstance(value, pg.Dict) else object_items(value)
        pairs = sorted(pairs, key=lambda item: str(item[0]))
        kind = "dict" if isinstance(value, pg.Dict) else type(value)
        return (kind, [key for key, _ in pairs]), [Const(item) for _, item in pairs]
    return None
