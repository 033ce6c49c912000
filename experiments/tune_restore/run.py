"""How many finished epochs does a killed run of trainings repeat?  See README.md."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")

import pyglove as pg  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

import nas  # noqa: E402
from nas import files  # noqa: E402
from nas.runners import import_file  # noqa: E402
from nas.train import Training, digits  # noqa: E402

torch.set_num_threads(1)

PAUSE_S = 0.2  # added to each epoch, so that a kill meets one
ENGINES = ("workers", "tune", "tunes_own")


@nas.model
def mlp(width: int, depth: int) -> nn.Module:
    """Images (n, 1, 8, 8) -> logits (n, 10)."""
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(64, width), nn.ReLU()]
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def note(file: str, line: str) -> None:
    """One line that survives the process."""
    with open(file, "a", encoding="utf-8") as notes:
        notes.write(line + "\n")
        notes.flush()
        os.fsync(notes.fileno())


class Noted(nas.Trained):
    """Says when an epoch begins and when it is committed."""

    def __init__(self, *given: Any, notes: str, **options: Any) -> None:
        super().__init__(*given, **options)
        self.notes = notes

    def _train(self, training: Training, epoch: int) -> None:
        assert training.path is not None
        note(self.notes, f"begin {training.path.name} {epoch}")
        time.sleep(PAUSE_S)
        super()._train(training, epoch)
        note(self.notes, f"end {training.path.name} {epoch}")


def study(folder: Path, trials: int, epochs: int) -> nas.Study:
    """Accuracy of perceptrons on the digits, each trained by itself."""
    space = nas.Space(mlp(width=pg.oneof([8, 16, 32, 64]), depth=pg.oneof([0, 1, 2])), name="mlp")
    evaluator = Noted(digits(batch=256), folder / "candidates", epochs=epochs, lr=1e-2, notes=str(folder / "notes"))
    return nas.Study(
        "trained",
        space=space,
        objectives=["max accuracy"],
        evaluators=[evaluator],
        algorithm=nas.RandomSearch(seed=1),
        store=folder / "nas.db",
        trials=trials,
    )


def drive(engine: str, folder: Path, trials: int, epochs: int) -> None:
    """The process that is killed: begins the run in `folder`, or goes on with it."""
    if engine == "here":
        study(folder, trials, epochs).run(workers=0, progress=False)
    elif engine == "workers":
        study(folder, trials, epochs).run(workers=2, progress=False)
    elif engine == "tune":
        import nas.tune

        nas.tune.run(study(folder, trials, epochs), workers=2, progress=False)
    else:
        drive_tunes_own(folder, trials, epochs)


def drive_tunes_own(folder: Path, trials: int, epochs: int) -> None:
    """Ray Tune with a checkpoint after each epoch and its own `Tuner.restore`."""
    import ray
    from ray import tune

    class Counted(tune.Trainable):
        """As long an epoch, whose state is its number."""

        def setup(self, config: dict[str, Any]) -> None:  # noqa: ARG002 (Tune's signature)
            self.done_epochs = 0

        def step(self) -> dict[str, Any]:
            epoch = self.done_epochs + 1
            note(str(folder / "notes"), f"begin {self.config['number']} {epoch}")
            time.sleep(PAUSE_S)
            self.done_epochs = epoch
            return {"accuracy": 0.0, "done": epoch == epochs}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            files.write(Path(checkpoint_dir, "epoch"), str(self.done_epochs))
            note(str(folder / "notes"), f"end {self.config['number']} {self.done_epochs}")

        def load_checkpoint(self, checkpoint: str) -> None:
            self.done_epochs = int(Path(checkpoint, "epoch").read_text(encoding="utf-8"))

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=10**8)
    trainable = tune.with_resources(Counted, {"cpu": 1})
    kept = str(folder / "tune" / "run")
    if tune.Tuner.can_restore(kept):
        tuner = tune.Tuner.restore(kept, trainable=trainable, resume_unfinished=True, restart_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space={"number": tune.grid_search(list(range(trials)))},
            tune_config=tune.TuneConfig(max_concurrent_trials=2),
            run_config=tune.RunConfig(
                storage_path=str(folder / "tune"),
                name="run",
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, checkpoint_at_end=True),
            ),
        )
    tuner.fit()


def count(notes: Path) -> dict[str, int]:
    """Epochs that were finished, those begun once more after that, and those begun once more because they had not finished."""
    finished: set[tuple[str, str]] = set()
    begun: set[tuple[str, str]] = set()
    found = {"finished": 0, "repeated": 0, "interrupted": 0}
    for line in notes.read_text(encoding="utf-8").splitlines():
        what, candidate, number = line.split()
        key = (candidate, number)
        if what == "end":
            finished.add(key)
        elif key in finished:
            found["repeated"] += 1
        elif key in begun:
            found["interrupted"] += 1
        begun.add(key)
    return {**found, "finished": len(finished)}


def ended(notes: Path) -> int:
    return notes.read_text(encoding="utf-8").count("end ") if notes.exists() else 0


def one(engine: str, seed: int, trials: int, epochs: int, whole: object) -> dict[str, Any]:
    """One run, killed once at a moment that the seed chooses, and resumed; `whole` is what an undisturbed one gives."""
    print(f"{engine}, seed {seed}", file=sys.stderr, flush=True)
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        notes = folder / "notes"
        command = [sys.executable, __file__, "--drive", engine, name, str(trials), str(epochs)]
        enough = draw.randint(trials * epochs // 4, 3 * trials * epochs // 4)
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
            deadline = time.monotonic() + 240
            while ended(notes) < enough and driver.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(draw.uniform(0, PAUSE_S))
            driver.kill()
            assert driver.wait() == -signal.SIGKILL, f"{engine} ended before it was killed"
        time.sleep(3)  # what the driver had started ends too
        at_kill = ended(notes)
        resumed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert resumed.returncode == 0, resumed.stderr[-2000:]
        found: dict[str, Any] = {"engine": engine, "seed": seed, "killed_after": at_kill, **count(notes)}
        if engine != "tunes_own":
            found["completed"] = study(folder, trials, epochs).record.counts()["COMPLETED"]
            found["equal"] = int(accuracies(folder, trials, epochs) == whole)
        return found


def accuracies(folder: Path, trials: int, epochs: int) -> dict[str, list[tuple[int, float]]]:
    """Every epoch's accuracy by arch."""
    record = study(folder, trials, epochs).record
    return {(trial := record.trial(number)).key: trial.curves["accuracy"] for number in range(trials)}


