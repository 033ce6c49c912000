from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas.errors import DeviceError
from nas.hardware import Device, Measured, Reference, measure
from tests.conformance.patience import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time goes on only where somebody sleeps: how busy this machine is does not show."""
    return Clock(monkeypatch)


class Sleep(nn.Module):
    """Takes a known time, and keeps notes on how it was called."""

    def __init__(self, seconds: list[float]) -> None:
        super().__init__()
        self.seconds, self.calls = seconds, 0
        self.seen: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds[self.calls % len(self.seconds)])
        self.calls += 1
        self.seen = {
            "threads": torch.get_num_threads(),
            "gc": gc.isenabled(),
            "grad": torch.is_inference_mode_enabled(),
            "training": self.training,
            "shape": tuple(x.shape),
            "dtype": x.dtype,
        }
        return x


def test_a_known_time_is_found(clock: Clock) -> None:
    found = measure(Sleep([0.005]).eval(), torch.zeros(1, 2), repeats=9)
    assert found.p10_ms == pytest.approx(5.0)
    assert found.median_ms == pytest.approx(5.0)
    assert found.runs == 9
    assert found.spread_ms >= 0.0
    assert found.load >= 0.0
    assert found.reference_ms == 0.0, "the clock stands still for it"
    assert found.environment["torch"] == torch.__version__


def test_real_time_goes_on() -> None:
    found = measure(Sleep([0.005]).eval(), torch.zeros(1, 2), repeats=9)
    assert 5.0 <= found.p10_ms <= found.median_ms
    assert found.reference_ms > 0.0


def test_an_unsteady_model_is_noisy(clock: Clock) -> None:
    assert measure(Sleep([0.001, 0.004]).eval(), torch.zeros(1), repeats=20).noisy


def test_runs_fit_the_budget_but_are_never_few(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, step=1e-5)
    assert 90 <= measure(Sleep([0.001]).eval(), torch.zeros(1), budget_s=0.1).runs <= 100
    slow = measure(Sleep([0.02]).eval(), torch.zeros(1), budget_s=0.01)
    assert slow.runs == 7
    assert measure(nn.Identity().eval(), torch.zeros(1), budget_s=1.0).runs == 1000


def test_the_process_is_as_it_was_and_the_model_runs_as_told() -> None:
    threads = torch.get_num_threads()
    module = Sleep([0.0]).eval()
    measure(module, torch.zeros(1, 3, 4), Device(batch=5), repeats=2)
    assert module.seen == {
        "threads": 1, "gc": False, "grad": True, "training": False, "shape": (5, 3, 4), "dtype": torch.float32,
    }  # fmt: skip
    assert torch.get_num_threads() == threads
    assert gc.isenabled()


def test_an_error_in_the_model_undoes_the_settings_too() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        measure(nn.Linear(3, 3).eval(), torch.zeros(1, 4))
    assert torch.get_num_threads() == threads
    assert gc.isenabled()
    assert not torch.is_inference_mode_enabled()


def test_a_module_that_does_not_fit_the_device_is_copied_not_changed() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    found = measure(module, torch.zeros(1, 4), Device(dtype="bfloat16"), repeats=3)
    assert isinstance(found, Measured)
    assert module.training
    assert module[0].weight.dtype is torch.float32
    noted = Sleep([0.0]).eval()
    measure(noted, torch.zeros(1, dtype=torch.int64), Device(dtype="bfloat16"), repeats=2)
    assert noted.seen["dtype"] is torch.int64  # token ids stay numbers


@pytest.mark.parametrize("form", ["tuple", "mapping"])
def test_inputs_come_in_every_form(form: str) -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, *, b: Tensor | None = None) -> Tensor:
            assert a.shape[0] == 3
            assert b is None or b.shape[0] == 3
            return a

    inputs: Any = (torch.zeros(1, 2),) if form == "tuple" else {"a": torch.zeros(1, 2), "b": torch.zeros(3, 2)}
    assert measure(Two().eval(), inputs, Device(batch=3), repeats=2).runs == 2


def test_a_reference_of_ones_own_is_timed_between() -> None:
    class Slow(nn.Module):
        def forward(self) -> None:
            time.sleep(0.003)

    assert measure(nn.Identity().eval(), torch.zeros(1), reference=Slow(), repeats=5).reference_ms >= 3.0
    assert Reference()().shape == (16, 256)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(DeviceError, match=r"inputs of shape \(4, 2\) are not one sample and not the batch of 3"):
        measure(nn.Identity().eval(), torch.zeros(4, 2), Device(batch=3))
    with pytest.raises(DeviceError, match="repeats=0"):
        measure(nn.Identity().eval(), torch.zeros(1), repeats=0)
    with pytest.raises(DeviceError, match="is not there"):
        measure(nn.Identity().eval(), torch.zeros(1), Device(f"cuda:{torch.cuda.device_count()}"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_cuda_times_the_device_not_the_launch(dtype: Any) -> None:
    small, big = (nn.Linear(n, n).eval() for n in (256, 8192))
    device = Device("cuda", batch=2048, dtype=dtype)
    times = [measure(net, torch.zeros(1, net.in_features), device).median_ms for net in (small, big)]
    assert times[1] > 5 * times[0]


class Work(nn.Module):
    """Is at work for a known time, whatever else the processor does meanwhile."""

    def __init__(self, ms: float, rest_ms: float = 0.0) -> None:
        super().__init__()
        self.ms, self.rest_ms = ms, rest_ms

    def forward(self, x: Tensor) -> Tensor:
        end = time.thread_time_ns() + self.ms * 1e6
        while time.thread_time_ns() < end:
            pass
        if self.rest_ms:
            time.sleep(self.rest_ms / 1e3)
        return x


@pytest.fixture
def crowded() -> Iterator[None]:
    """This process on one core, with three others that never rest."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mine)})
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]  # on the same core
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()
        os.sched_setaffinity(0, mine)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no choice of cores here")
@pytest.mark.usefixtures("crowded")
def test_what_other_processes_take_does_not_count() -> None:
    wall = time.perf_counter()
    found = measure(Work(12.0).eval(), torch.zeros(1, 2), repeats=15)
    wall = time.perf_counter() - wall
    assert wall > 2 * 15 * 0.012, "others had their turns"
    assert 12.0 <= found.median_ms < 18.0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no choice of cores here")
@pytest.mark.usefixtures("crowded")
def test_what_a_model_waits_for_counts_beside_others() -> None:
    found = measure(Work(1.0, rest_ms=10.0).eval(), torch.zeros(1, 2), repeats=7)
    assert found.median_ms >= 11.0
