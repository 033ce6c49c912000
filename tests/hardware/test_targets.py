"""Devices that measure by themselves, exported models, the CUDA clock's arithmetic, energy and memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nas.errors import DeviceError
from nas.hardware import Command, Custom, Device, exposed, measure, parse_device, resources
from nas.hardware.cuda import CudaClock, flush_bytes
from nas.hardware.energy import Rapl, _difference
from nas.hardware.latency import summary, timed
from tests.conformance.patience import until

NET = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
INPUT = torch.zeros(1, 8)


def script(tmp_path: Path, body: str) -> str:
    file = tmp_path / "bench.py"
    file.write_text("import os, sys, time\n" + body)
    return f"{sys.executable} {file}"


# -- labels --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "device",
    [Device(), Device(threads=2), Device(batch=8, dtype="bfloat16"), Device("cuda:1"), Device(runtime="onnx", batch=2)],
)
def test_a_label_is_read_back(device: Device) -> None:
    assert parse_device(device.label) == device
    assert device.key.startswith(device.label + "@")
    assert set(device.describe()) == {"name", "threads", "batch", "dtype", "runtime", "machine"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cup", "did you mean 'cpu'"),
        ("cpu,thread=2", "option 'thread=2' of device 'cpu,thread=2' is not known; did you mean 'threads'"),
        ("cpu,threads=two", "was given threads='two'"),
        ("cpu,runtime=onxx", "did you mean 'onnx'"),
        ("cuda,runtime=onnx", "runtime 'onnx' runs float32 on the cpu"),
    ],
)
def test_a_label_without_meaning_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        parse_device(text)


# -- commands ------------------------------------------------------------------------------------------------------------


def test_a_command_reads_the_model_and_prints_milliseconds(tmp_path: Path) -> None:
    body = "size = os.path.getsize(sys.argv[1])\nprint('model of', size)\nprint('2.0, 2.5 ms') if size > 100 else sys.exit(3)"
    found = measure(NET, INPUT, Command("phone", script(tmp_path, body), format="pt2"))
    assert (found.median_ms, found.runs) == (2.25, 4)  # two runs a call, three wanted
    assert found.reference_ms is None
    assert found.environment["measured by"].startswith(sys.executable)
    assert "reference_ms" not in found.details()


def test_the_place_of_the_model_may_be_said(tmp_path: Path) -> None:
    command = Command(
        "phone",
        [
            *script(tmp_path, "print(sys.argv[2] == '-n' and sys.argv[1].endswith('.pt2') and 1.5)").split(),
            "{model}",
            "-n",
        ],
    )
    model = tmp_path / "m.pt2"
    with pytest.raises(DeviceError, match="printed no line"):
        Command("phone", script(tmp_path, "print('False')")).run(model)
    (tmp_path / "bench.py").write_text("import sys\nprint(1.5 if sys.argv[1:] == [sys.argv[1], '-n'] else 'no')")
    assert command.run(model) == [1.5]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "sys.stderr.write('loading\\nno device attached\\n'); sys.exit(4)",
            "ended with code 4: no device attached; run it by hand",
        ),
        ("print('done')", "printed no line of milliseconds but 'done'; its last line must be numbers"),
        ("pass", "printed no line of milliseconds and nothing else"),
        ("print('4\\nerror: model not supported')", "but 'error: model not supported'; its last line must be numbers"),
        ("print('100\\ndone')", "printed no line of milliseconds but 'done'"),
        ("print('3.52 s')", "printed no line of milliseconds but '3.52 s'"),
        (
            "print('3,52')",
            "printed '3,52', where a comma may be a decimal point or stand between runs; print numbers as in",
        ),
        ("print('2,500.5 ms')", "printed '2,500.5 ms', where a comma may be"),
        ("print('0.0')", "printed 0.0 ms; a latency is a positive number"),
        ("print('nan')", "printed nan ms; a latency is a positive number"),
    ],
)
def test_what_a_command_does_wrong_is_one_sentence(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message) as error:
        Command("phone", script(tmp_path, body)).run(tmp_path / "m.onnx")
    assert str(error.value).startswith("device 'phone': ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("line", ["1.5 2e0", "1.5, 2.0", "1.5, 2.0,", "1.5ms;2.0 ms", " 1.5\t2 ms \n\n"])
def test_runs_are_separated_by_spaces_commas_or_semicolons(tmp_path: Path, line: str) -> None:
    assert Command("phone", script(tmp_path, f"print({line!r})")).run(tmp_path / "m.onnx") == [1.5, 2.0]


def test_a_hanging_command_is_killed_with_its_children(tmp_path: Path) -> None:
    body = f"child = os.fork()\nopen({str(tmp_path / 'pid')!r} + str(int(child > 0)), 'w').write(str(os.getpid()))\n"
    body += "time.sleep(100_000)"
    with pytest.raises(DeviceError, match="took longer than 5 s and was stopped; give a larger timeout_s"):
        Command("phone", script(tmp_path, body), timeout_s=5.0).run(tmp_path / "m.onnx")
    for name in ("pid0", "pid1"):
        pid = int((tmp_path / name).read_text())
        until(lambda pid=pid: not _alive(pid), "it still runs")


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_program_that_is_not_there_is_said_before_work_starts() -> None:
    with pytest.raises(DeviceError, match="program 'no-such-bench' is not there; install it"):
        measure(NET, INPUT, Command("phone", "no-such-bench --runs 3"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cpu7", "command": "x"}, "device name 'cpu7' is not usable"),
        ({"name": "a b", "command": "x"}, "device name 'a b' is not usable"),
        ({"name": "phone", "command": ""}, "has no command"),
        ({"name": "phone", "command": "x", "format": "tflite"}, "format='tflite'; it is one of 'onnx', 'pt2'"),
        ({"name": "phone", "command": "x", "timeout_s": 0}, "timeout_s=0; it is a finite number, above 0"),
    ],
)
def test_a_command_device_that_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        Command(**options)


# -- functions -----------------------------------------------------------------------------------------------------------


def test_a_function_of_ones_own_measures() -> None:
    seen: list[tuple[int, ...]] = []

    def bench(module: nn.Module, inputs: Any) -> float:
        seen.append(tuple(module(inputs).shape))
        return 1.0 + len(seen)

    found = measure(NET, INPUT, Custom("board", bench, batch=4), repeats=5)
    assert (found.median_ms, found.runs, seen[0]) == (4.0, 5, (4, 2))


@pytest.mark.parametrize(
    "given",
    [2, np.float32(2.0), torch.tensor(2.0), [2.0, np.int64(2)], np.array([2.0, 2.0]), torch.full((3,), 2.0)],
    ids=repr,
)
def test_a_function_gives_milliseconds_of_any_kind(given: Any) -> None:
    found = measure(NET, INPUT, Custom("board", lambda _m, _i: given), repeats=5)
    assert found.median_ms == 2.0


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda _m, _i: 1 / 0, "its function failed: ZeroDivisionError: division by zero"),
        (lambda _m, _i: "fast", "its function gave 'fast' \\(str\\); it must give positive milliseconds"),
        (lambda _m, _i: [], r"its function gave \[\]"),
        (lambda _m, _i: [1.0, -1.0], r"its function gave \[1.0, -1.0\]"),
        (lambda _m, _i: ["1.0"], r"its function gave \['1.0'\]"),
        (lambda _m, _i: float("inf"), "its function gave inf"),
        (lambda _m, _i: torch.ones(2, 2), "its function gave tensor"),
        (lambda _m, _i: None, "its function gave None"),
    ],
)
def test_what_a_function_does_wrong_is_one_sentence(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        measure(NET, INPUT, Custom("board", function))


# -- onnxruntime ---------------------------------------------------------------------------------------------------------


def test_an_exported_model_is_measured() -> None:
    pytest.importorskip("onnxruntime")
    found = measure(NET, INPUT, Device(runtime="onnx", batch=2), repeats=5)
    assert 0.0 < found.p10_ms <= found.median_ms
    assert found.reference_ms is not None


def test_a_module_that_cannot_be_exported_is_one_sentence() -> None:
    pytest.importorskip("onnxruntime")

    class Looks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum().item() > 0 else -x

    with pytest.raises(DeviceError, match="the module cannot be measured in onnxruntime: Looks cannot be exported"):
        measure(Looks(), INPUT, Device(runtime="onnx"))


# -- clocks --------------------------------------------------------------------------------------------------------------


class Ticks:
    """A clock whose runs take known times: the loop around it is what is tested."""

    def __init__(self, times: list[float]) -> None:
        self.times, self.prepared, self.asked = times, 0, 0

    def ready(self, run: Callable[[], Any]) -> Callable[[], Any]:
        self.prepared += 1
        return run

    def ms(self, run: Callable[[], Any]) -> float:
        self.asked += 1
        return run()

    def facts(self) -> dict[str, str]:
        return {"clock": "ticks"}


def test_runs_and_references_are_interleaved_on_any_clock() -> None:
    order: list[str] = []
    clock = Ticks([])

    def run() -> float:
        order.append("run")
        return 2.0

    def reference() -> float:
        order.append("reference")
        return 1.0

    times, references = timed(run, reference, clock, 8, 0.0)
    assert (times, references) == ([2.0] * 8, [1.0] * 2)
    assert clock.prepared == 2
    assert order[-10:] == ["reference", *["run"] * 4] * 2
    found = summary(times, references, clock.facts())
    assert (found.median_ms, found.noisy, found.environment["clock"]) == (2.0, False, "ticks")


def test_an_unsteady_reference_makes_a_steady_model_noisy() -> None:
    assert summary([2.0] * 8, [1.0, 2.0, 1.0, 2.0], {}).noisy
    assert not summary([2.0] * 8, None, {}).noisy


def test_the_flushed_buffer_is_larger_than_the_cache() -> None:
    assert flush_bytes(50 * 2**20) == 100 * 2**20
    assert flush_bytes(0) == 32 * 2**20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_timed_by_events_around_a_graph() -> None:
    found = measure(nn.Linear(256, 256), torch.zeros(1, 256), Device("cuda", batch=8), repeats=20)
    assert 0.0 < found.median_ms < 50.0
    assert (found.environment["graph"], found.environment["cache"]) == ("replayed", "emptied")
    clock = CudaClock(torch.device("cuda"))
    run = clock.ready(lambda: torch.zeros(1, device="cuda").item())
    assert clock.ms(run) > 0.0
    assert clock.facts()["graph"].startswith("not recorded: ")
    assert "memory_mib" in resources(nn.Linear(256, 256), torch.zeros(1, 256), Device("cuda"))


# -- energy and memory ---------------------------------------------------------------------------------------------------


def zone(root: Path, name: str, value: int, full: int = 1_000_000) -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "energy_uj").write_text(f"{value}\n")
    (folder / "max_energy_range_uj").write_text(f"{full}\n")
    return folder


def test_energy_is_the_counters_difference_for_each_call(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", 1000), zone(tmp_path, "intel-rapl:1", 999_000)
    zone(tmp_path, "intel-rapl:0:0", 5)  # a part of a package: counted with it
    meter = Rapl.find(tmp_path)
    assert meter is not None
    assert meter.zones == [first, second]

    def run() -> None:
        (first / "energy_uj").write_text("5000")  # 4 mJ
        (second / "energy_uj").write_text("1000")  # over the top: 2.001 mJ

    assert meter.millijoules(run, 0.0) == pytest.approx(6.001)


def test_counters_that_stand_still_or_cannot_be_read_are_absent(tmp_path: Path) -> None:
    assert Rapl.find(tmp_path) is None
    folder = zone(tmp_path, "intel-rapl:0", 7)
    meter = Rapl.find(tmp_path)
    assert meter is not None
    assert meter.millijoules(lambda: None, 0.0) is None
    (folder / "energy_uj").write_text("denied")
    assert Rapl.find(tmp_path) is None


def test_a_counter_wraps() -> None:
    assert _difference(10, 15, 100) == 5
    assert _difference(98, 3, 100) == 6


def test_what_the_platform_exposes_is_positive_and_the_rest_is_absent() -> None:
    found = resources(NET, INPUT, seconds=0.01)
    assert set(found) <= {"energy_mj", "memory_mib"}
    assert all(value > 0 for value in found.values())
    assert set(found) <= set(exposed(Device()))


def test_peak_memory_sees_a_large_tensor() -> None:
    if "memory_mib" not in exposed(Device()):
        pytest.skip("this platform does not say what a process takes")

    class Large(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.ones(64, 2**20).sum()  # 256 MiB

    small, large = (resources(net, INPUT, seconds=0.01)["memory_mib"] for net in (NET, Large()))
    assert large > small + 200
    assert large < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
