"""How long a model takes, and whether to believe it.

A mean over a few calls says little on a machine that does other things.  Here: threads are fixed, the first calls are
thrown away, a small reference model is timed between the calls, and the median is given with the 10th percentile, the
spread and the load.  What other processes take of the processor while a call of one thread is under way does not count.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from nas.checking import checked
from nas.errors import DeviceError
from nas.hardware.device import Device, parse_device, processor
from nas.supernet.inputs import Inputs, batch_size, call, convert, has_batch, plain, spread, tensors_in

try:
    import resource

    resource.RUSAGE_THREAD  # noqa: B018 (Linux and BSD have it)
except (ImportError, AttributeError):
    resource = None  # type: ignore[assignment]

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
    reference_ms: float | None
    """Median of the reference during the same time: a machine that is slower today says so here.  None elsewhere."""
    environment: dict[str, str] = field(default_factory=dict)
    """Versions and the processor."""

    def details(self) -> dict[str, float]:
        """Everything beside the median, by a name with its unit; what was not measured is absent."""
        found = {"p10_ms": self.p10_ms, "spread_ms": self.spread_ms, "load": self.load, "runs": float(self.runs)}
        return found if self.reference_ms is None else {**found, "reference_ms": self.reference_ms}


class Target(Protocol):
    """Something that a module is measured on: a `Device` of this machine, a `Command`, a `Custom` function."""

    @property
    def label(self) -> str:
        """For people."""

    @property
    def key(self) -> str:
        """Name in a database."""

    def describe(self) -> dict[str, Any]:
        """JSON-able: all that a figure depends on."""

    def check(self) -> None:
        """Raises `DeviceError` when it is not there."""


def target_of(device: Target | str | None) -> Target:
    """A device from its label, "cpu,threads=2"; a device as it is; None is one thread of the CPU.

    Raises:
        DeviceError: it is no such label.
    """
    if device is None:
        return Device()
    return parse_device(device) if isinstance(device, str) else device


class Clock(Protocol):
    """Times calls on one kind of device."""

    def ready(self, run: Callable[[], Any]) -> Callable[[], Any]:
        """`run` as it will be timed: warmed up, or recorded once to be replayed."""

    def ms(self, run: Callable[[], Any]) -> float:
        """Milliseconds of one call of what `ready` gave."""

    def facts(self) -> dict[str, str]:
        """How it measures, for the environment of the figures."""


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


@checked(DeviceError)
def measure(
    module: nn.Module,
    inputs: Inputs,
    device: Target | str | None = None,
    *,
    reference: nn.Module | None = None,
    repeats: int | None = None,
    budget_s: float = BUDGET_S,
) -> Measured:
    """Times `module(inputs)` in eval mode without gradients.

    The module and the process's threads are left as they were.  To have the machine alone, put `exclusive()` around it.

    Args:
        module: is copied if it is not already on the device, in its dtype.
        inputs: one sample, which is repeated to `device.batch`; or that many samples.  A `nas.Example` says which axis is the
            batch's.
        device: or its label, as "cpu,threads=2"; the default is one thread of the CPU, one sample, float32.  A `Command` or a
            `Custom` device measures by itself, `repeats` times, and takes no reference.
        reference: called without arguments between the runs; the default is `Reference`.
        repeats: number of timed runs; None is as many as fit the budget, between 7 and 1,000.
        budget_s: time for the timed runs.

    Raises:
        DeviceError: the device is not there, or the inputs do not fit its batch.
    """
    device = target_of(device)
    device.check()
    if repeats is not None and repeats < 1:
        raise DeviceError(f"repeats={repeats} times nothing; choose 1 or more")
    if not isinstance(device, Device):
        return _elsewhere(device, module, inputs, repeats)
    with runnable(module, inputs, device) as run:
        known = (reference or Reference()).to(device.torch_device)
        clock = clock_of(device)
        with quiet(device.threads):
            times, references = timed(run, known, clock, repeats, budget_s)
    return summary(times, references, clock.facts())


def _elsewhere(device: Any, module: nn.Module, inputs: Inputs, repeats: int | None) -> Measured:
    """Another device's own measurement."""
    times = device.times(module, inputs, repeats)
    return summary(times, None, device.facts())


@contextlib.contextmanager
def runnable(module: nn.Module, inputs: Inputs, device: Device) -> Iterator[Callable[[], Any]]:
    """A call without arguments of the module on the device, as the device's runtime runs it."""
    if device.runtime == "onnx":
        from nas.hardware.onnx import session

        with session(module, _placed(inputs, device), device.threads) as run:
            yield run
        return
    ready, placed = _prepared(module, device), _placed(inputs, device)
    yield lambda: call(ready, placed)


