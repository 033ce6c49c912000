"""How many evaluations does a search need for the best network within a latency budget?  See README.md.

    python experiments/nb201_budget/run.py --tables FOLDER [--seeds 20] [--evaluations 200] [--processes 2]
    python experiments/nb201_budget/run.py --smoke

The latency of a cell is known beforehand, as from a look-up table; its accuracy takes an evaluation.  Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nas import files
from nas.errors import NasError
from nas.metrics import Constraint, Metric
from nas.search import NSGA2, Algorithm, Finished, RandomSearch, RegularizedEvolution, Surrogate
from nas.search.insight import Insight
from nas.space import Arch
from searchspaces import nasbench201
from searchspaces.nasbench201 import EDGES, Table
from searchspaces.nasbench201_table import all_cells, made_up

HERE = Path(__file__).parent
DATA = ("c10", "c100", "in16")
DEVICES = ("edgegpu", "pixel3", "fpga")  # what was tried out was tried on raspi4 and eyeriss
BUDGETS = (0.1, 0.3)  # share of the cells that are within it
GAPS = (1.0, 0.25)  # points of accuracy that may be missing
BATCH = 4
PROPOSALS = 10  # at most so many for each evaluation, the others being over the budget
PEERS = ("evolution", "nsga2", "optuna tpe", "pymoo ga")


class Task(NamedTuple):
    """One data set on one device within one budget."""

    name: str
    accuracy: np.ndarray
    latency: np.ndarray
    model: np.ndarray  # row of the first cell that computes the same
    rows: dict[tuple[int, ...], int]
    budget: float

    @property
    def best(self) -> float:
        """Accuracy of the best cell within the budget."""
        return float(np.nanmax(self.accuracy[self.latency <= self.budget]))


class Done(Exception):
    """Every goal is reached, or nothing is left of the evaluations or of the proposals."""


class Player:
    """Answers for genes, and counts.  What is over the budget costs no evaluation: nobody evaluates it."""

    def __init__(self, task: Task, evaluations: int) -> None:
        self.task, self._most = task, evaluations
        self.evaluated: set[int] = set()  # models
        self.evaluations = self.proposals = 0
        self.reached: dict[float, tuple[int, int]] = {}  # evaluations and proposals at each goal
        self.best = -np.inf

    def row(self, genes: Iterable[int]) -> int:
        """The cell's row in the tables."""
        return self.task.rows[tuple(int(gene) for gene in genes)]

    def over(self, row: int) -> float:
        """How far a cell is over the budget, relative to it; 0.0 within."""
        return max(0.0, float(self.task.latency[row]) / self.task.budget - 1.0)

    def __call__(self, row: int) -> float:
        """Accuracy of a cell, which is an evaluation if the cell is within the budget."""
        if self.evaluations >= self._most or self.proposals >= PROPOSALS * self._most or len(self.reached) == len(GAPS):
            raise Done
        self.proposals += 1
        accuracy = float(self.task.accuracy[row])
        if not self.over(row):
            self.evaluations += 1
            self.evaluated.add(int(self.task.model[row]))
            self.best = max(self.best, accuracy)
            for gap in GAPS:
                if self.best >= self.task.best - gap:
                    self.reached.setdefault(gap, (self.evaluations, self.proposals))
        return accuracy


# -- searches


def ours(make: Callable[[int], Algorithm], player: Player, seed: int, knows: str = "") -> None:
    """One of our algorithms, told what a study tells; `knows` has some of latency (beforehand) and equal (evaluated models)."""
    task, algorithm = player.task, make(seed)

    def latency(arch: Arch) -> dict[str, float]:
        return {"latency_ms": float(task.latency[player.row(arch.genome)])}

    def equal(arch: Arch) -> dict[str, float]:
        row = player.row(arch.genome)
        return {"accuracy": float(task.accuracy[row])} if int(task.model[row]) in player.evaluated else {}

    cheap = {"latency_ms": latency} if "latency" in knows else {}
    algorithm.inform(Insight(cheap, [equal] if "equal" in knows else [], stored=latency))
    algorithm.bind(
        nasbench201.space(), [Metric("accuracy", "max")], [Constraint("latency_ms", "<=", float(task.budget))]
    )
    while True:
        trials = []
        for arch in algorithm.ask(BATCH):
            row = player.row(arch.genome)
            accuracy, over = player(row), player.over(row)
            number = player.proposals
            trials.append(
                Finished(number, arch, None, over, "INFEASIBLE") if over else Finished(number, arch, (-accuracy,))
            )
        algorithm.tell(trials)


