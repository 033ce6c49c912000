"""Once-for-all on digits: what sharing, recalibrating, sorting and shrinking progressively are worth.  See README.md.

    python experiments/ofa_digits/run.py [--smoke] [--seeds 3] [--device cpu] [--scale small|full]

Progressive shrinking, uniform joint training and the sandwich get the same number of forward-backward passes; every network
that is trained alone gets as many steps as the sandwich has.  Prints one line a seed, and one JSON line last.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import nas
from nas.train import (
    Classification,
    InPlace,
    Labels,
    Phase,
    Progressive,
    Sandwich,
    Schedule,
    Teacher,
    Training,
    Uniform,
    digits,
    subnet_metrics,
)
from searchspaces import ofa

HERE = Path(__file__).parent
PASSES = 4  # of a sandwich step with two random archs
SHORT, LONG = 1 / 12, 1 / 4
"""Highest rates of the phases after the kernels' (0.03 in the paper's program: 0.0025 and 0.0075), as parts of that."""


def space(args: argparse.Namespace) -> nas.Space:
    if args.scale == "full":
        wide = {"widths": [24, 48, 96], "strides": [1, 2, 1], "squeeze": [False, True, True]}
        return ofa.space(
            stages=3, depths=(2, 3, 4), ratios=(3, 4, 6), stem=24, swish=[False, True, True], divisor=8, **wide
        )
    return ofa.space(depths=(1, 2), kernels=(3, 5), ratios=(2, 3)) if args.smoke else ofa.space()


def options(args: argparse.Namespace, steps: int, lr: float, seed: int) -> dict[str, Any]:
    return {
        "steps": steps,
        "lr": lr,
        "weight_decay": 0.01,
        "warmup": steps // 20,
        "clip": 1.0,
        "device": args.device,
        "seed": seed,
        "validate_every": steps,
    }


def sandwich(task: Classification, args: argparse.Namespace, seed: int) -> nas.Supernet:
    net = ofa.supernet(space(args), seed=seed)
    recipe = options(args, args.steps, args.lr, seed)
    Training(net, task, sampler=Sandwich(2), loss=InPlace(labels=0.5), **recipe).run(progress=False)
    return net


def shares(passes: int) -> list[int]:
    """Steps of each phase, in the paper's proportions (180, 120, 25, 120, 25, 120 epochs), that make `passes` in all."""
    epochs, archs = [180, 120, 25, 120, 25, 120], [1, 1, 2, 2, 4, 4]
    unit = passes / sum(epoch * n for epoch, n in zip(epochs, archs, strict=True))
    return [max(1, round(epoch * unit)) for epoch in epochs]


def full_network(task: Classification, args: argparse.Namespace, seed: int) -> nas.Supernet:
    """The first phase: the largest network alone."""
    net = ofa.supernet(space(args), seed=seed)
    steps = shares(PASSES * args.steps)[0]
    recipe = options(args, steps, args.lr, seed)
    Training(net, task, sampler=Progressive([Phase(steps)]), loss=Labels(), **recipe).run(progress=False)
    return net


def progressive(net: nas.Supernet, task: Classification, args: argparse.Namespace, seed: int) -> nas.Supernet:
    """The other phases, taught by the full network as it is now."""
    _, kernels, depth, depths, ratio, ratios = shares(PASSES * args.steps)
    of_depth = next(one.labels for one in net.space.decisions if one.name == "depths[0]")
    of_ratio = next(one.labels for one in net.space.decisions if one.name == "ratios[0][0]")
    phases = [
        Phase(kernels, {"kernels": None, "resolution": None}),
        Phase(depth, {"depths": of_depth[1:]}, n=2, lr=SHORT),
        Phase(depths, {"depths": None}, n=2, lr=LONG),
        Phase(ratio, {"ratios": of_ratio[1:]}, n=4, sort=True, lr=SHORT),
        Phase(ratios, {"ratios": None}, n=4, sort=True, lr=LONG),
    ]
    sampler, steps = Progressive(phases, readers=ofa.READERS), sum(phase.steps for phase in phases)
    teacher = Teacher(net.extract(net.space.largest), weight=0.5)
    recipe = {**options(args, steps, args.shrink_lr, seed), "warmup": 0, "schedule": sampler.schedule(steps)}
    Training(net, task, sampler=sampler, loss=teacher, **recipe).run(progress=False)
    return net


