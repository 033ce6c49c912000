"""What PyGlove's and Optuna's algorithms cost and find through our adapters, beside themselves, and what a cap saves TPE.

python experiments/foreign_search/run.py [--smoke] [--trials 300] [--seeds 5] [--part quality]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import islice
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import optuna
import pyglove as pg

from nas.metrics import Metric
from nas.pareto import hypervolume
from nas.search import Algorithm, DNASearch, Finished, OptunaSearch, make
from nas.space import Arch, Space

BLOCKS, POPULATION = 6, 30
OBJECTIVES = (Metric("error", "min"), Metric("cost", "min"))
REFERENCE = (60.0, 60.0)
Search = Iterator[tuple[float, float]]


def space() -> Space:
    """Six blocks, each a convolution (kernel, ratio), an attention (heads) or nothing: 7.5 million archs, 24 decisions."""
    block = [
        pg.Dict(op="conv", kernel=pg.oneof([3, 5, 7]), ratio=pg.oneof([1, 2, 4])),
        pg.Dict(op="attention", heads=pg.oneof([1, 2, 4, 8])),
        "skip",
    ]
    return Space(pg.Dict(blocks=[pg.oneof(block) for _ in range(BLOCKS)]), name="blocks")


SPACE = space()


def evaluate(arch: Arch) -> tuple[float, float]:
    """Every block lowers the error by its own table and its neighbour's, and costs what it computes."""
    error, cost, before = 54.0, 0.0, "skip"
    for index, block in enumerate(arch.value.blocks):
        op = block if isinstance(block, str) else block.op
        gain, price = 0.0, 0.0
        if op == "conv":
            gain = 3.0 + (block.kernel - 3) / 2 * (1.0 if index < 3 else 0.3) + block.ratio / 2
            price = 1.0 + (block.kernel - 3) / 2 * block.ratio * 0.7 + block.ratio * 0.5
        elif op == "attention":
            gain = 2.5 + np.log2(block.heads) * (0.4 if index < 3 else 1.3)
            price = 2.0 + 0.6 * np.log2(block.heads)
        error -= gain * (1.4 if op != before else 0.8)
        cost += price
        before = op
    return float(error), float(cost)


# -- searches: endless evaluations, one after the other --------------------------------------------------------------------


def ours(build: Callable[[int], Algorithm]) -> Callable[[int], Search]:
    def run(seed: int) -> Search:
        algorithm = build(seed)
        algorithm.bind(SPACE, OBJECTIVES)
        number = 0
        while True:
            (arch,) = algorithm.ask(1)
            point = evaluate(arch)
            algorithm.tell([Finished(number, arch, point)])
            number += 1
            yield point

    return run


def distributions() -> dict[str, Any]:
    return {
        decision.name: optuna.distributions.CategoricalDistribution(range(len(decision.labels)))
        for decision in SPACE.decisions
    }


def optuna_itself(build: Callable[[int], optuna.samplers.BaseSampler]) -> Callable[[int], Search]:
    """Static vectors, in Optuna's own storage; the point that it drew is told, and repeats are evaluations."""

    def run(seed: int) -> Search:
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=build(seed))
        choices = distributions()
        while True:
            trial = study.ask(choices)
            point = evaluate(SPACE.repair([trial.params[name] for name in choices]))
            study.tell(trial, point)
            yield point

    return run


def pyglove_itself(population: int) -> Callable[[int], Search]:
    def run(seed: int) -> Search:
        mutator = pg.evolution.mutators.Uniform(seed=seed)
        generator = pg.evolution.nsga2(mutator, population_size=population, seed=seed)
        generator.setup(SPACE.dna_spec)
        while True:
            dna = generator.propose()
            point = evaluate(SPACE.from_dna(dna))
            generator.feedback(dna, (-point[0], -point[1]))
            yield point

    return run


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(multivariate=True, group=True, seed=seed)


