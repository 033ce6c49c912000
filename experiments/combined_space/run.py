"""Is one space of exits, widths and prefixes better than each of them alone?  See README.md.

    python experiments/combined_space/run.py [--smoke] [--seeds 3] [--device cpu|cuda] [--scale small|full]

Prints one line a family and seed, and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nas
from nas import files
from nas.pareto import hypervolume, non_dominated
from nas.search import Algorithm, Exhaustive, RandomSearch
from nas.train import Labels, LanguageModelling, Sandwich, Training, python_corpus
from nas.train.task import mixed
from searchspaces import nested_lm

HERE = Path(__file__).parent
SCALES: dict[str, dict[str, Any]] = {
    "small": {"width": 64, "depth": 4, "kv": 2, "head": 16, "context": 64, "batch": 8, "limit": 1_000_000,
              "merges": 256, "passes": 1400, "evaluations": 32, "population": 8},
    "full": {"width": 512, "depth": 8, "kv": 4, "head": 64, "context": 512, "batch": 32, "limit": 12_000_000,
             "merges": 2048, "passes": 16_000, "evaluations": 96, "population": 24},
    "smoke": {"width": 64, "depth": 2, "kv": 1, "head": 4, "context": 16, "batch": 4, "limit": 60_000,
              "merges": 8, "passes": 12, "evaluations": 6, "population": 4},
}  # fmt: skip
EIGHTHS = tuple(part / 8 for part in range(1, 9))
REFERENCE = 5.0
"""Bits per byte beyond which a network adds nothing to a front; the other bound is the cost of the full model."""
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


def studied(name: str, net: nas.Supernet, task: LanguageModelling, algorithm: Algorithm, store: Path) -> nas.Study:
    """A study of bits per byte against operations."""
    return nas.Study(
        name,
        space=net.space,
        objectives=["min bits_per_byte", "min macs"],
        evaluators=[nas.Accuracy(net, task), nas.Costs(net)],
        algorithm=algorithm,
        store=store,
    )


def judged(study: nas.Study, net: nas.Supernet, task: LanguageModelling, full: int, reference: float) -> dict[str, Any]:
    """The front that a study found, on the test split."""
    front = study.front()
    archs = [study.arch(int(number)) for number in front.index]
    points = np.array([[nas.Accuracy(net, task, split="test")(arch)["bits_per_byte"], net.macs(arch) / full]
                       for arch in archs])  # fmt: skip
    largest = {name: net.space.largest.choices[name] for name in net.space.names}
    smaller = [sum(arch.choices[name] != value for name, value in largest.items()) for arch in archs]
    return {
        "hypervolume": hypervolume(points, np.array([reference, 1.0 + 1e-9])),
        "front": len(archs),
        "front_on_test": int(non_dominated(points).sum()),
        "evaluations": len(study.trials()),
        "mixed_percent": 100 * statistics.mean(count > 1 for count in smaller),
        "within": {
            str(limit): min((float(bits) for bits, cost in points if cost <= limit), default=None) for limit in LIMITS
        },
        "points": [[round(float(bits), 4), round(float(cost), 4)] for bits, cost in points],
    }


def winner(study: nas.Study, net: nas.Supernet, task: LanguageModelling, full: int) -> dict[str, Any]:
    """The best network of at most half the full model's operations, taken out and measured on its own."""
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


def compare(seed: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every family at the same number of passes."""
    scale = args.sizes
    task = python_corpus(scale["context"], scale["batch"], merges=scale["merges"], limit=scale["limit"], seed=seed)
    rows = []
    for family, space in spaces(scale, task).items():
        start, sampler = time.perf_counter(), Sandwich(2)
        net = nested_lm.supernet(space, seed=seed)
        full = net.macs(space.largest)
        steps, made = steps_of(space, sampler, seed, scale["passes"])
        options = {"steps": steps, "lr": args.lr, "seed": seed, "validate_every": steps, "device": args.device}
        Training(net, task, sampler=sampler, loss=Labels(), **options).run(progress=False)
        net.cpu()
        with tempfile.TemporaryDirectory() as folder:
            ways: dict[str, Algorithm] = {family: Exhaustive()}
            if family == "combination":
                population = scale["population"]
                ways = {
                    family: nas.NSGA2(population=population, seed=seed),
                    "combination by random search": RandomSearch(seed),
                }
            for name, algorithm in ways.items():
                study = studied(name, net, task, algorithm, Path(folder) / "nas.db")
                study.run(min(scale["evaluations"], space.size), workers=0, progress=False)
                row = {"seed": seed, "family": name, "archs": space.size, "steps": steps, "passes": made}
                row |= judged(study, net, task, full, 9.0 if args.smoke else REFERENCE)
                row["full_bits"] = nas.Accuracy(net, task, split="test")(space.largest)["bits_per_byte"]
                row["winner"] = winner(study, net, task, full) if name == "combination" else None
                rows.append(row)
                shown = {key: value for key, value in row.items() if key != "points"}
                print({**shown, "seconds": round(time.perf_counter() - start)}, flush=True)
    return rows


def summary(rows: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """Mean and deviation over seeds."""
    seeds = sorted({row["seed"] for row in rows})
    by = {(row["seed"], row["family"]): row for row in rows}
    numbers = (
        "hypervolume",
        "front",
        "front_on_test",
        "evaluations",
        "mixed_percent",
        "full_bits",
        "archs",
        "steps",
        "passes",
    )

    def spread(values: list[float]) -> list[float]:
        return [round(statistics.mean(values), 4), round(statistics.pstdev(values), 4)]

    def within(family: str, limit: str) -> list[float] | None:
        values = [by[seed, family]["within"][limit] for seed in seeds]
        return None if None in values else spread(values)

    families: dict[str, dict[str, Any]] = {
        family: {name: spread([float(by[seed, family][name]) for seed in seeds]) for name in numbers}
        for family in dict.fromkeys(row["family"] for row in rows)
    }
    for family, figures in families.items():
        figures["bits_within"] = {str(limit): within(family, str(limit)) for limit in LIMITS}
    gain = {
        family: spread([by[seed, "combination"]["hypervolume"] / by[seed, family]["hypervolume"] for seed in seeds])
        for family in families
        if family != "combination"
    }
    winners = [by[seed, "combination"]["winner"] for seed in seeds]
    return {
        "experiment": "combined_space",
        "scale": args.scale,
        "device": args.device,
        "seeds": len(seeds),
        "families": families,
        "combination_over": gain,
        "winners": winners,
        "largest_difference": max(one["difference"] for one in winners),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="seconds' worth, to see that it runs; writes no results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--lr", type=float, default=4e-3)
    args = parser.parse_args()
    if args.smoke:
        args.seeds, args.scale = 1, "smoke"
    args.sizes = SCALES[args.scale]
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    start, rows = time.perf_counter(), []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        rows += compare(seed, args)
        print(f"seed {seed} done after {time.perf_counter() - start:.0f} s", file=sys.stderr)
    result = {**summary(rows, args), "seconds": round(time.perf_counter() - start)}
    if not args.smoke:
        files.write(HERE / "results.json", json.dumps({**result, "rows": rows}) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
