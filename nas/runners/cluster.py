"""The Ray that workers run on: started here or joined, and whether it has what they ask for."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import platform
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.exceptions as rex
from ray._common.usage.usage_lib import get_cluster_metadata  # what `ray.init` compares versions with
from ray._raylet import GcsClient  # type: ignore[attr-defined]

from nas import signals
from nas.errors import RunnerError

_OBJECT_STORE_BYTES = 100 * 2**20  # weights are mapped from files; only tasks and outcomes travel
_CONNECT_S = 10.0
# Before Ray is started; whoever sets one of them otherwise keeps that.
_SETTINGS = {
    "RAY_task_events_report_interval_ms": "0",  # else the control store grows with every call
    # Ray is about to change what it does to CUDA_VISIBLE_DEVICES of actors without GPUs, and warns unless told which.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextlib.contextmanager
def connected(cpus: float, address: str | None = None) -> Iterator[None]:
    """Uses the Ray that `connect` finds, and leaves it as it was found."""
    ours, _ = connect(cpus, address)
    try:
        yield
    finally:
        if ours:
            ray.shutdown()


def connect(cpus: float, address: str | None = None, custom: Mapping[str, float] | None = None) -> tuple[bool, bool]:
    """Connect this process: to the cluster at `address`, else where it is connected already, else to that of RAY_ADDRESS,
    else to a Ray with at least `cpus` processors, and what is `custom`, that is started on this machine.

    Returns:
        Whether it was not connected before, so that the caller is to call `ray.shutdown()`; and whether Ray was there already,
        so that it may have other machines and other users.

    Raises:
        RunnerError: the address is unusable, does not answer, refuses the token, or has other versions.
    """
    if ray.is_initialized():
        if address is not None and not _is_here(address):
            here = ray.get_runtime_context().gcs_address
            raise RunnerError(
                f"this process is connected to the Ray at {here} already; disconnect, or leave out {address}"
            )
        return False, True
    address = address or os.environ.get("RAY_ADDRESS")  # Ray's own variable
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if address is None or address == "local":
        _start(cpus, custom or {})
        return True, False
    _join(address)
    return True, True


def _is_here(address: str) -> bool:
    """Whether the Ray that this process is connected to is the one at `address`."""
    host, port = _host_and_port(address)
    ours = _host_and_port(ray.get_runtime_context().gcs_address)
    with contextlib.suppress(OSError):
        return (socket.gethostbyname(host), port) == (socket.gethostbyname(ours[0]), ours[1])
    return False


def _start(cpus: float, custom: Mapping[str, float]) -> None:
    _init(
        address="local",  # never join a cluster that a file in the temporary folder happens to name
        num_cpus=max(1, math.ceil(cpus), os.cpu_count() or 1),
        resources=dict(custom) or None,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=_OBJECT_STORE_BYTES,
    )


def _init(**options: Any) -> None:
    """Ray's own, which would have a driver end with code 15 at SIGTERM."""
    with signals.kept():
        ray.init(**options)


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if address.startswith("ray://"):
        raise RunnerError(
            f"Ray address {address!r} is of a Ray client, which workers cannot be driven through; give host:port of the head "
            "on a machine of the cluster, or send the job there with 'nas submit'"
        )
    if not host or not port.isdigit() or "/" in address:
        raise RunnerError(f"Ray address {address!r} is not usable; give host:port of the head, as in 'head:6379'")
    return host, int(port)


def _join(address: str) -> None:
    """Connect to a cluster; what `ray.init` says late or not at all is asked before."""
    where = _host_and_port(address)
    try:
        socket.create_connection(where, timeout=_CONNECT_S).close()  # `ray.init` would wait for forty seconds
    except OSError as error:
        raise RunnerError(
            f"no Ray answers at {address} ({error.strerror or error}); start its head, or correct the address"
        ) from None
    check_token(address)
    try:
        _check_versions(address, get_cluster_metadata(GcsClient(address=address)))
        _init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except rex.AuthenticationError:
        raise RunnerError(
            f"Ray at {address} refuses this token; name the file that holds the cluster's in RAY_AUTH_TOKEN_PATH"
        ) from None
    except (OSError, RuntimeError, ValueError, rex.RayError) as error:
        why = " ".join(str(error).split())
        raise RunnerError(
            f"Ray at {address} does not take this process: {why}; a node of the cluster must run on this machine, or send the "
            "job to one with 'nas submit'"
        ) from None


