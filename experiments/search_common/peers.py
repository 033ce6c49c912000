"""The searches that are compared: each asks a problem for so many archs, one after the other."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pyglove as pg
from search_common.problem import Problem

from nas.metrics import Metric
from nas.search import LINAS, NSGA2, Algorithm, Compose, Finished, LocalSearch, Surrogate
from nas.space import Space

POPULATION = 20

Search = Callable[[Problem, int, int], np.ndarray]
"""Problem, evaluations, seed -> (evaluations, m) what was measured, in order."""


def random_search(problem: Problem, evaluations: int, seed: int) -> np.ndarray:
    """Uniform, without repeats."""
    draw, seen = random.Random(seed), {}
    while len(seen) < evaluations:
        genes = tuple(draw.randrange(count) for count in problem.candidates)
        seen.setdefault(genes, problem(genes))
    return np.array(list(seen.values()))


def ours(make: Callable[[int], Algorithm]) -> Search:
    """One of our algorithms, an arch at a time; it knows nothing but what was measured."""

    def run(problem: Problem, evaluations: int, seed: int) -> np.ndarray:
        space = Space(pg.List([pg.oneof(list(range(count))) for count in problem.candidates]), name="problem")
        algorithm, found = make(seed), []
        count = len(problem([0] * len(problem.candidates)))
        algorithm.bind(space, [Metric(f"objective{at}", "min") for at in range(count)])
        for number in range(evaluations):
            (arch,) = algorithm.ask(1)
            found.append(problem([int(gene) for gene in arch.genome]))
            algorithm.tell([Finished(number, arch, found[-1])])
        return np.array(found)

    return run


def optuna_tpe(problem: Problem, evaluations: int, seed: int) -> np.ndarray:
    """Optuna's multi-objective TPE with categorical choices."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    choices: dict[str, Any] = {
        f"d{at}": optuna.distributions.CategoricalDistribution(list(range(count)))
        for at, count in enumerate(problem.candidates)
    }
    count = len(problem([0] * len(problem.candidates)))
    sampler = optuna.samplers.TPESampler(seed=seed)
    study, found = optuna.create_study(directions=["minimize"] * count, sampler=sampler), []
    for _ in range(evaluations):
        trial = study.ask(choices)
        found.append(problem([trial.params[name] for name in choices]))
        study.tell(trial, found[-1])
    return np.array(found)


def pymoo_nsga2(problem: Problem, evaluations: int, seed: int) -> np.ndarray:
    """pymoo's NSGA-II with uniform crossover and a mutation that resets a gene."""
    from pymoo.algorithms.moo.nsga2 import NSGA2 as Theirs
    from pymoo.core.mutation import Mutation
    from pymoo.core.problem import ElementwiseProblem
    from pymoo.operators.crossover.ux import UX
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    counts, found = np.array(problem.candidates), []

    class Reset(Mutation):  # pymoo's own integer mutations take neighbouring candidates to be alike
        def _do(self, _problem: Any, X: Any, random_state: Any = None, **_: Any) -> Any:
            other = (X + random_state.integers(1, counts, X.shape)) % counts
            return np.where(random_state.random(X.shape) < 1 / len(counts), other, X)

    class Choices(ElementwiseProblem):
        def __init__(self) -> None:
            objectives = len(problem([0] * len(counts)))
            super().__init__(n_var=len(counts), n_obj=objectives, xl=0, xu=counts - 1, vtype=int)

        def _evaluate(self, x: Any, out: dict[str, Any], *_: Any, **__: Any) -> None:
            out["F"] = problem([int(gene) for gene in x])
            found.append(out["F"])

    operators = {"sampling": IntegerRandomSampling(), "crossover": UX(prob=0.9), "mutation": Reset()}
    algorithm = Theirs(POPULATION, eliminate_duplicates=True, **operators)
    minimize(Choices(), algorithm, ("n_eval", evaluations + POPULATION), seed=seed)
    return np.array(found[:evaluations])


def botorch_nehvi(problem: Problem, evaluations: int, seed: int) -> np.ndarray:
    """BoTorch's qLogNEHVI: a process for each objective on one-hot choices, and the best of a pool as large as ours.

    The pool is random archs and archs of the front mutated, since its acquisition functions do not optimise over choices.
    """
    import torch
    from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement as Gain
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import ModelListGP, SingleTaskGP
    from botorch.models.transforms import Standardize
    from gpytorch.mlls import SumMarginalLogLikelihood

    from nas.pareto import non_dominated

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    draw = np.random.default_rng(seed)
    counts = np.array(problem.candidates)

    def encoded(genes: np.ndarray) -> torch.Tensor:
        return torch.cat(
            [
                torch.nn.functional.one_hot(torch.as_tensor(column), count)
                for column, count in zip(genes.T, counts, strict=True)
            ],
            1,
        ).double()

    genes = draw.integers(0, counts, (6, len(counts)))
    genes[0], genes[1] = 0, counts - 1
    found = problem.values(genes)
    while len(found) < evaluations:
        x, y = encoded(genes), torch.as_tensor(-found)
        models = [SingleTaskGP(x, y[:, [at]], outcome_transform=Standardize(1)) for at in range(y.shape[1])]
        model = ModelListGP(*models)
        fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
        front = genes[non_dominated(found)]
        parents = front[draw.integers(0, len(front), 400)]
        others = draw.integers(0, counts, parents.shape)
        mutants = np.where(draw.random(parents.shape) < 2.0 / len(counts), others, parents)
        pool = np.vstack([mutants, draw.integers(0, counts, (200, len(counts)))])
        known = {tuple(row) for row in genes.tolist()}
        pool = np.array([row for row in pool.tolist() if tuple(row) not in known])
        worst, best = y.min(0).values, y.max(0).values
        gain = Gain(model, ref_point=(worst - 0.1 * (best - worst)).tolist(), X_baseline=x, prune_baseline=True)
        with torch.no_grad():
            values = torch.cat([gain(part[:, None]) for part in encoded(pool).split(100)])
        genes = np.vstack([genes, pool[int(values.argmax())]])
        found = problem.values(genes)
    return found[:evaluations]


SEARCHES: dict[str, Search] = {
    "surrogate": ours(lambda seed: Surrogate(seed=seed)),
    "compose": ours(lambda seed: Compose(seed=seed)),
    "linas": ours(lambda seed: LINAS(population=POPULATION, seed=seed)),
    "local-search": ours(lambda seed: LocalSearch(seed=seed)),
    "nsga2": ours(lambda seed: NSGA2(population=POPULATION, seed=seed)),
    "random": random_search,
    "optuna tpe": optuna_tpe,
    "pymoo nsga2": pymoo_nsga2,
    "botorch qlognehvi": botorch_nehvi,
}

DEAR = ("botorch qlognehvi",)
"""Not run unless asked for: seconds a proposal, and a library that is no dependency of this project."""
