"""Tasks and outcomes as JSON over a socket between a driver and a worker on another machine.

No pickle: whoever reaches the port must know the run's key (HMAC, both ways), and could then send numbers, no code.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import fields
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from queue import SimpleQueue
from typing import Any

from nas.runners.base import Outcome, Task

_HANDSHAKE_S = 10.0
_PAUSE_S = 0.05
_FIELDS = tuple(field.name for field in fields(Outcome))


class Wire:
    """One end of the connection."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        with socket.socket(fileno=socket.dup(connection.fileno())) as end:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # the second of two messages must not wait
            end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def fileno(self) -> int:
        """For `multiprocessing.connection.wait`."""
        return self._connection.fileno()

    def poll(self, timeout: float = 0.0) -> bool:
        """Whether there is something to receive."""
        return self._connection.poll(timeout)

    def close(self) -> None:
        """End it; the other end sees that."""
        self._connection.close()

    def give(self, tasks: Sequence[Task]) -> None:
        """Send tasks, from the driver's end."""
        self._put([[task.number, task.row, task.far] for task in tasks])

    def recv(self) -> list[Task]:
        """Tasks, at the worker's end."""
        return [Task(number, tuple(row), far) for number, row, far in self._get()]

    def send(self, outcomes: Sequence[Outcome]) -> None:
        """Send outcomes, from the worker's end."""
        self._put([[getattr(outcome, name) for name in _FIELDS] for outcome in outcomes])

    def outcomes(self) -> list[Outcome]:
        """Outcomes, at the driver's end."""
        return [Outcome(*values) for values in self._get()]

    def _put(self, message: Any) -> None:
        self._connection.send_bytes(json.dumps(message, default=_plain).encode())

    def _get(self) -> Any:
        return json.loads(self._connection.recv_bytes())


def _plain(value: Any) -> Any:
    """Numbers of numpy and torch, which evaluators may give, as Python's."""
    return value.item()


class Port:
    """Where a worker waits for its driver.  Whoever else comes is sent away, and keeps nobody waiting meanwhile."""

    def __init__(self, host: str, key: bytes) -> None:
        self._listener = socket.create_server((host, 0))
        self._key = key
        self._found: SimpleQueue[Wire] = SimpleQueue()
        self.address: Any = self._listener.getsockname()[:2]

    def accept(self) -> Wire:
        """The driver's connection."""
        threading.Thread(target=self._listen, daemon=True).start()
        wire = self._found.get()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # so that `_listen` ends
        self._listener.close()
        return wire

    def _listen(self) -> None:
        while self._listener.fileno() != -1:
            try:
                end, _ = self._listener.accept()
            except OSError:
                time.sleep(_PAUSE_S)  # it is closed, or there are more strangers than this process may have files
            else:
                threading.Thread(target=self._ask, args=(end,), daemon=True).start()

    def _ask(self, end: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError, AuthenticationError):
            self._found.put(_proven(end, self._key, asks=True))


def reach(address: tuple[str, int], key: bytes) -> Wire:
    """The connection to a worker's port.

    Raises:
        OSError: nobody answers there, or not in time.
        EOFError: the connection was closed.
        AuthenticationError: who answers does not know the key.
    """
    end = socket.create_connection(address, timeout=_HANDSHAKE_S)
    end.settimeout(None)
    return _proven(end, key, asks=False)


def _proven(end: socket.socket, key: bytes, *, asks: bool) -> Wire:
    """The connection, once both ends have shown that they know the key: the worker's end asks first.

    It ends when that takes longer than `_HANDSHAKE_S` in all, however many bytes have come.
    """
    connection: Connection[Any, Any] = Connection(end.detach())
    with socket.socket(fileno=os.dup(connection.fileno())) as watched:
        timer = threading.Timer(_HANDSHAKE_S, _cut, [watched])
        timer.daemon = True
        timer.start()
        try:
            for step in (deliver_challenge, answer_challenge)[:: 1 if asks else -1]:
                step(connection, key)
        except (OSError, EOFError, AuthenticationError):
            connection.close()
            raise
        except Exception as error:  # what is no message of this protocol
            connection.close()
            raise AuthenticationError(f"the answer was none: {type(error).__name__}") from error
        finally:
            timer.cancel()
    return Wire(connection)


def _cut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
