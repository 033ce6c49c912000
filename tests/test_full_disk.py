"""No room: one sentence, nothing half written, and the same command goes on when there is room.

A file that may not grow beyond a limit fails as on a full disk, at the same calls; each writer is stopped at several sizes.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import nas
from nas import files
from nas.cli.app import run
from nas.errors import AlgorithmError, CheckpointError, PredictorError
from nas.predict import Learned
from nas.supernet import Supernet
from nas.train import Training
from nas.tune import Searcher
from tests.cli.test_outputs import contents, made  # noqa: F401 (a fixture)
from tests.compressing.nets import task as digits
from tests.compressing.nets import trained
from tests.conformance.predictor import archs, truth
from tests.conformance.predictor import space as predicted_space
from tests.deploy.test_command import JOB
from tests.study.landscapes import grid, trade_off
from tests.train.family import blobs, space, supernet

FULL = r"File too large; make room and do it again, nothing is half written"


@contextlib.contextmanager
def room(size: int) -> Iterator[None]:
    """Inside the block no file of this process grows beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """A copy of the searched studies, which is the folder that commands run in."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NAS_STORE", raising=False)
    monkeypatch.setattr(files, "_swept", set())
    return tmp_path


MLP = ["--store", "mlp.db", "--job", "job.py"]
COMMANDS = {
    "csv": ["front", "grid", "-o", "out.csv"],
    "json": ["front", "grid", "-o", "out.json"],
    "html": ["front", "grid", "-o", "out.html"],
    "png": ["front", "grid", "-o", "out.png"],
    "winner": ["extract", "mlp", "1", "-o", "out", *MLP],
    "elastic": ["export", "mlp", "-o", "out", *MLP],
    "pt2": ["export", "mlp", "1", "-o", "out.pt2", *MLP],
    "safetensors": ["export", "mlp", "1", "-o", "out.safetensors", *MLP],
    "onnx": ["export", "mlp", "1", "-o", "out.onnx", *MLP],
    "copy": ["db", "copy", "nas.db", "out.db", "--quiet"],
}


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind == "onnx")) for kind in COMMANDS])
def test_a_command_without_room_is_one_sentence_and_leaves_nothing(
    kind: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    command = COMMANDS[kind]
    before, failed = contents(folder), 0
    for size in (0, 50, 500, 1_000, 3_000, 10_000, 50_000):
        capsys.readouterr()
        with room(size):
            code = run(command)
        said = capsys.readouterr()
        if code == 0:
            break
        failed += 1
        assert code == 2
        assert said.out == ""
        assert re.fullmatch(
            r"nas: .*(make room|cannot grow: the disk is full|check the disk and its free space).*\n", said.err
        )
        assert "Traceback" not in said.err
        assert contents(folder) == before, size
    assert failed >= 1
    assert code == 0 or run(command) == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Supernet:
    """Of a training that had room."""
    return training(tmp_path_factory.mktemp("whole")).run(progress=False).supernet


def training(path: Path) -> Training:
    return Training(supernet(), blobs(), path=path, steps=30, lr=1e-2, checkpoint_every=12, validate_every=30)


@pytest.mark.parametrize("size", [0, 60, 400, 3_000, 9_000, 20_000])
def test_a_training_without_room_is_one_sentence_and_goes_on_later(size: int, tmp_path: Path, whole: Supernet) -> None:
    path = tmp_path / "training"
    with room(size), pytest.raises(nas.errors.TrainError, match=FULL) as caught:
        training(path).run(progress=False)
    assert "\n" not in str(caught.value)
    assert "its last checkpoint is still there" in str(caught.value)
    assert not list(path.glob(f"**/{files.SCRATCH}*"))
    assert not list(path.glob("step-*")), "half a checkpoint"
    again = training(path).run(progress=False).supernet
    assert all(torch.equal(one, two) for one, two in zip(again.parameters(), whole.parameters(), strict=True))


def test_a_training_that_runs_out_of_room_keeps_its_last_checkpoint(tmp_path: Path, whole: Supernet) -> None:
    training(tmp_path).run(progress=False, until=12)
    before = {file: file.read_bytes() for file in tmp_path.glob("step-*/**/*") if file.is_file()}
    state = (tmp_path / "state.json").read_bytes()
    for size in (9_000, 20_000):
        with room(size), pytest.raises(nas.errors.TrainError, match=FULL):
            training(tmp_path).run(progress=False)
        assert (tmp_path / "state.json").read_bytes() == state
        assert {file: file.read_bytes() for file in tmp_path.glob("step-*/**/*") if file.is_file()} == before
    again = training(tmp_path).run(progress=False).supernet
    assert all(torch.equal(one, two) for one, two in zip(again.parameters(), whole.parameters(), strict=True))


def test_the_command_says_so_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.py").write_text(JOB)
    with room(3_000):
        assert run(["train", "job.py", "--quiet"]) == 2
    said = capsys.readouterr()
    assert re.fullmatch(rf"nas: .*{FULL}.*\n", said.err)
    assert said.out == ""
    assert run(["train", "job.py", "--quiet"]) == 0


@pytest.mark.parametrize("size", [0, 500, 5_000])
def test_a_supernet_that_has_no_room_leaves_the_old_one(size: int, tmp_path: Path) -> None:
    supernet().save(tmp_path / "net")
    before = Supernet.load(tmp_path / "net", space()).source
    with room(size), pytest.raises(CheckpointError, match=f"supernet cannot be saved in .*{FULL}"):
        supernet(seed=1).save(tmp_path / "net")
    assert len(os.listdir(tmp_path / "net")) == 2
    assert Supernet.load(tmp_path / "net", space()).source == before
    supernet(seed=1).save(tmp_path / "net")


def test_what_cannot_be_shared_for_want_of_room_is_not_lost(tmp_path: Path) -> None:
    calls = []

    def evaluate(arch: nas.Arch) -> dict[str, float]:
        calls.append(arch)
        return trade_off(arch)

    once = nas.Once(evaluate, lambda arch: "one", tmp_path / "cache")
    arch = grid(4).smallest
    with room(0), pytest.warns(UserWarning, match="no room for measurements, which are not shared until there is some"):
        first = once(arch)
    assert first == {**trade_off(arch), "reused": 0}
    assert once.known(arch) == {}
    assert [once(arch)["reused"] for _ in range(2)] == [0, 1]
    assert len(calls) == 2
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 1


def test_a_predictor_and_a_searcher_that_have_no_room_leave_the_old_ones(tmp_path: Path) -> None:
    known = archs(20, 1)
    predictor = Learned(predicted_space(), "toy-cpu", regressor="ridge", features="ordinal")
    predictor.fit(known, [truth(arch) for arch in known])
    searcher = Searcher(grid(4), "random", ["max quality"])
    for name, error, save in (("p.npz", PredictorError, predictor.save), ("s", AlgorithmError, searcher.save)):
        save(str(tmp_path / name))
        before = (tmp_path / name).read_bytes()
        with room(100), pytest.raises(error, match=FULL):
            save(str(tmp_path / name))
        assert (tmp_path / name).read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["p.npz", "s"]


@pytest.mark.slow
def test_a_real_disk_that_is_full(folder: Path) -> None:
    """A disk of 300 KiB in a mount of the processes' own: safetensors, torch and SQLite all write on it."""
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this user may not have mounts of its own")
    (folder / "disk").mkdir()
    commands = [
        "train job.py --quiet --restart",
        "extract mlp 1 -o disk/winner --store mlp.db --job job.py",
        "export mlp -o disk/elastic --store mlp.db --job job.py",
        "export mlp 1 -o disk/m.pt2 --store mlp.db --job job.py",
        "front grid -o disk/front.html",
        "db copy nas.db disk/copy.db --quiet",
    ]
    (folder / "job.py").write_text(
        (folder / "job.py").read_text().replace('path="trained"', 'path=os.environ.get("P", "trained")')
    )
    (folder / "job.py").write_text("import os\n" + (folder / "job.py").read_text())
    script = "".join(
        f"P={'disk/t' if name.startswith('train') else 'trained'} {sys.executable} -m nas {name}; echo code $?; ls -A disk\n"
        for name in commands
    )
    script = f"mount -t tmpfs -o size=4k none disk && dd if=/dev/zero of=disk/fill bs=1k count=4 2>/dev/null\n{script}"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.count("code 2\n") == len(commands), (done.stdout, done.stderr)
    assert done.stderr.count("nas: ") == len(commands), done.stderr
    assert "Traceback" not in done.stderr
    assert "terminate" not in done.stderr


@pytest.mark.parametrize("size", [0, 200, 4_000, pytest.param(12_000, marks=pytest.mark.slow), 120_000])
def test_a_compression_without_room_is_one_sentence_and_goes_on_later(size: int, tmp_path: Path) -> None:
    def compress() -> nas.compressing.Compressed:
        few = {"epochs": 3, "trials": 4, "batches": 1, "lr": 3e-3, "progress": False}
        return nas.compress(trained(), digits(), "macs <= 50%", folder=tmp_path / "net", **few)

    with room(size), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that measurements are not shared
        with pytest.raises(nas.errors.NasError, match="make room|the disk is full|its free space") as caught:
            compress()
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob(f"**/{files.SCRATCH}*"))
    assert compress().choices[0].chosen.measured["macs"] > 0
