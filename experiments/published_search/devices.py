"""Three devices of NAS-Bench-201: how many evaluations until each has its front, searched together and one by one."""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nas import pareto
from nas.metrics import Metric
from nas.search import LINAS, Algorithm, ConcurrentNAS, Exhausted, Finished
from searchspaces import nasbench201
from searchspaces.nasbench201 import EDGES, Table

DATA = ("c10", "c100", "in16")
DEVICES = ("edgegpu", "pixel3", "fpga")
GOALS = (95, 99)
"""Percent of the hypervolume of the true front."""
BATCH = 4
"""Archs asked at once, as four workers do."""
GRID = {"alphas": [0.1, 1.0, 10.0], "costs": [1.0, 10.0, 100.0]}
"""A smaller grid than the published one, as in `nb201_search`."""

Make = Callable[[int], Algorithm]
Run = dict[str, Any]


def columns() -> list[str]:
    """What is read from the tables."""
    return [
        name for data in DATA for name in (f"{data}_test_200", *(f"hw_{data}_{device}_latency" for device in DEVICES))
    ]


class Search:
    """Which devices are looked at, and by what.

    Args:
        looked: places of the devices, all of which must reach the goal.
        make: algorithm of a seed; None is random search.
        options: budget and the last goal.
    """

    def __init__(self, looked: Sequence[int], make: Make | None, options: argparse.Namespace) -> None:
        self.looked, self.make, self.budget, self.goal = list(looked), make, options.budget, options.goal


def searches(options: argparse.Namespace) -> dict[str, Search]:
    """All that are compared."""
    settings: dict[str, Any] = {"inner": options.inner, **GRID}
    every = range(len(DEVICES))
    found = {
        "random": Search(every, None, options),
        "concurrent": Search(every, lambda seed: ConcurrentNAS(seed=seed, **settings), options),
        "linas, all objectives": Search(every, lambda seed: LINAS(seed=seed, **settings), options),
    }
    return found | {
        f"linas, {name}": Search([at], found["linas, all objectives"].make, options) for at, name in enumerate(DEVICES)
    }


def names() -> list[str]:
    """Of the searches."""
    return list(searches(argparse.Namespace(inner=0, budget=0, goal=0)))


class Task:
    """A data set: error, and latency on each device."""

    def __init__(self, table: Table, data: str) -> None:
        values = table.values([f"{data}_test_200", *(f"hw_{data}_{device}_latency" for device in DEVICES)])
        first: dict[str, int] = {}
        # Cells that compute the same are one model: all of them answer what the first of them measured, as in `nb201_search`.
        model = np.array([first.setdefault(name, row) for row, name in enumerate(table.functions())])
        self._points = (values * np.array([-1.0, *np.ones(len(DEVICES))]))[model]
        self._rows = {tuple(genes): row for row, genes in enumerate(table.values(list(EDGES)).astype(int).tolist())}
        self._space = nasbench201.space()
        self._references, self._wholes = [], []
        for at in range(len(DEVICES)):
            points = self._points[:, [0, 1 + at]]
            points = points[~np.isnan(points).any(1)]
            front = points[pareto.non_dominated(points)]
            self._references.append(front.max(0) + 0.1 * np.ptp(front, 0))
            self._wholes.append(pareto.hypervolume(front, self._references[-1]))

    def run(self, search: Search, seed: int) -> dict[str, Any]:
        """Rows in the order in which they were evaluated, and how many reach each goal on each device that is looked at."""
        fronts = {at: pareto.Front(2) for at in search.looked}
        reached: dict[str, dict[str, int]] = {DEVICES[at]: {} for at in search.looked}
        rows: list[int] = []
        asked = self._random(seed) if search.make is None else self._asked(search.looked, search.make(seed))
        for some in asked:
            for row in some:
                rows.append(row)
                for at, front in fronts.items():
                    entered, _ = front.add(len(rows), tuple(self._points[row, [0, 1 + at]].tolist()))
                    share = (
                        100 * pareto.hypervolume(front.points, self._references[at]) / self._wholes[at]
                        if entered
                        else 0.0
                    )
                    for goal in GOALS:
                        if share >= goal:
                            reached[DEVICES[at]].setdefault(str(goal), len(rows))
            if len(rows) >= search.budget or all(str(search.goal) in one for one in reached.values()):
                break
        return {"reached": reached, "budget": search.budget, "goal": search.goal, "rows": rows}

    def _random(self, seed: int) -> Iterator[list[int]]:
        order = list(range(len(self._points)))
        random.Random(seed).shuffle(order)
        return ([row] for row in order)

    def _asked(self, looked: Sequence[int], algorithm: Algorithm) -> Iterator[list[int]]:
        algorithm.bind(self._space, [Metric("error", "min"), *(Metric(f"{DEVICES[at]}_ms", "min") for at in looked)])
        told = 0
        while True:
            try:
                archs = algorithm.ask(BATCH)
            except Exhausted:
                return
            rows = [self._rows[tuple(int(gene) for gene in arch.genome)] for arch in archs]
            yield rows
            values = self._points[rows][:, [0, *(1 + at for at in looked)]].tolist()
            algorithm.tell([Finished(told + at, arch, tuple(values[at])) for at, arch in enumerate(archs)])
            told += len(archs)


def figures(found: Mapping[tuple[str, str], list[Run]]) -> dict[str, Any]:
    """Means and deviations over seeds of the evaluations that reach a goal on all devices, by data set and goal.

    "three linas" is the sum over three searches, one a device, and "cells" how many different ones those evaluate.  A run that
    does not reach a goal counts with its whole budget, and `missed` says how many do not.
    """
    table: dict[str, Any] = {}
    for data in DATA:
        for goal in GOALS:
            far = {name: [run for run in found[data, name] if run.get("goal", max(GOALS)) >= goal] for name in names()}
            counts = {name: few for name, few in _counts(far, str(goal)).items() if few}
            if "concurrent" not in counts or "three linas" not in counts:
                continue
            means = {name: statistics.fmean(few) for name, few in counts.items()}
            table[f"{data}, {goal} %"] = {
                **{
                    name: [round(means[name], 1), round(statistics.stdev(few), 1) if few[1:] else 0.0]
                    for name, few in counts.items()
                },
                **{
                    f"concurrent / {name}": round(means["concurrent"] / mean, 3)
                    for name, mean in means.items()
                    if name != "concurrent"
                },
                "missed": {
                    name: some for name, runs in far.items() if (some := sum(_misses(run, str(goal)) for run in runs))
                },
                "seeds": len(counts["concurrent"]),
            }
    return table


def _counts(far: Mapping[str, list[Run]], goal: str) -> dict[str, list[int]]:
    single = list(zip(*(far[f"linas, {name}"] for name in DEVICES), strict=False))
    return {
        **{
            name: [_needed(run, goal) for run in far[name]]
            for name in ("random", "concurrent", "linas, all objectives")
        },
        "three linas": [sum(_needed(run, goal) for run in runs) for runs in single],
        "three linas, cells": [
            len({row for run in runs for row in run["rows"][: _needed(run, goal)]}) for runs in single
        ],
    }


def _needed(run: Run, goal: str) -> int:
    """Evaluations until each device that was looked at has reached the goal."""
    return max(one.get(goal, run["budget"]) for one in run["reached"].values())


def _misses(run: Run, goal: str) -> bool:
    return any(goal not in one for one in run["reached"].values())
