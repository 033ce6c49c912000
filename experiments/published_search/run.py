"""Do published searches show their published effects where nothing has to be trained?  See README.md.

    python experiments/published_search/run.py --runs FOLDER --tables FOLDER [--parts devices tree] [--seeds 20]
    python experiments/published_search/run.py --report --runs FOLDER
    python experiments/published_search/run.py --smoke

A run is a file of the folder, and what is there is not repeated.  Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import devices
import numpy as np
import tree
from runs_common.folder import kept, opened

from nas.errors import NasError
from searchspaces.nasbench201 import Table
from searchspaces.nasbench201_table import all_cells, made_up

MARKS = (32, 64, 128, 256)


def timed(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Its figures, and the seconds of the processor that they took."""
    begun = time.process_time()
    return {**make(), "seconds": round(time.process_time() - begun, 2)}


def play_devices(folder: Path, table: Table, options: argparse.Namespace) -> None:
    """Each data set: one search of all devices, and one of each."""
    for data in options.data:
        task = devices.Task(table, data)
        for name, search in devices.searches(options).items():
            for seed in range(options.seeds):
                kept(
                    folder / f"{data}, {name}, {seed}.json", lambda s=search, t=task, n=seed: timed(lambda: t.run(s, n))
                )
            print(f"{data}: {name}", flush=True)


def play_tree(folder: Path, table: Table, options: argparse.Namespace) -> None:
    """Each problem: every search."""
    measured = tree.cells(table)
    for seed in range(options.seeds):
        for title, problem in {"deep": tree.deep(seed), "few": tree.few(seed), "cells": measured}.items():
            for name, make in tree.SEARCHES.items():
                if title == "cells" and "bisect" in name:
                    continue  # there is no number
                file = folder / f"{title}, {name}, {seed}.json"
                kept(
                    file, lambda p=problem, m=make, n=seed: timed(lambda: {"scores": p.play(m, n, options.evaluations)})
                )
        print(f"tree: seed {seed}", flush=True)


def runs(folder: Path, title: str, name: str) -> list[dict[str, Any]]:
    """In the order of the seeds."""
    found = (
        path for path in folder.glob(f"{title}, {name}, *.json") if path.stem.rsplit(", ", 1)[0] == f"{title}, {name}"
    )
    return [json.loads(path.read_text()) for path in sorted(found, key=lambda path: int(path.stem.rsplit(", ", 1)[1]))]


def spread(values: Iterable[float]) -> list[float]:
    """Mean and deviation."""
    numbers = list(values)
    return [round(statistics.fmean(numbers), 3), round(statistics.stdev(numbers), 3) if numbers[1:] else 0.0]


def figures_of_tree(folder: Path) -> dict[str, Any]:
    """Best score up to each mark, and in how many seeds it is above that of random search and of MCTS."""
    found: dict[str, Any] = {}
    for title in ("deep", "few", "cells"):
        best = {}
        for name in tree.SEARCHES:
            if rows := [run["scores"] for run in runs(folder, title, name)]:
                best[name] = np.maximum.accumulate(np.array(rows), 1)
        marks = [mark for mark in MARKS if best and mark <= min(one.shape[1] for one in best.values())]
        found[title] = {}
        for name, rows in best.items():
            line: dict[str, Any] = {str(mark): spread(rows[:, mark - 1].tolist()) for mark in marks}
            for rival in ("random", "mcts"):
                if name != rival and rival in best:
                    n = min(len(rows), len(best[rival]))
                    line[f"above {rival}"] = [int((rows[:n, m - 1] > best[rival][:n, m - 1]).sum()) for m in marks]
            found[title][name] = {**line, "seeds": len(rows)}
    return found


def report(folder: Path) -> dict[str, Any]:
    """Figures of what was run, printed as tables."""
    found = {
        "tree": figures_of_tree(folder),
        "devices": devices.figures(
            {(data, name): runs(folder, data, name) for data in devices.DATA for name in devices.names()}
        ),
    }
    for title, table in found["tree"].items():
        for name, line in table.items():
            cells = ["{:.3f} ± {:.3f}".format(*line[str(mark)]) for mark in MARKS if str(mark) in line]
            print(
                f"| {title} | {name} | {' | '.join(cells)} | {line.get('above random', '')} | {line.get('above mcts', '')} |"
            )
    for line in found["devices"].items():
        print(*line)
    return found


def synthetic(folder: Path) -> None:
    """A made-up table with the columns that this experiment reads."""
    rng, genes = np.random.default_rng(0), all_cells()
    columns = {}
    for name in ("c10_val_12", *devices.columns()):
        columns[name] = 10 + rng.random((6, 5))[np.arange(6), genes].sum(1)
    made_up(folder, genes, columns)


PARTS = {"tree": ("evaluations",), "devices": ("budget", "goal", "inner")}
"""What each is told beside the rest."""


def arguments() -> argparse.ArgumentParser:
    """Options."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--runs", type=Path, help="folder of the runs")
    words.add_argument("--tables", type=Path, help="folder with the tables of NAS-Bench-201")
    words.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    words.add_argument("--data", nargs="+", choices=devices.DATA, default=list(devices.DATA))
    words.add_argument("--seeds", type=int, default=20)
    words.add_argument("--evaluations", type=int, default=max(MARKS), help="of a search of the tree")
    words.add_argument("--budget", type=int, default=1_000, help="most evaluations of a search for devices")
    words.add_argument(
        "--goal", type=int, choices=devices.GOALS, default=max(devices.GOALS), help="where they stop, percent"
    )
    words.add_argument("--inner", type=int, default=5_000, help="archs that an inner search looks at")
    words.add_argument("--report", action="store_true", help="only print the figures of the runs")
    words.add_argument("--smoke", action="store_true", help="seconds, on a made-up table")
    return words


def main() -> None:
    """Runs what is asked for and prints the figures."""
    words = arguments()
    options = words.parse_args()
    if options.smoke:
        options.data, options.seeds, options.evaluations, options.budget, options.inner = ["c10"], 1, 32, 60, 100
    # What the other part alone is told may differ: both have one folder.
    others = [one for part, own in PARTS.items() if part not in options.parts for one in own]
    with opened(options, words, needs=["tables"], free=["data", *others]) as folder:
        if options.smoke:
            options.tables = folder / "tables"
            synthetic(options.tables)
        if not options.report:
            try:
                table = Table(options.tables, "c10_val_12", None)
                for part in options.parts:
                    {"devices": play_devices, "tree": play_tree}[part](folder, table, options)
            except NasError as error:
                sys.exit(f"error: {error}")
        print(json.dumps(report(folder)))


if __name__ == "__main__":
    main()
