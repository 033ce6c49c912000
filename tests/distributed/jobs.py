"""Trainings that several processes share; importable by them."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import distributed

import nas
from nas.distributed.work import STOP
from nas.train import Sandwich, Training, state
from tests.train import family


@dataclass(frozen=True)
class Mortal(Sandwich):
    """Before step `at` the process whose number ends the name of a file in `folder` is killed, once a file.

    From the step in file `hold` on, all wait until they are asked to stop: no training is over before a test interferes.
    """

    folder: str = "."
    at: int = 7

    def begin(self, supernet: Any, optimizer: Any, step: int) -> None:
        rank = distributed.get_rank() if distributed.is_initialized() else 0
        for mark in sorted(Path(self.folder).glob(f"kill-*-{rank}")):
            if step == self.at:
                mark.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        hold = Path(self.folder) / "hold"
        if hold.exists() and step >= int(hold.read_text()):
            stop = Path(self.folder) / "supernet" / state.LAUNCH / STOP
            while not stop.exists():
                time.sleep(0.02)
            time.sleep(0.25)  # processes look for it five times a second

    def describe(self) -> dict[str, Any]:
        return {"class": "Mortal"}


class Slow(Sandwich):
    """Takes long enough that somebody can interfere."""

    def begin(self, supernet: Any, optimizer: Any, step: int) -> None:
        time.sleep(0.1)


class Broken(Sandwich):
    """Cannot go on after three steps."""

    def archs(self, space: Any, step: int, rng: Any) -> Any:
        if step == 3:
            raise ZeroDivisionError("out of cheese")
        return super().archs(space, step, rng)


def training(path: Path | None, **options: Any) -> Training:
    sampler = options.pop("sampler", None) or Mortal(folder=str(path.parent if path else "."))
    settings = {"steps": 20, "lr": 0.01, "checkpoint_every": 5, "validate_every": 20, **options}
    return Training(family.supernet(), family.blobs(), path=path, sampler=sampler, **settings)


def study(folder: Path, **options: Any) -> nas.Study:
    """For the command line: `nas train`."""
    made = training(folder / "supernet", **options)
    evaluators = [nas.Costs(made.supernet)]
    return nas.Study(
        "small", space=made.supernet.space, objectives=["min params"], evaluators=evaluators, training=made
    )
