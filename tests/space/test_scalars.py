"""Numbers of numpy's and torch's, in spaces and in what is asked of them: the Python numbers that they hold."""

from __future__ import annotations

import random
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pyglove as pg
import pytest
import torch

import nas
from nas.errors import SpaceError

Pair = namedtuple("Pair", ["left", "right"])


@nas.model
def gathered(width: Any, block: Any = None, scale: Any = None) -> list[Any]:
    return [width, block, scale]


class Conv(pg.Object):  # type: ignore[misc]
    """A candidate that is a symbolic object."""

    kernel: Any


WIDTHS: list[Callable[[], Any]] = [
    lambda: np.arange(8, 33, 8),
    lambda: list(np.arange(8, 33, 8, dtype=np.uint8)),
    lambda: [np.array(8), np.int16(16), 24, np.int64(32)],
    lambda: torch.arange(8, 33, 8),
]


@pytest.mark.parametrize("widths", WIDTHS)
def test_a_list_that_becomes_an_array_is_the_same_space(widths: Callable[[], Any]) -> None:
    plain = nas.Space(gathered(width=pg.oneof([8, 16, 24, 32])))
    space = nas.Space(gathered(width=pg.oneof(widths())))
    assert (space.schema(), repr(space.value)) == (plain.schema(), repr(plain.value))
    assert [arch.key for arch in space.enumerate()] == [arch.key for arch in plain.enumerate()]
    assert [type(label) for label in space.decisions[0].labels] == [int] * 4
    assert type(space.build(space.largest)[0]) is type(space.largest.value.width) is int
    assert space.largest.choices == {"width": 32}


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"k": np.int64(3), "t": (np.float64(0.5), [np.bool_(True)])}, {"k": 3, "t": (0.5, [True])}),
        ([np.str_("relu"), np.float16(0.25)], ["relu", 0.25]),
        (Conv(kernel=np.int32(3)), Conv(kernel=3)),
        (Conv(kernel=pg.oneof(np.array([3, 5]))), Conv(kernel=pg.oneof([3, 5]))),
        (Pair(np.int64(1), torch.tensor(2.5)), Pair(1, 2.5)),
        (np.bool_(False), False),
        (np.float64(0.1), 0.1),
        (np.longdouble(0.5), 0.5),
    ],
)
def test_scalars_at_any_depth_of_a_candidate_are_plain(given: Any, plain: Any) -> None:
    ours = nas.Space(gathered(width=1, block=pg.manyof(2, [given, "none"])))
    expected = nas.Space(gathered(width=1, block=pg.manyof(2, [plain, "none"])))
    assert ours.schema() == expected.schema()
    assert repr(ours.build(ours.largest)) == repr(expected.build(expected.largest))
    assert str(ours.dna_spec) == str(expected.dna_spec)


def test_a_number_of_fewer_bits_is_the_exact_value_that_it_has() -> None:
    space = nas.Space(gathered(width=pg.oneof(np.array([0.1, 0.5], dtype=np.float32)), scale=pg.floatv(0.0, 0.3)))
    assert space.decisions[0].labels == (0.10000000149011612, 0.5)
    assert space.arch({"width": np.float32(0.1), "scale": 0.3}) == space.arch(
        {"width": 0.10000000149011612, "scale": 0.3}
    )
    with pytest.raises(SpaceError, match=r"width is one of 0\.10000000149011612, 0\.5, not 0\.1"):
        space.arch({"width": 0.1, "scale": 0.3})
    with pytest.raises(SpaceError, match=r"a float from 0\.0 to 0\.3, not 0\.30000001192092896"):
        space.arch({"width": 0.5, "scale": np.float32(0.3)})


def test_the_value_that_was_given_is_left_as_it_is_and_tensors_that_are_arguments_stay_tensors() -> None:
    value = gathered(width=pg.oneof(np.arange(1, 3)), scale=torch.tensor(0.5)).seal()
    space = nas.Space(value)
    assert type(value.width.candidates[0]) is np.int64
    assert isinstance(space.build(space.largest)[2], torch.Tensor)
    assert space.value.is_sealed