def joint(net: nas.Supernet, task: Classification, args: argparse.Namespace, seed: int) -> nas.Supernet:
    """What the paper compares with: after the full network all networks at once, drawn uniformly, with the same teacher.

    Four of them a step, as in the last phase.
    """
    passes = PASSES * args.steps - shares(PASSES * args.steps)[0]
    teacher = Teacher(net.extract(net.space.largest), weight=0.5)
    recipe = options(args, max(1, passes // 4), args.shrink_lr, seed)
    Training(net, task, sampler=Uniform(4), loss=teacher, **recipe).run(progress=False)
    return net


def alone(model: nn.Module, task: Classification, args: argparse.Namespace) -> float:
    """Accuracy of `model` after an ordinary loop (AdamW, warm-up and cosine, clipping), and recalibration."""
    model.to(args.device).train()
    schedule = Schedule(args.lr, args.steps, args.steps // 20)
    decayed = [one for one in model.parameters() if one.ndim >= 2]
    free = [one for one in model.parameters() if one.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": free, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, fused=True)
    for step in range(args.steps):
        epoch, place = divmod(step, task.steps_per_epoch)
        if place == 0:
            batches = list(task.train_batches(epoch))
        for group in optimizer.param_groups:
            group["lr"] = schedule(step)
        optimizer.zero_grad()
        batch = batches[place].to(args.device)
        task.loss(model(batch.inputs), batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        torch.optim.swa_utils.update_bn(task.calibration_inputs(), model, device=args.device)
    return 100 * task.evaluate(model.eval(), args.split, device=args.device)["accuracy"]


def archs(space_: nas.Space, count: int) -> list[nas.Arch]:
    """Smallest, largest and random ones, the same for every seed."""
    draw = random.Random(2024)
    chosen = dict.fromkeys([space_.smallest, space_.largest])
    while len(chosen) < count:
        chosen[space_.sample(draw)] = None
    return list(chosen)[:count]


def narrow(space_: nas.Space) -> list[nas.Arch]:
    """The largest arch at each smaller ratio: what sorting is about."""
    ratios = next(one.labels for one in space_.decisions if one.name == "ratios[0][0]")
    top = space_.largest.choices
    return [
        space_.arch({name: ratio if name.startswith("ratios") else value for name, value in top.items()})
        for ratio in ratios[:-1]
    ]


def mean_accuracy(net: nas.Supernet, chosen: list[nas.Arch], task: Classification, split: Any, **keys: Any) -> float:
    return statistics.mean(100 * subnet_metrics(net, arch, task, split, **keys)["accuracy"] for arch in chosen)


def one_seed(seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Every figure of one seed."""
    task, start = digits(seed=seed, shift=1), time.perf_counter()
    flat = sandwich(task, args, seed)
    chosen = archs(flat.space, args.archs)
    full = full_network(task, args, seed)
    cut = narrow(full.space)
    row: dict[str, Any] = {"seed": seed, "steps": args.steps, "split": args.split}
    row["narrow_unsorted"] = mean_accuracy(full, cut, task, args.split)
    by_size = copy.deepcopy(full)
    nas.reorder(by_size, readers=ofa.READERS)
    row["narrow_sorted"] = mean_accuracy(by_size, cut, task, args.split)
    row["full"] = mean_accuracy(full, [full.space.largest], task, args.split)
    trained = {"sandwich": flat, "joint": joint(copy.deepcopy(full), task, args, seed)}
    trained["progressive"] = progressive(full, task, args, seed)
    for name, net in trained.items():
        row[name] = mean_accuracy(net, chosen, task, args.split)
        row[f"{name}_uncalibrated"] = mean_accuracy(net, chosen, task, args.split, calibrate=False)
        row[f"{name}_smallest"] = mean_accuracy(net, chosen[:1], task, args.split)
        row[f"{name}_largest"] = mean_accuracy(net, chosen[1:2], task, args.split)
    if not args.no_alone:
        found = []
        for arch in chosen:
            torch.manual_seed(seed)
            found.append(alone(flat.space.build(arch), task, args))
        row |= {"alone": statistics.mean(found), "alone_smallest": found[0], "alone_largest": found[1]}
    row = {name: round(value, 2) if isinstance(value, float) else value for name, value in row.items()}
    print(json.dumps({**row, "seconds": round(time.perf_counter() - start)}), flush=True)
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation over seeds of each figure, and of the differences that were asked for."""

    def over(values: list[float]) -> list[float]:
        return [round(statistics.mean(values), 2), round(statistics.pstdev(values), 2)]

    names = [name for name, value in rows[0].items() if isinstance(value, float)]
    found: dict[str, Any] = {name: over([row[name] for row in rows]) for name in names}
    pairs = {
        "sorting": ("narrow_sorted", "narrow_unsorted"),
        "recalibration_sandwich": ("sandwich", "sandwich_uncalibrated"),
        "recalibration_progressive": ("progressive", "progressive_uncalibrated"),
        "progressive_minus_sandwich": ("progressive", "sandwich"),
        "progressive_minus_joint": ("progressive", "joint"),
        "shared_minus_alone_sandwich": ("sandwich", "alone"),
        "shared_minus_alone_progressive": ("progressive", "alone"),
    }
    for name, (left, right) in pairs.items():
        if left in rows[0] and right in rows[0]:
            found[name] = over([row[left] - row[right] for row in rows])
    return {"experiment": "ofa_digits", "seeds": len(rows), **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it runs; writes no results")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--archs", type=int, default=4)
    parser.add_argument("--steps", type=int, help="of the sandwich; 160, or 3000 at full scale")
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--shrink-lr", type=float, default=5e-3, help="highest rate of the shrinking phases")
    parser.add_argument("--no-alone", action="store_true", help="leave out the networks that are trained alone")
    parser.add_argument("--split", choices=("valid", "test"), default="test")
    args = parser.parse_args()
    args.steps = args.steps or (3000 if args.scale == "full" else 160)
    if args.smoke:
        args.seeds, args.archs, args.steps = 1, 2, 6
    torch.set_num_threads(1)
    begun, start, rows = time.strftime("%Y-%m-%dT%H:%M:%S"), time.perf_counter(), []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        row = one_seed(seed, args)
        rows.append(row)
        if not args.smoke and args.split == "test":  # what is tuned on the validation split is no result
            with (HERE / "results.jsonl").open("a") as stream:
                stream.write(json.dumps({"time": begun, "scale": args.scale, "device": args.device, **row}) + "\n")
    print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
    print(json.dumps(summary(rows)))


if __name__ == "__main__":
    main()
