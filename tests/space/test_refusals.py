"""What a space refuses, each in one sentence that names the choice and the way out."""

from __future__ import annotations

import enum
import threading
from typing import Any

import pyglove as pg
import pytest

import nas
from nas.errors import NasError, SpaceError
from tests.space.families import Box, module


class Integers(pg.hyper.CustomHyper):
    """A choice without fixed candidates."""

    def custom_decode(self, dna: Any) -> list[int]:
        return [int(part) for part in dna.value.split(",")]


class Colour(enum.Enum):
    """Importable members."""

    RED = 1
    BLUE = 2


def local() -> Any:
    class Local:
        pass

    return Local


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"x": Integers()}, "choice 'x' is a Integers, which has no fixed candidates; use pg.oneof"),
        ({"x": [pg.evolve([1], lambda k, v, p: v)]}, r"choice 'x\[0\]' is a Evolvable, which has no fixed candidates"),
        ({"x": pg.oneof(range(1001))}, "choice 'x' has 1001 candidates, at most 1000 are supported; split it"),
        ({"x": pg.manyof(2, [], distinct=False)}, "choice 'x' has no candidates; give it at least one"),
        ({"x": pg.manyof(0, [1, 2])}, "choice 'x' chooses 0 of 2 candidates; choose at least one"),
        (
            {"x": pg.oneof([1, lambda: 2])},
            "choice 'x': candidate .*<lambda> of type function cannot be stored; use numbers",
        ),
        ({"x": pg.oneof([1, local()])}, "choice 'x': candidate .*Local of type (type|ABCMeta) cannot be stored"),
        ({"x": pg.oneof([1, threading.Lock()])}, "choice 'x': candidate lock of type lock cannot be stored"),
        ({"x": pg.oneof([Box(1), Box(object())])}, "choice 'x': candidate object of type object cannot be stored"),
        (
            {"x": pg.manyof(2, [1, 2, 1])},
            "candidates 0 and 2 of 'x' are equal, which a distinct or sorted manyof cannot",
        ),
        (
            {"x": pg.oneof([1, pg.oneof([1, 2])])},
            "candidates 1 and 'oneof\\(1, 2\\)' of 'x' can close to the same value",
        ),
        (
            {"x": pg.oneof([Box(1), Box(pg.oneof([1, 2]))])},
            r"candidates 'Box\(a=1\)' and 'Box\(a=oneof\(1, 2\)\)' of 'x' can close to the same value; make them different",
        ),
        ({"x": pg.oneof([pg.floatv(0.0, 1.0), pg.floatv(1.0, 2.0)])}, "can close to the same value"),
        ({"x": (1, pg.oneof([1, 2]))}, r"choice oneof\(1, 2\) is inside the tuple at 'x', where PyGlove does not look"),
        ({"x": ({"y": [pg.oneof([1, 2])]},)}, "is inside the list at 'x', where PyGlove does not look"),
        (
            {"x": pg.hyper.OneOf(candidates=[1, pg.oneof([2, 3])], where=bool)},
            "choice 'x' filters nested choices with where=",
        ),
        (
            module(pg.oneof([1, 2], name="y"), pg.oneof([1, 2])),
            "two decisions are named 'y'; give each choice its own name=",
        ),
    ],
)
def test_space_is_refused_with_the_reason(value: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message) as caught:
        nas.Space(value)
    assert isinstance(caught.value, NasError)
    assert "\n" not in str(caught.value)


def test_pyglove_itself_refuses_more_distinct_choices_than_candidates() -> None:
    with pytest.raises(ValueError, match="cannot produce 3 distinct choices"):
        pg.manyof(3, [1, 2])


@pytest.mark.parametrize(
    "candidates",
    [
        list(range(1000)),
        [Colour.RED, Colour.BLUE],
        [dict, sorted, local],
        [module, Box, nas.model(threading.Thread)],
        [0.0, pg.floatv(0.0, 1.0)],
        [Box(1), Box(2, pg.oneof([1, 2])), [1], [1, pg.oneof([1, 2])], {"a": 1}, {"a": 1, "b": pg.oneof([1])}],
        [float("inf"), 1.0],
    ],
)
def test_what_can_be_stored_and_told_apart_is_taken(candidates: list[Any]) -> None:
    space = nas.Space({"x": pg.oneof(candidates)})
    covering = space.covering()
    assert {arch.genome[0] for arch in covering} == set(range(len(candidates)))
    for arch in covering:
        assert space.arch(arch.choices) == arch
