"""Candidates and a supernet that are trained; apart, since searches need no torch."""

from __future__ import annotations

import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import pyglove as pg  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

import nas  # noqa: E402
from nas.runners import import_file  # noqa: E402
from nas.search import Exhaustive  # noqa: E402
from nas.train import Sampler  # noqa: E402

jobs = import_file("nas_chaos_jobs", str(Path(__file__).with_name("jobs.py")))
note, pause = jobs.note, jobs.pause

EPOCH_S = 0.4  # added to an epoch of a candidate, while the storm lasts
STEP_S = 0.01  # added to a step of a supernet, likewise

torch.set_num_threads(1)


class Epochs(nas.Trained):
    """A candidate's training that notes when an epoch begins and when it is committed."""

    def _train(self, training: nas.Training, epoch: int) -> None:
        assert training.path is not None
        here = self.path.parent
        note(here / "epochs", f"begin {training.path.name} {epoch}")
        pause(here, EPOCH_S)
        super()._train(training, epoch)
        note(here / "epochs", f"end {training.path.name} {epoch}")


class Paced(Sampler):
    """A sandwich a step, in a step that takes its time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def archs(self, space: nas.Space, step: int, rng: random.Random) -> list[nas.Arch]:
        pause(self.folder, STEP_S)
        return nas.Sandwich().archs(space, step, rng)


def perceptrons() -> nas.Space:
    """Twelve perceptrons on the digits."""
    return nas.Space(mlp(width=pg.oneof([8, 16, 32, 64]), depth=pg.oneof([0, 1, 2])), name="mlp")


def candidates(folder: Path, url: str, *, epochs: int) -> nas.Study:
    """Candidates that are each trained for some epochs."""
    evaluator = Epochs(nas.digits(batch=256), folder / "candidates", epochs=epochs, lr=1e-2)
    return nas.Study(
        "chaos",
        space=perceptrons(),
        objectives=["max accuracy"],
        evaluators=[evaluator],
        algorithm=Exhaustive(),
        store=url,
        trials=12,
    )


def supernet(folder: Path, steps: int) -> nas.Training:
    """A supernet of the twelve, a checkpoint every ten steps."""
    net = nas.Supernet(perceptrons(), seed=0)
    task = nas.digits(batch=64)
    return nas.Training(
        net, task, path=folder / "supernet", sampler=Paced(folder), steps=steps, checkpoint_every=10, seed=0
    )


@nas.model
def mlp(width: int, depth: int) -> nn.Module:
    """Images (n, 1, 8, 8) -> logits (n, 10)."""
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(64, width), nn.ReLU()]
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.ReLU()]
    model = nn.Sequential(*layers)
    model.head = nn.Linear(width, 10)  # one name at every depth: a supernet shares weights by name
    return model
