"""Is a nested feed-forward layer as good as one trained alone, and is Mix'n'Match on the line between them?  See README.md.

    python experiments/matformer_digits/run.py [--smoke] [--seeds 3] [--device cpu|cuda] [--scale small|full]

A decoder predicts the pixels of scikit-learn's digits one after the other.  Prints one line a seed and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import nas
from nas.pareto import non_dominated
from nas.train import Batch, Classification, FixedList, Granular, Sampler, Training, digits, subnet_metrics
from searchspaces import matformer

HERE = Path(__file__).parent
FRACTIONS = (1, 2, 4, 8)


class Pixels(Classification):
    """Images as sequences of 64 grey values from 0 to 16; the loss is nats a pixel."""

    def loss(self, output: Any, batch: Batch) -> Tensor:
        return functional.cross_entropy(self.logits(output).flatten(0, 1), batch.targets.flatten())

    def metrics(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        right = (self.logits(output).argmax(-1) == batch.targets).float().mean()
        return {"accuracy": right, "loss": self.loss(output, batch)}


def pixels(seed: int, batch: int) -> Pixels:
    """The splits of `digits`, as sequences."""
    from sklearn.datasets import load_digits

    grey = load_digits().images.astype(np.float32)
    scaled = digits(seed=seed)
    # The splits are standardised: undo it with what the extremes of the whole data set were.
    parts = [scaled.train[0], scaled.valid[0], scaled.test[0]]
    low, high = min(float(part.min()) for part in parts), max(float(part.max()) for part in parts)
    whole = [((part - low) / (high - low) * grey.max()).round().long().flatten(1) for part in parts]
    train, valid, test = ((part, part) for part in whole)
    return Pixels(train, valid, test, batch=batch, seed=seed)


def make(args: argparse.Namespace, seed: int, fraction: int | None = None) -> nas.Supernet:
    """The nested supernet, or the network of one granularity alone."""
    sizes = {"depth": 3, "width": 48, "heads": 3}
    if args.scale == "full":
        sizes = {"depth": 8, "width": 256, "heads": 8}
    elif args.smoke:
        sizes = {"depth": 2, "width": 16, "heads": 1}
    space = matformer.space(**sizes, fractions=FRACTIONS if fraction is None else (fraction,), causal=True)
    return matformer.supernet(space, seed=seed)


def fit(net: nas.Supernet, task: Pixels, sampler: Sampler, seed: int, args: argparse.Namespace) -> float:
    """The one recipe of all models; its seconds."""
    settings = {"steps": args.steps, "validate_every": args.steps, "lr": args.lr, "device": args.device}
    return Training(net, task, sampler=sampler, loss=Granular(), seed=seed, **settings).run(progress=False).seconds


def mixes(space: nas.Space, count: int) -> list[nas.Arch]:
    """Random archs whose layers differ, the same for every seed."""
    draw, uniform = random.Random(2024), set(matformer.granularities(space))
    chosen: dict[nas.Arch, None] = {}
    while len(chosen) < count:
        arch = space.sample(draw)
        if arch not in uniform:
            chosen[arch] = None
    return list(chosen)


def compare(task: Pixels, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Test losses of each granularity for each way of training, and of mixes of the nested one."""
    found: dict[str, Any] = {}
    uniform = FixedList([dict(arch.choices) for arch in matformer.granularities(make(args, seed).space)])
    methods: dict[str, Sampler] = {
        "all_each_step": uniform,
        "one_each_step": FixedList(uniform.choices, n=1),
        "largest_only": FixedList([{}]),
    }
    for method, sampler in methods.items():
        net = make(args, seed)
        seconds = fit(net, task, sampler, seed, args)
        archs = matformer.granularities(net.space)
        losses = [subnet_metrics(net, arch, task, "test")["loss"] for arch in archs]
        found[method] = {"seconds": seconds, "loss": losses, "macs": [net.macs(arch) for arch in archs]}
        if method == "all_each_step":
            mixed = mixes(net.space, 4 if args.smoke else 24)
            points = [(net.macs(arch), subnet_metrics(net, arch, task, "test")["loss"]) for arch in mixed]
            found["mixes"] = judge(points, list(zip(found[method]["macs"], losses, strict=True)))
    found["separate"] = {"seconds": 0.0, "loss": [], "macs": found["all_each_step"]["macs"]}
    for fraction in FRACTIONS:
        net = make(args, seed, fraction)
        found["separate"]["seconds"] += fit(net, task, FixedList([{}]), seed, args)
        found["separate"]["loss"].append(subnet_metrics(net, net.space.largest, task, "test")["loss"])
    return found


def judge(points: list[tuple[int, float]], trained: list[tuple[int, float]]) -> dict[str, float]:
    """Mixes against the line through the trained granularities: mean difference in loss, and the share at or below it."""
    trained = sorted(trained)
    line = np.interp([macs for macs, _ in points], [macs for macs, _ in trained], [loss for _, loss in trained])
    above = np.array([loss for _, loss in points]) - line
    front = non_dominated(np.array([*points, *trained], dtype=float))
    return {
        "count": len(points),
        "mean_above_line": float(above.mean()),
        "worst_above_line": float(above.max()),
        "share_on_or_below": float((above <= 0).mean()),
        "on_front_mixes": int(front[: len(points)].sum()),
        "on_front_trained": int(front[len(points) :].sum()),
    }


def summary(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and deviations over the seeds; gaps to the network trained alone."""
    table: dict[str, Any] = {}
    for method in (name for name in seeds[0] if name != "mixes"):
        losses = np.array([seed[method]["loss"] for seed in seeds])
        gaps = losses - np.array([seed["separate"]["loss"] for seed in seeds])
        table[method] = {
            "seconds": round(statistics.mean(seed[method]["seconds"] for seed in seeds), 1),
            "loss": [round(float(value), 4) for value in losses.mean(0)],
            "deviation": [round(float(value), 4) for value in losses.std(0)],
            "gap": [round(float(value), 4) for value in gaps.mean(0)],
        }
    mixed = {name: round(statistics.mean(seed["mixes"][name] for seed in seeds), 4) for name in seeds[0]["mixes"]}
    return {"fractions": FRACTIONS, "macs": seeds[0]["separate"]["macs"], "methods": table, "mixes": mixed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it runs; writes no results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--steps", type=int, default=None, help="optimizer steps of every model; 200, or 5000 at full scale"
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    args = parser.parse_args()
    args.steps = 3 if args.smoke else args.steps or (5000 if args.scale == "full" else 200)
    args.seeds = 1 if args.smoke else args.seeds
    torch.set_num_threads(1)
    begun = time.perf_counter()
    seeds = []
    for seed in range(args.seeds):
        seeds.append(compare(pixels(seed, args.batch), seed, args))
        print(seed, json.dumps(seeds[-1]), flush=True)
    figures = {"experiment": "matformer_digits", "steps": args.steps, "seeds": args.seeds, **summary(seeds)}
    figures["seconds"] = round(time.perf_counter() - begun)
    if not args.smoke and args.scale == "small":
        (HERE / "results.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
