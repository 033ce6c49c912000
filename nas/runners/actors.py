"""Persistent Ray actors: one process start for thousands of evaluations.

Plain tasks cost a process each and Ray Tune tens of milliseconds a trial; an actor with two messages in flight costs about
a millisecond, and a tenth of that when evaluations share a message.  Ray's own retries are not used: a call that was in
flight when an actor died comes back as "may or may not have been executed", so tasks are requeued here and counted.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from typing import Any

import ray
import ray.exceptions as rex
from ray._raylet import GcsClient  # type: ignore[attr-defined]

from nas.errors import RunnerError
from nas.runners.base import Outcome, Task
from nas.runners.pool import Member, PoolRunner
from nas.runners.work import Evaluate, Payload, Work, describe

_OBJECT_STORE_BYTES = 100 * 2**20  # weights are mapped from files; only tasks and outcomes travel
_CONNECT_S = 10.0
# The worker, its node or the way to it is gone: the task is not to blame until it has happened often.
_INFRASTRUCTURE = (
    rex.RayActorError,
    rex.OutOfMemoryError,
    rex.NodeDiedError,
    rex.WorkerCrashedError,
    rex.ObjectLostError,
)


class _Worker:
    """The actor: holds the evaluation, answers batches."""

    def __init__(self, payload: Payload, name: str) -> None:
        self._payload, self._name = payload, name
        self._work: Work | None = None

    def load(self) -> str | int:
        """Process id once the evaluation is loaded, or why it cannot be."""
        try:
            self._work = Work(*self._payload.unpack(), self._name)
        except Exception as error:
            return describe(error)
        return os.getpid()

    def run(self, tasks: list[Task]) -> list[Outcome]:
        """Evaluate a batch."""
        assert self._work is not None
        return [self._work(task) for task in tasks]


class _Actor(Member):
    """An actor and the calls in flight to it, oldest first."""

    def __init__(self, name: str, handle: Any) -> None:
        super().__init__(name)
        self.handle = handle
        self.calls: deque[Any] = deque([handle.load.remote()])
        self.pid = 0

    def _send(self, batch: list[Task]) -> None:
        self.calls.append(self.handle.run.remote(batch))

    def kill(self) -> None:
        ray.kill(self.handle)


class RayRunner(PoolRunner[_Actor]):
    """Actors on the Ray that this process is connected to already, the cluster of RAY_ADDRESS, or one that this runner starts.

    Args:
        num_gpus: GPUs that each actor reserves; fractions share one.  `threads` is the CPUs that it reserves.
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
        num_gpus: float = 0,
    ) -> None:
        super().__init__(space, evaluate, workers, threads=threads, batch=batch, time_limit_s=time_limit_s)
        self._gpus = num_gpus
        self._owns_ray = False

    @property
    def pids(self) -> list[int]:
        """Process ids of the actors that are ready."""
        return [member.pid for member in self._members if member.pid]

    def start(self) -> None:
        """Start Ray, if this process has none yet, and the actors; wait until they have loaded the evaluation."""
        if not ray.is_initialized():
            address = os.environ.get("RAY_ADDRESS")  # Ray's own variable, as host:port
            if address is None or address == "local":
                self._start_ray()
            else:
                self._join(address)
        self._check_resources()
        super().start()

    def close(self) -> None:
        """Kill the actors, and the Ray that was started for them."""
        super().close()
        if self._owns_ray:
            ray.shutdown()
            self._owns_ray = False

    def _start_ray(self) -> None:
        # Without this the control store grows with every call.
        os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
        # Ray is about to change what it does to CUDA_VISIBLE_DEVICES of actors without GPUs, and warns unless told which.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray.init(
            address="local",  # never join a cluster that a file in the temporary folder happens to name
            num_cpus=max(self._count * self._threads, os.cpu_count() or 1),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=_OBJECT_STORE_BYTES,
        )
        self._owns_ray = True

    def _join(self, address: str) -> None:
        """Connect to a cluster; Ray would wait forty seconds for one that is not there."""
        host, _, port = address.rpartition(":")
        if not (host and port.isdigit()):
            raise RunnerError(f"Ray address {address!r} is not usable; give host:port of the head, as in 'head:6379'")
        try:
            socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
            GcsClient(address=address)  # says at once that a token is wrong, which `ray.init` does not say at all
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except rex.AuthenticationError:
            raise RunnerError(
                f"Ray at {address} refuses this token; name the file that holds the cluster's in RAY_AUTH_TOKEN_PATH"
            ) from None
        except (OSError, RuntimeError, rex.RayError) as error:
            why = " ".join(str(error).split())
            raise RunnerError(
                f"Ray at {address} does not take this process: {why}; a node of the cluster must run on this machine, "
                "with the same versions of Python and Ray"
            ) from None
        self._owns_ray = True

    def _check_resources(self) -> None:
        has: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        for kind, amount in {"CPU": self._count * self._threads, "GPU": self._count * self._gpus}.items():
            if amount > has.get(kind, 0):
                raise RunnerError(
                    f"{self._count} workers need {amount:g} {kind}, this Ray has {has.get(kind, 0):g}; "
                    "ask for fewer workers or for less each"
                )

    def _dumps(self, value: Any) -> bytes:
        # An actor's `__main__` is Ray's own, so that what a script defines must travel by value.
        body: bytes = ray.cloudpickle.dumps(value)  # type: ignore[no-untyped-call]
        return body

    def _spawn(self, name: str) -> _Actor:
        remote: Any = ray.remote(_Worker)
        options = {"num_cpus": self._threads, "num_gpus": self._gpus, "max_restarts": 0, "max_task_retries": 0}
        return _Actor(name, remote.options(**options).remote(self._payload, name))

    def _listen(self, timeout: float) -> None:
        calls = {member.calls[0]: member for member in self._members if member.calls}
        if not calls:
            time.sleep(min(timeout, 0.01))
            return
        done, _ = ray.wait(list(calls), num_returns=1, timeout=timeout)
        if done and len(calls) > 1:  # whatever else is there already
            done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        for call in done:
            self._take(calls[call], call)

    def _take(self, member: _Actor, call: Any) -> None:
        try:
            answer = ray.get(call)
        except _INFRASTRUCTURE as error:
            self._lost(member, type(error).__name__)
            return
        member.calls.popleft()
        if isinstance(answer, str):
            raise RunnerError(f"worker {member.name} cannot load the evaluation: {answer}")
        if isinstance(answer, int):
            member.pid = answer
            self._is_ready(member)
        else:
            self._heard(member, answer)
