"""Tasks and outcomes as JSON over a socket between a driver and a worker on another machine.

No pickle: whoever reaches the port must know the run's key (HMAC, both ways), and could then send numbers, no code.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import fields
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from nas.runners.base import Outcome, Task

_HANDSHAKE_S = 10.0
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
        self._put([[task.number, task.row] for task in tasks])

    def recv(self) -> list[Task]:
        """Tasks, at the worker's end."""
        return [Task(number, tuple(row)) for number, row in self._get()]

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
    """Where a worker waits for its driver."""

    def __init__(self, host: str, key: bytes) -> None:
        self._listener = Listener((host, 0), authkey=key)
        self.address: Any = self._listener.address

    def accept(self) -> Wire:
        """The driver's connection; whoever else comes is sent away."""
        while True:
            try:
                connection: Any = self._listener.accept()
            except (AuthenticationError, EOFError, OSError):
                continue
            self._listener.close()
            return Wire(connection)


def reach(address: tuple[str, int], key: bytes) -> Wire:
    """The connection to a worker's port.

    Raises:
        OSError: nobody answers there.
    """
    socket.create_connection(address, timeout=_HANDSHAKE_S).close()  # `Client` would wait for minutes
    connection: Any = Client((address[0], address[1]), authkey=key)
    return Wire(connection)
