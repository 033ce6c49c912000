"""From a symbolic value with open choices to points and a plan that closes it.

The walk visits hyper values in the order in which PyGlove's `DNASpec` lists them, so that a genome without its inactive entries
is exactly `DNA.to_numbers()`.  `pg.dna_spec` itself is not needed: it costs 0.1-0.4 s for 40 decisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pyglove as pg

from nas.errors import SpaceError
from nas.space import nodes
from nas.space.forest import Point
from nas.space.group import Group
from nas.space.labels import Label, identity, labels_of, object_items, raw_elements, raw_items, short
from nas.space.magnitude import magnitude, overlap
from nas.space.scale import Range

MOST_CANDIDATES = 1000


@dataclass(frozen=True, eq=False)
class Decision:
    """One open choice of a space.

    Args:
        index: its place in a genome.
        name: where it is in the space: `layers[0].kernel`, `op=MBConv.expand`.
        point: its activity, candidates and range.
        labels: what each candidate is called; empty for a float.
        candidates: the candidates as they were given; empty for a float.
        tops: largest magnitude of each candidate, with nested choices at their largest.
        bottoms: the same with nested choices at their smallest.
    """

    index: int
    name: str
    point: Point
    labels: tuple[Label, ...] = ()
    candidates: tuple[Any, ...] = ()
    tops: tuple[float, ...] = ()
    bottoms: tuple[float, ...] = ()

    @property
    def kind(self) -> str:
        """`"categorical"` or `"float"`."""
        return "float" if self.point.range else "categorical"

    def __repr__(self) -> str:
        range_ = self.point.range
        what = f"{range_.low}..{range_.high}" if range_ else ", ".join(map(str, dict.fromkeys(self.labels)))
        return f"Decision({self.name}: {what})"


@dataclass
class Compiled:
    """What the walk over a value yields."""

    node: nodes.Node
    decisions: list[Decision] = field(default_factory=list)
    derived: bool = False


class Place(NamedTuple):
    """Where a value is: name of the enclosing candidate, path in it, and when it is active."""

    scope: str = ""
    path: str = ""
    parent: int = -1
    allowed: frozenset[int] = frozenset()

    def item(self, key: Any) -> Place:
        """Of item `key`: `a.b`, `a[0]` for integers, `a[b.c]` for keys that would read as a path."""
        if not isinstance(key, str) or not key or any(mark in key for mark in ".[]="):
            return self._replace(path=f"{self.path}[{key}]")
        return self._replace(path=f"{self.path}.{key}" if self.path else key)

    @property
    def name(self) -> str:
        """The name of a decision here: scope and path."""
        joint = "." if self.scope and self.path and not self.path.startswith("[") else ""
        return f"{self.scope}{joint}{self.path}"


class Choice(NamedTuple):
    """The candidates of a choice, as every slot of it has them."""

    candidates: tuple[Any, ...]
    canonical: tuple[int, ...]
    labels: tuple[Label, ...]


def compile_value(value: Any) -> Compiled:
    """Points, names, labels and closing plan of a symbolic value.

    Raises:
        SpaceError: the value holds a choice that is unsupported, unnamed, too large, ambiguous, or cannot be stored.
    """
    walk = _Walk()
    compiled = Compiled(walk.node(value, Place()), walk.decisions, walk.derived)
    names: set[str] = set()
    for decision in compiled.decisions:
        if decision.name in names:
            raise SpaceError(f"two decisions are named {decision.name!r}; give each choice its own name=")
        names.add(decision.name)
    return compiled


class _Walk:
    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.derived = False

    def node(self, value: Any, place: Place) -> nodes.Node:
        """The plan of `value`, which lies at `place`."""
        start = len(self.decisions)
        if isinstance(value, pg.hyper.HyperValue):
            return self._hyper(value, place)
        if isinstance(value, pg.hyper.DerivedValue):
            self.derived = True
        elif isinstance(value, pg.Object):
            items = [(key, self.node(item, place.item(key))) for key, item in object_items(value)]
            if len(self.decisions) > start:
                return nodes.Object(value, items, (start, len(self.decisions)))
        elif isinstance(value, pg.Dict):
            items = [(key, self.node(item, place.item(key))) for key, item in raw_items(value)]
            if not all(_is_leaf(item) for _, item in items):
                return nodes.Dict(items)
        elif isinstance(value, pg.List):
            elements = [self.node(item, place.item(i)) for i, item in enumerate(raw_elements(value))]
            if not all(map(_is_leaf, elements)):
                return nodes.List(elements)
        else:
            _refuse_hidden(value, place)
        return nodes.Const(value)

    def _hyper(self, value: Any, place: Place) -> nodes.Node:
        if getattr(value, "name", None):
            place = place._replace(path=value.name)
        if not place.name:
            raise SpaceError(f"the choice {short(value)[:60]} at the root of the space is unnamed; give it name='...'")
        if isinstance(value, pg.hyper.Float):
            scale = value.scale if value.scale != "linear" else None
            range_ = Range(value.min_value + 0.0, value.max_value + 0.0, scale)
            return nodes.Real(self._add(place, Point(place.parent, place.allowed, range=range_)), range_)
        if not isinstance(value, pg.hyper.Choices):
            raise SpaceError(
                f"choice {place.name!r} is a {type(value).__name__}, which has no fixed candidates; "
                "use pg.oneof, pg.manyof, pg.permutate or pg.floatv"
            )
        if value.where is not None:
            raise SpaceError(f"choice {place.name!r} filters nested choices with where=, which would leave them open")
        choice = _choice(value, place)
        if isinstance(value, pg.hyper.OneOf):
            return self._slot(choice, place)
        return self._many(value, choice, place)

    def _many(self, value: Any, choice: Choice, place: Place) -> nodes.Many:
        k, canonical = value.num_choices, choice.canonical
        if k < 1:
            raise SpaceError(f"choice {place.name!r} chooses {k} of {len(canonical)} candidates; choose at least one")
        ruled = k > 1 and (value.choices_distinct or value.choices_sorted)
        twin = next((i for i, c in enumerate(canonical) if i != c), None)
        if ruled and twin is not None:
            raise SpaceError(
                f"candidates {canonical[twin]} and {twin} of {place.name!r} are equal, which a distinct or sorted manyof "
                "cannot tell apart; drop one"
            )
        start = len(self.decisions)
        slots = [self._slot(choice, place.item(i)) for i in range(k)]
        if ruled:
            stride = (len(self.decisions) - start) // k
            firsts = tuple(range(start, len(self.decisions), stride))
            group = Group(firsts, stride, len(canonical), value.choices_distinct, value.choices_sorted)
            for slot in firsts:
                self.decisions[slot].point.group = group
        return nodes.Many(slots)

    def _slot(self, choice: Choice, place: Place) -> nodes.One:
        p = self._add(place, Point(place.parent, place.allowed, choice.canonical))
        plans: list[nodes.Node] = []
        for c, candidate in enumerate(choice.candidates):
            if choice.canonical[c] < c:
                plans.append(plans[choice.canonical[c]])
            else:
                inside = Place(f"{place.name}={choice.labels[c]}", "", p, frozenset({c}))
                plans.append(self.node(candidate, inside))
        _refuse_overlap(place, plans, choice)
        self.decisions[p] = replace(
            self.decisions[p],
            labels=choice.labels,
            candidates=choice.candidates,
            tops=tuple(magnitude(plan, max) for plan in plans),
            bottoms=tuple(magnitude(plan, min) for plan in plans),
        )
        return nodes.One(p, plans, choice.canonical)

    def _add(self, place: Place, point: Point) -> int:
        self.decisions.append(Decision(len(self.decisions), place.name, point))
        return len(self.decisions) - 1


def _is_leaf(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Const) and not isinstance(node.value, pg.Symbolic)


def _choice(value: Any, place: Place) -> Choice:
    candidates = raw_elements(value.sym_getattr("candidates"))
    if len(candidates) > MOST_CANDIDATES:
        raise SpaceError(
            f"choice {place.name!r} has {len(candidates)} candidates, at most {MOST_CANDIDATES} are supported; "
            "split it into several choices or use pg.floatv"
        )
    if not candidates:
        raise SpaceError(f"choice {place.name!r} has no candidates; give it at least one")
    firsts: dict[Any, int] = {}
    try:
        canonical = tuple(firsts.setdefault(identity(candidate), i) for i, candidate in enumerate(candidates))
    except SpaceError as error:
        raise SpaceError(f"choice {place.name!r}: {error}") from None
    return Choice(tuple(candidates), canonical, labels_of(candidates, canonical))


def _refuse_hidden(value: Any, place: Place) -> None:
    """Refuse a choice where PyGlove does not look: inside a tuple, a set, or a plain dict or list in one of those."""
    if isinstance(value, tuple | set | frozenset | list):
        inside: Sequence[Any] = list(value)
    elif isinstance(value, dict):
        inside = list(value.values())
    else:
        return
    for item in inside:
        if isinstance(item, pg.hyper.HyperValue):
            raise SpaceError(
                f"choice {short(item)[:60]} is inside the {type(value).__name__} at {place.name or 'the root'!r}, "
                "where PyGlove does not look for choices; use a list or a dict"
            )
        _refuse_hidden(item, place)


def _refuse_overlap(place: Place, plans: Sequence[nodes.Node], choice: Choice) -> None:
    """Refuse two candidates that can close to one value: an arch would have two genomes."""
    for i, plan in enumerate(plans):
        if isinstance(plan, nodes.Const) or choice.canonical[i] < i:
            continue
        for j, other in enumerate(plans):
            if choice.canonical[j] != j or i == j:
                continue
            if overlap(plan, other):
                raise SpaceError(
                    f"candidates {choice.labels[min(i, j)]!r} and {choice.labels[max(i, j)]!r} of {place.name!r} can close to "
                    "the same value; make them different, or put all into one choice"
                )
