"""A small residual network for the digits, trained for a moment, and its task."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

import nas
from nas.train import Labels, Training, Uniform, as_supernet, recipe


class Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(width, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden)
        self.last = nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.last(torch.relu(self.norm(self.first(x)))))


class Net(nn.Module):
    """Images (n, 1, 8, 8) to logits (n, 10)."""

    def __init__(self, width: int = 16, hidden: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.Sequential(Block(width, hidden), Block(width, hidden))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))
        return found


@cache
def digits() -> nas.Classification:
    found = nas.digits(batch=32)
    assert isinstance(found, nas.Classification)
    return found


@cache
def task() -> nas.Task:
    return part()


@recipe
def part() -> nas.Task:
    """Of the digits: ten steps an epoch."""
    (x, y), (u, v) = digits().train, digits().valid
    return nas.Classification((x[:320], y[:320]), (u[:200], v[:200]), batch=32, calibration=128)


@cache
def trained() -> Net:
    """Trained for 80 steps."""
    torch.manual_seed(0)
    training = Training(
        as_supernet(Net(), example=task().example), digits(), steps=80, lr=1e-2, sampler=Uniform(1), loss=Labels()
    )
    training.run(progress=False)
    found = training.supernet.extract(training.supernet.space.largest)
    assert isinstance(found, Net)
    return found


@cache
def space() -> nas.Space:
    """Of everything in it that can be cut."""
    return nas.elastic(trained(), task().example)


def supernet() -> nas.Supernet:
    """Another one each time, whose weights a test may change."""
    return nas.Supernet(space(), example=task().example, weights=trained())
