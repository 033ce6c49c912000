"""Calling the command line in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nas.cli.app import run


class Result:
    """What one command did."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture(autouse=True)
def _as_wide_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table in a pipe is cut to `COLUMNS`, which processes of a parallel run of the tests are given."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Result]:
    """`nas ARGUMENTS` in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NAS_STORE", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # which knows files by their second

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        for job in [name for name in sys.modules if name.startswith("nas_job_")]:
            del sys.modules[job]  # the file may be another one now
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Result(code, captured.out, captured.err)

    return call
