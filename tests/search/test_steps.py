"""Archs as sequences of choices."""

from __future__ import annotations

import random

import pyglove as pg
import pytest

from nas.choosing.steps import Steps
from nas.search.steps import weights
from nas.space import Space
from tests.conformance.algorithm import conditional, continuous, flat, small


def walked(space: Space, rng: random.Random) -> tuple[list[int | None], str]:
    """Choices of a random walk, and the key of its arch."""
    steps = Steps(space)
    chosen: list[int | None] = [None] * steps.count
    for p in steps.order:
        if options := steps.options(p, chosen):
            chosen[p] = rng.choice(list(options))
    return chosen, steps.arch(chosen, rng).key


def slots() -> Space:
    """Every kind of several choices, with choices nested in them."""
    inner = [pg.Dict(a=pg.oneof([1, 2])), pg.Dict(b=pg.oneof([3, 4, 5])), "none"]
    return Space(
        pg.Dict(
            both=pg.manyof(2, list(range(4)), distinct=True, sorted=True),
            different=pg.manyof(2, inner, distinct=True),
            ordered=pg.manyof(2, list(range(3)), distinct=False, sorted=True),
        ),
        name="slots",
    )


@pytest.mark.parametrize("space", [small(), conditional(), slots()], ids=lambda space: space.name)
def test_walks_reach_every_arch_and_nothing_else(space: Space) -> None:
    rng = random.Random(0)
    reached = {walked(space, rng)[1] for _ in range(60 * space.size)}
    assert reached == {arch.key for arch in space.enumerate()}


@pytest.mark.parametrize("space", [flat(), conditional(), continuous(), slots()], ids=lambda space: space.name)
def test_the_choices_of_an_arch_are_those_that_made_it(space: Space) -> None:
    rng, steps = random.Random(1), Steps(space)
    for _ in range(200):
        chosen, _ = walked(space, rng)
        assert steps.choices(steps.arch(chosen, rng)) == chosen
        arch = space.sample(rng)
        path = steps.choices(arch)
        for p in steps.order:
            options = steps.options(p, path)
            assert (path[p] in options) if path[p] is not None else not options


def test_a_continuous_decision_is_drawn_within_its_part() -> None:
    space = Space(pg.Dict(x=pg.floatv(1.0, 100.0, scale="log")), name="log")
    rng, steps = random.Random(0), Steps(space, bins=2)
    assert list(steps.options(0, [None])) == [0, 1]
    low, high = ([steps.arch([part], rng).choices["x"] for _ in range(50)] for part in (0, 1))
    assert 1.0 <= min(low) < max(low) <= 10.0 <= min(high) < max(high) <= 100.0
    assert steps.choices(space.arch({"x": 100.0})) == [1]


def test_weights_are_shares() -> None:
    rng = random.Random(0)
    drawn = [weights(3, rng) for _ in range(2000)]
    assert all(abs(sum(w) - 1) < 1e-12 and min(w) >= 0 for w in drawn)
    assert all(abs(sum(w[k] for w in drawn) / 2000 - 1 / 3) < 0.02 for k in range(3))
    assert weights(1, rng) == [1.0]
