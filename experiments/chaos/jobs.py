"""What chaos disturbs: processes that go on where the last one stopped.  This one searches, or begins what `trainings.py` has.

    python jobs.py KIND FOLDER URL

It ends with 0 when nothing is left to do, with 1 and one sentence when it cannot go on, and is then started again.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import pyglove as pg  # noqa: E402

import nas  # noqa: E402
from nas.errors import NasError  # noqa: E402
from nas.runners import import_file  # noqa: E402
from nas.search import Exhaustive  # noqa: E402

PAUSE_S = 0.03  # of an evaluation, while the storm lasts


def note(file: Path, line: str) -> None:
    """Append a line in one write: whole or not there, whoever is killed."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (line + "\n").encode())
    finally:
        os.close(descriptor)


def pause(folder: Path, seconds: float) -> None:
    """Take that long, until the storm is over."""
    if not (folder / "calm").exists():
        time.sleep(seconds)


class Landscape:
    """Quality against cost on a grid, the same for ever; every evaluation is noted when it is done."""

    metrics = ("quality", "cost")

    def __init__(self, folder: Path, seconds: float = PAUSE_S) -> None:
        self.folder, self.seconds = folder, seconds

    def __call__(self, arch: nas.Arch) -> dict[str, float]:
        pause(self.folder, self.seconds)
        values = [float(value) for value in arch.choices.values()]
        rest = sum((i + 1) * value for i, value in enumerate(values[1:]))
        measured = {"quality": values[0] + rest / 100, "cost": (values[0] - 3.0) ** 2 + rest}
        note(self.folder / "evaluations", json.dumps([arch.key, measured]))
        return measured

    def describe(self) -> dict[str, Any]:
        """Without the folder: the undisturbed run has another."""
        return {"name": "Landscape"}


def grid(side: int, axes: int) -> nas.Space:
    """`side ** axes` archs."""
    return nas.Space(pg.Dict({f"x{axis}": pg.oneof(list(range(side))) for axis in range(axes)}), name="grid")


def search(folder: Path, url: str, *, side: int, axes: int, seconds: float = PAUSE_S) -> nas.Study:
    """Every arch of a grid, in the order of the space, whoever asks."""
    space = grid(side, axes)
    return nas.Study(
        "chaos",
        space=space,
        objectives=["max quality", "min cost"],
        evaluators=[Landscape(folder, seconds)],
        algorithm=Exhaustive(),
        store=url,
        trials=int(space.size),
    )


def acknowledged(folder: Path, study: nas.Study) -> None:
    """From now on, note what the store says that it has recorded."""
    record: Any = study.record
    wave = record.wave

    def noted(reports: Sequence[Any], *given: Any, **options: Any) -> Any:
        receipts, added = wave(reports, *given, **options)
        for report, receipt in zip(reports, receipts, strict=True):
            if receipt.accepted:
                row = [report.number, receipt.state, receipt.why, dict(report.measurements)]
                note(folder / "acknowledged", json.dumps(row))
        return receipts, added

    record.wave = noted


def trainings() -> Any:
    """What needs torch, under a name that workers import too."""
    return import_file("nas_chaos_trainings", str(Path(__file__).with_name("trainings.py")))


def run(kind: str, folder: Path, url: str, options: dict[str, Any]) -> None:
    """One life of a process."""
    if kind in ("supernet", "distributed"):
        training = trainings().supernet(folder, options["steps"])
        if kind == "supernet":
            training.run(progress=False)
        else:
            import nas.distributed

            nas.distributed.run(training, workers=2, progress=False)
        return
    lease = options.pop("lease_s", None)
    if lease is not None:  # so that a process that stands still loses its trials within the experiment
        import nas.study.driver

        nas.study.driver.LEASE_S = lease
    study = (search if kind in ("workers", "ray") else trainings().candidates)(folder, url, **options)
    acknowledged(folder, study)
    if kind == "tune":
        import nas.tune

        nas.tune.run(study, workers=2, progress=False)
    else:
        study.run(workers=2, ray=kind == "ray", progress=False)


def main() -> None:
    """The process."""
    kind, folder, url, options = sys.argv[1:]
    faulthandler.register(signal.SIGUSR1)  # where it is, for whoever wonders why it does not end
    try:
        run(kind, Path(folder), url, json.loads(options))
    except NasError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    import_file("nas_chaos_jobs", __file__).main()  # under a name that workers import too
