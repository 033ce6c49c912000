"""The Ray that trainings run on, and whether it has what one of them asks for."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping

import ray

from nas.errors import RunnerError

_OBJECT_STORE_BYTES = 100 * 2**20  # weights are read from files


@contextlib.contextmanager
def connected(cpus: float) -> Iterator[None]:
    """Uses the Ray that this process is connected to, or starts one on this machine with at least `cpus` and ends it."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns of a change to come
    ray.init(
        address="local",  # never join a cluster that a file in the temporary folder happens to name
        num_cpus=max(1, round(cpus), os.cpu_count() or 1),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=_OBJECT_STORE_BYTES,
    )
    try:
        yield
    finally:
        ray.shutdown()


def check(resources: Mapping[str, float]) -> None:
    """Refuses what no node can give to one training.

    Raises:
        RunnerError: with what the cluster has.
    """
    nodes: list[Mapping[str, float]] = [
        node["Resources"]
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]
    wanted = {name.upper() if name in ("cpu", "gpu") else name: amount for name, amount in resources.items()}
    if any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
        return
    asked = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items())
    kinds = dict.fromkeys(["CPU", "GPU", *wanted])
    has = "; ".join(", ".join(f"{node.get(kind, 0):g} {kind}" for kind in kinds) for node in nodes)
    raise RunnerError(
        f"a candidate asks for {asked} and no node of this Ray has that (its {len(nodes)} "
        f"node{'s have' if len(nodes) != 1 else ' has'} {has}); ask for less, or add a node"
    )
