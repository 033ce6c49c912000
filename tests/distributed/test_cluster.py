"""A training on Ray Train's workers."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import nas.distributed
from nas.distributed.work import TOKEN, sees
from nas.errors import RunnerError, TrainError
from nas.train import state
from tests.conformance.patience import PATIENCE_S
from tests.distributed.jobs import Broken, Slow, study, training
from tests.distributed.test_running import command, plain, wait_for

pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]


def run(given: Any, workers: int = 2, **options: Any) -> Any:
    return nas.distributed.run(given, workers, ray=True, progress=False, **options)


def test_an_address_that_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunnerError, match="no Ray answers at 127.0.0.1:1 .*refused"):
        nas.distributed.run(training(tmp_path / "a"), 2, address="127.0.0.1:1")


@pytest.mark.slow
def test_a_cluster_that_loses_a_machine_goes_on_with_fewer_workers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 100 * 2**20})
    node = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    slow = {"steps": 60, "checkpoint_every": 4, "sampler": Slow()}
    log = tmp_path / "lost" / "log.csv"

    def lose() -> None:
        while not log.exists():
            time.sleep(0.05)
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=lose, daemon=True)
    try:
        thread.start()
        lost = nas.distributed.run(plain(tmp_path / "lost", **slow), 3, address=cluster.address).supernet.state_dict()
        assert not ray.is_initialized()
    finally:
        cluster.shutdown()
    thread.join()
    shown = capsys.readouterr().err
    assert "going on from step" in shown
    assert "with 2 of 3 workers" in shown
    whole = plain(tmp_path / "whole", **slow).run(progress=False).supernet.state_dict()
    assert all(torch.allclose(lost[name], whole[name], atol=1e-5) for name in whole)


# Below, this process is connected to a Ray of its own.


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    import ray

    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    yield
    ray.shutdown()


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_the_result_is_that_of_one_process(tmp_path: Path, ray_here: None) -> None:
    (tmp_path / "kill-1-1").touch()
    killed = run(plain(tmp_path / "killed")).supernet.state_dict()
    assert not list(tmp_path.glob("kill-*"))
    whole = plain(tmp_path / "whole").run(progress=False).supernet.state_dict()
    assert all(torch.allclose(killed[name], whole[name], atol=1e-5) for name in whole)
    assert not (tmp_path / "killed" / "launch" / "ray").exists()


@pytest.mark.slow
def test_what_a_worker_cannot_do_is_said_once(tmp_path: Path, ray_here: None) -> None:
    with pytest.raises(TrainError, match="^ZeroDivisionError: out of cheese") as raised:
        run(training(tmp_path / "broken", sampler=Broken()))
    assert "\n" not in str(raised.value)


def test_what_no_cluster_has_is_said_before_work_starts(tmp_path: Path, ray_here: None) -> None:
    asks = r"each worker of the training asks for 1 CPU, 1 GPU and no node of this Ray has that .* 3 CPU, 0 GPU"
    with pytest.raises(RunnerError, match=asks):
        run(training(tmp_path / "a"), resources={"gpu": 1})
    with pytest.raises(RunnerError, match="asks for 2 CPU and this Ray has room for 1 of them"):
        run(training(tmp_path / "b"), resources={"cpu": 2})


def test_a_folder_that_a_machine_does_not_see_is_named(tmp_path: Path) -> None:
    assert "does not see the folder" in sees(str(tmp_path), "mine")
    (tmp_path / TOKEN).write_text("mine")
    assert sees(str(tmp_path), "mine") == ""
    assert "has another folder of the name" in sees(str(tmp_path), "yours")


@pytest.mark.slow
def test_the_command_is_interrupted_on_ray_and_goes_on_without(tmp_path: Path) -> None:
    where = tmp_path / "supernet"
    (tmp_path / "hold").write_text("40")
    with command(tmp_path, 400, "--workers", "2", "--ray") as process:
        started = wait_for(where / "log.csv", process)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=PATIENCE_S)[1]
    assert process.returncode == 130, said
    assert "interrupted after step" in said
    assert psutil.wait_procs(started, timeout=PATIENCE_S)[1] == []
    assert 0 < state.read(where).step < 400
    (tmp_path / "hold").unlink()
    assert nas.distributed.run(study(tmp_path, steps=400).training, 2, progress=False).steps == 400
