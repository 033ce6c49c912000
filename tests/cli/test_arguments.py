"""Wrong words on the command line, for every parameter of every command, and outputs that take less than is written."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from nas.cli.app import run
from nas.cli.root import app

JOB = """
import nas, pyglove as pg

def evaluate(arch):
    return {"score": float(arch.choices["w"])}

study = nas.Study(
    "s", space=nas.Space(pg.Dict(w=pg.oneof([1, 2, 3]))), objectives=["max score"], evaluators=[evaluate],
    algorithm="random", trials=2, store="nas.db",
)
"""
WORDS: dict[Any, list[str]] = {
    int: ["", "x", "1.5", "-1", "1e1", "nan", "True", "99999999999999999999999", "\udcff", "1" * 5000],
    float: ["", "x", "-1", "nan", "inf", "-inf", "1e400", "\udcff"],
    str: ["", "\udcff", "'", '"', "x" * 5000, "~nobody-of-that-name/x", "\x1b[31m"],
    Path: ["", "~nobody-of-that-name/x", "x" * 5000, "."],
    Literal: ["", "x", "\udcff"],
}
RIGHT = {
    "job": "job.py",
    "study": "s",
    "trial": "0",
    "output": "out",
    "source": "nas.db",
    "target": "other.db",
    "new": "t",
    "other": "s",
    "objectives": "max score",
    "budget": "50%",
}
# These would look for a cluster.
ADDRESSES = ("address", "submission_id", "logs", "cancel")


def _commands(found: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name in found:
        if not name.startswith("-"):
            command = found[name]
            if command.default_command is not None:
                yield (*words, name), command.default_command
            yield from _commands(command, (*words, name))


def _parameters() -> Iterator[tuple[tuple[str, ...], str]]:
    for words, command in _commands(app):
        for name, hint in typing.get_type_hints(command).items():
            if name != "return" and hint is not bool:
                yield words, name


def _kind(hint: Any) -> Any:
    if typing.get_origin(hint) is Literal:
        return Literal
    options = [one for one in typing.get_args(hint) if one is not type(None)]
    return _kind(options[0]) if options else hint


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job and its study, which has ended."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "job.py").write_text(JOB)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("NAS_STORE", raising=False)
        assert run(["run", "job.py", "--workers", "0", "--quiet"]) == 0
    return folder


@pytest.fixture(autouse=True)
def place(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it."""
    shutil.copytree(searched, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NAS_STORE", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def taken() -> Iterator[str]:
    """A port that is somebody's."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        yield str(one.getsockname()[1])


@pytest.mark.parametrize(
    ("words", "name"), list(_parameters()), ids=lambda one: one if isinstance(one, str) else " ".join(one)
)
def test_a_wrong_word_is_one_sentence(
    words: tuple[str, ...], name: str, place: Path, taken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (command,) = [one for each, one in _commands(app) if each == words]
    hints = typing.get_type_hints(command)
    kind = _kind(hints[name])
    given = ["" if name in ADDRESSES else word for word in WORDS[kind]]
    before = _files(place)
    for word in dict.fromkeys(given):
        required = {
            one: RIGHT[one]
            for one in RIGHT
            if one in hints and one != "output" and (one != "trial" or words != ("export",))
        }
        options = {"output": RIGHT["output"]} if "output" in hints and words != ("front",) else {}
        if words == ("run",):
            options["workers"] = "0"  # what is right may run
        if words == ("serve",):
            options["port"] = taken  # what is right would be served for ever
        (required if name in required else options)[name] = word
        arguments = [*words]
        for option, value in (required | options).items():
            arguments += [f"--{option.replace('_', '-')}={value}"]
        if words == ("export-optuna",):
            arguments += [] if name == "url" else ["--url=optuna.db"]
        code = run(arguments)
        said = capsys.readouterr()
        assert code in (0, 2), arguments
        assert "Traceback" not in said.err
        if kind in (int, float, Literal) or word == "":
            assert code == 2, arguments
            assert said.out == ""
            assert name.replace("_", "-") in said.err or repr(word)[:20] in said.err, said.err
        if code == 2 and kind in (int, float):
            assert said.err.count("\n") == 1, said.err
        if code == 2 and words[0] not in ("measure", "predictor"):  # which open the database first
            assert _files(place) == before, arguments
        before = _files(place)


def _files(place: Path) -> set[str]:
    return {entry.name for entry in place.iterdir() if not entry.name.startswith(("nas.db-", "__pycache__"))}


@pytest.mark.parametrize("store", ["~nobody-of-that-name/x.db", "\udcff/x.db", "x\0y"])
def test_a_database_of_the_environment_is_checked_likewise(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "\0" not in store:
        monkeypatch.setenv("NAS_STORE", store)
    for words in (["studies"], ["show", "s"], ["devices"], ["db", "current"]):
        assert run([*words, *(["--store", store] if "\0" in store else [])]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_database_may_have_a_name_of_any_bytes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "job.py", "--workers", "0", "--quiet", "--store", "caf\udce9.db"]) == 0
    assert run(["studies", "--store", "caf\udce9.db"]) == 0
    assert os.fsencode("caf\udce9.db") in os.listdir(os.fsencode(place))


def nas_command(*arguments: str | bytes, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "nas", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )


# Commands between bars, one after the other; each says that it ended well.
SEVERAL = """
import itertools, sys
from nas.cli.app import run
for bar, words in itertools.groupby(sys.argv[1:], "|".__eq__):
    if not bar:
        assert run([*words]) == 0
        print("ended")
"""


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1:strict"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_a_terminal_that_is_not_utf8_shows_escapes(environment: dict[str, str]) -> None:
    name = "Länge 長さ"
    assert run(["run", "job.py", "--workers", "0", "--quiet", "--name", name]) == 0
    shown = ["|", "show", name.encode(), "|", "front", name.encode(), "|", "front", name.encode(), "--format=csv"]
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL, "studies", *shown],
        capture_output=True,
        env=os.environ | environment,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    studies, *others = done.stdout.split(b"ended\n")
    assert rb"\u9577\u3055" in studies
    assert [len(one) > 0 for one in others] == [True, True, True, False]


@pytest.mark.parametrize("arguments", [["studies"], ["front", "s", "--format=json"], ["--help"], ["show", "s"]])
def test_a_reader_that_is_gone_is_no_error(arguments: list[str]) -> None:
    with nas_command(*arguments) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("arguments", ["studies", "front s --format=json", "front s"])
def test_outputs_that_are_closed_or_full_are_no_traceback(arguments: str) -> None:
    command = f"{sys.executable} -m nas {arguments}"
    closed = subprocess.run(f"{command} >&-", shell=True, capture_output=True, check=False)
    assert (closed.returncode, closed.stderr) == (0, b"")
    if Path("/dev/full").exists():
        full = subprocess.run(f"{command} > /dev/full", shell=True, capture_output=True, check=False)
        assert (full.returncode, full.stderr) == (2, b"nas: No space left on device\n")


@pytest.mark.parametrize("columns", ["1", "10", "0", "x"])
def test_a_narrow_terminal_shows_a_table(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert run(["front", "s"]) == 0
    assert run(["studies"]) == 0
