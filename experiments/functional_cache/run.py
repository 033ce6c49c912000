"""Which archs are found to compute the same, and how many evaluations does that save?  See README.md.

    python experiments/functional_cache/run.py [--seeds 3] [--cells 3000] [--tables FOLDER]
    python experiments/functional_cache/run.py --smoke

Names cells of NAS-Bench-201 by what they compute and compares with the published functions and with algebra; then counts
what searches would have saved.  Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nas
from nas import files
from nas.evaluate import Function
from nas.metrics import Metric
from nas.search import Finished, make
from searchspaces import nasbench201
from searchspaces.nasbench201 import EDGES, OPS, Table, function

HERE = Path(__file__).parent


def normal(arch: nas.Arch) -> str:
    """What a cell computes, by algebra: sums are opened, average pooling is linear, what comes of nothing is nothing."""
    nodes = [Counter("x")]
    for into in (1, 2, 3):
        total: Counter[str] = Counter()
        for source in range(into):
            op, node = arch.choices[f"e{into}{source}"], nodes[source]
            if op == "skip_connect":
                total += node
            elif op == "avg_pool_3x3":
                total += Counter({f"P({term})": times for term, times in node.items()})
            elif op != "none" and node:
                total[f"{op}({'+'.join(sorted(node.elements()))})"] += 1
        nodes.append(total)
    return "+".join(sorted(nodes[-1].elements()))


def names(archs: list[nas.Arch], seed: int) -> list[str]:
    """The name of every cell, with a progress line."""
    named, begun, found = Function(nas.digits(), samples=2, seed=seed), time.perf_counter(), []
    for at, arch in enumerate(archs):
        found.append(named(arch))
        if at % 1000 == 999:
            print(f"seed {seed}: {at + 1} of {len(archs)} cells, {time.perf_counter() - begun:.0f} s", flush=True)
    return found


def compare(archs: list[nas.Arch], found: list[str], args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Hits among cells of one published function, and false hits among pairs that compute different things."""
    published, forms = [function(arch) for arch in archs], [normal(arch) for arch in archs]
    first: dict[str, str] = {}
    repeats = []  # whether a cell whose published function was there before got the same name
    for key, name in zip(published, found, strict=True):
        if key in first:
            repeats.append(first[key] == name)
        else:
            first[key] = name
    both = set(zip(found, forms, strict=True))
    rng = random.Random(seed)
    row = {arch.key: at for at, arch in enumerate(archs)}

    def near(at: int) -> int:
        """A cell that differs in one operation."""
        edge = rng.choice(EDGES)
        other = archs[at].space.arch({**archs[at].choices, edge: rng.choice(OPS)})
        return row.get(other.key, at)

    result: dict[str, Any] = {
        "cells": len(archs),
        "names": len(set(found)),
        "published functions": len(set(published)),
        "functions by algebra": len(set(forms)),
        "repeats of a published function": len(repeats),
        "of them found": sum(repeats),
        # A name that two algebraic forms share is a false hit somewhere; a form with two names a miss.
        "names of several forms": len(both) - len(set(found)),
        "forms of several names": len(both) - len(set(forms)),
    }
    for kind, draw in (("random", lambda _: rng.randrange(len(archs))), ("one operation apart", near)):
        pairs = false = 0
        while pairs < args.pairs:
            left = rng.randrange(len(archs))
            right = draw(left)
            if forms[left] != forms[right]:
                pairs += 1
                false += found[left] == found[right]
        result[f"pairs that differ, {kind}"] = pairs
        result[f"false hits, {kind}"] = false
    return result


def saved(space: nas.Space, args: argparse.Namespace) -> dict[str, list[float]]:
    """Share of the evaluations of a search that the cache answers: [mean, deviation] over seeds.

    By algebra, with which the names are compared above.  The landscape is a closed form (convolutions on paths to the output),
    since what is asked is how often archs repeat.
    """
    result = {}
    for name in ("random", "regularized-evolution"):
        shares = []
        for seed in range(args.runs):
            algorithm = make(name, seed=seed)
            algorithm.bind(space, [Metric("error", "min")])
            seen: set[str] = set()
            hits = 0
            for number in range(args.trials):
                arch = algorithm.ask(1)[0]
                form = normal(arch)
                hits += form in seen
                seen.add(form)
                quality = form.count("nor_conv_3x3") + 0.5 * form.count("nor_conv_1x1")
                algorithm.tell([Finished(number, arch, (-quality,))])
            shares.append(hits / args.trials)
        result[name] = [round(statistics.fmean(shares), 4), round(statistics.pstdev(shares), 4)]
    return result


def differences(folder: Path, found: list[str], archs: list[nas.Arch]) -> dict[str, float]:
    """Median difference of accuracy between two cells of one name, beside that between two trainings of one cell (points)."""
    table = Table(folder, latency=None)
    own = {arch.key: name for arch, name in zip(archs, found, strict=True)}
    by_row = [own.get(arch.key) for arch in table.archs(archs[0].space)]
    mean, first, second = table.values(["c10_test_200", "c10_test_200_s0", "c10_test_200_s1"]).T
    groups: dict[str, list[float]] = {}
    for name, value in zip(by_row, first, strict=True):
        if name is not None:
            groups.setdefault(name, []).append(float(value))
    twins = [abs(values[0] - values[1]) for values in groups.values() if len(values) > 1]
    again = np.abs(first - second)
    rng = np.random.default_rng(0)
    other = np.abs(mean[rng.permutation(len(mean))] - mean)
    return {
        "two cells of one name": round(statistics.median(twins), 4),
        "two trainings of one cell": round(float(np.nanmedian(again)), 4),
        "two random cells": round(float(np.median(other)), 4),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="of weights")
    parser.add_argument("--cells", type=int, default=3_000, help="cells that are named, of 15,625")
    parser.add_argument("--pairs", type=int, default=2_000, help="pairs that compute different things, of each kind")
    parser.add_argument("--trials", type=int, default=1_000, help="of the searches")
    parser.add_argument("--runs", type=int, default=10, help="seeds of the searches")
    parser.add_argument("--tables", type=Path, help="folder with the tables of NAS-Bench-201: adds what sharing costs")
    parser.add_argument("--smoke", action="store_true", help="few cells and pairs")
    args = parser.parse_args()
    if args.smoke:
        args.seeds, args.cells, args.pairs, args.trials, args.runs = 2, 100, 50, 50, 2
    return args


def main() -> None:
    torch.set_num_threads(1)
    args = arguments()
    space = nasbench201.space(width=4, cells=1, stages=1, channels=1)
    archs = list(space.enumerate())
    random.Random(0).shuffle(archs)
    archs = archs[: args.cells]
    found = [names(archs, seed) for seed in range(args.seeds)]
    figures: dict[str, Any] = {"seeds": [compare(archs, one, args, seed) for seed, one in enumerate(found)]}
    figures["share of evaluations saved"] = saved(space, args)
    if args.tables is not None:
        figures["accuracy differs by, points"] = differences(args.tables, found[0], archs)
    if not args.smoke:
        files.write(HERE / "results.json", json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
