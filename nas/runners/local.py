"""Worker processes on this machine: spawned, fed and heard through pipes.

Nothing has to be started beforehand.  Workers are no daemons of Python's, so that evaluators may start processes of their
own; a guard (`nas.runners.guard`) ends a worker with its driver, and what a worker has started with the worker.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from nas import signals
from nas.errors import RunnerError
from nas.failures import describe
from nas.runners import guard
from nas.runners.base import Outcome, Task
from nas.runners.pool import KILLED, Member, PoolRunner
from nas.runners.work import Payload, Work, answer


class _Process(Member):
    """A spawned process and the pipe to it."""

    def __init__(self, name: str, payload: Payload, *, send_at_once: bool) -> None:
        super().__init__(name)
        context = mp.get_context("spawn")
        self.connection: Connection[Any, Any]
        self.connection, theirs = context.Pipe()
        given = (theirs, payload, name, guard.identity(), send_at_once)
        # To the driver a daemon: Python does not wait for it at the driver's end.
        self.process = context.Process(target=_serve, args=given, name=f"nas-{name}", daemon=True)
        with quiet_tracker():
            self.process.start()
        theirs.close()
        assert self.process.pid is not None
        self.identity = guard.identity(self.process.pid)

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
        guard.end([self.identity])  # one that has died has left children, perhaps
        self.process.join(5.0)


class LocalRunner(PoolRunner[_Process]):
    """Worker processes on this machine."""

    name = "local"

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers, for those who watch them or, in a test, kill them."""
        return [member.process.pid for member in self._members if member.process.pid is not None]

    def launch(self) -> None:
        """Start all workers at once."""
        if mp.current_process().daemon:
            raise RunnerError(
                "this process is a daemon, as those of a multiprocessing.Pool are, and may start no workers; use workers=0, "
                "or start it as a process that is no daemon"
            )
        super().launch()

    def close(self) -> None:
        """Kill the workers, and what they have started."""
        guard.end([member.identity for member in self._members])
        super().close()

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


def _serve(connection: Connection[Any, Any], payload: Payload, name: str, driver: str, send_at_once: bool) -> None:
    """A worker process's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which stops its workers
    signals.leave()
    mp.current_process().daemon = False  # daemons may have no children
    guard.lead(driver)
    with contextlib.suppress(EOFError, OSError):  # the driver is gone, and so is the reason to go on
        try:
            work = Work(*payload.unpack(), name)
        except BaseException as error:
            connection.send(describe(error))
            return
        connection.send("ready")
        answer(connection, work, at_once=send_at_once)
    os._exit(0)  # Python would wait for what evaluators have left running, which the guard ends


@contextlib.contextmanager
def quiet_tracker() -> Iterator[None]:
    """Python's tracker of semaphores, which starts with the first process, does not warn of those that a killed one leaves.

    Nor does it die, loudly, when the driver's terminal closes.
    """
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [before, "ignore:resource_tracker"]))
    try:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])  # which the tracker inherits
        try:
            resource_tracker.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        yield
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before
