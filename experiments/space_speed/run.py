"""What an operation on an architecture costs in `nas` and in PyGlove, interleaved in one run.

python experiments/space_speed/run.py [--smoke] [--rounds 15]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyglove as pg

import nas

# Calls of ours in one round against one call of PyGlove's: about the same time each.
CALLS = 300


@nas.model
def flat(choices: dict[str, int]) -> int:
    return len(choices)


@nas.model
def nested(resolution: int, stages: Sequence[Any]) -> int:
    return resolution + sum(len(stage.blocks) for stage in stages)


def flat_value() -> Any:
    """40 decisions of four candidates."""
    return flat(choices={f"x{i}": pg.oneof([0, 1, 2, 3]) for i in range(40)})


def nested_value() -> Any:
    """Five stages of two to four blocks, each with a kernel and an expansion: 96 decisions, of which 26 to 46 are active."""

    def blocks(depth: int) -> list[Any]:
        return [{"kernel": pg.oneof([3, 5, 7]), "expand": pg.oneof([3, 4, 6])} for _ in range(depth)]

    stages = [{"blocks": pg.oneof([blocks(depth) for depth in (2, 3, 4)])} for _ in range(5)]
    return nested(resolution=pg.oneof([128, 160, 192, 224]), stages=stages)


Pair = tuple[Callable[[], Any], Callable[[], Any]]


def operations(value: Any) -> dict[str, Pair]:
    """Name -> (ours, PyGlove's counterpart)."""
    space, spec, template = nas.Space(value), pg.dna_spec(value), pg.template(value)
    ours, theirs = random.Random(0), random.Random(0)
    a, b = space.sample(ours), space.sample(ours)
    dna_a, dna_b = space.to_dna(a), space.to_dna(b)
    closed = template.decode(dna_a)
    mutator = pg.evolution.mutators.Uniform(seed=0)
    recombinator = pg.evolution.recombinators.Uniform(seed=0)
    choices, row, numbers = a.choices, a.row(), dna_a.to_numbers()
    text, dna_text = json.dumps(row), dna_a.to_json_str()
    return {
        "sample": (lambda: space.sample(ours), lambda: pg.random_dna(spec, theirs)),
        "mutate": (lambda: space.mutate(a, ours), lambda: mutator.mutate(dna_a)),
        "crossover": (lambda: space.crossover(a, b, ours), lambda: recombinator.recombine([dna_a, dna_b], None, 0)),
        "encode": (lambda: space.arch(choices), lambda: template.encode(closed)),
        "from numbers": (lambda: space.from_genome(row), lambda: pg.DNA.from_numbers(numbers, spec)),
        "from a trusted row": (lambda: space.from_row(row), lambda: pg.DNA.from_numbers(numbers, spec)),
        "key": (lambda: nas.Arch(space, a.genome).key, lambda: pg.hash(dna_a)),
        "to JSON": (lambda: json.dumps(a.row()), dna_a.to_json_str),
        "from JSON": (
            lambda: space.from_genome(json.loads(text)),
            lambda: pg.from_json_str(dna_text).use_spec(spec),
        ),
        "build": (lambda: space.build(a), lambda: template.decode(dna_a)()),
        "compile": (lambda: nas.Space(value), lambda: pg.dna_spec(value)),
    }


def microseconds(call: Callable[[], Any], calls: int) -> float:
    """Processor time of this thread: other programs preempt a long call more often than a short one."""
    start = time.thread_time()
    for _ in range(calls):
        call()
    return (time.thread_time() - start) / calls * 1e6


def compare(pair: Pair, rounds: int, calls: int) -> dict[str, Any]:
    """Medians of both, with the 10th and 90th percentile, and of the ratio in one round."""
    ours, theirs = pair
    ours(), theirs()  # warm up
    here, there = [], []
    for _ in range(rounds):
        here.append(microseconds(ours, calls))
        there.append(microseconds(theirs, 1))
    ratios = [b / a for a, b in zip(here, there, strict=True)]
    return {"ours_us": spread(here), "pyglove_us": spread(there), "ratio": spread(ratios)}


def spread(values: list[float]) -> dict[str, float]:
    low, *_, high = statistics.quantiles(values, n=10, method="inclusive")
    return {name: round(x, 2) for name, x in (("median", statistics.median(values)), ("p10", low), ("p90", high))}


def bulk(value: Any, count: int) -> dict[str, float]:
    """Seconds to reopen `count` thousand rows, milliseconds for the features of 1,000 archs; best of three."""
    space, rng = nas.Space(value), random.Random(0)
    rows = [space.sample(rng).row() for _ in range(1000 * count)]
    archs = space.rows_to_archs(rows[:1000])
    best = {
        f"rows_{count}k_s": lambda: space.rows_to_archs(rows),
        "onehot_1k_ms": lambda: space.features(archs, "onehot"),
        "ordinal_1k_ms": lambda: space.features(archs, "ordinal"),
    }
    return {
        name: round(min(microseconds(call, 1) for _ in range(3)) / (1e6 if name.endswith("_s") else 1e3), 3)
        for name, call in best.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few rounds: shows that it runs, not what it costs")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    rounds, calls = (3, 10) if options.smoke else (options.rounds, CALLS)
    result: dict[str, Any] = {
        "experiment": "space_speed",
        "python": platform.python_version(),
        "pyglove": version("pyglove"),
        "rounds": rounds,
        "clock": "thread CPU",
    }
    for name, value in (("flat 40 x 4", flat_value()), ("nested, OFA-like", nested_value())):
        result[name] = {}
        print(f"\n{name}\n| operation | nas, µs | PyGlove, µs | ratio |\n|---|---|---|---|")
        for operation, pair in operations(value).items():
            row = compare(pair, rounds, max(1, calls // 50) if operation in ("compile", "build") else calls)
            result[name][operation] = row
            cells = (f"{c['median']:,.6g} ({c['p10']:,.6g}-{c['p90']:,.6g})" for c in row.values())
            print(f"| {operation} | {' | '.join(cells)} |", flush=True)
        result[name]["bulk"] = bulk(value, 1 if options.smoke else 100)
        print(result[name]["bulk"])
    if not options.smoke:
        with (Path(__file__).parent / "results.jsonl").open("a") as file:
            file.write(json.dumps(result) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
