"""How many evaluations does a search need for 95 % and 99 % of the true front's hypervolume?  See README.md.

    python experiments/nb201_search/run.py --tables FOLDER [--seeds 20] [--dear-seeds 20] [--data c10 …] [--searches NAME …]
    python experiments/nb201_search/run.py --report      (figures and curves of the rows in results.csv)
    python experiments/nb201_search/run.py --smoke

Runs append rows to results.csv and skip those that are there, so that a run goes on where it stopped.  Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from peers import BUDGETS, SEARCHES, Done, Exhausted, Landscape

from nas import pareto
from nas.errors import NasError
from searchspaces.nasbench201 import EDGES, Table
from searchspaces.nasbench201_table import all_cells, made_up

HERE = Path(__file__).parent
DATA = ("c10", "c100", "in16")
DEVICES = ("edgegpu", "pixel3", "fpga")  # the algorithm was tuned on raspi4 and eyeriss
PROXIES = ("epe_nas", "fisher", "grad_norm", "grasp", "jacov", "l2_norm", "nwot", "plain", "snip", "synflow", "zen")
DEAR = ("optuna nsga2", "optuna tpe", "linas")
GOALS = (0.95, 0.99)
MARKS = (10, 15, 20, 30, 40, 50, 70, 100, 150, 200, 300, 400, 500, 700, 1000, 2000, 5000)
MOST = 15_625
FIELDS = (
    "data",
    "device",
    "search",
    "seed",
    "budget",
    "n95",
    "n99",
    "u95",
    "u99",
    "seconds",
    *(f"h{n}" for n in MARKS),
)


class Task:
    """One data set on one device: what cells measure, what the true front is worth, and how far a search has come."""

    def __init__(self, table: Table, data: str, device: str) -> None:
        values = table.values([f"{data}_test_200", f"hw_{data}_{device}_latency"])
        first: dict[str, int] = {}
        # Cells that compute the same are one model: all of them answer what the first of them measured.
        self.model = np.array([first.setdefault(name, row) for row, name in enumerate(table.functions())])
        self.points = np.stack([-values[:, 0], values[:, 1]], 1)[self.model]
        # Proxies were computed for one cell of several that are equal, and on two of the three data sets.
        proxies = table.values([f"zc_{'in16' if data == 'in16' else 'c10'}_{name}" for name in PROXIES])
        self.proxies = pd.DataFrame(proxies).groupby(self.model).transform("first").to_numpy()
        known = self.points[~np.isnan(self.points).any(1)]
        front = known[pareto.non_dominated(known)]
        self.reference = front.max(0) + 0.1 * np.ptp(front, 0)
        self.whole = pareto.hypervolume(front, self.reference)
        self.rows = {tuple(genes): row for row, genes in enumerate(table.values(list(EDGES)).astype(int).tolist())}

    def run(self, name: str, seed: int, budget: int) -> dict[str, Any]:
        """One search; how many evaluations (n) and different models (u) it took to reach each goal."""
        front = pareto.Front(2)
        found: dict[str, Any] = {f"{kind}{goal}": None for kind in "nu" for goal in ("95", "99")}
        models: set[int] = set()
        share, count = 0.0, 0

        def enough(row: int) -> bool:
            nonlocal share, count
            count += 1
            models.add(int(self.model[row]))
            entered, _ = front.add(count, tuple(self.points[row].tolist()))
            if entered:
                share = pareto.hypervolume(front.points, self.reference) / self.whole
            for goal, tag in zip(GOALS, ("95", "99"), strict=True):
                if found[f"n{tag}"] is None and share >= goal:
                    found[f"n{tag}"], found[f"u{tag}"] = count, len(models)
            if count in MARKS:
                found[f"h{count}"] = round(share, 4)
            return found["n99"] is not None

        landscape = Landscape(self.points, self.rows, enough, budget, self.model, self.proxies)
        begun = time.process_time()
        with contextlib.suppress(Done, Exhausted):
            SEARCHES[name](landscape, seed)
        for mark in MARKS:  # a search that reached 99 % stays there
            if found["n99"] is not None:
                found.setdefault(f"h{mark}", round(share, 4))
        return {**found, "budget": budget, "seconds": round(time.process_time() - begun, 2)}


# -- figures


def figures(rows: pd.DataFrame) -> dict[str, Any]:
    """Medians over seeds for each task and goal; ratios of ours to each other search's, and their median over tasks.

    Evaluations are proposals; where equal models are shared they are different models, which is what is left to evaluate.
    """
    result: dict[str, Any] = {}
    ratios: dict[str, dict[str, list[float]]] = {}
    for (data, device), task in rows.groupby(["data", "device"], sort=False):
        for goal in ("95", "99"):
            # A run that did not get there counts as its budget: the median is then a lower bound.
            n, u = (
                {str(name): float(runs[f"{kind}{goal}"].fillna(runs["budget"]).median()) for name, runs in by}
                for kind in "nu"
                for by in [task.groupby("search", sort=False)]
            )
            needed = {name: u[name] if "equal" in name else count for name, count in n.items()}
            shared = {f"{name}, equal models shared": count for name, count in u.items() if "equal" not in name}
            result[f"{data} {device} {goal} %"] = {**needed, **shared}
            for mine in (name for name in needed if name.startswith("surrogate")):
                for against in (n,) if "equal" not in mine else (n, u):
                    others = {name: count for name, count in against.items() if not name.startswith("surrogate")}
                    also = ", equal models shared" if against is u else ""
                    if peers := [count for name, count in others.items() if name != "random"]:
                        others["best peer"] = min(peers)
                    for name, count in others.items():
                        ratios.setdefault(mine, {}).setdefault(f"{name}{also}, {goal} %", []).append(
                            needed[mine] / count
                        )
    summary = {
        mine: {name: round(statistics.median(values), 3) for name, values in sorted(by.items())}
        for mine, by in ratios.items()
    }
    seeds = {str(name): int(group["seed"].nunique()) for name, group in rows.groupby("search", sort=False)}
    return {"evaluations": result, "ratio of ours": summary, "seeds": seeds, "tasks": len(result) // 2}


def plot(rows: pd.DataFrame, path: Path) -> None:
    """Median share of the true front's hypervolume against evaluations, one panel a task."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(zip(rows["data"], rows["device"], strict=True)))
    names = list(dict.fromkeys(rows["search"]))
    across = min(3, len(tasks))
    down = -(-len(tasks) // across)
    figure, axes = plt.subplots(down, across, figsize=(4 * across, 3 * down), squeeze=False, sharey=True)
    for (data, device), axis in zip(tasks, axes.flat, strict=False):
        task = rows[(rows["data"] == data) & (rows["device"] == device)]
        for name in names:
            runs = task[task["search"] == name][[f"h{mark}" for mark in MARKS]].astype(float)
            median = runs.median().where(runs.notna().sum() * 2 >= len(runs))
            axis.plot(MARKS, median, label=name, linewidth=2.5 if name.startswith("surrogate") else 1.2)
        axis.set(xscale="log", title=f"{data}, {device}", xlabel="evaluations", ylim=(0.5, 1.0))
        for goal in GOALS:
            axis.axhline(goal, color="grey", linewidth=0.5)
    axes[0, 0].set_ylabel("share of the true hypervolume")
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


# -- running


def synthetic(folder: Path) -> None:
    """A made-up table with the columns that this experiment reads."""
    rng, genes = np.random.default_rng(0), all_cells()
    worth, cost = rng.random((6, 5))[np.arange(6), genes].sum(1), rng.random((6, 5))[np.arange(6), genes].sum(1)
    columns = {f"{data}_test_200": 90 + worth for data in DATA}
    columns |= {f"hw_{data}_{device}_latency": cost for data, device in itertools.product(DATA, DEVICES)}
    for data, name in itertools.product(("c10", "in16"), PROXIES):
        columns[f"zc_{data}_{name}"] = worth + rng.random(len(genes))
    made_up(folder, genes, columns)


def rows_of(path: Path) -> pd.DataFrame:
    """What was run so far."""
    return pd.read_csv(path) if path.exists() and path.stat().st_size else pd.DataFrame(columns=list(FIELDS))


def play(table: Table, args: argparse.Namespace, path: Path) -> None:
    """Runs what is asked for and not in the file yet, row by row."""
    before = rows_of(path)
    done = set(zip(before["data"], before["device"], before["search"], before["seed"], strict=True))
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, restval="")
        if not file.tell():
            writer.writeheader()
        for data, device in itertools.product(args.data, args.devices):
            task = Task(table, data, device)
            for name in args.searches:
                begun = time.perf_counter()
                for seed in range(args.dear_seeds if name in DEAR else args.seeds):
                    if (data, device, name, seed) in done:
                        continue
                    run = task.run(name, seed, min(BUDGETS.get(name, MOST), args.budget))
                    writer.writerow({"data": data, "device": device, "search": name, "seed": seed, **run})
                    file.flush()
                print(f"{data} {device} {name}: {time.perf_counter() - begun:.0f} s", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, help="folder with the tables of NAS-Bench-201")
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--devices", nargs="+", default=list(DEVICES))
    parser.add_argument("--searches", nargs="+", choices=list(SEARCHES), default=list(SEARCHES))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--dear-seeds", type=int, default=20, help=f"of {', '.join(DEAR)}, which think for seconds")
    parser.add_argument("--budget", type=int, default=MOST, help="most evaluations of a run")
    parser.add_argument("--output", type=Path, default=HERE / "results.csv")
    parser.add_argument("--report", action="store_true", help="only the figures of what was run")
    parser.add_argument("--smoke", action="store_true", help="a made-up table, one task, short runs")
    args = parser.parse_args()
    if args.smoke:
        args.data, args.devices, args.seeds, args.dear_seeds, args.budget = ["c10"], ["fpga"], 1, 1, 60
        args.searches = [name for name in args.searches if name not in DEAR]
    elif args.tables is None and not args.report:
        parser.error("give --tables FOLDER, --report or --smoke")
    return args


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as made:
        if args.smoke:
            synthetic(Path(made))
            args.tables, args.output = Path(made), Path(made) / "results.csv"
        if not args.report:
            try:
                play(Table(args.tables, "c10_test_200", None), args, args.output)
            except NasError as error:
                sys.exit(f"error: {error}")
        rows = rows_of(args.output)
        if not len(rows):
            sys.exit(f"error: {args.output} has no rows; run with --tables FOLDER first")
        plot(rows, args.output.with_name("curves.png"))
        print(json.dumps(figures(rows)))


if __name__ == "__main__":
    main()
