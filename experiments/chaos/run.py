"""Kills, stops and cuts everything at random moments, then counts what was lost.  The last line is one JSON object."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import machine
from audit import Audited, jobs, outcome, weights
from storm import Scenario

HERE = Path(__file__).parent
LOCAL = {"kill_worker": 3, "stop_worker": 2, "kill_driver": 2, "stop_driver": 2}
SERVER = {
    "cut": 2,
    "cut_before_commit": 1,
    "cut_after_commit": 1,
    "restart_server": 1,
    "crash_server": 1,
    "kill_backend": 1,
    "stop_backend": 2,
}
CLUSTER = {
    "kill_head": 1,
    "kill_worker": 3,
    "stop_worker": 2,
    "kill_driver": 1,
    "stop_driver": 2,
    "kill_raylet": 2,
    "stop_raylet": 2,
}
TUNE = {"kill_worker": 3, "stop_worker": 2, "kill_driver": 1, "stop_driver": 1}
GRID = {"side": 8, "axes": 4}
LEASE = {"lease_s": 1.5}  # so that processes that stand still lose their trials

# Two lists that are worked through at the same time: two cores, and most of a fault is waiting.
FULL = (
    (
        Scenario("workers-sqlite", "workers", "sqlite", LOCAL, 45, (0.1, 1.6), options={**GRID, **LEASE}),
        Scenario("drivers-sqlite", "workers", "sqlite", LOCAL, 45, (0.1, 1.6), 2, {**GRID, **LEASE}),
        Scenario("workers-postgresql", "workers", "postgresql", {**LOCAL, **SERVER}, 60, (0.1, 2.0), options=GRID),
        Scenario(
            "drivers-postgresql", "workers", "postgresql", {**LOCAL, **SERVER}, 60, (0.1, 2.0), 2, {**GRID, **LEASE}
        ),
    ),
    (
        Scenario(
            "supernet", "supernet", "none", {"kill_driver": 2, "stop_driver": 1}, 20, (1.0, 4.0), options={"steps": 400}
        ),
        Scenario("distributed", "distributed", "none", LOCAL, 20, (1.0, 5.0), options={"steps": 300}),
        Scenario(
            "trained-postgresql", "trained", "postgresql", {**LOCAL, **SERVER}, 30, (0.5, 3.0), options={"epochs": 12}
        ),
        Scenario("ray-sqlite", "ray", "sqlite", CLUSTER, 25, (0.3, 4.0), options=GRID, cluster=3),
        Scenario("ray-postgresql", "ray", "postgresql", {**CLUSTER, **SERVER}, 25, (0.3, 4.0), options=GRID, cluster=3),
        Scenario("tune-sqlite", "tune", "sqlite", TUNE, 12, (0.5, 2.5), options={"epochs": 12}),
    ),
)
SMOKE = (
    (Scenario("workers-sqlite", "workers", "sqlite", LOCAL, 4, (0.1, 0.4), options={"side": 3, "axes": 3, **LEASE}),),
)


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


@cache
def _undisturbed(kind: str, options: str) -> Any:
    """The outcome of the same work in one process that nobody disturbs."""
    given = json.loads(options)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "calm").touch()
        if kind in ("supernet", "distributed"):
            jobs.run(kind, folder, "", dict(given))
            return weights(folder, given)
        declare = jobs.search if kind == "search" else jobs.trainings().candidates
        study = declare(folder, f"sqlite:///{folder}/nas.db", **given)
        study.run(workers=0, progress=False)
        found = outcome(study)
        study.store.close()
        return found


def undisturbed(scenario: Scenario) -> Any:
    options = {name: value for name, value in scenario.options.items() if name != "lease_s"}
    kind = {"workers": "search", "ray": "search", "trained": "trained", "tune": "trained"}.get(
        scenario.kind, scenario.kind
    )
    return _undisturbed(kind, json.dumps(options, sort_keys=True))


def weather(scenario: Scenario, folder: Path, seed: int) -> dict[str, Any]:
    """A scenario's figures; a fault of the experiment itself is a row too, and is counted."""
    begin = time.monotonic()
    storm = Audited(scenario, folder / scenario.name, seed, say)
    storm.undisturbed = undisturbed(scenario)
    say(f"{scenario.name}: begins")
    row: dict[str, Any] = {"scenario": scenario.name}
    try:
        storm.run()
        row |= storm.figures | {"orphans": storm.orphans, "left": storm.left}
    except Exception as error:
        traceback.print_exc()
        row["broken"] = f"{type(error).__name__}: {error}"[:300]
    row |= {
        "faults": dict(storm.injected),
        "injected": storm.injected.total(),
        "lives": storm.lives,
        "ended": dict(storm.ended),
        "said": sentences(storm.folder),
        "tracebacks": sum(
            log.read_text(errors="replace").count("Traceback (most") for log in storm.folder.glob("*.log")
        ),
        "seconds": round(time.monotonic() - begin, 1),
    }
    say(json.dumps(row))
    return row


