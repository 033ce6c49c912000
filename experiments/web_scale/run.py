"""How soon a study of a thousand, a hundred thousand and a million trials can be looked at, beside optuna-dashboard.

    python experiments/web_scale/run.py [--smoke] [--sizes 1000 100000 1000000] [--dashboard 1000 10000] [--runs FOLDER]

Chromium opens the page where it is installed; optuna-dashboard is asked where it is.  One JSON line last.  See README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

import nas
from nas.metrics import Metric
from nas.space.plain import space_of
from nas.store import ImportedTrial, open_store

SPACE = space_of(
    {f"layer{at}": {"choice": [16, 24, 32, 48, 64, 96, 128, 192]} for at in range(8)}
    | {"act": {"choice": ["relu", "gelu"]}},
    "made up",
)
OBJECTIVES = [Metric("accuracy", "max"), Metric("latency_ms", "min")]
CALLS = {
    "studies": "studies",
    "study": "studies/s",
    "front": "studies/s/front",
    "first page of trials": "studies/s/trials?count=100&sort=number&descending=true",
    "points of the chart": "studies/s/points?x=latency_ms&y=accuracy&most=4000",
    "trials sorted by accuracy": "studies/s/trials?count=100&sort=accuracy&descending=true",
    "trials filtered": "studies/s/trials?count=100&where=latency_ms+%3C+60+and+accuracy+%3E+0.9",
    "front filtered": "studies/s/front?where=latency_ms+%3C+60",
    "hypervolume": "studies/s/hypervolume",
    "importance": "studies/s/importance",
}
FIRST = ("study", "front", "first page of trials", "points of the chart")


def main() -> None:
    """Measure, and print."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--smoke", action="store_true", help="300 trials, no browser")
    words.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    words.add_argument("--dashboard", type=int, nargs="*", default=[1_000, 10_000], help="sizes for optuna-dashboard")
    words.add_argument("--runs", type=Path, help="folder that keeps the made-up databases for the next time")
    words.add_argument("--only-make", action="store_true", help="the databases, and measure nothing")
    words.add_argument("--pages", type=int, default=20, help="open while a search runs")
    options = words.parse_args()
    if options.smoke:
        options.sizes, options.dashboard, options.pages = [300], [], 2
    figures: dict[str, Any] = {"experiment": "web_scale"}
    with tempfile.TemporaryDirectory() as folder:
        kept = options.runs or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        if options.only_make:
            for size in options.sizes:
                made(kept / f"{size}.db", size)
            return
        for size in options.sizes:
            figures[f"{size} trials"] = looked_at(kept, size, browser=not options.smoke)
            print(size, figures[f"{size} trials"], flush=True)
        for size in options.dashboard:
            found = dashboard(Path(folder), size)
            if found is not None:
                figures[f"optuna-dashboard, {size} trials"] = found
                print("optuna-dashboard", size, found, flush=True)
        figures |= beside_a_search(Path(folder), options.pages, 60 if options.smoke else 1500)
    print(json.dumps(figures))


def made(store: Path, size: int) -> Path:
    """A database with a study of so many made-up trials."""
    if store.exists():
        return store
    draw, half = random.Random(0), store.with_suffix(".half")
    half.unlink(missing_ok=True)
    with open_store(half) as opened:
        record = opened.create_study("s", space_schema=SPACE.schema(), objectives=OBJECTIVES)
        seen: set[str] = set()
        rows: list[ImportedTrial] = []
        while len(seen) < size:
            arch = SPACE.sample(draw)
            if arch.key in seen:
                continue
            seen.add(arch.key)
            width = sum(value for value in arch.choices.values() if isinstance(value, int))
            latency = width / 10 * draw.uniform(0.9, 1.1)
            accuracy = 1 - 20 / (width + 100) + draw.gauss(0, 0.01)
            rows.append(
                ImportedTrial(
                    arch.key, arch.row(), {"accuracy": accuracy, "latency_ms": latency, "params": float(width)}
                )
            )
            if len(rows) == 20_000:
                record.import_trials(rows)
                rows.clear()
        record.import_trials(rows)
    half.rename(store)
    return store


