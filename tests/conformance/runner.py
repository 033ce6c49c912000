"""What every runner must do: one outcome a task, whatever happens to the worker."""

from __future__ import annotations

import multiprocessing as mp
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import nas
from nas.errors import Infeasible, RunnerError
from nas.runners import Outcome, Runner, Task
from nas.runners.guard import start_of
from tests.conformance.patience import PATIENCE_S


class RowSpace:
    """Stands for a space: an arch is its row."""

    def rows_to_archs(self, rows: Sequence[Sequence[float | None]]) -> list[tuple[float | None, ...]]:
        return [tuple(row) for row in rows]


def double(arch: Any) -> dict[str, float]:
    return {"twice": 2.0 * arch[0]}


def moody(arch: Any) -> dict[str, float]:
    if arch[0] % 3 == 0:
        raise Infeasible("it is a multiple of three", {"value": arch[0]})
    if arch[0] % 3 == 1:
        raise ValueError("one too many")
    return {"value": arch[0]}


class Unspeakable(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("not even this")


def wordy(arch: Any) -> dict[str, float]:
    """Says too much in every way."""
    kind = int(arch[0])
    if kind == 0:
        raise ValueError("x" * 3_000_000)
    if kind == 1:
        error = ValueError("noted")
        for number in range(20_000):
            error.add_note(f"note {number}")
        raise error
    if kind == 2:
        cause: Exception | None = None
        for _ in range(20_000):
            nested = ValueError("deep")
            nested.__cause__, cause = cause, nested
        assert cause is not None
        raise cause
    if kind == 3:
        raise Unspeakable
    if kind == 4:
        raise RunnerError("line\n" * 1_000_000)
    raise Infeasible("y " * 1_000_000)


class Deadly:
    """Kills its own worker on arch 5: always, or only the first time."""

    def __init__(self, marker: Path | None) -> None:
        self.marker = marker

    def __call__(self, arch: Any) -> dict[str, float]:
        if arch[0] == 5 and (self.marker is None or not self.marker.exists()):
            if self.marker is not None:
                self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"value": arch[0]}


def slow(arch: Any) -> dict[str, float]:
    time.sleep(100_000.0 if arch[0] == 1 else 0.0)
    return {"value": arch[0]}


def pool(arch: Any) -> dict[str, float]:
    with mp.Pool(1) as processes:
        return {"value": float(processes.apply(abs, (-arch[0],)))}


def spawned_pool(arch: Any) -> dict[str, float]:
    with mp.get_context("spawn").Pool(1) as processes:
        return {"value": float(processes.apply(abs, (-arch[0],)))}


def futures(arch: Any) -> dict[str, float]:
    with ProcessPoolExecutor(1) as processes:
        return {"value": float(processes.submit(abs, -arch[0]).result())}


def manager(arch: Any) -> dict[str, float]:
    with mp.Manager() as shared:
        return {"value": float(shared.list([arch[0]])[0])}


def loader(arch: Any) -> dict[str, float]:
    from torch.utils.data import DataLoader

    return {"value": float(sum(DataLoader([arch[0], 0.0], num_workers=1)))}