def test_bounds_of_a_float_decision_are_plain() -> None:
    plain = nas.Space(pg.Dict(x=pg.floatv(0.25, 0.5)))
    space = nas.Space(pg.Dict(x=pg.floatv(np.float64(0.25), np.float64(0.5))))
    assert (space.fingerprint, space.schema(), space.largest.key) == (
        plain.fingerprint,
        plain.schema(),
        plain.largest.key,
    )
    assert type(space.sample(random.Random(0)).genome[0]) is float


MIXED = nas.Space(pg.Dict(x=pg.floatv(0.0, 1.0), w=pg.oneof([1, 2, 3])))


@pytest.mark.parametrize("x", [0.5, np.float32(0.5), np.float64(0.5), np.array(0.5), torch.tensor(0.5)])
@pytest.mark.parametrize("w", [2, 2.0, np.int8(2), np.float32(2), np.array(2), torch.tensor(2)])
def test_choices_may_be_scalars_of_any_kind(x: Any, w: Any) -> None:
    arch = MIXED.arch({"x": x, "w": w})
    assert (arch.genome, arch.key) == ((0.5, 1), MIXED.arch({"x": 0.5, "w": 2}).key)


@pytest.mark.parametrize(
    "genome", [[np.float32(0.5), np.int64(1)], [np.array(0.5), np.array(1)], [torch.tensor(0.5), torch.tensor(1)]]
)
def test_genomes_may_be_scalars_of_any_kind(genome: list[Any]) -> None:
    for arch in (MIXED.from_genome(genome), MIXED.repair(genome)):
        assert (arch.key, repr(arch.genome)) == (MIXED.arch({"x": 0.5, "w": 2}).key, "(0.5, 1)")


def test_a_repaired_array_has_the_key_of_the_same_numbers_in_a_list() -> None:
    assert MIXED.repair(np.array([0.5, 1.0])).key == MIXED.repair([0.5, 1.0]).key


@pytest.mark.parametrize("numbers", [[float("nan"), 1], [0.5, float("nan")], [None, 1], ["a", 1], [0.5]])
def test_repair_refuses_what_is_no_number(numbers: list[Any]) -> None:
    with pytest.raises(SpaceError, match="needs a number for each of its 2 decisions"):
        MIXED.repair(numbers)


@pytest.mark.parametrize("value", [True, np.True_, np.array(True)])
def test_a_bool_is_no_number(value: Any) -> None:
    with pytest.raises(SpaceError, match="w is one of 1, 2, 3, not True"):
        MIXED.arch({"x": 0.5, "w": value})
    with pytest.raises(SpaceError, match="x is a float"):
        MIXED.arch({"x": value, "w": 1})
    with pytest.raises(SpaceError, match="w is an index from 0 to 2, not True"):
        MIXED.from_genome([0.5, value])


def test_a_number_is_no_bool_and_both_may_be_candidates() -> None:
    space = nas.Space(pg.Dict(flag=pg.oneof([True, False]), both=pg.oneof([1, True, 0, False])))
    arch = space.arch({"flag": np.False_, "both": np.int64(1)})
    assert (arch.genome, space.arch({"flag": True, "both": True}).genome) == ((1, 0), (0, 1))
    with pytest.raises(SpaceError, match="flag is one of True, False, not 0"):
        space.arch({"flag": 0, "both": True})


def test_conditions_and_extremes_take_scalars() -> None:
    value = {"depth": pg.oneof([1, 2]), "blocks": [pg.oneof([3, 5]), pg.oneof([3, 5])]}
    options = {"active_when": {"blocks[1]": ("depth", [np.int64(2)])}, "largest": {"blocks[0]": np.float32(3)}}
    assert nas.Space(value, **options).largest.choices == {"depth": 2, "blocks[0]": 3, "blocks[1]": 5}
