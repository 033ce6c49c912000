"""Measuring models on hardware.

Device:     Device, devices
Latency:    measure, Measured, Reference
Alone:      exclusive, shared
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nas.hardware.lock import exclusive, shared

if TYPE_CHECKING:
    from nas.hardware.device import Device, devices
    from nas.hardware.latency import Measured, Reference, measure

__all__ = ["Device", "Measured", "Reference", "devices", "exclusive", "measure", "shared"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'nas.hardware' has no attribute {name!r}")
    home = "device" if name in ("Device", "devices") else "latency"  # they import torch, being alone does not
    return getattr(importlib.import_module(f"nas.hardware.{home}"), name)
