"""What every runner must do: one outcome a task, whatever happens to the worker."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import nas
from nas.errors import Infeasible, RunnerError
from nas.runners import Outcome, Runner, Task


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
    time.sleep(60.0 if arch[0] == 1 else 0.0)
    return {"value": arch[0]}


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


def drain(runner: Runner, count: int, seconds: float = 60.0) -> dict[int, Outcome]:
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
            found = drain(runner, 20, 120.0)
        assert found.pop(5).reason.startswith("its worker died 3 times")
        assert all(outcome.state == "COMPLETED" for outcome in found.values())

    def test_workers_killed_from_outside_lose_nothing(self) -> None:
        with self.make(double) as runner:
            for pid in runner.pids:  # type: ignore[attr-defined]
                os.kill(pid, signal.SIGKILL)
            runner.submit(tasks(10))
            assert all(outcome.state == "COMPLETED" for outcome in drain(runner, 10).values())

    def test_a_stuck_evaluation_is_stopped(self) -> None:
        with self.make(slow, time_limit_s=1.0) as runner:
            runner.submit(tasks(6))
            found = drain(runner, 6)
        assert "took longer than 1 s" in found.pop(1).reason
        assert all(outcome.state == "COMPLETED" for outcome in found.values())

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
