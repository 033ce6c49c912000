"""How the store behaves at a million trials.  The last line printed is one JSON object."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyglove as pg

import nas
from nas.metrics import Metric
from nas.store import ImportedTrial, NewTrial, Report, Store, StudyRecord, open_store

OBJECTIVES = (Metric("accuracy", "max"), Metric("latency_ms", "min"))
DECISIONS = 40
CHUNK = 10_000


def schema() -> dict[str, Any]:
    decisions = [
        {"name": f"layers[{i}].kernel", "kind": "categorical", "candidates": [3, 5, 7, 9]} for i in range(DECISIONS)
    ]
    return {"name": "flat-40", "version": 1, "fingerprint": "flat-40", "decisions": decisions}


def measurements(rng: random.Random, crowded: bool = False) -> dict[str, float]:
    """Accuracy saturates with latency.

    At one latency it is a bell curve in steps of 1/10,000 (so many validation images), which gives a front of some hundreds;
    `crowded` it is spread evenly below a sharp bound, which gives a front of a thousand.
    """
    latency = rng.lognormvariate(1.0, 0.7)
    best = 1.0 - math.exp(-latency)
    accuracy = best * (1.0 - 0.2 * rng.random()) if crowded else round(best * 0.9 + rng.gauss(0.0, 0.01), 4)
    return {"accuracy": accuracy, "latency_ms": latency, "params": float(rng.randrange(1_000, 100_000))}


def row(rng: random.Random) -> list[int]:
    bits = rng.getrandbits(2 * DECISIONS)
    return [(bits >> (2 * i)) & 3 for i in range(DECISIONS)]


def searched(path: Path, n: int, rng: random.Random) -> None:
    """Fill the study of `declared` with `n` trials of real archs."""
    study = declared(path)
    for start in range(0, n, CHUNK):
        archs = [study.space.sample(rng) for _ in range(min(CHUNK, n - start))]
        study.record.import_trials([ImportedTrial(arch.key, arch.row(), measurements(rng)) for arch in archs])
    study.store.close()


def declared(path: Path) -> nas.Study:
    """A study of 40 decisions with NSGA-II, as a job would declare it."""
    space = nas.Space(pg.Dict({f"x{i}": pg.oneof([3, 5, 7, 9]) for i in range(DECISIONS)}), name="forty")
    return nas.Study("small", space=space, objectives=OBJECTIVES, algorithm=nas.NSGA2(), store=path)


def reopen(path: Path) -> None:
    """From nothing to the first proposal: database, history, algorithm, arch, and its durable record."""
    study = declared(path)
    (asked,) = study.ask()
    assert asked.number > 0
    study.store.close()


def trials(n: int, rng: random.Random, crowded: bool) -> Iterator[ImportedTrial]:
    for _ in range(n):
        yield ImportedTrial(f"{rng.getrandbits(128):032x}", row(rng), measurements(rng, crowded), duration_s=0.02)


def fill(study: StudyRecord, n: int, rng: random.Random, crowded: bool = False) -> float:
    """Seconds that the store took to import `n` trials."""
    seconds = 0.0
    for start in range(0, n, CHUNK):
        chunk = list(trials(min(CHUNK, n - start), rng, crowded))
        begin = time.perf_counter()
        study.import_trials(chunk)
        seconds += time.perf_counter() - begin
    return seconds


def timed(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Milliseconds of `call`: median, best and worst by the clock, the first one (cold) apart; median of processor time."""
    wall, cpu = [], []
    for _ in range(repeats + 1):
        begin, begin_cpu = time.perf_counter(), time.thread_time()
        call()
        wall.append((time.perf_counter() - begin) * 1e3)
        cpu.append((time.thread_time() - begin_cpu) * 1e3)
    warm = wall[1:]
    return {
        "median": statistics.median(warm),
        "min": min(warm),
        "max": max(warm),
        "first": wall[0],
        "cpu": statistics.median(cpu[1:]),
    }


def waves(study: StudyRecord, size: int, repeats: int, rng: random.Random) -> dict[str, float]:
    """Microseconds a trial of `wave` with `size` reports and as many new trials."""
    new = [[NewTrial(f"{rng.getrandbits(128):032x}", row(rng)) for _ in range(size)] for _ in range(repeats + 1)]
    leased = study.add(new[0], worker="w")
    times, cpu = [], []
    for batch in new[1:]:
        reports = [Report(a.number, "w", 1, "COMPLETED", measurements(rng), duration_s=0.02) for a in leased]
        begin, begin_cpu = time.perf_counter(), time.thread_time()
        _, leased = study.wave(reports, batch, worker="w")
        times.append((time.perf_counter() - begin) / size * 1e6)
        cpu.append((time.thread_time() - begin_cpu) / size * 1e6)
    study.release("w")
    times.sort()
    return {
        "median": statistics.median(times),
        "mean": statistics.fmean(times),
        "p99": times[int(len(times) * 0.99)],
        "max": times[-1],
        "cpu": statistics.median(cpu),
        "cpu_mean": statistics.fmean(cpu),
    }


def measure(store: Store, path: Path, n: int, smaller: int, repeats: int) -> dict[str, Any]:
    rng = random.Random(0)
    large = store.create_study("large", space_schema=schema(), objectives=OBJECTIVES)
    crowded = store.create_study("crowded", space_schema=schema(), objectives=OBJECTIVES)
    seconds = fill(large, n, rng)
    size = sum(file.stat().st_size for file in path.parent.glob(path.name + "*"))
    fill(crowded, n, rng, crowded=True)
    searched(path, smaller, rng)
    study = open_store(path, create=False, read_only=True).open_study("large")
    result: dict[str, Any] = {
        "trials": n,
        "decisions": DECISIONS,
        "import_trials_per_s": n / seconds,
        "bytes_per_trial": size / n,
        "front_size": len(study.front()),
        "front_read_ms": timed(study.front, repeats),
        "front_where_metrics_ms": timed(
            lambda: study.front(where="latency_ms <= 2 and params < 50_000"), max(repeats // 20, 1)
        ),
        "front_where_decision_ms": timed(lambda: study.front(where="layers[3].kernel == 5"), 1),
        "front_other_objectives_ms": timed(lambda: study.front(objectives=[*OBJECTIVES, Metric("params", "min")]), 1),
        "crowded_front_size": len(crowded.front()),
        "crowded_front_read_ms": timed(crowded.front, repeats),
        "summary_ms": timed(store.studies, max(repeats // 20, 1)),
        "history_trials": smaller,
        "history_ms": timed(store.open_study("small").history, 3),
        "reopen_ready_to_ask_ms": timed(lambda: reopen(path), 5),
        "wave_1_us": waves(large, 1, repeats * 10, rng),
        "wave_64_us": waves(large, 64, repeats, rng),
    }
    assert set(study.front().index) == set(study.front(where="number >= 0").index)
    return result


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1_000_000)
    parser.add_argument("--smoke", action="store_true", help="a small run, to see that it runs")
    options = parser.parse_args()
    n, smaller, repeats = (2_000, 1_000, 5) if options.smoke else (options.trials, 100_000, 50)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scale.db"
        with open_store(path) as store:
            result = measure(store, path, n, smaller, repeats)
    for name, value in rounded(result).items():
        print(f"{name:28} {value}")
    machine = {"python": platform.python_version(), "cpus": os.cpu_count(), "load": os.getloadavg()[0]}
    print(json.dumps(rounded({"experiment": "store_scale", **result, **machine})))


if __name__ == "__main__":
    main()
