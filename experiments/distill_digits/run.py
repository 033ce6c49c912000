"""What should the subnets of a supernet learn from?  See README.md.

    python experiments/distill_digits/run.py [--smoke] [--seeds 3] [--methods …] [--device cpu|cuda] [--scale small|full]

Every supernet starts from the same weights and sees the same batches, for as many steps of as many archs; the networks trained
alone have as many steps.  Prints one line a training, and one JSON line last; raw rows are appended to results.csv.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import nas
from nas.pareto import hypervolume, non_dominated
from nas.train import (
    DIST,
    KL,
    RKD,
    AdaptiveAlpha,
    AttentionTransfer,
    Attentive,
    BatchScore,
    Classification,
    Comparison,
    Features,
    Hard,
    Hint,
    InPlace,
    Interpolated,
    Labels,
    Loss,
    Sampler,
    Sandwich,
    SimilarityPreserving,
    Teacher,
    Training,
    Uniform,
    as_supernet,
    digits,
    subnet_metrics,
    train_modules,
)
from searchspaces import conv

HERE = Path(__file__).parent
COLUMNS = ["time", "seed", "steps", "split", "method", "smallest", "largest", "random", "hypervolume", "seconds"]
DIVERGENCES = {"kl": None, "reverse": KL("reverse"), "hard": Hard(), "adaptive": AdaptiveAlpha(), "dist": DIST()}
# The weights are their authors'; Hint's is ours.
FEATURES: dict[str, tuple[Comparison, float]] = {
    "hint": (Hint(), 1.0),
    "attention": (AttentionTransfer(), 1000.0),
    "rkd": (RKD(25.0, 50.0), 1.0),
    "similarity": (SimilarityPreserving(), 3000.0),
}
TEACHERS = ("teacher", "taid")
SAMPLERS = ("best_up", "worst_up")
ALONE = ("alone", "incubated", "m2m")
METHODS = ("none", *DIVERGENCES, *FEATURES, *TEACHERS, *SAMPLERS, *ALONE)
LAYERS = ("stages.0", "stages.1")


def loss_of(method: str, args: argparse.Namespace, teacher: nn.Module | None) -> Loss:
    """Half labels, half the method, for all subnets but the largest; features come beside the forward KL."""
    in_place = InPlace(labels=0.5, divergence=DIVERGENCES.get(method))
    if method == "none":
        return Labels()
    if method in FEATURES:
        compare, weight = FEATURES[method]
        return Features(LAYERS, compare, in_place, weight)
    if method in TEACHERS:
        assert teacher is not None
        return Teacher(teacher) if method == "teacher" else Interpolated(teacher, steps=args.steps)
    return in_place


def sampler_of(method: str, supernet: nas.Supernet, task: Classification, pool: int) -> Sampler:
    """Two archs a step besides the largest and the smallest, however they are chosen."""
    if method not in SAMPLERS:
        return Sandwich(2)
    width = (supernet.params(supernet.space.largest) - supernet.params(supernet.space.smallest)) / 10
    return Attentive(BatchScore(supernet, task), supernet.params, width, best=method == "best_up", n=2, pool=pool)


def family(seed: int, scale: str) -> nas.Supernet:
    """`full` has eight times the width and three times the depth; `smoke` has few choices, so that it is soon checked."""
    if scale == "smoke":
        space = conv.space(widths=((4, 8), (8, 12)), depths=(1,), kernels=(3,), ratios=(1, 2), stem=4)
    elif scale == "small":
        space = conv.space(widths=((8, 12), (12, 20)), depths=(1, 2), kernels=(3, 5), ratios=(1, 2), stem=8)
    else:
        space = conv.space(widths=((64, 96), (96, 160)), depths=(2, 4, 6), stem=64)
    return conv.supernet(space, seed=seed)


def train(net: nas.Supernet, task: Classification, args: argparse.Namespace, seed: int, **options: Any) -> None:
    settings = {"steps": args.steps, "lr": args.lr, "device": args.device, "seed": seed, **options}
    Training(net, task, validate_every=settings["steps"], **settings).run(progress=False)
    net.to("cpu")


def alone(module: nn.Module, task: Classification, args: argparse.Namespace, seed: int, steps: int) -> nas.Supernet:
    """An ordinary network, trained on the labels."""
    net = as_supernet(module, example=task.example)
    train(net, task, args, seed, steps=steps, sampler=Uniform(1), loss=Labels())
    return net


def fresh(arch: nas.Arch, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    module: nn.Module = arch.space.build(arch)
    return module


class Pool(nn.Module):
    """(n, c, h, w) -> (n, c)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def modules(net: Any) -> list[nn.Module]:
    """A network of the family as three: stem and first stage, second stage, classifier."""
    net = copy.deepcopy(net)
    return [nn.Sequential(net.stem, net.stages[0]), nn.Sequential(*net.stages[1:]), nn.Sequential(Pool(), net.head)]


def meta_model(net: Any, seed: int) -> nn.Sequential:
    """One convolution for each module of `net`, at its widths and resolutions."""
    torch.manual_seed(seed)
    widths = [stage[-1].narrow.conv.out_channels for stage in net.stages]
    layers = [conv.ConvNorm(1, widths[0], 3), conv.ConvNorm(widths[0], widths[1], 3, 2)]
    return nn.Sequential(*layers, nn.Sequential(Pool(), nn.Linear(widths[1], net.head.out_features)))


