"""Composed archs are those that enumeration finds."""

from __future__ import annotations

import numpy as np
import pyglove as pg
import pytest

from nas.pareto import non_dominated
from nas.search.composing import Composer, Limit
from nas.search.replacements import Replacements
from nas.search.sums import Sum
from nas.space import Arch, Space
from tests.conformance.algorithm import conditional, flat


def drawn(width: int, seed: int, pairs: int = 0) -> Sum:
    """A sum with random effects."""
    draws = np.random.default_rng(seed)
    found = {tuple(sorted(draws.choice(width, 2, replace=False).tolist())) for _ in range(pairs)}
    return Sum(3.0, draws.normal(size=width), sorted(found), draws.normal(size=len(found)), False, np.nan)


@pytest.mark.parametrize("pairs", [0, 6])
@pytest.mark.parametrize("space", [flat(4), conditional()], ids=lambda space: str(space.name))
def test_the_best_arch_of_one_objective_within_a_limit(space: Space, pairs: int) -> None:
    for seed in range(3):
        replacements = Replacements(space, space.largest, 8)
        error, cost = (drawn(replacements.width, seed + place, pairs) for place in (0, 100))
        everything = list(space.enumerate())
        columns = replacements(everything)
        bound = float(np.quantile(cost(columns), 0.3))
        composer = Composer(
            space, replacements, [error], [Limit(cost, "<=", bound)], np.ones(replacements.width, dtype=bool)
        )
        found = composer.best(np.zeros((0, 1)), error(columns).max(keepdims=True), lambda arch: True)
        assert found is not None
        assert found.values[0] == pytest.approx(error(columns)[cost(columns) <= bound].min())


@pytest.mark.parametrize("objectives", [2, 3])
def test_compositions_fill_the_front_and_propose_nothing_else(objectives: int) -> None:
    space = flat(4)
    replacements = Replacements(space, space.smallest, 8)
    sums = [drawn(replacements.width, seed) for seed in range(objectives)]
    everything = list(space.enumerate())
    values = np.stack([one(replacements(everything)) for one in sums], 1)
    front = values[non_dominated(values)]
    composer = Composer(space, replacements, sums, [], np.ones(replacements.width, dtype=bool))
    known, keys = np.zeros((0, objectives)), set[str]()
    for _ in range(8):
        found = composer.best(known, values.max(0) + 1.0, lambda arch, keys=keys: arch.key not in keys)  # type: ignore[misc]
        assert found is not None
        assert np.abs(front - found.values).max(1).min() < 1e-9
        known, keys = np.vstack([known, found.values]), keys | {found.arch.key}
    assert len(np.unique(known, axis=0)) == 8


def test_known_and_forbidden_archs_and_unknown_effects_are_passed_over() -> None:
    space = Space(
        pg.Dict({f"d{at}": pg.oneof([0, 1, 2]) for at in range(3)}),
        name="ruled",
        where=lambda choices: choices["d0"] + choices["d1"] < 4,
    )
    replacements = Replacements(space, space.smallest, 8)
    error = Sum(0.0, -np.arange(1.0, 7.0), (), np.zeros(0), False, np.nan)
    usable = np.arange(6) != 5  # nobody knows what d2=2 does
    composer = Composer(space, replacements, [error], [], usable)
    refused: list[Arch] = []
    found = []
    for _ in range(3):
        keys = {arch.key for arch in refused}
        best = composer.best(np.zeros((0, 1)), np.array([1.0]), lambda arch, keys=keys: arch.key not in keys)  # type: ignore[misc]
        assert best is not None
        refused.append(best.arch)
        found.append((tuple(best.arch.choices.values()), float(best.values[0])))
    assert sorted(found[:2]) == [((1, 2, 1), -10.0), ((2, 1, 1), -10.0)]
    assert found[2:] == [((0, 2, 1), -9.0)]
