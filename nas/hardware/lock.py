"""A machine-wide readers-writer lock, so that a latency is measured while nothing else of ours runs.

Two files in a per-user folder of the temporary directory: `room` is held shared by work and exclusively by a
measurement; everybody passes through `gate` first, which a waiting measurement keeps closed: a stream of work cannot
starve it.  The kernel lets go of both when a process dies, however it dies.  Processes of other users, and containers
with their own temporary directory, are not kept out.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nas.errors import DeviceError

WAIT_S = 600.0
_held = threading.local()  # what this thread holds, so that a measurement inside a measurement does not wait for itself


@contextmanager
def exclusive(wait_s: float = WAIT_S) -> Iterator[None]:
    """Inside the block no other `exclusive` or `shared` block runs on this machine.

    Args:
        wait_s: how long to wait for the others.

    Raises:
        DeviceError: they took longer, or this thread is inside a `shared` block.
    """
    with _hold(fcntl.LOCK_EX, wait_s):
        yield


@contextmanager
def shared(wait_s: float = WAIT_S) -> Iterator[None]:
    """Inside the block no `exclusive` block runs on this machine; other `shared` blocks may.

    Raises:
        DeviceError: a measurement took longer than `wait_s`.
    """
    with _hold(fcntl.LOCK_SH, wait_s):
        yield


@contextmanager
def _hold(kind: int, wait_s: float) -> Iterator[None]:
    held = getattr(_held, "kind", None)
    if held is not None:
        if kind == fcntl.LOCK_EX and held == fcntl.LOCK_SH:
            raise DeviceError(
                "exclusive() was asked inside shared() by the same thread and would wait for itself; leave shared() first"
            )
        yield
        return
    gate, room = _descriptors()
    deadline = time.monotonic() + wait_s
    _lock(gate, kind, deadline, wait_s)
    try:
        _lock(room, kind, deadline, wait_s)
    finally:
        fcntl.flock(gate, fcntl.LOCK_UN)
    _held.kind = kind
    try:
        yield
    finally:
        _held.kind = None
        fcntl.flock(room, fcntl.LOCK_UN)


def _descriptors() -> tuple[int, int]:
    """The two files, opened once by each thread of each process: flock tells holders apart by who opened them."""
    owner = (os.getpid(), tempfile.gettempdir())
    if getattr(_held, "owner", None) != owner:
        folder = _folder()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        _held.files = _Files(os.open(folder / "gate", flags, 0o600), os.open(folder / "room", flags, 0o600))
        _held.owner = owner
    files: _Files = _held.files
    return files.gate, files.room


class _Files:
    """Two open files, closed when their thread ends."""

    def __init__(self, gate: int, room: int) -> None:
        self.gate, self.room = gate, room

    def __del__(self) -> None:
        os.close(self.gate)
        os.close(self.room)


def _lock(descriptor: int, kind: int, deadline: float, wait_s: float) -> None:
    pause = 0.0005
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                what = "a measurement" if kind == fcntl.LOCK_SH else "other work"
                raise DeviceError(
                    f"waited {wait_s:g} s for {what} on this machine to end; look for a process that hangs"
                ) from None
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def _folder() -> Path:
    """A folder that only this user can write.

    Raises:
        DeviceError: somebody else owns it.
    """
    folder = Path(tempfile.gettempdir()) / f"supernas-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise DeviceError(f"'{folder}' belongs to another user; remove it, or set TMPDIR to a folder of yours")
    return folder
