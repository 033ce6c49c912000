"""What the containers run: one role each, and one health check each.

    entry.py migrate               bring the database to this version's schema
    entry.py head                  the head of the Ray cluster; evaluates nothing itself
    entry.py worker                a node of the cluster, with this container's processors and GPUs
    entry.py web [OPTIONS]         `nas serve OPTIONS` for other machines, with the token of NAS_WEB_TOKEN_PATH
    entry.py run JOB [OPTIONS]     `nas run JOB --ray OPTIONS` from a node of its own, which leaves with it
    entry.py nas ...               any other command of `nas`
    entry.py health PART [PART]      store, head, web, worker or runner: this container's node

Settings are the environment's: NAS_STORE (an address without password), NAS_PASSWORD_FILE, RAY_ADDRESS (host:port of the
head), RAY_AUTH_MODE=token, RAY_AUTH_TOKEN_PATH, NAS_CPUS and NAS_GPUS of a worker.  Secrets stay in files: neither the
environment nor a command line of any process shows one.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

JOIN_S = 120.0
_WEB_PORT = "8017"
_OBJECT_STORE_BYTES = 100 * 2**20  # weights are mapped from files; only tasks and outcomes travel


class EntryError(Exception):
    """A setting or a part of the cluster is missing; the message says which."""


def main(arguments: Sequence[str]) -> int:
    """Run a role; the exit code: 0, that of the command, or 2 with one sentence on standard error."""
    roles: dict[str, Callable[[Sequence[str]], int]] = {
        "migrate": lambda _: _replaced("nas", "db", "upgrade"),
        "head": _head,
        "worker": _worker,
        "web": _web,
        "run": _run,
        "nas": lambda rest: _replaced("nas", *rest),
        "health": _health,
    }
    try:
        if not arguments or arguments[0] not in roles:
            raise EntryError(f"role {' '.join(arguments[:1])!r} is not one of {', '.join(roles)}")
        return roles[arguments[0]](arguments[1:])
    except EntryError as error:
        sys.stderr.write(f"entry: {error}\n")
        return 2


# -- settings and secrets -----------------------------------------------------------------------------------------------


def with_password(environment: Mapping[str, str], folder: Path | None = None) -> dict[str, str]:
    """The environment with PGPASSFILE, a file only this user reads, made of the secret that NAS_PASSWORD_FILE names.

    libpq ignores password files that others may read, and mounted secrets may be; so it gets a copy.

    Raises:
        EntryError: the address holds a password itself, or the secret is not there or is empty.
    """
    found = dict(environment)
    if urlsplit(found.get("NAS_STORE", "")).password is not None:
        raise EntryError("NAS_STORE holds a password; write it to a file and name that in NAS_PASSWORD_FILE")
    if "NAS_PASSWORD_FILE" not in found:
        return found
    password = _secret(found["NAS_PASSWORD_FILE"]).replace("\\", "\\\\").replace(":", "\\:")
    handle, path = tempfile.mkstemp(prefix="pgpass-", dir=folder)  # mode 0600
    with open(handle, "w", encoding="utf-8") as file:
        file.write(f"*:*:*:*:{password}\n")
    found["PGPASSFILE"] = path
    return found


def _secret(path: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8").strip("\n")
    except OSError as error:
        raise EntryError(f"secret {path!r} cannot be read ({error.strerror}); see docker/README.md") from None
    if not text:
        raise EntryError(f"secret {path!r} is empty; see docker/README.md")
    return text


def _setting(name: str, what: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise EntryError(f"{name} is not set; give {what}")
    return value


def _check_token() -> None:
    """A Ray node without a token would make one of its own, and one whose token is off would let anybody in."""
    if os.environ.get("RAY_AUTH_MODE") != "token":
        raise EntryError("RAY_AUTH_MODE is not 'token', so that anybody who reaches the head may run code; set it")
    if "RAY_AUTH_TOKEN" in os.environ:
        raise EntryError(
            "RAY_AUTH_TOKEN holds the token itself; write it to a file and name that in RAY_AUTH_TOKEN_PATH"
        )
    if len(_secret(_setting("RAY_AUTH_TOKEN_PATH", "the file that holds the cluster's token"))) < 32:
        raise EntryError("the token in RAY_AUTH_TOKEN_PATH is shorter than 32 letters; make one with docker/secrets.sh")


def _program(name: str) -> str:
    """A program of this Python's environment, whatever PATH says."""
    return str(Path(sys.executable).with_name(name))


def _replaced(name: str, *arguments: str) -> int:
    """Go on as this program, in this process, so that it gets the container's signals."""
    environment = with_password(os.environ)
    sys.stdout.flush()
    os.execve(_program(name), [name, *arguments], environment)


# -- roles --------------------------------------------------------------------------------------------------------------


def _address() -> str:
    address = _setting("RAY_ADDRESS", "host:port of the Ray head")
    if not address.rpartition(":")[2].isdigit() or ":" not in address:
        raise EntryError(f"RAY_ADDRESS is {address!r}; give host:port of the Ray head, as in 'head:6379'")
    return address


def _ray_start(*arguments: str) -> list[str]:
    """The command of a node that stays in the foreground and ends with any of its processes."""
    common = ["--block", "--disable-usage-stats", f"--object-store-memory={_OBJECT_STORE_BYTES}"]
    return [_program("ray"), "start", *arguments, *common]


def _head(_: Sequence[str]) -> int:
    host, port = _host_and_port(_address())
    _check_token()
    # It listens where others will look for it, and has no processors to offer, so that nothing is evaluated beside it.
    where = f"--node-ip-address={socket.gethostbyname(host)}"
    command = _ray_start("--head", where, f"--port={port}", "--num-cpus=0", "--include-dashboard=false")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    os.execve(command[0], command, environment)


