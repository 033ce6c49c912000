"""Processes that write a store until they are done or killed: `python -m tests.conformance.store_processes NAME URL WORKER`."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

from nas.store import Report, StudyRecord, open_store
from tests.conformance.store_tools import audit, completed, new_trial

ROOT = Path(__file__).resolve().parents[2]


def start(what: str, url: str, worker: str) -> subprocess.Popen[str]:
    """Run one of the functions below on the study 'toy'."""
    command = [sys.executable, "-m", "tests.conformance.store_processes", what, url, worker]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> list[str]:
    """Kill it as the kernel would; what it still had written."""
    process.send_signal(signal.SIGKILL)
    assert process.stdout is not None
    with process.stdout as stdout:
        rest = stdout.read().splitlines()
    process.wait()
    return rest


def kill_writers(url: str, study: StudyRecord, kills: int) -> None:
    """Kill a writer at a random moment, again and again: what it heard was committed is stored, and nothing else is lost."""
    rng = random.Random(kills)
    acknowledged: dict[int, float] = {}
    for life in range(kills):
        process = start("write", url, f"life{life}")
        assert process.stdout is not None
        lines = [process.stdout.readline()]  # it lives
        timer = threading.Timer(rng.uniform(0.0, 0.3), process.kill)
        timer.start()
        lines += process.stdout.readlines()
        process.stdout.close()
        process.wait()
        timer.join()
        for line in lines:
            if line.endswith("\n"):  # a committed wave; the last line may be torn
                acknowledged |= {int(number): value for number, value in json.loads(line).items()}
        audit(study)
        stored = study.trials(where="state == 'COMPLETED'")["accuracy"].to_dict()
        assert acknowledged.items() <= stored.items()
        assert len(stored) <= len(acknowledged) + 3 * (
            life + 1
        )  # at most one wave a life was committed but not heard of
        running = study.counts()["RUNNING"]
        assert study.requeue_expired(dead=lambda worker: True, max_attempts=10**6) == running
        assert study.counts()["RUNNING"] == 0
    assert len(acknowledged) > kills


def _say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def claim_all(study: StudyRecord, worker: str) -> None:
    """Claim and finish until nothing waits; print what was claimed."""
    rng = random.Random(worker)
    mine: list[int] = []
    while claims := study.claim(worker, rng.randrange(1, 6)):
        mine += [claim.number for claim in claims]
        study.report([_feasible(rng, claim.number, worker, claim.attempt) for claim in claims])
    _say(mine)


def write(study: StudyRecord, worker: str) -> None:
    """Waves of three until killed; a line for each committed one, as numbers and accuracies."""
    rng = random.Random(worker)
    leased = [(claim.number, claim.attempt) for claim in study.claim(worker, 3)]
    leased += [(a.number, 1) for a in study.add([new_trial(rng) for _ in range(3 - len(leased))], worker=worker)]
    while True:
        reports = [_feasible(rng, number, worker, attempt) for number, attempt in leased]
        receipts, added = study.wave(reports, [new_trial(rng) for _ in range(3)], worker=worker)
        assert all(receipt.accepted for receipt in receipts)
        _say({report.number: report.measurements["accuracy"] for report in reports})
        leased = [(a.number, 1) for a in added]


def _feasible(rng: random.Random, number: int, worker: str, attempt: int) -> Report:
    return completed(number, rng.random(), rng.uniform(1.0, 4.0), worker, attempt)


if __name__ == "__main__":
    _, _what, _url, _worker = sys.argv
    with open_store(_url, create=False) as _store:
        {"claim_all": claim_all, "write": write}[_what](_store.open_study("toy"), _worker)
