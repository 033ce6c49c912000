"""Can one driver keep 1,000 workers busy, and where does it stop to?  The real driver, runner pool and store; simulated workers.

python experiments/simulated_scale/run.py [--smoke] [--seeds 3] [--charge processor] [--url postgresql://...]
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyglove as pg

import nas
from nas.evaluate.base import adapted
from nas.runners.base import Outcome, Task
from nas.runners.pool import Member, PoolRunner
from nas.store import open_store
from nas.study import driver as driving
from nas.study.progress import Silent

SPACE = nas.Space(pg.Dict({f"x{axis}": pg.oneof([0, 1, 2, 3]) for axis in range(40)}), name="forty")
EACH = 8  # trials a worker, so that the first wave and the last are not the whole
GOAL = 0.95
# Processor time of a Ray driver a message beside ours: experiments/loop_speed has 1.2 ms a null trial sent singly, all included.
RAY_MS = 1.0
# Of 1,000 workers: what a message costs beside our own code, and mean evaluation times.
MEANS_S = {
    ("lognormal", 0.0): (0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
    ("pareto", 0.0): (0.1, 0.2, 0.5, 1.0),
    ("lognormal", RAY_MS): (0.5, 1.0, 2.0),
}
# Workers at a mean of one second.
WORKERS = {0.0: (500, 2000), RAY_MS: (500,)}


def null(arch: Any) -> dict[str, float]:
    """What an evaluation would give; here the virtual worker says it, and when."""
    return {"a": float(sum(arch)), "b": float(sum(gene * (1 + i % 3) for i, gene in enumerate(reversed(arch))))}


@dataclass(frozen=True)
class Case:
    """A kind of evaluation times, their mean in seconds, the workers, and what a message costs beside our own code."""

    times: str
    mean_s: float
    workers: int
    message_ms: float


class Times:
    """Heavy-tailed evaluation times of a given mean, in seconds.

    Lognormal with sigma 1 (the longest of 1,000 is about 13 times the mean), Pareto with exponent 1.5 (infinite variance).
    """

    def __init__(self, kind: str, mean: float, seed: int) -> None:
        self._rng = random.Random(seed)
        self._kind, self._mean = kind, mean

    def draw(self) -> float:
        if self._kind == "lognormal":
            return self._rng.lognormvariate(math.log(self._mean) - 0.5, 1.0)
        return self._rng.paretovariate(1.5) * self._mean / 3  # of a Pareto from 1 with exponent 1.5 the mean is 3


class Clock:
    """Virtual seconds: they pass as the driver computes, and jump while it waits.

    It stands in for the module `time` in the driver, so that leases and looks for other drivers come as often as they would.
    """

    def __init__(self, charge: str) -> None:
        self._real = time.perf_counter if charge == "wall" else time.thread_time
        self._now, self._since = 0.0, self._real()
        self.computed = 0.0

    def monotonic(self) -> float:
        return self._now + self._real() - self._since

    time = monotonic

    def sleep(self, _: float) -> None:
        raise AssertionError("a driver alone never sleeps")

    def stop(self, charge: float) -> float:
        """The driver has begun to wait: what it has computed, and `charge` more, has passed."""
        computed = self._real() - self._since + charge
        self.computed += computed
        self._now += computed
        return self._now

    def go_on(self, now: float) -> None:
        """The driver goes on at `now`."""
        self._now, self._since = now, self._real()


class Simulated(Member):
    """A worker that takes virtual time over its tasks, in their order; the pool keeps a second message ready for it."""

    def __init__(self, name: str, pool: Pool) -> None:
        super().__init__(name)
        self._pool = pool
        self.free_at = 0.0

    def _send(self, batch: list[Task]) -> None:
        self._pool.messages += 1
        start = max(self.free_at, self._pool.clock.monotonic())
        self.free_at = start
        outcomes = []
        for task in batch:
            took = self._pool.times.draw()
            self._pool.spans.append((self.free_at, self.free_at + took))
            self.free_at += took
            outcomes.append(Outcome(task.number, "COMPLETED", null(task.row), "", start, took, self.name))
        self._pool.sent(self, outcomes)

    def kill(self) -> None:
        """Nothing to end."""


class Pool(PoolRunner[Simulated]):
    """The real pool on a heap of events: feeding, windows, batches and book-keeping are those of every runner."""

    name = "simulated"

    def __init__(self, case: Case, seed: int, clock: Clock) -> None:
        super().__init__(list(range(40)), null, case.workers)
        self.times, self.clock = Times(case.times, case.mean_s, seed), clock
        self.spans: list[tuple[float, float]] = []
        self.last_sent = 0.0
        self.messages = self._charged = 0
        self._message_s = case.message_ms / 1e3
        self._events: list[tuple[float, int, Simulated, list[Outcome]]] = []

    def start(self) -> None:
        super().start()
        self.clock.go_on(0.0)

    def sent(self, member: Simulated, outcomes: list[Outcome]) -> None:
        self.last_sent = self.clock.monotonic()
        heapq.heappush(self._events, (member.free_at, self.messages, member, outcomes))

    def _spawn(self, name: str) -> Simulated:
        member = Simulated(name, self)
        self._is_ready(member)
        return member

    def _listen(self, timeout: float) -> None:
        """Everything that has happened while the driver computed; else, the clock jumps to what happens next."""
        now = self.clock.stop(self._message_s * (self.messages - self._charged))
        self._charged = self.messages
        if self._events and self._events[0][0] > now:
            now = min(self._events[0][0], now + timeout)
        heard = []
        while self._events and self._events[0][0] <= now:
            heard.append(heapq.heappop(self._events))
        self.clock.go_on(now)
        for _, _, member, outcomes in heard:
            self._heard(member, outcomes)


class SimulatedDriver(driving.Driver):
    """The real driver; only its workers are others."""

    pool: Pool

    def _runner(self, _evaluation: Any, _options: driving.Options) -> Pool:
        return self.pool


def share(spans: list[tuple[float, float]], since: float, until: float) -> float:
    """How many workers are at work on average between two moments."""
    return sum(max(0.0, min(end, until) - max(begin, since)) for begin, end in spans) / (until - since)


def simulate(case: Case, seed: int, each: int, charge: str, where: str) -> dict[str, float]:
    """One search; `busy` is the share of the workers' time from the first task handed out until the last.

    `busy_later` leaves out the first half of that time, in which all workers start together and all code runs for the first time.
    """
    clock, trials, workers = Clock(charge), case.workers * each, case.workers
    objectives = [nas.Metric("a", "min"), nas.Metric("b", "min")]
    name = f"{case.times}-{case.mean_s}-{workers}-{seed}-{case.message_ms}"
    with open_store(where) as store:
        record = store.create_study(
            name, space_schema=SPACE.schema(), objectives=objectives, constraints=[], settings={}
        )
        driving.time = clock  # type: ignore[assignment]
        try:
            driver = SimulatedDriver(record, SPACE, nas.NSGA2(seed=seed), objectives, [])
            driver.pool = pool = Pool(case, seed, clock)
            driver.run(adapted(null), driving.Options(trials, workers, False, None, None, 10), Silent())
        finally:
            driving.time = time
        assert record.counts()["COMPLETED"] == trials, "every evaluation is recorded once"
    since, until = pool.spans[0][0], pool.last_sent
    return {
        "busy": share(pool.spans, since, until) / workers,
        "busy_later": share(pool.spans, (since + until) / 2, until) / workers,
        "first_task_s": since,
        "driver_ms": clock.computed / trials * 1e3,
    }


def repeated(case: Case, seeds: int, each: int, charge: str, where: str) -> dict[str, Any]:
    """Medians over the seeds, with the lowest and highest share."""
    runs = [simulate(case, seed, each, charge, where) for seed in range(seeds)]
    busy = [run["busy"] for run in runs]
    row: dict[str, Any] = asdict(case)
    row |= {name: round(statistics.median(run[name] for run in runs), 4) for name in runs[0]}
    row["range"] = [round(min(busy), 4), round(max(busy), 4)]
    print(
        f"{case.times:10} mean {case.mean_s:5.2f} s, {case.workers:5} workers, +{case.message_ms:g} ms: "
        f"busy {row['busy']:.1%} ({min(busy):.1%} to {max(busy):.1%}), later {row['busy_later']:.1%}, "
        f"driver {row['driver_ms']:.3f} ms a trial, first task after {row['first_task_s']:.2f} s",
        file=sys.stderr,
        flush=True,
    )
    return row


def edges(rows: list[dict[str, Any]], share: str) -> dict[str, Any]:
    """Where a share stops to be 95 %: the shortest mean at 1,000 workers, and the most workers at one second."""
    found: dict[str, Any] = {}
    for kind, message_ms in sorted({(row["times"], row["message_ms"]) for row in rows}):
        enough = [row for row in rows if (row["times"], row["message_ms"]) == (kind, message_ms) and row[share] >= GOAL]
        found[f"{kind} +{message_ms:g} ms"] = {
            "mean_s_at_1000": min((row["mean_s"] for row in enough if row["workers"] == 1000), default=None),
            "workers_at_1_s": max((row["workers"] for row in enough if row["mean_s"] == 1.0), default=None),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--charge", choices=["wall", "processor"], default="wall", help="what the driver's work is charged by"
    )
    parser.add_argument("--url", help="a database of PostgreSQL; unless given, SQLite in a temporary folder")
    options = parser.parse_args()
    seeds, each = (1, 3) if options.smoke else (options.seeds, EACH)
    cases = [Case(kind, mean, 1000, ms) for (kind, ms), means in MEANS_S.items() for mean in means]
    cases += [Case("lognormal", 1.0, workers, ms) for ms, several in WORKERS.items() for workers in several]
    if options.smoke:
        cases = [Case("lognormal", 0.5, 200, 0.0), Case("pareto", 1.0, 200, RAY_MS)]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            repeated(case, seeds, each, options.charge, options.url or str(Path(folder) / f"{number}.db"))
            for number, case in enumerate(cases)
        ]
    report = {
        "experiment": "simulated_scale",
        "store": "postgresql" if options.url else "sqlite",
        "charge": options.charge,
        "seeds": seeds,
        "trials_a_worker": each,
        "reaches_95_percent": {share: edges(rows, share) for share in ("busy", "busy_later")},
        "rows": rows,
        "load": [round(load, 2), round(os.getloadavg()[0], 2)],
        "python": platform.python_version(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