def _web(arguments: Sequence[str]) -> int:
    """The server; `nas serve` refuses a token that others may read, as a mounted secret may be, so that it gets a copy."""
    token = _secret(_setting("NAS_WEB_TOKEN_PATH", "the file that holds the server's token"))
    handle, path = tempfile.mkstemp(prefix="token-")  # mode 0600
    with open(handle, "w", encoding="utf-8") as file:
        file.write(token)
    where = ["--host", "0.0.0.0", "--port", _amount("NAS_WEB_PORT", _WEB_PORT), "--token", path]
    return _replaced("nas", "serve", *where, *arguments)


def _worker(_: Sequence[str]) -> int:
    command = _node("worker", _amount("NAS_CPUS", str(os.cpu_count() or 1)), _amount("NAS_GPUS", "0"))
    os.execve(command[0], command, os.environ)


def _amount(name: str, default: str) -> str:
    value = os.environ.get(name) or default
    if not value.isdigit():
        raise EntryError(f"{name} is {value!r}; give a whole number")
    return value


def _node(role: str, cpus: str, gpus: str) -> list[str]:
    address = _address()
    _check_token()
    return _ray_start(f"--address={address}", f"--node-name={_name(role)}", f"--num-cpus={cpus}", f"--num-gpus={gpus}")


def _name(role: str) -> str:
    """Of this container's node: containers have host names of their own, the nodes of one machine have not."""
    return f"{role}@{socket.gethostname()}"


def _run(arguments: Sequence[str]) -> int:
    """A search; its driver needs a node on its own machine, which it gives nothing to evaluate."""
    if not arguments:
        raise EntryError("role 'run' needs a job, as in: run jobs/digits.py --workers 4")
    environment = with_password(os.environ)
    node = subprocess.Popen(_node("runner", "0", "0"), start_new_session=True)
    search: subprocess.Popen[bytes] | None = None

    def forward(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        """The search gives its trials back and ends with code 128 + number."""
        if search is None:
            raise SystemExit(128 + number)
        search.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)
    try:
        _wait_for_node(node)
        search = subprocess.Popen([_program("nas"), "run", *arguments, "--ray"], env=environment)
        return search.wait()
    finally:
        node.terminate()
        try:
            node.wait(30)
        except subprocess.TimeoutExpired:
            node.kill()
        if "PGPASSFILE" in environment and "NAS_PASSWORD_FILE" in environment:
            Path(environment["PGPASSFILE"]).unlink(missing_ok=True)


def _wait_for_node(node: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + JOIN_S
    while _name("runner") not in _nodes(waiting=True):
        if node.poll() is not None:
            raise EntryError(f"this container cannot join the Ray head {_address()}; what Ray says is above")
        if time.monotonic() > deadline:
            raise EntryError(f"this container has not joined the Ray head {_address()} within {JOIN_S:.0f} s")
        time.sleep(0.5)


# -- health -------------------------------------------------------------------------------------------------------------


def _health(arguments: Sequence[str]) -> int:
    """0 when every part answers as it should."""
    checks: dict[str, Callable[[], object]] = {
        "store": _store_answers,
        "head": _nodes,
        "web": _web_answers,
        "worker": lambda: _lives("worker"),
        "runner": lambda: _lives("runner"),
    }
    unknown = [name for name in arguments if name not in checks]
    if unknown or not arguments:
        raise EntryError(f"health check {' '.join(unknown)!r} is not one of {', '.join(checks)}")
    for name in arguments:
        checks[name]()
    return 0


def _store_answers() -> None:
    from nas.errors import NasError
    from nas.store import open_store

    environment = with_password(os.environ)
    os.environ.update(environment)
    try:
        open_store(_setting("NAS_STORE", "the database's address"), create=False).close()  # refuses another schema
    except NasError as error:
        raise EntryError(str(error)) from None
    finally:
        if "NAS_PASSWORD_FILE" in environment:
            Path(environment["PGPASSFILE"]).unlink(missing_ok=True)


def _web_answers() -> None:
    port = _amount("NAS_WEB_PORT", _WEB_PORT)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10):
            pass
    except urllib.error.HTTPError as error:
        raise EntryError(f"the server is not ready: {json.loads(error.read())['detail']}") from None
    except OSError as error:
        raise EntryError(f"the server does not answer at port {port}: {error}") from None


def _lives(role: str) -> None:
    nodes = _nodes()
    if _name(role) not in nodes:
        raise EntryError(f"node {_name(role)!r} is not among those that live: {', '.join(sorted(nodes))}")


def _nodes(*, waiting: bool = False) -> set[str]:
    """Names of the nodes that live, as the head knows them; with `waiting`, none while it does not answer."""
    address = _address()
    try:
        # Ray itself waits forty seconds for a head that is not there, longer than a health check may take.
        socket.create_connection(_host_and_port(address), timeout=5).close()
        return _living(address)
    except OSError as error:
        if waiting:
            return set()
        raise EntryError(f"Ray head {address} does not answer: {error.strerror or error}") from None


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _living(address: str) -> set[str]:
    import ray.exceptions
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # what `ray health-check` asks; `ray.init` would register a job each time

    try:
        found = GcsClient(address=address).get_all_node_info(timeout=5)
    except ray.exceptions.AuthenticationError:
        raise EntryError(f"Ray head {address} refuses this token; give all containers the same file") from None
    except (ray.exceptions.RayError, RuntimeError) as error:
        raise OSError(" ".join(str(error).split())) from None
    return {info.node_name for info in found.values() if info.state == 0}  # 0: alive


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
