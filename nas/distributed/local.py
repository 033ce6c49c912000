"""Ranks as processes of this machine: spawned, joined through a file, over the loopback."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from nas import signals
from nas.distributed.work import Order, make_steps
from nas.runners import guard
from nas.runners.local import quiet_tracker

LOST, FAILED = 3, 4  # exit codes: another rank is gone; this one cannot go on
_TELLING_S = 0.5
_END_S = 10.0


class Local:
    """One attempt after the other, each with `workers` new processes.

    Args:
        order: what they are told.
        workers: their number.
        device: "cpu", or "cuda" for a GPU each.
    """

    def __init__(self, order: Order, workers: int, device: str) -> None:
        self._order, self._workers, self._device = order, workers, device
        self._processes: list[Any] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def pids(self) -> list[int]:
        """Of the ranks, in their order."""
        return [process.pid for process in self._processes]

    def start(self, say: Callable[[str], None]) -> None:  # noqa: ARG002
        """Start the ranks of an attempt."""
        self._folder = tempfile.TemporaryDirectory(prefix="nas-ranks-")
        meeting = str(Path(self._folder.name) / "meeting")
        context = mp.get_context("spawn")
        for rank in range(self._workers):
            device = f"cuda:{rank}" if self._device == "cuda" else self._device
            given = (self._order, Place(rank, self._workers, meeting, device), guard.identity())
            process = context.Process(target=_serve, args=given, name=f"nas-rank-{rank}")
            with quiet_tracker():
                process.start()
            self._processes.append(process)

    def poll(self, timeout: float) -> str | None:
        """None while they work; then "" when all ended well, or how one did not."""
        running = [process for process in self._processes if process.exitcode is None]
        wait([process.sentinel for process in running], timeout)
        if all(process.exitcode is None or process.exitcode == 0 for process in self._processes):
            return None if any(process.exitcode is None for process in self._processes) else ""
        wait([process.sentinel for process in running], _TELLING_S)  # the first to end may not be the one to blame
        codes = {rank: process.exitcode for rank, process in enumerate(self._processes) if process.exitcode}
        told = {rank: code for rank, code in codes.items() if code != LOST} or codes
        return ", ".join(f"process {rank} {_ended(code)}" for rank, code in told.items())

    def stop(self) -> None:
        """End what still runs."""
        guard.end([guard.identity(process.pid) for process in self._processes if process.is_alive()])
        for process in self._processes:
            process.join(_END_S)
        self._processes.clear()
        if self._folder is not None:
            self._folder.cleanup()


def _ended(code: int) -> str:
    if code == LOST:
        return "lost its connection to another"
    if code == 1:
        return "died while starting (a script must call run() under if __name__ == '__main__':)"
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


@dataclass(frozen=True)
class Place:
    """A rank's place among all: its number, how many there are, the file where they meet, its device."""

    rank: int
    size: int
    meeting: str
    device: str


def _serve(order: Order, place: Place, driver: str) -> None:
    """A rank's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which leaves a request to stop
    guard.lead(driver)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # names of machines need not resolve
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # how the connection to a dead peer looked is no news
    import torch
    from torch import distributed

    from nas.train.ranks import PeerLost

    if place.device != "cpu":
        torch.cuda.set_device(place.device)
    try:
        backend = "gloo" if place.device == "cpu" else "cpu:gloo,cuda:nccl"
        meeting = f"file://{place.meeting}"
        distributed.init_process_group(backend, init_method=meeting, rank=place.rank, world_size=place.size)
        with signals.raising():
            make_steps(order, place.device)
    except KeyboardInterrupt:
        pass  # as the driver wished
    except PeerLost:
        os._exit(LOST)
    except BaseException:
        os._exit(FAILED)  # why is in the folder; nobody waits for what the group still has in flight
    distributed.destroy_process_group()
