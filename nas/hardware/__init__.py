"""Measuring models on hardware.

Device:     Device, devices
Latency:    measure, Measured, Reference
Alone:      exclusive, shared
"""

from nas.hardware.device import Device, devices
from nas.hardware.lock import exclusive, shared
from nas.hardware.measure import Measured, Reference, measure

__all__ = ["Device", "Measured", "Reference", "devices", "exclusive", "measure", "shared"]
