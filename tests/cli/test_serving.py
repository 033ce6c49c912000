"""`nas serve` from a shell."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from nas.cli.app import run
from tests.web.served import toy


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "toy.db"
    toy(path, trials=4)
    return path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_and_ends_with_a_signal(store: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "nas", "serve", "--store", str(store), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    said = process.stdout.readline()
    assert said.startswith("serving http://127.0.0.1:")
    address = said.split()[1]
    with urllib.request.urlopen(f"{address}api/v1/studies", timeout=300) as answer:
        assert json.loads(answer.read())["studies"][0]["name"] == "toy"
    with urllib.request.urlopen(address, timeout=300) as answer:
        assert b"<!doctype html>" in answer.read()[:100].lower()
    process.send_signal(number)
    _, error = process.communicate()
    assert process.returncode in (0, 128 + number)
    assert "Traceback" not in error


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run(["serve", *([] if "--port" in words else ["--port", "0"]), *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("nas: ")
    assert said.count("\n") == 1
    return said


def test_what_cannot_be_served_is_one_sentence(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = ["--store", str(store)]
    assert "does not exist" in refused(capsys, "--store", str(tmp_path / "nothing.db"))
    assert "so a token is needed" in refused(capsys, *there, "--host", "0.0.0.0")
    assert "is none; give a folder with job files" in refused(capsys, *there, "--jobs", str(tmp_path / "nowhere"))
    assert "is no path" in refused(capsys, *there, "--prefix", "nas")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "cannot be bound to" in refused(capsys, *there, "--port", str(taken.getsockname()[1]))
    assert "port 99999 is none" in refused(capsys, *there, "--port", "99999")
    assert "cannot be bound to" in refused(capsys, *there, "--host", "192.0.2.1", "--token", str(_token(tmp_path)))
    token = tmp_path / "token"
    token.write_text("x" * 40)
    token.chmod(0o644)
    assert "chmod 600" in refused(capsys, *there, "--token", str(token))


def _token(folder: Path) -> Path:
    file = folder / "own-token"
    file.write_text("y" * 40)
    file.chmod(0o600)
    return file


def test_a_database_is_made_when_that_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new.db"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused(capsys, "--store", str(path), "--create", "--port", str(taken.getsockname()[1]))
    assert path.exists()
