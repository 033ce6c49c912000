"""A compression that is killed goes on where it was, and a person is told how far it is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import nas
from tests.compressing.nets import task, trained
from tests.conformance.patience import until

DRIVER = """
import json, os, sys
from pathlib import Path
from typing import Any

import nas
from nas.compressing import Calibration
from tests.compressing.nets import task, trained

folder = Path(sys.argv[1])
model = trained()


def note(*words):
    with open(folder.with_suffix(".txt"), "a") as notes:
        notes.write(" ".join(map(str, words)) + "\\n")
        notes.flush()


def noted(run):
    def wrapper(self, progress=True, resume=True, until=None, **options):
        note("begin", self.path.name, until)
        found = run(self, progress, resume, until, **options)
        note("end", self.path.name, until)
        return found

    return wrapper


def measured(call):
    def wrapper(self, arch):
        note("measure", arch.key)
        return call(self, arch)

    return wrapper


nas.Training.run = noted(nas.Training.run)
Calibration.__call__ = measured(Calibration.__call__)
options = {"epochs": 4, "warmup": 1, "trials": 8, "batches": 2, "lr": 3e-3, "progress": False}
found = nas.compress(model, task(), "macs <= 50%", folder=folder, **options)
choice = found.choices[0]
rows = [[one.arch.key, dict(one.measured)] for one in (choice.found, choice.uniform)]
print(json.dumps([rows, choice.is_uniform, list(found.notes)]))
"""


def driven(script: Path, folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(script), str(folder)], env=environment, stdout=subprocess.PIPE, text=True
    )


def lines(notes: Path) -> list[str]:
    return notes.read_text().splitlines() if notes.exists() else []


@pytest.mark.slow
def test_a_killed_compression_trains_nothing_twice_and_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    script, killed, whole = tmp_path / "driver.py", tmp_path / "killed", tmp_path / "whole"
    script.write_text(DRIVER)
    with driven(script, whole) as driver:
        expected = json.loads(driver.communicate()[0])
    undisturbed = lines(whole.with_suffix(".txt"))
    notes = killed.with_suffix(".txt")
    points = [1, 3, 6, len(undisturbed) - 9, len(undisturbed) - 4]
    for point in points:
        with driven(script, killed) as driver:
            until(lambda point=point: len(lines(notes)) >= point or driver.poll() is not None, "nothing was done")
            driver.kill()
    with driven(script, killed) as driver:
        found = json.loads(driver.communicate()[0])
    assert found == expected
    noted = lines(notes)
    ended: set[str] = set()
    for line in noted:
        what, _, which = line.partition(" ")
        assert what != "begin" or which not in ended, f"{which} was trained twice"
        ended |= {which} if what == "end" else set()
    trained_once = {line for line in undisturbed if line.startswith("begin")}
    assert {line for line in noted if line.startswith("begin")} == trained_once
    again = len(noted) - len(set(noted))
    assert again <= len(points), "what a kill interrupts is made again, and nothing else"


def test_every_stage_is_told_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def compress(**options: Any) -> str:
        capsys.readouterr()
        nas.compress(
            trained(),
            task(),
            "macs <= 50%",
            folder=tmp_path,
            epochs=4,
            warmup=1,
            trials=4,
            batches=1,
            lr=3e-3,
            **options,
        )
        told = capsys.readouterr()
        assert told.out == ""
        return told.err

    said = compress()
    stages = ["convert", "order", "warm-up", "search", "race", "tuning", "uniform scaling"]
    assert re.findall(r"^(\d)/7 ([a-z -]+):", said, re.MULTILINE) == [
        (str(place), name) for place, name in enumerate(stages, 1)
    ]
    assert re.search(r"step \d+/\d+  epoch 1/2  network 1/2, loss [\d.]+  about \d+ \w+ left", said)
    assert re.search(r"search-\w+: 0/2 trials", said)
    assert compress(progress=False) == ""