def optuna_tpe(player: Player, seed: int) -> None:
    """TPE with the budget as a constraint; it is told the accuracy of what is over it as well, since it wants a value."""
    import optuna
    from optuna.distributions import CategoricalDistribution

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(multivariate=True, seed=seed))
    choices = {name: CategoricalDistribution(list(range(5))) for name in EDGES}
    while True:
        trial = study.ask(dict(choices))
        row = player.row(trial.params[name] for name in EDGES)
        trial.set_constraint("budget", player.over(row) or -1.0)
        study.tell(trial, player(row))


def pymoo_ga(player: Player, seed: int) -> None:
    """pymoo's genetic algorithm with the budget as a constraint, uniform crossover and a mutation that resets a gene."""
    from pymoo.algorithms.soo.nonconvex.ga import GA
    from pymoo.core.mutation import Mutation
    from pymoo.core.problem import ElementwiseProblem
    from pymoo.operators.crossover.ux import UX
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    class Reset(Mutation):
        def _do(self, _problem: Any, X: Any, random_state: Any = None, **_: Any) -> Any:
            other = (X + random_state.integers(1, 5, X.shape)) % 5
            return np.where(random_state.random(X.shape) < 1 / len(EDGES), other, X)

    class Cells(ElementwiseProblem):
        def __init__(self) -> None:
            super().__init__(n_var=len(EDGES), n_obj=1, n_ieq_constr=1, xl=0, xu=4, vtype=int)

        def _evaluate(self, x: Any, out: dict[str, Any], *_: Any, **__: Any) -> None:
            row = player.row(x)
            out["F"], out["G"] = [-player(row)], [player.over(row) or -1.0]

    algorithm = GA(20, sampling=IntegerRandomSampling(), crossover=UX(prob=0.9), mutation=Reset())
    minimize(Cells(), algorithm, ("n_eval", 10**6), seed=seed)


SEARCHES: dict[str, Callable[[Player, int], None]] = {
    "surrogate": partial(ours, lambda seed: Surrogate(seed=seed), knows="latency"),
    "surrogate, equal": partial(ours, lambda seed: Surrogate(seed=seed), knows="latency equal"),
    "surrogate, latency learnt": partial(ours, lambda seed: Surrogate(seed=seed)),
    "random": partial(ours, lambda seed: RandomSearch(seed=seed)),
    "evolution": partial(ours, lambda seed: RegularizedEvolution(population=20, sample=5, seed=seed)),
    "nsga2": partial(ours, lambda seed: NSGA2(population=20, seed=seed)),
    "optuna tpe": optuna_tpe,
    "pymoo ga": pymoo_ga,
}


def run(job: tuple[Task, str, int, int]) -> dict[str, Any]:
    """One search: evaluations and proposals to each goal (None: not reached), and the share of them over the budget."""
    task, name, seed, evaluations = job
    player = Player(task, evaluations)
    with contextlib.suppress(Done):
        SEARCHES[name](player, seed)
    found = {f"to {gap}": player.reached.get(gap, (None,))[0] for gap in GAPS}
    found |= {f"proposals to {gap}": player.reached.get(gap, (0, player.proposals))[1] for gap in GAPS}
    over = 1.0 - player.evaluations / max(1, player.proposals)
    return {"task": task.name, "search": name, "seed": seed, **found, "over": over, "missing": task.best - player.best}


# -- figures


def tasks(table: Table) -> list[Task]:
    """All of them; cells that compute the same are one model, which measures what the first of them did."""
    rows = {tuple(genes): row for row, genes in enumerate(table.values(list(EDGES)).astype(int).tolist())}
    first: dict[str, int] = {}
    model = np.array([first.setdefault(name, row) for row, name in enumerate(table.functions())])
    made = []
    for data, device, share in itertools.product(DATA, DEVICES, BUDGETS):
        accuracy, latency = table.values([f"{data}_test_200", f"hw_{data}_{device}_latency"])[model].T
        budget = float(np.nanquantile(latency, share))
        made.append(Task(f"{data} {device} {share:.0%}", accuracy, latency, model, rows, budget))
    return made