@contextlib.contextmanager
def serving(*words: str, ready: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server in a process of its own: its address, and the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([*words, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                get(f"{url}{ready}")
                break
            except OSError:
                assert process.poll() is None, f"{words} has ended"
                time.sleep(0.05)
        yield url, process
    finally:
        process.terminate()
        process.wait()


def get(url: str) -> bytes:
    """What is there."""
    with urllib.request.urlopen(url, timeout=600) as answer:
        found: bytes = answer.read()
    return found


def seconds(call: Callable[[], object], times: int = 3) -> dict[str, float]:
    """The first time, and the median of the others."""
    took = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        took.append(time.perf_counter() - begun)
    return {"first_s": round(took[0], 3), "again_s": round(statistics.median(took[1:]), 3)}


def looked_at(folder: Path, size: int, *, browser: bool) -> dict[str, Any]:
    """The API's answers, the page in a browser, and the server's memory."""
    store = made(folder / f"{size}.db", size)
    found: dict[str, Any] = {}
    with serving(sys.executable, "-m", "nas", "serve", "--store", str(store), ready="/healthz") as (url, process):
        memory = psutil.Process(process.pid)
        found["memory_mib_before"] = round(memory.memory_info().rss / 2**20)
        begun = time.perf_counter()
        for name in FIRST:
            get(f"{url}/api/v1/{CALLS[name]}")
        found["first usable, by the API"] = round(time.perf_counter() - begun, 3)
        found["calls"] = {name: seconds(lambda path=path: get(f"{url}/api/v1/{path}")) for name, path in CALLS.items()}
        if browser and (opened := in_chromium(f"{url}/?study=s")) is not None:
            found["first usable, in Chromium"] = opened
        found["memory_mib_after"] = round(memory.memory_info().rss / 2**20)
        for _ in range(20):
            for name in ("front", "first page of trials", "points of the chart", "trials filtered"):
                get(f"{url}/api/v1/{CALLS[name]}")
        found["memory_mib_after_80_more"] = round(memory.memory_info().rss / 2**20)
    return found


def in_chromium(url: str) -> dict[str, float] | None:
    """Seconds until the page shows its table of trials and its chart; None where there is no browser."""
    if shutil.which("chromium") is None:
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        took = []
        for _ in range(3):
            page = browser.new_page()
            begun = time.perf_counter()
            page.goto(url)
            page.wait_for_selector("table tbody tr", timeout=120_000)
            page.wait_for_selector("canvas", timeout=120_000)
            took.append(time.perf_counter() - begun)
            page.close()
        browser.close()
    return {"first_s": round(took[0], 3), "again_s": round(statistics.median(took[1:]), 3)}


def dashboard(folder: Path, size: int) -> dict[str, Any] | None:
    """optuna-dashboard on the same trials, exported to it; None where it is not installed."""
    program = shutil.which("optuna-dashboard") or shutil.which(
        "optuna-dashboard", path=str(Path(sys.executable).parent)
    )
    if program is None:
        return None
    source, target = folder / f"for-dashboard-{size}.db", folder / f"optuna-{size}.db"
    made(source, size)
    export = [
        sys.executable,
        "-m",
        "nas",
        "export-optuna",
        "s",
        f"sqlite:///{target}",
        "--store",
        str(source),
        "--quiet",
    ]
    subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
    with serving(program, f"sqlite:///{target}", ready="/api/studies") as (url, process):
        memory = psutil.Process(process.pid)
        studies = json.loads(get(f"{url}/api/studies"))
        summaries = studies.get("study_summaries", studies)
        number = summaries[0]["study_id"]
        found = {
            "studies": seconds(lambda: get(f"{url}/api/studies")),
            "study with its trials": seconds(lambda: get(f"{url}/api/studies/{number}?after=0")),
            "bytes": len(get(f"{url}/api/studies/{number}?after=0")),
        }
        return {**found, "memory_mib": round(memory.memory_info().rss / 2**20)}


def beside_a_search(folder: Path, pages: int, trials: int) -> dict[str, float]:
    """Milliseconds of a search for a trial, alone and while pages are open; in turns, the median of three."""
    alone, watched = [], []
    for turn in range(3):
        alone.append(_searched(folder / f"alone-{turn}.db", trials))
        store = folder / f"watched-{turn}.db"
        open_store(store).close()
        with serving(sys.executable, "-m", "nas", "serve", "--store", str(store), ready="/healthz") as (url, _):
            end = threading.Event()
            watchers = [threading.Thread(target=_watch, args=(url, end), daemon=True) for _ in range(pages)]
            for one in watchers:
                one.start()
            watched.append(_searched(store, trials))
            end.set()
    return {
        "search alone, ms a trial": round(statistics.median(alone), 3),
        f"search with {pages} pages, ms a trial": round(statistics.median(watched), 3),
        "ratio": round(statistics.median(watched) / statistics.median(alone), 3),
        "ratio, lowest": round(min(watched) / max(alone), 3),
        "ratio, highest": round(max(watched) / min(alone), 3),
    }


def _searched(store: Path, trials: int) -> float:
    def evaluate(arch: nas.Arch) -> dict[str, float]:
        time.sleep(0.002)  # of an evaluator elsewhere
        width = sum(value for value in arch.choices.values() if isinstance(value, int))
        return {"accuracy": 1 - 20 / (width + 100), "latency_ms": width / 10}

    study = nas.Study(
        "s", space=SPACE, objectives=OBJECTIVES, evaluators=[evaluate], algorithm="random", store=store, trials=trials
    )
    done = study.run(workers=0, progress=False)
    study.close()
    return done.seconds / done.evaluated * 1000


def _watch(url: str, end: threading.Event) -> None:
    """What an open page does: it listens, and loads the front when it has changed."""
    while not end.is_set():
        try:
            with urllib.request.urlopen(f"{url}/api/v1/studies/s/events", timeout=60) as stream:
                for line in stream:
                    if end.is_set():
                        return
                    if line.startswith(b"data:") and b'"front_changed": true' in line:
                        get(f"{url}/api/v1/studies/s/front")
        except OSError:
            time.sleep(0.1)  # there is no study yet


if __name__ == "__main__":
    main()
