"""What does noise of measurements cost a search?  See README.md.

    python experiments/noisy/run.py --tables FOLDER --runs FOLDER [--seeds 10] [--searches NAME …]
    python experiments/noisy/run.py --tables FOLDER --runs FOLDER --report
    python experiments/noisy/run.py --smoke

Runs are files in the folder, and what is there is not repeated.  Prints one JSON line last.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from problems import Measured, problems
from search_common.peers import SEARCHES
from search_common.problem import Problem
from search_common.runs import front_of, parser

from nas.pareto import hypervolume, non_dominated
from searchspaces.nasbench201_table import Table

EVALUATIONS = 100
NOISE = {"noiseless": 0.0, "noisy": 1.0}


def one(  # noqa: PLR0917 (called in one place)
    problem: Problem, search: str, noise: float, seed: int, evaluations: int, file: Path
) -> None:
    """One run, kept: what was measured, and what is true of the same archs."""
    if file.exists():
        return
    measured = Measured(problem, noise, seed)
    points = SEARCHES[search](cast("Problem", measured), evaluations, seed)
    true = np.array([measured.true[tuple(point)] for point in points.tolist()])
    half = file.with_suffix(".half.npz")
    np.savez(half, points=points, true=true)
    half.replace(file)
    print(file.stem, flush=True)


def figures(folder: Path, which: dict[str, Problem]) -> dict[str, Any]:
    """True share of the hypervolume, of the archs whose measurements are not dominated and of all that were evaluated.

    Both are means over seeds, with the standard deviation, and ratios to the runs without noise.
    """
    result: dict[str, Any] = {}
    for name, problem in which.items():
        runs = {file: np.load(file) for file in sorted(folder.glob(f"{name}, *.npz"))}
        if not runs:
            continue
        everything = np.concatenate([run["true"] for run in runs.values()])
        whole = front_of(problem.whole() if problem.whole is not None else everything)
        best, reach = whole.min(0), np.ptp(whole, 0) * 1.1
        one = np.ones(len(best))
        volume = hypervolume((whole - best) / reach, one)
        shares: dict[str, dict[str, list[list[float]]]] = {}
        for file, run in runs.items():
            _, search, kind, _ = file.stem.split(", ")
            true = (run["true"] - best) / reach
            believed = true[non_dominated(run["points"])]
            both = [hypervolume(front_of(some), one) / volume for some in (believed, true)]
            shares.setdefault(search, {}).setdefault(kind, []).append(both)
        result[name] = {search: summary(kinds) for search, kinds in shares.items()}
    return result


def summary(kinds: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Of one search and problem."""
    found: dict[str, Any] = {}
    for kind, rows in kinds.items():
        for at, what in enumerate(("front", "all")):
            column = np.array(rows)[:, at]
            found[f"{kind} {what}"] = [round(float(column.mean()), 4), round(float(column.std()), 4)]
    if len(kinds) == len(NOISE):
        for what in ("front", "all"):
            found[f"ratio {what}"] = round(found[f"noisy {what}"][0] / found[f"noiseless {what}"][0], 4)
    return {"seeds": min(map(len, kinds.values())), **found}


def main() -> None:
    """Command line."""
    options = parser(__doc__)
    options.add_argument("--tables", type=Path, help="folder with the tables of NAS-Bench-201")
    args = options.parse_args()
    which = problems(Table(args.tables, "c10_test_200", None) if args.tables else None)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.runs or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        names = ["closed"] if args.smoke else args.problems or list(which)
        for search in args.searches if not args.report else ():
            for name in names:
                for kind, noise in NOISE.items():
                    for seed in range(1 if args.smoke else args.seeds):
                        file = folder / f"{name}, {search}, {kind}, {seed}.npz"
                        one(which[name], search, noise, seed, 30 if args.smoke else EVALUATIONS, file)
        print(json.dumps(figures(folder, {name: which[name] for name in names})))


if __name__ == "__main__":
    main()
