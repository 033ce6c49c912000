"""Programs that the tests start as processes of their own, as a user would: each samples one study by name."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pyglove as pg

import nas.pyglove
import nas.pyglove.sampling


def space() -> Any:
    return pg.Dict({f"d{i}": pg.oneof([0, 1, 2, 3]) for i in range(4)})


def score(example: Any) -> float:
    return float(sum(example.values()))


def algorithm() -> pg.DNAGenerator:
    return pg.evolution.regularized_evolution(population_size=8, tournament_size=3)


def say(what: str, number: int) -> None:
    sys.stdout.write(f"{what} {number}\n")
    sys.stdout.flush()


def work(store: str, name: str, trials: int, pause: float, group: str | None) -> None:
    """Evaluate until there are `trials`; say each id that was finished here.  A negative pause is a trial that does not end."""
    nas.pyglove.sampling.LEASE_S = 1e9  # who waited for the end of a lease would wait for ever
    for example, feedback in pg.sample(
        space(), algorithm(), trials, name=name, group=group, backend="nas", store=store
    ):
        feedback.set_metadata("begun", True)
        with feedback.ignore_race_condition():  # a co-worker may have finished it meanwhile
            feedback.add_measurement(score(example) / 2, step=1, checkpoint_path=f"/ckpt/{feedback.id}")
        say("begun", feedback.id)
        time.sleep(max(pause, 0.0) if feedback.id != -pause else 1e6)
        with feedback.ignore_race_condition():
            feedback(score(example), step=2)
            say("done", feedback.id)


if __name__ == "__main__":
    store, name, trials, pause, group, others = sys.argv[1:]
    Path(f"{store}-{os.getpid()}.begun").touch()
    while len(list(Path(store).parent.glob("*.begun"))) < int(others):  # each begins when all are there
        time.sleep(0.01)
    work(store, name, int(trials), float(pause), group or None)
