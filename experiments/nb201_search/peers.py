"""The searches that are compared: each takes a landscape over 6 choices of 5, a number of evaluations and a seed, and asks it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nas.metrics import Metric
from nas.search import LINAS, NSGA2, Algorithm, Exhausted, Finished, RegularizedEvolution, Surrogate
from nas.search.insight import Insight
from nas.space import Arch
from searchspaces import nasbench201

OPS, EDGES = 5, 6
BATCH = 4  # archs that are asked at once, as four workers do
POPULATION = 20  # of every NSGA-II: on the tuning devices it needed fewer evaluations than 50


class Done(Exception):
    """Enough was evaluated."""


class Landscape:
    """Answers for genes, and keeps what was answered in order.

    Args:
        points: (15,625, 2) minimised, by row.
        rows: genes -> row.
        enough: says of the rows asked so far whether a search may stop.
        budget: most evaluations.
        model: (15,625,) row of the first cell that computes the same.
        proxies: (15,625, p) zero-cost proxies, NaN where nobody computed them.
    """

    def __init__(  # noqa: PLR0917 (made in one place)
        self,
        points: np.ndarray,
        rows: dict[tuple[int, ...], int],
        enough: Callable[[int], bool],
        budget: int,
        model: np.ndarray,
        proxies: np.ndarray,
    ) -> None:
        self.points, self.rows, self.enough, self.budget = points, rows, enough, budget
        self.model, self.proxies = model, proxies
        self.asked: list[int] = []
        self._evaluated: set[int] = set()  # models

    def insight(self, names: str) -> Insight:
        """What a study would tell an algorithm; `names` has some of equal (models that were evaluated), proxies, latency."""

        def row(arch: Arch) -> int:
            return self.rows[tuple(int(gene) for gene in arch.genome)]

        def equal(arch: Arch) -> dict[str, float]:
            worst, latency = self.points[row(arch)].tolist()
            return {"accuracy": -worst, "latency_ms": latency} if self.model[row(arch)] in self._evaluated else {}

        def proxies(arch: Arch) -> dict[str, float]:
            return {f"proxy{at}": value for at, value in enumerate(self.proxies[row(arch)].tolist())}

        def latency(arch: Arch) -> dict[str, float]:
            return {"latency_ms": float(self.points[row(arch), 1])}

        cheap: dict[str, Callable[[Arch], dict[str, float]]] = {}
        if "proxies" in names:
            cheap |= {f"proxy{at}": proxies for at in range(self.proxies.shape[1])}
        if "latency" in names:
            cheap["latency_ms"] = latency
        return Insight(cheap, [equal] if "equal" in names else [])

    def __call__(self, genes: Sequence[int]) -> tuple[float, float]:
        """The two objectives.

        Raises:
            Done: the goal was reached, or the budget is spent.
        """
        if len(self.asked) >= self.budget:
            raise Done
        row = self.rows[tuple(genes)]
        self.asked.append(row)
        self._evaluated.add(int(self.model[row]))
        if self.enough(row):
            raise Done
        one, two = self.points[row]
        return float(one), float(two)


def random_search(landscape: Landscape, seed: int) -> None:
    """Uniform, without repeats."""
    order = list(landscape.rows)
    random.Random(seed).shuffle(order)
    for genes in order:
        landscape(genes)


def ours(make: Callable[[int], Algorithm], knows: str = "") -> Callable[[Landscape, int], None]:
    """One of our algorithms, told what a study `knows`."""
    space = nasbench201.space()

    def run(landscape: Landscape, seed: int) -> None:
        algorithm = make(seed)
        algorithm.inform(landscape.insight(knows))
        algorithm.bind(space, [Metric("accuracy", "max"), Metric("latency_ms", "min")])
        told = 0
        while True:
            trials = []
            for arch in algorithm.ask(BATCH):
                told += 1
                trials.append(Finished(told, arch, landscape([int(gene) for gene in arch.genome])))
            algorithm.tell(trials)

    return run


def pymoo_nsga2(landscape: Landscape, seed: int) -> None:
    """pymoo's NSGA-II with uniform crossover and a mutation that resets a gene."""
    from pymoo.algorithms.moo.nsga2 import NSGA2 as Theirs
    from pymoo.core.mutation import Mutation
    from pymoo.core.problem import ElementwiseProblem
    from pymoo.operators.crossover.ux import UX
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    class Reset(Mutation):  # pymoo's own integer mutations take neighbouring operations to be alike
        def _do(self, _problem: Any, X: Any, random_state: Any = None, **_: Any) -> Any:
            other = (X + random_state.integers(1, OPS, X.shape)) % OPS
            return np.where(random_state.random(X.shape) < 1 / EDGES, other, X)

    class Cells(ElementwiseProblem):
        def __init__(self) -> None:
            super().__init__(n_var=EDGES, n_obj=2, xl=0, xu=OPS - 1, vtype=int)

        def _evaluate(self, x: Any, out: dict[str, Any], *_: Any, **__: Any) -> None:
            out["F"] = landscape([int(gene) for gene in x])

    operators = {"sampling": IntegerRandomSampling(), "crossover": UX(prob=0.9), "mutation": Reset()}
    algorithm = Theirs(POPULATION, eliminate_duplicates=True, **operators)
    minimize(Cells(), algorithm, ("n_eval", landscape.budget + POPULATION), seed=seed)


def optuna_search(make: Callable[[int], Any]) -> Callable[[Landscape, int], None]:
    """A sampler of Optuna's, in memory."""

    def run(landscape: Landscape, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        choices = {f"e{at}": optuna.distributions.CategoricalDistribution(list(range(OPS))) for at in range(EDGES)}
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=make(seed))
        while True:
            trial = study.ask(choices)
            study.tell(trial, landscape([trial.params[name] for name in choices]))

    return run


def _tpe(seed: int) -> Any:
    import optuna

    return optuna.samplers.TPESampler(multivariate=True, seed=seed)


def _nsga2(seed: int) -> Any:
    import optuna

    return optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)


SEARCHES: dict[str, Callable[[Landscape, int], None]] = {
    "surrogate": ours(lambda seed: Surrogate(seed=seed)),
    "surrogate, equal": ours(lambda seed: Surrogate(seed=seed), "equal"),
    "surrogate, equal, proxies": ours(lambda seed: Surrogate(seed=seed), "equal proxies"),
    "surrogate, equal, proxies, latency": ours(lambda seed: Surrogate(seed=seed), "equal proxies latency"),
    "random": random_search,
    "regularized evolution": ours(lambda seed: RegularizedEvolution(seed=seed)),
    "nsga2": ours(lambda seed: NSGA2(population=POPULATION, seed=seed)),
    "pymoo nsga2": pymoo_nsga2,
    "optuna nsga2": optuna_search(_nsga2),
    "optuna tpe": optuna_search(_tpe),
    "linas": ours(lambda seed: LINAS(alphas=[0.1, 1.0, 10.0], costs=[1.0, 10.0, 100.0], seed=seed)),
}
# Searches that think for seconds a run are given fewer evaluations; a run that did not get there counts as that many and more.
BUDGETS = {
    **{name: 600 for name in SEARCHES if name.startswith("surrogate")},
    "optuna nsga2": 2_000,
    "optuna tpe": 1_000,
    "linas": 1_000,
}

__all__ = ["BUDGETS", "SEARCHES", "Done", "Exhausted", "Landscape"]
