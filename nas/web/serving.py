"""Serving the application: where it binds, and who must show a token for it."""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nas.errors import NasError

LEAST_TOKEN = 16


@dataclass(frozen=True)
class Serving:
    """How a server is started.

    Args:
        store: database URL or path.
        host: address to bind to; any but this machine's own needs a token.
        port: of it; 0 takes a free one.
        token: file with the token, readable by its owner alone.
        jobs: folder of job files.
        state: folder for what jobs print and the files of networks; `.serve` in the jobs folder unless given.
        read_only: refuse every write.
        prefix: of the path, where a proxy does not take it away.
    """

    store: str
    host: str = "127.0.0.1"
    port: int = 8017
    token: Path | None = None
    jobs: Path | None = None
    state: Path | None = None
    read_only: bool = False
    prefix: str = ""


def run(serving: Serving, said: Callable[[str], None] = lambda _: None) -> None:
    """Serve until a signal ends it.

    Args:
        serving: how.
        said: called with the address when the server listens.

    Raises:
        NasError: the database, the token or the folder cannot be used, or the address cannot be bound to.
    """
    import uvicorn

    from nas.web.app import create_app

    token, prefix = token_of(serving), checked_prefix(serving.prefix)
    listening = bound(serving.host, serving.port)
    try:
        app = create_app(
            serving.store,
            jobs=serving.jobs,
            folder=serving.state,
            token=token,
            read_only=serving.read_only,
            prefix=prefix,
        )
    except BaseException:
        listening.close()
        raise
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=2,
        limit_concurrency=1000,
        h11_max_incomplete_event_size=64 * 1024,
        server_header=False,
        proxy_headers=False,
        loop="asyncio",
        http="h11",
    )
    host, port = listening.getsockname()[:2]
    said(f"http://{f'[{host}]' if ':' in host else host}:{port}{prefix}/")
    uvicorn.Server(config).run(sockets=[listening])


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        NasError: it cannot be bound to.
    """
    if not 0 <= port <= 65535:
        raise NasError(f"port {port} is none; give 1 to 65535, or 0 for a free one")
    one = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        one = socket.socket(found[0], found[1])
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(found[4])
        one.listen(512)
    except (OSError, UnicodeError) as error:
        if one is not None:
            one.close()
        why = getattr(error, "strerror", None) or error
        raise NasError(f"{host}:{port} cannot be bound to ({why}); give another --host or --port") from None
    return one


def token_of(serving: Serving) -> str | None:
    """The token of the file; None where only this machine reaches the server and no file was given.

    Raises:
        NasError: another machine could reach it and there is none, or others could read the file.
    """
    if serving.token is None:
        if is_loopback(serving.host):
            return None
        raise NasError(
            f"host {serving.host!r} is reached by other machines, so a token is needed: write one to a file that only you can "
            f"read (umask 077; python -c 'import secrets; print(secrets.token_urlsafe())' > token) and give --token token"
        )
    path = serving.token
    try:
        mode = os.stat(path).st_mode
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NasError(
            f"token file {str(path)!r} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}"
        ) from None
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise NasError(f"token file {str(path)!r} can be read by others (mode {stat.S_IMODE(mode):o}); chmod 600 it")
    if len(text) < LEAST_TOKEN or not text.isascii() or not text.isprintable() or " " in text:
        raise NasError(
            f"token file {str(path)!r} holds no token, which has {LEAST_TOKEN} or more letters and digits in one line: "
            "python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return text


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def checked_prefix(prefix: str) -> str:
    """The prefix as it is put before paths.

    Raises:
        NasError: it is none.
    """
    bare = prefix.rstrip("/")
    letters = bare.replace("/", "").replace("-", "").replace("_", "").replace(".", "")
    if bare and (
        not bare.startswith("/") or not (letters.isascii() and letters.isalnum()) or "//" in bare or ".." in bare
    ):
        raise NasError(f"prefix {prefix!r} is no path; give one as '/nas'")
    return bare
