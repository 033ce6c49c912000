"""A database may be somebody else's: what it says is shown, and never run, imported or obeyed by a terminal."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyglove as pg
import pytest

import nas as library
from nas.cli.app import run
from nas.store import ArchMeasurement, ImportedTrial, open_store
from nas.text import printable
from tests.study.landscapes import grid

JOB = """
import pathlib
import nas
from tests.study.landscapes import grid, trade_off

pathlib.Path("{mark}").touch()
study = nas.Study(
    "grid", space=grid(), objectives=["max quality", "min cost"], evaluators=[trade_off],
    algorithm=nas.Exhaustive(), store="nas.db", trials=64,
)
"""
ESCAPES = ("\x1b[2J", "\x1b]0;title\x07", "\x9b31m", "\u202ereversed", "\u2066", "\x00", "\u2028", "[red]bold[/red]")
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")

Nas = Callable[..., str]


@pytest.fixture
def nas(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Nas:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NAS_STORE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def call(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        ended = run(list(arguments))
        captured = capsys.readouterr()
        assert ended == code, captured.out + captured.err
        assert "Traceback" not in captured.err
        return captured.err if code else captured.out

    return call


def stored_job(job: str | None) -> None:
    """Say in the database that its study was run from this job."""
    with sqlite3.connect("nas.db") as connection:
        (text,) = connection.execute("SELECT settings FROM studies").fetchone()
        connection.execute("UPDATE studies SET settings = ?", (json.dumps({**json.loads(text), "job": job}),))
    connection.close()


NEEDING_A_JOB = [
    ["extract", "grid", "3", "-o", "winner"],
    ["export", "grid", "3", "-o", "winner.pt2"],
    ["export", "grid", "-o", "winner"],
    ["front", "grid", "--measure"],
]


@pytest.mark.parametrize("command", NEEDING_A_JOB, ids=" ".join)
@pytest.mark.parametrize("evil", ["{here}/evil.py", "{here}/evil.py:study", "evil", "evil:study", "os.path", None])
def test_a_job_that_only_the_database_names_is_not_imported(
    nas: Nas, command: list[str], evil: str | None, tmp_path: Path
) -> None:
    (tmp_path / "evil.py").write_text(JOB.format(mark="evil"))
    library.Study("grid", space=grid(), objectives=["max quality", "min cost"], store="nas.db").ask()
    named = None if evil is None else evil.format(here=tmp_path)
    stored_job(named)
    said = nas(*command, code=2)
    assert not (tmp_path / "evil").exists()
    assert said.count("\n") == 1
    again = f"nas {' '.join(command)} --job {named or 'JOB.py'}"
    assert again in said, "the sentence has the command to copy"


@pytest.mark.parametrize("command", NEEDING_A_JOB, ids=" ".join)
def test_the_job_that_this_user_ran_is_the_one_that_is_imported(nas: Nas, command: list[str], tmp_path: Path) -> None:
    for name in ("mine", "evil"):
        (tmp_path / f"{name}.py").write_text(JOB.format(mark=name))
    nas("run", "mine.py", "--workers", "0", "--quiet")
    stored_job(str(tmp_path / "evil.py"))
    said = nas(*command, code=2)
    assert "supernet" in said or "predicts no latency" in said, "it got as far as the job allows"
    assert not (tmp_path / "evil").exists()


def test_what_was_run_counts_for_its_database_its_study_and_its_folder(
    nas: Nas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(JOB.format(mark="ran"))
    nas("run", "mine", "--workers", "0", "--quiet")  # as a module, which is another one in another folder
    ask = "not one that you ran here"
    assert "no evaluator" in nas("extract", "grid", "3", "-o", "winner", code=2)
    (tmp_path / "nas.db").rename(tmp_path / "theirs.db")
    assert ask in nas("extract", "grid", "3", "-o", "winner", "--store", "theirs.db", code=2)
    (tmp_path / "theirs.db").rename(tmp_path / "nas.db")
    with sqlite3.connect("nas.db") as connection:
        connection.execute("UPDATE studies SET name = 'other'")
    connection.close()
    assert ask in nas("extract", "other", "3", "-o", "winner", code=2)
    with sqlite3.connect("nas.db") as connection:
        connection.execute("UPDATE studies SET name = 'grid'")
    connection.close()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert ask in nas("extract", "grid", "3", "-o", "winner", "--store", str(tmp_path / "nas.db"), code=2)


def test_a_command_line_names_the_job(nas: Nas, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(JOB.format(mark="mine"))
    library.Study("grid", space=grid(), objectives=["max quality", "min cost"], store="nas.db").ask()
    nas("extract", "grid", "0", "-o", "winner", "--job", "mine.py", code=2)
    assert (tmp_path / "mine").exists()


def test_a_command_that_only_the_database_names_is_not_run(nas: Nas, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(JOB.format(mark="mine"))
    touch = ["touch", str(tmp_path / "evil")]
    with open_store("nas.db") as store:
        store.hardware.add_device("phone", {"name": "phone", "command": touch, "format": "onnx", "batch": 1})
    said = nas("measure", "mine.py", "--device", "phone", "--archs", "1", code=2)
    assert "not run on its word" in said
    assert f"--command 'touch {tmp_path / 'evil'}'" in said
    assert not (tmp_path / "evil").exists()
    fitted = nas("predictor", "fit", "mine.py", "--device", "phone", code=2)
    assert "0 measurements" in fitted, "figures are read without the command"


@pytest.mark.parametrize("damaged", [5, None, {"a": 1}, "touch 'x", []])
def test_a_command_of_any_shape_is_only_shown(nas: Nas, damaged: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(JOB.format(mark="mine"))
    with open_store("nas.db") as store:
        store.hardware.add_device("phone", {"name": "phone", "command": damaged, "format": 7, "batch": "many"})
    assert "not run on its word" in nas("measure", "mine.py", "--device", "phone", "--archs", "1", code=2)


# -- terminals, pages and pictures -----------------------------------------------------------------------------------------


@pytest.fixture
def shown(nas: Nas) -> Nas:
    """A database in which every text that may hold anything holds what a terminal would obey, or what rich would."""
    bad = "".join(ESCAPES) + ":warning: $\\frac{ <script>alert(1)</script>"
    space = library.Space(
        pg.Dict(x=pg.oneof(["a" + bad.replace("\x00", ""), "=1+1"])), name="s" + bad.replace("\x00", "")
    )
    with open_store("nas.db") as store:
        record = store.create_study(
            "bad " + bad.replace("\x00", ""),
            space_schema=space.schema(),
            objectives=[library.Metric("quality", "max", unit=bad.replace("\x00", "")), library.Metric("cost", "min")],
            settings={"job": bad, "algorithm": {"name": bad}},
        )
        for index, quality in enumerate((1.0, 2.0)):
            row = [float(index)]
            finals = {"quality": quality, "cost": quality}
            record.import_trials([ImportedTrial(f"k{index}", row, finals, reason=bad)])
        record.annotate({bad: bad}, 0)
        store.hardware.add_device("device" + bad.replace("\x00", ""), {"name": bad, "command": ["run", bad]})
        device = "device" + bad.replace("\x00", "")
        store.hardware.add_measurements(device, space.fingerprint, [ArchMeasurement("k", [0], 1.0)])
        name = record.name

    def call(*arguments: str, code: int = 0) -> str:
        return nas(*(name if argument == "STUDY" else argument for argument in arguments), code=code)

    return call


@pytest.mark.parametrize(
    "command",
    [
        ["studies"],
        ["studies", "--format", "json"],
        ["show", "STUDY"],
        ["show", "STUDY", "--all"],
        ["show", "STUDY", "--format", "json"],
        ["front", "STUDY"],
        ["front", "STUDY", "--format", "json"],
        ["front", "STUDY", "--format", "csv"],
        ["front", "STUDY", "--where", "quality < 0"],
        ["devices"],
        ["devices", "--format", "json"],
        ["predictor", "show"],
    ],
    ids=" ".join,
)
def test_what_a_terminal_would_obey_is_shown(shown: Nas, command: list[str]) -> None:
    said = shown(*command)
    assert not OBEYED.search(said)
    if "csv" in command or command == ["show", "STUDY"]:
        assert "[red]bold[/red]" in said, "nor is markup obeyed"
        assert ":warning:" in said


@pytest.mark.parametrize(
    "command",
    [
        ["front", "none"],
        ["front", "STUDY", "--where", "z == 1"],
        ["extract", "STUDY", "0", "-o", "winner"],
        ["extract", "STUDY", "77", "-o", "winner"],
        ["front", "STUDY", "--measure"],
    ],
    ids=" ".join,
)
def test_so_it_is_in_errors(shown: Nas, command: list[str]) -> None:
    said = shown(*command, code=2)
    assert not OBEYED.search(said)
    assert said.count("\n") == 1


@pytest.mark.parametrize("format", ["html", "png", "csv"])
def test_so_it_is_in_files(shown: Nas, format: str, tmp_path: Path) -> None:
    shown("front", "STUDY", "-o", f"f.{format}")
    if format == "png":
        return
    text = (tmp_path / f"f.{format}").read_text(encoding="utf-8")
    assert not OBEYED.search(text)
    assert format == "csv" or text.count("<script") == 2, "its own alone: tests/test_page.py"


def test_letters_of_every_script_stay() -> None:
    text = "größe 宽度 عرض \u3000 naïve ½ €"
    assert printable(text) == text
    assert printable("a\nb") == "a\\nb"
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"
    assert printable("\ud800") == "\\ud800"
