"""Rows that were stored with another version of a space."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pyglove as pg
import pytest

import nas
from nas.errors import SpaceError


class MBConv(pg.Object):
    """An operation."""

    kernel: Any


class Inverted(pg.Object):
    """The same operation after somebody renamed it."""

    kernel: Any


class Skip(pg.Object):
    """Another."""


def stored(value: Any, rng: Random, n: int = 20) -> tuple[dict[str, Any], list[tuple[list[Any], dict[str, Any]]]]:
    """What a database has of a space: its schema, and rows with the choices that they meant."""
    space = nas.Space(value, name="old")
    archs = [space.sample(rng) for _ in range(n)]
    return json.loads(json.dumps(space.schema())), [(arch.row(), arch.choices) for arch in archs]


def test_added_candidates_decisions_and_another_order_are_fine() -> None:
    schema, rows = stored({"a": pg.oneof([1, 2]), "op": pg.oneof([MBConv(pg.oneof([3, 5])), "skip"])}, Random(0))
    new = nas.Space(
        {"extra": pg.oneof(["first", "second"]), "op": pg.oneof(["skip", MBConv(pg.oneof([5, 7, 3])), "new"]),
         "a": pg.oneof([0, 1, 2])}
    )  # fmt: skip
    for row, choices in rows:
        arch = new.from_row(row, schema)
        assert arch.choices == {"extra": "first", **choices}
        assert new.from_genome(arch.genome) == arch


def test_a_renamed_class_keeps_its_rows() -> None:
    schema, rows = stored({"op": pg.oneof([Skip(), MBConv(pg.oneof([3, 5]))])}, Random(0))
    new = nas.Space({"op": pg.oneof([Skip(), Inverted(pg.oneof([3, 5]))])})
    for row, choices in rows:
        renamed = {k.replace("MBConv", "Inverted"): "Inverted" if v == "MBConv" else v for k, v in choices.items()}
        assert new.from_row(row, schema).choices == renamed


def test_a_candidate_that_took_the_place_of_another_is_not_mistaken_for_it() -> None:
    schema = nas.Space({"a": pg.oneof(["relu", "gelu"])}, name="old").schema()
    new = nas.Space({"a": pg.oneof(["gelu", "silu"])})
    assert new.from_row([1], schema).choices == {"a": "gelu"}
    with pytest.raises(
        SpaceError, match="candidate 'relu' of decision 'a' of stored space 'old' version 1 is not in this"
    ):
        new.from_row([0], schema)


def test_activity_is_that_of_the_present_space() -> None:
    value = {"d": pg.oneof([1, 2]), "k": pg.oneof([3, 5])}
    schema, rows = stored(value, Random(0))
    new = nas.Space(value, active_when={"k": ("d", [2])})
    for row, choices in rows:
        expected = choices if choices["d"] == 2 else {"d": 1}
        assert new.from_row(row, schema).choices == expected


def test_floats_follow_their_name() -> None:
    schema, rows = stored({"lr": pg.floatv(0.1, 0.2), "a": pg.oneof([1, 2])}, Random(0))
    new = nas.Space({"a": pg.oneof([1, 2]), "lr": pg.floatv(0.0, 1.0)})
    for row, choices in rows:
        assert new.from_row(row, schema).choices == choices
    narrow = nas.Space({"a": pg.oneof([1, 2]), "lr": pg.floatv(0.5, 1.0)})
    with pytest.raises(SpaceError, match="lr is a float from 0.5 to 1.0"):
        narrow.from_row(rows[0][0], schema)


@pytest.mark.parametrize(
    ("new", "row", "message"),
    [
        ({"b": pg.oneof([1, 2])}, [0], "decision 'a' of stored space 'old' version 1 is not in this space"),
        ({"a": pg.oneof([1])}, [1], "candidate 2 of decision 'a' of stored space 'old' version 1 is not in this space"),
        ({"a": pg.floatv(1.0, 2.0)}, [1], "decision 'a' of stored space 'old' version 1 is not in this space"),
        ({"a": pg.oneof([1, 2, 3])}, [0, 1], "a row of 2 numbers does not fit space 'old' version 1 of 1 decisions"),
        ({"a": pg.oneof([1, 2, 3])}, [7], "candidate 7 of decision 'a'"),
        ({"a": pg.oneof([1, 2, 3])}, [0.5], "candidate 0.5 of decision 'a'"),
    ],
)
def test_what_does_not_fit_is_named(new: dict[str, Any], row: list[Any], message: str) -> None:
    schema = nas.Space({"a": pg.oneof([1, 2])}, name="old").schema()
    with pytest.raises(SpaceError, match=message):
        nas.Space(new).from_row(row, schema)


def test_something_else_than_a_schema_is_refused() -> None:
    with pytest.raises(SpaceError, match="the stored schema of the space is not one: KeyError: 'decisions'"):
        nas.Space({"a": pg.oneof([1, 2])}).from_row([0], {"fingerprint": "x"})


def test_many_rows_at_once_are_what_they_are_one_by_one() -> None:
    import gc

    space = nas.Space({"a": pg.oneof([1, MBConv(pg.oneof([3, 5]))]), "x": pg.floatv(0.0, 1.0)})
    archs = [space.sample(rng) for rng in [Random(0)] for _ in range(50)]
    assert space.rows_to_archs(json.loads(json.dumps([arch.row() for arch in archs]))) == archs
    assert gc.isenabled()
