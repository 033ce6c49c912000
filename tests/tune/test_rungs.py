from __future__ import annotations

import random

import pytest

from nas.errors import RunnerError
from nas.tune import Rungs


def test_levels_grow_by_the_factor_and_end_before_the_last_epoch() -> None:
    assert Rungs(9, factor=3).levels == [1, 3]
    assert Rungs(10, factor=3).levels == [1, 3, 9]
    assert Rungs(100, grace=5, factor=4).levels == [5, 20, 80]
    assert Rungs(2).levels == [1]


def test_between_rungs_and_first_at_one_everybody_goes_on() -> None:
    rungs = Rungs(9)
    assert rungs.goes_on("a", 2, [9.0])
    assert rungs.goes_on("a", 1, [9.0])
    assert not rungs.goes_on("b", 1, [10.0])
    assert rungs.goes_on("c", 1, [1.0])


def test_with_one_objective_it_is_successive_halving() -> None:
    """The trial goes on exactly when it is among the best ceil(n / factor) of the n that have come so far."""
    draw, seen = random.Random(0), list[float]()
    rungs = Rungs(9, factor=3)
    for trial in range(60):
        value = draw.random()
        seen.append(value)
        among = sorted(seen).index(value) < max(1, -(-len(seen) // 3))
        assert rungs.goes_on(trial, 1, [value]) == among


def test_the_front_goes_on_before_what_it_dominates() -> None:
    rungs = Rungs(9, factor=2)
    for trial, values in enumerate([(5.0, 5.0), (6.0, 6.0), (7.0, 7.0), (8.0, 8.0), (9.0, 9.0)]):
        rungs.goes_on(trial, 1, values)
    assert rungs.goes_on("left", 1, (0.0, 20.0))
    assert rungs.goes_on("right", 1, (20.0, 0.0))
    assert not rungs.goes_on("behind", 1, (9.5, 9.5))


def test_within_a_front_the_ends_and_the_lonely_go_on() -> None:
    rungs = Rungs(9, factor=2)
    for trial, x in enumerate([0.0, 10.0, 5.0, 5.1]):
        rungs.goes_on(trial, 1, (x, 10.0 - x))
    assert not rungs.goes_on("crowded", 1, (5.05, 4.95))
    assert rungs.goes_on("lonely", 1, (2.5, 7.5))


def test_the_same_again_changes_nothing() -> None:
    draw = random.Random(1)
    values = [(draw.random(), draw.random()) for _ in range(20)]
    once, twice = Rungs(9), Rungs(9)
    for trial, found in enumerate(values):
        first = once.goes_on(trial, 1, found)
        twice.goes_on(trial, 1, found)
        assert twice.goes_on(trial, 1, found) == first


def test_what_is_no_number_stops_and_hinders_nobody() -> None:
    rungs = Rungs(9)
    assert not rungs.goes_on("broken", 1, (float("nan"), 1.0))
    assert rungs.goes_on("sound", 1, (3.0, 3.0))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"epochs": 0}, "epochs=0; it is a whole number, 1 or more"),
        ({"epochs": 9, "factor": 1}, "factor=1; it is a whole number, 2 or more"),
        ({"epochs": 3, "grace": 3}, "lets every training of 3 epochs finish"),
        ({"epochs": 9, "grace": 0.5}, "grace=0.5; it is a whole number"),
    ],
)
def test_numbers_that_make_no_rung_are_refused(options: dict[str, int], sentence: str) -> None:
    with pytest.raises(RunnerError, match=sentence):
        Rungs(**options)
