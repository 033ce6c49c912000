"""Tabular regression: a residual perceptron of one's own, root mean squared error against parameters."""

import torch
from sklearn.datasets import make_friedman1
from torch import Tensor, nn

import nas


class Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Regressor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 64)
        self.blocks = nn.ModuleList(Block(64, 128) for _ in range(3))
        self.head = nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


x, y = make_friedman1(6000, n_features=10, noise=1.0, random_state=0)  # no model is better than an error of 1.0
task = nas.Regression((x[:4000], y[:4000]), (x[4000:5000], y[4000:5000]), (x[5000:], y[5000:]), batch=128)

torch.manual_seed(0)
model = Regressor()
supernet = nas.Supernet(nas.elastic(model, task.example), example=task.example, weights=model)
training = nas.Training(supernet, task, path="runs/regression", steps=1000, lr=3e-3, loss=nas.InPlace(labels=0.5))

study = nas.Study(
    "regression",
    space=supernet.space,
    objectives=["min rmse", "min params"],
    evaluators=[nas.Accuracy(training, task), nas.Costs(training)],
    algorithm=nas.NSGA2(population=20),
    training=training,
    store="runs/gallery.db",
    trials=100,
)
