"""Ranks as workers of Ray Train, on the Ray that `nas.runners.cluster` finds or starts.

Ray Train starts the workers together, joins them in a process group and ends all of them when one is gone.  Whether to begin
again, and with how many, is decided here as it is for local processes: its checkpoints, metrics and restarts are not used.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.distributed.work import STOP, Order, make_steps, sees
from nas.errors import RunnerError
from nas.runners import cluster

_SHRINK_S = 20.0  # how long to wait for room for all before beginning with fewer
_ROOM_S = 300.0  # how long to wait for room at all
_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # that often a dead worker is looked for
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths of a job are relative to where it was started
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


@contextlib.contextmanager
def on_cluster(
    workers: int, device: str, resources: Mapping[str, float] | None, address: str | None
) -> Iterator[Callable[[Order], Train]]:
    """A Ray with room for the workers.

    Raises:
        RunnerError: it does not answer, or has no room for them.
    """
    needs = {"CPU": 1.0, "GPU": float(device == "cuda"), **cluster.named(resources or {})}
    with cluster.connected(workers * needs["CPU"], address):
        cluster.check(needs, workers, "each worker of the training asks for")
        unset = {name: value for name, value in _SETTINGS.items() if name not in os.environ}
        with cluster.quiet("ray.train", unset):
            yield lambda order: Train(order, workers, needs)


class Train:
    """One attempt after the other, each a run of a `TorchTrainer`.

    Args:
        order: what the workers are told.
        workers: as many as there is room for, up to this.
        needs: of each, by Ray's names.

    Raises:
        RunnerError: a machine of the cluster does not see the training's folder.
    """

    def __init__(self, order: Order, workers: int, needs: Mapping[str, float]) -> None:
        self._order, self._workers = order, workers
        self._needs = {name: amount for name, amount in needs.items() if amount}
        self._ended: list[str | RunnerError] = []
        self._thread: threading.Thread | None = None
        _check_folder(order, self._needs)

    def start(self, say: Callable[[str], None]) -> None:
        """Start the workers of an attempt, as soon as there is room."""
        self._ended = []
        # In a thread of its own: on the main one Ray Train would take Ctrl-C, and keep it.
        self._thread = threading.Thread(target=self._attempt, args=(say,), daemon=True)
        self._thread.start()

    def poll(self, timeout: float) -> str | None:
        """None while they work; then "" when all ended well, or how one did not.

        Raises:
            RunnerError: the cluster has no room for a single worker, and had none for a while.
        """
        assert self._thread is not None
        self._thread.join(timeout)
        if not self._ended:
            return None
        if isinstance(self._ended[0], RunnerError):
            raise self._ended[0]
        return self._ended[0]

    def stop(self) -> None:
        """Nothing: where an attempt has ended, Ray Train has ended its workers; where it has not, they end with the driver."""
        shutil.rmtree(Path(self._order.folder) / "ray", ignore_errors=True)

    def _attempt(self, say: Callable[[str], None]) -> None:
        try:
            size = self._room()
            if size < self._workers:
                say(f"with {size} of {self._workers} workers, which is what the cluster has room for")
            self._fit(size)
        except RunnerError as error:
            self._ended.append(error)
        except Exception as error:
            self._ended.append(_why(error))
        else:
            self._ended.append("")

    def _fit(self, size: int) -> None:
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.train.v2.api.config import FailureConfig  # types see the old one's under the public name

        gpus = self._needs.get("GPU", 0) > 0
        trainer = TorchTrainer(
            _rank,
            train_loop_config={"order": self._order},
            scaling_config=ScalingConfig(num_workers=size, use_gpu=gpus, resources_per_worker=dict(self._needs)),
            run_config=RunConfig(
                name="ray",
                storage_path=self._order.folder,
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
            ),
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpus else "gloo"),
        )
        trainer.fit()

    def _room(self) -> int:
        """How many workers to begin with: all, or after a while those that there is room for now."""
        began = time.monotonic()
        while True:
            wanted = min(self._workers, self._fits([node["Resources"] for node in cluster.living()]))
            there = min(wanted, self._fits([ray.available_resources()]))  # type: ignore[no-untyped-call]
            waited = time.monotonic() - began
            if there and (there == wanted or waited > _SHRINK_S):
                return there
            if (Path(self._order.folder) / STOP).exists():
                raise RunnerError("interrupted while waiting for room on the cluster")
            if waited > _ROOM_S:
                asked = ", ".join(f"{amount:g} {name}" for name, amount in self._needs.items())
                raise RunnerError(f"the cluster had no {asked} left for {_ROOM_S:.0f} s; add a node, or wait and go on")
            time.sleep(0.5)

    def _fits(self, nodes: list[Mapping[str, float]]) -> int:
        return sum(
            min(int(node.get(name, 0) / amount + 1e-9) for name, amount in self._needs.items()) for node in nodes
        )


def _rank(config: Mapping[str, Any]) -> None:
    """A worker's life; Ray Train has joined the process group."""
    from ray.train.torch import get_device

    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    with contextlib.suppress(KeyboardInterrupt):  # as the driver wished
        make_steps(config["order"], str(get_device()))


def _check_folder(order: Order, needs: Mapping[str, float]) -> None:
    """Asks one process on each machine that a worker may run on."""
    look: Any = ray.remote(num_cpus=0)(sees)
    asked = []
    for node in cluster.living():
        if all(node["Resources"].get(name, 0) >= amount for name, amount in needs.items()):
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked.append(look.options(scheduling_strategy=there).remote(order.folder, order.token))
    blind = [answer for answer in ray.get(asked) if answer]
    if blind:
        raise RunnerError(blind[0])


def _why(error: Exception) -> str:
    """The first worker's own words."""
    failures = getattr(error, "worker_failures", None) or {}
    said = [f"worker {rank}: {one}" for rank, one in failures.items()] or [str(error)]
    return " ".join(said[0].split())[:300]
