"""What do our zero-cost proxies agree with, and what does combining proxies win?  See README.md.

    python experiments/proxies/run.py --tables FOLDER [--cells 120] [--seeds 3] [--runs 20] [--part ours]
    python experiments/proxies/run.py --smoke

Three parts.  `ours`: our proxies of untrained cells at reduced size, their Kendall τ with the table's own proxies and accuracies.
`robot`: the best of 20 cells by RoBoT, by each single proxy of the table, and by random search.  `distilled` (which needs no
table): how well proxies rank cells by the accuracy of distilled students.  Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr
from torch.nn import functional

import nas
from nas import files
from nas.errors import NasError
from nas.metrics import Metric
from nas.proxies import NAMES, Proxies
from nas.search import Algorithm, Exhausted, Finished, RandomSearch, RoBoT
from nas.train import Classification, as_supernet, digits
from searchspaces import nasbench201
from searchspaces.nasbench201 import Table
from searchspaces.nasbench201_table import all_cells, made_up

HERE = Path(__file__).parent
# Our name -> the table's, without its data set.
COLUMNS = {
    "grad_norm": "grad_norm",
    "snip": "snip",
    "grasp": "grasp",
    "fisher": "fisher",
    "synflow": "synflow",
    "jacob_cov": "jacov",
    "naswot": "nwot",
    "zen": "zen",
}
PUBLISHED = ("grad_norm", "snip", "grasp", "fisher", "synflow", "jacob_cov")  # the six that RoBoT combines
# Data set -> (whose proxies, the accuracy that a query measures, the accuracy that is reported)
TASKS = {
    "c10": ("c10", "c10_val_12", "c10_test_200"),
    "c100": ("c10", "c100_val_12", "c100_test_200"),
    "in16": ("in16", "in16_val_12", "in16_test_200"),
}
# The columns that RoBoT's options were chosen on: one accuracy each, of cells trained for other tasks.
TUNED = {"ninapro": ("c10", "ninapro_acc", "ninapro_acc"), "darcy": ("c10", "darcy_score", "darcy_score")}
QUERIES = 20


def images(side: int, batch: int) -> Classification:
    """The digits, enlarged to `side` pixels."""
    small = digits(batch=batch)
    (x, y), (valid_x, valid_y) = small.train, small.valid
    big = [functional.interpolate(one, (side, side), mode="bilinear") for one in (x, valid_x)]
    return Classification((big[0], y), (big[1], valid_y), batch=batch)


def tau(a: np.ndarray, b: np.ndarray) -> float:
    """Kendall's τ over the cells that both know; undefined scores count as lowest."""
    known = ~(np.isnan(a) | np.isnan(b))
    return float(kendalltau(a[known], b[known]).statistic)


def mean(values: list[float]) -> list[float]:
    """Mean and deviation."""
    return [round(statistics.fmean(values), 4), round(statistics.pstdev(values), 4)]


# -- ours


def ours(table: Table, args: argparse.Namespace) -> dict[str, Any]:
    """τ of each of our proxies with the table's column of the same name and with accuracies; the table's own beside it."""
    space = nasbench201.space(width=args.width, cells=args.repeats, channels=1)
    columns = [f"zc_c10_{name}" for name in COLUMNS.values()]
    accuracies = [test for _, _, test in TASKS.values()]
    known = np.flatnonzero(~np.isnan(table.values(columns)).any(1))
    rows = random.Random(0).sample(known.tolist(), min(args.cells, len(known)))
    published = dict(zip(COLUMNS, table.values(columns)[rows].T, strict=True))
    published |= dict(
        zip(("params", "macs"), table.values(["params_m_c10", "flops_m_c10_official"])[rows].T, strict=True)
    )
    truth = dict(zip(accuracies, table.values(accuracies)[rows].T, strict=True))
    archs = table.archs(space)
    scores = []
    for seed in range(args.seeds):
        proxies = Proxies(NAMES, images(args.side, args.batch), seed=seed)
        begun, found = time.perf_counter(), []
        for at, row in enumerate(rows):
            found.append(list(proxies(archs[row]).values()))
            if at % 20 == 19:
                print(f"seed {seed}: {at + 1} of {len(rows)} cells, {time.perf_counter() - begun:.0f} s", flush=True)
        scores.append(np.array(found, dtype=np.float64))
    result: dict[str, Any] = {}
    for column, name in enumerate(NAMES):
        mine = [score[:, column] for score in scores]
        result[name] = {
            "table": mean([tau(one, published[name]) for one in mine]) if name in published else None,
            "seeds": mean([tau(a, b) for a, b in itertools.combinations(mine, 2)]) if len(mine) > 1 else None,
            "ours": {test: mean([tau(one, truth[test]) for one in mine]) for test in accuracies},
            "tables": {test: round(tau(published[name], truth[test]), 4) for test in accuracies}
            if name in published
            else None,
        }
        print(name, json.dumps(result[name]), flush=True)
    return result


# -- DisWOT beside students that were distilled


