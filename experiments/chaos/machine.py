"""The processes of this machine: whose they are, and what may be done to them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

#: Every process of a scenario inherits this variable, so that none can hide.
TAG = "NAS_CHAOS"


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat behind the name: state, parent, …; empty when there is no such process, or only its zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()
    except OSError:
        return []
    return [] if fields[0] in ("Z", "X") else fields


def pids() -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            yield int(entry.name)


def parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def tagged(tag: str) -> list[int]:
    """Processes that run and have this tag in the environment that they were started with."""
    wanted = f"{TAG}={tag}\0".encode()
    found = []
    for pid in pids():
        if pid == os.getpid():
            continue
        with suppress(OSError):
            if wanted in Path(f"/proc/{pid}/environ").read_bytes() + b"\0" and _stat(pid):
                found.append(pid)
    return sorted(found)


def workers(tag: str) -> list[int]:
    """Processes that evaluate: spawned by a driver, actors of Ray, ranks of a training."""
    return [pid for pid in tagged(tag) if is_worker(command(pid))]


def is_worker(line: str) -> bool:
    if "resource_tracker" in line:
        return False
    return "--multiprocessing-fork" in line or line.startswith(("ray::_Worker", "ray::Candidate", "ray::ImplicitFunc"))


def others(tag: str) -> list[int]:
    """Processes other than Ray's own agents, which end by themselves a minute after their node was killed."""
    return [pid for pid in tagged(tag) if not is_agent(command(pid))]


def is_agent(line: str) -> bool:
    return line.startswith(("ray::DashboardAgent", "ray::RuntimeEnvAgent"))


def raylets(tag: str) -> list[int]:
    return [pid for pid in tagged(tag) if command(pid).split(" ", 1)[0].endswith("/raylet")]


def send(pid: int, number: signal.Signals) -> bool:
    """Whether the process was there to get the signal."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def wait_until(done: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true within the time."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
