"""What every algorithm costs to ask and tell after 100, 1,000 and 10,000 trials, beside Optuna's and pymoo's.

python experiments/overhead/run.py [--smoke] [--batches 14] [--sizes 100 1000 10000]

Of the default search also what an ask of one and of eight takes with two, three and four objectives.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyglove as pg

from nas.metrics import Metric
from nas.search import ALGORITHMS, Finished, History, LazyArchs, make
from nas.space import Arch, Space

DECISIONS, CANDIDATES, BATCH, POPULATION = 40, 4, 8, 100
OBJECTIVES = (Metric("error", "min"), Metric("cost", "min"))
LIMIT_S = 12.0  # processor time of a candidate at one size, after which it stops if it has had two batches
ELSEWHERE = {  # not asked here
    "given": "asks what it is given",
    "policy": "asks what a trained policy draws",
    "exhaustive": "a space of 4^40 archs is not enumerated",
    "pyglove": "replays its generator for every stored trial; see experiments/search_speed",
    "optuna": "Optuna's samplers are measured without the adapter",
    "robot": "needs proxies of the archs",
    "multi-fidelity": "needs low evaluations; without them it is the surrogate",
}
now = time.perf_counter


def landscape(genes: Any, objectives: int = 2) -> tuple[float, ...]:
    """Error against cost: every step of a decision costs one and lowers the error, by a weight of its own, unless repeated.

    Further objectives are costs of other weights.
    """
    gains = ((1 + i % 4) * (1 - gene / 3) ** 2 * (2 if genes[i - 1] == gene else 1) for i, gene in enumerate(genes))
    costs = (sum((1 + i % power) * gene**power for i, gene in enumerate(genes)) for power in range(1, objectives))
    return sum(gains), *map(float, costs)


class Clock:
    """Seconds of each batch's ask and tell, by the wall and by this thread's processor time."""

    def __init__(self) -> None:
        self.restored = 0.0  # seconds until the history was known
        self.trials = 0
        self.asks: list[float] = []
        self.longest = self.last = 0.0  # call, and the one before now
        self.wall = 0.0
        self.cpu = 0.0

    def timed(self, call: Callable[..., Any], *args: Any) -> Any:
        """What `call` gives, its time added."""
        cpu, start = time.thread_time(), now()
        answer = call(*args)
        self.last = now() - start
        self.longest = max(self.longest, self.last)
        self.wall += self.last
        self.cpu += time.thread_time() - cpu
        return answer

    def figures(self) -> dict[str, float]:
        return {
            "ms_a_trial": round(self.wall / self.trials * 1e3, 3),
            "cpu_ms_a_trial": round(self.cpu / self.trials * 1e3, 3),
            "median_ask_ms": round(float(np.median(self.asks)) * 1e3, 3),
            "longest_call_ms": round(self.longest * 1e3, 3),
            "trials": self.trials,
            "restore_s": round(self.restored, 3),
        }


def history(space: Space, archs: list[Arch], objectives: int) -> History:
    return History(
        keys=[arch.key for arch in archs],
        archs=LazyArchs(space, [arch.row() for arch in archs]),
        numbers=np.arange(len(archs)),
        values=np.array([landscape(arch.genome, objectives) for arch in archs]),
        violations=np.zeros(len(archs)),
        states=["COMPLETED"] * len(archs),
    )


# A candidate is a generator that has seen a history: each step is one batch of asks and tells, booked on its clock.


def ours(name: str, options: dict[str, Any], space: Space, archs: list[Arch], clock: Clock) -> Iterator[None]:
    # Without sources, which only a study finds, transfer costs what the algorithm that it wraps does, and its own look.
    algorithm = make(name, **({"from_": []} if name == "transfer" else {}), **options)
    algorithm.bind(space, OBJECTIVES)
    known = history(space, archs, 2)
    start = now()
    algorithm.restore(known)
    clock.restored = now() - start
    number = len(archs)
    while True:
        asked = clock.timed(algorithm.ask, BATCH)
        clock.asks.append(clock.last)
        clock.timed(
            algorithm.tell, [Finished(number + i, arch, landscape(arch.genome)) for i, arch in enumerate(asked)]
        )
        number += len(asked)
        clock.trials += len(asked)
        yield


def optuna(kind: str, archs: list[Arch], clock: Clock) -> Iterator[None]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    samplers: dict[str, Callable[[], Any]] = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=1),
        "nsga2": lambda: optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=1),
    }
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=samplers[kind]())
    choices = {f"d{i}": optuna.distributions.CategoricalDistribution(range(CANDIDATES)) for i in range(DECISIONS)}
    start = now()
    study.add_trials(
        optuna.trial.create_trial(
            params=dict(zip(choices, arch.genome, strict=True)), distributions=choices, values=landscape(arch.genome)
        )
        for arch in archs
    )
    clock.restored = now() - start

    def ask() -> list[Any]:
        return [study.ask(choices) for _ in range(BATCH)]

    def tell(trials: list[Any]) -> None:
        for trial in trials:
            study.tell(trial, landscape([trial.params[name] for name in choices]))

    while True:
        asked = clock.timed(ask)
        clock.asks.append(clock.last)
        clock.timed(tell, asked)
        clock.trials += BATCH
        yield


def pymoo_nsga2(archs: list[Arch], clock: Clock) -> Iterator[None]:
    """Generational: a step is one generation, and its history are the generations before it."""
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
    operators = {"sampling": IntegerRandomSampling(), "crossover": UX(prob=0.9), "mutation": Reset()}
    algorithm = NSGA2(POPULATION, eliminate_duplicates=True, **operators)
    algorithm.setup(problem, termination=NoTermination(), seed=1, verbose=False)

    def generation() -> None:
        batch = clock.timed(algorithm.ask)
        clock.asks.append(clock.last)
        batch.set("F", np.array([landscape(genes) for genes in batch.get("X").astype(int).tolist()]))
        clock.timed(algorithm.tell, batch)
        clock.trials += len(batch)

    start = now()
    for _ in range(max(1, len(archs) // POPULATION)):
        generation()
    clock.restored = now() - start
    clock.trials, clock.asks, clock.wall, clock.cpu, clock.longest = 0, [], 0.0, 0.0, 0.0
    while True:
        generation()
        yield


def interleave(candidates: dict[str, Iterator[None]], clocks: dict[str, Clock], batches: int) -> None:
    """A batch of each in turn, in an order that changes, until each has had all of its batches or its time."""
    rng = random.Random(0)
    turns = dict.fromkeys(candidates, 0)
    while turns:
        order = list(turns)
        rng.shuffle(order)
        for name in order:
            next(candidates[name])
            turns[name] += 1
            if turns[name] == batches or (turns[name] >= 2 and clocks[name].cpu > LIMIT_S):
                del turns[name]


def measured(size: int, batches: int, options: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Figures of every candidate after `size` trials at random."""
    value = pg.Dict({f"d{i}": pg.oneof(list(range(CANDIDATES))) for i in range(DECISIONS)})
    space, rng = Space(value, name="flat-40x4"), random.Random(size)
    archs = [space.sample(rng) for _ in range(size)]
    clocks: dict[str, Clock] = {}
    candidates: dict[str, Iterator[None]] = {}

    def enter(name: str, candidate: Callable[[Clock], Iterator[None]]) -> None:
        clocks[name] = Clock()
        candidates[name] = candidate(clocks[name])

    for name in ALGORITHMS:
        if name not in ELSEWHERE:
            enter(name, lambda clock, name=name: ours(name, options.get(name, {}), space, archs, clock))  # type: ignore[misc]
    enter("smbo tree", lambda clock: ours("smbo", {"tree": True, **options.get("smbo", {})}, space, archs, clock))
    enter("optuna tpe", lambda clock: optuna("tpe", archs, clock))
    enter("optuna nsga2", lambda clock: optuna("nsga2", archs, clock))
    enter("pymoo nsga2", lambda clock: pymoo_nsga2(archs, clock))
    interleave(candidates, clocks, batches)
    return {name: clock.figures() for name, clock in clocks.items()}


