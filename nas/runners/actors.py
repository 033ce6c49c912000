"""Persistent Ray actors: one process start for thousands of evaluations.

Ray places the actors, gives them their processors and GPUs, and says when one has died.  Tasks and outcomes take a socket of
their own (`wire.py`): through Ray's calls each message cost about a millisecond of the driver's and the worker's processors
(`experiments/loop_speed`).  A worker whose socket closes is lost; its tasks are given to others, and counted.

Weights are read from their file, which the workers of a machine map together; a machine that does not have the file is sent
it once (`nas.carried`).  Ray's object store would share them too, but what it shares can be written by everybody.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import ray
import ray.exceptions as rex
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas import carried
from nas.carried import Folder
from nas.errors import RunnerError
from nas.failures import describe
from nas.placement import Needs
from nas.runners import cluster, guard
from nas.runners.base import Task
from nas.runners.pool import Member, NoRoom, PoolRunner
from nas.runners.wire import Port, Wire, reach
from nas.runners.work import Evaluate, Payload, Work, answer, check_not_importing

# The worker, its node or the way to it is gone.
_INFRASTRUCTURE = (
    rex.RayActorError,
    rex.OutOfMemoryError,
    rex.NodeDiedError,
    rex.WorkerCrashedError,
    rex.ObjectLostError,
    rex.LocalRayletDiedError,
)
_UNREACHED = "its connection was lost"
_LOOK_S = 1.0  # how often Ray is asked whether a worker is gone of which the socket says nothing
_STARTING_LOOK_S = 0.02
_DEATH_S = 5.0  # Ray hears of a death a little later than the socket does
_BIRTH_S = 30.0  # what a machine under load takes to start a process
_READ_AHEAD = 4  # chunks of a file on their way at the same time


@dataclass(frozen=True)
class _Absent:
    """A worker's machine does not have these folders."""

    folders: tuple[Folder, ...]


@dataclass(frozen=True)
class _Ready:
    """A worker has loaded the evaluation, and waits for its driver."""

    pid: int
    address: tuple[str, int]


class _Worker:
    """The actor: loads the evaluation, then answers what its socket brings."""

    def __init__(self, payload: Payload, name: str, key: bytes, at_once: bool) -> None:
        self._payload, self._name, self._key, self._at_once = payload, name, key, at_once
        guard.lead()  # its driver is Ray's to watch

    def load(self, files: Any = None) -> str | _Ready | _Absent:
        """Where it waits, or why it cannot work, or what this machine lacks unless `files` sends it."""
        absent = tuple(folder for folder in self._payload.folders if not folder.is_here)
        if absent and files is None:
            return _Absent(absent)
        try:
            for folder in absent:
                _fetch(folder, files)
            self._work = Work(*self._payload.unpack(), self._name)
        except BaseException as error:
            return describe(error)
        self._port = Port(ray.util.get_node_ip_address(), self._key)  # type: ignore[no-untyped-call]
        return _Ready(os.getpid(), self._port.address)

    def serve(self) -> None:
        """Work until the driver closes the socket."""
        with contextlib.suppress(EOFError, OSError):
            answer(self._port.accept(), self._work, at_once=self._at_once)


def _fetch(folder: Folder, files: Any) -> None:
    chunks: dict[tuple[int, int], Any] = {}

    def read(index: int, offset: int, size: int) -> bytes:
        """The chunk; those behind it are asked for already."""
        for ahead in range(offset, min(folder.files[index].size, offset + _READ_AHEAD * carried.CHUNK), carried.CHUNK):
            if (index, ahead) not in chunks:
                length = min(carried.CHUNK, folder.files[index].size - ahead)
                chunks[index, ahead] = files.read.remote(folder.path, index, ahead, length)
        found: bytes = ray.get(chunks.pop((index, offset)))
        assert len(found) == size
        return found

    carried.fetch(folder, read)


