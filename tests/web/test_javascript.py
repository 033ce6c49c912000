"""A worker in another language needs HTTP and JSON alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import nas
from nas.store import open_store
from tests.web.served import SPACE, running

WORKER = Path(__file__).parents[2] / "experiments" / "remote_workers" / "worker.js"


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: the worker in JavaScript is not run")
def test_workers_in_javascript_evaluate_a_study(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    open_store(path).close()
    module = tmp_path / "worker.mjs"
    module.write_bytes(WORKER.read_bytes())
    token = "correct-horse-battery-staple"
    with running(path, token=token) as address:
        remote = nas.Remote(address, token)
        study = remote.create("board", space=SPACE, objectives=["max accuracy", "min params"], trials=20)
        workers = [
            subprocess.Popen(
                ["node", str(module), address, "board", f"board-{at}", token],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for at in range(2)
        ]
        ends = [worker.communicate() for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0], ends
        assert sum(int(said.split()[2]) for said, _ in ends) == 20
        assert study.declaration()["counts"]["COMPLETED"] == 20
        with open_store(path, create=False, read_only=True) as opened:
            record = opened.open_study("board")
            assert {record.trial(at).worker for at in range(20)} <= {"http:board-0", "http:board-1"}


def test_the_worker_is_short() -> None:
    lines = [line for line in WORKER.read_text().splitlines() if line.strip() and not line.lstrip().startswith("//")]
    assert len(lines) <= 45
