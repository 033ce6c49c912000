"""What do stitches between three trained language models give?  See README.md.

    python experiments/stitch_lm/run.py [--smoke] [--seeds 3] [--device cpu|cuda] [--scale small|full]

Prints one line a variant and seed, and one JSON line last.
"""

from __future__ import annotations

import argparse
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
from nas import files
from nas.train import Bucketed, Labels, LanguageModelling, Sampler, Training, Uniform, python_corpus, subnet_metrics
from searchspaces import sorted_lm, stitch
from searchspaces.stitching_plan import Planner, SNNet, SNNetV2

HERE = Path(__file__).parent
SCALES: dict[str, dict[str, Any]] = {
    "small": {"widths": (32, 48, 64), "depth": 3, "head": 16, "context": 64, "batch": 8, "limit": 1_000_000,
              "merges": 256, "anchor_steps": 500, "steps": 300},
    "full": {"widths": (256, 384, 512), "depth": 8, "head": 64, "context": 512, "batch": 32, "limit": 12_000_000,
             "merges": 2048, "anchor_steps": 4000, "steps": 3000},
    "smoke": {"widths": (8, 12, 16), "depth": 2, "head": 4, "context": 16, "batch": 4, "limit": 60_000,
              "merges": 8, "anchor_steps": 4, "steps": 6},
}  # fmt: skip
VARIANTS: dict[str, tuple[type[Planner], bool, bool]] = {  # plan, least squares, by resource
    "one-way, random": (SNNet, False, False),
    "one-way": (SNNet, True, False),
    "one-way, ROS": (SNNet, True, True),
    "two-way": (SNNetV2, True, False),
}


def model(width: int, scale: dict[str, Any], task: LanguageModelling) -> Any:
    """The call that builds an anchor."""
    return sorted_lm.sorted_lm(
        width=width,
        depth=scale["depth"],
        kv=width // scale["head"] // 2 or 1,
        ratio=2,
        group=2,
        head=scale["head"],
        vocabulary=task.vocabulary,
        context=scale["context"],
    )


def anchor(width: int, task: LanguageModelling, steps: int, seed: int, args: argparse.Namespace) -> nn.Module:
    """An anchor trained alone: a supernet of one arch."""
    space = nas.Space(model(width, args.sizes, task), name="anchor")
    net = nas.Supernet(space, example=task.example, seed=seed)
    fit(net, task, Uniform(), args.device, steps=steps, lr=args.anchor_lr, seed=seed)
    return net.cpu().extract(net.space.largest)


def fit(net: nas.Supernet, task: LanguageModelling, sampler: Sampler, device: str, **options: Any) -> None:
    """Train `net` with the labels."""
    options["validate_every"] = options["steps"]
    Training(net, task, sampler=sampler, loss=Labels(), device=device, **options).run(progress=False)


def bits(module: nn.Module, task: LanguageModelling, args: argparse.Namespace) -> float:
    """Bits per byte of a plain module."""
    return task.evaluate(module.to(args.device), args.split, device=args.device)["bits_per_byte"]


