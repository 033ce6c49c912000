from __future__ import annotations

import math
import random
from collections import Counter

import pyglove as pg
import pytest

import nas
from nas.errors import TrainError
from nas.train import Labels, Training
from nas.train.buckets import Bucketed
from tests.train.family import blobs, mlp, supernet


def crowded() -> nas.Space:
    """Nine archs of width 1 to 9, of which seven are cheap."""
    return nas.Space(mlp(width=pg.oneof(list(range(1, 10))), depth=0), name="crowded")


def cost(arch: nas.Arch) -> float:
    width = arch.choices["width"]
    return width if width <= 7 else 10.0 * width


def test_groups_open_where_the_cost_leaves_the_width() -> None:
    widths = [[arch.choices["width"] for arch in group] for group in Bucketed(cost, 3).groups(crowded())]
    assert widths == [[1, 2, 3, 4], [5, 6, 7], [8], [9]]
    assert len(Bucketed(cost, 0).groups(crowded())) == 9
    assert len(Bucketed(cost, 1000).groups(crowded())) == 1


def test_each_group_is_drawn_as_often_and_each_arch_within() -> None:
    sampler, space, draw = Bucketed(cost, 3), crowded(), random.Random(0)
    counts = Counter(sampler.archs(space, step, draw)[0].choices["width"] for step in range(8000))
    for width, share in {1: 1 / 16, 4: 1 / 16, 5: 1 / 12, 7: 1 / 12, 8: 1 / 4, 9: 1 / 4}.items():
        assert abs(counts[width] / 8000 - share) < 0.02


def test_a_tilt_favours_dear_groups_by_its_formula() -> None:
    sampler, space, draw = Bucketed(cost, 3, tilt=4), crowded(), random.Random(0)
    assert sampler.weights(4) == [0.25, 0.5, 0.75, 1.0]
    counts = Counter(sampler.archs(space, step, draw)[0].choices["width"] for step in range(8000))
    assert abs(counts[9] / 8000 - 0.4) < 0.02
    assert abs(counts[8] / 8000 - 0.3) < 0.02


def test_several_archs_each_once_and_repeatable() -> None:
    sampler, space = Bucketed(cost, 3, n=4), crowded()
    for seed in range(20):
        archs = sampler.archs(space, 0, random.Random(seed))
        assert archs == sampler.archs(space, 5, random.Random(seed))
        assert 1 <= len(archs) == len(set(archs)) <= 4


def test_costs_are_asked_once_for_each_space() -> None:
    asked: list[nas.Arch] = []
    sampler = Bucketed(lambda arch: float(asked.append(arch) or 1.0), 1)
    for step in range(10):
        sampler.archs(crowded(), step, random.Random(step))
    assert len(asked) == 9
    other = nas.Space(mlp(width=pg.oneof([3, 4]), depth=0), name="other")
    assert {arch.choices["width"] for group in sampler.groups(other) for arch in group} == {3, 4}


def test_it_trains_any_family_and_is_a_part_of_the_configuration() -> None:
    net = supernet()
    sampler = Bucketed(net.macs, 500, n=2)
    training = Training(net, blobs(), sampler=sampler, loss=Labels(), steps=4)
    kept = {name: value for name, value in training.config["sampler"].items() if name != "identity"}
    assert kept == {"class": "Bucketed", "cost": "Supernet.macs", "width": 500, "n": 2, "tilt": None}
    assert training.config["sampler"]["identity"]["cost"]["of"]["self"]["class"] == "Supernet"
    assert training.run(progress=False).steps == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cost": 3, "width": 1}, "cost=3; it is a function"),
        ({"cost": cost, "width": -1}, "width=-1"),
        ({"cost": cost, "width": math.inf}, "width=inf"),
        ({"cost": cost, "width": 1, "n": 0}, r"n=0"),
        ({"cost": cost, "width": 1, "tilt": 0}, "tilt=0"),
    ],
)
def test_options_that_sample_nothing_are_refused(options: dict, message: str) -> None:
    with pytest.raises(TrainError, match=message):
        Bucketed(**options)


def test_spaces_and_costs_that_cannot_be_sorted_are_refused() -> None:
    floats = nas.Space(mlp(width=8, depth=0, dropout=pg.floatv(0.0, 0.5)), name="floats")
    with pytest.raises(TrainError, match="float decisions"):
        Bucketed(cost, 1).groups(floats)
    with pytest.raises(TrainError, match="nan"):
        Bucketed(lambda _: math.nan, 1).groups(crowded())