class Parent:
    """Starts processes on arch 1, and leaves their ids in a file: children, one in a session of its own, an orphan and one
    without its environment."""

    def __init__(self, file: Path, then: str) -> None:
        self.file, self.then = file, then

    def __call__(self, arch: Any) -> dict[str, float]:
        if arch[0] != 1:
            return {"value": arch[0]}
        forked = mp.get_context("fork").Process(target=time.sleep, args=(100.0,))
        forked.start()
        sleeping = ["sleep", "100"]
        alone = subprocess.Popen(sleeping, start_new_session=True, env={})
        script = "sleep 100 >&- 2>&- & echo $!; setsid sleep 100 >&- 2>&- & echo $!"
        orphans = subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
        pids = [forked.pid, subprocess.Popen(sleeping).pid, *orphans]
        if self.then == "stay":  # where nobody looks for children before the worker is gone, the mark is what is left
            pids.append(alone.pid)
        else:
            alone.kill()
        self.file.with_suffix(".new").write_text(" ".join(map(str, pids)))
        self.file.with_suffix(".new").rename(self.file)
        if self.then == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.then == "stay":
            time.sleep(100.0)
        return {"value": 1.0}

    def pids(self) -> list[int]:
        """Of what it has started, once it has."""
        wait_for(self.file.exists)
        return [int(pid) for pid in self.file.read_text().split()]


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for has."""
    return start_of(pid) == ""


class Unloadable:
    """Pickles, but does not unpickle."""

    def __reduce__(self) -> Any:
        return int, ("this is no number",)

    def __call__(self, arch: Any) -> dict[str, float]:
        return {}


class Unsendable:
    """Does not pickle."""

    def __reduce__(self) -> Any:
        raise TypeError("it holds an open file")

    def __call__(self, arch: Any) -> dict[str, float]:
        return {}


def tasks(count: int) -> list[Task]:
    return [Task(number, (float(number),)) for number in range(count)]


def drain(runner: Runner, count: int, seconds: float = PATIENCE_S) -> dict[int, Outcome]:
    """`count` outcomes by number; fails when a task gives two, or time is up."""
    found: dict[int, Outcome] = {}
    deadline = time.monotonic() + seconds
    while len(found) < count:
        assert time.monotonic() < deadline, f"only {sorted(found)} after {seconds} s"
        for outcome in runner.wait(0.5):
            assert outcome.number not in found, "one outcome a task"
            found[outcome.number] = outcome
    return found


class RunnerConformance:
    """Inherit and override `make`."""

    def make(self, evaluate: Any, **options: Any) -> Runner:
        raise AssertionError("override")

    def test_every_task_gives_one_outcome(self) -> None:
        with self.make(double) as runner:
            assert runner.capacity >= 1
            runner.submit(tasks(50))
            found = drain(runner, 50)
            assert {number: outcome.measurements["twice"] for number, outcome in found.items()} == {
                number: 2.0 * number for number in range(50)
            }
            assert all(outcome.state == "COMPLETED" and outcome.worker for outcome in found.values())
            assert runner.wait(0.01) == []

    def test_failures_and_infeasible_archs_are_outcomes_with_reasons(self) -> None:
        with self.make(moody) as runner:
            runner.submit(tasks(9))
            found = drain(runner, 9)
        assert [found[number].state for number in range(3)] == ["INFEASIBLE", "FAILED", "COMPLETED"]
        assert found[3].reason == "it is a multiple of three"
        assert found[3].measurements == {"value": 3.0}
        assert "ValueError: one too many" in found[1].reason
        assert "in moody" in found[1].reason

    def test_long_and_deep_reasons_are_cut(self) -> None:
        with self.make(wordy) as runner:
            runner.submit(tasks(6))
            found = drain(runner, 6)
        assert [found[number].state for number in range(6)] == [*["FAILED"] * 5, "INFEASIBLE"]
        assert all(0 < len(outcome.reason) < 3_000 for outcome in found.values())
        assert all("\n" not in outcome.reason for outcome in found.values())
        assert found[0].reason.startswith("ValueError: xxx")
        assert "(3,000,000 characters)" in found[0].reason
        assert "in wordy" in found[0].reason
        assert "ValueError: noted" in found[1].reason
        assert "ValueError: deep" in found[2].reason
        assert "Unspeakable that has no text" in found[3].reason

    def test_a_closed_runner_may_be_closed_again(self) -> None:
        runner = self.make(double)
        with runner:
            runner.submit(tasks(3))
        runner.close()


class PoolConformance(RunnerConformance):
    """For runners whose workers are processes of their own."""

    def test_tasks_of_a_worker_that_died_go_to_others(self, tmp_path: Path) -> None:
        with self.make(Deadly(tmp_path / "died")) as runner:
            runner.submit(tasks(20))
            found = drain(runner, 20)
        assert all(outcome.state == "COMPLETED" for outcome in found.values())

    def test_a_task_that_kills_every_worker_fails_alone(self) -> None:
        with self.make(Deadly(None)) as runner:
            runner.submit(tasks(20))
            found = drain(runner, 20)
        assert found.pop(5).reason.startswith("its worker died 3 times")
        assert all(outcome.state == "COMPLETED" for outcome in found.values())

    def test_workers_killed_from_outside_lose_nothing(self) -> None:
        with self.make(double) as runner:
            for pid in runner.pids:  # type: ignore[attr-defined]
                os.kill(pid, signal.SIGKILL)
            runner.submit(tasks(10))
            assert all(outcome.state == "COMPLETED" for outcome in drain(runner, 10).values())

    def test_a_stuck_evaluation_is_stopped(self) -> None:
        with self.make(slow, time_limit_s=5.0) as runner:
            runner.submit(tasks(6))
            found = drain(runner, 6)
        assert "took longer than 5 s" in found.pop(1).reason
        assert all(outcome.state == "COMPLETED" for outcome in found.values())

    @pytest.mark.parametrize("evaluate", [pool, spawned_pool, futures, manager, loader])
    def test_an_evaluator_may_start_processes(self, evaluate: Any) -> None:
        with self.make(evaluate, workers=1) as runner:
            runner.submit(tasks(2))
            found = drain(runner, 2)
        assert [(found[n].reason, found[n].measurements) for n in range(2)] == [
            ("", {"value": 0.0}),
            ("", {"value": 1.0}),
        ]

    @pytest.mark.parametrize("then", ["stay", "die", "return"])
    def test_what_an_evaluator_has_started_ends_with_its_worker(self, tmp_path: Path, then: str) -> None:
        evaluate = Parent(tmp_path / "pids", then)
        with self.make(evaluate, workers=1, time_limit_s=1.0 if then == "stay" else None) as runner:
            runner.submit(tasks(3))
            found = drain(runner, 3)
            if then == "stay":
                assert "took longer than 1 s" in found[1].reason
            if then != "return":
                wait_for(lambda: all(map(gone, evaluate.pids())))
        wait_for(lambda: all(map(gone, evaluate.pids())))

    def test_a_worker_of_another_version_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as other:
            other.setattr(nas, "__version__", "99.1")
            runner = self.make(double)
        says = rf"has nas {re.escape(nas.__version__)}, the driver nas 99.1; install the same versions on all machines"
        with pytest.raises(RunnerError, match=says), runner:
            pass

    def test_an_evaluation_that_does_not_load_says_why(self) -> None:
        why = "cannot load the evaluation: ValueError: invalid literal"
        with pytest.raises(RunnerError, match=why), self.make(Unloadable()) as runner:
            drain(runner, 1)

    def test_an_evaluation_that_cannot_be_sent_is_refused_before_anything_starts(self) -> None:
        with pytest.raises(RunnerError, match="cannot be sent"):
            self.make(Unsendable())

    @pytest.mark.parametrize("options", [{"workers": 0}, {"time_limit_s": 0}, {"batch": 0}, {"batch": 1000}])
    def test_options_are_checked(self, options: dict[str, Any]) -> None:
        with pytest.raises(RunnerError, match="give"):
            self.make(double, **options)
