"""Is one space of exits, widths and prefixes better than each of them alone?  See README.md.

    python experiments/combined_space/run.py --runs FOLDER [--seeds 3] [--device cpu|cuda] [--scale small|full]

goes on where it stopped; --report prints the figures of the runs; --smoke takes seconds.  Prints one line a family and seed, and
one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from runs_common.folder import by_seed, carry_out, kept
from search_common.peers import Search, ours, random_search
from search_common.problem import Problem

import nas
from nas.pareto import hypervolume, non_dominated
from nas.search import NSGA2, Exhaustive, Surrogate
from nas.train import InPlace, Labels, LanguageModelling, Loss, Sandwich, Training, python_corpus
from nas.train.task import mixed
from searchspaces import nested_lm

SCALES: dict[str, dict[str, Any]] = {
    "small": {"width": 64, "depth": 4, "kv": 2, "head": 16, "context": 64, "batch": 8, "limit": 1_000_000,
              "merges": 256, "passes": 5600, "searches": 20},
    "full": {"width": 512, "depth": 8, "kv": 4, "head": 64, "context": 512, "batch": 32, "limit": 12_000_000,
             "merges": 2048, "passes": 16_000, "searches": 20},
    "smoke": {"width": 64, "depth": 2, "kv": 1, "head": 4, "context": 16, "batch": 4, "limit": 60_000,
              "merges": 8, "passes": 12, "searches": 2},
}  # fmt: skip
EIGHTHS = tuple(part / 8 for part in range(1, 9))
REFERENCE = 5.0
"""Bits per byte beyond which a network adds nothing to a front; the other bound is the cost of the full model."""
EVALUATIONS = (8, 16, 32, 64)
"""After which searches of the combination are compared."""
LIMITS = (0.1, 0.25, 0.5, 1.0)
"""Fractions of the full model's operations, to say what is the best network within each."""


