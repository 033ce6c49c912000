"""A Ray cluster on this machine whose nodes are killed and replaced."""

from __future__ import annotations

import logging
import os
import random
import signal
from typing import Any

import machine


class Nodes:
    """A head without places for work, which the drivers join, and nodes of one place each; use it in a `with` statement.

    Args:
        count: nodes beside the head.
        tag: of the scenario; all processes of the cluster have it.
    """

    def __init__(self, count: int, tag: str) -> None:
        self._count, self._tag = count, tag

    def __enter__(self) -> Nodes:
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        self._start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def alive(self) -> bool:
        """Whether the head still is what drivers can join."""
        return all(process.poll() is None for process in self._head)

    def restart(self) -> None:
        """A new cluster in the place of one whose head is gone."""
        self._end()
        self._start()

    def kill_node(self, rng: random.Random) -> bool:
        """The raylet of a node is killed, what it had started goes with it, another node joins."""
        nodes = list(self._cluster.worker_nodes)
        if not nodes:
            return False
        _kill(rng.choice(sorted(nodes, key=lambda node: str(node.node_id))))
        self._cluster.worker_nodes = {node for node in nodes if node.any_processes_alive()}
        self._add(1)
        return True

    def kill_head(self) -> None:
        """Head and raylet of the drivers' node are killed."""
        _kill(self._cluster.head_node)

    def _start(self) -> None:
        from ray.cluster_utils import Cluster

        before = dict(os.environ)
        patience = {"RAY_gcs_rpc_server_reconnect_timeout_s": "8"}
        os.environ.update({machine.TAG: self._tag, "RAY_AUTH_MODE": "disabled", **patience})
        try:
            self._cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **_SMALL})
            started = self._cluster.head_node.all_processes
            self._head = [one.process for kind in ("gcs_server", "raylet") for one in started[kind]]
            self._add(self._count)
        finally:
            os.environ.clear()
            os.environ.update(before)

    def _add(self, count: int) -> None:
        before = os.environ.get(machine.TAG)
        os.environ[machine.TAG] = self._tag
        for _ in range(count):
            self._cluster.add_node(num_cpus=1, **_SMALL)
        if before is None:
            del os.environ[machine.TAG]
        else:
            os.environ[machine.TAG] = before

    def _end(self) -> None:
        for node in [*self._cluster.worker_nodes, self._cluster.head_node]:
            _kill(node)
        for pid in machine.tagged(self._tag):  # of nodes that ended because the head had gone
            if machine.is_agent(machine.command(pid)):
                machine.send(pid, signal.SIGKILL)


_SMALL = {"object_store_memory": 100 * 2**20, "include_dashboard": False}


def _kill(node: Any) -> None:
    """As a container or a machine goes: at once, everything."""
    started = [one.process.pid for some in node.all_processes.values() for one in some]
    below = [pid for pid in machine.pids() if machine.parent(pid) in started]  # agents and workers of the raylet
    node.kill_all_processes(check_alive=False, allow_graceful=False)
    for pid in below:
        machine.send(pid, signal.SIGKILL)
