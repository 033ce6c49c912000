from __future__ import annotations

import random
from typing import Any

import pytest
import torch

import nas
from nas.errors import TrainError
from nas.train import Delayed, InPlace, Labels, Ramped, Sampler, Sandwich, Step, Uniform, train
from tests.train.family import blobs, space, supernet


class Noted(Sampler):
    """Writes down the steps that it is asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.begun: list[int] = []

    def archs(self, space: nas.Space, step: int, rng: random.Random) -> list[nas.Arch]:
        self.asked.append(step)
        return [space.smallest]

    def begin(self, supernet: Any, optimizer: Any, step: int) -> None:
        self.begun.append(step)


def test_the_largest_trains_alone_and_the_sampler_counts_from_its_own_start() -> None:
    inner = Noted()
    train(supernet(), blobs(), sampler=Delayed(inner, 5), loss=Labels(), steps=8, progress=False)
    assert inner.asked == inner.begun == [0, 1, 2]


def test_before_its_start_it_equals_training_the_largest_alone() -> None:
    class Largest(Sampler):
        def archs(self, space: nas.Space, step: int, rng: random.Random) -> list[nas.Arch]:
            return [space.largest]

    nets = [supernet(), supernet(), supernet()]
    for net, sampler in zip(nets, (Delayed(Sandwich(2), 6), Largest(), Delayed(Sandwich(2), 5)), strict=True):
        train(net, blobs(), sampler=sampler, steps=6, progress=False)
    ours, alone, later = (net.state_dict() for net in nets)
    assert all(torch.equal(ours[name], alone[name]) for name in ours)
    assert any(not torch.equal(ours[name], later[name]) for name in ours)


def test_a_ramp_weighs_subnets_and_never_the_largest() -> None:
    task, ours = blobs(), space()
    batch, scores = next(task.train_batches(0)), torch.randn(16, 10, generator=torch.Generator().manual_seed(0))
    loss, plain = Ramped(Labels(), start=10, steps=20, least=0.2), task.loss(scores, batch).item()
    for number, weight in ((0, 0.2), (10, 0.2), (20, 0.6), (30, 1.0), (99, 1.0)):
        step = Step(number, task, ours, [ours.largest], ours.largest)
        assert loss(scores, batch, step).item() == pytest.approx(plain)
        step.arch = ours.smallest
        assert loss(scores, batch, step).item() == pytest.approx(weight * plain)


def test_a_ramp_keeps_what_its_loss_asks_for() -> None:
    ours = space()
    loss = Ramped(InPlace(), start=3, steps=4)
    assert loss.archs([ours.smallest], ours) == [ours.largest, ours.smallest]
    train(supernet(), blobs(), sampler=Delayed(Uniform(1), 3), loss=loss, steps=9, progress=False)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Delayed(Sandwich(2), 0), "Delayed was given start=0"),
        (lambda: Delayed(Labels(), 3), "Delayed was given sampler=a Labels"),  # type: ignore[arg-type]
        (lambda: Ramped(Labels(), 3, 0), "Ramped was given steps=0"),
        (lambda: Ramped(Labels(), -1, 3), "Ramped was given start=-1"),
        (lambda: Ramped(Labels(), 3, 3, least=1.0), "Ramped has least=1.0"),
        (lambda: Ramped(Sandwich(2), 3, 3), "Ramped was given loss=a Sandwich"),  # type: ignore[arg-type]
    ],
)
def test_options_are_checked(make: Any, sentence: str) -> None:
    with pytest.raises(TrainError, match=sentence):
        make()


def test_descriptions_hold_what_is_wrapped() -> None:
    ours = [Delayed(Sandwich(2), 5), Delayed(Sandwich(3), 5), Delayed(Sandwich(2), 6)]
    losses = [Ramped(Labels(), 1, 2), Ramped(InPlace(), 1, 2), Ramped(Labels(), 1, 2, 0.3)]
    assert len({str(one.describe()) for one in (*ours, *losses)}) == 6
