"""Candidates that are trained, with a note of every epoch that began and ended; importable by worker processes."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import nas
from nas.evaluate import Trained
from nas.train import Classification, Training, recipe
from tests.train import family


@recipe
def blobs(n: int = 64, batch: int = 16) -> Classification:
    return family.blobs(n, batch)


class Noted(Trained):
    """Writes a line to `notes` when an epoch begins and when it is committed; each takes at least `pause` seconds."""

    def __init__(self, *given: Any, notes: str, pause: float = 0.0, **options: Any) -> None:
        super().__init__(*given, **options)
        self.notes, self.pause = notes, pause

    def _train(self, training: Training, epoch: int) -> None:
        assert training.path is not None
        self._note(f"begin {training.path.name} {epoch}")
        time.sleep(self.pause)
        super()._train(training, epoch)
        self._note(f"end {training.path.name} {epoch}")

    def _note(self, line: str) -> None:
        with open(self.notes, "a", encoding="utf-8") as notes:
            notes.write(line + "\n")
            notes.flush()
            os.fsync(notes.fileno())


class Dying(Noted):
    """Its process is killed at the beginning of every epoch but the first, once."""

    def _train(self, training: Training, epoch: int) -> None:
        assert training.path is not None
        mark = Path(self.notes).with_name(f"died-{training.path.name}-{epoch}")
        if epoch > 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        super()._train(training, epoch)


def repeated(notes: Path) -> tuple[int, int]:
    """Epochs that were finished, and how many of them were begun once more after that."""
    finished: set[tuple[str, str]] = set()
    again: Counter[tuple[str, str]] = Counter()
    for line in notes.read_text(encoding="utf-8").splitlines():
        what, candidate, epoch = line.split()
        if what == "end":
            finished.add((candidate, epoch))
        elif (candidate, epoch) in finished:
            again[candidate, epoch] += 1
    return len(finished), again.total()


def study(
    folder: Path,
    *,
    name: str = "trained",
    trials: int = 3,
    kind: type[Noted] = Noted,
    algorithm: nas.search.Algorithm | None = None,
    **changes: Any,
) -> nas.Study:
    """Accuracy against parameters of candidates trained for a few epochs; everything is below `folder`."""
    options: dict[str, Any] = {"epochs": 4, "lr": 1e-2, "pause": 0.0, **changes}
    evaluator = kind(blobs(), folder / "candidates", notes=str(folder / "notes.txt"), **options)
    return nas.Study(
        name,
        space=family.space(),
        objectives=["max accuracy", "min params"],
        evaluators=[evaluator, Params()],
        algorithm=algorithm or nas.RandomSearch(seed=1),
        store=folder / "nas.db",
        trials=trials,
    )


class Params:
    """Weights of the linear layers, and cheap to say."""

    metrics = ("params",)
    cost = "cheap"

    def __call__(self, arch: nas.Arch) -> dict[str, float]:
        width, depth = arch.choices["width"], arch.choices["depth"]
        return {"params": float(64 * width + 10 * width + depth * width * width)}
