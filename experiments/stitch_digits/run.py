"""What do stitches between three trained transformers give?  See README.md.

    python experiments/stitch_digits/run.py [--smoke] [--seeds 3] [--device cpu|cuda] [--scale small|full]

Prints one line a variant and seed, and one JSON line last.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

import nas
from nas.train import Bucketed, Classification, Labels, Sampler, Training, Uniform, digits, subnet_metrics
from searchspaces import stitch, vit
from searchspaces.stitching_plan import Planner, SNNet, SNNetV2

HERE = Path(__file__).parent
COLUMNS = ["time", "seed", "split", "variant", "route", "macs", "before", "accuracy", "line", "line_after"]
SCALES = {
    "small": {"widths": (16, 24, 32), "depth": 4, "head": 8, "batch": 64},
    "full": {"widths": (64, 128, 256), "depth": 12, "head": 32, "batch": 256},
}
VARIANTS: dict[str, tuple[type[Planner], bool, bool]] = {  # plan, least squares, by resource
    "one-way, random": (SNNet, False, False),
    "one-way": (SNNet, True, False),
    "one-way, ROS": (SNNet, True, True),
    "two-way": (SNNetV2, True, False),
}


def model(width: int, scale: dict[str, Any]) -> Any:
    """The call that builds an anchor."""
    depth, head = scale["depth"], scale["head"]
    return vit.vit(width=width, depth=depth, heads=[width // head] * depth, ratios=[2] * depth, head=head)


def anchor(width: int, task: Classification, seed: int, args: argparse.Namespace) -> nn.Module:
    """An anchor trained alone: a supernet of one arch."""
    net = nas.Supernet(nas.Space(model(width, SCALES[args.scale]), name="anchor"), example=task.example, seed=seed)
    fit(net, task, Uniform(), args.device, steps=args.anchor_steps, lr=args.anchor_lr, seed=seed)
    return net.cpu().extract(net.space.largest)


def fit(net: nas.Supernet, task: Classification, sampler: Sampler, device: str, **options: Any) -> None:
    """Train `net` with the labels."""
    options["validate_every"] = options["steps"]
    Training(net, task, sampler=sampler, loss=Labels(), device=device, **options).run(progress=False)


def measure(net: nas.Supernet, task: Classification, split: Any) -> list[dict[str, Any]]:
    """Cost, accuracy in percent and loss of every route, anchors first."""
    rows = []
    for arch in net.space.enumerate():
        found = subnet_metrics(net, arch, task, split)
        row = {"route": arch.choices["route"], "macs": net.macs(arch)}
        rows.append({**row, "accuracy": 100 * found["accuracy"], "loss": found["loss"]})
    return rows


def line(anchors: Sequence[dict[str, Any]], macs: float) -> float:
    """Accuracy at `macs` on the straight lines between the anchors."""
    ordered = sorted(anchors, key=lambda row: row["macs"])
    return float(np.interp(macs, [row["macs"] for row in ordered], [row["accuracy"] for row in ordered]))


def compare(seed: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every variant on the same anchors."""
    scale = SCALES[args.scale]
    task = digits(scale["batch"], seed=seed, shift=1)
    start = time.perf_counter()
    trained = [anchor(width, task, seed, args) for width in scale["widths"]]
    print(f"seed {seed}: anchors trained in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    rows = []
    for variant, (plan, solved, bucketed) in VARIANTS.items():
        start = time.perf_counter()
        space = stitch.space([model(width, scale) for width in scale["widths"]], example=task.example, plan=plan())
        net = stitch.supernet(space, weights=trained, seed=seed)
        if solved:
            stitch.least_squares(net, task.train[0][:100])
        before = measure(net, task, args.split)
        costs = {row["route"]: row["macs"] for row in before}
        width = (max(costs.values()) - min(costs.values())) / args.groups
        sampler = Bucketed(net.macs, width) if bucketed else Uniform()
        fit(net, task, sampler, args.device, steps=args.steps, lr=args.lr, seed=seed)
        after = measure(net.cpu(), task, args.split)
        alone, kept = ([row for row in found if ">" not in row["route"]] for found in (before, after))
        of_variant = [
            {"seed": seed, "split": args.split, "variant": variant, **row, "before": first["loss"],
             "line": line(alone, row["macs"]), "line_after": line(kept, row["macs"])}
            for first, row in zip(before, after, strict=True)
        ]  # fmt: skip
        rows += of_variant
        shown = {name: value for name, value in figures(of_variant).items() if not isinstance(value, list)}
        print({"seed": seed, "variant": variant, **shown, "seconds": round(time.perf_counter() - start)}, flush=True)
    return rows


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of one variant and seed."""
    stitched = [row for row in rows if ">" in row["route"]]
    anchors = [row for row in rows if ">" not in row["route"]]

    def share(name: str) -> float:
        return 100 * statistics.mean(row["accuracy"] >= row[name] for row in stitched)

    return {
        "loss_before": statistics.mean(row["before"] for row in stitched),
        "accuracy": statistics.mean(row["accuracy"] for row in stitched),
        "worst": min(row["accuracy"] for row in stitched),
        "above_line_percent": share("line"),
        "above_line_after_percent": share("line_after"),
        "margin_points": statistics.mean(row["accuracy"] - row["line"] for row in stitched),
        "anchors_change_points": statistics.mean(row["accuracy"] - row["line"] for row in anchors),
        "spearman": float(spearmanr([row["macs"] for row in rows], [row["accuracy"] for row in rows]).statistic),
        "anchors_alone": [row["line"] for row in anchors],
        "routes": len(rows),
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation over seeds of each figure of each variant."""
    seeds = sorted({row["seed"] for row in rows})
    variants: dict[str, Any] = {}
    for variant in VARIANTS:
        found = [figures([row for row in rows if (row["seed"], row["variant"]) == (seed, variant)]) for seed in seeds]
        variants[variant] = {}
        for name in found[0]:
            values = np.array([one[name] for one in found], dtype=float)
            mean = np.round(values.mean(0), 3).tolist()
            variants[variant][name] = (
                mean if name in ("routes", "anchors_alone") else [mean, round(float(values.std()), 3)]
            )
    return {"experiment": "stitch_digits", "seeds": len(seeds), "split": rows[0]["split"], "variants": variants}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="seconds' worth, to see that it runs; writes no results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--scale", choices=tuple(SCALES), default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--anchor-steps", type=int, default=400)
    parser.add_argument("--anchor-lr", type=float, default=8e-3)
    parser.add_argument("--steps", type=int, default=400, help="of fine-tuning, the same for every variant")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument(
        "--groups", type=int, default=8, help="widths of a ROS group between the cheapest and the dearest"
    )
    parser.add_argument("--split", choices=("valid", "test"), default="test")
    args = parser.parse_args()
    if args.smoke:
        args.seeds, args.anchor_steps, args.steps, SCALES[args.scale]["depth"] = 1, 5, 5, 2
    torch.set_num_threads(1)
    begun, start = time.strftime("%Y-%m-%dT%H:%M:%S"), time.perf_counter()
    rows: list[dict[str, Any]] = []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        of_seed = compare(seed, args)
        rows += of_seed
        if not args.smoke and args.split == "test" and args.scale == "small":
            keep(begun, of_seed)
    print(json.dumps({**summary(rows), "seconds": round(time.perf_counter() - start)}))


def keep(begun: str, rows: list[dict[str, Any]]) -> None:
    """Appends the rows to results.csv."""
    file = HERE / "results.csv"
    with file.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore")
        if stream.tell() == 0:
            writer.writeheader()
        for row in rows:
            rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()}
            writer.writerow({"time": begun, **rounded})


if __name__ == "__main__":
    main()
