"""Ways to make a trained network smaller, at equal passes over the training data, judged on the test split.

Every way ends with a network within the budget; all are trained for as many epochs in total, those of a warm-up and of
candidates that are given up included.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runs_common.folder import kept
from torch import nn

import nas
from nas.compressing import parse_budget
from nas.compressing.recipe import compress
from nas.compressing.settings import STORE
from nas.compressing.turns import Beside
from nas.compressing.uniform import ladder, largest_within
from nas.evaluate import one_sample
from nas.hardware import exclusive, measure_rounds
from nas.hardware.device import parse_device
from nas.metrics import parse_objective
from nas.store import open_store
from nas.train import as_supernet


@dataclass(frozen=True)
class Case:
    """What is made smaller.

    Attributes:
        model: trained.
        task: data, with a test split.
        budget: of one metric.
        device: where latency is measured; None measures none.
        folder: for whatever is made.
        epochs: in total.
        training: options of `nas.Training`.
        options: of `nas.elastic`.
        trials: of searches.
        best: metric that decides on the validation split.
        cache: sequences, and positions of each, whose key-value cache is counted; None counts none.
        shared: ways of `nas.compress` have one folder, in which what several of them do alike (uniform scaling) is done once.
    """

    model: nn.Module
    task: nas.Task
    budget: str
    device: str | None
    folder: Path
    epochs: int
    training: Mapping[str, Any]
    options: Mapping[str, Any]
    trials: int
    best: str
    cache: tuple[int, int] | None = None
    shared: bool = False

    def memory(self, net: nas.Supernet) -> nas.Memory:
        """Of weights, and of the cache where it is counted."""
        batch, length = self.cache or (None, None)
        return nas.Memory(net, batch=batch, length=length)

    def costs(self, net: nas.Supernet) -> Callable[[nas.Arch], float]:
        """What the budget's metric is of an arch."""
        metric = parse_budget(self.budget).metric
        one: Any = nas.Costs(net)
        if metric == "latency_ms":
            assert self.device is not None
            one = Beside(net, parse_device(self.device), self.folder / "times", rounds=16)
        elif metric in self.memory(net).metrics:
            one = self.memory(net)
        return lambda arch: float(one(arch)[metric])

    def supernet(self, order: str) -> nas.Supernet:
        """The model's own, its channels in order."""
        space = nas.elastic(self.model, self.task.example, **self.options)
        net = nas.Supernet(space, example=self.task.example, weights=self.model)
        nas.reorder(net, by=order, task=None if order == "magnitude" else self.task)
        return net

    def bound(self, original: float) -> float:
        """The most that the budget allows, from what the original costs."""
        budget = parse_budget(self.budget)
        return budget.constraint({budget.metric: original}).bound

    def tuned(self, net: nas.Supernet, arch: nas.Arch, name: str) -> nn.Module:
        """An arch trained by itself, taught by the original; as it was before, where that is better on the validation split."""
        options: dict[str, Any] = dict(self.training)
        if self.task.divergence is not None:
            options |= {"teacher": self.model, "weight": 0.5}
        trained = nas.Trained(self.task, self.folder / name, epochs=self.epochs, start=net, **options)
        before = nas.Accuracy(net, self.task)
        metric = parse_objective(self.best)
        after = trained(arch)[metric.name] * metric.sign
        return (before if before(arch)[metric.name] * metric.sign < after else trained).extract(arch)

    def tuned_module(self, module: nn.Module, name: str) -> nn.Module:
        """The same for a module that another library made."""
        net = as_supernet(module, example=self.task.example)
        return self.tuned(net, net.space.largest, name)


def found(case: Case) -> dict[str, nn.Module]:
    """`nas.compress`: what its search found, and uniform scaling in the order of the same score."""
    return _compressed(case, "ours")


def found_by_magnitude(case: Case) -> dict[str, nn.Module]:
    """The same recipe, channels in the order of their weights."""
    return {"ours, magnitude": _compressed(case, "ours_magnitude", order="magnitude")["ours"]}


def random(case: Case) -> dict[str, nn.Module]:
    """The same recipe with random networks in the place of the search."""
    return {"random search": _compressed(case, "random", algorithm=nas.RandomSearch())["ours"]}


