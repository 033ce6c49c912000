"""Uniform scaling: the same share of every number."""

from __future__ import annotations

import itertools

import pyglove as pg
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nas
from nas.compressing.uniform import ladder, largest_within, uniform


def space() -> nas.Space:
    return nas.Space(
        pg.Dict(
            width=pg.oneof([8, 16, 24, 32]),
            blocks=[pg.Dict(hidden=pg.oneof([4, 8, 16]), keep=pg.oneof([True, False])) for _ in range(2)],
            act=pg.oneof(["relu", "gelu"]),
            rate=pg.floatv(0.1, 1.0),
        ),
        name="uniform",
    )


def test_numbers_are_scaled_and_the_rest_stays() -> None:
    largest, half = space().largest.choices, uniform(space(), 0.5).choices
    assert half["width"] == 16
    assert half["blocks[0].hidden"] == half["blocks[1].hidden"] == 8
    assert {name: half[name] for name in ("blocks[0].keep", "act", "rate")} == {
        name: largest[name] for name in ("blocks[0].keep", "act", "rate")
    }


def test_the_ladder_goes_from_the_narrowest_to_the_largest() -> None:
    archs = ladder(space())
    assert archs[0].choices["width"] == 8
    assert archs[-1] == space().largest
    widths = [arch.choices["width"] + arch.choices["blocks[0].hidden"] for arch in archs]
    assert widths == sorted(widths)


def test_archs_between_two_uniform_ones_fill_a_budget() -> None:
    archs = ladder(space())
    for before, after in itertools.pairwise(archs):
        changed = [name for name, value in after.choices.items() if value != before.choices[name]]
        assert len(changed) == 1


@given(st.lists(st.integers(0, 100), min_size=1, max_size=12, unique=True), st.integers(-5, 105))
def test_bisection_finds_the_last_that_fits(costs: list[int], bound: int) -> None:
    costs.sort()
    expected = next((cost for cost in reversed(costs) if cost <= bound), None)
    assert largest_within(costs, float, bound) == expected  # type: ignore[arg-type]


def test_a_rule_that_forbids_it_is_said() -> None:
    narrow = space().restricted(lambda arch: arch.choices["width"] > 8)
    with pytest.raises(nas.NasError, match="0% of every number is not allowed"):
        uniform(narrow, 0.0)
