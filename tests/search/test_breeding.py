"""Rows of genes: they are what the space makes of archs one by one."""

from __future__ import annotations

import random

import numpy as np
import pyglove as pg
import pytest

from nas.search.breeding import Breeding, genes_of, unlike
from nas.space import Space

PLAIN = Space(
    pg.Dict(a=pg.oneof([1, 2, 3]), b=pg.oneof(list("xyzw")), c=pg.oneof([7]), d=pg.oneof([0, 1])), name="plain"
)
NESTED = Space(
    pg.Dict(
        a=pg.oneof([pg.Dict(k=pg.oneof([1, 2, 3])), 5]),
        b=pg.floatv(0.1, 9.0),
        c=pg.manyof(2, ["u", "v", "w"], distinct=True),
    ),
    name="nested",
)
RULED = Space(PLAIN.value, name="ruled", where=lambda choices: choices["a"] != 2)


@pytest.mark.parametrize("space", [PLAIN, NESTED, RULED], ids=lambda space: space.name)
def test_rows_are_archs_of_the_space(space: Space) -> None:
    breeding = Breeding(space, "seed")
    rows = breeding.sample(60)
    for some in (rows, breeding.mutate(rows), breeding.cross(rows, breeding.pick(rows, 60))):
        archs = breeding.archs(some)
        np.testing.assert_array_equal(genes_of(archs, len(space.decisions)), some)
        for arch in archs:
            assert space.arch(arch.choices) == arch
            assert space.allows(arch)


def test_only_plain_spaces_are_bred_as_arrays() -> None:
    assert PLAIN.plain == (3, 4, 1, 2)
    assert NESTED.plain is None
    assert RULED.plain is None


def test_a_mutation_changes_one_decision_to_any_other_candidate() -> None:
    breeding = Breeding(PLAIN, "seed")
    rows = np.tile([1.0, 2.0, 0.0, 1.0], (3000, 1))
    changed = breeding.mutate(rows)
    assert ((changed != rows).sum(1) == 1).all()
    shares = [(changed[:, 0] != 1).mean(), (changed[:, 1] != 2).mean(), (changed[:, 3] != 1).mean()]
    np.testing.assert_allclose(shares, 1 / 3, atol=0.05)
    moved = changed[changed[:, 1] != 2, 1]
    np.testing.assert_allclose([(moved == one).mean() for one in (0, 1, 3)], 1 / 3, atol=0.06)


def test_a_child_has_each_decision_of_one_of_its_parents_and_a_sample_any() -> None:
    breeding = Breeding(PLAIN, "seed")
    left, right = np.tile([0.0, 0.0, 0.0, 0.0], (2000, 1)), np.tile([2.0, 3.0, 0.0, 1.0], (2000, 1))
    child = breeding.cross(left, right)
    assert ((child == left) | (child == right)).all()
    np.testing.assert_allclose((child == left)[:, [0, 1, 3]].mean(0), 0.5, atol=0.05)
    drawn = breeding.sample(4000)
    np.testing.assert_allclose([(drawn[:, 1] == one).mean() for one in range(4)], 0.25, atol=0.04)


def test_the_same_seed_breeds_the_same() -> None:
    for space in (PLAIN, NESTED):
        one, other = Breeding(space, "seed").sample(9), Breeding(space, "seed").sample(9)
        np.testing.assert_array_equal(one, other)
        assert not np.array_equal(one, Breeding(space, "other").sample(9), equal_nan=True)


def test_unlike_rows_are_those_that_no_other_equals() -> None:
    rng = random.Random(5)
    rows = np.array([[rng.choice([0.0, 1.0, np.nan, 0.5]) for _ in range(3)] for _ in range(120)])
    others, genes = rows[:30], rows[30:]
    seen = {tuple(map(str, row)) for row in others}
    expected = []
    for at, row in enumerate(genes):
        if tuple(map(str, row)) not in seen:
            seen.add(tuple(map(str, row)))
            expected.append(at)
    np.testing.assert_array_equal(unlike(genes, others), expected)
    assert not len(unlike(genes, genes))
    every = np.array([[a, b, c] for a in range(40) for b in range(40) for c in range(12)], dtype=np.float64)
    assert len(unlike(every, every[:0])) == len(every)
