"""Part `einspace`: a search of a grammar that begins with networks that work, one from nothing, and random derivations."""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import Named, Timed, cell, keep, row, searched, spread, task_of

import nas
from nas.evaluate import Evaluator
from nas.search import Algorithm
from searchspaces import einspace

Way = Callable[[nas.Space, int], Algorithm]
POPULATION, SAMPLE = 10, 5


def evolution(seed: int, regrow: float = 1.0) -> nas.RegularizedEvolution:
    """A small population, since there are few evaluations."""
    return nas.RegularizedEvolution(POPULATION, SAMPLE, seed, regrow=regrow)


def seeds_of(space: nas.Space) -> dict[str, nas.Arch]:
    """What a search begins with."""
    return {"cnn": einspace.cnn(space), "mixer": einspace.mixer(space)}


def family(space: nas.Space, seed: int, regrow: bool = True) -> list[nas.Arch]:
    """A first population: the seeds and mutants of theirs."""
    rng, found = random.Random(seed), list(seeds_of(space).values())
    mutate = space.regrow if regrow else space.mutate
    while len(found) < POPULATION:
        child = mutate(found[len(found) % 2], rng)
        found += [child] if child not in found else []
    return found


WAYS: dict[str, Way] = {
    "seeded": lambda space, seed: nas.Given(family(space, seed), then=evolution(seed)),
    "seeded, one decision": lambda space, seed: nas.Given(
        family(space, seed, regrow=False), then=evolution(seed, regrow=0.0)
    ),
    "seeds among random": lambda space, seed: nas.Given(list(seeds_of(space).values()), then=evolution(seed)),
    "scratch": lambda _, seed: evolution(seed),
    "random": lambda _, seed: nas.RandomSearch(seed=seed),
}


def training(options: argparse.Namespace, folder: Path, epochs: int, seed: int) -> nas.Trained:
    """Of one network from scratch."""
    return nas.Trained(task_of(options), folder, epochs=epochs, lr=options.lr, seed=seed)


def tested(arch: nas.Arch, options: argparse.Namespace, seed: int) -> float:
    """Test accuracy of a network that is trained for longer, by itself; the mean of two."""
    found = []
    for again in range(2):
        with tempfile.TemporaryDirectory() as folder:
            one = training(options, Path(folder), options.last, 100 + 10 * seed + again)
            one(arch)
            found.append(task_of(options).evaluate(one.extract(arch), "test")["accuracy"])
    return spread(found)[0]


def size(arch: nas.Arch) -> int:
    """Parameters."""
    return sum(one.numel() for one in arch.space.build(arch).parameters())


def run(way: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One search, what `Once` saved it, and its best network."""
    space = einspace.space(depth=options.depth, classes=options.classes)
    name, notes = Named(nas.Function(task_of(options))), []

    def evaluators(folder: Path) -> list[Evaluator]:
        return [
            nas.Once(Timed(training(options, folder / "trained", options.epochs, seed), notes), name, folder / "once")
        ]

    archs, measured, states = searched(
        space, WAYS[way](space, seed), evaluators, objectives=["max accuracy"], trials=options.evaluations
    )
    accuracies = [one.get("accuracy", 0.0) for one in measured]
    best = archs[accuracies.index(max(accuracies))]
    first: dict[str, nas.Arch] = {}
    cost = {key: seconds for _, key, seconds in notes}
    reused = [(arch, first[label]) for arch in archs if first.setdefault(label := name(arch), arch) is not arch]
    return {
        "curve": [max(accuracies[: at + 1]) for at in range(len(archs))],
        "mean": spread(accuracies)[0],
        "above 0.2": sum(one > 0.2 for one in accuracies) / len(archs),
        "failed": states.count("FAILED"),
        "reused": sum(one.get("reused", 0) for one in measured) / len(archs),
        "other size": sum(size(one) != size(other) for one, other in reused) / max(1, len(reused)),
        "seconds": sum(cost.values()),
        "saved": sum(cost.get(other.key, 0.0) for _, other in reused),
        "test": tested(best, options, seed),
        "size": size(best),
        "best": einspace.shown(einspace.derivation(best)),
    }


def run_seed(which: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One of the seeds itself."""
    arch = seeds_of(einspace.space(depth=options.depth, classes=options.classes))[which]
    with tempfile.TemporaryDirectory() as folder:
        accuracy = training(options, Path(folder), options.epochs, seed)(arch)["accuracy"]
    return {"curve": [accuracy], "test": tested(arch, options, seed), "size": size(arch)}


def everything(options: argparse.Namespace, folder: Path) -> None:
    """All runs that are not there yet."""
    for seed in range(options.seeds):
        for way in ("cnn", "mixer", *options.ways):
            file = folder / f"einspace-{seed}-{way.replace(', ', '_').replace(' ', '_')}.json"
            if not file.exists():
                keep(file, {"way": way, **(run if way in WAYS else run_seed)(way, seed, options)})
                print(seed, way, file.read_text()[-400:], flush=True)


def figures(folder: Path) -> dict[str, Any]:
    """Means over seeds, printed as a table."""
    runs = [json.loads(file.read_text()) for file in sorted(folder.glob("einspace-*.json"))]
    found: dict[str, Any] = {}
    row("way", "validation, best", "test, trained longer", "above 0.2", "answered by `Once`", "seconds", "saved")
    row(*["---"] * 7)
    for way in ("cnn", "mixer", *WAYS):
        some = [one for one in runs if one["way"] == way]
        if not some:
            continue
        best, test = [one["curve"][-1] for one in some], [one["test"] for one in some]
        cells = [cell(best), cell(test)]
        found[way] = {"validation": spread(best), "test": spread(test)}
        if way in WAYS:
            lines = {
                key: [one[key] for one in some] for key in ("above 0.2", "reused", "other size", "seconds", "saved")
            }
            found[way] |= {key: spread(values) for key, values in lines.items()}
            found[way]["runs"] = len(some)
            cells += [cell(lines["above 0.2"], 2), cell(lines["reused"], 2), cell(lines["seconds"], 0)]
            cells += [cell(lines["saved"], 0)]
        row(way, *cells, *["" for _ in range(6 - len(cells))])
    return found
