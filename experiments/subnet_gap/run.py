"""How far are a supernet's subnets from the same networks trained alone?  See README.md.

    python experiments/subnet_gap/run.py [--smoke] [--seeds 3] [--archs 12]

The baseline is an ordinary PyTorch loop over ordinary modules; it shares the data, the optimizer's settings and the
schedule with the supernet's training, and nothing else.  Prints one line a network, and one JSON line last.
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
from torch import nn
from torch.optim.swa_utils import update_bn

import nas
from nas.train import Classification, InPlace, Sandwich, Schedule, Training, digits, subnet_metrics
from searchspaces import conv

HERE = Path(__file__).parent
COLUMNS = [
    "time",
    "seed",
    "steps",
    "lr",
    "split",
    "arch",
    "params",
    "supernet",
    "uncalibrated",
    "alone",
    "alone_running",
]


def alone(model: nn.Module, task: Classification, args: argparse.Namespace) -> nn.Module:
    """`model` trained as PyTorch's tutorials do it: AdamW, warm-up and cosine, gradient clipping."""
    schedule = Schedule(args.lr, args.steps, args.steps // 20)
    decayed = [one for one in model.parameters() if one.ndim >= 2]
    free = [one for one in model.parameters() if one.ndim < 2]
    groups = [{"params": decayed, "weight_decay": args.weight_decay}, {"params": free, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr)
    model.train()
    for step in range(args.steps):
        epoch, place = divmod(step, task.steps_per_epoch)
        if place == 0:
            batches = list(task.train_batches(epoch))
        for group in optimizer.param_groups:
            group["lr"] = schedule(step)
        optimizer.zero_grad()
        task.loss(model(batches[place].inputs), batches[place]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def accuracy(model: nn.Module, task: Classification, split: Any) -> float:
    return 100 * task.evaluate(model, split)["accuracy"]


def compare(seed: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One supernet and, for each arch, the same network trained alone."""
    task = digits(seed=seed, shift=args.shift)
    supernet = conv.supernet(seed=seed)
    recipe = {
        "steps": args.steps,
        "lr": args.lr,
        "weight_decay": args.weight_decay,
        "warmup": args.steps // 20,
        "clip": 1.0,
    }
    start = time.perf_counter()
    sampler, loss = Sandwich(args.random), InPlace(temperature=args.temperature, labels=args.labels)
    Training(supernet, task, sampler=sampler, loss=loss, seed=seed, validate_every=args.steps, **recipe).run(
        progress=False
    )
    print(f"seed {seed}: supernet trained in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    rows = []
    for arch in archs(supernet.space, args.archs):
        torch.manual_seed(seed)
        start = time.perf_counter()
        model = alone(supernet.space.build(arch), task, args)
        running = accuracy(model, task, args.split)
        with torch.no_grad():
            update_bn(task.calibration_inputs(), model)
        row = {
            "seed": seed,
            "steps": args.steps,
            "lr": args.lr,
            "split": args.split,
            "arch": arch.key[:8],
            "params": supernet.params(arch),
            "supernet": 100 * subnet_metrics(supernet, arch, task, args.split)["accuracy"],
            "uncalibrated": 100 * subnet_metrics(supernet, arch, task, args.split, calibrate=False)["accuracy"],
            "alone": accuracy(model.eval(), task, args.split),
            "alone_running": running,
        }
        rows.append(
            {
                name: round(value, 3) if isinstance(value, float) and name != "lr" else value
                for name, value in row.items()
            }
        )
        print({**rows[-1], "seconds": round(time.perf_counter() - start, 1)}, flush=True)
    return rows


def archs(space: nas.Space, count: int) -> list[nas.Arch]:
    """Smallest, largest and random ones, the same for every seed."""
    draw = random.Random(2024)
    chosen = dict.fromkeys([space.smallest, space.largest])
    while len(chosen) < count:
        chosen[space.sample(draw)] = None
    return list(chosen)[:count]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean gap in points with its spread over seeds and over archs."""
    gaps = [row["alone"] - row["supernet"] for row in rows]
    seeds = sorted({row["seed"] for row in rows})
    of_seed = [statistics.mean(row["alone"] - row["supernet"] for row in rows if row["seed"] == seed) for seed in seeds]

    def mean(name: str) -> float:
        return round(statistics.mean(row[name] for row in rows), 3)

    return {
        "experiment": "subnet_gap",
        "mean_gap_points": round(statistics.mean(gaps), 3),
        "gap_of_each_seed": [round(gap, 3) for gap in of_seed],
        "gap_std_over_pairs": round(statistics.pstdev(gaps), 3),
        "worst_gap": round(max(gaps), 3),
        "mean_gap_uncalibrated": round(statistics.mean(row["alone"] - row["uncalibrated"] for row in rows), 3),
        "mean_gap_to_running_statistics": round(
            statistics.mean(row["alone_running"] - row["supernet"] for row in rows), 3
        ),
        "supernet": mean("supernet"),
        "alone": mean("alone"),
        "archs": len({row["arch"] for row in rows}),
        "seeds": len(seeds),
        "steps": rows[0]["steps"],
        "split": rows[0]["split"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a minute's worth, to see that it runs; writes no results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--archs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--shift", type=int, default=1)
    parser.add_argument("--random", type=int, default=2, help="random archs in a sandwich")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--labels", type=float, default=0.5, help="weight of the labels for all but the largest")
    parser.add_argument("--split", choices=("valid", "test"), default="test")
    args = parser.parse_args()
    if args.smoke:
        args.seeds, args.archs, args.steps = 1, 3, 10
    torch.set_num_threads(1)
    begun = time.strftime("%Y-%m-%dT%H:%M:%S")
    start = time.perf_counter()
    rows: list[dict[str, Any]] = []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        of_seed = compare(seed, args)
        rows += of_seed
        if not args.smoke and args.split == "test":  # what is tuned on the validation split is no result
            keep(begun, of_seed)
    print(json.dumps({**summary(rows), "seconds": round(time.perf_counter() - start)}))


def keep(begun: str, rows: list[dict[str, Any]]) -> None:
    """Appends the rows to results.csv."""
    file = HERE / "results.csv"
    with file.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        if stream.tell() == 0:
            writer.writeheader()
        writer.writerows({"time": begun, **row} for row in rows)


if __name__ == "__main__":
    main()
