"""Runs of searches, kept in a folder, and the shares of the hypervolume that they found.

    python run.py --runs FOLDER [--seeds 10] [--problems NAME …] [--searches NAME …] [--evaluations N]
    python run.py --runs FOLDER --report
    python run.py --smoke

Runs are files in the folder, and what is there is not repeated.  Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from search_common.peers import DEAR, SEARCHES
from search_common.problem import Problem

from nas.pareto import hypervolume, non_dominated

Figure = Callable[[np.ndarray], float]
"""(n, m) points in the order in which they were evaluated -> a number."""


def one(problem: Problem, search: str, seed: int, evaluations: int, file: Path) -> None:
    """One run, kept; one of fewer evaluations is made again."""
    if file.exists():
        with np.load(file) as had:
            if len(had["points"]) >= evaluations:
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


def figures(
    folder: Path, which: dict[str, Problem], marks: Sequence[int], also: Mapping[str, Figure]
) -> dict[str, Any]:
    """Mean share of the hypervolume after so many evaluations, its standard deviation, and milliseconds an evaluation.

    The whole is the problem's, or the front of all that any run has found; the reference point is a tenth of its range
    beyond its worst values.  `also` are means of other figures of the points.
    """
    result: dict[str, Any] = {}
    for name, problem in which.items():
        found = {file: np.load(file) for file in sorted(folder.glob(f"{name}, *.npz"))}
        if not found:
            continue
        everything = [one["points"] for one in found.values()]
        whole = front_of(problem.whole() if problem.whole is not None else np.concatenate(everything))
        best, reach = whole.min(0), np.ptp(whole, 0) * 1.1
        volume = hypervolume((whole - best) / reach, np.ones(whole.shape[1]))
        shares: dict[str, list[list[float]]] = {}
        seconds: dict[str, list[float]] = {}
        further: dict[str, list[list[list[float]]]] = {}
        for file, run in found.items():
            search = file.stem.split(", ")[1]
            points = (run["points"] - best) / reach
            reached = [
                hypervolume(front_of(points[:mark]), np.ones(len(best))) / volume if len(points) >= mark else np.nan
                for mark in marks
            ]
            shares.setdefault(search, []).append(reached)
            seconds.setdefault(search, []).append(float(run["seconds"]))
            further.setdefault(search, []).append(
                [[figure(run["points"][:mark]) for mark in marks if len(points) >= mark] for figure in also.values()]
            )
        result[name] = {
            search: {
                "seeds": len(rows),
                **{
                    str(mark): [round(float(np.mean(column)), 4), round(float(np.std(column)), 4)]
                    for mark, column in zip(marks, np.array(rows).T, strict=True)
                    if not np.isnan(column).any()
                },
                **{
                    name: np.mean(rows, 0).round(4).tolist() for name, *rows in zip(also, *further[search], strict=True)
                },
                "ms": round(1000 * float(np.median(seconds[search])), 1),
            }
            for search, rows in shares.items()
        }
    return result


OTHERS = ("compose", "linas")  # compared where that is the question


def parser(document: str | None, searches: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """Options of all these experiments; `searches` are compared unless others are asked for."""
    usual = [name for name in SEARCHES if name not in (*DEAR, *OTHERS)]
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of the runs")
    parser.add_argument("--problems", nargs="+")
    parser.add_argument("--searches", nargs="+", choices=list(SEARCHES), default=list(searches or usual))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--evaluations", type=int, help="fewer than the last mark, for searches whose proposals are dear"
    )
    parser.add_argument("--report", action="store_true", help="only the figures of what was run")
    parser.add_argument("--smoke", action="store_true", help="one problem, a few evaluations")
    return parser


def main(  # noqa: PLR0917 (called by name)
    args: argparse.Namespace,
    which: dict[str, Problem],
    marks: Sequence[int],
    smoke: str,
    smoke_evaluations: int,
    also: Mapping[str, Figure] = MappingProxyType({}),
) -> None:
    """Runs what is asked for and prints the figures.

    Args:
        args: what `parser` made of the command line.
        which: problems by name.
        marks: numbers of evaluations that figures are given of, ascending.
        smoke: name of the problem of the smoke mode.
        smoke_evaluations: one of the marks.
        also: further figures of the points up to each mark, by name.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.runs or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        names = [smoke] if args.smoke else args.problems or list(which)
        for search in args.searches if not args.report else ():
            for name in names:
                for seed in range(1 if args.smoke else args.seeds):
                    evaluations = smoke_evaluations if args.smoke else args.evaluations or max(marks)
                    one(which[name], search, seed, evaluations, folder / f"{name}, {search}, {seed}.npz")
        print(json.dumps(figures(folder, {name: which[name] for name in names}, marks, also)))
