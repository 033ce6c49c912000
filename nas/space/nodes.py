"""The plan that closes a space: a tree like the symbolic value, with points of a genome where choices were.

`close` makes what `pg.template(value).decode(dna)` makes: fresh symbolic objects.  `light` makes the same as arguments of a model
function, at a fraction of the cost: plain lists, dicts with attribute access, and sealed symbolic objects that are shared between
builds.  One `pg.Object` costs 0.2 ms to make, and a skeleton is built at every step of a training.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import pyglove as pg

from nas.space.labels import MISSING
from nas.space.model import ModelFunction
from nas.space.records import Record, is_record, is_shareable, plain
from nas.space.scale import Range

# Shared objects kept by one node; the oldest half goes when there are more.
_MOST_SHARED = 2048


class Const:
    """A part without open choices."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.shareable = is_shareable(value)
        self._shared: Any = MISSING

    def close(self, genome: Sequence[Any]) -> Any:  # noqa: ARG002
        """The value; a symbolic one as a copy, which may enter another tree."""
        return self.value.clone(deep=True) if isinstance(self.value, pg.Symbolic) else self.value

    def light(self, genome: Sequence[Any]) -> Any:
        """The value: containers fresh, records shared."""
        if not isinstance(self.value, pg.Symbolic):
            return self.value
        if not isinstance(self.value, pg.Object):
            return plain(self.value)
        if not self.shareable:
            return self.close(genome)
        if self._shared is MISSING:
            self._shared = self.close(genome).seal()
        return self._shared


class One:
    """A choice of one candidate, or a slot of a `Many`."""

    def __init__(self, point: int, candidates: list[Node], canonical: tuple[int, ...]) -> None:
        self.point = point
        self.candidates = candidates
        self.canonical = canonical
        self.shareable: bool = all(candidate.shareable for candidate in candidates)

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
        self.shareable: bool = slots[0].shareable

    def close(self, genome: Sequence[Any]) -> Any:
        """The chosen candidates, closed."""
        return pg.List([slot.close(genome) for slot in self.slots])

    def light(self, genome: Sequence[Any]) -> Any:
        """The chosen candidates, closed."""
        return [slot.light(genome) for slot in self.slots]


class Real:
    """A float choice."""

    shareable = True

    def __init__(self, point: int, range_: Range) -> None:
        self.point = point
        self.range = range_

    def close(self, genome: Sequence[Any]) -> Any:
        """The float."""
        return genome[self.point]

    light = close


class List:
    """A list with open choices in it."""

    def __init__(self, items: list[Node]) -> None:
        self.items = items
        self.shareable: bool = all(item.shareable for item in items)

    def close(self, genome: Sequence[Any]) -> Any:
        """A symbolic list."""
        return pg.List([item.close(genome) for item in self.items])

    def light(self, genome: Sequence[Any]) -> Any:
        """A plain list."""
        return [item.light(genome) for item in self.items]


class Dict:
    """A dict with open choices in it."""

    def __init__(self, items: list[tuple[Any, Node]]) -> None:
        self.items = items
        self.shareable: bool = all(item.shareable for _, item in items)

    def close(self, genome: Sequence[Any]) -> Any:
        """A symbolic dict."""
        return pg.Dict({key: item.close(genome) for key, item in self.items})

    def light(self, genome: Sequence[Any]) -> Any:
        """A dict with attribute access."""
        return Record((key, item.light(genome)) for key, item in self.items)


class Object:
    """A symbolic object, or call of a functor, with open arguments.

    Args:
        value: the open object.
        items: its arguments.
        span: first and one past the last point inside it.
    """

    def __init__(self, value: pg.Object, items: list[tuple[str, Node]], span: tuple[int, int]) -> None:
        self.cls = type(value)
        self.arguments = items  # those at their defaults too
        self.options: dict[str, Any] = {"allow_partial": value.allow_partial}
        if isinstance(value, pg.Functor):
            # Arguments at their defaults stay unspecified, so that a call may still give them.
            items = [(key, item) for key, item in items if key in value.specified_args]
            self.options = {
                "override_args": value._override_args,
                "ignore_extra_args": value._ignore_extra_args,
            }
        self.items = items
        self.span = slice(*span)
        self.shareable: bool = is_record(self.cls) and all(item.shareable for _, item in items)
        self._shared: dict[tuple[Any, ...], Any] = {}

    def close(self, genome: Sequence[Any]) -> Any:
        """A new object of the same class."""
        return self.cls(**self.options, **{key: item.close(genome) for key, item in self.items})

    def light(self, genome: Sequence[Any]) -> Any:
        """The same, sealed and shared where that is safe."""
        if not self.shareable:
            return self.close(genome)
        key = tuple(genome[self.span])
        try:
            return self._shared[key]
        except KeyError:
            if len(self._shared) >= _MOST_SHARED:
                for old in list(self._shared)[: _MOST_SHARED // 2]:
                    del self._shared[old]
            shared = self._shared[key] = self.close(genome).seal()
            return shared


Node = Const | One | Many | Real | List | Dict | Object


def direct_call(node: Node) -> Callable[[Sequence[Any]], Any] | None:
    """A function of a genome that calls the model function at the root with light arguments; None when there is none.

    The `pg.Functor` itself is never made.
    """
    if not isinstance(node, Object) or not issubclass(node.cls, ModelFunction):
        return None
    target = node.cls._nas_target
    items = dict(node.items)
    parameters = inspect.signature(target).parameters.values()
    rest = next((items.pop(p.name) for p in parameters if p.kind is p.VAR_POSITIONAL and p.name in items), None)
    positional: list[Node] = []
    for parameter in parameters:
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            if parameter.name not in items and parameter.default is parameter.empty:
                return None  # PyGlove's own call says best what is missing
            if parameter.kind is parameter.POSITIONAL_ONLY or rest is not None:
                positional.append(items.pop(parameter.name, Const(parameter.default)))
    keywords = tuple(items.items())

    def call(genome: Sequence[Any]) -> Any:
        arguments = [item.light(genome) for item in positional]
        if rest is not None:
            arguments += rest.light(genome)
        return target(*arguments, **{key: item.light(genome) for key, item in keywords})

    return call