def check_token(address: str) -> None:
    """Refuse what Ray ends the process for, with a trace of its C++: that it is to use a token and finds none.

    Raises:
        RunnerError: with the file in which it would look.
    """
    if os.environ.get("RAY_AUTH_MODE") != "token" or "RAY_AUTH_TOKEN" in os.environ:
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        why = "" if path.read_text(encoding="utf-8").strip() else "is empty"
    except (OSError, UnicodeDecodeError) as error:
        why = f"cannot be read ({getattr(error, 'strerror', None) or error})"
    if why:
        raise RunnerError(
            f"the token for Ray at {address} is missing: '{path}' {why}; name its file in RAY_AUTH_TOKEN_PATH"
        )


def _check_versions(address: str, cluster: Mapping[str, Any]) -> None:
    theirs = {"Python": cluster["python_version"], "Ray": cluster["ray_version"]}
    ours = {"Python": platform.python_version(), "Ray": ray.__version__}
    if theirs == ours:
        return
    has, here = (" and ".join(f"{name} {version}" for name, version in one.items()) for one in (theirs, ours))
    raise RunnerError(f"the cluster at {address} runs {has}, this process {here}; use the same versions on both")


# -- what it has ------------------------------------------------------------------------------------------------------

# Nodes that workers of this process have for themselves.
_taken: set[str] = set()


def living() -> Sequence[Mapping[str, Any]]:
    """The nodes that live, as Ray describes them."""
    nodes: list[Mapping[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def named(resources: Mapping[str, float]) -> dict[str, float]:
    """Resources as Ray names them: {"cpu": 1} is {"CPU": 1}; those of which nothing is asked are left out."""
    return {name.upper() if name in ("cpu", "gpu") else name: amount for name, amount in resources.items() if amount}


def check(resources: Mapping[str, float], count: int = 1, what: str = "a candidate asks for") -> None:
    """Refuse what the cluster cannot give, whoever else uses it at the moment.

    Args:
        resources: of each; it has to be on one node.
        count: how many of them at the same time.
        what: how the sentence begins.

    Raises:
        RunnerError: with what the cluster has.
    """
    wanted = named(resources)
    nodes = [node["Resources"] for node in living() if node["NodeID"] not in _taken]
    room = sum(_fits(wanted, node, count) for node in nodes)
    if room >= count:
        return
    asked = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items()) or "a node"
    kinds = dict.fromkeys(["CPU", "GPU", *wanted])
    has = "; ".join(", ".join(f"{node.get(kind, 0):g} {kind}" for kind in kinds) for node in nodes) or "none left"
    fits = f"this Ray has room for {room} of them" if room else "no node of this Ray has that"
    raise RunnerError(
        f"{what} {asked} and {fits} (its {len(nodes)} node{'s have' if len(nodes) != 1 else ' has'} {has}); "
        "ask for less, or add a node"
    )


def _fits(wanted: Mapping[str, float], node: Mapping[str, float], most: int) -> int:
    """How many of `wanted` one node has, up to `most`."""
    return min([most, *(int(node.get(name, 0) / amount + 1e-9) for name, amount in wanted.items())])


def take_node(resources: Mapping[str, float]) -> tuple[str, dict[str, float]] | None:
    """A node that has `resources` and on which nothing is reserved: its id, and all of its processors and GPUs.

    None when there is none; `give_node` gives it back.
    """
    wanted = named(resources)
    free: Mapping[str, Mapping[str, float]] = ray._private.state.available_resources_per_node()  # type: ignore[no-untyped-call]
    for node in living():
        name, has = node["NodeID"], node["Resources"]
        idle = all(free.get(name, {}).get(kind, 0) >= has.get(kind, 0) for kind in ("CPU", "GPU"))
        if name not in _taken and idle and has.get("CPU", 0) and _fits(wanted, has, 1):
            _taken.add(name)
            return name, {kind: has[kind] for kind in ("CPU", "GPU") if has.get(kind)}
    return None


def give_node(name: str) -> None:
    """The node is anybody's again."""
    _taken.discard(name)


@contextlib.contextmanager
def quiet(log: str, settings: Mapping[str, str]) -> Iterator[None]:
    """A library of Ray's without what it writes to `log`, and with `settings` in the environment, as long as this lasts."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    logger = logging.getLogger(log)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