def distilled(_: Table, args: argparse.Namespace) -> dict[str, Any]:
    """Spearman's correlation of proxies with the accuracy of distilled cells, and between initial weights."""
    space = nasbench201.space(width=args.width, cells=args.repeats, channels=1)
    task, draw = images(args.side, 64), random.Random(2)
    archs = list(dict.fromkeys(space.sample(draw) for _ in range(10 * args.students)))[: args.students]
    seeds = range(args.seeds)
    scored = {
        name: [
            np.array([one[name] for one in map(Proxies([name], task, batch=batch, seed=10 * seed, draws=draws), archs)])
            for seed in seeds
        ]
        for name, draws, batch in (("diswot", args.draws, 64), ("naswot", 1, 32), ("params", 1, None))
    }
    accuracies = np.array([[_student(space, arch, task, seed, args) for arch in archs] for seed in seeds])
    found: dict[str, Any] = {
        "accuracies between seeds": mean([rank(a, b) for a, b in itertools.combinations(accuracies, 2)]),
        "accuracy, least to most": [
            round(float(accuracies.mean(0).min()), 1),
            round(float(accuracies.mean(0).max()), 1),
        ],
    }
    for name, scores in scored.items():
        found[name] = {
            "seeds": mean([rank(a, b) for a, b in itertools.combinations(scores, 2)]),
            "distilled accuracy": mean([rank(one, accuracies.mean(0)) for one in scores]),
        }
    return found


def _student(space: nas.Space, arch: nas.Arch, task: Classification, seed: int, args: argparse.Namespace) -> float:
    """Validation accuracy of a cell taught by the trained largest, in percent."""
    with tempfile.TemporaryDirectory() as folder:
        teacher = _teacher(space, task, args.epochs)
        options: dict[str, Any] = {"epochs": args.epochs, "lr": 1e-2, "seed": seed}
        one = nas.Trained(task, folder, teacher=teacher, weight=0.5, **options)
        return 100 * one(arch)["accuracy"]


@functools.cache
def _teacher(space: nas.Space, task: Classification, epochs: int) -> nas.Supernet:
    """The largest cell, trained twice as long as a student."""
    net = as_supernet(space.build(space.largest), example=task.example)
    steps = 2 * epochs * task.steps_per_epoch
    nas.Training(net, task, sampler=nas.Uniform(1), loss=nas.Labels(), steps=steps, lr=1e-2).run(progress=False)
    return net


