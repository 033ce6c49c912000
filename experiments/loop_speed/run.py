"""What a whole trial costs beside its evaluation: ask, durable record, hand out, evaluate, hear, durable record, tell.

Two local worker processes, NSGA-II on 40 decisions, two objectives, SQLite in WAL mode, one commit a wave.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pyglove as pg

import nas
from nas.space import Arch

SPACE = nas.Space(pg.Dict({f"x{axis}": pg.oneof([0, 1, 2, 3]) for axis in range(40)}), name="forty")


def null(arch: Arch) -> dict[str, float]:
    """Nothing to speak of."""
    return {"a": float(arch.genome[0]), "b": 0.0}


def busy(arch: Arch) -> dict[str, float]:
    """20 ms of one core."""
    until = time.thread_time() + 0.020
    while time.thread_time() < until:
        pass
    return null(arch)


def family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += family(int(child))
    return found


def spent_s(pid: int) -> float:
    """Processor seconds of a process; 0 of one that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Processors:
    """Processor seconds of this process and all below it, Ray's own included, looked at once a second."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(1.0):
            total = sum(spent_s(pid) for pid in family(os.getpid()))
            self._seen.append((time.monotonic(), total))

    def rate(self, seconds: float) -> float:
        """Processors in use, over the `seconds` before the workers ended."""
        end, last = max(self._seen, key=lambda one: one[1])
        start, first = min(self._seen, key=lambda one: abs(one[0] - (end - 0.8 * seconds)))
        return (last - first) / (end - start)


def processor_ms(trials: int, *, ray: bool) -> float:
    """Processor milliseconds of everything that a 20 ms trial takes, which other work on the machine hardly changes."""
    with Processors() as processors:
        wall = trial_ms(busy, trials, batch=None, ray=ray)
    return processors.rate(wall * trials / 1000) * wall


def trial_ms(evaluate: Callable[[Arch], dict[str, float]], trials: int, *, batch: int | None, ray: bool) -> float:
    """Wall milliseconds a trial, workers' start not counted."""
    with tempfile.TemporaryDirectory() as folder:
        study = nas.Study(
            "loop",
            space=SPACE,
            objectives=["min a", "min b"],
            evaluators=[evaluate],
            algorithm=nas.NSGA2(),
            store=Path(folder) / "loop.db",
            trials=trials,
        )
        summary = study.run(workers=2, ray=ray, progress=False, batch=batch)
        assert summary.counts["COMPLETED"] == trials
        return summary.seconds / trials * 1000


def main() -> None:
    """Measure, interleaved, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="few trials, one repeat")
    parser.add_argument("--ray", action="store_true", help="Ray actors instead of local processes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--processors", action="store_true", help="only the processor time of a 20 ms trial")
    options = parser.parse_args()
    repeats = 1 if options.smoke else options.repeats
    if options.processors:
        found = [processor_ms(60 if options.smoke else 600, ray=options.ray) for _ in range(repeats)]
        spent = {
            "processor_ms": round(statistics.median(found), 2),
            "spread": [round(min(found), 2), round(max(found), 2)],
        }
        print(json.dumps({"experiment": "loop_speed", "ray": options.ray, **spent, "repeats": repeats}))
        return
    cases = {
        "null_singly_ms": (null, 60 if options.smoke else 3000, 1),
        "null_batched_ms": (null, 200 if options.smoke else 10000, None),
        "busy_20ms_ms": (busy, 20 if options.smoke else 600, None),
    }
    measured: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(repeats):
        for name, (evaluate, trials, batch) in cases.items():
            measured[name].append(trial_ms(evaluate, trials, batch=batch, ray=options.ray))
            print(f"repeat {repeat}: {name} {measured[name][-1]:.3f}", file=sys.stderr)
    figures = {name: round(statistics.median(values), 4) for name, values in measured.items()}
    spread = {name: [round(min(values), 4), round(max(values), 4)] for name, values in measured.items()}
    # Two workers that were never kept waiting would finish a 20 ms trial every 10 ms.
    figures["overhead_at_20ms"] = round(figures["busy_20ms_ms"] / 10 - 1, 4)
    print(json.dumps({"experiment": "loop_speed", "ray": options.ray, **figures, "spread": spread, "repeats": repeats}))


if __name__ == "__main__":
    main()
