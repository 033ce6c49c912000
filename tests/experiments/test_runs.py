"""Folders of runs hold runs of the same settings and data alone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from tests.experiments.scripts import ROOT, script


@pytest.fixture(scope="module")
def runs() -> ModuleType:
    return script("runs_common/folder.py")


def words() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="play")
    found.add_argument("--runs", type=Path)
    found.add_argument("--glyphs", type=Path)
    found.add_argument("--epochs", type=int, default=2)
    found.add_argument("--seeds", type=int, default=3)
    found.add_argument("--shares", type=float, nargs="+", default=[0.5])
    found.add_argument("--report", action="store_true")
    found.add_argument("--smoke", action="store_true")
    return found


def play(runs: ModuleType, *arguments: str) -> Path:
    with runs.opened(words().parse_args(arguments), words(), needs=["glyphs"], free=["shares"]) as folder:
        assert folder.is_dir()
        return Path(folder)


def test_a_folder_of_other_settings_is_refused(
    runs: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.npz"
    data.write_bytes(b"one")
    base = ["--runs", str(tmp_path / "runs"), "--glyphs", str(data)]
    play(runs, *base)
    play(runs, *base, "--seeds", "5", "--shares", "0.25")  # which choose runs
    with pytest.raises(SystemExit):
        play(runs, *base, "--epochs", "4")
    assert "has runs with --epochs 2, and --epochs 4 is asked for; give another --runs" in capsys.readouterr().err
    play(runs, *base, "--epochs", "4", "--report")


def test_other_data_are_refused_wherever_they_lie(
    runs: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "moved").mkdir()
    for place in (tmp_path / "data.npz", tmp_path / "moved" / "data.npz"):
        place.write_bytes(b"one")
        play(runs, "--runs", str(tmp_path / "runs"), "--glyphs", str(place))
    place.write_bytes(b"two")
    with pytest.raises(SystemExit):
        play(runs, "--runs", str(tmp_path / "runs"), "--glyphs", str(place))
    assert "--glyphs data.npz (" in capsys.readouterr().err


def test_a_smoke_leaves_nothing(runs: ModuleType, tmp_path: Path) -> None:
    assert not play(runs, "--smoke", "--runs", str(tmp_path / "runs")).exists()
    assert not (tmp_path / "runs").exists()


def test_what_is_missing_is_said(runs: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        play(runs)
    assert "--glyphs and --runs needed (or --smoke)" in capsys.readouterr().err


def test_a_run_is_kept_whole(runs: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "runs" / "a.json"
    with pytest.raises(ZeroDivisionError):
        runs.kept(file, lambda: {"a": 1 / 0})
    assert not file.exists()
    assert (
        runs.kept(file, lambda: {"a": 1})
        == {"a": 1}
        == runs.kept(file, lambda: {"a": 2})
        == json.loads(file.read_text())
    )


def test_runs_of_a_way_are_its_own(runs: ModuleType, tmp_path: Path) -> None:
    for name in ("end to end, 10", "end to end, 2", "end to end, 60 %, 0"):
        runs.kept(tmp_path / f"{name}.json", lambda name=name: {"name": name})
    assert list(runs.by_seed(tmp_path, "end to end")) == [2, 10]
    assert runs.by_seed(tmp_path, "end to end, 60 %") == {0: {"name": "end to end, 60 %, 0"}}


def test_a_search_of_fewer_evaluations_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    searching = script("search_common/runs.py")
    problem, file = searching.Problem([6, 6], lambda genes: genes.astype(float)), tmp_path / "p, random, 0.npz"

    def points(evaluations: int) -> list[list[float]]:
        searching.one(problem, "random", 0, evaluations, file)
        with np.load(file) as found:
            return list(found["points"].tolist())

    few, more = points(4), points(8)
    assert (len(few), len(more)) == (4, 8)
    assert more[:4] == few, "a seed proposes the same"
    assert points(6) == more, "figures look at its beginning"


def test_a_part_without_images_goes_into_the_folder_of_one_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the README of `grammars` says: first the one, then the other."""
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    monkeypatch.syspath_prepend(str(ROOT / "experiments" / "grammars"))
    grammars = script("grammars/run.py")
    part = SimpleNamespace(everything=lambda options, folder: None, figures=lambda folder: {})
    monkeypatch.setattr(grammars, "PARTS", {"einspace": part, "evonorm": part})
    (tmp_path / "glyphs.npz").write_bytes(b"one")
    for arguments in (["einspace", "--glyphs", str(tmp_path / "glyphs.npz")], ["evonorm"], ["evonorm", "--report"]):
        monkeypatch.setattr("sys.argv", ["run.py", *arguments, "--runs", str(tmp_path / "runs")])
        grammars.main()
    settings = next((tmp_path / "runs").glob("*.settings"))
    assert json.loads(settings.read_text())["glyphs"].startswith("glyphs.npz (")
