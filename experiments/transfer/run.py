"""What does a study win by earlier ones, and what does it lose when they mislead it?  See README.md.

    python experiments/transfer/run.py --tables FOLDER [--seeds 10] [--workers 1]
    python experiments/transfer/run.py --smoke

Searches on NAS-Bench-201's table, cold and with one or two earlier studies: of another data set, of another device, and of
objectives that are reversed.  Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nas
from nas import files
from nas.errors import NasError
from nas.metrics import Metric
from nas.pareto import hypervolume, non_dominated
from nas.search import NSGA2, Algorithm, Finished, RandomSearch, Source, Surrogate, Transfer
from nas.search.sources import chosen
from searchspaces import nasbench201
from searchspaces.nasbench201 import Table
from searchspaces.nasbench201_table import all_cells, made_up

HERE = Path(__file__).parent
OBJECTIVES = (Metric("accuracy", "max"), Metric("latency_ms", "min"))
# Name -> (columns of the new study, columns of the earlier one)
TASKS = {
    "another data set": (("c100_test_200", "hw_c100_edgegpu_latency"), ("c10_test_200", "hw_c10_edgegpu_latency")),
    "another device": (("in16_test_200", "hw_in16_raspi4_latency"), ("in16_test_200", "hw_in16_edgegpu_latency")),
    "both": (("c100_test_200", "hw_c100_eyeriss_latency"), ("c10_test_200", "hw_c10_pixel3_latency")),
}
# Name -> sign of accuracy and latency in each of the earlier studies; -1 searched for the worst.
SOURCES: dict[str, list[tuple[int, int]]] = {
    "cold": [],
    "similar": [(1, 1)],
    "reversed": [(-1, -1)],
    "accuracy reversed": [(-1, 1)],
    "similar and reversed": [(1, 1), (-1, -1)],
}
INNER: dict[str, Callable[[int], Algorithm]] = {
    "nsga2": lambda seed: NSGA2(population=20, seed=seed),
    "surrogate": lambda seed: Surrogate(seed=seed),
}
AT = (20, 50, 100)  # evaluations after which hypervolumes are compared
SOURCE_TRIALS = 200
BATCH = 4  # proposals that are evaluated together


class Landscape:
    """Minimised objectives of every cell, and what of the true front's hypervolume a set of cells has.

    The reference is a tenth of the true front's range beyond its worst values, as in `experiments/nb201_search`.
    """

    def __init__(self, table: Table, columns: tuple[str, str]) -> None:
        values = table.values(columns) * [-1, 1]
        self.values = values
        self.known = ~np.isnan(values).any(1)
        front = values[self.known]
        front = front[non_dominated(front)]
        self.reference = front.max(0) + 0.1 * np.ptp(front, 0)
        self.all = hypervolume(front, self.reference)

    def share(self, rows: list[int]) -> float:
        """Of the true front's hypervolume."""
        return hypervolume(self.values[rows], self.reference) / self.all


def search(algorithm: Algorithm, space: nas.Space, values: np.ndarray, rows: dict[str, int], trials: int) -> list[int]:
    """Rows of the cells that `algorithm` asks for, in order; cells without a value have failed and count too."""
    algorithm.bind(space, OBJECTIVES)
    asked: list[int] = []
    while len(asked) < trials:
        told = []
        for arch in algorithm.ask(min(BATCH, trials - len(asked))):
            row = rows[arch.key]
            found = None if np.isnan(values[row]).any() else tuple(values[row].tolist())
            told.append(Finished(len(asked), arch, found, 0.0, "FAILED" if found is None else "COMPLETED"))
            asked.append(row)
        algorithm.tell(told)
    return asked


class Bench:
    """Runs on one table."""

    def __init__(self, table: Table, trials: int, source_trials: int) -> None:
        self.table, self.trials, self.source_trials = table, trials, source_trials
        self.space = nasbench201.space()
        self.archs = table.archs(self.space)
        self.rows = {arch.key: row for row, arch in enumerate(self.archs)}
        self.landscape = cache(lambda columns: Landscape(table, columns))
        self.source = cache(self._source)

    def _source(self, columns: tuple[str, str], signs: tuple[int, int], seed: int) -> Source:
        """An earlier study: NSGA-II for the objectives with these signs, stored as if they were the new study's."""
        values = self.landscape(columns).values * signs
        asked = search(NSGA2(population=20, seed=1000 + seed), self.space, values, self.rows, self.source_trials)
        measured = [row for row in asked if not np.isnan(values[row]).any()]
        kept = [measured[at] for at in chosen(values[measured], np.zeros(len(measured)))]
        names = tuple(f"{metric.goal} {metric.name}" for metric in OBJECTIVES)
        rows = [self.archs[row].row() for row in kept]
        return Source(f"signs {signs}", names, self.space.schema(), rows, values[kept], np.zeros(len(kept)))

    def run(self, task: str, inner: str, sources: str, seed: int) -> dict[str, Any]:
        """Shares of the true front's hypervolume, how many evaluations 95 % took, and what the sources were taken for."""
        target, earlier = TASKS[task]
        landscape = self.landscape(target)
        given = [self.source(earlier, signs, seed) for signs in SOURCES[sources]]
        algorithm = INNER[inner](seed) if inner in INNER else RandomSearch(seed=seed)
        if given:
            algorithm = transfer = Transfer(algorithm, given, seed=seed)
        asked = search(algorithm, self.space, landscape.values, self.rows, self.trials)
        asked = [row if landscape.known[row] else -1 for row in asked]
        shares = [landscape.share([row for row in asked[:n] if row >= 0]) for n in range(1, self.trials + 1)]
        enough = next((n for n, share in enumerate(shares, 1) if share >= 0.95), None)
        out: dict[str, Any] = {str(n): shares[n - 1] for n in AT if n <= self.trials}
        out["to 95 %"] = enough
        if given:
            out["similarity"] = [round(one, 3) for one in transfer.similarities().values()]
        return out


