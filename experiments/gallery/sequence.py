"""Forecasting with a GRU: the next 8 values of a noisy series from the last 48, root mean squared error against operations."""

import numpy as np
import torch
from torch import Tensor, nn

import nas


def series(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of two waves of random period and phase, with noise: (n, 48, 1) and the (n, 8) values after them, without noise."""
    draw = np.random.default_rng(seed)
    period, phase = draw.uniform(6, 24, (count, 2, 1)), draw.uniform(0, 2 * np.pi, (count, 2, 1))
    whole = np.sin(2 * np.pi * np.arange(56) / period + phase).sum(1).astype(np.float32)
    seen = whole[:, :48] + draw.normal(0, 0.2, (count, 48)).astype(np.float32)
    return seen[..., None], whole[:, 48:]


class Forecaster(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 32)
        self.recurrent = nn.GRU(32, 64, batch_first=True)
        self.hidden = nn.Linear(64, 64)
        self.head = nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.recurrent(torch.relu(self.embed(x)))
        return self.head(torch.relu(self.hidden(states[:, -1])))


task = nas.Regression(series(3000, seed=1), series(1000, seed=2), series(1000, seed=3), batch=64)

torch.manual_seed(0)
model = Forecaster()
supernet = nas.Supernet(nas.elastic(model, task.example), example=task.example, weights=model)
training = nas.Training(supernet, task, path="runs/sequence", steps=600, lr=3e-3, loss=nas.InPlace(labels=0.5))

study = nas.Study(
    "sequence",
    space=supernet.space,
    objectives=["min rmse", "min macs"],
    evaluators=[nas.Accuracy(training, task), nas.Costs(training)],
    algorithm=nas.NSGA2(population=16),
    training=training,
    store="runs/gallery.db",
    trials=40,
)
