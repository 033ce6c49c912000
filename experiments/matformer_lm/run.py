"""Is a nested feed-forward layer as good as one trained alone, and is Mix'n'Match on the front?  See README.md.

    python experiments/matformer_lm/run.py --runs FOLDER [--seeds 3] [--steps 1000] [--device cpu|cuda] [--scale small|full]

A decoder models the source text of Python's standard library.  Goes on where it stopped; --smoke takes seconds.  Prints one line
a seed and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from runs_common.folder import carry_out, kept

import nas
from nas.pareto import non_dominated
from nas.train import FixedList, Granular, Sampler, Training, subnet_metrics
from nas.train.text import LanguageModelling, python_corpus
from searchspaces import matformer

FRACTIONS = (1, 2, 4, 8)
SCALES: dict[str, dict[str, Any]] = {
    "smoke": {
        "depth": 2,
        "width": 16,
        "heads": 2,
        "context": 32,
        "batch": 4,
        "merges": 64,
        "limit": 200_000,
        "steps": 2,
    },
    "small": {
        "depth": 4,
        "width": 64,
        "heads": 4,
        "context": 64,
        "batch": 8,
        "merges": 256,
        "limit": 2_000_000,
        "steps": 1000,
    },
    "full": {
        "depth": 12,
        "width": 512,
        "heads": 8,
        "context": 512,
        "batch": 32,
        "merges": 2048,
        "limit": 12_000_000,
        "steps": 5000,
    },
}


def corpus(scale: dict[str, Any], seed: int) -> LanguageModelling:
    sizes = {"merges": scale["merges"], "limit": scale["limit"], "valid": 0.02, "test": 0.02}
    return python_corpus(scale["context"], scale["batch"], seed=seed, **sizes)


def make(scale: dict[str, Any], task: LanguageModelling, seed: int, fraction: int | None = None) -> nas.Supernet:
    """The nested supernet, or the network of one granularity alone."""
    fractions = FRACTIONS if fraction is None else (fraction,)
    space = matformer.space(
        depth=scale["depth"],
        width=scale["width"],
        heads=scale["heads"],
        fractions=fractions,
        causal=True,
        length=scale["context"],
        values=task.vocabulary,
    )
    return matformer.supernet(space, seed=seed)


def fit(net: nas.Supernet, task: LanguageModelling, plan: tuple[Sampler, int], args: argparse.Namespace) -> float:
    """The one recipe of all models; its seconds."""
    sampler, steps = plan
    settings = {"steps": steps, "validate_every": steps, "lr": args.lr, "device": args.device}
    return Training(net, task, sampler=sampler, loss=Granular(), seed=task.seed, **settings).run(progress=False).seconds


def mixes(space: nas.Space, count: int) -> dict[str, list[nas.Arch]]:
    """Archs whose layers differ, the same for every seed: random ones, and those that grow or shrink with the depth.

    "Growing" goes from one granularity to the next one up, once, at each place; the authors advise gentle growth.
    """
    draw, uniform = random.Random(2024), set(matformer.granularities(space))
    chosen: dict[nas.Arch, None] = {}
    while len(chosen) < count:
        arch = space.sample(draw)
        if arch not in uniform:
            chosen[arch] = None
    depth, sizes = len(space.decisions), len(space.decisions[0].labels)
    steps = [(size, place) for size in range(sizes - 1) for place in range(1, depth)]
    growing = [[size] * place + [size + 1] * (depth - place) for size, place in steps]
    return {
        "random": list(chosen),
        "growing": [space.from_genome(genes) for genes in growing],
        "shrinking": [space.from_genome(genes[::-1]) for genes in growing],
    }


def compare(task: LanguageModelling, seed: int, scale: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Test figures of each granularity for each way of training, and of mixes of the nested one."""
    uniform = FixedList([dict(arch.choices) for arch in matformer.granularities(make(scale, task, seed).space)])
    steps, each = args.steps or scale["steps"], len(FRACTIONS)
    methods: dict[str, tuple[Sampler, int]] = {
        "all_each_step": (uniform, steps),
        "one_each_step": (FixedList(uniform.choices, n=1), each * steps),  # as many passes
        "largest_only": (FixedList([{}]), steps),
    }
    found: dict[str, Any] = {}
    for method, plan in methods.items():
        net = make(scale, task, seed)
        seconds = fit(net, task, plan, args)
        found[method] = {"seconds": seconds, "bits": [bits(net, a, task) for a in matformer.granularities(net.space)]}
        if method == "all_each_step":
            macs = [net.macs(arch) for arch in matformer.granularities(net.space)]
            trained = list(zip(macs, found[method]["bits"], strict=True))
            found["mixes"] = {
                kind: judge([(net.macs(arch), bits(net, arch, task)) for arch in archs], trained)
                for kind, archs in mixes(net.space, 4 if args.smoke else 24).items()
            }
    found["separate"] = {"seconds": found["largest_only"]["seconds"], "bits": found["largest_only"]["bits"][:1]}
    for fraction in FRACTIONS[1:]:
        net = make(scale, task, seed, fraction)
        found["separate"]["seconds"] += fit(net, task, methods["largest_only"], args)
        found["separate"]["bits"].append(bits(net, net.space.largest, task))
    found["macs"] = macs
    return found


def bits(net: nas.Supernet, arch: nas.Arch, task: LanguageModelling) -> float:
    """Bits per byte on the test split."""
    return subnet_metrics(net, arch, task, "test")["bits_per_byte"]


def judge(points: list[tuple[int, float]], trained: list[tuple[int, float]]) -> dict[str, float]:
    """Mixes against the line through the trained granularities, and against their front."""
    trained = sorted(trained)
    line = np.interp([macs for macs, _ in points], [macs for macs, _ in trained], [value for _, value in trained])
    above = np.array([value for _, value in points]) - line
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
    for method in ("all_each_step", "one_each_step", "largest_only", "separate"):
        values = np.array([seed[method]["bits"] for seed in seeds])
        gaps = values - np.array([seed["separate"]["bits"] for seed in seeds])
        table[method] = {
            "seconds": round(statistics.mean(seed[method]["seconds"] for seed in seeds), 1),
            "bits_per_byte": values.mean(0).round(4).tolist(),
            "deviation": values.std(0).round(4).tolist(),
            "gap": gaps.mean(0).round(4).tolist(),
            "gap_deviation": gaps.std(0).round(4).tolist(),
        }
    mixed = {
        kind: {name: round(statistics.mean(seed["mixes"][kind][name] for seed in seeds), 4) for name in judged}
        for kind, judged in seeds[0]["mixes"].items()
    }
    return {"fractions": FRACTIONS, "macs": seeds[0]["macs"], "methods": table, "mixes": mixed}


def main() -> None:
    """Runs what is asked for and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of each network alone; those of the scale unless given")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it runs")
    args = parser.parse_args()
    if args.smoke:
        args.seeds = 1
    carry_out(everything, args, parser)


def everything(args: argparse.Namespace, folder: Path) -> None:
    """All seeds that are not there yet, and the figures."""
    scale = SCALES["smoke" if args.smoke else args.scale]
    begun, seeds = time.perf_counter(), []
    for seed in range(args.seeds):
        file = folder / f"{seed}.json"
        seeds.append(kept(file, lambda seed=seed: compare(corpus(scale, seed), seed, scale, args)))
        print(seed, json.dumps(seeds[-1]), flush=True)
    figures = {"experiment": "matformer_lm", "steps": args.steps or scale["steps"], "seeds": args.seeds}
    figures |= {**summary(seeds), "seconds": round(time.perf_counter() - begun)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