def undisturbed(trials: int, epochs: int) -> dict[str, list[tuple[int, float]]]:
    """The same study in this process, never killed."""
    global PAUSE_S  # noqa: PLW0603 (nobody needs to be met here)
    before, PAUSE_S = PAUSE_S, 0.0
    try:
        with tempfile.TemporaryDirectory() as name:
            drive("here", Path(name), trials, epochs)
            return accuracies(Path(name), trials, epochs)
    finally:
        PAUSE_S = before


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke", action="store_true", help="one small run without Ray")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=3, help="runs at the same time; no figure depends on it")
    parser.add_argument("--drive", nargs=4, metavar=("ENGINE", "FOLDER", "TRIALS", "EPOCHS"))
    given = parser.parse_args()
    if given.drive:
        engine, folder, trials, epochs = given.drive
        # Ours under a name that workers import too, as `nas run` imports a job file.
        drives = drive if engine == "tunes_own" else import_file("nas_tune_restore", __file__).drive
        drives(engine, Path(folder), int(trials), int(epochs))
        return
    engines, seeds, trials, epochs = (("here",), 1, 2, 3) if given.smoke else (ENGINES, given.seeds, 6, 8)
    whole = undisturbed(trials, epochs)
    with ThreadPoolExecutor(given.jobs) as pool:
        runs = [pool.submit(one, engine, seed, trials, epochs, whole) for engine in engines for seed in range(seeds)]
        rows = [run.result() for run in runs]
    figures: dict[str, Any] = {"trials": trials, "epochs": epochs, "seeds": seeds}
    for engine in engines:
        mine = [row for row in rows if row["engine"] == engine]
        figures[engine] = {
            name: sum(row[name] for row in mine)
            for name in ("finished", "repeated", "interrupted", "completed", "equal")
            if name in mine[0]
        }
        figures[engine]["repeated_a_run"] = statistics.mean(row["repeated"] for row in mine)
    if not given.smoke:
        results = Path(__file__).with_name("results.json")
        files.write(results, json.dumps({"figures": figures, "rows": rows}, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