def composed(case: Case) -> dict[str, nn.Module]:
    """The same recipe with compositions of single replacements by integer programming (`nas.Compose`)."""
    return {"compose": _compressed(case, "compose", algorithm=nas.Compose())["ours"]}


def warmed(case: Case) -> dict[str, nn.Module]:
    """The same recipe with a third of the epochs as a warm-up of networks near the budget."""
    return {"with warm-up": _compressed(case, "warm", warmup=case.epochs // 3)["ours"]}


def magnitude(case: Case) -> dict[str, nn.Module]:
    """Uniform scaling, channels in the order of their weights."""
    net = case.supernet("magnitude")
    cost, space = case.costs(net), net.space
    arch = largest_within(ladder(space), cost, case.bound(cost(space.largest)))
    return {} if arch is None else {"uniform, magnitude": case.tuned(net, arch, "magnitude")}


def depth(case: Case) -> dict[str, nn.Module]:
    """Blocks left out, those first without which the loss on training data is lowest; widths are whole (LLM-Drop)."""
    net = case.supernet("magnitude")
    cost, arch = case.costs(net), net.space.largest
    quality = nas.Calibration(net, case.task)
    bound = case.bound(cost(arch))
    while cost(arch) > bound:
        fewer = [_without(net.space, arch, name) for name, kept in arch.choices.items() if kept is True]
        fewer = [one for one in fewer if one is not None]
        if not fewer:
            return {}
        arch = min(fewer, key=lambda one: quality(one)["calibration_loss"])
    return {"depth": case.tuned(net, arch, "depth")}


def family(case: Case) -> dict[str, nn.Module]:
    """The same recipe with the front of the search tuned together, one network a step."""
    return {"family": _compressed(case, "family", tune="family")["ours"]}


def sensitivity(case: Case) -> dict[str, nn.Module]:
    """Each width as narrow as a threshold of what it alone loses on training data allows (FastNAS' idea); no search."""
    net = case.supernet("group_fisher")
    cost, found = case.costs(net), nas.sensitivities(net, case.task, progress=False)
    arch = found.within(cost, case.bound(cost(net.space.largest)))
    return {} if arch is None else {"sensitivity": case.tuned(net, arch, "sensitivity")}


WAYS: dict[str, Callable[[Case], dict[str, nn.Module]]] = {
    "ours": found,
    "ours_magnitude": found_by_magnitude,
    "random": random,
    "compose": composed,
    "warm": warmed,
    "magnitude": magnitude,
    "depth": depth,
    "family": family,
    "sensitivity": sensitivity,
}
PEERS = ("torch_pruning", "fastnas")
"""Ways of other libraries, where they are installed; see `compress_common.peers`."""


def run(case: Case, way: str, file: Path) -> None:
    """One way, kept as JSON: metrics on the test split and costs of every network that it ends with."""
    kept(file, lambda: _measured(case, way))


def _measured(case: Case, way: str) -> dict[str, Any]:
    begun, rows = time.process_time(), {}
    found = _way(way)(case)
    for name, module in found.items():
        net = as_supernet(module, example=case.task.example)
        quality = nas.Accuracy(net, case.task, split="test").measure_module(module)
        rows[name] = {**quality, **nas.Costs(net)(net.space.largest), **case.memory(net)(net.space.largest)}
    if case.device is not None:
        for name, (ms, share) in in_turns(case, found).items():
            rows[name] |= {"latency_ms": ms, "latency_share": share}
    return {"rows": rows, "seconds": time.process_time() - begun}


def in_turns(case: Case, modules: Mapping[str, nn.Module]) -> dict[str, tuple[float, float]]:
    """Latency of each, and its share of the original's at the same time."""
    assert case.device is not None
    each = [case.model, *modules.values()]
    with exclusive():
        ms = measure_rounds(each, [one_sample(case.task.example)] * len(each), parse_device(case.device), rounds=16).ms
    return {name: (float(one), float(one / ms[0])) for name, one in zip(modules, ms[1:], strict=True)}


def again(model: nn.Module, task: nas.Task, folder: Path, options: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Latencies of what runs of *ours* tuned, all in turns with the original, once more: on a quiet machine, say.

    Args:
        model: the original.
        task: gives a sample.
        folder: of the runs.
        options: of `nas.elastic`.
    """
    net = nas.Supernet(nas.elastic(model, task.example, **options), example=task.example, weights=model)
    modules = {"original": model}
    for database in sorted(folder.glob(f"*-*/ours/{STORE}")):
        with open_store(database) as store:
            for name in store.names():
                way = name.partition("-")[0]
                if way in ("tuned", "uniform"):
                    trial = store.open_study(name).trial(0)
                    arch = net.space.from_row(trial.row, trial.schema)
                    modules[f"{database.parent.parent.name}, {way}"] = net.extract(arch).eval()
    with exclusive():
        samples = [one_sample(task.example)] * len(modules)
        ms = measure_rounds(list(modules.values()), samples, parse_device("cpu"), rounds=30, budget_s=0.03).ms
    return {name: {"ms": float(one), "share": float(one / ms[0])} for name, one in zip(modules, ms, strict=True)}


def parser(document: str | None, budgets: Sequence[str], *, epochs: int) -> argparse.ArgumentParser:
    """Options of all these experiments."""
    words = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--runs", type=Path, help="folder of the runs")
    words.add_argument("--budgets", nargs="+", default=list(budgets))
    words.add_argument("--ways", nargs="+", choices=[*WAYS, *PEERS], default=list(WAYS))
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--epochs", type=int, default=epochs)
    words.add_argument("--report", action="store_true", help="only the figures of what was run")
    words.add_argument("--smoke", action="store_true", help="one budget, seconds")
    return words


def trained(net: nn.Module, task: nas.Task, folder: Path, **options: Any) -> nn.Module:
    """A network trained by itself; a training in `folder` is gone on with, or taken as it is if it has ended."""
    training = nas.Training(as_supernet(net, example=task.example), task, path=folder, loss=nas.Labels(), **options)
    if not training.trained:
        print(training.run(), flush=True)
    found = training.load()
    return found.extract(found.space.largest)


def original_of(net: nn.Module, task: nas.Task, folder: Path) -> None:
    """Measure the original on the test split, once."""
    quality = nas.Accuracy(as_supernet(net, example=task.example), task, split="test")
    kept(folder / "original.json", lambda: quality.measure_module(net))


def figures(folder: Path, metric: str) -> dict[str, Any]:
    """The original's metric, and for each budget and way its mean, its deviation, and the number of seeds.

    Files are called "<budget>, <way>, <seed>.json".
    """
    values: dict[str, dict[str, list[float]]] = {}
    for file in sorted(folder.glob("*, *, *.json")):
        budget = file.stem.split(", ")[0]
        for name, row in json.loads(file.read_text())["rows"].items():
            values.setdefault(budget, {}).setdefault(name, []).append(row[metric])
    ways_of = {
        budget: {
            name: {"mean": _mean(each), "deviation": _deviation(each), "seeds": len(each)}
            for name, each in ways.items()
        }
        for budget, ways in values.items()
    }
    return {"original": json.loads((folder / "original.json").read_text())[metric], **ways_of}


def _way(name: str) -> Callable[[Case], dict[str, nn.Module]]:
    if name not in PEERS:
        return WAYS[name]
    from compress_common import peers  # which needs this module

    found: Callable[[Case], dict[str, nn.Module]] = getattr(peers, name)
    return found


def _compressed(case: Case, name: str, **options: Any) -> dict[str, nn.Module]:
    result = compress(
        case.model,
        case.task,
        case.budget,
        device=case.device,
        folder=case.folder / ("compressed" if case.shared else name),
        epochs=case.epochs,
        trials=case.trials,
        best=case.best,
        options=case.options,
        cache=case.cache,
        **{**case.training, **options},
    )
    choice, metric = result.choices[0], parse_objective(case.best)
    ours = [choice.found, *([choice.untuned] if choice.untuned is not None else [])]
    best = min(ours, key=lambda one: one.measured[metric.name] * metric.sign)
    modules = {"ours": best.model, "ours or uniform": choice.chosen.model}
    return modules if choice.uniform is None else {**modules, "uniform": choice.uniform.model}


def _without(space: nas.Space, arch: nas.Arch, name: str) -> nas.Arch | None:
    genes = [0 if gene is None else gene for gene in arch.genome]
    place = next(at for at, decision in enumerate(space.decisions) if decision.name == name)
    genes[place] = list(space.decisions[place].candidates).index(False)
    return space.repair(genes)


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 4)


def _deviation(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return round(math.sqrt(sum((value - mean) ** 2 for value in values) / len(values)), 4)
