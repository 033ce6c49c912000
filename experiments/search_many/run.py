"""How much of the hypervolume does a search find with three and four objectives?  See README.md.

    python experiments/search_many/run.py --tables FOLDER --runs FOLDER [--seeds 10] [--searches NAME …]
    python experiments/search_many/run.py --runs FOLDER --report
    python experiments/search_many/run.py --smoke

Runs are files in the folder, and what is there is not repeated.  Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from peers import SEARCHES
from problems import Problem, problems

from nas.pareto import hypervolume, non_dominated
from searchspaces.nasbench201_table import Table

MARKS = (50, 100, 200)


def one(problem: Problem, search: str, seed: int, evaluations: int, file: Path) -> None:
    """One run, kept."""
    if file.exists():
        return
    begun = time.process_time()
    points = SEARCHES[search](problem, evaluations, seed)
    seconds = (time.process_time() - begun) / evaluations
    half = file.with_suffix(".half.npz")
    np.savez(half, points=points, seconds=seconds)
    half.replace(file)
    print(f"{file.stem}: {1000 * seconds:.1f} ms an evaluation", flush=True)


def front_of(points: np.ndarray) -> np.ndarray:
    """The non-dominated ones."""
    return points[non_dominated(points)]


def figures(folder: Path, which: dict[str, Problem]) -> dict[str, Any]:
    """Mean share of the hypervolume after so many evaluations, its standard deviation, and milliseconds an evaluation.

    The whole is the front of all cells, or of all that any run has found; the reference point is a tenth beyond its worst values.
    """
    result: dict[str, Any] = {}
    for name, problem in which.items():
        found = {file: np.load(file) for file in sorted(folder.glob(f"{name}, *.npz"))}
        if not found:
            continue
        everything = [one["points"] for one in found.values()]
        whole = front_of(problem.values(problem.cells) if problem.cells is not None else np.concatenate(everything))
        best, reach = whole.min(0), np.ptp(whole, 0) * 1.1
        volume = hypervolume((whole - best) / reach, np.ones(whole.shape[1]))
        shares: dict[str, list[list[float]]] = {}
        seconds: dict[str, list[float]] = {}
        for file, run in found.items():
            search = file.stem.split(", ")[1]
            points = (run["points"] - best) / reach
            reached = [
                hypervolume(front_of(points[:mark]), np.ones(len(best))) / volume if len(points) >= mark else np.nan
                for mark in MARKS
            ]
            shares.setdefault(search, []).append(reached)
            seconds.setdefault(search, []).append(float(run["seconds"]))
        result[name] = {
            search: {
                "seeds": len(rows),
                **{
                    str(mark): [round(float(np.mean(column)), 4), round(float(np.std(column)), 4)]
                    for mark, column in zip(MARKS, np.array(rows).T, strict=True)
                    if not np.isnan(column).any()
                },
                "ms": round(1000 * float(np.median(seconds[search])), 1),
            }
            for search, rows in shares.items()
        }
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, help="folder with the tables of NAS-Bench-201")
    parser.add_argument("--runs", type=Path, help="folder of the runs")
    parser.add_argument("--problems", nargs="+")
    parser.add_argument("--searches", nargs="+", choices=list(SEARCHES), default=list(SEARCHES))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--report", action="store_true", help="only the figures of what was run")
    parser.add_argument("--smoke", action="store_true", help="one closed form, a few evaluations")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.runs or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        which = problems(Table(args.tables, "c10_test_200", None) if args.tables else None)
        names = ["additive 3"] if args.smoke else args.problems or list(which)
        for search in args.searches if not args.report else ():
            for name in names:
                for seed in range(1 if args.smoke else args.seeds):
                    evaluations = MARKS[0] if args.smoke else max(MARKS)
                    one(which[name], search, seed, evaluations, folder / f"{name}, {search}, {seed}.npz")
        print(json.dumps(figures(folder, {name: which[name] for name in names})))


if __name__ == "__main__":
    main()