def measure(net: nas.Supernet, task: LanguageModelling, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Cost and bits per byte of every route, anchors first."""
    net.to(args.device)
    rows = []
    for arch in net.space.enumerate():
        found = subnet_metrics(net, arch, task, args.split)
        rows.append({"route": arch.choices["route"], "macs": net.macs(arch), "bits": found["bits_per_byte"]})
    net.cpu()
    return rows


def line(macs: Sequence[float], anchors: Sequence[float], at: float) -> float:
    """Bits per byte at `at` operations on the straight lines between the anchors."""
    return float(np.interp(at, macs, anchors))


def compare(seed: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every variant on the same anchors."""
    sizes, start = args.sizes, time.perf_counter()
    task = python_corpus(sizes["context"], sizes["batch"], merges=sizes["merges"], limit=sizes["limit"], seed=seed)
    trained = [anchor(width, task, sizes["anchor_steps"], seed, args) for width in sizes["widths"]]
    # What the fine-tuning of a supernet costs, spent on the anchors instead.
    more = sizes["anchor_steps"] + sizes["steps"] // len(trained)
    longer = [bits(anchor(width, task, more, seed, args), task, args) for width in sizes["widths"]]
    print(f"seed {seed}: anchors trained in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    rows = []
    for variant, (plan, solved, bucketed) in VARIANTS.items():
        start = time.perf_counter()
        calls = [model(width, sizes, task) for width in sizes["widths"]]
        net = stitch.supernet(stitch.space(calls, example=task.example, plan=plan()), weights=trained, seed=seed)
        if solved:
            stitch.least_squares(net, next(task.train_batches(0)).inputs)
        before = measure(net, task, args)
        spread = max(row["macs"] for row in before) - min(row["macs"] for row in before)
        sampler = Bucketed(net.macs, spread / args.groups) if bucketed else Uniform()
        fit(net, task, sampler, args.device, steps=sizes["steps"], lr=args.lr, seed=seed)
        after = measure(net, task, args)
        alone = [row for row in before if ">" not in row["route"]]
        macs = [row["macs"] for row in alone]
        kept = [row["bits"] for row in after if ">" not in row["route"]]
        of_variant = [
            {"seed": seed, "variant": variant, **row, "before": first["bits"],
             "line": line(macs, [one["bits"] for one in alone], row["macs"]),
             "line_longer": line(macs, longer, row["macs"]), "line_after": line(macs, kept, row["macs"])}
            for first, row in zip(before, after, strict=True)
        ]  # fmt: skip
        rows += of_variant
        shown = {name: value for name, value in figures(of_variant).items() if not isinstance(value, list)}
        rounded = {name: round(value, 3) for name, value in shown.items()}
        print({"seed": seed, "variant": variant, **rounded, "seconds": round(time.perf_counter() - start)}, flush=True)
    return rows


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of one variant and seed; fewer bits are better."""
    stitched = [row for row in rows if ">" in row["route"]]
    anchors = [row for row in rows if ">" not in row["route"]]

    def share(name: str) -> float:
        return 100 * statistics.mean(row["bits"] <= row[name] for row in stitched)

    return {
        "before": statistics.mean(row["before"] for row in stitched),
        "after": statistics.mean(row["bits"] for row in stitched),
        "worst": max(row["bits"] for row in stitched),
        "reach_line_percent": share("line"),
        "reach_line_longer_percent": share("line_longer"),
        "reach_line_after_percent": share("line_after"),
        "over_line": statistics.mean(row["bits"] - row["line"] for row in stitched),
        "over_line_longer": statistics.mean(row["bits"] - row["line_longer"] for row in stitched),
        "spearman": float(spearmanr([row["macs"] for row in rows], [row["bits"] for row in rows]).statistic),
        "anchors_alone": [row["line"] for row in anchors],
        "anchors_longer": [row["line_longer"] for row in anchors],
        "anchors_after": [row["bits"] for row in anchors],
        "routes": len(rows),
    }


def summary(rows: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """Mean and deviation over seeds of each figure of each variant."""
    seeds = sorted({row["seed"] for row in rows})
    variants: dict[str, Any] = {}
    for variant in VARIANTS:
        found = [figures([row for row in rows if (row["seed"], row["variant"]) == (seed, variant)]) for seed in seeds]
        variants[variant] = {}
        for name in found[0]:
            values = np.array([one[name] for one in found], dtype=float)
            pair = [np.round(values.mean(0), 3).tolist(), np.round(values.std(0), 3).tolist()]
            variants[variant][name] = pair[0] if name == "routes" else pair
    return {
        "experiment": "stitch_lm",
        "scale": args.scale,
        "device": args.device,
        "split": args.split,
        "seeds": len(seeds),
        "variants": variants,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="seconds' worth, to see that it runs; writes no results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--anchor-lr", type=float, default=4e-3)
    parser.add_argument("--lr", type=float, default=2e-3, help="of fine-tuning, the same for every variant")
    parser.add_argument("--groups", type=int, default=8, help="ROS groups between the cheapest and the dearest")
    parser.add_argument("--split", choices=("valid", "test"), default="test")
    args = parser.parse_args()
    if args.smoke:
        args.seeds, args.scale = 1, "smoke"
    args.sizes = SCALES[args.scale]
    torch.set_num_threads(1)
    start, rows = time.perf_counter(), []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        rows += compare(seed, args)
    result = {**summary(rows, args), "seconds": round(time.perf_counter() - start)}
    if not args.smoke and args.split == "test":
        rounded = [{key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()} for row in rows]
        files.write(HERE / "results.json", json.dumps({**result, "rows": rounded}) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