def sentences(folder: Path) -> dict[str, int]:
    """What processes said when they ended by themselves, and how often."""
    found: Counter[str] = Counter()
    for log in folder.glob("driver-*.log"):
        for line in log.read_text(errors="replace").splitlines():
            if "Error: " in line and not line.startswith((" ", "ray.")):
                found[line.replace(f"{folder.parent}/", "…/")[:160]] += 1
    return dict(found)


def total(rows: list[dict[str, Any]]) -> dict[str, Any]:
    faults: Counter[str] = Counter()
    for row in rows:
        faults.update(row["faults"])
    figures: dict[str, Any] = {"experiment": "chaos", "faults": faults.total(), "by_kind": dict(sorted(faults.items()))}
    for name in ("lost", "double", "invented", "running", "failed", "orphans", "epochs_repeated", "tracebacks"):
        figures[name] = sum(row.get(name, 0) for row in rows)
    figures |= {
        "scenarios": len(rows),
        "equal": sum(row.get("equal", 0) for row in rows),
        "broken": sum("broken" in row for row in rows),
        "evaluations": sum(row.get("evaluations", 0) for row in rows),
        "lives": sum(row["lives"] for row in rows),
    }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few faults on local workers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="names of scenarios")
    parser.add_argument("--faults", type=float, default=1.0, help="times as many faults of each scenario")
    parser.add_argument("--keep", type=Path, help="folder for what the processes wrote")
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    lists = [
        [
            Scenario(**{**vars(one), "count": max(1, round(one.count * given.faults))})
            for one in some
            if not given.only or one.name in given.only
        ]
        for some in (SMOKE if given.smoke else FULL)
    ]
    lists = [some for some in lists if some]
    folder = given.keep or Path(tempfile.mkdtemp(prefix="nas-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    try:
        if len(lists) == 1:
            rows = [weather(one, folder, given.seed) for one in lists[0]]
        else:
            rows = beside_each_other(lists, folder, sys.argv[1:])
    finally:
        if given.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    if given.rows is not None:
        given.rows.write_text(json.dumps(rows), encoding="utf-8")
        return
    figures = {**total(rows), "seconds": round(time.monotonic() - begin, 1), "seed": given.seed}
    if not given.smoke and not given.only:
        HERE.joinpath("results.json").write_text(json.dumps({"figures": figures, "rows": rows}, indent=1) + "\n")
    print(json.dumps(figures))


def beside_each_other(lists: list[list[Scenario]], folder: Path, arguments: list[str]) -> list[dict[str, Any]]:
    """A process for each list: Ray starts clusters in main threads only."""
    children = []
    for i, some in enumerate(lists):
        only = ["--only", *[one.name for one in some], "--keep", str(folder), "--rows", str(folder / f"rows-{i}.json")]
        children.append(subprocess.Popen([sys.executable, __file__, *arguments, *only]))
    for child in children:
        if child.wait():
            raise RuntimeError(f"a list of scenarios ended with {child.returncode}")
    return [row for i in range(len(lists)) for row in json.loads((folder / f"rows-{i}.json").read_text())]


if __name__ == "__main__":
    assert machine.TAG not in os.environ, "chaos inside chaos"
    main()
