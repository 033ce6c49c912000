"""What must be true of a study after the storm, whatever happened in it."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

from storm import Storm, lines

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import nas  # noqa: E402
from nas.runners import import_file  # noqa: E402

jobs = import_file("nas_chaos_jobs", str(Path(__file__).with_name("jobs.py")))


class Audited(Storm):
    """A storm whose study is looked at while its database is there."""

    figures: dict[str, Any]
    undisturbed: Any = None

    def look_at_database(self) -> None:
        kind = self.scenario.kind
        if kind in ("supernet", "distributed"):
            self.figures = {"equal": int(weights(self.folder, dict(self.scenario.options)) == self.undisturbed)}
            return
        options = {name: value for name, value in self.scenario.options.items() if name != "lease_s"}
        url = self.direct if self.scenario.database == "postgresql" else self.url
        declare = jobs.search if kind in ("workers", "ray") else jobs.trainings().candidates
        study = declare(self.folder, url, **options)
        self.figures = audit(study, self.folder)
        self.figures["equal"] = int(outcome(study) == self.undisturbed)
        if kind in ("trained", "tune"):
            self.figures |= epochs(self.folder / "epochs")
        study.store.close()


def audit(study: nas.Study, folder: Path) -> dict[str, int]:
    """Counts of what may not happen, and of what did.

    Returns:
        lost: results that were acknowledged to a driver and are not stored so; archs without a finished trial.
        double: results acknowledged twice as new, trials counted more often than there are, archs with two trials.
        invented: COMPLETED trials whose measurements no worker has noted.
        running: trials that still run or wait.
        failed: trials given up because their workers died too often.
    """
    record = study.record
    table, history, counts = study.trials(), record.history(), record.counts()
    names = [metric.name for metric in study.objectives]
    stored = {
        int(number): (row["state"], {name: row[name] for name in names})
        for number, row in table.iterrows()
        if row["state"] in ("COMPLETED", "INFEASIBLE", "FAILED")
    }
    told = lines(folder / "acknowledged")
    lost = sum(
        number not in stored or stored[number][0] != state or not _same(stored[number][1], measured, state)
        for number, state, _, measured in told
    )
    new = Counter(number for number, _, why, _ in told if why != "already recorded")
    double = sum(times - 1 for times in new.values()) + len(history.keys) - len(set(history.keys))
    double += abs(counts["COMPLETED"] + counts["FAILED"] + counts["INFEASIBLE"] - len(stored)) + abs(
        history.last - len(history)
    )
    noted = {(key, *[measured[name] for name in names]) for key, measured in lines(folder / "evaluations")}
    invented = 0
    if noted:
        for i, state in enumerate(history.states):
            invented += state == "COMPLETED" and (history.keys[i], *history.values[i].tolist()) not in noted
    missing = study.trials_wanted - len(stored)
    return {
        "evaluations": len(lines(folder / "evaluations")) or len(stored),
        "trials": len(stored),
        "acknowledged": len(told),
        "lost": lost + max(0, missing),
        "double": double,
        "invented": int(invented),
        "running": counts["RUNNING"] + counts["WAITING"],
        "failed": counts["FAILED"],
    }


def _same(stored: dict[str, float], measured: dict[str, float], state: str) -> bool:
    return state != "COMPLETED" or all(stored[name] == measured[name] for name in stored)


def outcome(study: nas.Study) -> Any:
    """What may not depend on what happened: each arch's objectives, and the front."""
    history = study.record.history()
    every = dict(zip(history.keys, history.values.tolist(), strict=True))
    keys = dict(zip(history.numbers.tolist(), history.keys, strict=True))
    front = study.front()[[metric.name for metric in study.objectives]]
    # Of archs with equal objectives the first one to finish is on the front: which one that is depends on the order.
    return every, sorted(map(tuple, front.to_numpy().tolist())), len(keys)


def epochs(file: Path) -> dict[str, int]:
    """Epochs that were finished, and how many of them were begun once more."""
    finished: set[tuple[str, str]] = set()
    repeated = 0
    for line in file.read_text(encoding="utf-8").splitlines():
        what, candidate, number = line.split()
        if what == "end":
            finished.add((candidate, number))
        else:
            repeated += (candidate, number) in finished
    return {"epochs": len(finished), "epochs_repeated": repeated}


def weights(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The bytes of a finished supernet's weights."""
    training = jobs.trainings().supernet(folder, options["steps"])
    assert training.trained, f"the training in {folder} has not finished"
    files = sorted((folder / "supernet" / "supernet").glob("*.safetensors"))
    return {file.name: file.read_bytes() for file in files}
