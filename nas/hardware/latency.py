"""How long a model takes, and whether to believe it.

A mean over a few calls says little on a machine that does other things.  Here: threads are fixed, the first calls are
thrown away, a small reference model is timed between the calls, and the median is given with the 10th percentile, the
spread and the load.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from nas.errors import DeviceError
from nas.hardware.device import Device

Inputs: TypeAlias = Tensor | tuple[Any, ...] | Mapping[str, Any]

BUDGET_S = 0.08
LEAST_RUNS, MOST_RUNS = 7, 1000
WARM_UP, WARM_UP_S = 3, 0.01
NOISY = 0.25
REFERENCE_EVERY = 4


@dataclass(frozen=True)
class Measured:
    """Times of one call."""

    median_ms: float
    p10_ms: float
    """What the model takes when nothing is in its way."""
    spread_ms: float
    """Interquartile range."""
    load: float
    """Machine load over the last minute (runnable processes)."""
    runs: int
    noisy: bool
    """The interquartile range of the model or of the reference exceeds a quarter of its median."""
    reference_ms: float
    """Median of the reference during the same time: a machine that is slower today says so here."""
    environment: dict[str, str] = field(default_factory=dict)
    """Versions and the processor."""


class Reference(nn.Module):
    """A fixed small model (a convolution and a product of matrices), about 0.1 ms on one core."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Buffer(torch.linspace(-1.0, 1.0, 16 * 16 * 16).reshape(1, 16, 16, 16))
        self.kernel = nn.Buffer(torch.linspace(-0.1, 0.1, 16 * 16 * 9).reshape(16, 16, 3, 3))
        self.matrix = nn.Buffer(torch.linspace(-0.1, 0.1, 256 * 256).reshape(256, 256))

    def forward(self) -> Tensor:
        """(16, 256)."""
        features = torch.conv2d(self.image, self.kernel, padding=1).flatten(2)[0]  # (16, 256)
        return features @ self.matrix


def measure(
    module: nn.Module,
    inputs: Inputs,
    device: Device | None = None,
    *,
    reference: nn.Module | None = None,
    repeats: int | None = None,
    budget_s: float = BUDGET_S,
) -> Measured:
    """Times `module(inputs)` in eval mode without gradients.

    The module and the process's threads are left as they were.  To have the machine alone, put `exclusive()` around it.

    Args:
        module: is copied if it is not already on the device, in its dtype.
        inputs: one sample, which is repeated to `device.batch`; or that many samples.
        device: the default is one thread of the CPU, one sample, float32.
        reference: called without arguments between the runs; the default is `Reference`.
        repeats: number of timed runs; None is as many as fit the budget, between 7 and 1,000.
        budget_s: time for the timed runs.

    Raises:
        DeviceError: the device is not there, or the inputs do not fit its batch.
    """
    device = device or Device()
    device.check()
    if repeats is not None and repeats < 1:
        raise DeviceError(f"repeats={repeats} times nothing; choose 1 or more")
    ready = _prepared(module, device)
    placed = _placed(inputs, device)
    known = (reference or Reference()).to(device.torch_device)
    with _quiet(device.threads):
        times, references = _time(lambda: _call(ready, placed), known, device, repeats, budget_s)
    return _summary(times, references)


def _time(
    run: Callable[[], Any], reference: Callable[[], Any], device: Device, repeats: int | None, budget_s: float
) -> tuple[list[float], list[float]]:
    """Milliseconds of each run of both."""
    clock = _cuda_ms if device.torch_device.type == "cuda" else _cpu_ms
    start = time.perf_counter()
    warm = 0
    while warm < WARM_UP or time.perf_counter() - start < min(WARM_UP_S, budget_s):
        clock(run)
        clock(reference)
        warm += 1
    times: list[float] = []
    references: list[float] = []
    start = time.perf_counter()
    while len(times) < (repeats or MOST_RUNS):
        if len(times) % REFERENCE_EVERY == 0:
            references.append(clock(reference))
        times.append(clock(run))
        if repeats is None and len(times) >= LEAST_RUNS and time.perf_counter() - start >= budget_s:
            break
    return times, references


def _cpu_ms(run: Callable[[], Any]) -> float:
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) / 1e6


def _cuda_ms(run: Callable[[], Any]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def _summary(times: list[float], references: list[float]) -> Measured:
    p10, p25, median, p75 = (float(value) for value in np.percentile(times, [10, 25, 50, 75]))
    low, known, high = (float(value) for value in np.percentile(references, [25, 50, 75]))
    noisy = p75 - p25 > NOISY * median or high - low > NOISY * known
    load = os.getloadavg()[0]
    return Measured(median, p10, p75 - p25, load, len(times), noisy, known, dict(_environment()))


@functools.cache
def _environment() -> tuple[tuple[str, str], ...]:
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    facts = {"torch": str(torch.__version__), "python": platform.python_version(), "cpu": name}
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return tuple(facts.items())


@contextlib.contextmanager
def _quiet(threads: int) -> Iterator[None]:
    """Fixed threads, no garbage collection, no gradients; all of it undone afterwards."""
    before, collecting = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(threads)
    gc.disable()
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)
        if collecting:
            gc.enable()


def _prepared(module: nn.Module, device: Device) -> nn.Module:
    """The module on the device, in its dtype and eval mode: itself if it is that already, else a copy."""
    here, dtype = device.torch_device, device.torch_dtype
    tensors = [*module.parameters(), *module.buffers()]
    fits = all(one.device.type == here.type and (one.dtype == dtype or not one.is_floating_point()) for one in tensors)
    if fits and not any(part.training for part in module.modules()) and here.type == "cpu":
        return module
    return copy.deepcopy(module).to(here, dtype).eval()


def _placed(inputs: Inputs, device: Device) -> Inputs:
    """The inputs on the device: floating ones in its dtype, one sample repeated to its batch."""

    def place(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.ndim and value.shape[0] != device.batch:
            if value.shape[0] != 1:
                raise DeviceError(
                    f"inputs of shape {tuple(value.shape)} are not one sample and not the batch of {device.batch} of "
                    f"device {device.name!r}; give one sample"
                )
            value = value.expand(device.batch, *value.shape[1:]).contiguous()
        return value.to(device.torch_device, device.torch_dtype if value.is_floating_point() else value.dtype)

    if isinstance(inputs, Mapping):
        return {name: place(value) for name, value in inputs.items()}
    return tuple(map(place, inputs)) if isinstance(inputs, tuple) else place(inputs)


def _call(module: nn.Module, inputs: Inputs) -> Any:
    if isinstance(inputs, Mapping):
        return module(**inputs)
    return module(*inputs) if isinstance(inputs, tuple) else module(inputs)
