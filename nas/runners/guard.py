"""A worker's guard: the worker ends with its driver, and everything that it has started ends with the worker.

A process of its own, this very file run as a program of the standard library alone: a worker may be killed, or busy in code
that lets no thread of it run, and then cannot end what it has started.  Processes are told by their group and session, by a
mark in their environment that children inherit (one that begins a session of its own has it as well), and by their parents.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Collection, Iterable
from typing import NamedTuple

_MARK = "NAS_WORKERS"  # identities of the workers, one inside the other, that a process was started by
_LOOK_S = 0.5  # where the system does not tell when a process ends
_ROUNDS, _ROUND_S = 100, 0.02
# Helpers of libraries that end by themselves, once they have removed what their killed users left in shared memory.
_CLEANERS = (b"multiprocessing.resource_tracker", b"torch_shm_manager")


class _Process(NamedTuple):
    parent: int
    group: int
    session: int
    start: str


def start_of(pid: int) -> str:
    """Start time of a process in clock ticks since boot, `"0"` where the system does not tell, `""` when it is not there."""
    try:
        found = _read(pid)
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return ""
    except OSError:
        pass
    else:
        return found.start if found is not None else ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass  # it runs, as another user
    return "0"


def identity(pid: int | None = None) -> str:
    """`pid/start` of a process, this one unless given: no later process has the same."""
    pid = os.getpid() if pid is None else pid
    return f"{pid}/{start_of(pid)}"


def lead(driver: str | None = None) -> None:
    """Begin a worker's life in this process: from now on what it starts ends with it.

    Args:
        driver: identity of the process that it ends with; None where somebody else sees to that.
    """
    import subprocess
    from multiprocessing.spawn import get_executable

    with contextlib.suppress(OSError):  # it leads a group already, as Ray's workers do
        os.setsid()  # signals of the terminal are for the driver
    program = [os.fsdecode(get_executable()), "-I", "-S", os.path.abspath(__file__), identity(), driver or ""]
    none = subprocess.DEVNULL
    environment = {name: value for name, value in os.environ.items() if name != _MARK}  # it belongs to no worker
    subprocess.run(
        program, check=False, stdin=none, stdout=none, stderr=none, cwd="/", env=environment, start_new_session=True
    )
    os.environ[_MARK] = " ".join(filter(None, [os.environ.get(_MARK), identity()]))


def end(workers: Iterable[str]) -> None:
    """Kill the workers of these identities and what they have started; what is gone already is fine."""
    alive = [worker for worker in workers if not worker.endswith("/")]  # it was gone when it was asked who it is
    found = _families(alive) | {pid for pid, start in map(_parted, alive) if start_of(pid) == start}
    if not _has_proc():
        for pid in found:
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
    for _ in range(_ROUNDS):
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        found = _families(alive)
        if not found:
            return
        time.sleep(_ROUND_S)  # until they are gone; what they had started meanwhile is found now


def _families(workers: Collection[str]) -> set[int]:
    """Living processes that were started by these workers, or by such a process; without the workers themselves."""
    processes = _processes() if workers and _has_proc() else {}
    leaders = dict(map(_parted, workers))
    # A number is given to another process only when no group or session of that number is left.
    leaders = {pid: start for pid, start in leaders.items() if pid not in processes or processes[pid].start == start}
    found = {
        pid
        for pid, process in processes.items()
        if not leaders.keys().isdisjoint((process.parent, process.group, process.session))
        or not _marks(pid).isdisjoint(workers)
    }
    while more := {pid for pid, process in processes.items() if process.parent in found} - found:
        found |= more
    return {pid for pid in found - leaders.keys() - {os.getpid()} if not _is_cleaner(pid)}


def _parted(worker: str) -> tuple[int, str]:
    pid, start = worker.split("/")
    return int(pid), start


def _processes() -> dict[int, _Process]:
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                process = _read(int(name))
                if process is not None:
                    found[int(name)] = process
    return found


def _read(pid: int) -> _Process | None:
    """What the system says of a process; None of one that has ended and that nobody has waited for."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return None if fields[0] in ("Z", "X") else _Process(int(fields[1]), int(fields[2]), int(fields[3]), fields[19])


def _marks(pid: int) -> set[str]:
    """Of the workers inside which a process was started; of another user's none."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return set()
    name = f"{_MARK}=".encode()
    return {mark for one in variables if one.startswith(name) for mark in one[len(name) :].decode().split()}


def _is_cleaner(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            line = file.read()
    except OSError:
        return False
    return any(name in line for name in _CLEANERS)


def _has_proc() -> bool:
    return os.path.isdir("/proc/self")


def _await_any(processes: Iterable[str]) -> None:
    """Wait until one of these is gone."""
    watched = dict(map(_parted, processes))
    files = []
    with contextlib.suppress(OSError, AttributeError):  # one is gone, or this system has no such files
        files = [os.pidfd_open(pid) for pid in watched]
    while all(start_of(pid) == start for pid, start in watched.items()):
        if files:
            select.select(files, [], [])  # readable when it ends
        else:
            time.sleep(_LOOK_S)


def _guard(worker: str, driver: str) -> None:
    """The program."""
    if os.fork():
        os._exit(0)  # whoever waits for the worker's children must not wait for this one
    _await_any([one for one in (worker, driver) if one])
    end([worker])


if __name__ == "__main__":
    _guard(*sys.argv[1:])
