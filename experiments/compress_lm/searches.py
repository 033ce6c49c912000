"""Searches for networks of low calibration loss and few operations: what they have found after as many evaluations."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import nas
from nas import files
from nas.pareto import hypervolume, non_dominated
from nas.search import Algorithm

SEARCHES: dict[str, type[Algorithm]] = {
    "NSGA-II": nas.NSGA2,
    "Compose": nas.Compose,
    "Surrogate": nas.Surrogate,
    "random": nas.RandomSearch,
}
BATCHES = 4
WORST = 8.0
"""Loss of the reference point, in nats; more counts as much.  A guess without any knowledge loses 6.6."""


def compared(
    given: tuple[nn.Module, nas.Task] | None, folder: Path, *, seeds: int, evaluations: int, granule: int
) -> dict[str, dict[str, Any]]:
    """Evaluations to the hypervolume of NSGA-II, over seeds; runs that are there are not repeated.

    Args:
        given: model and task; None reports.
        folder: of the runs.
        seeds: of the searches.
        evaluations: of NSGA-II; the others have half of them.
        granule: of widths.
    """
    if given is not None:
        net = _supernet(*given, granule)
        for seed in range(seeds):
            for name in SEARCHES:
                count = evaluations if name == "NSGA-II" else max(evaluations // 2, 2)
                _searched(net, given[1], folder, name=name, seed=seed, count=count)
    return _figures(folder)


def _supernet(model: nn.Module, task: nas.Task, granule: int) -> nas.Supernet:
    """The model's own, with channels in order."""
    space = nas.elastic(model, task.example, granule=granule)
    net = nas.Supernet(space, example=task.example, weights=model)
    nas.reorder(net, by="group_fisher", task=task)
    return net


def _searched(net: nas.Supernet, task: nas.Task, folder: Path, *, name: str, seed: int, count: int) -> None:
    """One search, kept as JSON: points in the order of their evaluation."""
    file = folder / "searches" / f"{name}, {seed}.json"
    if file.exists():
        return
    file.parent.mkdir(exist_ok=True)
    begun = time.process_time()
    quality = nas.Once(nas.Calibration(net, task, batches=BATCHES), _key, folder / "evaluated")
    study = nas.Study(
        f"{name}-{seed}-{count}",
        space=net.space,
        objectives=["min calibration_loss", "min macs"],
        evaluators=[quality, nas.Costs(net)],
        algorithm=SEARCHES[name](seed=seed),
        store=folder / "searches.db",
        trials=count,
    )
    study.run(workers=0, progress=False)
    rows = study.trials().sort_values("number")
    points = rows[["calibration_loss", "macs"]].astype(float).values.tolist()
    largest = float(net.macs(net.space.largest))
    files.write(file, json.dumps({"points": points, "largest": largest, "seconds": time.process_time() - begun}))
    print(f"search, {name}, {seed}: {count} evaluations", flush=True)


def _figures(folder: Path) -> dict[str, dict[str, Any]]:
    """Of each search: share of NSGA-II's hypervolume at its end, and the evaluations that reach it, a seed each."""
    curves: dict[tuple[str, str], list[float]] = {}
    for file in sorted((folder / "searches").glob("*.json")):
        name, seed = file.stem.split(", ")
        curves[name, seed] = _volumes(json.loads(file.read_text()))
    found: dict[str, dict[str, Any]] = {}
    for (name, seed), curve in curves.items():
        goal = curves.get(("NSGA-II", seed))
        if goal is None:
            continue
        row = found.setdefault(name, {"evaluations": [], "share": [], "to_reach": []})
        reached = np.flatnonzero(np.array(curve) >= goal[-1] * (1 - 1e-9))
        row["evaluations"].append(len(curve))
        row["share"].append(round(curve[-1] / goal[-1], 4))
        row["to_reach"].append(int(reached[0]) + 1 if len(reached) else None)
    return found


def _volumes(run: dict[str, Any]) -> list[float]:
    """Hypervolume after each evaluation."""
    points = np.array(run["points"])
    scaled = np.c_[np.minimum(points[:, 0], WORST) / WORST, points[:, 1] / run["largest"]]
    return [
        float(hypervolume(front[non_dominated(front)], np.ones(2)))
        for front in (scaled[:end] for end in range(1, len(scaled) + 1))
    ]


def _key(arch: nas.Arch) -> str:
    return arch.key
