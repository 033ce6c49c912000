"""What a trial costs over HTTP, beside workers of this machine and of Ray, and what is lost when servers and clients are killed.

    python experiments/remote_workers/run.py [--smoke] [--trials 8000] [--kills 200]

One JSON line last.  See README.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pyglove as pg

import nas
from nas.store import open_store

CLIENTS = 8
SPACE = {f"d{at}": {"choice": list(range(8))} for at in range(10)}
OBJECTIVES = ["max accuracy", "min params"]


def main() -> None:
    """Measure, and print."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--smoke", action="store_true", help="few trials and kills, without Ray")
    words.add_argument("--trials", type=int, default=8000, help="of each way")
    words.add_argument("--kills", type=int, default=200)
    options = words.parse_args()
    if options.smoke:
        options.trials, options.kills = 40, 3
    ways: dict[str, Any] = {} if options.smoke else {"ray workers": ray_ms}
    figures: dict[str, Any] = {"experiment": "remote_workers", "clients": CLIENTS}
    with tempfile.TemporaryDirectory() as folder:
        for name, way in {"local workers": local_ms, **ways}.items():
            figures[f"{name}, ms a trial"] = way(Path(folder), options.trials)
            print(name, figures[f"{name}, ms a trial"], flush=True)
        for batch in (1, 8) if options.smoke else (1, 8, 64, 256):
            found = http_ms(Path(folder), options.trials, batch)
            figures[f"http, batches of {batch}, ms a trial"] = found
            print("http", batch, found, flush=True)
        best = min(value for name, value in figures.items() if name.startswith("http"))
        figures["best of http over local"] = round(best / figures["local workers, ms a trial"], 2)
        figures |= killed(Path(folder), options.kills)
    print(json.dumps(figures))


def space() -> nas.Space:
    """The same as `SPACE`."""
    return nas.Space(pg.Dict({name: pg.oneof(one["choice"]) for name, one in SPACE.items()}), name="toy")


def evaluate(choices: Any) -> dict[str, float]:
    """Costs nothing."""
    return {"accuracy": sum(choices.values()) / 70, "params": float(sum(value**2 for value in choices.values()))}


def of_arch(arch: nas.Arch) -> dict[str, float]:
    """The same of an arch."""
    return evaluate(arch.choices)


def local_ms(folder: Path, trials: int) -> float:
    """With two worker processes of this machine, started before."""
    return _run(folder / "local.db", trials)


def ray_ms(folder: Path, trials: int) -> float:
    """With two Ray actors, started before."""
    return _run(folder / "ray.db", trials, ray=True)


def _run(store: Path, trials: int, **how: Any) -> float:
    study = nas.Study(
        "s", space=space(), objectives=OBJECTIVES, evaluators=[of_arch], algorithm="random", store=store, trials=trials
    )
    done = study.run(workers=2, progress=False, **how)
    study.close()
    return round(done.seconds / done.evaluated * 1000, 3)


class Server:
    """`nas serve` in a process of its own."""

    def __init__(self, store: Path) -> None:
        self._store = store
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        words = [sys.executable, "-m", "nas", "serve", "--store", str(self._store), "--port", str(self.port)]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/healthz", timeout=10).close()
                return
            except OSError:
                time.sleep(0.02)

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it, by a signal."""
        self.process.send_signal(number)
        self.process.wait()


def work(url: str, study: str, worker: str, batch: int, lease_s: float) -> None:
    """A client: ask, evaluate, tell, until the study has its trials."""
    one = nas.Remote(url, patience_s=600).study(study)
    while not one.done:
        found = one.ask(worker, batch, lease_s)
        one.tell_all(worker, [(trial, evaluate(trial.choices)) for trial in found])
        if not found and not one.done:
            time.sleep(0.05)


def clients(url: str, study: str, batch: int, lease_s: float) -> list[Any]:
    """Eight processes that work."""
    context = multiprocessing.get_context("fork")
    return [
        context.Process(target=work, args=(url, study, f"w{at}", batch, lease_s), daemon=True) for at in range(CLIENTS)
    ]


def http_ms(folder: Path, trials: int, batch: int) -> float:
    """With eight clients over HTTP."""
    store = folder / f"http-{batch}.db"
    open_store(store).close()
    server = Server(store)
    server.start()
    study = nas.Remote(server.url).create("s", space=SPACE, objectives=OBJECTIVES, algorithm="random", trials=trials)
    several = clients(server.url, study.name, batch, 60.0)
    begun = time.monotonic()
    for one in several:
        one.start()
    for one in several:
        one.join()
    took = time.monotonic() - begun
    server.end()
    _check(store, trials)
    return round(took / trials * 1000, 3)


def _check(store: Path, trials: int) -> None:
    """Every trial is there, finished, once."""
    with open_store(store, create=False) as opened:
        record = opened.open_study("s")
        history = record.history()
        assert record.counts()["COMPLETED"] == trials, record.counts()
        assert Counter(history.numbers.tolist()) == Counter(range(trials))
        assert len(set(history.keys)) == trials
        for number in range(0, trials, max(1, trials // 50)):
            trial = record.trial(number)
            assert trial.measurements == evaluate(trial.choices)


def killed(folder: Path, kills: int) -> dict[str, Any]:
    """Kill the server or a client again and again while trials are evaluated; what was lost or done twice."""
    draw, store = random.Random(0), folder / "killed.db"
    open_store(store).close()
    server = Server(store)
    server.start()
    trials = 40 * (kills + 2)
    nas.Remote(server.url).create("s", space=SPACE, objectives=OBJECTIVES, algorithm="random", trials=trials)
    several = clients(server.url, "s", 4, 5.0)
    for one in several:
        one.start()
    servers = dead = 0
    while servers + dead < kills:
        time.sleep(draw.uniform(0.0, 0.3))
        if draw.random() < 0.5:
            server.end(signal.SIGKILL)
            server.start()
            servers += 1
        else:
            at = draw.randrange(CLIENTS)
            several[at].kill()  # by SIGKILL, if it has not ended
            several[at].join()
            several[at] = clients(server.url, "s", 4, 5.0)[at]
            several[at].start()
            dead += 1
        if not any(one.is_alive() for one in several):
            break
    for one in several:
        one.join()
    server.end()
    _check(store, trials)
    return {"servers killed": servers, "clients killed": dead, "trials": trials, "lost": 0, "double": 0}


if __name__ == "__main__":
    main()
