"""What does a search find with 100 evaluations of 12-epoch validation accuracy?  See README.md.

    python experiments/nb201_single/run.py --tables FOLDER [--seeds 50] [--queries 100]
    python experiments/nb201_single/run.py --smoke

Each run selects the cell of the best 12-epoch validation accuracy among those it asked for, and reports that cell's test accuracy
after 200 epochs.  Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from nas import files
from nas.errors import NasError
from nas.metrics import Metric
from nas.search import Algorithm, Finished, RandomSearch, RegularizedEvolution, Surrogate
from searchspaces import nasbench201
from searchspaces.nasbench201 import EDGES, Table
from searchspaces.nasbench201_table import all_cells, made_up

HERE = Path(__file__).parent
DATA = ("c10", "c100", "in16")
FIRST = 1_000  # seed of the first reported run; smaller ones were for tuning


def find(algorithm: Algorithm, rows: dict[tuple[int, ...], int], valid: np.ndarray, queries: int) -> int:
    """The row that validates best among those that the algorithm asked for, one at a time."""
    algorithm.bind(nasbench201.space(), [Metric("accuracy", "max")])
    asked = []
    for number in range(queries):
        arch = algorithm.ask(1)[0]
        asked.append(rows[tuple(int(gene) for gene in arch.genome)])
        algorithm.tell([Finished(number, arch, (-float(valid[asked[-1]]),))])
    return max(asked, key=lambda row: valid[row])


def searches(seed: int) -> dict[str, Algorithm]:
    """Those that are compared; evolution with the published population of 10 and sample of 3."""
    return {
        "surrogate": Surrogate(seed=seed),
        "regularized evolution": RegularizedEvolution(population=10, sample=3, seed=seed),
        "random": RandomSearch(seed=seed),
    }


def play(table: Table, args: argparse.Namespace) -> dict[str, Any]:
    """[mean, deviation, standard error] of the test accuracy of each search on each data set."""
    rows = {tuple(genes): row for row, genes in enumerate(table.values(list(EDGES)).astype(int).tolist())}
    result: dict[str, Any] = {}
    for data in DATA:
        valid, test = table.values([f"{data}_val_12", f"{data}_test_200"]).T
        found: dict[str, list[float]] = {}
        for seed in range(FIRST, FIRST + args.seeds):
            for name, algorithm in searches(seed).items():
                found.setdefault(name, []).append(float(test[find(algorithm, rows, valid, args.queries)]))
        result[data] = {
            name: [
                round(statistics.fmean(values), 3),
                round(statistics.pstdev(values), 3),
                round(statistics.pstdev(values) / len(values) ** 0.5, 3),
            ]
            for name, values in found.items()
        }
        result[data]["cell that validates best"] = round(float(test[np.nanargmax(valid)]), 3)
        print(data, json.dumps(result[data]), flush=True)
    return {**result, "seeds": args.seeds, "queries": args.queries}


def synthetic(folder: Path) -> None:
    """A made-up table with the columns that this experiment reads."""
    rng, genes = np.random.default_rng(0), all_cells()
    worth = rng.random((6, 5))[np.arange(6), genes].sum(1)
    columns = {f"{data}_test_200": worth for data in DATA}
    columns |= {f"{data}_val_12": worth + rng.normal(0, 0.2, len(genes)) for data in DATA}
    made_up(folder, genes, columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, help="folder with the tables of NAS-Bench-201")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--smoke", action="store_true", help="a made-up table, two short runs")
    args = parser.parse_args()
    if not args.smoke and args.tables is None:
        parser.error("give --tables FOLDER, or --smoke")
    with tempfile.TemporaryDirectory() as made:
        if args.smoke:
            synthetic(Path(made))
            args.tables, args.seeds, args.queries = Path(made), 2, 25
        try:
            figures = play(Table(args.tables, "c10_val_12", None), args)
        except NasError as error:
            sys.exit(f"error: {error}")
    if not args.smoke:
        files.write(HERE / "results.json", json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
