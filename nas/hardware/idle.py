"""Waiting, for a bounded time, until a machine has room for a measurement.

The load average of a minute is late by a minute, and counts what waits for disks: here the share of time that the processors
were busy is read twice, a moment apart.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

WAIT_S = 60.0
ENOUGH = 0.5  # of the cores busy: with more a latency is likely to be noisy
_LOOK_S = 0.5
_EVERY_S = 2.0

Say = Callable[[str], None]


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy_cores() -> float:
    """How many cores were busy within the last half second; the load of a minute where the system does not tell."""
    first = _times()
    if first is None:
        return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    time.sleep(_LOOK_S)
    second = _times() or first
    idle, whole = second[0] - first[0], second[1] - first[1]
    return (1.0 - idle / whole) * (os.cpu_count() or 1) if whole > 0 else 0.0


def _times() -> tuple[float, float] | None:
    """Idle time and all time of the processors since the start."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            ticks = [float(value) for value in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    return ticks[3] + ticks[4], sum(ticks)


def wait_s(given: float | None) -> float:
    """Seconds to wait: as given, else NAS_WAIT_S of the environment, else a minute."""
    if given is not None:
        return given
    try:
        return max(0.0, float(os.environ.get("NAS_WAIT_S", WAIT_S)))
    except ValueError:
        return WAIT_S


def wait_for_quiet(
    limit_s: float,
    say: Say,
    *,
    how: str = "--wait 0",
    load: Callable[[], float] = busy_cores,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Waits until fewer than half of the cores are busy.

    Args:
        limit_s: the longest wait; 0 does not look at all.
        say: told when the wait begins and how it ends; nothing where the machine is quiet.
        how: to say that nothing is to be waited for.
        load: how many cores are busy.
        clock: in seconds.
        sleep: between two looks.

    Returns:
        whether the machine is quiet, or was not looked at.
    """
    if limit_s <= 0:
        return True
    most = ENOUGH * cores()
    began, found = clock(), load()
    if found < most:
        return True
    say(
        f"the machine is busy ({found:.1f} of {cores()} cores): waiting up to {limit_s:g} s for it to be quiet, since latencies "
        f"would be noisy; {how} measures at once"
    )
    while clock() - began < limit_s:
        sleep(min(_EVERY_S, max(0.0, limit_s - (clock() - began))))
        if load() < most:
            say(f"the machine is quiet after {clock() - began:.0f} s")
            return True
    say(f"the machine is busy still after {limit_s:g} s; latencies that are noisy are marked so")
    return False
