"""Worker processes on this machine: spawned, fed and heard through pipes.

Nothing has to be started beforehand.  Workers die with the driver: an idle one sees its pipe close, a busy one is watched by
a thread that looks for its parent.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import signal
import threading
import time
from multiprocessing.connection import Connection, wait
from typing import Any

from nas.errors import RunnerError
from nas.runners.base import Outcome, Task
from nas.runners.pool import KILLED, Member, PoolRunner
from nas.runners.work import Payload, Work, answer, describe


class _Process(Member):
    """A spawned process and the pipe to it."""

    def __init__(self, name: str, payload: Payload, *, send_at_once: bool) -> None:
        super().__init__(name)
        context = mp.get_context("spawn")
        self.connection: Connection[Any, Any]
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, payload, name, os.getpid(), send_at_once), name=f"nas-{name}", daemon=True
        )
        self.process.start()
        theirs.close()

    def _send(self, batch: list[Task]) -> None:
        with contextlib.suppress(OSError):  # it died; `_listen` hears so and gives its tasks to another
            self.connection.send(batch)

    def why(self) -> str:
        self.process.join(1.0)
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"{KILLED} {signal.Signals(-code).name}"
        return f"exit code {code}"

    def kill(self) -> None:
        self.connection.close()
        if self.process.is_alive():
            self.process.kill()
        self.process.join(5.0)


class LocalRunner(PoolRunner[_Process]):
    """Worker processes on this machine."""

    name = "local"

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers, for those who watch them or, in a test, kill them."""
        return [member.process.pid for member in self._members if member.process.pid is not None]

    def _spawn(self, name: str) -> _Process:
        return _Process(name, self._payload, send_at_once=self._limit is not None)

    def _listen(self, timeout: float) -> None:
        members = {member.connection: member for member in self._members}
        for connection in wait(list(members), timeout):
            member = members[connection]  # type: ignore[index]
            try:
                self._hear(member, member.connection.recv())
                while member.connection.poll(0):
                    self._hear(member, member.connection.recv())
            except (EOFError, OSError):
                self._lost(member, member.why())

    def _hear(self, member: _Process, message: str | list[Outcome]) -> None:
        if message == "ready":
            self._is_ready(member)
        elif isinstance(message, str):
            raise RunnerError(f"worker {member.name} cannot load the evaluation: {message}")
        else:
            self._heard(member, message)


def _serve(connection: Connection[Any, Any], payload: Payload, name: str, parent: int, send_at_once: bool) -> None:
    """A worker process's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which stops its workers
    threading.Thread(target=die_with, args=(parent,), daemon=True).start()
    with contextlib.suppress(EOFError, OSError):  # the driver is gone, and so is the reason to go on
        try:
            work = Work(*payload.unpack(), name)
        except Exception as error:
            connection.send(describe(error))
            return
        connection.send("ready")
        answer(connection, work, at_once=send_at_once)


def die_with(parent: int) -> None:
    """End this process when its driver is gone, even in the middle of an evaluation."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
