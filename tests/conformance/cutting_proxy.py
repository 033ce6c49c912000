"""A TCP proxy before a server: cuts a connection at the worst moments, just before a commit, or after it and before its answer;
or answers as a server does that is starting up.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Literal


class CuttingProxy:
    """Forwards connections to a local port; use it in a `with` statement.

    Attributes:
        port: where it listens.
        cut: what happens to the connection that says COMMIT next: "before", the server never hears it; "after", the client
            never hears that it was done; None, nothing.
        cuts: how many connections were cut.
        starting: so many connections are told that the server is starting up.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.cut: Literal["before", "after"] | None = None
        self.cuts = self.starting = 0
        self._open: list[socket.socket] = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(self, *exception: object) -> None:
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.starting:
                self.starting -= 1
                _refuse(client)
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # it is down: so is the proxy, to this client
                client.close()
                continue
            self._open += [client, server]
            cutting = threading.Event()
            for source, sink, up in ((client, server, True), (server, client, False)):
                self._threads.append(threading.Thread(target=self._forward, args=(source, sink, up, cutting)))
                self._threads[-1].start()

    def _forward(self, source: socket.socket, sink: socket.socket, up: bool, cutting: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if up and self.cut is not None and b"COMMIT" in data:
                    how, self.cut = self.cut, None
                    self.cuts += 1
                    if how == "before":
                        break
                    cutting.set()
                if cutting.is_set() and not up:
                    break  # the server's answer to COMMIT
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _refuse(client: socket.socket) -> None:
    """Speak PostgreSQL's protocol up to its FATAL."""
    with client:
        if client.recv(1 << 10)[4:8] == _SSL_REQUEST:
            client.sendall(b"N")
            client.recv(1 << 10)
        fields = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"
        client.sendall(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)


_SSL_REQUEST = (80877103).to_bytes(4, "big")
