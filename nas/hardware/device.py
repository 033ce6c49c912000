"""A device: the machine's part that runs a model, and how it runs it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from nas.errors import DeviceError, suggest

Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_KIND = re.compile(r"cpu|cuda(:\d+)?")


@dataclass(frozen=True)
class Device:
    """Where and how a latency is measured; two devices that differ in anything give figures that do not compare.

    A device may be described on a machine that does not have it; `check` says whether this one does.

    Args:
        name: "cpu", "cuda" or "cuda:1".
        threads: of the CPU; 1 because more on a shared machine measure the neighbours.
        batch: samples a call.
        dtype: of weights and floating inputs.

    Raises:
        DeviceError: no such kind of device, or a number that is not positive.
    """

    name: str = "cpu"
    threads: int = 1
    batch: int = 1
    dtype: Precision = "float32"

    def __post_init__(self) -> None:
        if not _KIND.fullmatch(self.name):
            raise DeviceError(
                f"device {self.name!r} is not 'cpu', 'cuda' or 'cuda:N'{suggest(self.name, ('cpu', 'cuda'))}"
            )
        for label, value in (("threads", self.threads), ("batch", self.batch)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise DeviceError(f"device {self.name!r} has {label}={value!r}; it is a whole number of 1 or more")
        if self.dtype not in _DTYPES:
            raise DeviceError(f"dtype {self.dtype!r} is not one of {', '.join(_DTYPES)}{suggest(self.dtype, _DTYPES)}")

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


def devices() -> list[str]:
    """Names of the devices of this machine: "cpu", "cuda:0", …"""
    return ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
