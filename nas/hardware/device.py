"""A device: the machine's part that runs a model, and how it runs it."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from nas.checking import Count, checked
from nas.errors import DeviceError, suggest

Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]
Runtime: TypeAlias = Literal["torch", "onnx"]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_KIND = re.compile(r"cpu|cuda(:\d+)?")


@checked(DeviceError)
@dataclass(frozen=True)
class Device:
    """Where and how a latency is measured; two devices that differ in anything give figures that do not compare.

    A device may be described on a machine that does not have it; `check` says whether this one does.

    Args:
        name: "cpu", "cuda" or "cuda:1".
        threads: of the CPU; 1 because more on a shared machine measure the neighbours.
        batch: samples a call.
        dtype: of weights and floating inputs.
        runtime: "torch" runs the module itself; "onnx" exports it and runs it in onnxruntime (CPU, float32; extra `onnx`).

    Raises:
        DeviceError: no such kind of device, or a number that is not positive.
    """

    name: str = "cpu"
    threads: Count = 1
    batch: Count = 1
    dtype: Precision = "float32"
    runtime: Runtime = "torch"

    def __post_init__(self) -> None:
        if not _KIND.fullmatch(self.name):
            raise DeviceError(
                f"device {self.name!r} is not 'cpu', 'cuda' or 'cuda:N'{suggest(self.name, ('cpu', 'cuda'))}"
            )
        if self.runtime == "onnx" and (self.name != "cpu" or self.dtype != "float32"):
            raise DeviceError(
                f"runtime 'onnx' runs float32 on the cpu, not {self.dtype} on {self.name!r}; use runtime 'torch' for that"
            )

    @property
    def label(self) -> str:
        """As the command line takes it, what is usual left out: "cpu", "cpu,threads=2,runtime=onnx"."""
        usual = Device()
        options = [(name, getattr(self, name)) for name in ("threads", "batch", "dtype", "runtime")]
        return ",".join([self.name, *(f"{name}={value}" for name, value in options if value != getattr(usual, name))])

    @property
    def key(self) -> str:
        """Name in a database: the label and the processor, because figures of two processors do not compare."""
        return f"{self.label}@{machine(self.name)}"

    def describe(self) -> dict[str, Any]:
        """JSON-able: all that a figure depends on."""
        return {**vars(self), "machine": machine(self.name)}

    @property
    def torch_device(self) -> torch.device:
        """As torch names it."""
        return torch.device(self.name)

    @property
    def torch_dtype(self) -> torch.dtype:
        """As torch names it."""
        return _DTYPES[self.dtype]

    def check(self) -> None:
        """Whether this machine has the device.

        Raises:
            DeviceError: it has not, and which it has.
        """
        there = devices()
        if self.name not in there and not (self.name == "cuda" and len(there) > 1):
            raise DeviceError(f"device {self.name!r} is not there; this machine has {', '.join(there)}")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if self.threads > cores:
            raise DeviceError(
                f"threads={self.threads} on a machine with {cores} cores for this process; choose 1 to {cores}"
            )


@dataclass(frozen=True)
class Elsewhere:
    """A device of a database by its name, whose figures are read and which nothing is measured on."""

    key: str
    description: Mapping[str, Any]

    @property
    def label(self) -> str:
        """The name."""
        return self.key

    def describe(self) -> dict[str, Any]:
        """As stored."""
        return dict(self.description)

    def check(self) -> None:
        """Raises `DeviceError`: it cannot be reached."""
        raise DeviceError(f"device {self.key!r} is known by its figures alone; name how it is measured")


@checked(DeviceError)
def parse_device(text: str) -> Device:
    """A device from its label: "cpu", "cuda:1", "cpu,threads=2,batch=8,dtype=bfloat16,runtime=onnx".

    Raises:
        DeviceError: it is no such label.
    """
    name, *options = [part.strip() for part in text.split(",")]
    known: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if key not in _OPTIONS or not equals:
            raise DeviceError(
                f"option {option!r} of device {text!r} is not known{suggest(key, _OPTIONS)}; "
                f"write {', '.join(f'{one}=…' for one in _OPTIONS)}"
            )
        known[key] = int(value) if key in ("threads", "batch") and value.isdigit() else value
    return Device(name, **known)


_OPTIONS = ("threads", "batch", "dtype", "runtime")


@functools.cache
def machine(name: str = "cpu") -> str:
    """The processor that a device of that name is here, in lower case letters, digits and hyphens."""
    if name.startswith("cuda") and torch.cuda.is_available():
        found = torch.cuda.get_device_name(torch.device(name))
    else:
        found = processor()
    return re.sub(r"[^a-z0-9]+", "-", found.lower().replace("(r)", "").replace("(tm)", "")).strip("-") or "unknown"


def processor() -> str:
    """Name of the CPU."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def devices() -> list[str]:
    """Names of the devices of this machine: "cpu", "cuda:0", …"""
    return ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