def spaces(scale: dict[str, Any], task: LanguageModelling) -> dict[str, nas.Space]:
    """Each family alone, everything else as in the full model, and all three at once, which holds the others."""
    widths = tuple(scale["width"] * part // 8 for part in range(2, 9))
    depths = tuple(range(1, scale["depth"] + 1))
    fixed = {"widths": widths[-1:], "depths": depths[-1:], "parts": (1.0,)}
    open_ = {
        "exits": {"depths": depths},
        "widths": {"widths": widths},
        "prefixes": {"parts": EIGHTHS},
        "combination": {"widths": widths, "depths": depths, "parts": EIGHTHS},
    }
    rest = {"kvs": (scale["kv"],), "head": scale["head"], "vocabulary": task.vocabulary, "context": scale["context"]}
    return {name: nested_lm.space(**{**fixed, **changes}, **rest) for name, changes in open_.items()}


def steps_of(space: nas.Space, sampler: Sandwich, seed: int, passes: int) -> tuple[int, int]:
    """How many steps make `passes` forward and backward passes or a few more, and how many they make."""
    steps = made = 0
    while made < passes:
        made += len(sampler.archs(space, steps, random.Random(mixed(seed, "archs", steps))))
        steps += 1
    return steps, made


def trained(
    space: nas.Space, task: LanguageModelling, loss: Loss, args: argparse.Namespace
) -> tuple[nas.Supernet, int, int]:
    """A supernet, its steps and its passes."""
    scale, seed, sampler = args.sizes, task.seed, Sandwich(2)
    net = nested_lm.supernet(space, seed=seed)
    steps, made = steps_of(space, sampler, seed, scale["passes"])
    options = {"steps": steps, "lr": args.lr, "seed": seed, "validate_every": steps, "device": args.device}
    Training(net, task, sampler=sampler, loss=loss, **options).run(progress=False)
    return net.cpu(), steps, made


def studied(net: nas.Supernet, task: LanguageModelling, store: Path) -> nas.Study:
    """A study of bits per byte against operations, of every network."""
    study = nas.Study(
        "all",
        space=net.space,
        objectives=["min bits_per_byte", "min macs"],
        evaluators=[nas.Accuracy(net, task), nas.Costs(net)],
        algorithm=Exhaustive(),
        store=store,
    )
    study.run(net.space.size, workers=0, progress=False)
    return study


def judged(archs: Sequence[nas.Arch], net: nas.Supernet, task: LanguageModelling, reference: float) -> dict[str, Any]:
    """A front, on the test split."""
    full = net.macs(net.space.largest)
    points = np.array([[nas.Accuracy(net, task, split="test")(arch)["bits_per_byte"], net.macs(arch) / full]
                       for arch in archs])  # fmt: skip
    largest = {name: net.space.largest.choices[name] for name in net.space.names}
    smaller = [sum(arch.choices[name] != value for name, value in largest.items()) for arch in archs]
    return {
        "hypervolume": hypervolume(points, np.array([reference, 1.0 + 1e-9])),
        "front": len(archs),
        "front_on_test": int(non_dominated(points).sum()),
        "mixed_percent": 100 * statistics.mean(count > 1 for count in smaller),
        "within": {
            str(limit): min((float(bits) for bits, cost in points if cost <= limit), default=None) for limit in LIMITS
        },
        "points": [[round(float(bits), 4), round(float(cost), 4)] for bits, cost in points],
    }


def winner(study: nas.Study, net: nas.Supernet, task: LanguageModelling) -> dict[str, Any]:
    """The best network of at most half the full model's operations, taken out and measured on its own."""
    full = net.macs(net.space.largest)
    best = study.best("bits_per_byte", where=f"macs <= {full / 2}")
    number = int(str(best.name))
    arch, module = study.arch(number), study.extract(number)
    alone = task.evaluate(module, "test")["bits_per_byte"]
    inside = nas.Accuracy(net, task, split="test")(arch)["bits_per_byte"]
    return {
        "choices": dict(arch.choices),
        "macs": net.macs(arch) / full,
        "bits": alone,
        "difference": abs(alone - inside),
    }


SEARCHES: dict[str, Search] = {
    "random": random_search,
    "nsga2": ours(lambda seed: NSGA2(population=8, seed=seed)),
    "surrogate": ours(lambda seed: Surrogate(seed=seed)),
}


def searched(study: nas.Study, full: int, count: int, reference: float) -> dict[str, list[list[float]]]:
    """Share of the hypervolume of all networks after each number of `EVALUATIONS`, for `count` runs of each search.

    What a search is told is what the study measured: the validation split.
    """
    rows = study.trials()
    values = {
        tuple(study.arch(int(number)).genome): (float(row["bits_per_byte"]), float(row["macs"]) / full)
        for number, row in rows.iterrows()
    }
    problem = Problem(
        [len(decision.candidates) for decision in study.space.decisions],
        lambda genes: np.array([values[tuple(map(int, row))] for row in genes]),
    )
    bounds = np.array([reference, 1.0 + 1e-9])

    def volume(points: np.ndarray) -> float:
        return float(hypervolume(points[non_dominated(points)], bounds))

    whole, most = volume(np.array(list(values.values()))), min(EVALUATIONS[-1], len(values))
    found: dict[str, list[list[float]]] = {}
    for name, search in SEARCHES.items():
        runs = [search(problem, most, seed) for seed in range(count)]
        found[name] = [[volume(points[:n]) / whole for n in EVALUATIONS if n <= most] for points in runs]
    return found


def compare(family: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """A family at the same number of passes as all others."""
    scale, reference = args.sizes, 9.0 if args.smoke else REFERENCE
    task = python_corpus(scale["context"], scale["batch"], merges=scale["merges"], limit=scale["limit"], seed=seed)
    space, loss = FAMILIES[family]
    start = time.perf_counter()
    net, steps, made = trained(spaces(scale, task)[space], task, loss(), args)
    full = net.macs(net.space.largest)
    with tempfile.TemporaryDirectory() as folder:
        study = studied(net, task, Path(folder) / "nas.db")
        front = [study.arch(int(number)) for number in study.front().index]
        row = {"archs": net.space.size, "steps": steps, "passes": made, **judged(front, net, task, reference)}
        row["full_bits"] = nas.Accuracy(net, task, split="test")(net.space.largest)["bits_per_byte"]
        if family == "combination":
            row["winner"] = winner(study, net, task)
            row["searches"] = searched(study, full, scale["searches"], reference)
    shown = {key: value for key, value in row.items() if key not in ("points", "searches")}
    print({"family": family, "seed": seed, **shown, "seconds": round(time.perf_counter() - start)}, flush=True)
    return row


FAMILIES: dict[str, tuple[str, Callable[[], Loss]]] = {
    "exits": ("exits", InPlace),
    "widths": ("widths", InPlace),
    "prefixes": ("prefixes", InPlace),
    "combination": ("combination", InPlace),
    "combination, labels": ("combination", Labels),
}
"""Space of each, and what its networks learn from."""
NUMBERS = ("hypervolume", "front", "front_on_test", "mixed_percent", "full_bits", "archs", "steps", "passes")


def spread(values: Sequence[float]) -> list[float]:
    """Mean and deviation."""
    return [round(statistics.mean(values), 4), round(statistics.pstdev(values), 4)]


def summary(folder: Path) -> dict[str, Any]:
    """Mean and deviation over seeds, of those that all families have."""
    rows = {family: by_seed(folder, family) for family in FAMILIES}
    seeds = sorted(set.intersection(*(set(found) for found in rows.values())))
    if not seeds:
        return {"seeds": 0}

    def within(family: str, limit: str) -> list[float] | None:
        values = [rows[family][seed]["within"][limit] for seed in seeds]
        return None if None in values else spread(values)

    families: dict[str, dict[str, Any]] = {
        family: {name: spread([float(found[seed][name]) for seed in seeds]) for name in NUMBERS}
        for family, found in rows.items()
    }
    for family, figures in families.items():
        figures["bits_within"] = {str(limit): within(family, str(limit)) for limit in LIMITS}
    ours_ = rows["combination"]
    gain = {
        family: spread([ours_[seed]["hypervolume"] / found[seed]["hypervolume"] for seed in seeds])
        for family, found in rows.items()
        if family != "combination"
    }
    shares = {
        name: [
            spread(column)
            for column in zip(*(run for seed in seeds for run in ours_[seed]["searches"][name]), strict=True)
        ]
        for name in SEARCHES
    }
    winners = [ours_[seed]["winner"] for seed in seeds]
    return {
        "seeds": len(seeds),
        "families": families,
        "combination_over": gain,
        "evaluations": EVALUATIONS,
        "share_of_hypervolume": shares,
        "winners": winners,
        "largest_difference": max(one["difference"] for one in winners),
    }


def main() -> None:
    """Runs what is asked for and prints the figures."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--runs", type=Path, help="folder of the runs")
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--scale", choices=("small", "full"), default="small")
    words.add_argument("--device", default="cpu")
    words.add_argument("--lr", type=float, default=4e-3)
    words.add_argument("--report", action="store_true", help="only the figures of what was run")
    words.add_argument("--smoke", action="store_true", help="seconds, to see that it runs")
    options = words.parse_args()
    if options.smoke:
        options.seeds = 1
    carry_out(everything, options, words)


def everything(options: argparse.Namespace, folder: Path) -> None:
    """All runs that are not there yet, and the figures."""
    args = argparse.Namespace(**vars(options), sizes=SCALES["smoke" if options.smoke else options.scale])
    for seed in range(0 if options.report else options.seeds):
        for family in FAMILIES:
            kept(folder / f"{family}, {seed}.json", lambda family=family, seed=seed: compare(family, seed, args))
    print(
        json.dumps(
            {"experiment": "combined_space", "scale": options.scale, "device": options.device, **summary(folder)}
        )
    )


if __name__ == "__main__":
    main()