def rank(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation."""
    return float(spearmanr(a, b).statistic)


# -- RoBoT


class Lookup:
    """The table's proxies, as RoBoT asks for them; NaN for cells that it has none of."""

    def __init__(self, table: Table, columns: list[str]) -> None:
        self.rows = {arch.key: row for arch, row in zip(table.archs(), table.values(columns), strict=True)}
        self.missing = np.full(len(columns), np.nan)

    def __call__(self, archs: Any) -> np.ndarray:
        """(n, columns)."""
        return np.array([self.rows.get(arch.key, self.missing) for arch in archs])


def search(algorithm: Algorithm, keys: dict[str, int], valid: np.ndarray) -> list[int]:
    """Rows of the cells that `algorithm` asks for; a query tells it the validation accuracy."""
    algorithm.bind(nasbench201.space(), [Metric("accuracy", "max")])
    asked: list[int] = []
    for number in range(20 * QUERIES):  # cells that the table lacks fail, and do not count
        try:
            arch = algorithm.ask(1)[0]
        except Exhausted:
            break
        row = keys.get(arch.key)
        if row is None:
            algorithm.tell([Finished(number, arch, None, 0.0, "FAILED")])
            continue
        asked.append(row)
        algorithm.tell([Finished(number, arch, (-float(valid[row]),))])
        if len(asked) == QUERIES:
            break
    return asked


def best(rows: list[int], valid: np.ndarray, test: np.ndarray) -> tuple[float, float, int]:
    """(validation, test) accuracy of the row that validates best, and with which query it came."""
    row = max(rows, key=lambda one: valid[one])
    return float(valid[row]), float(test[row]), rows.index(row) + 1


def robot(table: Table, args: argparse.Namespace) -> dict[str, Any]:
    """What each search finds with 20 queries: [mean, deviation] of the best validation accuracy and of its test accuracy."""
    archs, result = table.archs(), {}
    for name, (source, valid_column, test_column) in {**TASKS, **TUNED}.items():
        valid, test = table.values([valid_column, test_column]).T
        single = {ours: f"zc_{source}_{theirs}" for ours, theirs in COLUMNS.items()}
        single |= {"params": "params_m_c10", "macs": "flops_m_c10_official"}
        # Every search is given the cells that have proxies.
        has = ~np.isnan(table.values([single[one] for one in PUBLISHED])).any(1)
        keys = {arch.key: row for row, arch in enumerate(archs) if has[row]}
        found: dict[str, list[tuple[float, float, int]]] = {}
        for one, column in single.items():
            score = np.where(has, np.nan_to_num(table.values([column])[:, 0], nan=-np.inf), -np.inf)
            found[one] = [best(np.argsort(-score, kind="stable")[:QUERIES].tolist(), valid, test)]
        for label, chosen in (("robot", PUBLISHED), ("robot, all proxies", tuple(single))):
            proxies = Lookup(table, [single[one] for one in chosen])
            found[label] = [
                best(search(RoBoT(proxies, pool=15_625, seed=seed), keys, valid), valid, test)
                for seed in range(args.runs)
            ]
        found["random"] = [best(search(RandomSearch(seed=seed), keys, valid), valid, test) for seed in range(args.runs)]
        result[name] = summary(found, valid[has], test[has])
        print(name, json.dumps(result[name]), flush=True)
    return result


def summary(found: dict[str, list[tuple[float, float, int]]], valid: np.ndarray, test: np.ndarray) -> dict[str, Any]:
    """Figures of one data set; in how many runs RoBoT's best is above, or at least, the best single proxy's (in hindsight)."""
    out: dict[str, Any] = {
        label: {
            "valid": mean([one[0] for one in runs]),
            "test": mean([one[1] for one in runs]),
            "query": mean([one[2] for one in runs]),
            "cells that validate better": mean([float((valid > one[0]).sum()) for one in runs]),
        }
        for label, runs in found.items()
    }
    for kind, at in (("valid", 0), ("test", 1)):
        top = max(PUBLISHED, key=lambda one: found[one][0][at])
        bar = found[top][0][at]
        runs = [one[at] for one in found["robot"]]
        out[f"best single by {kind}"] = {
            "proxy": top,
            kind: bar,
            "share of robot above": round(statistics.fmean(one > bar for one in runs), 4),
            "share of robot at least": round(statistics.fmean(one >= bar for one in runs), 4),
        }
    return out | {"best of all": {"valid": float(valid.max()), "test": float(test.max())}}


# -- a table of nothing, for the smoke mode


def synthetic(folder: Path, count: int = 300) -> None:
    """A table with the columns that this experiment reads; accuracies follow the operations, proxies follow those with noise."""
    rng = np.random.default_rng(0)
    genes = rng.permutation(all_cells())[:count]
    truth = (genes == 3).sum(1) + 0.5 * (genes == 2).sum(1) + 0.1 * genes[:, 0]
    columns: dict[str, np.ndarray] = {}
    for _, valid, test in {**TASKS, **TUNED}.values():
        columns[valid], columns[test] = truth + rng.normal(0, 0.2, count), truth
    for source, theirs in itertools.product(("c10", "in16"), COLUMNS.values()):
        columns[f"zc_{source}_{theirs}"] = truth + rng.normal(0, 2, count)
    columns["params_m_c10"] = columns["flops_m_c10_official"] = (genes == 3).sum(1) * 9.0 + (genes == 2).sum(1)
    made_up(folder, genes, columns)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, help="folder with the tables of NAS-Bench-201")
    parser.add_argument("--cells", type=int, default=120, help="cells that our proxies score")
    parser.add_argument("--seeds", type=int, default=3, help="initial weights of each of them")
    parser.add_argument("--runs", type=int, default=20, help="seeds of RoBoT and of random search")
    parser.add_argument("--width", type=int, default=8, help="channels of the first stage (published: 16)")
    parser.add_argument("--repeats", type=int, default=1, help="cells of a stage (published: 5)")
    parser.add_argument("--side", type=int, default=16, help="pixels of an image's side (published: 32)")
    parser.add_argument("--batch", type=int, default=32, help="samples that are looked at (published: 64)")
    parser.add_argument("--students", type=int, default=50, help="cells that are distilled")
    parser.add_argument("--epochs", type=int, default=8, help="of each distillation")
    parser.add_argument("--draws", type=int, default=3, help="initial weights that DisWOT's scores are averaged over")
    parser.add_argument(
        "--part", choices=["ours", "robot", "distilled"], help="only this one; the others stay as results.json has them"
    )
    parser.add_argument("--smoke", action="store_true", help="a made-up table, few cells, one run")
    args = parser.parse_args()
    if args.smoke:
        args.cells, args.seeds, args.runs, args.width, args.side, args.batch = 5, 2, 1, 4, 8, 8
        args.students, args.epochs, args.draws = 3, 1, 1
    elif args.tables is None and args.part != "distilled":
        parser.error("give --tables FOLDER, or --smoke")
    return args


def main() -> None:
    torch.set_num_threads(1)
    args = arguments()
    with tempfile.TemporaryDirectory() as made:
        folder = args.tables
        if args.smoke or folder is None:  # which looks at no table
            folder = Path(made) / "tables"
            synthetic(folder)
        try:
            table = Table(folder, latency=None)
            parts = {"ours": ours, "robot": robot, "distilled": distilled}
            figures = {name: part(table, args) for name, part in parts.items() if args.part in (None, name)}
        except NasError as error:
            sys.exit(f"error: {error}")
    if not args.smoke:
        kept = HERE / "results.json"
        before = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
        files.write(kept, json.dumps({**before, **figures}, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
