"""A softmax a decision: probabilities of whole archs against enumeration, gradients against finite differences."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import pyglove as pg
import pytest

from nas.choosing.distribution import Distribution, Floats
from nas.errors import SpaceError
from nas.space import Space
from tests.conformance.algorithm import conditional, continuous, flat


def nested() -> Space:
    """A kernel and a ratio that only a convolution has: 7 archs."""
    block = [pg.Dict(kind="conv", kernel=pg.oneof([3, 5, 7]), ratio=pg.oneof([1, 2])), "skip"]
    return Space(pg.Dict(block=pg.oneof(block)), name="nested")


def tilted(space: Space, seed: int = 0) -> Distribution:
    found = Distribution(space)
    found.values = np.random.default_rng(seed).normal(size=found.values.shape)
    return found


def slope_of(distribution: Distribution, function: Callable[[], float], step: float = 1e-6) -> Floats:
    """By central differences."""
    values, found = distribution.values, np.zeros_like(distribution.values)
    for at in range(len(values)):
        for sign in (1, -1):
            distribution.values = values.copy()
            distribution.values[at] += sign * step
            found[at] += sign * function() / (2 * step)
    distribution.values = values
    return found


@pytest.mark.parametrize("space", [flat(3), nested(), conditional()], ids=lambda space: space.name)
def test_probabilities_of_all_archs_sum_to_one(space: Space) -> None:
    ours = tilted(space)
    assert sum(np.exp(ours.log_p(arch)) for arch in space.enumerate()) == pytest.approx(1.0, abs=1e-9)


def test_archs_are_drawn_as_often_as_they_are_likely() -> None:
    ours, rng = tilted(nested()), random.Random(0)
    drawn = Counter(ours.draw(rng) for _ in range(4000))
    for arch in ours.space.enumerate():
        p = np.exp(ours.log_p(arch))
        assert drawn[arch] / 4000 == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 4000))


@pytest.mark.parametrize("space", [nested(), conditional(), continuous()], ids=lambda space: space.name)
def test_gradients_are_those_of_finite_differences(space: Space) -> None:
    ours, rng = tilted(space), random.Random(1)
    for _ in range(6):
        arch = space.sample(rng)
        assert ours.slope(arch) == pytest.approx(slope_of(ours, lambda arch=arch: ours.log_p(arch)), abs=1e-7)
        _, slope = ours.entropy(arch)
        assert slope == pytest.approx(slope_of(ours, lambda arch=arch: ours.entropy(arch)[0]), abs=1e-7)


def test_inactive_decisions_have_no_part() -> None:
    ours = tilted(nested())
    skip = next(arch for arch in ours.space.enumerate() if arch.choices["block"] == "skip")
    before, slope, entropy = ours.log_p(skip), ours.slope(skip), ours.entropy(skip)
    inside = np.ones(len(ours.values), dtype=bool)
    inside[ours.of(ours.space.names.index("block"))] = False
    assert inside.sum() == 5
    assert not slope[inside].any()
    assert not entropy[1][inside].any()
    ours.values[inside] += np.arange(5)  # nothing changes with them
    assert ours.log_p(skip) == before
    assert ours.entropy(skip)[0] == entropy[0]


def test_the_likeliest_arch_is_that_of_the_largest_logits() -> None:
    ours = Distribution(nested())
    names = {name: p for p, name in enumerate(ours.space.names)}
    for name, best in (("block", 0), *((name, 1) for name in names if name != "block")):
        ours.values[ours.of(names[name]).start + best] = 3.0
    likeliest = ours.likeliest()
    assert max(ours.space.enumerate(), key=ours.log_p) == likeliest
    assert continuous().allows(Distribution(continuous()).likeliest())


@pytest.mark.parametrize("seed", range(5))
def test_the_likeliest_arch_is_allowed(seed: int) -> None:
    space = flat(3).restricted(lambda arch: sum(arch.genome) % 7 == seed)
    ours = tilted(space)
    ours.values = np.random.default_rng(seed).normal(size=ours.values.shape)
    assert max(space.enumerate(), key=ours.log_p) == ours.likeliest()


def test_a_space_whose_rules_leave_nothing_has_no_likeliest_arch() -> None:
    with pytest.raises(SpaceError, match="none of 1,000 archs"):
        Distribution(flat(6).restricted(lambda _: False)).likeliest()


def test_logits_go_round_by_name_and_must_fit() -> None:
    ours = tilted(conditional())
    again = Distribution(conditional(), ours.logits)
    assert np.array_equal(again.values, ours.values)
    assert not Distribution(flat(2), {}).values.any()
    with pytest.raises(SpaceError, match=r"'d9', which is no decision of space 'flat-2'"):
        Distribution(flat(2), {"d9": [0.0] * 4})
    with pytest.raises(SpaceError, match=r"'d1' of space 'flat-2' has 4 options, and 3 logits"):
        Distribution(flat(2), {"d1": [0.0] * 3})


def test_rules_are_kept_and_what_they_leave_nothing_of_is_refused() -> None:
    space = flat(2).restricted(lambda arch: arch.choices["d0"] == 2)
    ours, rng = tilted(space), random.Random(0)
    assert all(ours.draw(rng).choices["d0"] == 2 for _ in range(20))
    with pytest.raises(SpaceError, match="none of 1,000 archs"):
        ours.draw(rng, lambda arch: False)


def test_a_flip_changes_one_decision_and_what_depends_on_it() -> None:
    ours, rng = tilted(conditional()), random.Random(0)
    for _ in range(200):
        arch = ours.draw(rng)
        p, options, _ = rng.choice(ours.active(arch))
        near = ours.flipped(arch, p, rng.choice(options), rng)
        moved = {q for q in range(ours.steps.count) if near.genome[q] != arch.genome[q]}
        assert moved <= {p, *ours.steps.below(p)}
        assert ours.space.why_not(near.choices) is None
    order = [ours.space.names.index(name) for name in ours.space.names if name.startswith("stages")]
    assert ours.steps.below(order[0]) == [order[1]]
    assert ours.steps.below(order[1]) == []


def test_a_flip_keeps_numbers_as_they_are() -> None:
    ours, rng = tilted(continuous()), random.Random(0)
    arch = ours.draw(rng)
    near = ours.flipped(arch, 1, 3, rng)
    assert (near.genome[0], near.genome[2]) == (arch.genome[0], arch.genome[2])
    assert near.genome[1] != arch.genome[1]