def default(size: int, objectives: int, batch: int, asks: int) -> dict[str, float]:
    """Milliseconds of the processor that an ask of `Surrogate` takes after `size` trials at random, beside nothing else."""
    value = pg.Dict({f"d{i}": pg.oneof(list(range(CANDIDATES))) for i in range(DECISIONS)})
    space, rng = Space(value, name="flat-40x4"), random.Random(size)
    archs = [space.sample(rng) for _ in range(size)]
    algorithm = make("surrogate")
    algorithm.bind(space, [Metric(f"objective{at}", "min") for at in range(objectives)])
    algorithm.restore(history(space, archs, objectives))
    taken = []
    for number in range(asks):
        begun = time.thread_time()
        asked = algorithm.ask(batch)
        taken.append(1e3 * (time.thread_time() - begun))
        start = size + number * batch
        algorithm.tell([Finished(start + i, arch, landscape(arch.genome, objectives)) for i, arch in enumerate(asked)])
    # The first ask fits parameters, as one in 15 % of the history does.
    return {"median_ms": round(float(np.median(taken[1:])), 1), "first_ms": round(taken[0], 1)}


def show(size: int, table: dict[str, dict[str, float]]) -> None:
    titles = ("ms_a_trial", "cpu_ms_a_trial", "median_ask_ms", "longest_call_ms", "trials", "restore_s")
    print(f"{f'after {size} trials':24}" + "".join(f"{title:>16}" for title in titles))
    for name, row in table.items():
        print(f"{name:24}" + "".join(f"{row[title]:16.3f}" for title in titles), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    parser.add_argument("--batches", type=int, default=14, help="of eight trials; 14 hold two rounds of LINAS")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1_000, 10_000], help="trials that are known")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    quick = {"inner": 100, "alphas": [1.0], "costs": []}
    small: dict[str, dict[str, Any]] = {"linas": quick, "concurrent-nas": quick, "smbo": {"samples": 16}}
    sizes, batches = ([20, 60], 2) if args.smoke else (args.sizes, args.batches)
    load = os.getloadavg()[0]
    tables = {}
    for size in sizes:
        print(f"{size} trials ...", file=sys.stderr, flush=True)
        tables[size] = measured(size, batches, small if args.smoke else {})
        show(size, tables[size])
    asks = {
        f"{objectives} objectives, {batch} at a time": default(sizes[-1], objectives, batch, 3 if args.smoke else 20)
        for objectives in (2, 3, 4)
        for batch in (1, BATCH)
    }
    for name, row in asks.items():
        print(f"{name}, after {sizes[-1]}: {row['median_ms']} ms an ask", flush=True)
    names = ("optuna", "pymoo", "moocore", "scikit-learn", "numpy")
    print(
        json.dumps(
            {
                "experiment": "overhead",
                "batch": BATCH,
                "after": tables,
                "surrogate": asks,
                "load": [round(load, 2), round(os.getloadavg()[0], 2)],
                "versions": {name: version(name) for name in names},
                "python": platform.python_version(),
                "cpus": os.cpu_count(),
            }
        )
    )


if __name__ == "__main__":
    main()
