"""A cluster of several nodes: lost and added ones, nodes of one's own, machines without the weights, other versions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nas.errors import RunnerError
from nas.placement import Needs
from nas.runners import RayRunner, StagedRunner, Task, cluster
from searchspaces import conv
from tests.conformance.patience import PATIENCE_S, until
from tests.conformance.runner import RowSpace, double, drain, tasks

ray = pytest.importorskip("ray")

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def nodes() -> Iterator[Any]:
    """A head that evaluates nothing; the tests add nodes."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield found
    ray.shutdown()
    found.shutdown()


def quarter(arch: Any) -> dict[str, float]:
    time.sleep(0.25)
    return {"value": arch[0]}


def where(arch: Any) -> dict[str, float]:
    return {"node": float(int(ray.get_runtime_context().get_node_id()[:8], 16))}


def elsewhere(arch: Any) -> dict[str, float]:
    return {"other": where(arch)["node"]}


def number_of(node: Any) -> float:
    return float(int(node.node_id[:8], 16))


def test_a_search_survives_the_loss_of_a_node_and_uses_new_ones(nodes: Any) -> None:
    lost = nodes.add_node(num_cpus=2)
    with RayRunner(RowSpace(), quarter, 2, address=nodes.address) as runner:
        runner.submit(tasks(24))
        found = drain(runner, 3)
        nodes.remove_node(lost, allow_graceful=False)
        found |= {outcome.number: outcome for outcome in runner.wait(2.0)}
        nodes.add_node(num_cpus=2)
        found |= drain(runner, 24 - len(found))
    assert sorted(found) == list(range(24))
    assert all(outcome.state == "COMPLETED" for outcome in found.values()), found


def test_an_evaluator_has_a_node_for_itself(nodes: Any) -> None:
    shared, bench = nodes.add_node(num_cpus=3), nodes.add_node(num_cpus=3, resources={"bench": 1})
    alone = Needs(resources=(("bench", 1.0),), whole_node=True)
    plain = RayRunner(RowSpace(), where, 2, address=nodes.address)
    runner = StagedRunner([plain, RayRunner(RowSpace(), elsewhere, 1, address=nodes.address, needs=alone)])
    with runner:
        runner.submit(tasks(6))
        found = drain(runner, 6)
        free = ray._private.state.available_resources_per_node()
        assert free[bench.node_id].get("CPU", 0) == 0
        with (
            pytest.raises(RunnerError, match="needs a node with 1 CPU for itself, and none of the 3 nodes .* is free"),
            RayRunner(RowSpace(), double, 1, needs=Needs(whole_node=True)),
        ):
            pass
        with pytest.raises(RunnerError, match="4 workers need, each, 1 CPU and this Ray has room for 3"):
            RayRunner(RowSpace(), double, 4).__enter__()
    assert {outcome.measurements["node"] for outcome in found.values()} == {number_of(shared)}
    assert {outcome.measurements["other"] for outcome in found.values()} == {number_of(bench)}
    assert not cluster._taken


def test_a_cluster_of_other_versions_is_refused(nodes: Any) -> None:
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    client = GcsClient(address=nodes.address)
    key = (b"CLUSTER_METADATA", b"cluster")
    told = json.loads(client.internal_kv_get(*key))
    for change, says in (
        (
            {"python_version": "3.9.1"},
            r"runs Python 3.9.1 and Ray .*, this process Python .*; use the same versions on both",
        ),
        ({"ray_version": "2.9.0"}, "runs Python .* and Ray 2.9.0, this process"),
    ):
        client.internal_kv_put(key[0], json.dumps(told | change).encode(), True, key[1])
        with pytest.raises(RunnerError, match=says):
            RayRunner(RowSpace(), double, address=nodes.address).__enter__()
        assert not ray.is_initialized()


class Scratched:
    """The sum of all weights, into which it then writes, and how many copies its machine was sent."""

    def __init__(self, supernet: Any) -> None:
        self.supernet = supernet

    def __call__(self, arch: Any) -> dict[str, float]:
        import torch

        time.sleep(0.1)  # so that both workers have some
        with torch.no_grad():
            before = float(sum(parameter.abs().sum() for parameter in self.supernet.parameters()))
            if not getattr(self, "written", False):
                next(self.supernet.parameters()).add_(1000.0)
                self.written = True
        copies = len(list(Path(tempfile.gettempdir()).glob("supernas-*/carried/*.lock")))
        return {"copies": float(copies), "sum": before, "pid": float(os.getpid())}


@pytest.fixture(params=["1g"])
def foreign(nodes: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A node that sees an empty folder where the test's checkpoint is, and a small disk: its mounts are its own."""
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this user may not have mounts of its own")
    net, tmp = tmp_path / "net", tmp_path / "tmp"
    net.mkdir()
    tmp.mkdir()
    start = f"{sys.executable} -m ray.scripts.scripts start --address={nodes.address} --num-cpus=2 --block"
    mounts = f"mount -t tmpfs none {net} && mount -t tmpfs -o size={request.param} none {tmp}"
    environment = os.environ | {"TMPDIR": str(tmp), "PYTHONPATH": str(Path(__file__).parents[2])}
    with (tmp_path / "node.log").open("wb") as log:
        command = ["unshare", "-m", "sh", "-c", f"{mounts} && exec {start}"]
        node = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
        until(lambda: ray.cluster_resources().get("CPU", 0) >= 2, lambda: (tmp_path / "node.log").read_text())
        yield tmp_path
    finally:
        ray.shutdown()
        node.terminate()
        node.wait(PATIENCE_S)


def test_a_machine_without_the_weights_is_sent_them_once_and_nobody_writes_for_others(
    nodes: Any, foreign: Path
) -> None:
    supernet = conv.supernet()
    supernet.save(foreign / "net")
    expected = float(sum(parameter.detach().abs().sum() for parameter in supernet.parameters()))
    rows = [Task(number, tuple(supernet.space.smallest.row())) for number in range(8)]
    runner = RayRunner(supernet.space, Scratched(supernet), 2)
    with runner:
        supernet.save(foreign / "net")  # what is saved meanwhile takes nothing away
        conv.supernet(seed=1).save(foreign / "net")
        runner.submit(rows)
        found = drain(runner, 8)
    assert {outcome.state for outcome in found.values()} == {"COMPLETED"}, found
    by_worker: dict[float, list[float]] = {}
    for number in sorted(found):
        by_worker.setdefault(found[number].measurements["pid"], []).append(found[number].measurements["sum"])
    assert len(by_worker) == 2
    for sums in by_worker.values():  # each sees its own writing, and nobody else's
        assert sums[0] == pytest.approx(expected, rel=1e-5)
        assert all(later > expected + 1000 for later in sums[1:])
    assert {outcome.measurements["copies"] for outcome in found.values()} == {1.0}


@pytest.mark.parametrize("foreign", ["64k"], indirect=True)
def test_a_machine_whose_disk_is_full_says_so(foreign: Path) -> None:
    supernet = conv.supernet()
    supernet.save(foreign / "net")
    runner = RayRunner(supernet.space, Scratched(supernet), 1)
    with pytest.raises(RunnerError, match="cannot be copied to .*No space left on device.*make room there"), runner:
        pass
