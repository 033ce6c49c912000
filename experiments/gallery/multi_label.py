"""Several labels: which digits are among the three in an image; mean average precision against operations."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import nas


def scenes(part: slice, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, 1, 16, 16) images with three digits in random corners, and (n, 10) of 0 and 1."""
    draw = np.random.default_rng(seed)
    images, digits = (one[part] for one in load_digits(return_X_y=True))
    chosen = draw.integers(len(images), size=(count, 3))
    corners = np.array([draw.permutation(4)[:3] for _ in range(count)])
    scene, labels = np.zeros((count, 4, 8, 8), np.float32), np.zeros((count, 10), np.float32)
    rows = np.arange(count)[:, None]
    scene[rows, corners] = images[chosen].reshape(count, 3, 8, 8) / 8 - 1
    labels[rows, digits[chosen]] = 1
    return scene.reshape(count, 1, 2, 2, 8, 8).swapaxes(3, 4).reshape(count, 1, 16, 16), labels


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.norm, self.last_norm = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.last_norm(self.second(torch.relu(self.norm(self.first(x))))))


def network() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2))
    head = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24 * 16, 64), nn.ReLU(), nn.Linear(64, 10))
    return nn.Sequential(stem, Residual(24), Residual(24), head)


splits = (slice(0, 1000), 4000, 1), (slice(1000, 1400), 1000, 2), (slice(1400, None), 1000, 3)  # no digit is in two
train, valid, test = (scenes(*split) for split in splits)
task = nas.MultiLabel(train, valid, test, batch=64)

torch.manual_seed(0)
model = network()
supernet = nas.Supernet(nas.elastic(model, task.example), example=task.example, weights=model)
training = nas.Training(supernet, task, path="runs/multi_label", steps=400, lr=3e-3, loss=nas.InPlace(labels=0.5))

study = nas.Study(
    "multi_label",
    space=supernet.space,
    objectives=["max map", "min macs"],
    evaluators=[nas.Accuracy(training, task), nas.Costs(training)],
    algorithm=nas.NSGA2(population=16),
    training=training,
    store="runs/gallery.db",
    trials=80,
)
