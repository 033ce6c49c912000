"""Is a family that `nas.elastic` makes of a model as good as one written by hand?  See README.md.

    python experiments/automatic_family/run.py [--smoke] [--seeds 5] [--steps 300] [--device cpu|cuda]

Prints one line a training, and one JSON line last; raw rows are appended to results.csv.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import random
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import nas
from nas.convert.elastic import ElasticSpace
from nas.train import InPlace, Sandwich, Training, digits, subnet_metrics
from searchspaces import conv, vit

HERE = Path(__file__).parent
COLUMNS = ["time", "seed", "family", "arm", "steps", "smallest", "largest", "random", "seconds"]
FAMILIES = ("vit", "conv")
WIDTHS, DEPTHS, HEADS, RATIOS = (48, 64, 80), (2, 3, 4), (2, 3, 4), (1, 2, 3)
STAGES, STEM = ((8, 12), (12, 20)), 8


def by_hand(family: str, seed: int) -> nas.Supernet:
    """The hand-written family; of convolutions with one kernel, since no conversion makes kernels elastic."""
    if family == "vit":
        return vit.supernet(vit.space(widths=WIDTHS, depths=DEPTHS, heads=HEADS, ratios=RATIOS), seed=seed)
    return conv.supernet(conv.space(widths=STAGES, depths=(1, 2), kernels=(3,), ratios=(1, 2), stem=STEM), seed=seed)


def automatic(hand: nas.Supernet) -> nas.Supernet:
    """The family of the largest network, which begins with the same weights and may choose what the other one may."""
    model = hand.extract(hand.space.largest)
    space = nas.elastic(model, torch.zeros(2, 1, 8, 8))
    width = WIDTHS if hand.space.name == "vit" else STAGES[1]
    decisions = tuple(
        dataclasses.replace(each, choices=width if each.name == "width" else _choices(each.name))
        for each in space.plan.decisions
    )
    units = tuple(unit for unit in space.plan.units if unit.name not in ("blocks.0", "blocks.1"))  # depth is at least 2
    plan = dataclasses.replace(space.plan, decisions=decisions, units=units)
    same = ElasticSpace(space.template, plan, space.report, name=space.name)
    return nas.Supernet(same, weights=model, example=torch.zeros(1, 1, 8, 8))


def _choices(name: str) -> tuple[int, ...]:
    """What archs of the hand-written space need of a decision."""
    if name.startswith("blocks"):
        return (
            HEADS if name.endswith("heads") else tuple(sorted({ratio * width for ratio in RATIOS for width in WIDTHS}))
        )
    if name.startswith("stages.") and name.endswith("hidden"):
        stage = STAGES[int(name.split(".")[1])]
        return tuple(sorted({ratio * width for ratio in (1, 2) for width in stage}))
    return {"hidden": (STEM,), "stages.width": STAGES[0]}[name]


def same_arch(arch: nas.Arch, space: nas.Space) -> nas.Arch:
    """The arch of the automatic space that is the same network as one of the hand-written space."""
    told = arch.choices
    wanted = _vit(told) if "width" in told else _conv(told)
    return space.arch(
        {name: value for name, value in wanted.items() if name in {each.name for each in space.decisions}}
    )


def _vit(told: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"width": told["width"]}
    for block in range(max(DEPTHS)):
        found[f"blocks[{block}].keep"] = block < told["depth"]
        if block < told["depth"]:
            found[f"blocks[{block}].attention.heads"] = told[f"heads[{block}]"]
            found[f"blocks[{block}].mlp.hidden"] = int(told[f"ratios[{block}]"] * told["width"])
    return found


def _conv(told: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"stages.width": told["widths[0]"], "width": told["widths[1]"]}
    for stage in range(2):
        depth = told[f"depths[{stage}]"]
        found[f"stages[{stage}][1].keep"] = depth == 2
        for block in range(depth):
            found[f"stages[{stage}][{block}].hidden"] = told[f"ratios[{stage}][{block}]"] * told[f"widths[{stage}]"]
    return found


def measured(hand: nas.Supernet, net: nas.Supernet, task: Any, archs: int, split: str) -> dict[str, float]:
    """Percent for the smallest, the largest and random archs of the hand-written space, in either family."""
    space, draw = hand.space, random.Random(2024)
    chosen = dict.fromkeys([space.smallest, space.largest])
    while len(chosen) < archs + 2:
        chosen[space.sample(draw)] = None
    own = list(chosen) if net is hand else [same_arch(arch, net.space) for arch in chosen]
    for one, other in zip(chosen, own, strict=True):
        assert hand.params(one) == net.params(other), "not the same network"
    found = [100 * subnet_metrics(net, arch, task, split)["accuracy"] for arch in own]
    return {"smallest": found[0], "largest": found[1], "random": statistics.mean(found[2:])}


def run(family: str, arm: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One training."""
    start = time.perf_counter()
    torch.manual_seed(seed)
    task, hand = digits(seed=seed, shift=1), by_hand(family, seed)
    net = hand if arm == "hand" else automatic(hand)
    Training(
        net, task, sampler=Sandwich(2), loss=InPlace(labels=0.5), steps=args.steps, lr=args.lr, device=args.device,
        validate_every=args.steps, seed=seed,
    ).run(progress=False)  # fmt: skip
    net.to("cpu")
    found = measured(hand, net, task, args.archs, args.split)
    row = {"family": family, "arm": arm, "seed": seed, "steps": args.steps}
    row |= {key: round(value, 3) for key, value in found.items()} | {"seconds": round(time.perf_counter() - start, 1)}
    print(row, flush=True)
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each family: mean and deviation over seeds of both arms, the mean difference, and whether it is within the spread."""
    found: dict[str, Any] = {"experiment": "automatic_family", "seeds": len({row["seed"] for row in rows})}
    for family in dict.fromkeys(row["family"] for row in rows):
        arms = {arm: [row for row in rows if (row["family"], row["arm"]) == (family, arm)] for arm in ("hand", "auto")}
        for name in ("smallest", "largest", "random"):
            values = {arm: [row[name] for row in own] for arm, own in arms.items()}
            spread = max(map(statistics.pstdev, values.values()))
            gap = statistics.mean(a - b for a, b in zip(values["auto"], values["hand"], strict=True))
            found[f"{family}_{name}"] = {
                **{
                    arm: [round(statistics.mean(own), 2), round(statistics.pstdev(own), 2)]
                    for arm, own in values.items()
                },
                "auto_minus_hand": round(gap, 2),
                "within_spread": gap >= -spread,
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it runs; writes no results")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--archs", type=int, default=10, help="random archs of the hand-written space")
    parser.add_argument("--split", choices=("valid", "test"), default="test")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if args.smoke:
        args.seeds, args.steps, args.archs = 1, 2, 1
    rows = [
        run(family, arm, seed, args) for family in FAMILIES for seed in range(args.seeds) for arm in ("hand", "auto")
    ]
    if not args.smoke:
        with (HERE / "results.csv").open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if file.tell() == 0:
                writer.writeheader()
            writer.writerows({"time": time.strftime("%Y-%m-%dT%H:%M:%S"), **row} for row in rows)
    print(json.dumps(summary(rows)))


if __name__ == "__main__":
    main()
