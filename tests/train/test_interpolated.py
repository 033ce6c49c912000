"""A teacher whose pace adapts (`nas.train.interpolated`)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas.train import Interpolated, Sandwich, Training
from nas.train.interpolated import Pace
from tests.train.family import blobs, supernet

STEPS, PACE = 12, 0.5


class Watching(Pace):
    """Notes every distance, and every t that a step is made with."""

    def __init__(self, start: float, seen: list[list[float]], shares: list[float]) -> None:
        super().__init__(start)
        self.seen, self.shares = seen, shares

    def look(self, distance: Tensor, rows: int) -> None:
        self.seen[-1].append(distance.item())
        super().look(distance, rows)

    def move(self, pace: float, least: float) -> None:
        super().move(pace, least)
        self.seen.append([])
        self.shares.append(self.share.item())


def training(path: Path | None = None, pace: float | None = PACE) -> Training:
    torch.manual_seed(3)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    loss = Interpolated(teacher, steps=STEPS * 10, start=0.2, pace=pace)
    return Training(
        supernet(), blobs(), path=path, sampler=Sandwich(1), loss=loss, steps=STEPS, lr=1e-2, checkpoint_every=1
    )


def test_t_moves_as_the_distance_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []
    shares: list[float] = []
    monkeypatch.setattr(Interpolated, "keep", lambda _, __: Watching(0.2, seen, shares))
    training().run(progress=False)
    assert len(shares) == STEPS
    assert len(seen[0]) > 1, "every arch of a step"
    t, momentum, before = 0.2, 0.0, 0.0
    for number in range(STEPS):
        if number:
            now = sum(seen[number - 1]) / len(seen[number - 1])
            momentum = 0.99 * momentum + 0.01 * ((before - now) / before if before else 0.0)
            before = now
            t = max(t + PACE / (1 + math.exp(-momentum)) * (1 - t), 0.2 + 0.8 * number / (STEPS * 10))
        assert shares[number] == pytest.approx(t, abs=1e-5)
    assert shares[-1] > 0.9, "far ahead of the line"


def test_a_killed_training_goes_on_at_the_same_pace(tmp_path: Path) -> None:
    whole = training(tmp_path / "whole").run(progress=False).supernet.state_dict()
    training(tmp_path / "parts").run(progress=False, until=5)
    resumed = training(tmp_path / "parts").run(progress=False).supernet.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    line: Any = training(pace=None).run(progress=False).supernet.state_dict()
    assert not all(torch.equal(value, line[name]) for name, value in whole.items())