def assembled(
    net: nas.Supernet, task: Classification, args: argparse.Namespace, seed: int, teachers: list[nn.Module] | None
) -> nas.Supernet:
    """The smallest network: half of the steps go to its modules, in a meta model, the rest to fine-tuning the whole."""
    student = fresh(net.space.smallest, seed)
    meta = alone(meta_model(student, seed), task, args, seed, args.steps)
    each, rest = max(1, args.steps // 6), max(1, args.steps // 2)
    options = {"steps": each, "lr": args.lr, "seed": seed, "device": args.device, "validate_every": each}
    extracted: Any = meta.extract(meta.space.largest)
    whole = train_modules(modules(student), list(extracted), task, teachers=teachers, **options)
    return alone(whole, task, args, seed, rest)


def run(method: str, seed: int, args: argparse.Namespace, teacher: nn.Module | None) -> dict[str, Any]:
    """Trains one supernet, or the smallest network alone, and measures it."""
    task, net, start = digits(seed=seed, shift=1), family(seed, args.scale), time.perf_counter()
    row: dict[str, Any] = {"seed": seed, "steps": args.steps, "split": args.split, "method": method}
    if method in ALONE:
        if method == "alone":
            made = alone(fresh(net.space.smallest, seed), task, args, seed, args.steps)
        else:
            assert teacher is not None
            made = assembled(net, task, args, seed, modules(teacher) if method == "m2m" else None)
        row["smallest"] = accuracy(made, made.space.largest, task, args)
    else:
        loss, sampler = loss_of(method, args, teacher), sampler_of(method, net, task, args.pool)
        train(net, task, args, seed, sampler=sampler, loss=loss)
        row |= measured(net, task, args)
    row = {**row, "seconds": round(time.perf_counter() - start, 1)}
    print(row, flush=True)
    return row


def accuracy(net: nas.Supernet, arch: nas.Arch, task: Classification, args: argparse.Namespace) -> float:
    return round(100 * subnet_metrics(net, arch, task, args.split)["accuracy"], 3)


def measured(net: nas.Supernet, task: Classification, args: argparse.Namespace) -> dict[str, float]:
    """Percent for the smallest, the largest and random archs, and the area under their front."""
    space, draw = net.space, random.Random(2024)
    chosen = dict.fromkeys([space.smallest, space.largest])
    while len(chosen) < args.archs + 2:
        chosen[space.sample(draw)] = None
    archs, most = list(chosen), net.params(space.largest)
    found = [accuracy(net, arch, task, args) for arch in archs]
    points = torch.tensor(
        [[100 - one, net.params(arch) / most] for one, arch in zip(found, archs, strict=True)]
    ).double()
    values, reference = points.numpy(), torch.tensor([50.0, 1.0]).double().numpy()
    return {
        "smallest": found[0],
        "largest": found[1],
        "random": round(statistics.mean(found[2:] or found), 3),
        "hypervolume": round(hypervolume(values[non_dominated(values)], reference) / 50, 4),
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation over the seeds, and the difference to the baseline of each seed."""
    found: dict[str, Any] = {"experiment": "distill_digits", "seeds": len({row["seed"] for row in rows})}
    of = {(row["method"], row["seed"]): row for row in rows}
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        base = "alone" if method in ALONE else "none" if method in (*DIVERGENCES, *TEACHERS) else "kl"
        for name in ("smallest", "largest", "random", "hypervolume"):
            values = [row[name] for row in own if name in row]
            if values:
                found[f"{method}_{name}"] = [round(statistics.mean(values), 4), round(statistics.pstdev(values), 4)]
            if (
                values
                and name in ("smallest", "hypervolume")
                and (base, own[0]["seed"]) in of
                and method not in (base, "none")
            ):
                gains = [round(row[name] - of[base, row["seed"]][name], 4) for row in own]
                found[f"{method}_{name}_minus_{base}"] = gains
    return {**found, "steps": rows[0]["steps"], "split": rows[0]["split"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it runs; writes no results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--archs", type=int, default=10, help="random archs that the front is taken from")
    parser.add_argument("--pool", type=int, default=200, help="random archs of the attentive samplers' histogram")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--split", choices=("valid", "test"), default="test")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    args = parser.parse_args()
    if args.smoke:
        args.seeds, args.steps, args.archs, args.pool, args.scale = 1, 1, 1, 10, "smoke"
    torch.set_num_threads(1)
    begun, start = time.strftime("%Y-%m-%dT%H:%M:%S"), time.perf_counter()
    rows: list[dict[str, Any]] = []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        teacher = None
        if set(args.methods) & {*TEACHERS, "incubated", "m2m"}:  # the largest network alone, as many steps
            arch = family(seed, args.scale).space.largest
            net = alone(fresh(arch, seed), digits(seed=seed, shift=1), args, seed, args.steps)
            teacher = net.extract(net.space.largest)
        of_seed = []
        for method in args.methods:
            of_seed.append(run(method, seed, args, teacher))
            print(f"seed {seed}: {len(of_seed)} of {len(args.methods)} methods", file=sys.stderr)
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
