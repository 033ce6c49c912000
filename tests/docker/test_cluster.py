"""The whole of the compose file as plain processes: server, migration, Ray head, worker, job, and their health checks."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conformance.patience import PATIENCE_S
from tests.docker.services import DOCKER, Services

if TYPE_CHECKING:
    from tests.conformance.postgres_server import PostgresServer

pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.postgres, pytest.mark.slow]

JOB = """
import nas
from tests.study.landscapes import grid, trade_off

study = nas.Study(
    "grid", space=grid(), objectives=["max quality", "min cost"], evaluators=[trade_off], algorithm=nas.Exhaustive(), trials=64
)
"""


def head_address() -> str:
    """By this machine's name on the network, as a container's is: Ray replaces 127.0.0.1 by that."""
    from ray.util import get_node_ip_address

    with socket.socket() as free:
        free.bind(("", 0))
        return f"{get_node_ip_address()}:{free.getsockname()[1]}"


def until(condition: Callable[[], bool], folder: Path, seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        logs = {path.name: path.read_text()[-2000:] for path in folder.glob("*.log")}
        assert time.monotonic() < deadline, logs
        time.sleep(0.3)


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a short name: Ray's sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="nas", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


def processes_in(folder: Path) -> list[str]:
    """Command lines of processes that have to do with a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words:
            found.append(words)
    return found


def test_a_job_runs_on_the_cluster_and_nothing_is_left(server: PostgresServer, folder: Path) -> None:
    url = server.database()
    subprocess.run([str(DOCKER / "secrets.sh"), str(folder / "secrets")], check=True, capture_output=True)
    secret = folder / "secrets" / "postgres_password"
    secret.chmod(0o644)
    secret.write_text(server.password)
    (folder / "job.py").write_text(JOB)
    services = Services(folder / "secrets", folder, database=url.rpartition("@")[2], head=head_address())
    running: list[subprocess.Popen[str]] = []
    try:
        assert services.run("migrate").returncode == 0
        running.append(services.start("head"))
        until(lambda: services.health("head").returncode == 0, folder)
        assert "is not among those that live" in services.health("worker").stderr
        running.append(services.start("worker"))
        until(lambda: services.health("worker").returncode == 0, folder)

        wrong = folder / "wrong"
        wrong.write_text("0" * 64)
        refused = services.health("head", RAY_AUTH_TOKEN_PATH=str(wrong))
        assert refused.returncode == 2
        assert "refuses this token" in refused.stderr
        alone = services.run("runner", "nas", "run", "job.py", "--ray", RAY_AUTH_TOKEN_PATH=str(wrong))
        assert alone.returncode == 2
        assert "refuses this token" in alone.stderr.splitlines()[-1]

        search = services.run("runner", "run", "job.py", "--workers", "2", "--quiet")
        assert search.returncode == 0, (search.stdout, search.stderr)
        assert "64 COMPLETED" in search.stdout
        shown = services.run("runner", "nas", "show", "grid")
        assert "64" in shown.stdout
        assert services.health("worker").returncode == 0  # the runner's node has left, the workers' have not
        secrets = [path.read_text() for path in (folder / "secrets").iterdir()]
        assert not [line for line in processes_in(folder) if any(text in line for text in secrets)]

        running[1].terminate()
        running[1].wait(PATIENCE_S)
        until(lambda: services.health("worker").returncode == 2, folder)
        assert services.health("head").returncode == 0
        running[0].terminate()
        running[0].wait(PATIENCE_S)
        assert "does not answer" in services.health("head").stderr
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(PATIENCE_S)
        server.drop(url)
    until(lambda: not processes_in(folder), folder, 20)
