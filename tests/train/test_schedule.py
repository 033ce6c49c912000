from __future__ import annotations

import math

import pytest
import torch

from nas.errors import TrainError
from nas.train import Schedule


def test_warm_up_is_linear_and_reaches_the_rate() -> None:
    schedule = Schedule(lr=0.8, steps=20, warmup=4)
    assert [schedule(step) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert schedule(4) == pytest.approx(0.8)


def test_the_cosine_equals_torchs() -> None:
    schedule = Schedule(lr=0.1, steps=11, floor=0.25)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10, eta_min=0.025)
    for step in range(11):
        assert schedule(step) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_the_last_step_has_the_floor_and_the_middle_half(warmup: int) -> None:
    schedule = Schedule(lr=2.0, steps=warmup + 101, warmup=warmup, floor=0.1)
    assert schedule(warmup + 100) == pytest.approx(0.2)
    assert schedule(warmup + 50) == pytest.approx(2.0 * 0.55)
    rates = [schedule(step) for step in range(warmup, warmup + 101)]
    assert rates == sorted(rates, reverse=True)


def test_one_step_is_a_schedule() -> None:
    assert Schedule(lr=0.5, steps=1)(0) == 0.5


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"lr": 0.0}, "lr=0.0 is not a positive number"),
        ({"lr": math.inf}, "lr=inf"),
        ({"steps": 0}, "steps=0"),
        ({"warmup": 10}, "warmup=10 does not fit 10 steps; choose 0 to 9"),
        ({"floor": 1.5}, "floor=1.5"),
    ],
)
def test_numbers_that_make_no_schedule_are_refused(change: dict[str, float], sentence: str) -> None:
    with pytest.raises(TrainError, match=sentence):
        Schedule(**{"lr": 0.1, "steps": 10, **change})  # type: ignore[arg-type]
