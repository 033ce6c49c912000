"""A generated family of spaces, and a second, slow implementation of what they contain."""

from __future__ import annotations

import itertools
from typing import Any

import pyglove as pg
from hypothesis import assume
from hypothesis import strategies as st

import nas


class Box(pg.Object):
    """A record with two fields."""

    a: Any
    b: Any = 0


@nas.model
def module(x: Any, y: Any = None) -> Any:
    """A model function that shows what it was given."""
    return ("module", x, y)


@st.composite
def values(draw: st.DrawFn, depth: int = 2, floats: bool = False) -> Any:
    """A symbolic value with open choices under named keys.  Constants are all different, so no two candidates overlap."""
    counter = itertools.count()

    def node(level: int) -> Any:
        leaves = ["int", "text", "none", "tuple"]
        open_ = ["manyof", "oneof", "box", "module", "list", "dict"] + (["float"] if floats else [])
        return make(draw(st.sampled_from(open_ + leaves if level else leaves)), level)

    def make(kind: str, level: int) -> Any:  # noqa: PLR0911 (one a kind)
        n = next(counter)
        if kind == "int":
            return n
        if kind == "text":
            return f"s{n}"
        if kind == "none":
            return {"none": None, "n": n}
        if kind == "tuple":
            return (n, f"t{n}")
        if kind == "float":
            scale = draw(st.sampled_from([None, "linear", "log", "rlog"]))
            return pg.floatv(n + 0.5, n + draw(st.sampled_from([0.5, 0.75])), scale)
        if kind == "oneof":
            return pg.oneof([node(level - 1) for _ in range(draw(st.sampled_from([2, 3, 1])))])
        if kind == "manyof":
            count = draw(st.sampled_from([3, 2, 4, 1]))
            distinct = draw(st.booleans())
            k = draw(st.sampled_from([k for k in (2, 3, 1) if k <= count or not distinct]))
            candidates = [node(level - 1) for _ in range(count)]
            return pg.manyof(k, candidates, distinct=distinct, sorted=draw(st.booleans()))
        if kind == "list":
            return [n, *(node(level - 1) for _ in range(draw(st.integers(1, 2))))]
        if kind == "dict":
            return {"n": n, "x": node(level - 1)}
        return (Box if kind == "box" else module)(n, node(level - 1))

    roots = ["manyof", "oneof", "module", "list"] + (["float"] if floats else [])
    return pg.Dict(
        {f"k{i}": make(draw(st.sampled_from(roots)), depth) for i in range(draw(st.sampled_from([2, 1, 3])))}
    )


def by_hand() -> list[pg.Dict]:
    """Small spaces with what chance seldom draws together: groups with sub-spaces, choices inside manyof inside oneof."""
    sub = lambda n: {"n": n, "x": pg.oneof([n + 0.25, n + 0.5])}  # noqa: E731
    return [
        pg.Dict(a=pg.manyof(2, [sub(1), 2, sub(3)], distinct=True, sorted=False)),
        pg.Dict(a=pg.manyof(2, [sub(1), 2, sub(3)], distinct=True, sorted=True)),
        pg.Dict(a=pg.manyof(3, [sub(1), 2, sub(3)], distinct=False, sorted=True), b=pg.oneof([4, 5])),
        pg.Dict(a=pg.permutate([Box(1, pg.oneof([2, 3])), module(4), 5])),
        pg.Dict(a=pg.oneof([pg.manyof(2, [sub(1), pg.oneof([6, 7]), 3], distinct=False), "off"], name="ops")),
        pg.Dict(a=pg.manyof(2, [pg.manyof(2, [1, 2, 3]), sub(4)], distinct=True, sorted=False)),
        pg.Dict(a=pg.oneof([1, 2, 1, 3, 2]), b=pg.oneof([sub(1), sub(2), sub(1)])),
    ]


@st.composite
def spaces(draw: st.DrawFn, floats: bool = False) -> nas.Space:
    """A compiled space of the family, small enough for PyGlove."""
    if draw(st.integers(0, 3)) == 3:
        return nas.Space(draw(st.sampled_from(by_hand())))
    space = nas.Space(draw(values(floats=floats)))
    assume(len(space.decisions) <= 25)
    return space


def plain(value: Any) -> Any:
    """A hashable form of a closed value that keeps types apart."""
    if isinstance(value, pg.Object):
        return type(value).__name__, tuple((k, plain(v)) for k, v in value.sym_init_args.sym_items())
    if isinstance(value, dict):
        return "dict", tuple((k, plain(v)) for k, v in value.items())
    if isinstance(value, list):
        return "list", tuple(plain(v) for v in value)
    return type(value).__name__, value


def contents(value: Any) -> list[Any]:
    """The plain forms of everything an open value can close to, by brute force over PyGlove's definition; repeats included."""
    if isinstance(value, pg.hyper.OneOf):
        return [closed for candidate in value.candidates for closed in contents(candidate)]
    if isinstance(value, pg.hyper.ManyOf):
        n, k = len(value.candidates), value.num_choices
        indices = itertools.product(range(n), repeat=k)
        kept = (
            picked
            for picked in indices
            if not (value.choices_distinct and len(set(picked)) < k)
            and not (value.choices_sorted and list(picked) != sorted(picked))
        )
        slots = [contents(candidate) for candidate in value.candidates]
        return [("list", items) for picked in kept for items in itertools.product(*(slots[i] for i in picked))]
    if isinstance(value, pg.Object):
        items = list(value.sym_init_args.sym_items())
        combined = itertools.product(*(contents(v) for _, v in items))
        return [(type(value).__name__, tuple(zip([k for k, _ in items], c, strict=True))) for c in combined]
    if isinstance(value, dict):
        combined = itertools.product(*(contents(v) for v in value.values()))
        return [("dict", tuple(zip(value.keys(), c, strict=True))) for c in combined]
    if isinstance(value, list):
        return [("list", c) for c in itertools.product(*map(contents, value))]
    return [(type(value).__name__, value)]
