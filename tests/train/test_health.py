from __future__ import annotations

import dataclasses
import json
import math

import pytest

from nas.errors import TrainError
from nas.train.health import WINDOW, Health


def test_a_falling_loss_is_healthy() -> None:
    health = Health()
    for step in range(1, 500):
        health.look(step, 2.3 / step + 0.1, 1.0, 10.0)
    assert len(health.window) == WINDOW


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named(value: float) -> None:
    with pytest.raises(TrainError, match=f"the loss of step 7 is {value}"):
        Health().look(7, value, 1.0, 10.0)
    with pytest.raises(TrainError, match=f"the gradient's norm of step 7 is {value}"):
        Health().look(7, 1.0, value, 10.0)


def test_one_bad_batch_is_no_divergence_but_a_plateau_is() -> None:
    health = Health()
    for step in range(1, 101):
        health.look(step, 1.0, 1.0, 10.0)
    health.look(101, 400.0, 1.0, 10.0)  # mean of the window: 8.98
    with pytest.raises(TrainError, match=r"diverged: 10.* over the 50 steps up to 102, 1 over the first ones"):
        health.look(102, 60.0, 1.0, 10.0)


def test_a_resumed_training_judges_by_the_same_start() -> None:
    first, whole = Health(), Health()
    for step in range(1, 61):
        first.look(step, 0.5, 1.0, 10.0)
        whole.look(step, 0.5, 1.0, 10.0)
    resumed = Health(**json.loads(json.dumps(dataclasses.asdict(first))))
    assert resumed == whole
    assert resumed.baseline == 0.5
