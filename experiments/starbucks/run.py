"""A fixed list of layers and prefixes, or all of them in two dimensions?  See README.md.

    python experiments/starbucks/run.py [--smoke] [--seeds 3] [--device cpu|cuda] [--scale small|full]

Prints one line a seed and method, and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata

import nas
from nas import files
from nas.retrieval import nearest_accuracy
from nas.train import Classification, FixedList, Granular, Sampler, Training, TwoDimensional, digits
from searchspaces import matryoshka

HERE = Path(__file__).parent
PAIRS = ((1, 2), (2, 4), (3, 8), (4, 16), (5, 32), (6, 64))
"""(depth, prefix): the diagonal."""


def pairs(args: argparse.Namespace) -> tuple[tuple[int, int], ...]:
    if args.scale == "full":
        return ((2, 8), (4, 16), (6, 32), (8, 64), (10, 128), (12, 256))
    return PAIRS[:3] if args.smoke else PAIRS


def make(args: argparse.Namespace, seed: int, only: tuple[int, int] | None = None) -> nas.Supernet:
    """The supernet of all depths and prefixes, or one network."""
    chosen = (only,) if only else pairs(args)
    depths, dims = zip(*chosen, strict=True)
    width, head = (256, 32) if args.scale == "full" else (64, 16)
    patch = 1 if args.scale == "full" else 2
    space = matryoshka.space(depths=depths, dims=dims, width=width, head=head, patch=patch)
    return matryoshka.supernet(space, seed=seed)


def fit(
    net: nas.Supernet, task: Classification, teaching: tuple[Sampler, float], steps: int, args: argparse.Namespace
) -> float:
    """The one recipe of all models; its seconds."""
    sampler, kl = teaching
    settings = {"steps": steps, "validate_every": steps, "lr": args.lr, "device": args.device}
    training = Training(net, task, sampler=sampler, loss=Granular(kl=kl), seed=task.seed, **settings)
    return training.run(progress=False).seconds


def spearman(embedded: np.ndarray, classes: np.ndarray) -> float:
    """Rank correlation, in percent, of the cosine similarity of two test images with whether they show the same digit."""
    unit = embedded / np.maximum(np.linalg.norm(embedded, axis=1, keepdims=True), 1e-12)
    rows, columns = np.triu_indices(len(unit), 1)
    similar = rankdata((unit @ unit.T)[rows, columns])
    return 100 * float(np.corrcoef(similar, rankdata(classes[rows] == classes[columns]))[0, 1])


def qualities(net: nas.Supernet, arch: nas.Arch, task: Classification) -> dict[str, float]:
    """On the test split; the items searched are the training split."""
    module = net.extract(arch)
    with torch.no_grad():
        train, test = (module.embed(part[0].to(net.device)).cpu().numpy() for part in (task.train, task.test))
    classes, truth = task.train[1].numpy(), task.test[1].numpy()
    right = task.evaluate(module, "test", device=net.device)["accuracy"]
    return {
        "accuracy": 100 * right,
        "nearest": 100 * nearest_accuracy(train, classes, test, truth),
        "correlation": spearman(test, truth),
    }


def compare(task: Classification, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Per method the six pairs, and the seconds of training."""
    fixed = FixedList([{"depth": depth, "dim": dim} for depth, dim in pairs(args)])
    methods: dict[str, tuple[Sampler, float]] = {
        "starbucks": (fixed, 1.0),
        "fixed_no_kl": (fixed, 0.0),
        "two_dimensional": (TwoDimensional(), 1.0),
        "full_only": (FixedList([{}]), 0.0),
    }
    found = {}
    for method, teaching in methods.items():
        net = make(args, seed)
        seconds = fit(net, task, teaching, args.steps, args)
        archs = [net.space.arch({"depth": depth, "dim": dim}) for depth, dim in pairs(args)]
        found[method] = {"seconds": seconds, "pairs": [qualities(net, arch, task) for arch in archs]}
    whole = (FixedList([{}]), 0.0)
    # As many steps for each network as a nested training has; and as many for all of them together.
    for method, steps in {"separate": args.steps, "separate_shared": max(1, args.steps // len(pairs(args)))}.items():
        found[method] = {"seconds": 0.0, "pairs": []}
        for pair in pairs(args):
            net = make(args, seed, pair)
            found[method]["seconds"] += fit(net, task, whole, steps, args)
            found[method]["pairs"].append(qualities(net, net.space.largest, task))
    return found


def summary(seeds: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """Means over the seeds of each pair, and mean and deviation over the seeds of the mean over the pairs."""
    table: dict[str, Any] = {}
    for method in seeds[0]:
        runs = [seed[method] for seed in seeds]
        table[method] = {"seconds": round(statistics.mean(run["seconds"] for run in runs), 1)}
        for name in ("accuracy", "nearest", "correlation"):
            means = [statistics.mean(pair[name] for pair in run["pairs"]) for run in runs]
            table[method][name] = {
                "mean": round(statistics.mean(means), 2),
                "deviation": round(statistics.pstdev(means), 2),
                "pairs": [
                    round(statistics.mean(run["pairs"][place][name] for run in runs), 2)
                    for place in range(len(pairs(args)))
                ],
            }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it runs; writes no results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--steps", type=int, default=None, help="optimizer steps of every model; 400, or 3000 at full scale"
    )
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    args = parser.parse_args()
    args.steps = 8 if args.smoke else args.steps or (3000 if args.scale == "full" else 400)
    args.seeds = 1 if args.smoke else args.seeds
    torch.set_num_threads(1)
    begun = time.perf_counter()
    seeds = []
    for seed in range(args.seeds):
        seeds.append(compare(digits(seed=seed, shift=1), seed, args))
        for method, found in seeds[-1].items():
            shown = [tuple(round(value, 1) for value in pair.values()) for pair in found["pairs"]]
            print(seed, method, round(found["seconds"], 1), shown, flush=True)
    figures = {"experiment": "starbucks", "steps": args.steps, "seeds": len(seeds), "pairs": pairs(args)}
    figures |= {"methods": summary(seeds, args), "seconds": round(time.perf_counter() - begun)}
    if not args.smoke and args.scale == "small":
        files.write(HERE / "results.json", json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
