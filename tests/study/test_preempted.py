"""What ends a driver from outside is no trial's fault; a trial that ends each driver is found, and fails alone."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import nas.study.driver
from nas.runners import InlineRunner
from nas.study import Study
from nas.study.driver import LOSSES
from tests.conformance.runner import gone, wait_for
from tests.study.landscapes import grid, study, trade_off

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


class Preempted:
    """An evaluation during which the driver is sent a signal; after three, it ends."""

    metrics = ("quality", "cost")

    def __init__(self, folder: Path, number: int, *, swallow: bool = False) -> None:
        self.folder, self.number, self.swallow = folder, number, swallow

    def __call__(self, arch: Any) -> dict[str, float]:
        times = len(list(self.folder.glob("time-*")))
        if times < 3:
            (self.folder / f"time-{times}").touch()
            try:
                signal.raise_signal(self.number)
                time.sleep(60.0)
            except BaseException:
                if not self.swallow:
                    raise
        return trade_off(arch)


def waits(arch: Any) -> dict[str, float]:
    time.sleep(0.0 if Path("fast").exists() else 1000.0)
    return trade_off(arch)


@pytest.mark.parametrize("number", SIGNALS)
def test_three_signals_during_one_evaluation_cost_no_trial(tmp_path: Path, number: signal.Signals) -> None:
    def search() -> Study:
        return study(tmp_path / "nas.db", evaluators=[Preempted(tmp_path, number)], trials=4)

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as ended:
            search().run(workers=0, progress=False)
        assert ended.type is KeyboardInterrupt or ended.value.code == 128 + number
        counts = search().record.counts()
        assert (counts["WAITING"], counts["RUNNING"], counts["FAILED"]) == (1, 0, 0)
    summary = search().run(workers=0, progress=False)
    assert summary.counts == {**summary.counts, "COMPLETED": 4, "FAILED": 0}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_an_evaluator_swallows_ends_the_run_after_its_result(
    tmp_path: Path, number: signal.Signals
) -> None:
    search = study(tmp_path / "nas.db", evaluators=[Preempted(tmp_path, number, swallow=True)], trials=9)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        search.run(workers=0, progress=False)
    assert len(list(tmp_path.glob("time-*"))) == 1
    assert search.record.counts()["RUNNING"] == 0


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_workers_and_hands_their_trials_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.chdir(tmp_path)
    search = study(tmp_path / "nas.db", evaluators=[waits], trials=4)

    def send() -> None:
        wait_for(lambda: search.record.counts()["RUNNING"] > 0)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    search.record  # noqa: B018 (opened before two threads use it)
    thread.start()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        search.run(workers=1, progress=False)
    thread.join()
    counts = search.record.counts()
    assert (counts["RUNNING"], counts["FAILED"], counts["COMPLETED"]) == (0, 0, 0)
    (tmp_path / "fast").touch()
    assert search.run(workers=1, progress=False).counts["COMPLETED"] == 4


_JOB = """
import sys
sys.path.insert(0, {root!r})
from tests.study.landscapes import *
from tests.study.test_preempted import waits
study = study({store!r}, "killed", evaluators=[waits], trials=4)
"""


def _begin(tmp_path: Path, **options: Any) -> subprocess.Popen[str]:
    """`nas run` whose workers evaluate."""
    job, store = tmp_path / "job.py", tmp_path / "nas.db"
    job.write_text(_JOB.format(root=str(Path.cwd()), store=str(store)))
    command = [sys.executable, "-m", "nas", "run", str(job), "--workers", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    driver = subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, start_new_session=True, **options)
    wait_for(lambda: _counts(store).get("RUNNING", 0) > 0 or driver.poll() is not None, 60)
    return driver


def _counts(store: Path) -> dict[str, int]:
    from nas.errors import StoreError
    from nas.store import open_store

    with contextlib.suppress(StoreError):
        return dict(open_store(store, create=False).open_study("killed").counts())
    return {}


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("number", SIGNALS)
def test_the_command_says_what_ended_it_and_ends_with_its_code(tmp_path: Path, number: signal.Signals) -> None:
    with _begin(tmp_path, stderr=subprocess.PIPE) as driver:
        workers = _children(driver.pid)
        os.killpg(driver.pid, number)
        assert driver.stderr is not None
        said = driver.stderr.read()
        assert driver.wait(60) == 128 + number
    assert said.splitlines()[-1].startswith("nas: ended by SIG" if number != signal.SIGINT else "nas: interrupted")
    assert "the same command goes on" in said
    assert "Traceback" not in said
    counts = _counts(tmp_path / "nas.db")
    assert (counts["RUNNING"], counts["FAILED"]) == (0, 0)
    wait_for(lambda: all(map(gone, workers)))


def test_a_terminal_that_closes_hands_the_trials_back(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    driver = _begin(tmp_path, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.close(ours)  # whatever it writes from now on is an error
    os.kill(driver.pid, signal.SIGHUP)
    assert driver.wait(60) == 129
    assert _counts(tmp_path / "nas.db")["RUNNING"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [False, True])
def test_drivers_that_are_killed_three_times_cost_no_trial(tmp_path: Path, whole_group: bool) -> None:
    store = tmp_path / "nas.db"
    for _ in range(3):
        with _begin(tmp_path, stderr=subprocess.DEVNULL) as driver:
            (os.killpg if whole_group else os.kill)(driver.pid, signal.SIGKILL)
    assert _counts(store)["FAILED"] == 0
    (tmp_path / "fast").touch()
    command = [sys.executable, "-m", "nas", "run", str(tmp_path / "job.py")]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path.cwd())}, check=True)
    assert _counts(store) == {**_counts(store), "COMPLETED": 4, "FAILED": 0}


class _Killed(BaseException):
    """Stands for the end of a process: nothing is handed back."""


def test_a_trial_that_kills_each_driver_fails_alone_and_those_beside_it_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside: list[int] = []
    evaluate = InlineRunner.wait

    def wait(self: Any, timeout: float) -> Any:
        for task in self._queue:
            if task.row == killer:
                beside.append(len(self._queue) - 1)
                raise _Killed
        return evaluate(self, timeout)

    space = grid(4, 1)
    killer = tuple(next(iter(space.enumerate())).row())
    monkeypatch.setattr(InlineRunner, "capacity", 4)
    monkeypatch.setattr(InlineRunner, "wait", wait)
    monkeypatch.setattr(nas.study.driver, "is_gone", lambda owner: True)
    monkeypatch.setattr(nas.study.driver.Driver, "release", lambda self: None)
    for _ in range(LOSSES + 1):
        search = study(tmp_path / "nas.db", space=space, evaluators=[_one], algorithm="exhaustive", trials=4)
        with contextlib.suppress(_Killed):
            summary = search.run(workers=0, progress=False)
            break
    else:
        pytest.fail("it would have been killed for ever")
    assert beside == [3, 3, 3, 0, 0, 0]
    assert summary.counts == {**summary.counts, "COMPLETED": 3, "FAILED": 1}
    assert search.trials("state == 'FAILED'")["reason"].tolist() == [f"lost {LOSSES} workers"]


def _one(arch: Any) -> dict[str, float]:
    return {"quality": float(arch.choices["x0"]), "cost": 1.0}


@pytest.mark.slow
def test_an_evaluation_that_kills_its_driver_does_not_do_so_for_ever(tmp_path: Path) -> None:
    store, script = tmp_path / "nas.db", tmp_path / "driver.py"
    script.write_text(_KILLER)
    for _ in range(LOSSES + 1):
        ended = subprocess.run([sys.executable, str(script), str(store)], stderr=subprocess.DEVNULL, check=False)
        if ended.returncode == 0:
            break
    assert _counts(store) == {**_counts(store), "COMPLETED": 15, "FAILED": 1, "RUNNING": 0, "WAITING": 0}


_KILLER = """
import os, signal, sys
sys.path.insert(0, ".")
from tests.study.landscapes import grid, study, trade_off
def kills(arch):
    if list(arch.choices.values()) == [2, 1]:
        os.kill(os.getppid(), signal.SIGKILL)
    return trade_off(arch)
if __name__ == "__main__":
    study(sys.argv[1], "killed", space=grid(4, 2), evaluators=[kills], algorithm="exhaustive", trials=16).run(workers=2)
"""
