"""What a search leaves of a budget is filled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pyglove as pg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import nas
from nas.compressing.filling import filled, larger
from nas.space import Arch
from nas.store import open_store
from tests.compressing.test_recipe import compressed

SIZES = (1, 2, 3, 4)


@nas.model
def three(a: int, b: int, c: int) -> nn.Module:
    return nn.Linear(a + b, c)


def box() -> nas.Space:
    return nas.Space(three(a=pg.oneof(SIZES), b=pg.oneof(SIZES), c=pg.oneof(SIZES)))


def numbers(arch: Arch) -> tuple[int, ...]:
    return tuple(arch.choices.values())


def size(arch: Arch) -> tuple[float, ...]:
    return (float(sum(numbers(arch))),)


def growing(
    space: nas.Space, start: Arch, loss: Callable[[Arch], float], bound: float, most: int = 1000
) -> tuple[list[Arch], list[Arch]]:
    """What it grows into, and what was measured."""
    measured: list[Arch] = []

    def losses(archs: Sequence[Arch]) -> dict[Arch, float]:
        measured.extend(archs)
        return {arch: loss(arch) for arch in archs}

    found = filled(
        start,
        wider=lambda arch: larger(space, arch, size),
        fits=lambda arch: size(arch)[0] <= bound,
        losses=losses,
        most=most,
    )
    return found, measured


def test_the_next_larger_network_of_each_decision() -> None:
    space = box()
    start = space.arch({"a": 1, "b": 4, "c": 2})
    assert [numbers(one) for one in larger(space, start, size)] == [(2, 4, 2), (1, 4, 3)]
    assert larger(space, space.largest, size) == []


def test_a_network_that_there_is_not_has_no_size() -> None:
    space = box()
    there = [one for one in space.enumerate() if numbers(one)[0] != 2]
    found = larger(space, space.smallest, lambda arch: (float(there.index(arch)),), lambda arch: arch in there)
    assert [numbers(one) for one in found] == [(3, 1, 1), (1, 2, 1), (1, 1, 2)]


def test_a_block_that_is_kept_again_may_be_narrow() -> None:
    @nas.model
    def deep(block: int, width: int) -> nn.Module:
        return nn.Linear(width, block)

    space = nas.Space(deep(block=pg.oneof([0, pg.oneof([1, 2, 3])]), width=pg.oneof([1, 2])))
    start = space.repair([0, 0, 0])
    assert [one.choices for one in larger(space, start, lambda arch: (float(sum(filter(None, arch.genome))),))] == [
        space.repair([1, 0, 0]).choices,
        space.repair([0, 0, 1]).choices,
    ]


@given(
    st.tuples(*[st.floats(0.1, 2.0)] * 3),
    st.tuples(*[st.sampled_from((1, 2))] * 3),
    st.integers(6, 12),
)
def test_where_larger_is_better_nothing_larger_fits_at_the_end(
    gains: tuple[float, ...], at: tuple[int, ...], bound: int
) -> None:
    space = box()
    start = space.arch(dict(zip("abc", at, strict=True)))

    def loss(arch: Arch) -> float:
        return -sum(gain * number for gain, number in zip(gains, numbers(arch), strict=True))

    found, measured = growing(space, start, loss, bound)
    line = [start, *found]
    assert all(size(one) < size(other) and loss(other) <= loss(one) for one, other in pairwise(line))
    assert size(line[-1])[0] == min(bound, 12), "each decision moves by one, so that the bound is met exactly"
    assert all(size(one)[0] <= bound for one in measured)
    assert len(measured) == len(set(measured)), "nothing is measured twice"


def test_what_makes_the_network_worse_is_not_taken() -> None:
    space = box()
    found, _ = growing(space, space.smallest, lambda arch: numbers(arch)[0] - 2.0 * numbers(arch)[1], 12)
    assert numbers(found[-1]) == (1, 4, 4), "a costs, b gains, c changes nothing"


def test_changes_that_are_good_alone_and_bad_together_are_not_put_together() -> None:
    space = box()

    def loss(arch: Arch) -> float:
        a, b, _ = numbers(arch)
        return 10.0 if (a > 1 and b > 1) else -float(a) - 0.5 * b

    found, _ = growing(space, space.arch({"a": 1, "b": 1, "c": 4}), loss, 12)
    assert numbers(found[-1]) == (4, 1, 4)


def test_no_more_networks_are_measured_than_are_asked_for() -> None:
    space = box()
    for most in (1, 2, 5):
        _, measured = growing(space, space.smallest, lambda arch: -size(arch)[0], 12, most)
        assert len(measured) <= most + 1, "the last pass puts together what it measured"


def test_what_cannot_be_measured_is_left_out() -> None:
    space = box()
    start = space.smallest

    def losses(archs: Sequence[Arch]) -> dict[Arch, float]:
        return {arch: -size(arch)[0] for arch in archs if numbers(arch)[1] == 1}

    found = filled(
        start, wider=lambda arch: larger(space, arch, size), fits=lambda arch: True, losses=losses, most=1000
    )
    assert numbers(found[-1]) == (4, 1, 4)
    assert (
        filled(
            start,
            wider=lambda arch: larger(space, arch, size),
            fits=lambda arch: True,
            losses=lambda archs: {},
            most=9,
        )
        == []
    )


def test_a_compression_that_is_filled_searches_once_and_is_no_worse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def untuned(fill: bool) -> float:
        made = compressed(tmp_path / "net", trials=8, epochs=1, algorithm=nas.RandomSearch(), fill=fill, progress=fill)
        choice = made.choices[0]
        with open_store(tmp_path / "net" / "compress.db") as store:
            grown = [one.name for one in store.studies() if one.name.startswith("filled")]
            assert bool(grown) == fill, "its networks are trials of studies of their own"
            rows = [store.open_study(name).trials() for name in grown]
        assert all((one["macs"] <= choice.bound).all() for one in rows)
        (note,) = (note for note in made.notes if note.startswith("search: "))
        grew = [one for one in made.notes if one.startswith("fill: the best grew from ")]
        assert not grew or (fill and grew[0].endswith(f"to {note.split('calibration_loss ')[1].split()[0]}"))
        return float(note.split("calibration_loss ")[1].split()[0])

    before, after = untuned(False), untuned(True)
    assert after <= before
    assert "filled" in capsys.readouterr().err, "each of its studies says how far it is"
    assert after == untuned(True), "a second call measures nothing again"
