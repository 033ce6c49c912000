"""A job whose code ends the program, or raises what is no error, is a sentence and exit code 2: never success."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nas.cli.app import run

JOB = """
import asyncio, sys
import nas, pyglove as pg

class Odd(BaseException):
    pass

class Mute(Exception):
    def __str__(self):
        raise ValueError("no text")

def evaluate(arch):
    {evaluate}
    return {{"quality": float(arch.choices["x"])}}

def study():
    {build}
    return nas.Study("one", space=nas.Space(pg.Dict(x=pg.oneof([1, 2, 3]))), objectives=["max quality"], evaluators=[evaluate],
                     algorithm="exhaustive", store={store!r}, max_failures=2)

{top}
"""
RAISED = [
    "sys.exit()",
    "sys.exit(0)",
    "raise KeyboardInterrupt",
    "raise GeneratorExit",
    "raise asyncio.CancelledError",
    "raise StopIteration",
    "raise Odd('odd')",
    "raise Mute",
]


def job(tmp_path: Path, **where: str) -> str:
    parts = {"top": "pass", "build": "pass", "evaluate": "pass", "store": str(tmp_path / "nas.db"), **where}
    name = re.sub(r"\W", "_", "_".join(where.values()))
    (tmp_path / f"job_{name}.py").write_text(JOB.format(**parts))
    return str(tmp_path / f"job_{name}.py")


@pytest.mark.parametrize("raised", RAISED)
@pytest.mark.parametrize("place", ["top", "build"])
def test_a_job_that_ends_the_program_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, raised: str
) -> None:
    assert run(["run", job(tmp_path, **{place: raised}), "--workers", "0"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("nas: job ")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("raised", RAISED)
def test_an_evaluator_that_ends_the_program_fails_its_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], raised: str
) -> None:
    path = job(tmp_path, evaluate=f"if arch.choices['x'] == 2: {raised}")
    assert run(["run", path, "--workers", "0", "--trials", "3", "--quiet"]) == 0
    assert "2 COMPLETED, 1 FAILED" in capsys.readouterr().out
    always = job(tmp_path, evaluate=raised, store=str(tmp_path / "always.db"))
    assert run(["run", always, "--workers", "0", "--quiet"]) == 2
    assert "evaluations in a row failed" in capsys.readouterr().err
    assert run(["run", always, "--dry-run"]) == 2
    assert capsys.readouterr().err.startswith("nas: the evaluation of arch ")


def test_help_is_no_failure() -> None:
    assert run(["--help"]) == 0
    assert run(["run", "--help"]) == 0
    assert run(["--version"]) == 0
