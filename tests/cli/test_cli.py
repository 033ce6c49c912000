"""The command line as a user meets it: what is printed, what is written, how it ends."""

from __future__ import annotations

import io
import json
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nas.cli.app import app, run
from nas.store import Store
from nas.store.schema import HEAD
from tests.study.landscapes import study

JOB = """
import nas
from tests.study.landscapes import grid, trade_off

study = nas.Study(
    "grid",
    space=grid(),
    objectives=["max quality", "min cost"],
    evaluators=[trade_off],
    algorithm=nas.Exhaustive(),
    store={store!r},
    trials=64,
)
other = study
number = 7

def made():
    return study

def broken():
    raise ValueError("no luck")
"""


class Result:
    """What one command did."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


Nas = Callable[..., Result]


@pytest.fixture
def nas(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Nas:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NAS_STORE", raising=False)

    def call(*arguments: str) -> Result:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def job(tmp_path: Path) -> str:
    (tmp_path / "job.py").write_text(JOB.format(store=str(tmp_path / "nas.db")))
    return "job.py"


@pytest.fixture
def searched(nas: Nas, job: str) -> Nas:
    assert nas("run", job, "--workers", "0", "--quiet").code == 0
    return nas


def test_every_command_is_documented(nas: Nas) -> None:
    help_text = nas("--help").out
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    for name in (
        "train",
        "run",
        "submit",
        "studies",
        "show",
        "front",
        "retry",
        "compare",
        "objectives",
        "rename",
        "delete",
        "extract",
        "export",
        "export-optuna",
        "elastic",
        "doctor",
        "db",
        "devices",
        "measure",
        "predictor",
    ):
        assert app[name].help
        assert name in help_text
        assert f"nas {name}" in readme, f"the README does not mention 'nas {name}'"


def test_run_says_what_was_found_and_what_to_do_next(nas: Nas, job: str) -> None:
    done = nas("run", job, "--workers", "0", "--quiet")
    assert done.code == 0
    assert "64 COMPLETED; 8 on the front, best quality 7, best cost 0" in done.out
    assert "nas front grid" in done.out
    again = nas("run", job, "--workers", "0", "--quiet")
    assert "already" in again.out


def test_name_store_and_trials_override_the_job(nas: Nas, job: str, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    nas("run", job, "--workers", "0", "--quiet", "--name", "mine", "--store", other, "--trials", "5")
    listed = json.loads(nas("studies", "--store", other, "--format", "json").out)
    assert [(row["study"], row["trials"]["COMPLETED"]) for row in listed] == [("mine", 5)]
    assert not (tmp_path / "nas.db").exists()


def test_progress_is_lines_where_there_is_no_terminal(nas: Nas, job: str) -> None:
    assert "grid: 0/64 trials, workers are starting" in nas("run", job, "--workers", "0").err


def test_dry_run_measures_one_arch_and_writes_nothing(nas: Nas, job: str, tmp_path: Path) -> None:
    found = json.loads(nas("run", job, "--dry-run").out)
    assert found["measurements"] == {"quality": 0.0, "cost": 0.0}
    assert not (tmp_path / "nas.db").exists()


@pytest.mark.parametrize("reference", ["job.py:other", "job.py:made", "job"])
def test_a_job_may_name_its_study(nas: Nas, job: str, reference: str) -> None:
    assert nas("run", reference, "--dry-run").code == 0


def test_studies_and_show(searched: Nas) -> None:
    assert re.search(r"grid\W+grid\W+max quality, min cost\W+0\W+0\W+64\W+0\W+0\W+8", searched("studies").out)
    shown = searched("show", "grid", "--limit", "3").out
    assert "algorithm:   name exhaustive" in shown
    assert "COMPLETED 64" in shown
    latest = json.loads(searched("show", "grid", "--where", "quality > 6", "--format", "json").out)["latest"]
    assert [row["quality"] for row in latest] == [7.0]
    assert "no trials" in searched("show", "grid", "--state", "FAILED").out


def test_front_in_every_format(searched: Nas, tmp_path: Path) -> None:
    table = searched("front", "grid").out
    assert "quality" in table
    assert "x0=7" in table
    assert "in all of them: x1=0" in table
    rows = json.loads(searched("front", "grid", "--format", "json").out)
    assert [row["quality"] for row in rows] == [7, 6, 5, 4, 3, 2, 1, 0]
    assert rows[0]["choices"] == {"x0": 7, "x1": 0}
    csv = searched("front", "grid", "--format", "csv").out.splitlines()
    assert csv[0] == "trial,quality,cost,x0,x1"
    assert len(csv) == 9
    for name, start in [("f.png", b"\x89PNG"), ("f.html", b"<!doctype html>"), ("f.csv", b"trial"), ("f.json", b"[")]:
        assert searched("front", "grid", "-o", name).out == f"wrote {name}\n"
        assert (tmp_path / name).read_bytes().startswith(start)
    page = (tmp_path / "f.html").read_text(encoding="utf-8")
    assert page.count("<tr data-trial=") == 8
    assert "http:" not in page
    assert "https:" not in page
    searched("front", "grid", "--format", "png")
    assert (tmp_path / "grid-front.png").exists()


def test_front_of_a_filter(searched: Nas) -> None:
    rows = json.loads(searched("front", "grid", "--where", "cost <= 4 and x0 >= 1", "--format", "json").out)
    assert [row["quality"] for row in rows] == [2, 1]
    assert "no feasible trial where cost < 0" in searched("front", "grid", "--where", "cost < 0").out


def test_database_commands(searched: Nas) -> None:
    assert f"this version of supernas needs {HEAD}" in searched("db", "current").out
    assert "nothing to do" in searched("db", "upgrade").out


def test_a_study_is_renamed_and_deleted(searched: Nas, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(text: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))

    assert "study 'grid' is now called 'mine'" in searched("db", "rename", "grid", "mine").out
    assert "no study 'grid'" in searched("front", "grid").err
    assert "already" in searched("run", job, "--name", "mine", "--workers", "0", "--quiet").out
    assert "no evaluator of study 'mine'" in searched("extract", "mine", "0", "-o", "out").err, "its job goes with it"
    assert searched("db", "rename", "mine", "a/b").code == 2
    for said in ("", "n\n", "maybe\n"):
        answer(said)
        refused = searched("db", "delete", "mine")
        assert refused.code == 2
        assert "delete study 'mine' with its 64 trials from nas.db? [y/N]" in refused.err
        assert "was not deleted" in refused.err
    answer("y\n")
    assert "deleted study 'mine' with its 64 trials" in searched("db", "delete", "mine").out
    again = searched("run", job, "--name", "grid", "--workers", "0", "--quiet")
    assert again.code == 0, again.err
    assert searched("db", "delete", "grid", "--yes").code == 0
    assert json.loads(searched("studies", "--format", "json").out) == []


def test_doctor_looks_at_what_matters(searched: Nas) -> None:
    found = searched("doctor")
    assert found.code == 0
    for what in ("torch", "ray", "devices", "threads", "nas.db: 1 studies"):
        assert what in found.out


def _sentences(job: str, tmp_path: Path) -> list[tuple[list[str], str]]:
    """Commands that cannot work, and what each says."""
    (tmp_path / "syntax.py").write_text("import nas\nstudy = (\n")
    (tmp_path / "fails.py").write_text("import nas\nundefined_name\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "text.db").write_text(
        "this is no database, whatever its name says, and it is long enough to show it\n" * 20
    )
    sqlite3.connect(tmp_path / "foreign.db").execute("create table t (x)").connection.commit()
    return [
        (["front", "gird"], "no study 'gird'; did you mean 'grid'?"),
        (["front", "grid", "--where", "qualty > 1"], "no column 'qualty'; did you mean 'quality'?"),
        (["front", "grid", "--where", "quality >"], "quality >"),
        (["front", "grid", "--where", "__import__('os')"], "__import__"),
        (["front", "grid", "--store", "none.db"], "'none.db' does not exist"),
        (["front", "grid", "--store", "text.db"], "text.db"),
        (["front", "grid", "--store", "foreign.db"], "foreign.db"),
        (["show", "grid", "--store", "none.db"], "does not exist"),
        (["studies", "--store", "none.db"], "does not exist"),
        (["db", "current", "--store", "none.db"], "does not exist"),
        (["run", "jib.py"], "'jib.py' does not exist; did you mean 'job.py'?"),
        (["run", "no.such.module"], "neither a file nor a module"),
        (["run", "job.py:studdy"], "defines no 'studdy'; did you mean 'study'?"),
        (["run", "job.py:number"], "is a int, no nas.Study"),
        (["run", "job.py:broken"], "cannot build its study: ValueError: no luck (job.py:"),
        (["run", "syntax.py"], "does not import: SyntaxError"),
        (["run", "fails.py"], "does not import: NameError: name 'undefined_name' is not defined (fails.py:2)"),
        (["run", "leaves.py"], "does not import: SystemExit: 3"),
        (["run", job, "--trials", "0"], "--trials was given 0; it is a whole number, 1 or more"),
        (["run", job, "--workers", "-1"], "--workers was given -1; it is a whole number, 0 or more"),
        (["run", job, "--name", "a/b"], "study name 'a/b'"),
        (["train", job], "has nothing to train"),
        (["extract", "grid", "0", "-o", "out"], "no evaluator of study 'grid' says which network it evaluated"),
        (["extract", "grid", "999", "-o", "out"], "no trial 999"),
        (["export", "grid", "0", "-o", "out.onnx"], "no evaluator of study 'grid' says which network it evaluated"),
        (["export", "grid", "999", "-o", "out.pt2"], "no trial 999"),
        (
            ["export", "grid", "0", "-o", "out.onx"],
            "is not one of pt2, onnx, safetensors, pretrained; did you mean 'onnx'?",
        ),
        (["front", "grid", "-o", "missing/f.csv"], "missing"),
    ]


def test_every_mistake_is_one_sentence_and_code_2(searched: Nas, job: str, tmp_path: Path) -> None:
    before = sorted(os.listdir(tmp_path))
    cases = _sentences(job, tmp_path)
    written = {"syntax.py", "fails.py", "leaves.py", "text.db", "foreign.db", "missing"}
    for arguments, text in cases:
        done = searched(*arguments)
        assert done.code == 2, f"{arguments}: {done.out}{done.err}"
        assert text in done.err, f"{arguments}: {done.err}"
        assert done.err.startswith("nas: "), done.err
        assert done.err.count("\n") == 1, f"{arguments}: {done.err}"
    left = {name for name in os.listdir(tmp_path) if not name.endswith(("-wal", "-shm"))} - written
    assert left <= {*before}, "a command that failed left something behind"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(["front", "x", "--format", "pdf"], "format"), (["run", "job.py", "--trails", "3"], "--trials"), (["rum"], "run")],
)
def test_mistyped_options_are_refused_with_a_suggestion(nas: Nas, arguments: list[str], text: str) -> None:
    done = nas(*arguments)
    assert done.code == 2
    assert text in done.out + done.err


def test_too_many_failures_exit_with_the_summary(nas: Nas, tmp_path: Path) -> None:
    from tests.study.landscapes import broken

    search = study(tmp_path / "nas.db", evaluators=[broken], max_failures=3)
    assert search.max_failures == 3
    (tmp_path / "bad.py").write_text(
        "from tests.study.landscapes import *\nstudy = study('nas.db', evaluators=[broken], max_failures=3)\n"
    )
    done = nas("run", "bad.py", "--workers", "0", "--quiet")
    assert done.code == 2
    assert "3 evaluations in a row failed" in done.err
    assert "FAILED" in nas("show", "grid", "--state", "FAILED").out


def test_every_database_that_a_command_opens_is_closed(
    searched: Nas, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Store] = []
    begin, end = Store.__init__, Store.close

    def noted(store: Store, *given: Any) -> None:
        begin(store, *given)
        opened.append(store)

    def closed(store: Store) -> None:
        end(store)
        if store in opened:
            opened.remove(store)

    monkeypatch.setattr(Store, "__init__", noted)
    monkeypatch.setattr(Store, "close", closed)
    for command in (
        ["run", job, "--workers", "0", "--name", "again", "--quiet"],
        ["run", job, "--dry-run"],
        ["show", "grid"],
        ["front", "grid"],
        ["studies"],
        ["devices"],
        ["predictor", "show"],
        ["doctor"],
        ["db", "current"],
    ):
        assert searched(*command).code == 0, command
        assert opened == [], command
    assert searched("predictor", "fit", job).code == 2  # nothing was measured
    assert opened == []

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nas.study.driver.Driver.run", interrupted)
    assert searched("run", job, "--workers", "0", "--name", "another", "--quiet").code == 130
    assert opened == []
