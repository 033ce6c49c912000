"""Spaces that are described in JSON."""

from __future__ import annotations

import json
import random
from typing import Any

import pyglove as pg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.errors import SpaceError
from nas.space.plain import Values, space_of

EVERYTHING: dict[str, Any] = {
    "width": {"choice": [16, 32, 64]},
    "depth": {"int": [1, 7], "step": 2},
    "lr": {"float": [1e-4, 1e-1], "scale": "log"},
    "kernels": {"many": 2, "of": [3, 5, 7], "distinct": False, "sorted": True},
    "order": {"permutation": ["conv", "norm"]},
    "block": {"choice": [{"kind": "conv", "kernel": {"choice": [3, 5]}}, {"kind": "none"}, None, True]},
    "layers": [{"heads": {"int": [1, 2]}}, 3],
    "expand": {"choice": [3, 6], "when": {"depth": [5, 7]}},
    "fixed": {"deep": ["as", 1.5, None]},
}


def test_every_kind_of_decision_is_one_of_the_space() -> None:
    space = space_of(json.loads(json.dumps(EVERYTHING)), "all")
    kinds = {decision.name: decision.kind for decision in space.decisions}
    assert kinds["lr"] == "float"
    assert {"width", "depth", "kernels[0]", "kernels[1]", "order[0]", "block", "layers[0].heads", "expand"} <= set(
        kinds
    )
    assert next(d.labels for d in space.decisions if d.name == "depth") == (1, 3, 5, 7)
    for seed in range(40):
        arch = space.sample(random.Random(seed))
        assert ("expand" in arch.choices) == (arch.choices["depth"] in (5, 7))
        built = space.build(arch)
        assert built["fixed"]["deep"] == ["as", 1.5, None]
        assert built["kernels"] == sorted(built["kernels"])
        assert 1e-4 <= built["lr"] <= 1e-1
        assert Values(space)(arch) == json.loads(json.dumps(pg.to_json(built), default=str)), "as PyGlove builds it"


def test_the_same_description_is_the_same_space() -> None:
    one, two = space_of(EVERYTHING, "a"), space_of(json.loads(json.dumps(EVERYTHING)), "a")
    assert one.fingerprint == two.fingerprint
    arch = one.sample(random.Random(0))
    assert two.from_row(arch.row(), one.schema()).key == arch.key


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ([1], "space: an object is expected"),
        ({}, "nothing is open"),
        ({"a": 1}, "nothing is open"),
        ({"a b": {"choice": [1]}}, "'a b' is no name"),
        ({"__class__": {"choice": [1]}}, "is no name"),
        ({"a": {"choice": []}}, "space.a.choice: a list of candidates"),
        ({"a": {"choice": 3}}, "space.a.choice: a list of candidates"),
        ({"a": {"choice": [1, 2], "int": [1, 2]}}, "choice and int together"),
        ({"a": {"choice": [1, 2], "step": 2}}, "'choice' has no 'step'"),
        ({"a": {"choice": list(range(1000))}}, "1,000 candidates; one choice has at most 256"),
        ({"a": {"int": [1, 100_000]}}, "100,000 candidates"),
        ({"a": {"int": [3, 1]}}, "two whole numbers are expected, the smaller first"),
        ({"a": {"int": [1, 2.5]}}, "two whole numbers"),
        ({"a": {"int": [1, 9], "step": 0}}, "is no step"),
        ({"a": {"float": [0.0, 1.0], "scale": "log"}}, "has no logarithm"),
        ({"a": {"float": [0, float("nan")]}}, "two numbers are expected"),
        ({"a": {"float": [0, 1], "scale": "exp"}}, "give 'linear' or 'log'"),
        ({"a": {"many": 4, "of": [1, 2]}}, "give 1 to 2"),
        ({"a": {"many": 2, "of": [1, 2, 3], "sorted": 1}}, "distinct and sorted are true or false"),
        ({"a": {"choice": [1, 2], "when": {"b": [1]}}}, "which is no decision"),
        ({"a": {"choice": [1, 2], "when": {}}}, "one name with a list of values"),
        (
            {"b": {"int": [1, 2]}, "a": {"choice": [{"c": {"int": [1, 2], "when": {"b": [1]}}}]}},
            "with the candidate alone",
        ),
        ({"a": {"choice": ["x" * 300]}}, "up to 200 printable letters"),
        ({"a": {"choice": ["\x1b[31m", "y"]}}, "printable letters"),
        ({"a": {"choice": [2**70, 1]}}, "beyond 64 bits"),
    ],
)
def test_what_is_no_space_is_one_sentence_with_the_place(described: Any, said: str) -> None:
    with pytest.raises(SpaceError) as caught:
        space_of(described, "x")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_depth_and_size_are_bounded() -> None:
    deep: Any = {"choice": [1, 2]}
    for _ in range(50):
        deep = {"a": deep}
    with pytest.raises(SpaceError, match="nested more than 20 deep"):
        space_of(deep, "x")
    with pytest.raises(SpaceError, match="more than 5,000 parts"):
        space_of({"a": [[0] * 100 for _ in range(100)], "b": {"choice": [1, 2]}}, "x")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["choice", "int", "float", "many", "of", "when", "a", "b"]) | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(_JSON)
@settings(max_examples=150)
def test_whatever_comes_is_a_space_or_a_sentence(described: Any) -> None:
    try:
        space = space_of(described, "x")
    except SpaceError:
        return
    assert space.decisions
    space.build(space.sample(random.Random(0)))
