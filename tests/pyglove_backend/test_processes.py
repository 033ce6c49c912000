"""Several processes share a sampling by its name; one that is killed is replaced."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nas.store import StudyRecord, open_store
from tests.conformance.patience import PATIENCE_S


@contextmanager
def program(
    store: Path, trials: int, pause: float = 0.0, group: str = "", together: int = 1
) -> Iterator[subprocess.Popen[str]]:
    command = [
        sys.executable,
        "-m",
        "tests.pyglove_backend.programs",
        str(store),
        "shared",
        str(trials),
        str(pause),
        group,
        str(together),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def said(process: subprocess.Popen[str], what: str) -> list[int]:
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    return [int(line.split()[1]) for line in output.splitlines() if line.startswith(what)]


def study(store: Path) -> StudyRecord:
    return open_store(store, create=False).open_study("shared")


def test_two_processes_share_a_sampling(tmp_path: Path) -> None:
    store = tmp_path / "nas.db"
    with program(store, 40, 0.02, together=2) as one, program(store, 40, 0.02, together=2) as other:
        done = said(one, "done"), said(other, "done")
    assert sorted(done[0] + done[1]) == list(range(1, 41))
    assert min(map(len, done)) >= 1
    record = study(store)
    assert record.counts()["COMPLETED"] == 40
    # Each began to evolve when both together had the initial population of 8.
    initial = [record.notes(number)["dna"]["marks"]["initial_population"] for number in range(40)]
    assert sum(initial) <= 12


def test_a_group_works_on_one_trial_at_a_time(tmp_path: Path) -> None:
    store = tmp_path / "nas.db"
    with program(store, 10, 0.1, "team", 2) as one, program(store, 10, 0.1, "team", 2) as other:
        begun = said(one, "begun"), said(other, "begun")
    assert study(store).counts()["COMPLETED"] == 10
    assert set(begun[0]) & set(begun[1])  # they were on the same trials
    assert set(begun[0]) | set(begun[1]) == set(range(1, 11))


def test_a_killed_program_goes_on_with_the_trial_that_it_had_begun(tmp_path: Path) -> None:
    store = tmp_path / "nas.db"
    with program(store, 12, -5) as killed:
        assert killed.stdout is not None
        for line in killed.stdout:
            if line == "begun 5\n":
                break
        killed.kill()
    before = study(store)
    finished = {number: before.trial(number).finished for number in range(4)}
    assert before.trial(4).state == "RUNNING"
    assert before.trial(4).curves["reward"][0][0] == 1  # measured before the end
    with program(store, 12) as again:
        begun = said(again, "begun")
    assert begun == list(range(5, 13))
    after = study(store)
    assert {number: after.trial(number).finished for number in range(4)} == finished
    assert after.trial(4).attempt == 2
    assert after.counts()["COMPLETED"] == 12