class _Files:
    """An actor beside the driver that reads the files that the driver holds open: those, and no others."""

    def __init__(self, opened: dict[tuple[str, int], str]) -> None:
        self._files = {key: open(path, "rb") for key, path in opened.items()}  # noqa: SIM115 (as long as the actor lives)

    def read(self, path: str, index: int, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` of a folder's file."""
        return os.pread(self._files[path, index].fileno(), size, offset)


class _Actor(Member):
    """An actor: the call that it is busy with, `load` and then `serve`, and the socket to it once it serves."""

    def __init__(self, name: str, handle: Any, node: str | None) -> None:
        super().__init__(name)
        self.handle, self.node = handle, node
        self.born = handle.__ray_ready__.remote()
        self.call = handle.load.remote()
        self.wire: Wire | None = None
        self.pid = 0

    def connect(self, ready: _Ready, key: bytes) -> None:
        """Have it serve.

        Raises:
            OSError: its port cannot be reached.
        """
        self.call = self.handle.serve.remote()
        self.wire = reach(ready.address, key)
        self.pid = ready.pid

    def _send(self, batch: list[Task]) -> None:
        assert self.wire is not None
        with contextlib.suppress(OSError):  # it died; `_listen` hears so and gives its tasks to another
            self.wire.give(batch)

    def why(self) -> tuple[str, bool]:
        """What Ray says of its death, and whether it died by itself."""
        try:
            ray.get(self.call, timeout=_DEATH_S)
        except rex.GetTimeoutError:
            return _UNREACHED, False
        except rex.RayError as error:
            return _cause(error), not _with_its_node(error)
        return "it ended", True

    def kill(self) -> None:
        if self.wire is not None:
            self.wire.close()
        ray.kill(self.handle)
        if self.node is not None:
            cluster.give_node(self.node)


class RayRunner(PoolRunner[_Actor]):
    """Actors on the Ray that `nas.runners.cluster.connect` finds or starts.

    Args:
        address: host:port of the head of a cluster; this process must be on one of its machines.
        needs: what each actor reserves; `threads` CPUs unless given.
        altogether: what this and other pools of the run reserve, for a Ray that is started here: processors, and resources
            of a name, which on one machine are names only.
    """

    name = "ray"

    def __init__(
        self,
        space: Any,
        evaluate: Evaluate,
        workers: int = 2,
        *,
        threads: int = 1,
        batch: int | None = None,
        time_limit_s: float | None = None,
        address: str | None = None,
        needs: Needs | None = None,
        altogether: Mapping[str, float] | None = None,
    ) -> None:
        threads = threads if needs is None else max(1, int(needs.cpus))
        super().__init__(space, evaluate, workers, threads=threads, batch=batch, time_limit_s=time_limit_s)
        self._needs = needs or Needs(cpus=threads)
        self._address = address
        self._altogether = altogether or {name: workers * amount for name, amount in self._needs.reserved.items()}
        self._ours = self._alone = False
        self._opened: dict[tuple[str, int], int] = {}
        self._files: Any = None
        self._key = secrets.token_bytes(32)
        self._next_look = 0.0

    @property
    def wants_nodes(self) -> bool:
        """Whether each actor has a node for itself."""
        return self._needs.whole_node

    @property
    def pids(self) -> list[int]:
        """Process ids of the actors that are ready."""
        return [member.pid for member in self._members if member.pid]

    def launch(self) -> None:
        """Start or join Ray, unless this process has, and start the actors."""
        check_not_importing()
        custom = {name: amount for name, amount in self._altogether.items() if name not in ("CPU", "GPU")}
        self._ours, found = cluster.connect(self._altogether["CPU"], self._address, custom)
        self._alone = self._needs.whole_node and found
        if not self._alone:
            cluster.check(self._needs.reserved, self._count, f"{self._count} workers need, each,")
        self._hold_open()
        super().launch()

    def close(self) -> None:
        """Kill the actors, and the Ray that was started for them.

        An actor that is killed between the start of its process and that of itself would be gone for Ray, while its process
        kept what it reserves for as long as this one lives (seen with Ray 2.60).
        """
        starting = [member.born for member in self._members if not member.ready]
        if starting and not self._ours:
            ray.wait(starting, num_returns=len(starting), timeout=_BIRTH_S)
        super().close()
        if self._files is not None:
            ray.kill(self._files)
            self._files = None
        while self._opened:
            os.close(self._opened.popitem()[1])
        if self._ours:
            ray.shutdown()
            self._ours = False

    def _dumps(self, value: Any) -> bytes:
        body: bytes = ray.cloudpickle.dumps(value)  # type: ignore[no-untyped-call]
        return body

    def _spawn(self, name: str) -> _Actor:
        node, reserved = None, self._needs.reserved
        options: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0}
        if self._alone:
            node, whole = self._own_node()
            reserved = reserved | whole
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
        options |= {"num_cpus": reserved.pop("CPU"), "num_gpus": reserved.pop("GPU"), "resources": reserved}
        remote: Any = ray.remote(_Worker)
        return _Actor(
            name, remote.options(**options).remote(self._payload, name, self._key, self._limit is not None), node
        )

    def _own_node(self) -> tuple[str, dict[str, float]]:
        found = cluster.take_node(self._needs.reserved)
        if found is not None:
            return found
        if self._was_ready:
            raise NoRoom
        asked = ", ".join(f"{amount:g} {name}" for name, amount in cluster.named(self._needs.reserved).items())
        raise RunnerError(
            f"an evaluator needs a node with {asked} for itself, and none of the {len(cluster.living())} nodes of this Ray is "
            "free of other work; add a node, or leave out whole_node"
        )

    def _why_late(self) -> str:
        has = ", ".join(f"{amount:g} {name}" for name, amount in self._needs.reserved.items() if amount)
        nodes = [node["Resources"] for node in cluster.living()]
        cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
        return (
            f"each needs {has or 'nothing'} of {len(nodes)} nodes with {cpus:g} CPU and {gpus:g} GPU together, which others may "
            "use too; look at 'ray status', and at what the evaluation imports"
        )

    # -- files for machines that do not have them ---------------------------------------------------------------------

    def _hold_open(self) -> None:
        """So that a checkpoint that is saved again while we run is still what we began with."""
        for folder in self._payload.folders:
            for index, file in enumerate(folder.files):
                self._opened[folder.path, index] = os.open(Path(folder.path) / file.name, os.O_RDONLY)

    def _source(self) -> Any:
        """The actor that reads them, which only a cluster of several machines needs."""
        if self._files is None:
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            opened = {key: f"/proc/{os.getpid()}/fd/{file}" for key, file in self._opened.items()}
            remote: Any = ray.remote(_Files)
            self._files = remote.options(num_cpus=0, scheduling_strategy=here).remote(opened)
        return self._files

    # -- what comes back ----------------------------------------------------------------------------------------------

    def _listen(self, timeout: float) -> None:
        starting = any(member.wire is None for member in self._members)
        if starting or time.monotonic() >= self._next_look:
            self._look_at_calls()
            timeout = min(timeout, _LOOK_S if not starting else _STARTING_LOOK_S)
        wires = {member.wire: member for member in self._members if member.wire is not None}
        if not wires:
            time.sleep(min(timeout, _STARTING_LOOK_S))
        for wire in wait(list(wires), timeout) if wires else ():  # type: ignore[arg-type]
            self._hear(wires[wire])  # type: ignore[index]

    def _hear(self, member: _Actor) -> None:
        assert member.wire is not None
        try:
            self._heard(member, member.wire.outcomes())
            while member.wire.poll():
                self._heard(member, member.wire.outcomes())
        except (EOFError, OSError):
            why, died = member.why()
            self._lost(member, why, died=died)

    def _look_at_calls(self) -> None:
        """Hear who has loaded, and who is gone with its machine, whose sockets stay silent."""
        self._next_look = time.monotonic() + _LOOK_S
        calls = {member.call: member for member in self._members}
        done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0) if calls else ([], [])
        for call in done:
            self._take(calls[call], call)

    def _take(self, member: _Actor, call: Any) -> None:
        if member.wire is not None and member.wire.poll():
            return  # what it has sent is heard first, then its end
        try:
            found = ray.get(call)
        except _INFRASTRUCTURE as error:
            self._lost(member, _cause(error), died=not _with_its_node(error))
            return
        except rex.RayError as error:
            raise RunnerError(f"worker {member.name} cannot be started: {_cause(error)}") from error
        if isinstance(found, _Absent):
            member.call = member.handle.load.remote(self._source())
        elif isinstance(found, str):
            raise RunnerError(f"worker {member.name} cannot load the evaluation: {found}")
        elif isinstance(found, _Ready):
            self._connect(member, found)
        else:
            self._lost(member, _UNREACHED, died=False)

    def _connect(self, member: _Actor, ready: _Ready) -> None:
        try:
            member.connect(ready, self._key)
        except (OSError, EOFError, AuthenticationError) as error:
            host, port = ready.address
            self._lost(member, f"{host}:{port} cannot be reached from here: {error}", died=False)
            return
        self._is_ready(member)


def _with_its_node(error: rex.RayError) -> bool:
    """Whether it was not the worker that died: its node was lost, or taken away."""
    if isinstance(error, (rex.NodeDiedError, rex.LocalRayletDiedError, rex.ObjectLostError)):
        return True
    return getattr(error, "preempted", False) or "its node has died" in str(error)


def _cause(error: BaseException) -> str:
    """The kind of error, and what Ray says of it in its last line but for advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = next((line for line in reversed(lines) if "Error" in line), "")
    return f"{type(error).__name__}{': ' + telling if telling and len(telling) < 300 else ''}"
