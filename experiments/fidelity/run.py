"""How much training does a front cost when the search decides how far each arch is trained?  See README.md.

    python experiments/fidelity/run.py --tables FOLDER --runs FOLDER [--seeds 10] [--searches NAME …] [--problems NAME …]
    python experiments/fidelity/run.py --tables FOLDER --runs FOLDER --report
    python experiments/fidelity/run.py --smoke

Runs are files in the folder, and what is there is not repeated.  Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "search_many"))

import numpy as np
from levels import Levels, problems
from searches import SEARCHES

from nas.pareto import hypervolume, non_dominated
from searchspaces.nasbench201_table import Table

BUDGET = {"surrogate": 200.0}  # full evaluations, or as much training
USUAL = 67.0
MARKS = (50, 100, 200)  # full evaluations of the default search, whose hypervolume is to be reached


def one(levels: Levels, search: str, seed: int, budget: float, file: Path) -> None:
    """One run, kept."""
    if file.exists():
        return
    begun = time.process_time()
    spent = SEARCHES[search](levels, budget, seed)
    half = file.with_suffix(".half.npz")
    np.savez(half, spent=spent, seconds=time.process_time() - begun)
    half.replace(file)
    print(f"{file.stem}: {time.process_time() - begun:.1f} s", flush=True)


def curve(spent: np.ndarray, at: np.ndarray, best: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """(len(at),) hypervolume of what had been measured in full when so much was spent."""
    points, found, last = (spent[:, 1:] - best) / reach, np.zeros(len(at)), -1
    for place, budget in enumerate(at):
        known = int(np.searchsorted(spent[:, 0], budget + 1e-9, side="right"))
        if known == last:
            found[place] = found[place - 1]
        elif known:
            front = points[:known][non_dominated(points[:known])]
            found[place] = hypervolume(front, np.ones(len(best)))
        last = known
    return found


def figures(folder: Path, which: dict[str, Levels]) -> dict[str, Any]:
    """Mean share of the hypervolume at budgets, and what each search spends until it has what the default has at `MARKS`.

    The whole is the front of all cells, or of all that any run has found; the reference point is a tenth beyond its worst values.
    """
    result: dict[str, Any] = {}
    for name, levels in which.items():
        found = {file: np.load(file)["spent"] for file in sorted(folder.glob(f"{name}, *.npz"))}
        if not found:
            continue
        problem = levels.full
        everything = np.concatenate([spent[:, 1:] for spent in found.values()])
        whole = problem.whole() if problem.whole is not None else everything
        whole = whole[non_dominated(whole)]
        best, reach = whole.min(0), np.ptp(whole, 0) * 1.1
        volume = hypervolume((whole - best) / reach, np.ones(whole.shape[1]))
        curves: dict[str, list[np.ndarray]] = {}
        for file, spent in found.items():
            search = file.stem.split(", ")[1]
            at = np.arange(1.0, BUDGET.get(search, USUAL) + 1)
            curves.setdefault(search, []).append(curve(spent, at, best, reach) / volume)
        means = {search: np.mean(rows, 0) for search, rows in curves.items()}
        goals = {mark: means["surrogate"][mark - 1] for mark in MARKS if len(means.get("surrogate", ())) >= mark}
        result[name] = {}
        for search, rows in curves.items():
            told: dict[str, Any] = {"seeds": len(rows)}
            for budget in (17, 33, 50, 67, 100, 200):
                if budget <= len(means[search]):
                    column = [row[budget - 1] for row in rows]
                    told[f"at {budget}"] = [round(float(np.mean(column)), 4), round(float(np.std(column)), 4)]
            for mark, goal in goals.items():
                there = np.flatnonzero(means[search] >= goal - 1e-12)
                told[f"spent for {mark}"] = int(there[0] + 1) if len(there) else None
            result[name][search] = told
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
    parser.add_argument("--smoke", action="store_true", help="a closed form, a small budget")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.runs or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        which = problems(Table(args.tables, "c10_test_200", None) if args.tables else None)
        names = ["closed form"] if args.smoke else args.problems or list(which)
        for search in args.searches if not args.report else ():
            for name in names:
                for seed in range(1 if args.smoke else args.seeds):
                    budget = 16.0 if args.smoke else BUDGET.get(search, USUAL)
                    one(which[name], search, seed, budget, folder / f"{name}, {search}, {seed}.npz")
        print(json.dumps(figures(folder, {name: which[name] for name in names})))


if __name__ == "__main__":
    main()
