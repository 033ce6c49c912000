"""What an arch is: equal keys for archs that close to the same value, wherever it was written down."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyglove as pg
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nas
from nas.space import template


class Conv(pg.Object):
    """A candidate with an argument."""

    kernel: Any


@nas.model
def net(width: int, depth: int = 2, act: str = "relu") -> Any:
    """A model function with defaults."""
    return width, depth, act


@nas.model
def other(width: int, depth: int = 2, act: str = "relu") -> Any:
    """Another function of the same arguments."""
    return width, depth, act


def keys(value: Any, **options: Any) -> dict[str, Any]:
    """Closed value of each arch, as text, by its key."""
    space = nas.Space(value, **options)
    return {arch.key: template.text_of(nas.Space(arch.value).schema()["value"]) for arch in space.enumerate()}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"w": pg.oneof([16, 32])}, {"w": pg.oneof([8, 32, 16])}),
        ({"w": pg.oneof([1, 2]), "d": pg.oneof([1, 2])}, {"d": pg.oneof([2, 1]), "w": pg.oneof([1, 2, 3])}),
        ({"w": 16}, {"w": pg.oneof([16, 32])}),
        ({"op": pg.oneof([Conv(3), Conv(5)])}, {"op": pg.oneof([Conv(pg.oneof([5, 3])), "skip"])}),
        (net(width=pg.oneof([1, 2])), net(width=pg.oneof([2, 1]), depth=pg.oneof([1, 2]))),
        (net(width=pg.oneof([1, 2])), net(width=pg.oneof([1, 2]), act="relu")),
        ({"p": pg.manyof(2, [1, 2, 3])}, {"p": [pg.oneof([1, 2, 3]), pg.oneof([3, 2, 1])]}),
        ({"w": pg.oneof([1, 2], name="width")}, {"w": pg.oneof([1, 2])}),
        ({"w": pg.oneof([8, 16])}, {"w": pg.oneof(list(np.arange(8, 33, 8)))}),
    ],
)
def test_equal_values_have_equal_keys_in_any_spelling(a: Any, b: Any) -> None:
    first, second = keys(a), keys(b)
    assert first.keys() & second.keys() if len(first) > 1 else first.keys() <= second.keys()
    wanted = set(first.values()) & set(second.values())
    assert {first[key] for key in first.keys() & second.keys()} == wanted
    assert all(first[key] == second[key] for key in first.keys() & second.keys())


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"w": pg.oneof([16, 32])}, {"w": pg.oneof([16.0, 32.0])}),
        ({"w": pg.oneof([0, 1])}, {"w": pg.oneof([False, True])}),
        ({"w": pg.oneof(["1", "2"])}, {"w": pg.oneof([1, 2])}),
        ({"w": pg.oneof([1, 2])}, {"v": pg.oneof([1, 2])}),
        ({"w": pg.oneof([1, 2])}, {"w": pg.oneof([1, 2]), "classes": 10}),
        (net(width=pg.oneof([1, 2])), net(width=pg.oneof([1, 2]), act="gelu")),
        (net(width=pg.oneof([1, 2])), other(width=pg.oneof([1, 2]))),
        ({"op": pg.oneof([Conv(3), "skip"])}, {"op": pg.oneof([Conv(5), "none"])}),
        ({"w": [pg.oneof([1, 2]), 3]}, {"w": [3, pg.oneof([1, 2])]}),
        ({"w": pg.oneof([1, 2]), "t": np.zeros(3)}, {"w": pg.oneof([1, 2]), "t": np.ones(3)}),
    ],
)
def test_other_values_have_other_keys(a: Any, b: Any) -> None:
    assert not keys(a).keys() & keys(b).keys()
    assert nas.Space(a).fingerprint != nas.Space(b).fingerprint


def test_every_arch_has_a_key_of_its_own() -> None:
    value = {
        "a": pg.oneof([1, True, 1.0, "1", None, [1], (1,), {"k": 1}, Conv(pg.oneof([1, 2]))]),
        "p": pg.permutate([1, 2, 3]),
        "s": pg.manyof(2, [Conv(pg.oneof([1, 2])), "skip", 3], distinct=False),
    }
    space = nas.Space(value)
    assert len({arch.key for arch in space.enumerate()}) == space.size


def test_the_key_is_that_of_the_closed_tree() -> None:
    """The sum over choices is what describing the closed value from the start gives."""
    space = nas.Space(
        {
            "op": pg.oneof([Conv(pg.oneof([3, 5])), "skip"]),
            "x": pg.floatv(0.0, 1.0),
            "p": pg.manyof(2, ["a", "b", "c"]),
            "fixed": [1, {"k": (2, 3)}],
        }
    )
    rng = random.Random(0)
    for _ in range(50):
        arch = space.sample(rng)
        assert nas.Space(arch.value).from_genome([]).key == arch.key


@given(st.permutations(list(range(6))), st.permutations(["a", "b", "c"]), st.randoms(use_true_random=False))
def test_no_order_changes_a_key(candidates: list[int], names: list[str], rng: random.Random) -> None:
    spaces = [
        nas.Space({name: pg.oneof(order) for name in which})
        for order, which in ((candidates, names), (sorted(candidates), sorted(names)))
    ]
    arch = spaces[0].sample(rng)
    twin = spaces[1].arch(arch.choices)
    assert twin.key == arch.key
    assert spaces[1].from_row(arch.row(), spaces[0].schema()) == twin


def test_switched_off_decisions_do_not_count() -> None:
    value = {"d": pg.oneof([1, 2]), "k": pg.oneof([3, 5])}
    space = nas.Space(value, active_when={"k": ("d", [2])})
    assert len({arch.key for arch in space.enumerate()}) == space.size == 3


def test_a_job_and_a_script_name_the_same_classes(tmp_path: Path) -> None:
    """Run as a script, run as a job, and moved to another folder: the same archs."""
    text = (
        "import pyglove as pg, nas\n"
        "class Conv(pg.Object):\n    kernel: int\n"
        "@nas.model\ndef net(op, width): return op, width\n"
        "space = nas.Space(net(op=pg.oneof([Conv(3), 'skip']), width=pg.oneof([1, 2])))\n"
        "study = nas.Study('s', space=space, objectives=['max acc'], algorithm='random')\n"
        "if __name__ == '__main__': print(space.fingerprint, space.largest.key)\n"
    )
    found = set()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        job = tmp_path / folder / "job.py"
        job.write_text(text)
        loading = (
            f"from nas.study.job import load_job; s = load_job({str(job)!r}).space; print(s.fingerprint, s.largest.key)"
        )
        for command in ([str(job)], ["-c", loading]):
            ran = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
            found.add(ran.stdout)
    assert len(found) == 1


def test_keys_of_all_archs_of_two_spaces_meet_where_values_do() -> None:
    widths = [[1, 2], [2, 3], [3, 2, 1], [1]]
    for one, two in itertools.product(widths, repeat=2):
        shared = set(one) & set(two)
        assert len(keys({"w": pg.oneof(one)}).keys() & keys({"w": pg.oneof(two)}).keys()) == len(shared)
