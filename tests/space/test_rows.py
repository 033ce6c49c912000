"""Rows that were stored with another version of a space."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
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


def test_added_candidates_and_another_order_are_fine() -> None:
    schema, rows = stored({"a": pg.oneof([1, 2]), "op": pg.oneof([MBConv(pg.oneof([3, 5])), "skip"])}, Random(0))
    new = nas.Space({"op": pg.oneof(["skip", MBConv(pg.oneof([5, 7, 3])), "new"]), "a": pg.oneof([0, 1, 2])})
    for row, choices in rows:
        arch = new.from_row(row, schema)
        assert arch.choices == choices
        assert new.from_genome(arch.genome) == arch


def test_a_new_decision_is_in_no_old_arch() -> None:
    schema, rows = stored({"a": pg.oneof([1, 2])}, Random(0))
    new = nas.Space({"a": pg.oneof([1, 2]), "extra": pg.oneof(["first", "second"])})
    with pytest.raises(SpaceError, match="stored space 'old' version 1 is not in this space: extra is new"):
        new.from_row(rows[0][0], schema)


def flat(deepest: int, *, conditions: bool = True) -> nas.Space:
    """A depth, and a kernel for every block that there can be."""
    value = {"d": pg.oneof(list(range(1, deepest + 1))), "k": [pg.oneof([3, 5]) for _ in range(deepest)]}
    depths = {f"k[{block}]": ("d", range(block + 1, deepest + 1)) for block in range(1, deepest)}
    return nas.Space(value, name="old", active_when=depths if conditions else None)


def test_what_a_longer_list_has_besides_may_be_switched_off() -> None:
    old, new = flat(2), flat(4)
    for arch in old.enumerate():
        found = new.from_row(arch.row(), old.schema())
        assert found.choices == arch.choices
        assert new.from_genome(found.genome) == found
    with pytest.raises(SpaceError, match="stored space 'old' version 1 is not in this space"):
        old.from_row(new.largest.row(), new.schema())


def test_what_a_longer_list_has_besides_must_be_switched_off() -> None:
    old = flat(2)
    with pytest.raises(SpaceError, match=r"k\[2\]"):
        flat(3, conditions=False).from_row(old.largest.row(), old.schema())
    fixed = nas.Space({"d": pg.oneof([1, 2]), "k": [pg.oneof([3, 5]), pg.oneof([3, 5]), 3]})
    with pytest.raises(SpaceError, match=r"k\[2\] is new"):
        fixed.from_row(old.largest.row(), old.schema())


@nas.model
def with_default(a: int, act: str = "relu") -> Any:
    """A function whose default is part of what it builds."""
    return a, act


def test_what_was_fixed_and_is_open_now_is_known_by_its_value() -> None:
    """And the other way round; a default counts as the argument that it stands for."""
    schema, rows = stored(with_default(a=pg.oneof([1, 2])), Random(0))
    opened = nas.Space(with_default(a=pg.oneof([1, 2]), act=pg.oneof(["gelu", "relu"])))
    for row, choices in rows:
        assert opened.from_row(row, schema).choices == {**choices, "act": "relu"}
    other = nas.Space(with_default(a=pg.oneof([1, 2]), act=pg.oneof(["gelu", "silu"])))
    with pytest.raises(SpaceError, match="act was 'relu', which is no candidate here"):
        other.from_row(rows[0][0], schema)
    fixed = nas.Space(with_default(a=pg.oneof([1, 2]), act="gelu"))
    with pytest.raises(SpaceError, match="act was 'relu', and is 'gelu' now"):
        fixed.from_row(rows[0][0], schema)
    schema, rows = stored(with_default(a=pg.oneof([1, 2]), act=pg.oneof(["gelu", "relu"])), Random(0))
    closed = nas.Space(with_default(a=pg.oneof([1, 2]), act="gelu"))
    for row, choices in rows:
        if choices["act"] == "gelu":
            assert closed.from_row(row, schema).choices == {"a": choices["a"]}


def test_another_class_in_the_place_of_one_is_another_candidate() -> None:
    schema, rows = stored({"op": pg.oneof([Skip(), MBConv(pg.oneof([3, 5]))])}, Random(0))
    new = nas.Space({"op": pg.oneof([Skip(), Inverted(pg.oneof([3, 5]))])})
    for row, choices in rows:
        if choices["op"] == "Skip":
            assert new.from_row(row, schema).choices == choices
        else:
            with pytest.raises(SpaceError, match="op was MBConv"):
                new.from_row(row, schema)


def test_equal_labels_with_other_arguments_are_other_candidates() -> None:
    """The label says the class alone where it is the only one of its class."""
    schema, _ = stored({"op": pg.oneof([Skip(), MBConv(3)])}, Random(0))
    new = nas.Space({"op": pg.oneof([Skip(), MBConv(5)])})
    assert new.decisions[0].labels == ("Skip", "MBConv")
    with pytest.raises(SpaceError, match=r"op was MBConv\(kernel=3\), which is no candidate here"):
        new.from_row([1], schema)


def test_a_class_that_moved_with_its_source_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    text = "from typing import Any\nimport pyglove as pg\n\n\nclass Conv(pg.Object):\n    kernel: Any\n"
    for name, source in {"moved_from": text, "moved_to": text, "moved_other": text + "    stride: int = 2\n"}.items():
        (tmp_path / f"{name}.py").write_text(source)
    before, after, other = (import_module(name).Conv for name in ("moved_from", "moved_to", "moved_other"))
    schema, rows = stored({"op": pg.oneof(["skip", before(pg.oneof([3, 5]))])}, Random(0))
    new = nas.Space({"op": pg.oneof([after(pg.oneof([3, 5])), "skip"])})
    for row, choices in rows:
        assert new.from_row(row, schema).choices == choices
    assert new.changes(schema) == ["moved_from.Conv is moved_to.Conv now, with the same source"]
    strange = nas.Space({"op": pg.oneof([other(pg.oneof([3, 5])), "skip"])})
    with pytest.raises(SpaceError, match="op was Conv"):
        strange.from_row([1, 0], schema)


def test_a_decision_that_was_switched_off_is_what_it_was_built_with() -> None:
    value = {"d": pg.oneof([1, 2]), "k": pg.oneof([5, 3])}
    off = nas.Space(value, active_when={"k": ("d", [2])})
    arch = off.arch({"d": 1})
    assert nas.Space({"d": pg.oneof([1, 2]), "k": pg.oneof([3, 5])}).from_row(arch.row(), off.schema()).choices == {
        "d": 1,
        "k": 5,
    }


def test_a_candidate_that_took_the_place_of_another_is_not_mistaken_for_it() -> None:
    schema = nas.Space({"a": pg.oneof(["relu", "gelu"])}, name="old").schema()
    new = nas.Space({"a": pg.oneof(["gelu", "silu"])})
    assert new.from_row([1], schema).choices == {"a": "gelu"}
    with pytest.raises(
        SpaceError, match="space 'old' version 1 is not in this space: a was 'relu', which is no candidate"
    ):
        new.from_row([0], schema)


def legacy(schema: dict[str, Any]) -> dict[str, Any]:
    """What version 0.1 recorded of a space."""
    return {key: schema[key] for key in ("name", "version", "fingerprint", "decisions")}


def test_schemas_of_version_0_1_are_read_by_labels_alone() -> None:
    schema = legacy(nas.Space({"a": pg.oneof([16, 32, 64]), "x": pg.floatv(0.0, 1.0)}, name="old").schema())
    new = nas.Space({"x": pg.floatv(0.0, 2.0), "a": pg.oneof([64, 16, 128])})
    assert new.from_row([2, 0.5], schema).choices == {"x": 0.5, "a": 64}
    with pytest.raises(SpaceError, match="a was 32, which is no candidate here"):
        new.from_row([1, 0.5], schema)
    with pytest.raises(SpaceError, match="'x' of its kind"):
        nas.Space({"a": pg.oneof([16, 32])}).from_row([0, 0.5], schema)
    with pytest.raises(SpaceError, match="b is missing"):
        nas.Space({"a": pg.oneof([16, 32]), "x": pg.floatv(0.0, 1.0), "b": pg.oneof([1, 2])}).from_row([0, 0.5], schema)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": pg.oneof([1, 2])}, {"a": pg.oneof([2, 1])}, []),
        ({"a": pg.oneof([1, 2])}, {"a": pg.oneof([1, 3])}, ["a lost 2 and gained 3"]),
        ({"a": pg.oneof([1, 2])}, {"a": pg.oneof([1, 2, True])}, ["a gained True"]),
        ({"a": pg.oneof([1]), "b": 3}, {"a": pg.oneof([1]), "b": 3.0}, ["b was 3, and is 3.0 now"]),
        (
            {"a": pg.oneof([1]), "b": {"c": [1, 2]}},
            {"a": pg.oneof([1]), "b": {"c": [1, 4]}},
            ["b.c[1] was 2, and is 4 now"],
        ),
        (
            {"a": pg.oneof([1, 2])},
            {"a": pg.floatv(0.0, 1.0)},
            ["a was categorical, and is float now"],
        ),
        (
            {"a": pg.floatv(0.0, 1.0)},
            {"a": pg.floatv(0.0, 2.0)},
            ["a was a float from 0.0 to 1.0, and is one from 0.0 to 2.0 now"],
        ),
    ],
)
def test_changes_are_told(old: dict[str, Any], new: dict[str, Any], expected: list[str]) -> None:
    assert nas.Space(new).changes(nas.Space(old).schema()) == expected


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
        ({"b": pg.oneof([1, 2])}, [0], "stored space 'old' version 1 is not in this space: a is gone"),
        (
            {"a": pg.oneof([1])},
            [1],
            "stored space 'old' version 1 is not in this space: a was 2, which is no candidate",
        ),
        ({"a": pg.floatv(1.0, 2.0)}, [1], "is not in this space: a was 2, and is a float here"),
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
