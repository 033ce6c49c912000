"""Measuring models on hardware.

Device:     Device, parse_device, devices; Command (reads a model file, prints milliseconds), Custom (a function of yours)
Latency:    measure, Measured, Reference, Target, target_of; measure_rounds, Rounds: many modules in turns
Energy:     resources, exposed: energy and memory where the platform exposes them
Alone:      exclusive, shared
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas import lazy
from nas.hardware.lock import exclusive, shared

if TYPE_CHECKING:
    from nas.hardware.device import Device, devices, parse_device
    from nas.hardware.energy import exposed, resources
    from nas.hardware.latency import Measured, Reference, Target, measure, target_of
    from nas.hardware.remote import Command, Custom
    from nas.hardware.rounds import Rounds, measure_rounds

__all__ = [
    "Command",
    "Custom",
    "Device",
    "Measured",
    "Reference",
    "Rounds",
    "Target",
    "devices",
    "exclusive",
    "exposed",
    "measure",
    "measure_rounds",
    "parse_device",
    "resources",
    "shared",
    "target_of",
]

# What imports torch is imported when it is used; being alone does not need it.
_HOME = {
    **dict.fromkeys(("Device", "devices", "parse_device"), "nas.hardware.device"),
    **dict.fromkeys(("Measured", "Reference", "Target", "measure", "target_of"), "nas.hardware.latency"),
    **dict.fromkeys(("Command", "Custom"), "nas.hardware.remote"),
    **dict.fromkeys(("Rounds", "measure_rounds"), "nas.hardware.rounds"),
    **dict.fromkeys(("exposed", "resources"), "nas.hardware.energy"),
}

if not TYPE_CHECKING:
    __getattr__ = lazy.names(__name__, _HOME)