def clock_of(device: Device) -> Clock:
    """The clock that suits the device."""
    if device.torch_device.type == "cuda":
        from nas.hardware.cuda import CudaClock

        return CudaClock(device.torch_device)
    return OneThreadClock() if device.threads == 1 and resource is not None else CpuClock()


class CpuClock:
    """Wall time around a call."""

    def ready(self, run: Callable[[], Any]) -> Callable[[], Any]:
        """As it is."""
        return run

    def ms(self, run: Callable[[], Any]) -> float:
        """Milliseconds of one call."""
        start = time.perf_counter_ns()
        run()
        return (time.perf_counter_ns() - start) / 1e6

    def facts(self) -> dict[str, str]:
        """Nothing beside the usual."""
        return {}


class OneThreadClock(CpuClock):
    """Wall time around a call that runs in one thread; time on the processor where another process took it in between.

    On a busy machine a call of 5 ms may end after 15, since others had their turns.  The system counts how often a thread had to
    go (an involuntary context switch); such a call is told by the time that the thread itself was at work.  A call that waits of
    its own accord (a lock, a file, another thread) is told by the wall always.
    """

    def ms(self, run: Callable[[], Any]) -> float:
        """Milliseconds of one call."""
        waited, taken = _switches()
        start, start_cpu = time.perf_counter_ns(), time.thread_time_ns()
        run()
        cpu, wall = time.thread_time_ns() - start_cpu, time.perf_counter_ns() - start
        waited_now, taken_now = _switches()
        disturbed = taken_now > taken and waited_now == waited
        return (min(cpu, wall) if disturbed else wall) / 1e6


def _switches() -> tuple[int, int]:
    """How often this thread gave the processor up, and how often it was taken away."""
    used = resource.getrusage(resource.RUSAGE_THREAD)
    return used.ru_nvcsw, used.ru_nivcsw


def timed(
    run: Callable[[], Any], reference: Callable[[], Any], clock: Clock, repeats: int | None, budget_s: float
) -> tuple[list[float], list[float]]:
    """Milliseconds of each run of both, the reference between the runs."""
    run, reference = clock.ready(run), clock.ready(reference)
    start = time.perf_counter()
    warm = 0
    while warm < WARM_UP or time.perf_counter() - start < min(WARM_UP_S, budget_s):
        clock.ms(run)
        clock.ms(reference)
        warm += 1
    times: list[float] = []
    references: list[float] = []
    start = time.perf_counter()
    while len(times) < (repeats or MOST_RUNS):
        if len(times) % REFERENCE_EVERY == 0:
            references.append(clock.ms(reference))
        times.append(clock.ms(run))
        if repeats is None and len(times) >= LEAST_RUNS and time.perf_counter() - start >= budget_s:
            break
    return times, references


def summary(times: Sequence[float], references: Sequence[float] | None, facts: Mapping[str, str]) -> Measured:
    """Median, 10th percentile and interquartile range; noisy when that of the runs or of the reference is large.

    Args:
        times: ms of each run, one or more.
        references: ms of each run of the reference; None where there is none.
        facts: added to the environment.
    """
    p10, p25, median, p75 = (float(value) for value in np.percentile(times, [10, 25, 50, 75]))
    noisy, known = p75 - p25 > NOISY * median, None
    if references is not None:
        low, known, high = (float(value) for value in np.percentile(references, [25, 50, 75]))
        noisy = noisy or high - low > NOISY * known
    load = os.getloadavg()[0]
    return Measured(median, p10, p75 - p25, load, len(times), noisy, known, {**dict(_environment()), **facts})


@functools.cache
def _environment() -> tuple[tuple[str, str], ...]:
    facts = {"torch": str(torch.__version__), "python": platform.python_version(), "cpu": processor()}
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return tuple(facts.items())


@contextlib.contextmanager
def quiet(threads: int) -> Iterator[None]:
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

    def place(value: Tensor) -> Tensor:
        return value.to(device.torch_device, device.torch_dtype if value.is_floating_point() else value.dtype)

    found: Inputs = convert(batched(inputs, device.batch, f"device {device.name!r}"), place)
    return found


def batched(inputs: Inputs, batch: int, whose: str) -> Inputs:
    """One sample repeated to `batch`, or that many samples as they are.

    Raises:
        DeviceError: they are neither, or have no batch.
    """
    size = batch_size(inputs)
    if not has_batch(inputs):
        if batch == 1:
            return inputs
        raise DeviceError(
            f"inputs without a batch cannot be repeated to the batch of {batch} of {whose}; give it batch=1"
        )
    if size not in (1, batch):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in(plain(inputs)))
        raise DeviceError(
            f"inputs of shape {shapes} are not one sample and not the batch of {batch} of {whose}; give one sample"
        )
    found: Inputs = spread(inputs, batch)
    return found