def figures(rows: pd.DataFrame, evaluations: int) -> dict[str, Any]:
    """Medians over seeds for each task, medians over tasks of the ratios of ours, and how often nothing was found."""
    result: dict[str, Any] = {}
    for gap in GAPS:
        column = f"to {gap}"
        needed = rows.assign(**{column: rows[column].fillna(evaluations)})
        medians = needed.pivot_table(column, "task", "search", "median", sort=False)
        proposals = rows.pivot_table(f"proposals {column}", "task", "search", "median", sort=False)
        medians["best peer"] = medians[list(PEERS)].min(axis=1)
        ratios = {
            mine: {other: round(statistics.median(medians[mine] / medians[other]), 3) for other in medians}
            for mine in medians
            if mine.startswith("surrogate")
        }
        failed = rows[column].isna().groupby(rows["search"], sort=False).mean().round(3)
        result[f"within {gap} points"] = {
            "evaluations": medians.to_dict("index"),
            "median": medians.median().to_dict(),
            "median of proposals": proposals.median().to_dict(),
            "ratio of ours": ratios,
            "share of runs that did not get there": failed.to_dict(),
        }
    over = rows.groupby("search", sort=False)["over"].mean().round(3).to_dict()
    seeds = int(rows["seed"].nunique())
    return {**result, "proposals over the budget": over, "seeds": seeds, "tasks": int(rows["task"].nunique())}


def plot(rows: pd.DataFrame, evaluations: int, path: Path) -> None:
    """Share of all runs that have got there, against evaluations; one panel a goal."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(GAPS), figsize=(5 * len(GAPS), 4), sharey=True, squeeze=False)
    for gap, axis in zip(GAPS, axes.flat, strict=True):
        for name, runs in rows.groupby("search", sort=False):
            reached = np.sort(runs[f"to {gap}"].dropna().to_numpy())
            share = np.arange(1, len(reached) + 1) / len(runs)
            mine = str(name).startswith("surrogate")
            axis.step(
                [1, *reached, evaluations],
                [0, *share, share[-1] if len(share) else 0],
                where="post",
                label=name,
                linewidth=2.5 if mine else 1.2,
            )
        axis.set(xscale="log", xlabel="evaluations", title=f"within {gap:g} points of the best", ylim=(0, 1))
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("share of runs")
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def synthetic(folder: Path) -> None:
    """A made-up table with the columns that this experiment reads."""
    rng, genes = np.random.default_rng(0), all_cells()
    worth, cost = rng.random((6, 5))[np.arange(6), genes].sum(1), rng.random((6, 5))[np.arange(6), genes].sum(1)
    accuracies = {f"{data}_test_200": 85 + 5 * (worth + cost) for data in DATA}
    latencies = {f"hw_{data}_{device}_latency": cost for data, device in itertools.product(DATA, DEVICES)}
    made_up(folder, genes, {**accuracies, **latencies})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, help="folder with the tables of NAS-Bench-201")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=200, help="of a run that does not get there")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="a made-up table, two tasks, one short run each")
    args = parser.parse_args()
    if not args.smoke and args.tables is None:
        parser.error("give --tables FOLDER, or --smoke")
    with tempfile.TemporaryDirectory() as made:
        if args.smoke:
            synthetic(Path(made))
            args.tables, args.seeds, args.evaluations, args.processes = Path(made), 1, 30, 1
        try:
            some = tasks(Table(args.tables, "c10_test_200", None))[: 2 if args.smoke else None]
        except NasError as error:
            sys.exit(f"error: {error}")
    rows: list[dict[str, Any]] = []
    jobs = ((name, seed) for name, seed in itertools.product(SEARCHES, range(args.seeds)))
    with multiprocessing.Pool(args.processes) as pool:
        for name, seed in jobs:
            rows += pool.map(run, [(task, name, seed, args.evaluations) for task in some], chunksize=1)
            if seed == args.seeds - 1:
                print(f"{name}: {args.seeds} seeds on {len(some)} tasks", flush=True)
    found = figures(pd.DataFrame(rows), args.evaluations)
    if not args.smoke:
        files.write(HERE / "results.json", json.dumps(found, indent=1) + "\n")
        plot(pd.DataFrame(rows), args.evaluations, HERE / "curves.png")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
