"""How long a search algorithm thinks: ask+tell of ours, pymoo's, Optuna's and PyGlove's, interleaved in one run.

python experiments/search_speed/run.py [--smoke] [--trials 100000]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import random
import time
import warnings
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyglove as pg

from nas.metrics import Metric
from nas.search import Finished, History, LazyArchs, make
from nas.space import Space

DECISIONS, CANDIDATES, POPULATION, WINDOW = 40, 4, 100, 8
OBJECTIVES = (Metric("error", "min"), Metric("cost", "min"))
now = time.perf_counter


def landscape(genes: Any) -> tuple[float, float]:
    """Error against cost: every step of a decision costs one and lowers the error, by a weight of its own."""
    return sum((1 + i % 4) * (1 - gene / 3) ** 2 for i, gene in enumerate(genes)), float(sum(genes))


class Clock:
    """Seconds a trial by the wall clock, and of each call also by this thread's processor clock.

    Where other programs run, the wall clock holds their turns too: a longest call of 4 ms and more is often theirs.
    """

    def __init__(self) -> None:
        self.trials, self.wall, self.cpu = array("d"), array("d"), array("d")
        self.at = array("l")  # trials finished before the call

    def timed(self, call: Callable[..., Any], *args: Any) -> tuple[Any, float]:
        spent, start = time.thread_time(), now()
        answer = call(*args)
        took, spent = now() - start, time.thread_time() - spent
        self.wall.append(took)
        self.cpu.append(spent)
        self.at.append(len(self.trials))
        return answer, took


# A candidate is a generator: each step handles one trial (pymoo: one generation) and books it on its clock.


def ours(name: str, space: Space, clock: Clock, **options: Any) -> Iterator[int]:
    algorithm = make(name, **options)
    algorithm.bind(space, OBJECTIVES)
    running: deque[Any] = deque()
    number = 0
    while True:
        archs, asked = clock.timed(algorithm.ask, 1)
        running.append((number, archs[0], asked))
        number += 1
        if len(running) == WINDOW:
            mine, arch, before = running.popleft()
            _, told = clock.timed(algorithm.tell, [Finished(mine, arch, landscape(arch.genome))])
            clock.trials.append(before + told)
            yield 1


def pymoo_nsga2(clock: Clock) -> Iterator[int]:
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.mutation import Mutation
    from pymoo.core.problem import Problem
    from pymoo.core.termination import NoTermination
    from pymoo.operators.crossover.ux import UX
    from pymoo.operators.sampling.rnd import IntegerRandomSampling

    class Reset(Mutation):  # pymoo's own integer mutations assume that neighbouring candidates are alike
        def _do(self, _problem: Any, X: Any, random_state: Any = None, **_: Any) -> Any:
            other = (X + random_state.integers(1, CANDIDATES, X.shape)) % CANDIDATES
            return np.where(random_state.random(X.shape) < 1 / DECISIONS, other, X)

    problem = Problem(n_var=DECISIONS, n_obj=2, xl=0, xu=CANDIDATES - 1, vtype=int)
    algorithm = NSGA2(
        POPULATION,
        sampling=IntegerRandomSampling(),
        crossover=UX(prob=0.9),
        mutation=Reset(),
        eliminate_duplicates=True,
    )
    algorithm.setup(problem, termination=NoTermination(), seed=1, verbose=False)
    while True:
        batch, asked = clock.timed(algorithm.ask)
        batch.set("F", np.array([landscape(genes) for genes in batch.get("X").astype(int).tolist()]))
        _, told = clock.timed(lambda infills=batch: algorithm.tell(infills=infills))
        clock.trials.extend([(asked + told) / len(batch)] * len(batch))
        yield len(batch)


def optuna_nsga2(clock: Clock) -> Iterator[int]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=1)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    choices = {f"d{i}": optuna.distributions.CategoricalDistribution(range(CANDIDATES)) for i in range(DECISIONS)}
    running: deque[Any] = deque()
    while True:
        trial, asked = clock.timed(study.ask, choices)
        running.append((trial, asked))
        if len(running) == WINDOW:
            trial, before = running.popleft()
            values = landscape([trial.params[name] for name in choices])
            _, told = clock.timed(study.tell, trial, values)
            clock.trials.append(before + told)
            yield 1


def pyglove_nsga2(value: Any, clock: Clock) -> Iterator[int]:
    algorithm = pg.evolution.nsga2(pg.evolution.mutators.Uniform(seed=1), population_size=POPULATION, seed=1)
    algorithm.setup(pg.dna_spec(value))
    running: deque[Any] = deque()
    while True:
        dna, asked = clock.timed(algorithm.propose)
        running.append((dna, asked))
        if len(running) == WINDOW:
            dna, before = running.popleft()
            reward = tuple(-value for value in landscape(dna.to_numbers()))
            _, told = clock.timed(algorithm.feedback, dna, reward)
            clock.trials.append(before + told)
            yield 1


def interleave(candidates: dict[str, tuple[Iterator[int], int]], slices: int) -> None:
    """Each in turn for a share of its trials, in an order that changes: what else the machine does hits all alike."""
    done = dict.fromkeys(candidates, 0)
    order = list(candidates)
    rng = random.Random(0)
    for part in range(1, slices + 1):
        rng.shuffle(order)
        for name in order:
            steps, trials = candidates[name]
            while done[name] < trials * part // slices:
                done[name] += next(steps)


def milliseconds(clock: Clock) -> dict[str, dict[str, float]]:
    """Figures for trials 0-1,000, 1,000-10,000 and so on."""
    columns = (clock.trials, clock.wall, clock.cpu, clock.at)
    trials, wall, cpu, at = (np.frombuffer(column, dtype=column.typecode) for column in columns)
    table, start, end = {}, 0, 1000
    while start < len(trials):
        part, calls = trials[start:end] * 1e3, (at >= start) & (at < end)
        table[f"{start}-{min(end, len(trials))}"] = {
            "mean": part.mean(),
            "median": float(np.median(part)),
            "p99": float(np.percentile(part, 99)),
            "longest_call": wall[calls].max() * 1e3,
            "cpu_mean": cpu[calls].sum() * 1e3 / len(part),
            "cpu_longest_call": cpu[calls].max() * 1e3,
        }
        start, end = end, end * 10
    return {decade: {key: round(float(value), 4) for key, value in row.items()} for decade, row in table.items()}


def restoring(space: Space, trials: int) -> dict[str, float]:
    """Seconds to rebuild each algorithm from the columns of `trials` finished trials, ready to ask."""
    rng = random.Random(0)
    archs = [space.sample(rng) for _ in range(trials)]
    history = History(
        keys=[arch.key for arch in archs],
        archs=LazyArchs(space, [arch.row() for arch in archs]),
        numbers=np.arange(trials),
        values=np.array([landscape(arch.genome) for arch in archs]),
        violations=np.zeros(trials),
        states=["COMPLETED"] * trials,
    )
    seconds = {}
    for name in ("random", "regularized-evolution", "nsga2"):
        algorithm = make(name)
        algorithm.bind(space, OBJECTIVES)
        start = now()
        algorithm.restore(history)
        algorithm.ask(1)
        seconds[name] = round(now() - start, 4)
    return seconds


def show(table: dict[str, dict[str, dict[str, float]]]) -> None:
    titles = {
        "mean": "mean",
        "median": "median",
        "p99": "p99",
        "longest_call": "longest call",
        "cpu_mean": "cpu mean",
        "cpu_longest_call": "cpu longest",
    }
    print(f"{'ms a trial (ask+tell)':24}{'trials':>14}" + "".join(f"{title:>14}" for title in titles.values()))
    for name, decades in table.items():
        for decade, row in decades.items():
            print(f"{name:24}{decade:>14}" + "".join(f"{row[key]:14.4f}" for key in titles))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    parser.add_argument(
        "--trials", type=int, default=100_000, help="of ours and pymoo's; Optuna: a tenth, PyGlove: 600"
    )
    args = parser.parse_args()
    trials = 2_000 if args.smoke else args.trials
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)

    value = pg.Dict({f"d{i}": pg.oneof(list(range(CANDIDATES))) for i in range(DECISIONS)})
    space = Space(value, name="flat-40x4")
    clocks = {
        name: Clock()
        for name in ("nsga2", "regularized-evolution", "random", "pymoo nsga2", "optuna nsga2", "pyglove nsga2")
    }
    candidates: dict[str, tuple[Iterator[int], int]] = {
        "nsga2": (ours("nsga2", space, clocks["nsga2"], population=POPULATION), trials),
        "regularized-evolution": (ours("regularized-evolution", space, clocks["regularized-evolution"]), trials),
        "random": (ours("random", space, clocks["random"]), trials),
        "pymoo nsga2": (pymoo_nsga2(clocks["pymoo nsga2"]), trials),
        "optuna nsga2": (optuna_nsga2(clocks["optuna nsga2"]), max(trials // 10, 200)),
        "pyglove nsga2": (pyglove_nsga2(value, clocks["pyglove nsga2"]), 40 if args.smoke else 600),
    }
    load = os.getloadavg()[0]
    interleave(candidates, slices=10 if args.smoke else 100)
    table = {name: milliseconds(clock) for name, clock in clocks.items()}

    show(table)
    print(
        json.dumps(
            {
                "experiment": "search_speed",
                "trials": trials,
                "ask_tell_ms": table,
                "restore_s": restoring(space, trials),
                "load": [round(load, 2), round(os.getloadavg()[0], 2)],
                "versions": {name: version(name) for name in ("pymoo", "optuna", "pyglove", "moocore", "numpy")},
                "python": platform.python_version(),
                "cpus": os.cpu_count(),
            }
        )
    )


if __name__ == "__main__":
    main()
