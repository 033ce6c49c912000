from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas.errors import DeviceError
from nas.hardware import Device, Rounds, measure_rounds
from tests.conformance.patience import Clock


class Sleep(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.calls = seconds, 0

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        self.calls += 1
        return x


def test_every_module_is_visited_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, step=1e-4)  # the reference takes time too
    modules = [Sleep(0.002).eval(), Sleep(0.008).eval()]
    ticks: list[tuple[int, int]] = []
    found = measure_rounds(
        modules, [torch.zeros(1)] * 2, rounds=3, budget_s=0.0, tick=lambda done, of: ticks.append((done, of))
    )
    assert found.visits.shape == found.references.shape == (3, 2)
    assert [module.calls for module in modules] == [21, 21]  # three rounds of two to warm up and five timed
    assert ticks == [(1, 3), (2, 3), (3, 3)]
    assert found.ms[0] < found.ms[1]
    assert found.drift >= 1.0
    assert clock.now > 0


def test_figures_are_medians_over_rounds_and_halves_are_every_other_round() -> None:
    visits = np.array([[1.0, 10.0], [2.0, 10.0], [3.0, 10.0], [9.0, 10.0]])
    found = Rounds(visits, np.array([[1.0, 1.0], [1.0, 1.0], [2.0, 2.0], [1.0, 1.0]]))
    assert found.ms.tolist() == [2.5, 10.0]
    assert found.noisy.tolist() == [True, False]
    assert [half.tolist() for half in found.halves()] == [[2.0, 10.0], [5.5, 10.0]]
    assert found.drift == 2.0


def test_a_slow_moment_is_corrected_by_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = iter([(1.0, 0.1), (3.0, 0.3), (1.0, 0.1)])  # everything takes three times as long in the second round
    monkeypatch.setattr("nas.hardware.rounds._visit", lambda *_: next(turn))
    found = measure_rounds([nn.Identity()], [torch.zeros(1)], rounds=3)
    assert found.visits[:, 0] == pytest.approx([1.0, 1.0, 1.0])


@pytest.mark.parametrize(("count", "rounds"), [(0, 3), (1, 1)])
def test_rounds_without_sense_are_refused(count: int, rounds: int) -> None:
    with pytest.raises(DeviceError, match="give one input for each, and 2 rounds or more"):
        measure_rounds([nn.Identity()] * count, [torch.zeros(1)] * count, Device(), rounds=rounds)
