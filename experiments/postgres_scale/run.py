"""Claims and reports of eight processes, and a million trials, on SQLite and PostgreSQL.  The last line is one JSON object."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

import nas.store.postgres
from nas.metrics import Metric
from nas.store import ImportedTrial, NewTrial, Report, StudyRecord, open_store

ROOT = Path(__file__).resolve().parents[2]
OBJECTIVES = (Metric("accuracy", "max"), Metric("latency_ms", "min"))
THREE = (*OBJECTIVES, Metric("params", "min"))
DECISIONS, CHUNK = 40, 10_000
FILTERS = {
    "front_where_metrics_ms": ("latency_ms <= 2 and params < 50_000", None),
    "front_where_metrics_3_objectives_ms": ("latency_ms <= 2 and params < 50_000", THREE),
    "front_where_decision_ms": ("layers[3].kernel == 5", None),
    "front_where_decision_3_objectives_ms": ("layers[3].kernel == 5", THREE),
}


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def schema() -> dict[str, Any]:
    decisions = [
        {"name": f"layers[{i}].kernel", "kind": "categorical", "candidates": [3, 5, 7, 9]} for i in range(DECISIONS)
    ]
    return {"name": "flat-40", "version": 1, "fingerprint": "flat-40", "decisions": decisions}


def new_trial(rng: random.Random) -> NewTrial:
    bits = rng.getrandbits(2 * DECISIONS)
    return NewTrial(f"{rng.getrandbits(128):032x}", [(bits >> (2 * i)) & 3 for i in range(DECISIONS)])


def measurements(rng: random.Random) -> dict[str, float]:
    """Accuracy saturates with latency under bell-shaped noise, in steps of 1/10,000: a front of some hundreds."""
    latency = rng.lognormvariate(1.0, 0.7)
    accuracy = round((1.0 - math.exp(-latency)) * 0.9 + rng.gauss(0.0, 0.01), 4)
    return {"accuracy": accuracy, "latency_ms": latency, "params": float(rng.randrange(1_000, 100_000))}


# -- eight processes ---------------------------------------------------------------------------------------------------


def work(url: str, study: str, worker: str, batch: int, seconds: float) -> None:
    """Claim `batch` trials and report them, until the time is over; prints the numbers of those that were accepted."""
    rng, mine, refused = random.Random(worker), list[int](), 0
    with open_store(url, create=False) as store:
        record = store.open_study(study)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        begin = time.perf_counter()
        while time.perf_counter() < begin + seconds:
            claims = record.claim(worker, batch)
            if not claims:
                break
            reports = [Report(c.number, worker, c.attempt, "COMPLETED", measurements(rng)) for c in claims]
            for receipt in record.report(reports):
                mine.append(receipt.number)
                refused += not receipt.accepted
        spent = time.perf_counter() - begin
    print(json.dumps([mine, refused, spent]))


def contend(
    url: str, batch: int, seed: int, *, workers: int, seconds: float, waiting: int, apart: bool = False
) -> dict[str, float]:
    """Trials claimed and reported a second by `workers` processes, and how many were claimed twice or lost.

    Args:
        apart: each statement waits for the answer of the one before, as without pipeline mode.
    """
    rng, name = random.Random(seed), f"contend {batch} {seed} {apart}"
    with open_store(url) as store:
        record = store.create_study(name, space_schema=schema(), objectives=OBJECTIVES)
        for start in range(0, waiting, CHUNK):
            record.add([new_trial(rng) for _ in range(min(CHUNK, waiting - start))])
        command = [sys.executable, __file__, "--work", url, name]
        pool = [
            subprocess.Popen(
                [*command, f"w{i}", str(batch), str(seconds), "apart" if apart else "together"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for i in range(workers)
        ]
        for process in pool:
            assert process.stdout is not None
            process.stdout.readline()
        for process in pool:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [json.loads(process.communicate()[0]) for process in pool]
        spent = max(spent for _, _, spent in answers)
        numbers = [number for mine, _, _ in answers for number in mine]
        counts = record.counts()
        return {
            "per_s": len(numbers) / spent,
            "double_claims": len(numbers) - len(set(numbers)),
            "refused": sum(refused for _, refused, _ in answers),
            "lost": len(set(numbers)) - counts["COMPLETED"],
            "left_running": counts["RUNNING"],
            "least": min(len(mine) for mine, _, _ in answers) / spent,
        }


# -- a million trials --------------------------------------------------------------------------------------------------


def fill(study: StudyRecord, n: int, rng: random.Random) -> float:
    """Seconds that the store took to import `n` trials."""
    seconds = 0.0
    for start in range(0, n, CHUNK):
        new = [new_trial(rng) for _ in range(min(CHUNK, n - start))]
        chunk = [ImportedTrial(one.key, one.row, measurements(rng), duration_s=0.02) for one in new]
        begin = time.perf_counter()
        study.import_trials(chunk)
        seconds += time.perf_counter() - begin
        if start // CHUNK % 10 == 0:
            say(f"imported {start + len(chunk):,} of {n:,}")
    return seconds


def timed(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Milliseconds: the first call, and of the others the median and the worst; median of this process's processor time."""
    wall, cpu = [], []
    for _ in range(repeats + 1):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        call()
        wall.append((time.perf_counter() - begin) * 1e3)
        cpu.append((time.process_time() - begin_cpu) * 1e3)
    return {
        "first": wall[0],
        "median": statistics.median(wall[1:]),
        "max": max(wall[1:]),
        "cpu": statistics.median(cpu[1:]),
    }


