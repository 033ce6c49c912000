"""What commands write: never over the database or what they did not make, whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas import files, sealed
from nas.cli.app import run
from nas.errors import PredictorError, StoreError
from nas.optuna import export_study
from nas.predict import Learned
from nas.store import open_store
from tests.conformance.predictor import archs, space, truth
from tests.deploy.test_command import JOB
from tests.study.landscapes import study as declare


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study without a supernet, searched, in `nas.db`; one with a supernet in `mlp.db`."""
    folder = tmp_path_factory.mktemp("made")
    searched = declare(folder / "nas.db")
    searched.run(20, workers=0, progress=False)
    searched.close()
    (folder / "job.py").write_text(JOB.replace('"nas.db"', '"mlp.db"'))
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert run(["train", "job.py", "--quiet"]) == 0
        assert run(["run", "job.py", "--workers", "0", "--quiet"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, with links to its database, which is the folder that commands run in."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    (tmp_path / "link.db").symlink_to("nas.db")
    (tmp_path / "hard.db").hardlink_to(tmp_path / "nas.db")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NAS_STORE", raising=False)
    monkeypatch.setattr(files, "_swept", set())
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    """Of all files but an empty log of SQLite's, its index, and what Python compiled."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and not file.name.endswith(("-shm", ".pyc"))
        and not (file.name.endswith("-wal") and file.stat().st_size == 0)
    }


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert run(list(arguments)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("nas: ")
    assert said.err.count("\n") == 1
    return said.err


DATABASE = [
    *("nas.db", "./nas.db", "sub/../nas.db", "link.db", "hard.db"),
    *("nas.db-wal", "nas.db-shm", "nas.db-journal", "sub/../nas.db-wal"),
]


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("name", [*DATABASE, "absolute"])
def test_nothing_is_written_over_the_database(
    name: str, force: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(folder / "nas.db") if name == "absolute" else name
    before = contents(folder)
    for store in ([], ["--store", "link.db"], ["--store", f"sqlite:///{folder}/nas.db"]):
        for command in (
            ["front", "grid", "--format", "csv", "-o", output],
            ["front", "grid", "--format", "png", "-o", output],
            ["export", "grid", "0", "--format", "onnx", "-o", output],
            ["export", "grid", "-o", output],
            ["extract", "grid", "0", "-o", output],
        ):
            assert "belongs to database" in refusal(capsys, *command, *store, *force), command
        if not force:
            assert "belongs to database" in refusal(capsys, "export-optuna", "grid", output, *store)
    assert contents(folder) == before


@pytest.mark.parametrize("format", ["json", "csv", "html", "png"])
def test_a_front_is_written_over_an_earlier_one_alone(
    format: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    front = ["front", "grid", "--format", format, "-o"]
    (folder / "notes").write_text("number of my notes\n")
    (folder / "list.json").write_text('[{"trial": 3}]')
    (folder / "page.html").write_text("<!doctype html><html lang=en><meta charset=utf-8><title>mine</title>")
    checkpoint = sorted(str(file.relative_to(folder)) for file in (folder / "trained").rglob("*") if _has_content(file))
    assert len(checkpoint) >= 4
    before = contents(folder)
    for name in ("job.py", "notes", "list.json", "page.html", "mlp.db", *checkpoint):
        assert "exists already" in refusal(capsys, *front, name)
    assert "is a folder; give a file" in refusal(capsys, *front, "sub")
    assert "does not exist; make it first" in refusal(capsys, *front, "none/f")
    assert contents(folder) == before
    (folder / "empty").touch()
    (folder / "link").symlink_to("linked")
    for name in ("new", "empty", "link"):
        for _ in range(2):  # the second time over its own
            assert run([*front, name]) == 0
        first = (folder / name).read_bytes()
        assert len(first) > 50
    assert (folder / "link").is_symlink()
    assert run([*front, "notes", "--force"]) == 0
    assert len((folder / "notes").read_bytes()) > 50
    assert [path.name for path in folder.iterdir() if path.name.startswith(".s")] == []


def _has_content(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def test_a_front_may_go_into_a_pipe(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["front", "grid", "--format", "csv", "-o", "/dev/null"]) == 0
    assert Path("/dev/null").is_char_device()
    assert capsys.readouterr().out == "wrote /dev/null\n"


def test_the_name_that_a_picture_has_unless_told_is_checked_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "grid-front.html").write_text("my own page")
    assert "'grid-front.html' exists already" in refusal(capsys, "front", "grid", "--format", "html")
    assert (folder / "grid-front.html").read_text() == "my own page"
    for force in (["--force"], []):
        assert run(["front", "grid", "--format", "html", *force]) == 0


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["front", "grid", "--format", "png", "-o", "x.csv"], "ending of 'x.csv' says csv, and the format is png"),
        (["front", "grid", "--format", "csv", "-o", "x.HTML"], "ending of 'x.HTML' says html, and the format is csv"),
        (["compare", "grid", "grid", "--format", "json", "-o", "x.png"], "says png, and the format is json"),
        (
            [*("export", "mlp", "1", "--store", "mlp.db", "--job", "job.py"), "--format", "onnx", "-o", "x.pt2"],
            "says pt2, and the format is onnx; give one of them, or an ending that says none",
        ),
    ],
)
def test_an_ending_of_another_format_is_refused(
    command: list[str], sentence: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(folder)
    assert sentence in refusal(capsys, *command)
    assert contents(folder) == before


@pytest.mark.parametrize("format", ["safetensors", "pt2"])
def test_an_export_is_written_over_nothing_unless_told(
    format: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", "mlp", "1", "--format", format, "--store", "mlp.db", "--job", "job.py", "-o"]
    (folder / "mine").write_text("mine")
    before = contents(folder)
    weights = next(str(file.relative_to(folder)) for file in (folder / "trained").rglob("weights-*"))
    for name in ("mine", "job.py", "nas.db", weights):
        assert "exists already" in refusal(capsys, *command, name)
    assert contents(folder) == before
    assert run([*command, "mine", "--force"]) == 0
    digest = re.search(r"; sha256 ([0-9a-f]{64})\n", capsys.readouterr().out)
    assert digest is not None
    assert digest[1] == sealed.digest(folder / "mine")
    assert "exists already" in refusal(capsys, *command, "mine")


@pytest.mark.parametrize("kind", ["extract", "export"])
def test_a_folder_is_replaced_where_all_of_it_is_an_earlier_output(
    kind: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [kind, "mlp", *(["1"] if kind == "extract" else []), "--store", "mlp.db", "--job", "job.py", "-o"]
    assert run([*command, "out"]) == 0
    first = contents(folder / "out")
    assert "'out' exists already; give a folder that is empty or not there, or insist" in refusal(
        capsys, *command, "out"
    )
    assert run([*command, "out", "--force"]) == 0
    assert contents(folder / "out").keys() == first.keys()
    (folder / "out" / "notes.txt").write_text("mine")
    (folder / "sub" / "mine").touch()
    before = contents(folder)
    assert "it holds 'notes.txt'; remove it yourself" in refusal(capsys, *command, "out", "--force")
    for name in ("sub", "trained", "trained/supernet", "."):
        assert "remove it yourself, or give another folder" in refusal(capsys, *command, name, "--force")
    assert "'job.py' exists already" in refusal(capsys, *command, "job.py", "--force")
    assert contents(folder) == before


def test_a_winner_that_python_has_compiled_is_replaced_too(folder: Path) -> None:
    command = ["extract", "mlp", "1", "--store", "mlp.db", "--job", "job.py", "-o", "out"]
    assert run(command) == 0
    (folder / "out" / "__pycache__").mkdir()
    (folder / "out" / "__pycache__" / "load.cpython-311.pyc").touch()
    assert run([*command, "--force"]) == 0
    assert not (folder / "out" / "__pycache__").exists()


def test_optunas_tables_go_beside_no_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(folder / "nas.db", folder / "copied.db")
    with sqlite3.connect(folder / "app.db") as connection:
        connection.execute("create table customers (name)")
    connection.close()
    (folder / "text").write_text("no database at all, but a text that is long enough for a header")
    before = contents(folder)
    assert "is a database of supernas, not of Optuna's" in refusal(
        capsys, "export-optuna", "grid", "copied.db", "--quiet"
    )
    assert "is a database of another program" in refusal(capsys, "export-optuna", "grid", "app.db", "--quiet")
    assert "file is not a database" in refusal(capsys, "export-optuna", "grid", "text", "--quiet")
    assert contents(folder) == before
    with open_store("nas.db") as store, pytest.raises(StoreError, match="is a database of supernas"):
        export_study(store.open_study("grid"), "nas.db")


@pytest.fixture
def broken_off(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Copies end with Ctrl-C before they are compared."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nas.store.copying._digest", stop)
        yield


def test_a_copy_of_a_database_appears_whole(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["db", "copy", "nas.db", "new/copy.db", "--quiet"]) == 0
    assert sorted(path.name for path in (folder / "new").iterdir()) == ["copy.db"]
    assert run(["front", "grid", "--store", "new/copy.db", "--format", "json"]) == 0
    assert "and a copy goes into an empty one" in refusal(capsys, "db", "copy", "nas.db", "new/copy.db", "--quiet")
    assert "and a copy goes into an empty one" in refusal(capsys, "db", "copy", "nas.db", "hard.db", "--quiet")
    assert "is not a database of supernas" in refusal(capsys, "db", "copy", "nas.db", "job.py", "--quiet")
    (folder / "gone.db-wal").write_bytes(b"left by another")
    assert "'gone.db-wal' is there without its database" in refusal(
        capsys, "db", "copy", "nas.db", "gone.db", "--quiet"
    )


def test_a_copy_that_is_interrupted_leaves_no_file(folder: Path, broken_off: None) -> None:
    before = sorted(os.listdir(folder))
    assert run(["db", "copy", "nas.db", "copy.db", "--quiet"]) == 130
    assert [name for name in sorted(os.listdir(folder)) if not name.startswith("nas.db-")] == before


def test_a_predictor_is_written_over_predictors_alone(tmp_path: Path) -> None:
    known = archs(20, 1)
    predictor = Learned(space(), "toy-cpu", regressor="ridge", features="ordinal")
    predictor.fit(known, [truth(arch) for arch in known])
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(PredictorError, match="exists already"):
        predictor.save(tmp_path / "mine")
    predictor.save(tmp_path / "mine", force=True)
    predictor.save(tmp_path / "mine")
    assert os.listdir(tmp_path) == ["mine"]
