"""Axis expressions: what operations ask of them, and what stays of them."""

from __future__ import annotations

import random

import pytest

from nas.convert.axes import (
    Atom,
    Axis,
    Cause,
    Conflict,
    Fixed,
    Sum,
    cause_of,
    cut,
    fixed,
    freeze,
    joined,
    norm,
    prod_split,
    regroup,
    rigid,
    size_of,
    unify,
)

WHY = Cause("softmax", "aten.softmax", "attention")


def test_heads_are_found_by_reshaping_queries() -> None:
    queries = Atom(64)
    heads, width = regroup([(queries,)], [4, 16])
    assert norm((queries,)) == (*heads, *width)
    assert (size_of(heads), size_of(width)) == (4, 16)


def test_equal_pieces_are_a_product() -> None:
    packed = Atom(96)
    first, second, third = cut((packed,), [32, 64])
    unify(first, second)
    unify(second, third)
    assert norm((packed,)) == (Fixed(3), *norm(first))


def test_grouped_queries_are_heads_of_keys_times_repeats() -> None:
    queries, keys = Atom(8 * 16), Atom(2 * 16)
    heads, width = regroup([(queries,)], [8, 16])
    shared, width_of_keys = regroup([(keys,)], [2, 16])
    unify(width, width_of_keys)
    unify(heads, (*norm(shared), Atom(4)))
    found = norm((queries,))
    assert [size_of((factor,)) for factor in found] == [2, 4, 16]
    assert found[0] == norm((keys,))[0]
    assert found[-1] == norm((keys,))[-1]


def test_a_sum_is_refined_at_the_cuts_of_both() -> None:
    left = joined([(Atom(10),), (Atom(20),)])
    right = joined([(Atom(15),), (Atom(15),)])
    unify(left, right)
    assert norm(left) == norm(right)
    assert [size_of(term) for term in norm(left)[0].terms] == [10, 5, 15]  # type: ignore[union-attr]


def test_what_is_unified_with_a_rigid_axis_keeps_its_first_cause() -> None:
    keys, tokens = Atom(7), Atom(7)
    freeze((keys,), WHY)
    unify((keys,), (tokens,), Cause("joined"))
    assert rigid(norm((tokens,)))
    assert cause_of(norm((tokens,))) == WHY


def test_lengths_that_do_not_fit_freeze_both() -> None:
    left, right = Atom(6), Atom(8)
    unify((left, Atom(4)), (right, Atom(3)), WHY)
    assert rigid(norm((left,)))
    assert rigid(norm((right,)))


def test_a_product_that_cannot_be_split_is_a_conflict() -> None:
    with pytest.raises(Conflict):
        prod_split((Atom(5), Atom(3)), 5)


def test_an_atom_is_not_bound_to_itself() -> None:
    atom = Atom(4)
    unify((atom,), (Sum(((atom,),)),))
    assert norm((atom,)) == (atom,)


def _random_axis(source: random.Random, atoms: list[Atom], depth: int = 2) -> Axis:
    factors: list[object] = []
    for _ in range(source.randint(1, 3)):
        kind = source.random()
        if kind < 0.5:
            factors.append(source.choice(atoms))
        elif kind < 0.7 or depth == 0:
            factors.append(Fixed(source.choice([2, 3])))
        else:
            factors.append(Sum(tuple(_random_axis(source, atoms, depth - 1) for _ in range(2))))
    return norm(factors)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(60))
def test_lengths_stay_whatever_is_unified(seed: int) -> None:
    source = random.Random(seed)
    atoms = [Atom(source.choice([2, 3, 4, 6])) for _ in range(5)]
    axes = [axis for axis in (_random_axis(source, atoms) for _ in range(20)) if size_of(axis) < 2000]
    sizes = list(map(size_of, axes))
    for _ in range(20):
        left, right = source.choice(axes), source.choice(axes)
        if size_of(left) == size_of(right):
            unify(left, right, WHY)
            assert norm(left) == norm(right) or (rigid(norm(left)) and rigid(norm(right)))
        points = [point for point in range(1, size_of(left)) if source.random() < 0.2]
        try:
            pieces = cut(left, points)
        except Conflict:
            continue
        assert sum(map(size_of, pieces)) == size_of(left)
        assert [size_of(norm(axis)) for axis in axes] == sizes


def test_fixed_axes_of_one_are_none() -> None:
    assert fixed(1) == ()
    assert norm((Fixed(2), Fixed(3))) == (Fixed(6),)
