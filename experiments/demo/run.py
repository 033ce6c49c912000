"""The whole product on real images in one sitting: train, search, kill, resume, front, picture, winner.

Every step is a command of `nas`, printed before it runs; `digits.py` beside this file is the job that they read.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Run the demo in `--runs`, from nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few steps and trials, one worker and no pictures")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder to write; what is there is removed")
    options = parser.parse_args()
    if options.runs.exists():
        shutil.rmtree(options.runs)
    options.runs.mkdir(parents=True)
    os.environ["NAS_STORE"] = str(options.runs / "digits.db")
    started = time.monotonic()
    figures = demo(job_for(options.runs, options.smoke), options.runs, options.smoke)
    seconds = round(time.monotonic() - started, 1)
    picture = options.runs / "digits-front.png"
    print(f"\nall of it took {seconds:.0f} s" + (f"; the picture is {picture}" if picture.exists() else ""))
    print(json.dumps({"experiment": "demo", **figures, "seconds": seconds}))


def job_for(runs: Path, smoke: bool) -> str:
    """The job beside this file; a copy that writes elsewhere, or does less, when that is asked for."""
    job = HERE / "digits.py"
    if runs == Path("runs") and not smoke:
        return os.path.relpath(job)
    source = job.read_text(encoding="utf-8")
    changes = {'"runs/': f'"{runs}/', **({"steps=300": "steps=2", "trials=100": "trials=6"} if smoke else {})}
    for before, after in changes.items():
        assert before in source, f"{before} is not in {job} any more"
        source = source.replace(before, after)
    copy = runs / "job.py"
    copy.write_text(source, encoding="utf-8")
    return str(copy)


def demo(job: str, runs: Path, smoke: bool) -> dict[str, object]:
    """The steps; figures of what came out."""
    workers = "1" if smoke else "2"
    say("One supernet for every network of the space, trained on scikit-learn's digits.")
    nas("train", job)
    say("Search it with two workers: accuracy against latency measured here.  Half-way, all is killed (kill -9).")
    kill_half_way(job, workers, 3 if smoke else 50)
    finished = completed()
    say(f"{finished} trials are in the database.  The same command goes on with the rest.")
    nas("run", job, "--workers", workers)
    if not smoke:  # commands that need nothing of the job
        say("The Pareto front, as a table and as a picture.")
        nas("front", "digits")
        nas("front", "digits", "-o", str(runs / "digits-front.png"))
        nas("front", "digits", "-o", str(runs / "digits-front.html"))
    front = json.loads(nas("front", "digits", "--format", "json", show=False))
    winner = max(front, key=lambda row: row["accuracy"])
    say("Take the most accurate one home: an ordinary PyTorch module, checked against what was evaluated.")
    nas("extract", "digits", str(winner["trial"]), "-o", str(runs / "winner"))
    accuracy = test_accuracy(runs / "winner")
    say(f"Loaded without its supernet, it has {accuracy:.1%} accuracy on 500 test images that nothing has seen.")
    return {
        "trials": completed(),
        "finished_when_killed": finished,
        "front": len(front),
        "best_valid_accuracy": winner["accuracy"],
        "its_test_accuracy": accuracy,
        "its_latency_ms": winner["latency_ms"],
    }


def say(text: str) -> None:
    """A heading."""
    print(f"\n# {text}", flush=True)


def nas(*arguments: str, show: bool = True) -> str:
    """Run one command of `nas` as a user would; its output."""
    if show:
        print(f"$ nas {' '.join(arguments)}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "nas", *arguments], check=False, text=True, stdout=None if show else subprocess.PIPE
    )
    if done.returncode:
        sys.exit(f"nas {' '.join(arguments)} ended with code {done.returncode}")
    return done.stdout or ""


def kill_half_way(job: str, workers: str, enough: int) -> None:
    """Start the search and kill -9 its driver when `enough` trials are finished; its workers end with it."""
    print(f"$ nas run {job} --workers {workers}   # and kill -9 after {enough} trials", flush=True)
    with subprocess.Popen([sys.executable, "-m", "nas", "run", job, "--workers", workers, "--quiet"]) as driver:
        while driver.poll() is None and completed() < enough:
            time.sleep(0.1)
        driver.kill()


def completed() -> int:
    """Finished trials of the study, read as any other process may."""
    from nas.errors import StoreError
    from nas.store import open_store

    try:
        with open_store(os.environ["NAS_STORE"], create=False) as store:
            return store.open_study("digits").counts().get("COMPLETED", 0)
    except StoreError:
        return 0  # the search is still creating it


def test_accuracy(folder: Path) -> float:
    """Accuracy of the module that `folder/load.py` builds, on the test images."""
    import importlib.util

    import nas as library

    spec = importlib.util.spec_from_file_location("winner", folder / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return float(library.digits().evaluate(module.load(), "test")["accuracy"])


if __name__ == "__main__":
    main()