def searches(population: int, caps: tuple[int, int]) -> dict[str, Callable[[int], Search]]:
    options = {"population_size": population}
    return {
        "random, ours": ours(lambda seed: make("random", seed=seed)),
        "NSGA-II, ours": ours(lambda seed: make("nsga2", population=population, seed=seed)),
        "TPE, itself": optuna_itself(tpe),
        "TPE, adapter": ours(lambda seed: OptunaSearch("tpe", seed=seed)),
        f"TPE, adapter, last and best {caps[0]}": ours(lambda seed: OptunaSearch("tpe", history=caps[0], seed=seed)),
        f"TPE, adapter, last and best {caps[1]}": ours(lambda seed: OptunaSearch("tpe", history=caps[1], seed=seed)),
        "Optuna's NSGA-II, itself": optuna_itself(lambda seed: optuna.samplers.NSGAIISampler(**options, seed=seed)),
        "Optuna's NSGA-II, adapter": ours(lambda seed: OptunaSearch("nsga2", options, seed=seed)),
        "PyGlove's nsga2, itself": pyglove_itself(population // 2),
        "PyGlove's nsga2, adapter": ours(
            lambda seed: DNASearch(pg.evolution.nsga2(population_size=population // 2), seed=seed)
        ),
    }


# -- what an ask costs ---------------------------------------------------------------------------------------------------


def history(count: int) -> list[Finished]:
    rng = random.Random(0)
    archs = list({arch.key: arch for arch in (SPACE.sample(rng) for _ in range(2 * count))}.values())[:count]
    return [Finished(number, arch, evaluate(arch)) for number, arch in enumerate(archs)]


def ask_ms(build: Callable[[], Algorithm], told: list[Finished], repeats: int) -> float:
    """Processor time of an ask with this history, median."""
    algorithm = build()
    algorithm.bind(SPACE, OBJECTIVES)
    algorithm.tell(told)
    algorithm.ask(1)
    return _median_ms(lambda: algorithm.ask(1), repeats)


def itself_ms(told: list[Finished], repeats: int) -> float:
    choices = distributions()
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=tpe(0))
    for trial in told:
        params = {name: gene or 0 for name, gene in zip(choices, trial.arch.genome, strict=True)}
        study.add_trial(
            optuna.trial.create_trial(values=list(trial.values or ()), params=params, distributions=choices)
        )
    study.ask(choices)
    return _median_ms(lambda: study.ask(choices), repeats)


def sampling_ms(count: int) -> dict[str, float]:
    """Processor time of a trial of `pg.sample` that evaluates nothing, by backend; the generator's own time is in both."""
    import nas.pyglove  # noqa: F401 (registers the backend)

    spent = {}
    with tempfile.TemporaryDirectory() as folder:
        for backend, options in (("in-memory", {}), ("nas", {"store": f"{folder}/nas.db"})):
            started = time.process_time()
            for _, feedback in pg.sample(SPACE.value, pg.geno.Random(), count, name="cost", backend=backend, **options):
                feedback(0.5)
            spent[backend] = round((time.process_time() - started) / count * 1e3, 2)
    return spent


def _median_ms(call: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.process_time()
        call()
        times.append(time.process_time() - started)
    return round(median(times) * 1e3, 2)


def costs(sizes: list[int], repeats: int) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for size in sizes:
        told = history(size)
        row = {
            "TPE, itself": itself_ms(told, repeats),
            "TPE, adapter": ask_ms(lambda: OptunaSearch("tpe"), told, repeats),
            "TPE, adapter, last and best 500": ask_ms(lambda: OptunaSearch("tpe", history=500), told, repeats),
            "TPE, adapter, last and best 100": ask_ms(lambda: OptunaSearch("tpe", history=100), told, repeats),
            "Optuna's NSGA-II, adapter": ask_ms(lambda: OptunaSearch("nsga2"), told, repeats),
            "NSGA-II, ours": ask_ms(lambda: make("nsga2"), told, repeats),
        }
        for name, value in row.items():
            table.setdefault(name, {})[str(size)] = value
        print(f"ask at {size} trials, ms: {row}", flush=True)
    return table


def quality(
    found: dict[str, Callable[[int], Search]], trials: int, seeds: int, budgets: list[int]
) -> dict[str, dict[str, Any]]:
    """Dominated share of the box below the reference, after each budget, over the seeds."""
    table: dict[str, dict[str, Any]] = {}
    for name, search in found.items():
        shares, started = [], time.process_time()
        for seed in range(seeds):
            points = np.array(list(islice(search(seed), trials)))
            shares.append([hypervolume(points[:b], REFERENCE) / np.prod(REFERENCE) for b in budgets])
        mean, spread = np.mean(shares, axis=0), np.std(shares, axis=0, ddof=1)
        table[name] = {"mean": mean.round(4).tolist(), "sd": spread.round(4).tolist()}
        table[name]["cpu_s"] = round(time.process_time() - started, 1)
        print(f"{name:36} {table[name]}", flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--part", choices=["both", "quality", "costs"], default="both")
    args = parser.parse_args()
    trials, seeds, population, caps = (
        (24, 2, 8, (16, 12)) if args.smoke else (args.trials, args.seeds, POPULATION, (200, 100))
    )
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    budgets = [trials // 3, trials]
    figures: dict[str, Any] = {"experiment": "foreign_search", "evaluations": budgets, "seeds": seeds}
    if args.part != "costs":
        figures["hypervolume_share"] = quality(searches(population, caps), trials, seeds, budgets)
    if args.part != "quality":
        figures["ask_cpu_ms"] = costs([30] if args.smoke else [100, 1000, 3000], 3 if args.smoke else 5)
        figures["sampling_cpu_ms"] = sampling_ms(20 if args.smoke else 200)
    print(json.dumps(figures | {"versions": {name: version(name) for name in ("optuna", "pyglove", "numpy")}}))


if __name__ == "__main__":
    main()
