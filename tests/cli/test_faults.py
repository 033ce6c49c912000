"""Faults of a job's surroundings: each is one sentence before any work starts, and no database is left behind."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from nas.cli.app import run
from searchspaces import conv
from tests.study.landscapes import study as declare

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
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    conv.supernet().save(tmp_path / "supernet")
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
