"""Is it better to train the largest network alone first?  See README.md.

    python experiments/delayed_shrinking/run.py [--smoke] [--seeds 3] [--device cpu|cuda] [--scale small|full]

Every arm has as many forward–backward passes in all; a forward without backward counts a third.  Prints one line a training, and
one JSON line last; raw rows are appended to results.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

import nas
from nas.pareto import hypervolume, non_dominated
from nas.train import Delayed, InPlace, Loss, Ramped, Sampler, Sandwich, Snapshots, Training, digits, subnet_metrics
from searchspaces import conv

HERE = Path(__file__).parent
COLUMNS = ["time", "seed", "passes", "split", "arm", "steps", "smallest", "largest", "random", "hypervolume", "seconds"]
ARMS = ("sandwich", "delayed", "ramped", "snapshots")
EACH = 4
"""Passes of a sandwich step: largest, smallest, two random ones."""
COPIES = 2


def plan(arm: str, passes: int) -> tuple[int, Sampler, Loss]:
    """Steps, sampler and loss: the largest alone for half of the steps, where there is a delay."""
    loss: Loss = InPlace(labels=0.5)
    if arm == "sandwich":
        return passes // EACH, Sandwich(2), loss
    start = max(COPIES + 1, int(passes / (1 + EACH + (COPIES / 3 if arm == "snapshots" else 0))))
    if arm == "snapshots":  # after a half and three quarters of the delay
        loss = Snapshots((start // 2, start // 2 + start // 4), labels=0.5)
    if arm != "delayed":
        loss = Ramped(loss, start, max(1, start // 4))
    return 2 * start, Delayed(Sandwich(2), start), loss


def family(seed: int, scale: str) -> nas.Supernet:
    """`full` has eight times the width and three times the depth."""
    if scale == "small":
        space = conv.space(widths=((8, 12), (12, 20)), depths=(1, 2), kernels=(3, 5), ratios=(1, 2), stem=8)
    else:
        space = conv.space(widths=((64, 96), (96, 160)), depths=(2, 4, 6), stem=64)
    return conv.supernet(space, seed=seed)


def run(arm: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Trains one supernet, and measures smallest, largest and the front of the same random archs."""
    task, net, start = digits(seed=seed, shift=1), family(seed, args.scale), time.perf_counter()
    steps, sampler, loss = plan(arm, args.passes)
    Training(
        net, task, sampler=sampler, loss=loss, steps=steps, lr=args.lr, device=args.device, validate_every=steps, seed=seed
    ).run(progress=False)  # fmt: skip
    net.to("cpu")
    row = {"seed": seed, "passes": args.passes, "split": args.split, "arm": arm, "steps": steps}
    row |= measured(net, task, args) | {"seconds": round(time.perf_counter() - start, 1)}
    print(row, flush=True)
    return row


def measured(net: nas.Supernet, task: Any, args: argparse.Namespace) -> dict[str, float]:
    """Percent for the smallest, the largest and random archs, and the area under their front."""
    space, draw = net.space, random.Random(2024)
    chosen = dict.fromkeys([space.smallest, space.largest])
    while len(chosen) < args.archs + 2:
        chosen[space.sample(draw)] = None
    archs, most = list(chosen), net.params(space.largest)
    found = [100 * subnet_metrics(net, arch, task, args.split)["accuracy"] for arch in archs]
    points = torch.tensor(
        [[100 - one, net.params(arch) / most] for one, arch in zip(found, archs, strict=True)]
    ).double()
    values, reference = points.numpy(), torch.tensor([50.0, 1.0]).double().numpy()
    return {
        "smallest": round(found[0], 3),
        "largest": round(found[1], 3),
        "random": round(statistics.mean(found[2:]), 3),
        "hypervolume": round(hypervolume(values[non_dominated(values)], reference) / 50, 4),
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation over the seeds of each arm, and the difference to the sandwich of each seed."""
    found: dict[str, Any] = {"experiment": "delayed_shrinking", "seeds": len({row["seed"] for row in rows})}
    base = {row["seed"]: row for row in rows if row["arm"] == "sandwich"}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        found[f"{arm}_steps"] = own[0]["steps"]
        for name in ("smallest", "largest", "random", "hypervolume"):
            values = [row[name] for row in own]
            found[f"{arm}_{name}"] = [round(statistics.mean(values), 4), round(statistics.pstdev(values), 4)]
            if arm != "sandwich" and name in ("random", "hypervolume"):
                found[f"{arm}_{name}_minus_sandwich"] = [round(row[name] - base[row["seed"]][name], 4) for row in own]
    return {**found, "passes": rows[0]["passes"], "split": rows[0]["split"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it runs; writes no results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--passes", type=int, default=320, help="of each arm, forward and backward")
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--archs", type=int, default=10, help="random archs that the front is taken from")
    parser.add_argument("--split", choices=("valid", "test"), default="test")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    args = parser.parse_args()
    if args.smoke:
        args.seeds, args.passes, args.archs = 1, 30, 1
    torch.set_num_threads(1)
    begun, start = time.strftime("%Y-%m-%dT%H:%M:%S"), time.perf_counter()
    rows: list[dict[str, Any]] = []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        of_seed = [run(arm, seed, args) for arm in ARMS]
        print(f"seed {seed} is done", file=sys.stderr)
        rows += of_seed
        if not args.smoke and args.split == "test":
            keep(begun, of_seed)
    print(json.dumps({**summary(rows), "seconds": round(time.perf_counter() - start)}))


def keep(begun: str, rows: list[dict[str, Any]]) -> None:
    """Appends the rows to results.csv."""
    with (HERE / "results.csv").open("a", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        if stream.tell() == 0:
            writer.writeheader()
        writer.writerows({"time": begun, **row} for row in rows)


if __name__ == "__main__":
    main()
