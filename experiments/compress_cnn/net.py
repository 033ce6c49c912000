"""A residual network for 16×16 images."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(width, hidden, 3, padding=1), nn.BatchNorm2d(hidden)
        self.second, self.last = nn.Conv2d(hidden, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.last(self.second(torch.relu(self.norm(self.first(x))))))


class Net(nn.Module):
    """Images (n, 1, 16, 16) to logits (n, classes)."""

    def __init__(self, width: int, hidden: int, classes: int = 62) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.fine = nn.Sequential(Block(width, hidden), Block(width, hidden))
        self.down, self.between = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width)
        self.coarse = nn.Sequential(Block(2 * width, 2 * hidden), Block(2 * width, 2 * hidden))
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fine(torch.relu(self.norm(self.stem(x))))
        x = self.coarse(torch.relu(self.between(self.down(x))))
        found: Tensor = self.head(x.mean((2, 3)))
        return found
