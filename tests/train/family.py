"""A small family with everything that a training can trip over: BatchNorm, dropout (random numbers), a tied width, depth."""

from __future__ import annotations

import pyglove as pg
import torch
from torch import nn

import nas
from nas.supernet import Supernet
from nas.train import Classification

torch.set_num_threads(1)


@nas.model
def mlp(width: int, depth: int, dropout: float = 0.1) -> nn.Module:
    """Images (n, 1, 8, 8) -> logits (n, 10)."""
    layers: list[nn.Module] = [
        nn.Flatten(),
        nn.Linear(64, width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Dropout(dropout),
    ]
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.ReLU()]
    model = nn.Sequential()
    model.body = nn.Sequential(*layers)
    model.head = nn.Linear(width, 10)
    return model


def space() -> nas.Space:
    return nas.Space(mlp(width=pg.oneof([8, 16, 32]), depth=pg.oneof([0, 1])), name="mlp")


def supernet(seed: int = 0) -> Supernet:
    return Supernet(space(), example=torch.zeros(1, 1, 8, 8), seed=seed)


def blobs(n: int = 64, batch: int = 16, seed: int = 0) -> Classification:
    """Ten classes that a linear model tells apart: class c is bright in pixels 6c … 6c + 5."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        classes = torch.arange(count) % 10
        images = 0.3 * torch.randn(count, 64, generator=generator)
        images[torch.arange(count).view(-1, 1), 6 * classes.view(-1, 1) + torch.arange(6)] += 1.0
        return images.view(count, 1, 8, 8), classes

    return Classification(draw(n), draw(40), draw(50), batch=batch, seed=seed)
