from __future__ import annotations

import random

import pytest

import nas
from nas.errors import TrainError
from nas.train import Sampler, Sandwich, Uniform
from tests.train.family import mlp, space


@pytest.mark.parametrize("sampler", [Uniform(3), Sandwich(3)])
def test_archs_are_of_the_space_each_once_and_repeat_with_the_seed(sampler: Sampler) -> None:
    ours = space()
    for seed in range(20):
        archs = sampler.archs(ours, 0, random.Random(seed))
        assert archs == sampler.archs(ours, 0, random.Random(seed))
        assert len(set(archs)) == len(archs) >= 1
        assert all(arch.choices in ours for arch in archs)


def test_a_sandwich_has_its_bread() -> None:
    ours = space()
    for seed in range(20):
        archs = Sandwich(2).archs(ours, 7, random.Random(seed))
        assert archs[:2] == [ours.largest, ours.smallest]
        assert len(archs) <= 4
    assert Sandwich(0).archs(ours, 0, random.Random(0)) == [ours.largest, ours.smallest]


def test_uniform_reaches_every_arch_about_equally() -> None:
    ours, counts = space(), dict.fromkeys(space().enumerate(), 0)
    draw = random.Random(0)
    for step in range(1200):
        counts[Uniform(1).archs(ours, step, draw)[0]] += 1
    assert len(counts) == ours.size == 6
    assert all(150 <= count <= 250 for count in counts.values())


def test_a_space_of_one_arch_is_trained_once_a_step() -> None:
    assert len(Sandwich(2).archs(nas.Space(mlp(width=8, depth=0), name="one"), 0, random.Random(0))) == 1


def test_numbers_that_sample_nothing_are_refused() -> None:
    with pytest.raises(TrainError, match="Uniform was given n=0"):
        Uniform(0)
    with pytest.raises(TrainError, match="Sandwich was given n=-1"):
        Sandwich(-1)


def test_descriptions_tell_samplers_apart() -> None:
    assert Sandwich(2).describe() == {"class": "Sandwich", "n": 2}
    assert Uniform(2).describe() != Uniform(3).describe() != Sandwich(3).describe()
