from __future__ import annotations

import multiprocessing as mp
import os
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nas.errors import RunnerError
from nas.runners import InlineRunner, LocalRunner, Runner, Task, guard, import_file, pool
from nas.runners.base import LARGEST_BATCH, LOSSES, Pace, Retries
from nas.runners.local import _serve
from nas.runners.work import Payload
from tests.conformance.patience import PATIENCE_S, Clock
from tests.conformance.runner import (
    Parent,
    PoolConformance,
    RowSpace,
    RunnerConformance,
    double,
    drain,
    gone,
    tasks,
    wait_for,
)


class TestInline(RunnerConformance):
    def make(self, evaluate: Any, **options: Any) -> Runner:
        return InlineRunner(RowSpace(), evaluate, **options)


class TestLocal(PoolConformance):
    def make(self, evaluate: Any, **options: Any) -> Runner:
        return LocalRunner(RowSpace(), evaluate, **options)

    def test_capacity_grows_when_evaluations_are_short(self) -> None:
        with self.make(_null) as runner:
            before = runner.capacity
            runner.submit(tasks(100))
            drain(runner, 100)
            assert before == 4
            assert runner.capacity > before

    def test_a_worker_whose_driver_dies_before_it_is_ready_says_nothing(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        context = mp.get_context("spawn")
        ours, theirs = context.Pipe()
        payload = Payload.pack(RowSpace(), double, 1, pickle.dumps)
        process = context.Process(target=_serve, args=(theirs, payload, "local-1", guard.identity(), False))
        process.start()
        ours.close()
        theirs.close()
        process.join(PATIENCE_S)
        assert process.exitcode == 0
        assert capfd.readouterr().err == ""

    def test_job_files_are_imported_by_workers(self, tmp_path: Path) -> None:
        job = tmp_path / "somejob.py"
        job.write_text("def evaluate(arch):\n    return {'value': 7.0}\n")
        module = import_file("nas_test_job", str(job))
        try:
            with self.make(module.evaluate) as runner:
                runner.submit(tasks(1))
                assert drain(runner, 1)[0].measurements == {"value": 7.0}
        finally:
            del sys.modules["nas_test_job"]

    def test_a_job_file_that_a_machine_does_not_have_travels_as_text(self, tmp_path: Path) -> None:
        job = tmp_path / "faraway.py"
        job.write_text(
            "def evaluate(arch):\n    return {'value': 8.0, 'here': float(__file__.endswith('faraway.py'))}\n"
        )
        module = import_file("nas_test_faraway", str(job))
        try:
            runner = self.make(module.evaluate)
            job.unlink()
            with runner:
                runner.submit(tasks(1))
                assert drain(runner, 1)[0].measurements == {"value": 8.0, "here": 1.0}
        finally:
            del sys.modules["nas_test_faraway"]

    def test_a_job_file_that_needs_its_neighbours_says_so_where_they_are_not(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "neighbour.py").write_text("value = 1.0\n")
        job = tmp_path / "faraway.py"
        job.write_text("import neighbour\ndef evaluate(arch):\n    return {'value': neighbour.value}\n")
        with monkeypatch.context() as patched:
            patched.syspath_prepend(str(tmp_path))
            module = import_file("nas_test_neighbours", str(job))
            runner = self.make(module.evaluate)
        job.unlink()
        (tmp_path / "neighbour.py").unlink()
        try:
            with (
                pytest.raises(RunnerError, match="nor the module 'neighbour' that it imports; send the job's folder"),
                runner,
            ):
                pass
        finally:
            del sys.modules["nas_test_neighbours"], sys.modules["neighbour"]

    def test_job_files_that_the_evaluation_does_not_need_are_not_sent(self, tmp_path: Path) -> None:
        job = tmp_path / "gone.py"
        job.write_text("")
        import_file("nas_test_gone", str(job))
        job.unlink()
        try:
            with self.make(double) as runner:
                runner.submit(tasks(1))
                assert drain(runner, 1)[0].state == "COMPLETED"
        finally:
            del sys.modules["nas_test_gone"]

    @pytest.mark.parametrize("evaluator", ["Parent", "busy"])
    def test_workers_and_what_they_have_started_die_with_their_driver(self, tmp_path: Path, evaluator: str) -> None:
        script, file = tmp_path / "driver.py", tmp_path / "pids"
        script.write_text(_DRIVER)
        with subprocess.Popen([sys.executable, str(script), str(file), evaluator], stdout=subprocess.PIPE) as driver:
            assert driver.stdout is not None
            pids = [int(pid) for pid in driver.stdout.readline().split()]
            assert len(pids) == 2
            driver.kill()
        if evaluator == "Parent":
            pids += Parent(file, "stay").pids()
        wait_for(lambda: all(map(gone, pids)))

    def test_an_evaluator_may_run_workers_of_its_own(self) -> None:
        with self.make(_nested, workers=1) as runner:
            runner.submit(tasks(2))
            found = drain(runner, 2)
        assert [found[n].measurements for n in range(2)] == [{"twice": 0.0}, {"twice": 2.0}]

    def test_a_terminal_that_closes_leaves_the_tracker_of_semaphores(self) -> None:
        program = (
            "import os, signal, time\n"
            "from multiprocessing import resource_tracker as tracker\n"
            "from nas.runners.local import quiet_tracker\n"
            "with quiet_tracker(): pass\n"
            "os.kill(tracker._resource_tracker._pid, signal.SIGHUP)\n"
            "time.sleep(0.5)\n"
            "print(tracker._resource_tracker._check_alive(), signal.pthread_sigmask(signal.SIG_BLOCK, []))\n"
        )
        shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert (shown.stdout, shown.stderr) == ("True set()\n", "")

    def test_a_daemon_is_told_that_it_may_start_no_workers(self) -> None:
        with mp.get_context("spawn").Pool(1) as pool_of_daemons:
            assert "this process is a daemon" in pool_of_daemons.apply(_refused)


def _nested(arch: Any) -> dict[str, float]:
    with LocalRunner(RowSpace(), double, 1) as runner:
        runner.submit([Task(0, arch)])
        return drain(runner, 1)[0].measurements


def _refused() -> str:
    try:
        LocalRunner(RowSpace(), double, 1).start()
    except RunnerError as error:
        return str(error)
    return "nothing"


@pytest.mark.parametrize(
    ("signal_number", "says"),
    [
        (0, r"3 workers died while starting \(exit code 3\); a script must call study.run\(\) under if __name__"),
        (
            signal.SIGKILL,
            r"3 workers died while starting \(killed by SIGKILL\); see whether the machine has the memory",
        ),
    ],
)
def test_workers_that_die_while_starting_end_the_run_after_pauses(
    signal_number: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_PAUSE_S", 0.01)
    with pytest.raises(RunnerError, match=says), LocalRunner(RowSpace(), Dead(signal_number)):
        pass


def test_a_lost_task_waits_longer_each_time_and_then_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    retries, task = Retries(), tasks(1)[0]
    waited = []
    for _ in range(2):
        assert retries.lose([task], "no reason", "w") == []
        started = clock.now
        assert retries.is_waiting
        while not retries.is_due:
            clock.now += 0.01
        waited.append(clock.now - started)
        assert retries.next() == task
    assert waited[1] > 2 * waited[0] > 0.2
    assert [outcome.reason for outcome in retries.lose([task], "a kill", "w")] == [
        "its worker died 3 times, last: a kill"
    ]
    assert not retries.is_waiting


def test_a_task_whose_machines_were_lost_has_more_attempts_than_one_whose_workers_died() -> None:
    retries, task = Retries(), tasks(1)[0]
    for _ in range(LOSSES - 1):
        assert retries.lose([task], "its node has died", "w", died=False) == []
    (outcome,) = retries.lose([task], "its node has died", "w", died=False)
    assert outcome.reason == f"its worker was lost {LOSSES} times, last: its node has died"
    for died in (False, True, False, True):
        assert retries.lose([task], "a kill", "w", died=died) == []
    retries.forget(task.number)
    assert retries.lose([task], "a kill", "w") == retries.lose([task], "a kill", "w") == []
    assert len(retries.lose([task], "a kill", "w")) == 1


class Dead:
    """Takes its worker along when it is loaded: by its own end, or by a signal as the system sends it."""

    def __init__(self, signal_number: int) -> None:
        self._signal = signal_number

    def __reduce__(self) -> Any:
        return (_die_of, (self._signal,)) if self._signal else (os._exit, (3,))


def _die_of(signal_number: int) -> None:
    signal.raise_signal(signal_number)

    def __call__(self, arch: Any) -> dict[str, float]:
        return {}


def _null(arch: Any) -> dict[str, float]:
    return {}


def busy(arch: Any) -> dict[str, float]:
    """Nothing else in its process runs, no thread and no handler of signals, until this has matched."""
    return {"value": float(re.match(r"(a+)+$", "a" * 60 + "b") is None)}


_DRIVER = """
import sys, time
from pathlib import Path
sys.path.insert(0, ".")
from nas.runners import LocalRunner
from tests.conformance.runner import RowSpace, Parent, Task
from tests.runners.test_local import busy
if __name__ == "__main__":
    evaluate = Parent(Path(sys.argv[1]), "stay") if sys.argv[2] == "Parent" else busy
    with LocalRunner(RowSpace(), evaluate) as runner:
        runner.submit([Task(1, (1.0,)), Task(2, (1.0,))])
        time.sleep(0.5)
        print(*runner.pids, flush=True)
        time.sleep(100_000)
"""


def test_pace_aims_at_a_message_of_some_milliseconds() -> None:
    pace = Pace()
    assert pace.batch == 1
    for _ in range(200):
        pace.saw(0.001)
    assert pace.batch == 30
    for _ in range(200):
        pace.saw(0.5)
    assert pace.batch == 1
    for _ in range(500):
        pace.saw(0.0)
    assert pace.batch == LARGEST_BATCH
    assert Pace(8).batch == 8


def test_a_job_file_that_is_no_python_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunnerError, match=r"give a file that ends in \.py"):
        import_file("nas_no_job", str(tmp_path / "job.txt"))


def test_the_first_evaluations_to_end_are_the_shortest_and_do_not_set_the_batch() -> None:
    pace = Pace(workers=100)
    for _ in range(99):
        pace.saw(0.001)
    assert pace.batch == 1  # what the other workers do takes longer
    for _ in range(200):
        pace.saw(0.5)
    assert pace.batch == 1
    short = Pace(workers=2)
    for _ in range(2):
        short.saw(0.001)
    assert short.batch == 30