def reopen(url: str) -> None:
    """What a run that goes on reads before it proposes: the database, the study, all of its history."""
    with open_store(url, create=False) as store:
        assert len(store.open_study("large").history()) > 0


def disk_bytes(url: str) -> int:
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        return sum(file.stat().st_size for file in path.parent.glob(path.name + "*"))
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1))
    with engine.connect() as connection:
        size = connection.execute(sa.text("SELECT pg_database_size(current_database())")).scalar_one()
    engine.dispose()
    return int(size)


def scale(url: str, n: int, repeats: int) -> dict[str, Any]:
    with open_store(url) as store:
        study = store.create_study("large", space_schema=schema(), objectives=OBJECTIVES)
        empty = disk_bytes(url)
        seconds = fill(study, n, random.Random(0))
        result: dict[str, Any] = {"trials": n, "import_us": seconds / n * 1e6, "front_size": len(study.front())}
        result["bytes_per_trial"] = (disk_bytes(url) - empty) / n
        result["front_read_ms"] = timed(study.front, 10 * repeats)
        for name, (where, objectives) in FILTERS.items():
            say(name)
            result[name] = timed(lambda w=where, o=objectives: study.front(where=w, objectives=o), repeats)  # type: ignore[misc]
        say("reopen")
        result["reopen_ms"] = timed(lambda: reopen(url), repeats)
        assert set(study.front().index) == set(study.front(where="number >= 0").index)
    return result


# -- both --------------------------------------------------------------------------------------------------------------


@contextmanager
def postgres(url: str | None) -> Iterator[str]:
    """The database at `url`, which must be empty, or one of a private server that waits for the disk at each commit."""
    if url is not None:
        yield url
        return
    sys.path.insert(0, str(ROOT))
    from tests.conformance.postgres_server import PostgresServer

    with PostgresServer(durable=True) as server:
        yield server.database()


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each contention run")
    parser.add_argument("--url", help="an empty PostgreSQL database, instead of a private server")
    parser.add_argument("--smoke", action="store_true", help="a small run, to see that it runs")
    parser.add_argument("--work", nargs=6, metavar="X", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        url, study, worker, batch, seconds, how = options.work
        nas.store.postgres.PIPELINED = how == "together"
        work(url, study, worker, int(batch), float(seconds))
        return
    n, workers, seconds, seeds, repeats, waiting = (
        (1_000, 2, 0.3, 1, 1, {1: 1_000, 16: 4_000})
        if options.smoke
        else (
            options.trials,
            options.workers,
            options.seconds,
            3,
            3,
            {1: int(3_000 * options.seconds), 16: int(12_000 * options.seconds)},
        )
    )
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, postgres(options.url) as address:
        for database, url in {"sqlite": f"sqlite:///{folder}/scale.db", "postgresql": address}.items():
            found: dict[str, Any] = {}
            for batch in (1, 16):
                runs: dict[str, list[dict[str, float]]] = {}
                for seed in range(seeds):
                    for how in ("", "_apart") if database == "postgresql" else ("",):
                        say(f"{database}: {workers} workers, {batch} at a time{how}, seed {seed}")
                        some = waiting[batch]
                        run = contend(url, batch, seed, workers=workers, seconds=seconds, waiting=some, apart=bool(how))
                        runs.setdefault(f"workers_{batch}{how}", []).append(run)
                for name, of in runs.items():
                    found[name] = {figure: [run[figure] for run in of] for figure in of[0]}
                if database == "postgresql":
                    rates = [statistics.fmean(run["per_s"] for run in of) for of in runs.values()]
                    found[f"workers_{batch}_gain"] = rates[0] / rates[1]
            say(f"{database}: {n:,} trials")
            result[database] = rounded({**found, **scale(url, n, repeats)})
            print(database, json.dumps(result[database], indent=1))
    machine = {"python": platform.python_version(), "cpus": os.cpu_count(), "load": os.getloadavg()[0]}
    print(json.dumps({"experiment": "postgres_scale", **rounded(result), **machine}))


if __name__ == "__main__":
    main()
