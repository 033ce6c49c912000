"""How good a front a search finds for its evaluations: all of ours, random search, pymoo's and Optuna's NSGA-II.

python experiments/search_quality/run.py [--smoke] [--trials 1000] [--seeds 10] [--searches linas smbo]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyglove as pg

from nas.metrics import Metric
from nas.pareto import hypervolume
from nas.search import Finished, make
from nas.space import Space

DECISIONS, CANDIDATES, WORKERS = 40, 4, 4
OBJECTIVES = (Metric("error", "min"), Metric("cost", "min"))
Genes = Sequence[int]
Landscape = Callable[[Genes], tuple[float, float]]


def separable(genes: Genes) -> tuple[float, float]:
    """Each decision lowers the error by its own weight and costs one a step."""
    return sum((1 + i % 4) * (1 - gene / 3) ** 2 for i, gene in enumerate(genes)), float(sum(genes))


def coupled(genes: Genes) -> tuple[float, float]:
    """As separable, but the gain of a decision is halved when the decision before it takes the same candidate."""
    gains = ((1 + i % 4) * (1 - gene / 3) ** 2 * (2 if genes[i - 1] == gene else 1) for i, gene in enumerate(genes))
    return sum(gains), float(sum((1 + i * 7 % 5) * gene for i, gene in enumerate(genes)))


_RUGGED = np.random.default_rng(0).random((DECISIONS, CANDIDATES, CANDIDATES, CANDIDATES)).tolist()


def rugged(genes: Genes) -> tuple[float, float]:
    """Kauffman's NK landscape, K=2: a table of random errors for each decision and the two before it; cost as above."""
    error = sum(_RUGGED[i][genes[i]][genes[i - 1]][genes[i - 2]] for i in range(DECISIONS))
    return error, float(sum((1 + i * 7 % 5) * gene for i, gene in enumerate(genes)))


# Searches that think for seconds a run: fewer seeds.
DEAR = ("surrogate", "linas", "concurrent-nas", "smbo", "smbo tree")

LANDSCAPES: dict[str, tuple[Landscape, tuple[float, float]]] = {  # and an upper bound of both objectives
    "separable": (separable, (100.0, 120.0)),
    "coupled": (coupled, (200.0, 360.0)),
    "rugged": (rugged, (40.0, 360.0)),
}


def ours(name: str, **options: Any) -> Callable[[Landscape, int, int], list[tuple[float, float]]]:
    """Our algorithm with four workers, of whom a random one finishes first."""
    space = Space(pg.Dict({f"d{i}": pg.oneof(list(range(CANDIDATES))) for i in range(DECISIONS)}), name="flat-40x4")

    def run(landscape: Landscape, trials: int, seed: int) -> list[tuple[float, float]]:
        algorithm = make(name, seed=seed, **options)
        algorithm.bind(space, OBJECTIVES)
        rng = random.Random(seed)
        running: list[Any] = []
        points: list[tuple[float, float]] = []
        while len(points) < trials:
            running += algorithm.ask(WORKERS - len(running))
            arch = running.pop(rng.randrange(len(running)))
            points.append(landscape(arch.genome))
            algorithm.tell([Finished(len(points), arch, points[-1])])
        return points

    return run


def pymoo_nsga2(population: int) -> Callable[[Landscape, int, int], list[tuple[float, float]]]:
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.mutation import Mutation
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.ux import UX
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    class Reset(Mutation):  # pymoo's own integer mutations assume that neighbouring candidates are alike
        def _do(self, _problem: Any, X: Any, random_state: Any = None, **_: Any) -> Any:
            other = (X + random_state.integers(1, CANDIDATES, X.shape)) % CANDIDATES
            return np.where(random_state.random(X.shape) < 1 / DECISIONS, other, X)

    class Recorded(Problem):
        def __init__(self, landscape: Landscape) -> None:
            super().__init__(n_var=DECISIONS, n_obj=2, xl=0, xu=CANDIDATES - 1, vtype=int)
            self.landscape = landscape
            self.points: list[tuple[float, float]] = []

        def _evaluate(self, x: Any, out: dict[str, Any], **_: Any) -> None:
            points = [self.landscape(genes) for genes in x.astype(int).tolist()]
            self.points += points
            out["F"] = np.array(points)

    def run(landscape: Landscape, trials: int, seed: int) -> list[tuple[float, float]]:
        problem = Recorded(landscape)
        operators = {"sampling": IntegerRandomSampling(), "crossover": UX(prob=0.9), "mutation": Reset()}
        minimize(problem, NSGA2(population, eliminate_duplicates=True, **operators), ("n_eval", trials), seed=seed)
        return problem.points[:trials]

    return run


