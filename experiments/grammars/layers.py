"""Part `evonorm`: layers are evolved in one network or in three, cheap tests first, and judged in a fourth."""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from common import Named, Timed, cell, keep, row, searched, spread
from torch import nn
from torch.nn import functional

import nas
from nas.evaluate import Evaluator
from nas.search import Algorithm
from nas.train import Batch
from searchspaces import evonorm

THREE, UNSEEN = ("cnn", "mobile", "mixer"), "vit"
POPULATION, FEW, SAMPLE = 25, 10, 5
BOUND = 1e4
"""Of the gradient's norm: far above what known layers that normalise reach, below a ReLU alone."""
DIGITS = nas.digits()


def batches(task: nas.Classification, steps: int) -> Iterator[Batch]:
    """So many, epoch after epoch."""
    epoch = 0
    while steps > 0:
        for batch in task.train_batches(epoch):
            if steps > 0:
                yield batch
            steps -= 1
        epoch += 1


class OfLayers:
    """Trains and measures networks of a layer, with a seed."""

    def __init__(self, options: argparse.Namespace, seed: int) -> None:
        self.options, self.seed = options, seed

    def describe(self) -> dict[str, Any]:
        """Its class and seed: studies of this experiment go away with their folder."""
        return {"name": type(self).__name__, "seed": self.seed}

    def network(self, arch: nas.Arch, anchor: str) -> nn.Module:
        """An anchor with the layer of an arch."""
        torch.manual_seed(self.seed)
        return evonorm.in_anchor(arch, anchor)

    def trained(self, arch: nas.Arch, anchor: str, steps: int) -> nn.Module:
        """After so many steps of AdamW; the rate falls to zero by a cosine."""
        net = self.network(arch, anchor)
        optimizer = torch.optim.AdamW(net.parameters(), lr=self.options.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for batch in batches(DIGITS, steps):
            loss = functional.cross_entropy(net(batch.inputs), batch.targets)
            if not torch.isfinite(loss):
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return net.eval()

    def accuracy(self, net: nn.Module, split: str = "valid") -> float:
        """Share of right answers."""
        with torch.no_grad():
            return DIGITS.evaluate(net, split)["accuracy"]  # type: ignore[arg-type]


class Quick(OfLayers, Evaluator):
    """The least accuracy in the anchors after a few steps; those after one that is too low are not asked."""

    cost = "cheap"
    metrics = ("quick",)

    def __init__(self, options: argparse.Namespace, seed: int, anchors: Sequence[str]) -> None:
        super().__init__(options, seed)
        self.anchors = anchors

    def __call__(self, arch: nas.Arch) -> dict[str, float]:
        least = 1.0
        for anchor in self.anchors:
            least = min(least, self.accuracy(self.trained(arch, anchor, self.options.few)))
            if least < self.options.least:
                break
        return {"quick": least}


class Stable(OfLayers, Evaluator):
    """The gradient's norm in an anchor whose weights climbed it."""

    cost = "cheap"
    metrics = ("gradient",)

    def __call__(self, arch: nas.Arch) -> dict[str, float]:
        batch = next(batches(DIGITS, 1))
        norm = evonorm.gradient_norm(self.network(arch, "cnn"), batch.inputs, batch.targets)
        return {"gradient": min(norm, 1e30)}


class Accuracies(OfLayers, Evaluator):
    """One accuracy for each anchor."""

    def __init__(self, options: argparse.Namespace, seed: int, anchors: Sequence[str]) -> None:
        super().__init__(options, seed)
        self.anchors = anchors
        self.metrics = tuple(f"acc_{anchor}" for anchor in anchors)

    def __call__(self, arch: nas.Arch) -> dict[str, float]:
        steps = self.options.steps
        return {f"acc_{one}": self.accuracy(self.trained(arch, one, steps)) for one in self.anchors}


def evolution(_: nas.Space, seed: int) -> Algorithm:
    """The parent is on the front of a tournament, its child has another operation or input."""
    return nas.RegularizedEvolution(POPULATION, SAMPLE, seed, regrow=0.5)


def from_known(space: nas.Space, seed: int) -> Algorithm:
    """The same with a smaller population, whose first one are two norms with ReLU and mutants of theirs."""
    rng, found = random.Random(seed), [evonorm.arch_of(space, evonorm.KNOWN[name]) for name in ("bn-relu", "gn-relu")]
    while len(found) < FEW:
        child = space.regrow(found[len(found) % 2], rng)
        found += [child] if child not in found else []
    return nas.Given(found, then=nas.RegularizedEvolution(FEW, SAMPLE, seed, regrow=0.5))


def randomly(_: nas.Space, seed: int) -> Algorithm:
    """Random graphs."""
    return nas.RandomSearch(seed=seed)


WAYS: dict[str, tuple[Callable[[nas.Space, int], Algorithm], Sequence[str]]] = {
    "evolved in three": (evolution, THREE),
    "evolved in one": (evolution, THREE[:1]),
    "random in three": (randomly, THREE),
    "from known in three": (from_known, THREE),
    "from known in one": (from_known, THREE[:1]),
}


def space_of(options: argparse.Namespace) -> nas.Space:
    """Graphs of as many nodes as the longest known one needs."""
    return evonorm.space(nodes=options.nodes, width=options.width, classes=10)


def tested(arch: nas.Arch, options: argparse.Namespace, seed: int) -> dict[str, float]:
    """Test accuracy in every anchor after a longer training, and how stable it is."""
    one = OfLayers(options, 100 + seed)
    found = {anchor: one.accuracy(one.trained(arch, anchor, options.long), "test") for anchor in evonorm.ANCHORS}
    return {**found, **Stable(options, 100 + seed)(arch)}


def run(way: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One study, what its cheap tests saved, and its best layer."""
    space, (algorithm, anchors) = space_of(options), WAYS[way]
    names, notes = Named(nas.Function(DIGITS)), []
    constraints = [f"quick >= {options.least}", f"gradient <= {BOUND:g}"]

    def evaluators(folder: Path) -> list[Evaluator]:
        chain = [Quick(options, seed, anchors), Stable(options, seed), Accuracies(options, seed, anchors)]
        once = nas.Evaluation([Timed(one, notes) for one in chain], constraints)
        return [nas.Once(once, names, folder)]

    archs, measured, states = searched(
        space,
        algorithm(space, seed),
        evaluators,
        objectives=[f"max acc_{anchor}" for anchor in anchors],
        constraints=constraints,
        trials=options.layers // (3 if algorithm is from_known else 1),
    )
    totals = [
        sum(one[f"acc_{anchor}"] for anchor in anchors) / len(anchors) if state == "COMPLETED" else 0.0
        for one, state in zip(measured, states, strict=True)
    ]
    best = archs[totals.index(max(totals))]
    stage = {
        name: [seconds for kind, _, seconds in notes if kind == name] for name in ("Quick", "Stable", "Accuracies")
    }
    asked = {name: len(times) for name, times in stage.items()}
    dear = sum(stage["Accuracies"]) / max(1, asked["Accuracies"])
    return {
        "validation": max(totals),
        "curve": [max(totals[: at + 1]) for at in range(len(totals))],
        "reused": sum(one.get("reused", 0) for one in measured) / len(archs),
        "too slow": 1 - asked["Stable"] / max(1, asked["Quick"]),
        "unstable": 1 - asked["Accuracies"] / max(1, asked["Stable"]),
        "seconds": sum(map(sum, stage.values())),
        "without cheap tests": dear * asked["Quick"],
        "failed": states.count("FAILED"),
        "best": evonorm.shown(evonorm.graph_of(best)),
        "test": tested(best, options, seed),
    }


def run_known(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """A layer of others."""
    arch = evonorm.arch_of(space_of(options), evonorm.KNOWN[name])
    begun = time.process_time()
    quick = Quick(options, seed, THREE)(arch)["quick"]
    return {"quick": quick, "test": tested(arch, options, seed), "seconds": time.process_time() - begun}


def everything(options: argparse.Namespace, folder: Path) -> None:
    """All runs that are not there yet."""
    for seed in range(options.seeds):
        for way in (*options.known, *WAYS):
            file = folder / f"evonorm-{seed}-{way.replace(' ', '_')}.json"
            if not file.exists():
                keep(file, {"way": way, **(run if way in WAYS else run_known)(way, seed, options)})
                print(seed, file.read_text()[-900:], flush=True)


def figures(folder: Path) -> dict[str, Any]:
    """Means over seeds, printed as tables."""
    runs = [json.loads(file.read_text()) for file in sorted(folder.glob("evonorm-*.json"))]
    by_way = {way: [one for one in runs if one["way"] == way] for way in (*evonorm.KNOWN, *WAYS)}
    found: dict[str, Any] = {}
    row("layer", *evonorm.ANCHORS, "mean of three", "gradient")
    row(*["---"] * (len(evonorm.ANCHORS) + 3))
    for way, some in by_way.items():
        if some:
            tests = {anchor: [one["test"][anchor] for one in some] for anchor in evonorm.ANCHORS}
            three = [sum(one["test"][anchor] for anchor in THREE) / len(THREE) for one in some]
            gradient = max(one["test"]["gradient"] for one in some)
            found[way] = {anchor: spread(values) for anchor, values in tests.items()}
            found[way] |= {"three": spread(three), "gradient": gradient, "runs": len(some)}
            row(way, *map(cell, tests.values()), cell(three), f"{gradient:.3g}")
    print()
    row("search", "best", "answered by `Once`", "too slow", "unstable", "seconds", "without cheap tests")
    row(*["---"] * 7)
    for way in WAYS:
        if some := by_way[way]:
            lines = {key: [one[key] for one in some] for key in ("validation", "reused", "too slow", "seconds")}
            # Where none passed the first test nothing is known of what comes after it.
            lines["unstable"] = [one["unstable"] for one in some if one["too slow"] < 1] or [0.0]
            lines["without cheap tests"] = [one["without cheap tests"] for one in some if one["validation"] > 0] or [
                0.0
            ]
            found[way] |= {key: spread(values) for key, values in lines.items()}
            keys = ("validation", "reused", "too slow", "unstable", "seconds", "without cheap tests")
            row(way, *(cell(lines[key], 0 if key in keys[4:] else 2) for key in keys))
    return found
