"""Names, labels, choices, size, order, features and extremes of spaces written by hand."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections import Counter
from random import Random

import numpy as np
import pyglove as pg
import pytest

import nas
from nas.errors import SpaceError
from tests.space.families import Box, module


def flat_depth() -> nas.Space:
    """A flat spelling: three layers side by side, of which two to four are used."""
    return nas.Space(
        {"depth": pg.oneof([1, 2, 3]), "kernel": [pg.oneof([3, 5]) for _ in range(3)]},
        name="flat",
        active_when={"kernel[1]": ("depth", {2, 3}), "kernel[2]": ("depth", [3])},
    )


class TestNames:
    def test_are_paths_without_counts(self) -> None:
        space = nas.Space(
            module(
                [{"kernel": pg.oneof([3, 5])}, {"a.b": pg.oneof([1, 2])}],
                pg.manyof(2, [Box(1), Box(pg.oneof([1, 2]), b=1), "skip"]),
            )
        )
        assert space.names == (
            "x[0].kernel",
            "x[1][a.b]",
            "y[0]",
            "y[0]=Box(a=oneof(1, 2), b=1).a",
            "y[1]",
            "y[1]=Box(a=oneof(1, 2), b=1).a",
        )

    def test_given_to_a_choice_replace_its_path(self) -> None:
        space = nas.Space(
            {
                "x": pg.oneof([{"k": pg.oneof([1, 2], name="kernel")}, None], name="op"),
                "y": pg.manyof(2, [1, 2], name="ys"),
            }
        )
        assert space.names == ("op", "op={k: oneof(1, 2)}.kernel", "ys[0]", "ys[1]")

    def test_at_the_root_are_needed(self) -> None:
        with pytest.raises(SpaceError, match=r"oneof\(1, 2\) at the root of the space is unnamed; give it name="):
            nas.Space(pg.oneof([1, 2]))
        space = nas.Space(pg.oneof([1, {"a": pg.floatv(0.0, 1.0)}], name="root"))
        assert space.names == ("root", "root={a: floatv(0.0, 1.0)}.a")

    def test_must_differ(self) -> None:
        with pytest.raises(SpaceError, match="two decisions are named 'a'"):
            nas.Space({"x": pg.oneof([1, 2], name="a"), "a": pg.oneof([1, 2])})


class TestLabels:
    def test_are_scalars_class_names_or_short_texts(self) -> None:
        candidates = [None, True, 3, "relu", Box(1), module(2), [1, 2], {"a": 1}, (1, "x"), int, math.sqrt]
        space = nas.Space({"x": pg.oneof(candidates)})
        assert space.decisions[0].labels == (
            *(None, True, 3, "relu", "Box", "module"),
            *("[1, 2]", "{a: 1}", "(1, x)", "int", "sqrt"),
        )
        for candidate, label in zip(candidates, space.decisions[0].labels, strict=True):
            assert space.arch({"x": candidate}) == space.arch({"x": label})
            assert space.arch({"x": label}).choices == {"x": label}

    def test_of_one_class_are_told_apart(self) -> None:
        long = list(range(100))
        space = nas.Space({"x": pg.oneof([Box(1), Box(2, b=3), Box(long), "Box(a=1)"])})
        assert space.decisions[0].labels == ("Box#0", "Box(a=2, b=3)", "Box#2", "Box(a=1)")

    def test_tell_one_true_and_one_point_zero_apart(self) -> None:
        space = nas.Space({"x": pg.oneof([1, True, 1.0, "1"])})
        assert space.size == 4
        for arch in space.enumerate():
            back = space.arch(json.loads(json.dumps(arch.choices)))
            assert back == arch
            assert type(back.value.x) is type(arch.value.x)

    def test_numbers_are_found_by_value(self) -> None:
        space = nas.Space({"x": pg.oneof([1, 2]), "lr": pg.floatv(1e-3, 1.0, "log")})
        assert space.arch({"x": 2.0, "lr": 1}).choices == {"x": 2, "lr": 1.0}


def test_equal_candidates_are_one() -> None:
    space = nas.Space({"x": pg.oneof([1, 1, 2]), "y": pg.oneof([Box(pg.oneof([1, 2])), Box(pg.oneof([1, 2])), Box(3)])})
    assert space.size == 2 * 3
    assert space.from_genome([1, 1, 0]) == space.from_genome([0, 0, 0])
    assert space.from_dna(pg.DNA.from_numbers([1, 1, 1], pg.dna_spec(space.value))).choices == {
        "x": 1,
        "y": space.decisions[1].labels[0],
        f"y={space.decisions[1].labels[0]}.a": 2,
    }
    drawn = Counter(space.sample(rng).genome[0] for rng in [Random(0)] for _ in range(2000))
    assert set(drawn) == {0, 2}
    assert drawn[0] == pytest.approx(1000, abs=120)


def test_a_value_without_choices_is_one_arch() -> None:
    space = nas.Space({"a": 1})
    arch = space.sample(Random(0))
    assert space.size == 1
    assert list(space.enumerate()) == [arch] == space.covering()
    assert space.mutate(arch, Random(0)) == space.crossover(arch, arch, Random(0)) == arch
    assert list(space.neighbours(arch)) == []
    assert space.features([arch]).shape == (1, 0)
    assert arch.value == {"a": 1}
    assert space.from_dna(space.to_dna(arch)) == arch


def test_sizes_in_closed_form_are_exact_and_quick() -> None:
    n, k = 64, 8
    for distinct, sorted_, expected in [
        (True, False, math.perm(n, k)),
        (True, True, math.comb(n, k)),
        (False, True, math.comb(n + k - 1, k)),
        (False, False, n**k),
    ]:
        assert nas.Space({"x": pg.manyof(k, range(n), distinct=distinct, sorted=sorted_)}).size == expected
    assert nas.Space({"x": pg.permutate(range(20))}).size == math.factorial(20)
    assert nas.Space([pg.oneof(range(4)) for _ in range(200)]).size == 4**200


def test_floats_are_counted_beside_the_size() -> None:
    space = nas.Space({"x": pg.oneof([1, pg.floatv(2.0, 3.0)]), "y": pg.floatv(0.0, 1.0)})
    assert (space.size, space.floats) == (2, 2)
    with pytest.raises(SpaceError, match="'x=floatv\\(2.0, 3.0\\)' is a float; use sample"):
        space.enumerate()


class TestFlatSpelling:
    def test_has_one_genome_per_arch(self) -> None:
        space = flat_depth()
        archs = list(space.enumerate())
        assert 3 * 2**3 == 24
        assert space.size == len(set(archs)) == len(archs) == 14
        assert [arch.genome for arch in archs[:3]] == [(0, 0, None, None), (0, 1, None, None), (1, 0, 0, None)]

    def test_closes_the_inactive_to_the_first_candidate(self) -> None:
        arch = flat_depth().arch({"depth": 1, "kernel[0]": 5})
        assert arch.value == {"depth": 1, "kernel": [5, 3, 3]}

    def test_takes_pyglove_dna_that_differs_in_the_inactive_only_as_one(self) -> None:
        space = flat_depth()
        spec = pg.dna_spec(space.value)
        archs = {space.from_dna(pg.DNA.from_numbers([0, 1, j, k], spec)) for j in (0, 1) for k in (0, 1)}
        assert len(archs) == 1
        assert space.from_dna(space.to_dna(archs.copy().pop())) in archs

    def test_names_the_inactive_choice(self) -> None:
        assert "kernel[2] is not active beside the other choices; leave it out" in str(
            flat_depth().why_not({"depth": 1, "kernel[0]": 3, "kernel[2]": 5})
        )

    def test_conditions_chain_and_reach_into_candidates(self) -> None:
        space = nas.Space(
            {
                "a": pg.oneof([1, 2]),
                "b": pg.oneof([{"use": pg.oneof([True, False]), "c": pg.oneof([7, 8])}, "none"]),
                "d": pg.manyof(2, [1, 2, 3]),
            },
            active_when={
                "b": ("a", [2]),
                "b={use: oneof(True, False), c: oneof(7, 8)}.c": (
                    "b={use: oneof(True, False), c: oneof(7, 8)}.use",
                    [True],
                ),
                "d": ("b", ["none"]),
            },
        )
        # a=1; a=2 with b={use, c} (c when used) or with b=none and two ordered of three.
        assert space.size == len(set(space.enumerate())) == 1 + (2 + 1) + 6

    @pytest.mark.parametrize(
        ("conditions", "message"),
        [
            (
                {"kernl[1]": ("depth", [2])},
                "active_when names 'kernl\\[1\\]', which is no decision; did you mean 'kernel\\[1\\]'",
            ),
            ({"kernel[1]": ("dept", [2])}, "depends on 'dept', which is no decision; did you mean 'depth'"),
            ({"kernel[1]": ("depth", [9])}, "9 is no candidate of 'depth', which is one of 1, 2, 3"),
            ({"kernel[1]": ("depth", [])}, "gives no value of 'depth'"),
            ({"kernel": ("depth", [2]), "kernel[1]": ("depth", [3])}, "both name 'kernel\\[1\\]'; keep one"),
            ({"kernel[0]": ("kernel[1]", [3]), "kernel[1]": ("kernel[0]", [3])}, "goes round in a cycle"),
            ({"depth": ("depth", [3])}, "goes round in a cycle"),
        ],
    )
    def test_refuses_wrong_conditions(self, conditions: dict[str, tuple[str, list[int]]], message: str) -> None:
        value = {"depth": pg.oneof([1, 2, 3]), "kernel": [pg.oneof([3, 5]) for _ in range(3)]}
        with pytest.raises(SpaceError, match=message):
            nas.Space(value, active_when=conditions)

    def test_refuses_conditions_across_scopes(self) -> None:
        value = {
            "op": pg.oneof([Box(pg.oneof([1, 2]), pg.oneof([3, 4])), Box(pg.oneof([5, 6]))]),
            "d": pg.oneof([1, 2]),
        }
        first, second, third = nas.Space(value).names[1:4]
        with pytest.raises(
            SpaceError, match="already conditional on 'op'; its condition must name a decision beside it"
        ):
            nas.Space(value, active_when={first: ("d", [1])})
        with pytest.raises(SpaceError, match="in different candidates of 'op'"):
            nas.Space(value, active_when={third: (first, [1])})
        assert nas.Space(value, active_when={second: (first, [1])}).size == (2 + 1 + 2) * 2

    def test_refuses_to_split_a_distinct_manyof(self) -> None:
        value = {"d": pg.oneof([1, 2]), "x": pg.manyof(2, [1, 2, 3])}
        with pytest.raises(SpaceError, match="treats the slots of 'x' differently"):
            nas.Space(value, active_when={"x[1]": ("d", [2])})
        free = {"d": pg.oneof([1, 2]), "x": pg.manyof(2, [1, 2, 3], distinct=False)}
        assert nas.Space(free, active_when={"x[1]": ("d", [2])}).size == 3 + 9

    def test_counts_slots_with_different_sub_spaces(self) -> None:
        value = {"x": pg.manyof(2, [Box(pg.oneof([1, 2])), 3, 4]), "y": pg.oneof([5, 6])}
        name = nas.Space(value).names[1]
        space = nas.Space(value, active_when={"y": (name, [2])})
        assert space.size == len(set(space.enumerate()))


class TestExtremes:
    def test_go_by_magnitude(self) -> None:
        space = nas.Space(
            {
                "n": pg.oneof([4, 16, 8]),
                "none": pg.oneof([0, None, -1]),
                "tuple": pg.oneof([(1, 2), (0, 9), (4, 4)]),
                "object": pg.oneof([Box(3), Box(1, b=pg.oneof([1, 5])), "skip"]),
                "tie": pg.oneof(["a", "b"]),
                "float": pg.floatv(0.1, 0.9),
                "many": pg.manyof(2, [3, 1, 2]),
            }
        )
        largest, smallest = space.largest.choices, space.smallest.choices
        assert largest["n"] == 16
        assert smallest["n"] == 4
        assert (largest["none"], smallest["none"]) == (0, None)
        assert (largest["tuple"], smallest["tuple"]) == ("(0, 9)", "(1, 2)")
        assert largest["object"] == "Box(a=1, b=oneof(1, 5))"
        assert largest["object=Box(a=1, b=oneof(1, 5)).b"] == 5
        assert smallest["object"] == "skip"
        assert (largest["tie"], smallest["tie"]) == ("b", "a")
        assert (largest["float"], smallest["float"]) == (0.9, 0.1)
        assert [largest["many[0]"], largest["many[1]"]] == [3, 2]
        assert [smallest["many[0]"], smallest["many[1]"]] == [1, 2]

    def test_can_be_overridden(self) -> None:
        value = {"act": pg.oneof(["relu", "gelu"]), "lr": pg.floatv(0.0, 1.0)}
        space = nas.Space(value, largest={"act": "relu", "lr": 0.5}, smallest={"act": "gelu"})
        assert space.largest.choices == {"act": "relu", "lr": 0.5}
        assert space.smallest.choices == {"act": "gelu", "lr": 0.0}

    @pytest.mark.parametrize(
        ("largest", "message"),
        [
            ({"atc": "relu"}, "largest= names 'atc', which is no decision; did you mean 'act'"),
            ({"act": "rely"}, "largest= is wrong: act is one of relu, gelu, not rely; did you mean 'relu'"),
            ({"two[0]": 2, "two[1]": 2}, "largest= is wrong: the choices two\\[0\\] to \\[1\\] must be distinct"),
        ],
    )
    def test_refuse_what_is_no_arch(self, largest: dict[str, object], message: str) -> None:
        with pytest.raises(SpaceError, match=message):
            nas.Space({"act": pg.oneof(["relu", "gelu"]), "two": pg.manyof(2, [1, 2, 3])}, largest=largest)


class TestFeatures:
    def test_onehot_and_ordinal_by_hand(self) -> None:
        space = nas.Space(
            {
                "w": pg.oneof([8, 2, 4]),
                "lr": pg.floatv(0.01, 1.0, "log"),
                "op": pg.oneof([Box(pg.floatv(0.0, 4.0)), "off"]),
            }
        )
        archs = [
            space.arch({"w": 2, "lr": 0.1, "op": "Box", "op=Box.a": 1.0}),
            space.arch({"w": 8, "lr": 1.0, "op": "off"}),
        ]
        assert space.feature_names("onehot") == ["w=8", "w=2", "w=4", "lr", "op=Box", "op=off", "op=Box.a"]
        np.testing.assert_allclose(space.features(archs), [[0, 1, 0, 0.5, 1, 0, 0.25], [1, 0, 0, 1, 0, 1, 0]])
        assert space.feature_names("ordinal") == list(space.names)
        np.testing.assert_allclose(space.features(archs, "ordinal"), [[0, 0.5, 1, 0.25], [1, 1, 0, -1]])

    def test_of_no_archs_are_empty(self) -> None:
        assert flat_depth().features([]).shape == (0, 9)

    def test_kind_must_be_known(self) -> None:
        with pytest.raises(SpaceError, match="features of kind 'hot' are not known"):
            flat_depth().features([], kind="hot")  # type: ignore[arg-type]


class TestFloats:
    @pytest.mark.parametrize(
        ("scale", "below"), [(None, 0.5), ("linear", 0.5), ("log", math.log(50.5) / math.log(100)), ("rlog", None)]
    )
    def test_sampling_follows_the_scale(self, scale: str | None, below: float | None) -> None:
        space = nas.Space({"x": pg.floatv(1.0, 100.0, scale)})
        rng = Random(0)
        drawn = [space.sample(rng).genome[0] for _ in range(4000)]
        share = sum(x < 50.5 for x in drawn) / len(drawn)
        expected = 1 - math.log(50.5) / math.log(100) if below is None else below
        assert share == pytest.approx(expected, abs=0.03)
        assert min(drawn) >= 1.0
        assert max(drawn) <= 100.0

    @pytest.mark.parametrize("scale", [None, "log", "rlog"])
    def test_unit_is_the_inverse_of_value(self, scale: str | None) -> None:
        from nas.space.scale import Range

        range_ = Range(1e-4, 0.3, scale)
        for unit in np.linspace(0, 1, 11):
            assert range_.unit(range_.value(unit)) == pytest.approx(unit, abs=1e-9)
        assert (range_.value(0.0), range_.value(1.0)) == (pytest.approx(1e-4), pytest.approx(0.3))

    @pytest.mark.parametrize("scale", [None, "log", "rlog"])
    def test_rounding_never_leaves_the_bounds(self, scale: str | None) -> None:
        from nas.space.scale import Range

        rng = Random(0)
        for _ in range(3000):
            low = rng.uniform(1e-6, 1.0)
            range_ = Range(low, low + rng.random(), scale)
            assert all(range_.holds(range_.value(unit)) for unit in (0.0, rng.random(), 1.0))

    def test_a_mutation_moves_and_stays_inside(self) -> None:
        space = nas.Space({"x": pg.floatv(1e-4, 1e-1, "log")})
        rng = Random(0)
        arch = space.largest
        for _ in range(500):
            mutant = space.mutate(arch, rng)
            assert mutant != arch
            assert 1e-4 <= mutant.genome[0] <= 1e-1
            arch = mutant

    def test_zero_has_one_sign(self) -> None:
        space = nas.Space({"x": pg.floatv(-1.0, 1.0)})
        assert space.from_genome([-0.0]).key == space.arch({"x": 0.0}).key


class TestNumbers:
    """`from_genome`, which takes what optimisers and databases have."""

    def test_may_be_numpy_or_whole_floats(self) -> None:
        space = nas.Space({"a": pg.oneof([5, 6]), "b": pg.floatv(0.0, 1.0)})
        arch = space.from_genome([np.int64(1), np.float64(0.5)])
        assert arch == space.from_genome([1.0, 0.5])
        assert [type(gene) for gene in arch.genome] == [int, float]

    @pytest.mark.parametrize(
        ("numbers", "message"),
        [
            ([0], "1 numbers do not fit 2 decisions"),
            ([2, 0.5], "a is an index from 0 to 1, not 2"),
            ([-1, 0.5], "a is an index from 0 to 1, not -1"),
            ([0.5, 0.5], "a is an index from 0 to 1, not 0.5"),
            ([0, "x"], "b is a float from 0.0 to 1.0, not x"),
            ([0, math.nan], "b is a float from 0.0 to 1.0, not nan"),
            ([0, 1.5], "b is a float from 0.0 to 1.0, not 1.5"),
            ([0, None], "b is missing"),
        ],
    )
    def test_are_refused_with_the_decision(self, numbers: list[object], message: str) -> None:
        space = nas.Space({"a": pg.oneof([5, 6]), "b": pg.floatv(0.0, 1.0)}, name="ab")
        with pytest.raises(SpaceError, match=f"outside space 'ab': {message}"):
            space.from_genome(numbers)


class TestChoices:
    @pytest.mark.parametrize(
        ("choices", "message"),
        [
            ({"depth": 9}, "arch {'depth': 9} is outside space 'vit-tiny': depth is one of 6, 8, 12, not 9"),
            ({}, "arch {} is outside space 'vit-tiny': depth is missing; it is one of 6, 8, 12"),
            ({"dept": 6}, "there is no decision 'dept'; did you mean 'depth'?"),
            ({"depth": 6, "act": "gelo"}, "act is one of relu, gelu, not gelo; did you mean 'gelu'?"),
            ({"depth": [6]}, "depth is one of 6, 8, 12, not [6]"),
            ({"depth": 6, "act": "relu", "p[0]": 1, "p[1]": 1}, "the choices p[0] to [1] must be distinct"),
            ({"depth": 6, "act": "relu", "p[0]": 1}, "p[1] is missing"),
        ],
    )
    def test_outside_the_space_get_a_reason(self, choices: dict[str, object], message: str) -> None:
        value = {"depth": pg.oneof([6, 8, 12]), "act": pg.oneof(["relu", "gelu"]), "p": pg.manyof(2, [1, 2, 3])}
        space = nas.Space(value, name="vit-tiny")
        assert choices not in space
        assert message in str(space.why_not(choices))
        with pytest.raises(SpaceError):
            space.arch(choices)

    def test_must_be_a_mapping(self) -> None:
        with pytest.raises(SpaceError, match="given by a dict of choices, not 3"):
            flat_depth().arch(3)  # type: ignore[arg-type]
        assert 3 not in flat_depth()

    def test_of_an_arch_of_another_space_are_refused(self) -> None:
        arch = flat_depth().largest
        other = nas.Space({"x": pg.oneof([1, 2])}, name="other")
        assert arch not in other
        for use in (
            other.build,
            other.to_dna,
            lambda a: other.mutate(a, Random(0)),
            lambda a: other.crossover(a, a, Random(0)),
            lambda a: other.features([a]),
        ):
            with pytest.raises(SpaceError, match="is of space 'flat', not of 'other'"):
                use(arch)


def test_an_arch_is_immutable_and_short_to_look_at() -> None:
    arch = nas.Space([pg.oneof(range(9)) for _ in range(60)]).largest
    for attribute in ("genome", "key", "value", "space", "new"):
        with pytest.raises(AttributeError):
            setattr(arch, attribute, 1)
    assert len(repr(arch)) <= 110
    assert arch != arch.genome


def test_enumeration_is_lexicographic() -> None:
    space = nas.Space({"a": pg.manyof(2, [1, 2, 3]), "b": pg.oneof([1, 2])})
    genomes = [arch.genome for arch in space.enumerate()]
    assert genomes == sorted(genomes)
    assert genomes == [(*p, b) for p in itertools.permutations(range(3), 2) for b in range(2)]


def test_sampling_is_uniform_a_decision() -> None:
    space = nas.Space({"a": pg.oneof([1, Box(pg.oneof([2, 3, 4]))]), "s": pg.manyof(2, [1, 2, 3], sorted=True)})
    rng = Random(1)
    drawn = [space.sample(rng).genome for _ in range(6000)]
    assert sum(g[0] == 0 for g in drawn) == pytest.approx(3000, abs=200)
    assert Counter(g[1] for g in drawn)[2] == pytest.approx(1000, abs=150)
    pairs = Counter(g[2:] for g in drawn)
    assert set(pairs) == {(0, 1), (0, 2), (1, 2)}
    assert min(pairs.values()) > 1800


def test_mutation_changes_one_decision_and_every_one_in_turn() -> None:
    space = nas.Space({f"x{i}": pg.oneof(range(3)) for i in range(5)})
    rng = Random(0)
    arch = space.sample(rng)
    changes = Counter()
    for _ in range(2000):
        mutant = space.mutate(arch, rng)
        different = [i for i, (x, y) in enumerate(zip(arch.genome, mutant.genome, strict=True)) if x != y]
        assert len(different) == 1
        changes[different[0], mutant.genome[different[0]]] += 1
    assert len(changes) == 10
    assert min(changes.values()) > 140
    with pytest.raises(SpaceError, match="probability 2 is not within 0 and 1"):
        space.mutate(arch, rng, 2)


def test_crossover_takes_from_both_parents_alike_and_groups_whole() -> None:
    space = nas.Space({"x": pg.oneof(range(9)), "op": pg.oneof([Box(pg.oneof([1, 2]))]), "p": pg.manyof(2, range(6))})
    a, b = space.from_genome([0, 0, 0, 0, 1]), space.from_genome([8, 0, 1, 3, 2])
    rng = Random(0)
    children = Counter(space.crossover(a, b, rng).genome for _ in range(4000))
    assert len(children) == 2**3  # x, what is inside op, and the two slots of p together
    assert {genome[3:] for genome in children} == {(0, 1), (3, 2)}
    assert min(children.values()) > 400


def test_swapping_slots_takes_their_sub_spaces_along() -> None:
    space = nas.Space({"x": pg.permutate([Box(pg.oneof([1, 2, 3])), Box(pg.oneof([4, 5, 6]))])})
    arch = space.arch({"x[0]": 0, "x[1]": 0} | _slots(space, (0, 2), (1, 1)))
    swapped = space.arch(_slots(space, (1, 1), (0, 2)))
    assert swapped in list(space.neighbours(arch))


def _slots(space: nas.Space, *slots: tuple[int, int]) -> dict[str, object]:
    """Choices of slots, each given as (candidate, candidate of its sub-space)."""
    choices: dict[str, object] = {}
    for j, (c, sub) in enumerate(slots):
        label = space.decisions[0].labels[c]
        choices |= {f"x[{j}]": label, f"x[{j}]={label}.a": 1 + 3 * c + sub}
    return choices


def test_fingerprint_is_the_same_in_every_process_and_ignores_the_name() -> None:
    code = (
        "import pyglove as pg, nas;"
        "s = nas.Space({'a': pg.oneof(['x', 'y', (1, 2)]), 'b': pg.floatv(0.0, 1.0), 'c': pg.manyof(2, [1, 2, 3])},"
        " name='n', version=7, active_when={'b': ('a', {'x', 'y'})}); print(s.fingerprint, s.largest.key)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    value = {"a": pg.oneof(["x", "y", (1, 2)]), "b": pg.floatv(0.0, 1.0), "c": pg.manyof(2, [1, 2, 3])}
    here = nas.Space(value, active_when={"b": ("a", ["y", "x"])})
    assert outputs == {f"{here.fingerprint} {here.largest.key}\n"}


@pytest.mark.parametrize(
    "other",
    [
        {"a": pg.oneof([1, 2]), "b": pg.floatv(0.0, 2.0)},
        {"a": pg.oneof([2, 1]), "b": pg.floatv(0.0, 1.0)},
        {"c": pg.oneof([1, 2]), "b": pg.floatv(0.0, 1.0)},
        {"b": pg.floatv(0.0, 1.0), "a": pg.oneof([1, 2])},
        {"a": pg.oneof([1, True]), "b": pg.floatv(0.0, 1.0)},
    ],
)
def test_fingerprint_tells_spaces_apart(other: dict[str, object]) -> None:
    assert nas.Space(other).fingerprint != nas.Space({"a": pg.oneof([1, 2]), "b": pg.floatv(0.0, 1.0)}).fingerprint
