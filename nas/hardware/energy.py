"""Energy and memory, where the platform exposes them.  What it does not expose is absent: never a zero.

Energy: the processor package's counter (RAPL, in sysfs) or the GPU's (NVML, extra `energy`), read around a second of calls; it
includes what the idle machine takes meanwhile.  Memory: the largest resident size of this process while the model runs
(Linux), or what torch allocated on the GPU at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from nas.hardware.device import Device
from nas.hardware.latency import quiet, runnable
from nas.supernet.inputs import Inputs

POWERCAP = Path("/sys/class/powercap")
PROC = Path("/proc/self")
SECONDS = 0.5


class Meter(Protocol):
    """A counter of energy."""

    def millijoules(self, run: Callable[[], Any], seconds: float) -> float | None:
        """Energy of one call of `run`, which is called for `seconds`; None when the counter stood still."""


class Rapl:
    """Counters of processor packages in microjoules, which start again at zero when they are full.

    Args:
        zones: folders with `energy_uj` and `max_energy_range_uj`.
    """

    def __init__(self, zones: list[Path]) -> None:
        self.zones = zones

    @classmethod
    def find(cls, root: Path = POWERCAP) -> Rapl | None:
        """The packages of this machine, if their counters may be read (often by root alone)."""
        zones = [zone for zone in sorted(root.glob("intel-rapl:*")) if zone.name.count(":") == 1]
        readable = [zone for zone in zones if _number(zone / "energy_uj") is not None]
        return cls(readable) if readable and len(readable) == len(zones) else None

    def millijoules(self, run: Callable[[], Any], seconds: float = SECONDS) -> float | None:
        """Energy of all packages, for each call."""
        before = self._read()
        calls = _repeat(run, seconds)
        after = self._read()
        used = sum(_difference(a, b, self._full(zone)) for a, b, zone in zip(before, after, self.zones, strict=True))
        return used / 1000.0 / calls if used > 0 else None

    def _read(self) -> list[int]:
        return [_number(zone / "energy_uj") or 0 for zone in self.zones]

    @staticmethod
    def _full(zone: Path) -> int:
        return _number(zone / "max_energy_range_uj") or 0


class Nvml:
    """The energy counter of an NVIDIA GPU, in millijoules since the driver was loaded."""

    def __init__(self, handle: Any, library: Any) -> None:
        self._handle, self._library = handle, library

    @classmethod
    def find(cls, device: torch.device) -> Nvml | None:
        """The GPU's counter, if nvidia-ml-py is installed and the GPU has one."""
        try:
            import pynvml

            pynvml.nvmlInit()
            uuid = str(torch.cuda.get_device_properties(device).uuid)
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
            pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        except Exception:  # not installed, no driver, or a GPU without the counter: all of them mean "not exposed"
            return None
        return cls(handle, pynvml)

    def millijoules(self, run: Callable[[], Any], seconds: float = SECONDS) -> float | None:
        """Energy for each call."""
        torch.cuda.synchronize()
        before = self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        calls = _repeat(run, seconds)
        torch.cuda.synchronize()
        used = float(self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle) - before)
        return used / calls if used > 0 else None


def exposed(device: Device) -> tuple[str, ...]:
    """Which of "energy_mj" and "memory_mib" this machine exposes for the device."""
    names = []
    if _meter(device) is not None:
        names.append("energy_mj")
    if device.torch_device.type == "cuda" or _reset_peak():
        names.append("memory_mib")
    return tuple(names)


def resources(
    module: nn.Module, inputs: Inputs, device: Device | None = None, *, seconds: float = SECONDS
) -> dict[str, float]:
    """Energy of one call in mJ and peak memory in MiB; what is not exposed is not there.

    Args:
        module: as for `measure`.
        inputs: likewise.
        device: likewise.
        seconds: of calls that energy is read around.

    Returns:
        A subset of {"energy_mj", "memory_mib"}.

    Raises:
        DeviceError: the device is not there, or the inputs do not fit its batch.
    """
    device = device or Device()
    device.check()
    found: dict[str, float] = {}
    with runnable(module, inputs, device) as run, quiet(device.threads):
        run()
        memory = peak_memory_mib(run, device)
        if memory is not None:
            found["memory_mib"] = memory
        meter = _meter(device)
        energy = meter.millijoules(run, seconds) if meter is not None else None
        if energy is not None:
            found["energy_mj"] = energy
    return found


def peak_memory_mib(run: Callable[[], Any], device: Device) -> float | None:
    """Largest memory during one call: allocated on the GPU, or resident of this process; None where it is not exposed."""
    if device.torch_device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device.torch_device)
        run()
        torch.cuda.synchronize(device.torch_device)
        return torch.cuda.max_memory_allocated(device.torch_device) / 2**20
    if not _reset_peak():
        return None
    run()
    return _peak_mib()


def _meter(device: Device) -> Meter | None:
    return Nvml.find(device.torch_device) if device.torch_device.type == "cuda" else Rapl.find()


def _repeat(run: Callable[[], Any], seconds: float) -> int:
    calls, start = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - start < seconds:
        run()
        calls += 1
    return calls


def _difference(before: int, after: int, full: int) -> int:
    """What a counter that wraps at `full` went up by."""
    return after - before if after >= before else after - before + full + 1


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _reset_peak() -> bool:
    """Whether Linux forgot the process's largest resident size when it was told to."""
    try:
        (PROC / "clear_refs").write_text("5")
    except OSError:
        return False
    return _peak_mib() is not None


def _peak_mib() -> float | None:
    try:
        lines = (PROC / "status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(found[0]) / 1024 if found else None
