"""Two inputs: do two images show the same digit?  One branch for both, then a comparison; accuracy against parameters."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import nas


def pairs(part: slice, count: int, seed: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """((left, right), same): half of the pairs show the same digit."""
    draw = np.random.default_rng(seed)
    images, digits = (one[part] for one in load_digits(return_X_y=True))
    images = (images / 8 - 1).astype(np.float32)
    left, same = draw.integers(len(images), size=count), draw.integers(2, size=count)
    right = [draw.choice(np.flatnonzero((digits == digits[a]) == b)) for a, b in zip(left, same, strict=True)]
    return (images[left], images[right]), same


class Same(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32))
        self.hidden, self.head = nn.Linear(64, 64), nn.Linear(64, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        a, b = self.branch(left), self.branch(right)
        return self.head(torch.relu(self.hidden(torch.cat([(a - b).abs(), a * b], 1))))


splits = (slice(0, 1000), 8000, 1), (slice(1000, 1400), 2000, 2), (slice(1400, None), 2000, 3)  # no image is in two
train, valid, test = (pairs(*split) for split in splits)
task = nas.Task.of(train, valid, test=test, loss="cross_entropy", metrics="accuracy", batch=64)

torch.manual_seed(0)
model = Same()
supernet = nas.Supernet(nas.elastic(model, task.example), example=task.example, weights=model)
training = nas.Training(supernet, task, path="runs/two_inputs", steps=800, lr=3e-3, loss=nas.InPlace(labels=0.5))

study = nas.Study(
    "two_inputs",
    space=supernet.space,
    objectives=["max accuracy", "min params"],
    evaluators=[nas.Accuracy(training, task), nas.Costs(training)],
    algorithm=nas.NSGA2(population=20),
    training=training,
    store="runs/gallery.db",
    trials=80,
)
