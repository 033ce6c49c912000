"""The searches that are compared: each spends a budget on low and full evaluations of a problem, one after the other."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import pyglove as pg
from levels import Levels

from nas.metrics import Metric
from nas.search import Algorithm, Exhausted, Finished, MultiFidelity, RegularizedEvolution, Surrogate
from nas.search.insight import Insight
from nas.space import Arch, Space
from nas.tune.rungs import Rungs

FACTOR = 3  # of low evaluations one is continued to the full one

Genes = Sequence[int]
Search = Callable[[Levels, float, int], np.ndarray]
"""Problem, budget in full evaluations, seed -> (n, 1 + m): what was spent after each full evaluation, and its objectives."""


class Purse:
    """Evaluates, and keeps what was spent."""

    def __init__(self, levels: Levels, budget: float) -> None:
        self.levels, self._budget, self._spent = levels, budget, 0.0
        self._full: list[tuple[float, ...]] = []

    @property
    def open(self) -> bool:
        """Whether anything is left."""
        return self._spent < self._budget

    def low(self, genes: Genes) -> tuple[float, ...]:
        """A low evaluation."""
        self._spent += self.levels.cost
        return self.levels.low(genes)

    def full(self, genes: Genes) -> tuple[float, ...]:
        """A full one, from scratch: a training for 12 epochs has another schedule than one for 200."""
        self._spent += 1.0
        values = self.levels.full(genes)
        self._full.append((self._spent, *values))
        return values

    def result(self) -> np.ndarray:
        """What was measured in full."""
        rows = np.array(self._full)
        return rows[rows[:, 0] <= self._budget]


def space_of(levels: Levels) -> Space:
    """The problem's choices."""
    return Space(pg.List([pg.oneof(list(range(size))) for size in levels.full.candidates]), name="problem")


def _genes(arch: Arch) -> list[int]:
    return [int(gene) for gene in arch.genome]


def _metrics(levels: Levels) -> list[Metric]:
    width = len(levels.full([0] * len(levels.full.candidates)))
    return [Metric(f"objective{at}", "min") for at in range(width)]


def full_only(make: Callable[[int], Algorithm]) -> Search:
    """One of our algorithms with full evaluations alone."""

    def run(levels: Levels, budget: float, seed: int) -> np.ndarray:
        purse, algorithm = Purse(levels, budget), make(seed)
        algorithm.bind(space_of(levels), _metrics(levels))
        for number in count():
            if not purse.open:
                break
            try:
                (arch,) = algorithm.ask(1)
            except Exhausted:
                break
            algorithm.tell([Finished(number, arch, purse.full(_genes(arch)))])
        return purse.result()

    return run


def multi_fidelity(levels: Levels, budget: float, seed: int, **options: Any) -> np.ndarray:
    """Ours: the search decides which arch and how far."""
    purse, algorithm = Purse(levels, budget), MultiFidelity(low=12, seed=seed, **options)
    algorithm.inform(Insight(fidelity=("epochs", 200.0), varying=("objective0",)))
    algorithm.bind(space_of(levels), _metrics(levels))
    low = algorithm.low_level
    low.bind(algorithm.space, algorithm.objectives)
    for number in count():
        if not purse.open:
            break
        if archs := low.ask(1):
            low.tell([Finished(number, archs[0], purse.low(_genes(archs[0])))])
        else:
            (arch,) = algorithm.ask(1)
            algorithm.tell([Finished(number, arch, purse.full(_genes(arch)))])
    return purse.result()


def _random(levels: Levels, seed: int) -> Iterator[tuple[int, ...]]:
    """Archs without repeats."""
    draw, seen = random.Random(seed), set()
    while True:
        genes = tuple(draw.randrange(size) for size in levels.full.candidates)
        if genes not in seen:
            seen.add(genes)
            yield genes


def random_full(levels: Levels, budget: float, seed: int) -> np.ndarray:
    """Full evaluations of random archs."""
    purse, archs = Purse(levels, budget), _random(levels, seed)
    while purse.open:
        purse.full(next(archs))
    return purse.result()


class _Tpe:
    """Optuna's multi-objective TPE with categorical choices."""

    def __init__(self, levels: Levels, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._choices: dict[str, Any] = {
            f"d{at}": optuna.distributions.CategoricalDistribution(list(range(size)))
            for at, size in enumerate(levels.full.candidates)
        }
        sampler = optuna.samplers.TPESampler(seed=seed)
        self._study = optuna.create_study(directions=["minimize"] * len(_metrics(levels)), sampler=sampler)

    def __call__(self, measure: Callable[[Genes], tuple[float, ...]]) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """One proposal, evaluated."""
        trial = self._study.ask(self._choices)
        genes = tuple(trial.params[name] for name in self._choices)
        values = measure(genes)
        self._study.tell(trial, values)
        return genes, values


def tpe_full(levels: Levels, budget: float, seed: int) -> np.ndarray:
    """TPE with full evaluations."""
    purse, tpe = Purse(levels, budget), _Tpe(levels, seed)
    while purse.open:
        tpe(purse.full)
    return purse.result()


def _halved(purse: Purse, propose: Callable[[], tuple[Genes, tuple[float, ...]]]) -> np.ndarray:
    """Asynchronous successive halving: whoever is among the best third of all low evaluations so far is continued, once.

    The promoting variant of Li et al. 2020, ranked by fronts and crowding (Schmucker et al. 2021), as `nas.tune` ranks.
    """
    rungs, promoted = Rungs(2, grace=1, factor=FACTOR), set()
    known: dict[tuple[int, ...], tuple[float, ...]] = {}
    while purse.open:
        ready = (
            [g for g in known if g not in promoted and rungs.goes_on(g, 1, known[g])] if len(known) >= FACTOR else []
        )
        if ready:
            promoted.add(ready[0])
            purse.full(ready[0])
            continue
        genes, values = propose()
        known[tuple(genes)] = values
        rungs.goes_on(tuple(genes), 1, values)
    return purse.result()


def asha(levels: Levels, budget: float, seed: int) -> np.ndarray:
    """Successive halving of random archs."""
    purse, archs = Purse(levels, budget), _random(levels, seed)

    def propose() -> tuple[Genes, tuple[float, ...]]:
        genes = next(archs)
        return genes, purse.low(genes)

    return _halved(purse, propose)


def asha_tpe(levels: Levels, budget: float, seed: int) -> np.ndarray:
    """Successive halving of archs that TPE proposes from low evaluations: what BOHB does (Falkner, Klein, Hutter 2018)."""
    purse, tpe = Purse(levels, budget), _Tpe(levels, seed)
    return _halved(purse, lambda: tpe(purse.low))


SEARCHES: dict[str, Search] = {
    "multi-fidelity": multi_fidelity,
    "surrogate": full_only(lambda seed: Surrogate(seed=seed)),
    "random": random_full,
    "optuna tpe": tpe_full,
    "asha": asha,
    "asha + tpe": asha_tpe,
    "regularized evolution": full_only(lambda seed: RegularizedEvolution(population=20, sample=5, seed=seed)),
}
