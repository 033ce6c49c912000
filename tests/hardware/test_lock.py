"""The machine-wide lock, with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from nas.errors import DeviceError
from nas.hardware import exclusive, shared
from nas.hardware import lock as module
from tests.conformance.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
HOLD = """
import importlib.util, sys, time
from nas.hardware.lock import exclusive, shared
with {"shared": shared, "exclusive": exclusive}[sys.argv[1]](wait_s=900):
    print("in", time.monotonic_ns(), flush=True)
    sys.stdin.readline()
    print("out", time.monotonic_ns(), flush=True)
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements of the machine that runs the tests are left alone."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(module.tempfile, "tempdir", None)


class Holder:
    def __init__(self, kind: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, kind],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def entered(self) -> int:
        assert self.process.stdout is not None
        word, when = self.process.stdout.readline().split()
        assert word == "in"
        return int(when)

    def leave(self) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline().split()[1])


@contextmanager
def holder(kind: str) -> Iterator[Holder]:
    one = Holder(kind)
    with one.process:
        try:
            yield one
        finally:
            one.process.kill()


def test_workers_share_and_a_measurement_waits_for_all_of_them() -> None:
    with holder("shared") as one, holder("shared") as two:
        one.entered(), two.entered()
        with holder("exclusive") as measuring:
            one_out, two_out = one.leave(), two.leave()
            assert measuring.entered() > max(one_out, two_out)


def test_nothing_runs_beside_a_measurement() -> None:
    with holder("exclusive") as measuring:
        measuring.entered()
        for kind in (shared, exclusive):
            with (
                pytest.raises(DeviceError, match=r"waited 0.05 s for (a measurement|other work) on this machine"),
                kind(0.05),
            ):
                pass
        measuring.leave()
        with shared(PATIENCE_S):
            pass


def test_a_dead_process_holds_nothing() -> None:
    with holder("exclusive") as measuring:
        measuring.entered()
        measuring.process.kill()
        with exclusive(PATIENCE_S):
            pass


def test_a_stream_of_work_does_not_starve_a_measurement() -> None:
    """Threads that always overlap in `shared`: the measurement gets in all the same."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            with shared(PATIENCE_S):
                time.sleep(0.02)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            with exclusive(PATIENCE_S):
                pass
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_threads_of_one_process_keep_each_other_out() -> None:
    inside, most = 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with exclusive(PATIENCE_S):
                with guard:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.0005)
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_measurement_inside_a_measurement_does_not_wait_for_itself() -> None:
    with exclusive(1.0):
        with exclusive(1.0), shared(1.0):
            pass
        with ThreadPoolExecutor(1) as others:  # the end of the inner blocks let nobody in
            assert isinstance(others.submit(wait_for_shared).exception(), DeviceError)
    with shared(1.0), shared(1.0):
        pass
    with shared(1.0), pytest.raises(DeviceError, match="inside shared"), exclusive(1.0):
        pass


def wait_for_shared() -> None:
    with shared(0.05):
        pass


def test_an_error_inside_lets_go() -> None:
    with pytest.raises(ZeroDivisionError), exclusive(1.0):
        raise ZeroDivisionError
    with holder("exclusive") as other:
        other.entered()


def test_the_folder_is_the_users_own(tmp_path: Path) -> None:
    with shared(1.0):
        pass
    folder = tmp_path / f"supernas-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert sorted(one.name for one in folder.iterdir()) == ["gate", "room"]