def optuna_nsga2(population: int) -> Callable[[Landscape, int, int], list[tuple[float, float]]]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    choices = {f"d{i}": optuna.distributions.CategoricalDistribution(range(CANDIDATES)) for i in range(DECISIONS)}

    def run(landscape: Landscape, trials: int, seed: int) -> list[tuple[float, float]]:
        sampler = optuna.samplers.NSGAIISampler(population_size=population, seed=seed)
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
        points = []
        for _ in range(trials):
            trial = study.ask(choices)
            points.append(landscape([trial.params[name] for name in choices]))
            study.tell(trial, points[-1])
        return points

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--population", type=int, default=50, help="of the evolutionary searches and of a round")
    parser.add_argument("--searches", nargs="+", default=[], help="only these; all unless told")
    parser.add_argument(
        "--landscapes", nargs="+", choices=list(LANDSCAPES), default=list(LANDSCAPES), help="only these"
    )
    args = parser.parse_args()
    if args.smoke:
        args.trials, args.seeds, args.population = 40, 2, 10
    trials, seeds = args.trials, args.seeds
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)

    rounds = {
        "inner": 200 if args.smoke else 5_000,
        "alphas": [0.1, 1.0, 10.0],
        "costs": [1.0] if args.smoke else [1.0, 10.0, 100.0],
    }
    searches = {
        "surrogate": ours("surrogate"),
        "random": ours("random"),
        "regularized-evolution": ours("regularized-evolution", population=args.population),
        "nsga2": ours("nsga2", population=args.population),
        "nsga2 synchronous": ours("nsga2", population=args.population, synchronous=True),
        "local-search": ours("local-search"),
        "quality-diversity": ours("quality-diversity"),
        "mcts": ours("mcts"),
        "mcts, c = 1": ours("mcts", exploration=1.0),
        "reinforce": ours("reinforce"),
        "smbo": ours("smbo", samples=16 if args.smoke else 256),
        "smbo tree": ours("smbo", samples=16 if args.smoke else 256, tree=True),
        "linas": ours("linas", population=args.population, **rounds),
        "concurrent-nas": ours("concurrent-nas", population=args.population, **rounds),
        "pymoo nsga2": pymoo_nsga2(args.population),
        "optuna nsga2": optuna_nsga2(args.population),
    }
    if unknown := set(args.searches) - set(searches):
        parser.error(f"no search is called {', '.join(sorted(unknown))}; there are {', '.join(searches)}")
    searches = {name: search for name, search in searches.items() if not args.searches or name in args.searches}
    budgets = [trials // 10, 3 * trials // 10, trials]
    table: dict[str, dict[str, Any]] = {}
    print(f"{'share of the box':16} {'search':24}" + "".join(f"{f'{b} evaluations':>22}" for b in budgets))
    for title in args.landscapes:
        landscape, reference = LANDSCAPES[title]
        for name, search in searches.items():
            shares = []
            for seed in range(min(seeds, 3) if name in DEAR else seeds):
                points = np.array(search(landscape, trials, seed))
                shares.append([hypervolume(points[:b], reference) / np.prod(reference) for b in budgets])
            mean, spread = np.mean(shares, axis=0), np.std(shares, axis=0, ddof=1)
            table.setdefault(title, {})[name] = {
                "mean": mean.round(4).tolist(),
                "sd": spread.round(4).tolist(),
            }
            table[title][name]["seeds"] = len(shares)
            cells = "".join(f"{f'{m:.4f} ± {s:.4f}':>22}" for m, s in zip(mean, spread, strict=True))
            print(f"{title:16} {name:24}{cells}", flush=True)
    names = ("pymoo", "optuna", "pyglove", "moocore", "numpy")
    print(
        json.dumps(
            {
                "experiment": "search_quality",
                "evaluations": budgets,
                "population": args.population,
                "hypervolume_share": table,
                "versions": {name: version(name) for name in names},
            }
        )
    )


if __name__ == "__main__":
    main()
