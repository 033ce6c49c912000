"""A search that a real cluster drives: submitted, followed, cancelled; token on, in processes of this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nas.cli.app import run
from nas.errors import StoreError
from nas.store import open_store
from tests.conformance.patience import PATIENCE_S

JOB = """
import nas
from helper import evaluate, grid

study = nas.Study("grid", space=grid, objectives=["max quality"], evaluators=[evaluate], algorithm="random", trials=20)
"""
HELPER = """
import time
import pyglove as pg
import nas

grid = nas.Space(pg.Dict(x=pg.oneof(list(range(8))), y=pg.oneof(list(range(8)))), name="grid")
SECONDS = {seconds}

def evaluate(arch):
    time.sleep(SECONDS)
    return {{"quality": float(sum(arch.row()))}}
"""


@dataclass
class Cluster:
    """A head with a job server, and how to call `nas` beside it."""

    url: str
    head: str
    folder: Path
    environment: dict[str, str]

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "nas", "submit", *arguments, "--address", self.url]

    def nas(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment | changes,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )

    def job(self, name: str, seconds: float) -> str:
        """A folder with a job and a module that it imports."""
        (self.folder / name).mkdir()
        (self.folder / name / "job.py").write_text(JOB)
        (self.folder / name / "helper.py").write_text(HELPER.format(seconds=seconds))
        return f"{name}/job.py"

    def counts(self, store: Path) -> dict[str, int]:
        try:
            with open_store(store, create=False) as opened:
                return {state: count for state, count in opened.open_study("grid").counts().items() if count}
        except StoreError:
            return {}  # it is not there yet


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        port: int = free.getsockname()[1]
        return port


def until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    for module in ("ray", "aiohttp_cors", "opencensus"):
        pytest.importorskip(module)
    from ray.util import get_node_ip_address

    with tempfile.TemporaryDirectory(prefix="nas", dir="/tmp", ignore_cleanup_errors=True) as name:  # Ray's sockets
        folder = Path(name)
        (folder / "token").write_text("t" * 64)
        (folder / "wrong").write_text("0" * 64)
        port, jobs = free_port(), free_port()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "NAS_"))}
        environment = kept | {
            "RAY_TMPDIR": name,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}",
            "OMP_NUM_THREADS": "1",
        }
        start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
        settings = [f"--port={port}", "--num-cpus=2", "--include-dashboard=true", f"--dashboard-port={jobs}"]
        settings += [f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}"]
        with (folder / "head.log").open("wb") as log:
            command = [*start, *settings, "--object-store-memory=100000000"]
            head = subprocess.Popen(command, env=environment, cwd=name, stdout=log, stderr=log)
        found = Cluster(f"http://127.0.0.1:{jobs}", f"{get_node_ip_address()}:{port}", folder, environment)
        try:
            until(lambda: _answers(jobs), (folder / "head.log").read_text())
            yield found
        finally:
            head.terminate()
            head.wait(PATIENCE_S)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_is_sent_followed_and_kept_in_the_database(cluster: Cluster) -> None:
    job = cluster.job("sent", 0.0)
    store = cluster.folder / "sent.db"
    done = cluster.nas(job, "--store", str(store), "--submission-id", "first", "--trials", "12")
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert done.stdout.startswith(f"job first on {cluster.url}\n")
    assert "12 COMPLETED" in done.stdout
    assert cluster.counts(store) == {"COMPLETED": 12}
    again = cluster.nas(job, "--store", str(store), "--submission-id", "first")
    assert "there is a job 'first' at" in again.stderr
    assert cluster.nas("--logs", "first").stdout.count("12 COMPLETED") == 1
    assert cluster.nas("--cancel", "first").stdout == "job first: SUCCEEDED\n"


@pytest.mark.ray
@pytest.mark.slow
def test_what_fails_on_the_cluster_is_told_with_what_it_printed(cluster: Cluster) -> None:
    job = cluster.job("failing", 0.0)
    done = cluster.nas(job, "--store", "/proc/no/such/place.db")
    assert done.returncode == 2
    assert "nas: database '/proc/no/such/place.db' cannot be made" in done.stdout
    assert re.search(r"^nas: job raysubmit_\w+ failed: ", done.stderr.splitlines()[-1])


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("way", ["interrupt", "cancel"])
def test_a_cancelled_job_hands_its_trials_back_and_goes_on_later(cluster: Cluster, way: str) -> None:
    job = cluster.job(way, 1.0)
    store = cluster.folder / f"{way}.db"
    arguments = [job, "--store", str(store), *(["--no-wait", "--submission-id", way] if way == "cancel" else [])]
    with subprocess.Popen(
        cluster.command(*arguments), env=cluster.environment, cwd=cluster.folder, stderr=subprocess.PIPE, text=True
    ) as submitted:
        until(lambda: cluster.counts(store).get("COMPLETED", 0) >= 2, "no trial was finished")
        if way == "interrupt":
            submitted.send_signal(signal.SIGINT)
            _, said = submitted.communicate(timeout=PATIENCE_S)
            assert submitted.returncode == 130, said
            assert said.splitlines()[-1] == "nas: interrupted; the same command goes on where it stopped"
        else:
            assert submitted.wait(PATIENCE_S) == 0
            assert cluster.nas("--cancel", way).stdout == f"job {way}: STOPPED\n"
    counts = cluster.counts(store)
    assert "RUNNING" not in counts, counts
    assert counts["WAITING"] > 0
    (cluster.folder / way / "helper.py").write_text(HELPER.format(seconds=0.0))
    assert cluster.nas(job, "--store", str(store)).returncode == 0
    assert cluster.counts(store) == {"COMPLETED": 20}


@pytest.mark.ray
@pytest.mark.slow
def test_what_cannot_be_asked_is_one_sentence(cluster: Cluster) -> None:
    for arguments, changes, says in (
        (["--logs", "nobody"], {}, "there is no job 'nobody' at"),
        (["--cancel", "nobody"], {}, "there is no job 'nobody' at"),
        (["--logs", "x"], {"RAY_AUTH_TOKEN_PATH": str(cluster.folder / "wrong")}, "refuses this token"),
        (["--logs", "x"], {"RAY_AUTH_MODE": "disabled"}, "refuses this token"),
        (["--logs", "x"], {"RAY_AUTH_TOKEN_PATH": str(cluster.folder / "none")}, "/none' cannot be read"),
    ):
        done = cluster.nas(*arguments, **changes)
        assert done.returncode == 2, done.stderr
        assert says in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_the_same_token_lets_a_driver_in_that_runs_here(cluster: Cluster) -> None:
    job = cluster.job("here", 0.0)
    store = cluster.folder / "here.db"
    command = [sys.executable, "-m", "nas", "run", job, "--address", cluster.head, "--store", str(store), "--quiet"]
    for token, code, says in (
        ("none", 2, f"nas: the token for Ray at {cluster.head} is missing: '{cluster.folder}/none' cannot be read"),
        ("wrong", 2, f"nas: Ray at {cluster.head} refuses this token; name the file"),
        ("token", 0, ""),
    ):
        changes = {"RAY_AUTH_TOKEN_PATH": str(cluster.folder / token)}
        done = subprocess.run(
            command, env=cluster.environment | changes, cwd=cluster.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert says in done.stderr
    assert cluster.counts(store) == {"COMPLETED": 20}


def test_mistakes_are_found_before_anything_is_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("NAS_STORE", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "job.py").write_text("from tests.study.landscapes import study\nstudy = study('nas.db')\nother = 3\n")
    nowhere = ["--address", "http://127.0.0.1:1"]
    installed = importlib.util.find_spec("aiohttp") is not None
    unanswered = "no job server of Ray answers at http://127.0.0.1:1" if installed else "pip install 'supernas[jobs]'"
    for arguments, says in (
        (["job.py", *nowhere], "database 'nas.db' would lie in the job's folder on the cluster"),
        (
            ["job.py", "--store", "postgresql://me:secret@host/x", *nowhere],
            "names a password, which everybody would see",
        ),
        (["job.py:other", *nowhere], "'other' of job 'job.py' is a int"),
        (["jib.py", *nowhere], "did you mean 'job.py'?"),
        (["job.py", "--store", "/nas.db", *nowhere], unanswered),
        (["job.py", "--store", "/nas.db"], "no cluster is named; give --address http://HOST:8265"),
        (["job.py", "--store", "/nas.db", "--address", "head"], "address 'head' is not usable; give http://HOST:8265"),
        (["job.py", "--cancel", "x"], "say one of: a job to submit, --logs ID, or --cancel ID"),
        ([], "say one of"),
    ):
        assert run(["submit", *arguments]) == 2
        said = capsys.readouterr().err
        assert says in said
        assert "secret" not in said
        assert said.count("\n") == 1, said


def test_help_loads_neither_torch_nor_ray() -> None:
    code = (
        "import json, sys\nfrom nas.cli.app import run\nrun(['submit', '--help'])\n"
        "print(json.dumps([*({'torch', 'ray', 'numpy'} & set(sys.modules))]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stderr) == []
