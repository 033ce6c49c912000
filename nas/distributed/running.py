"""The driver of a training on several processes: checks, starts, watches, starts again.

It computes nothing.  The checkpoints in the training's folder are all that an attempt leaves to the next one, and the log
there is what the driver shows, so that it needs no other way to the ranks than that folder.
"""

from __future__ import annotations

import contextlib
import copy
import pickle
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from nas import files, signals
from nas.distributed.following import Following
from nas.distributed.local import Local
from nas.distributed.work import FAILED, ROOM, ROOM_BYTES, STOP, TOKEN, Order, failure
from nas.errors import DeviceError, RunnerError, TrainError
from nas.runners.work import Payload, check_not_importing
from nas.train import state
from nas.train.ranks import check_share

if TYPE_CHECKING:
    from nas.train import Training, TrainResult

ATTEMPTS = 3
_POLL_S = 0.2


class Engine(Protocol):
    """Starts ranks and hears how they end; see `Local`."""

    def start(self, say: Callable[[str], None]) -> None:
        """Start the ranks of an attempt; `say` shows a line."""

    def poll(self, timeout: float) -> str | None:
        """None while they work; then "" when all ended well, or how one did not."""

    def stop(self) -> None:
        """End what still runs."""


@signals.exiting()
def run(
    training: Training,
    workers: int = 2,
    *,
    ray: bool = False,
    address: str | None = None,
    resources: Mapping[str, float] | None = None,
    attempts: int = ATTEMPTS,
    progress: bool = True,
    resume: bool = True,
) -> TrainResult:
    """`training.run()` on several processes, each with its share of every batch; the same weights up to rounding.

    When a process dies all begin again from the last checkpoint; on a cluster that has become smaller, with as many as it has
    room for.  Ctrl-C ends the step that is being made, leaves a checkpoint and raises KeyboardInterrupt; SIGTERM and
    SIGHUP do the same and raise SystemExit(128 + number).

    Args:
        training: with a path; on a cluster one that all its machines share.
        workers: processes; each reserves a core, and a GPU where the training's device is "cuda".
        ray: Ray Train's workers instead of processes of this machine: on the Ray that this process is connected to, the one
            of RAY_ADDRESS, or one that is started here.
        address: host:port of a Ray cluster's head; implies `ray`.
        resources: of each worker on Ray, as {"cpu": 4, "gpu": 1}; as above unless given.
        attempts: how often in a row an attempt may end without a new checkpoint.
        progress: show a bar on a terminal, else a line every few seconds.
        resume: False deletes what an earlier training left in the path.

    Raises:
        TrainError: an argument is not what it must be, what `Training.run` raises, or too many attempts ended early.
        DeviceError: this machine has too few GPUs.
        RunnerError: the cluster does not answer, has no room, or a machine of it does not see the path.
    """
    check_not_importing()
    on_ray = ray or address is not None
    _check(training, workers, attempts, resources, on_ray=on_ray)
    path = training.path
    assert path is not None
    with state.locked(path):
        if not resume:
            state.clear(path)
    if training.trained:
        return training.run(progress)
    engines: contextlib.AbstractContextManager[Callable[[Order], Engine]]
    if on_ray:
        from nas.distributed.cluster import on_cluster

        engines = on_cluster(workers, training.device.type, resources, address)
        threads = max(1, int((resources or {}).get("cpu", 1)))
    else:
        engines = contextlib.nullcontext(lambda order: Local(order, workers, training.device.type))
        threads = max(1, torch.get_num_threads() // workers)
    with state.locked(path / state.LAUNCH), engines as engine:  # the training's own lock is the first rank's
        _drive(training, engine(_order(training, threads, on_ray=on_ray)), attempts, progress)
    return training.run(progress=False)


def _check(
    training: Training, workers: Any, attempts: Any, resources: Mapping[str, float] | None, *, on_ray: bool
) -> None:
    for name, given in (("workers", workers), ("attempts", attempts)):
        if isinstance(given, bool) or not isinstance(given, int) or given < 1:
            raise TrainError(f"{name} is {given!r}; give a whole number, 1 or more")
    if training.path is None:
        raise TrainError("a training on several processes meets in its folder, and this one has no path; give it one")
    if resources is not None and not on_ray:
        raise TrainError("resources are reserved on Ray alone; leave them out, or add ray=True")
    if not on_ray and training.device.type == "cuda" and torch.cuda.device_count() < workers:
        raise DeviceError(
            f"{workers} workers need {workers} GPUs, and this machine has {torch.cuda.device_count()}; "
            "ask for fewer workers, or give the address of a cluster"
        )
    first = next(iter(training.task.train_batches(0)), None)
    if first is not None:
        check_share(training.task.samples(first), workers)


def _order(training: Training, threads: int, *, on_ray: bool) -> Order:
    """The training as ranks get it: its supernet travels as a checkpoint, saved for them."""
    assert training.path is not None
    sent = copy.copy(training)
    sent.path = training.path.resolve()
    folder = sent.path / state.LAUNCH
    for name in (FAILED, STOP):
        (folder / name).unlink(missing_ok=True)
    training.supernet.save(folder / state.SUPERNET)
    token = uuid.uuid4().hex
    try:
        files.write(folder / TOKEN, token)
        (folder / ROOM).write_bytes(b" " * ROOM_BYTES)  # written into, not replaced, when the disk is full
    except OSError as error:
        raise state.cannot_write(sent.path, error) from error
    dumps: Callable[[Any], bytes] = pickle.dumps
    if on_ray:
        import ray

        dumps = ray.cloudpickle.dumps
    told: Any = sent
    return Order(Payload.pack(None, told, threads, dumps), str(folder), token)


def _drive(training: Training, engine: Engine, attempts: int, progress: bool) -> None:
    """Attempts until the training has finished."""
    path = training.path
    assert path is not None
    failures = 0
    with signals.noting() as pressed, training.reporter(_step(path), show=progress) as reporter:
        following = Following(path, training, reporter)
        while True:
            before = _step(path)
            why = _attempt(engine, following, reporter.say, path / state.LAUNCH, pressed)
            found = state.read(path)
            if found is not None and found.finished:
                following.look(now=True)
                return
            if error := failure(path / state.LAUNCH):
                raise error
            if pressed():
                reporter.say(f"interrupted after step {_step(path)} of {training.steps}; '{path}' holds a checkpoint")
                raise KeyboardInterrupt
            failures = 0 if _step(path) > before else failures + 1
            if failures >= attempts:
                raise RunnerError(
                    f"{failures} attempts in a row ended without a new checkpoint, the last because {why}; "
                    f"'{path}' keeps step {_step(path)}"
                )
            reporter.say(f"{why}; going on from step {_step(path)}")


def _attempt(
    engine: Engine, following: Following, say: Callable[[str], None], folder: Path, pressed: Callable[[], bool]
) -> str:
    """How it ended: "" when well."""
    try:
        engine.start(say)
        while (why := engine.poll(_POLL_S)) is None:
            following.look()
            if pressed():
                (folder / STOP).touch()
        return why
    finally:
        engine.stop()


def _step(path: Path) -> int:
    """Of the last checkpoint."""
    found = state.read(path)
    return found.step if found is not None else 0