def summary(runs: list[dict[str, Any]], cold: list[dict[str, Any]], trials: int) -> dict[str, Any]:
    """[mean, standard error] of shares and of gains over cold, worst seed's gain, median evaluations to 95 %."""
    out: dict[str, Any] = {}
    for n in (str(n) for n in AT if n <= trials):
        gains = [100 * (run[n] - other[n]) for run, other in zip(runs, cold, strict=True)]
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
        out[f"share after {n}"] = round(100 * statistics.fmean(run[n] for run in runs), 2)
        out[f"gain after {n}"] = [round(statistics.fmean(gains), 2), round(error, 2)]
        out[f"worst seed after {n}"] = round(min(gains), 2)
    reached = [run["to 95 %"] or trials + 1 for run in runs]
    out["evaluations to 95 %"] = statistics.median(reached)  # one more than there were stands for "not reached"
    out["reached 95 %"] = sum(run["to 95 %"] is not None for run in runs)
    return out


def one_task(args: argparse.Namespace, folder: Path, task: str, inner: str) -> dict[str, Any]:
    """Figures of one task and one inner algorithm; in a process of its own."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    bench = Bench(Table(folder, latency=None, accuracy=TASKS[task][0][0]), args.trials, args.source_trials)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    if inner == "random":
        runs = {"cold": [bench.run(task, inner, "cold", seed) for seed in seeds]}
        return {"random": summary(runs["cold"], runs["cold"], args.trials)}
    runs = {sources: [bench.run(task, inner, sources, seed) for seed in seeds] for sources in SOURCES}
    found = {sources: summary(some, runs["cold"], args.trials) for sources, some in runs.items()}
    # How far two cold searches of different seeds are apart: what the worst seed of a comparison is to be held against.
    shifted = runs["cold"][1:] + runs["cold"][:1]
    found["cold, next seed"] = summary(shifted, runs["cold"], args.trials)
    for sources, some in runs.items():
        if SOURCES[sources]:
            likeness = [statistics.fmean(one) for one in zip(*(run["similarity"] for run in some), strict=True)]
            found[sources]["similarity"] = [round(one, 2) for one in likeness]
    print(f"{task}, {inner}: {time.perf_counter() - began:.0f} s", json.dumps(found), flush=True)
    return found


def compare(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Figures of every task and inner algorithm, and over all of them."""
    inners = [args.inner] if args.inner else list(INNER)
    jobs = list(itertools.product(TASKS, [*reversed(inners), "random"]))
    if args.workers > 1:
        with ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn")) as pool:
            waiting = [pool.submit(one_task, args, folder, *job) for job in jobs]
            found = [one.result() for one in waiting]
    else:
        found = [one_task(args, folder, *job) for job in jobs]
    tasks = {f"{task}, {inner}": one for (task, inner), one in zip(jobs, found, strict=True)}
    figures: dict[str, Any] = {"trials": args.trials, "seeds": args.seeds, "tasks": tasks}
    for sources in SOURCES:
        rows = [one[sources] for one in found if sources in one]
        gains = {n: [row[f"gain after {n}"][0] for row in rows] for n in AT if n <= args.trials}
        figures[sources] = {
            f"{what} gain after {n}": round(pick(gains[n]), 2)
            for n in gains
            for what, pick in (("mean", statistics.fmean), ("worst task's", min))
        }
    return figures


def synthetic(folder: Path) -> None:
    """A table of all cells with the columns that this experiment reads; devices and data sets are alike."""
    rng, genes = np.random.default_rng(0), all_cells()
    quality = (genes == 3).sum(1) + 0.6 * (genes == 2).sum(1) + 0.2 * (genes[:, 3] == 1)
    cost = (genes == 3).sum(1) + 0.3 * (genes == 2).sum(1) + 0.2 * (genes == 4).sum(1)
    columns: dict[str, np.ndarray] = {}
    for names in itertools.chain.from_iterable(TASKS.values()):
        for name, truth in zip(names, (quality, cost), strict=True):
            if name not in columns:
                columns[name] = truth + rng.normal(0, 0.1, len(genes))
    made_up(folder, genes, columns)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, help="folder with the tables of NAS-Bench-201")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--inner", choices=list(INNER), help="only this algorithm; writes no results")
    parser.add_argument("--smoke", action="store_true", help="a made-up table, NSGA-II alone, two seeds")
    parser.add_argument("--workers", type=int, default=1, help="processes; results do not depend on them")
    args = parser.parse_args()
    args.source_trials = 60 if args.smoke else SOURCE_TRIALS
    if args.smoke:
        args.seeds, args.trials, args.inner = 2, 50, "nsga2"
    elif args.tables is None:
        parser.error("give --tables FOLDER, or --smoke")
    return args


def main() -> None:
    torch.set_num_threads(1)
    args = arguments()
    with tempfile.TemporaryDirectory() as made:
        folder = args.tables
        if args.smoke:
            folder = Path(made) / "tables"
            synthetic(folder)
        try:
            figures = compare(args, folder)
        except NasError as error:
            sys.exit(f"error: {error}")
    if not args.smoke and not args.inner:
        files.write(HERE / "results.json", json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
