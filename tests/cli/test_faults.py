"""Faults of a job's surroundings: each is one sentence before any work starts, and no database is left behind."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nas.cli.app import run
from nas.store import open_store
from searchspaces import conv
from tests.study.landscapes import study as declare

if TYPE_CHECKING:
    from tests.conformance.postgres_server import PostgresServer

JOB = """
import nas
from searchspaces import conv

task = nas.digits()
space = conv.space()
study = nas.Study(
    "digits",
    space=space,
    objectives=["max accuracy", "min latency_ms"],
    evaluators=[nas.Accuracy("supernet", task), nas.Latency("supernet"{device})],
    store="nas.db",
)
"""


def _truncate(folder: Path) -> None:
    (weights,) = folder.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])


def _alter(folder: Path) -> None:
    (weights,) = folder.glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-10] ^= 1
    weights.write_bytes(bytes(content))


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _foreign(folder: Path) -> None:
    (folder / "supernet.json").write_text('{"model": "somebody else\'s"}')


def _remove(folder: Path) -> None:
    _empty(folder)
    folder.rmdir()


def _nothing(folder: Path) -> None:
    pass


@pytest.fixture(scope="module")
def supernet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the job's space."""
    folder = tmp_path_factory.mktemp("made") / "supernet"
    made = conv.supernet()
    made.trained = True  # as if: what it measures does not matter here
    made.save(folder)
    return folder


@pytest.mark.parametrize(
    ("spoil", "device", "text"),
    [
        (_truncate, "", "supernet"),
        (_alter, "", "supernet"),
        (_empty, "", "is not a supernet checkpoint"),
        (_foreign, "", "was not written by Supernet.save"),
        (_remove, "", "there is no supernet in 'supernet'"),
        (_nothing, ', nas.Device("cuda:7")', "cuda:7"),
        (_nothing, ', nas.Device("gpu")', "gpu"),
        (_nothing, ", nas.Device(threads=1000)", "1000"),
    ],
)
def test_a_broken_checkpoint_or_device_is_found_before_work_starts(
    spoil: Callable[[Path], None],
    device: str,
    text: str,
    supernet: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(supernet, tmp_path / "supernet")
    spoil(tmp_path / "supernet")
    (tmp_path / "faulty.py").write_text(JOB.format(device=device))
    assert run(["run", str(tmp_path / "faulty.py"), "--workers", "1"]) == 2
    said = capsys.readouterr().err
    assert text in said
    assert said.startswith("nas: ")
    assert said.count("\n") == 1, said
    assert not (tmp_path / "nas.db").exists()


def test_a_database_that_is_newer_locked_or_unwritable_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    declare(tmp_path / "nas.db").run(3, workers=0, progress=False)
    connection = sqlite3.connect(tmp_path / "nas.db")
    connection.execute("vacuum into 'newer.db'")
    connection.close()
    connection = sqlite3.connect(tmp_path / "newer.db")
    connection.execute("update supernas_version set version_num = '9999'")
    connection.commit()
    connection.close()
    (tmp_path / "folder.db").mkdir()
    for arguments, text in [
        (["front", "grid", "--store", "newer.db"], "newer"),
        (["studies", "--store", "folder.db"], "folder.db"),
        (["studies", "--store", "mysql://somewhere/x"], "mysql"),
    ]:
        assert run(arguments) == 2
        said = capsys.readouterr().err
        assert text in said
        assert said.count("\n") == 1, said


SMALL = """
import nas
from tests.study.landscapes import grid, trade_off

study = nas.Study(
    "grid", space=grid(64), objectives=["max quality"], evaluators=[trade_off], algorithm="random", store={store!r}, trials=3000
)
"""


@pytest.mark.parametrize("disk", ["limit", pytest.param("full", marks=pytest.mark.slow)])
def test_a_full_disk_is_one_sentence_and_the_study_goes_on_later(tmp_path: Path, disk: str) -> None:
    """A file that may not grow, and a real disk of 1200 KiB in a mount of the process's own."""
    room = tmp_path / "room"
    room.mkdir()
    (tmp_path / "small.py").write_text(SMALL.format(store=str(room / "nas.db")))
    command = [sys.executable, "-m", "nas", "run", "small.py", "--workers", "0", "--quiet"]
    # What is on the small disk is taken out before its mount ends with the shell.
    rescued = (
        f"{shlex.join(command)}; code=$?; mkdir {tmp_path / 'kept'}; cp {room}/nas.db* {tmp_path / 'kept'}; exit $code"
    )
    if disk == "limit":
        limited = ["sh", "-c", f"ulimit -f 2400; {rescued}"]  # blocks of 512 bytes
    elif subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode == 0:
        limited = ["unshare", "-m", "sh", "-c", f"mount -t tmpfs -o size=1200k none {room} && {rescued}"]
    else:
        pytest.skip("this user may not have mounts of its own")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(limited, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, (done.stdout, done.stderr)
    said = [line for line in done.stderr.splitlines() if line.startswith("nas: ")]
    assert len(said) == 1, done.stderr
    assert re.search("cannot grow: the disk is full|cannot be read or written .*check the disk", said[0])
    assert "Traceback" not in done.stderr

    kept = tmp_path / "kept" / "nas.db"
    with open_store(kept, create=False) as store:
        before = store.open_study("grid").trials(where="state == 'COMPLETED'")["quality"].to_dict()
    assert len(before) > 20
    again = subprocess.run(
        [*command, "--store", str(kept), "--trials", str(len(before) + 100)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    with open_store(kept, create=False) as store:
        after = store.open_study("grid").trials(where="state == 'COMPLETED'")["quality"].to_dict()
        assert store.open_study("grid").counts()["RUNNING"] == 0
    assert len(after) == len(before) + 100
    assert before.items() <= after.items()


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql://me:wr%40ng@127.0.0.1:1/x", "no server answers at 127.0.0.1, port 1"),
        ("postgresql://me@no-such-host.invalid/x", "there is no host no-such-host.invalid"),
        ("postgresql+psycopg2://me@host/x", "names the driver 'psycopg2'; supernas uses psycopg"),
        ("oracle://me@host/x", "is not supported"),
    ],
)
def test_a_database_that_is_not_there_is_found_before_work_starts(
    url: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.py").write_text(SMALL.format(store=url))
    assert run(["run", "small.py"]) == 2
    said = capsys.readouterr().err
    assert text in said
    assert "wr%40ng" not in said
    assert said.count("\n") == 1, said


@pytest.mark.postgres
def test_a_wrong_password_is_found_before_work_starts(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.py").write_text(SMALL.format(store=server.url("postgres", password="wr@ng")))
    assert run(["run", "small.py"]) == 2
    said = capsys.readouterr().err
    assert "refuses user nas: wrong password or user" in said
    assert "wr" not in said.replace("wrong", "")
    assert said.count("\n") == 1, said


@pytest.mark.ray
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--address", "127.0.0.1:1"], "no Ray answers at 127.0.0.1:1 (Connection refused)"),
        (["--address", "head"], "Ray address 'head' is not usable; give host:port of the head"),
        (["--address", "ray://head:10001"], "send the job there with 'nas submit'"),
        (["--ray", "--workers", "0"], "workers=0 evaluates in this process; give at least 1 for Ray"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_one_sentence(
    arguments: list[str],
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.py").write_text(SMALL.format(store="nas.db"))
    assert run(["run", "small.py", "--quiet", *arguments]) == 2
    said = capsys.readouterr().err
    assert text in said
    assert said.count("\n") == 1, said
