"""A file of a checkpoint, a winner or an elastic model that is not what was written is one sentence that names it.

Each kind of folder is made once; a bit is flipped at random places of each of its files, and files are cut, removed, exchanged.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nas
from nas import sealed
from nas.errors import CheckpointError, DeployError, NasError
from nas.supernet import Supernet
from nas.train import Training, state
from nas.train.loop import keep
from nas.train.snapshots import Snapshots
from tests.study.test_take_home import JOB
from tests.train.family import blobs, space, supernet

Load = Callable[[Path], Any]

FLIPS = 8


def training(path: Path, net: Supernet | None = None) -> Training:
    loss = Snapshots((2,))
    return Training(net or supernet(), blobs(), path=path, steps=9, lr=1e-2, loss=loss, checkpoint_every=4, seed=1)


def resume(path: Path) -> None:
    """What a training reads before it goes on."""
    made = training(path)
    found = made.found()
    if found is None:
        raise CheckpointError("state.json is missing, so that the training would begin anew")
    kept = nn.ModuleList(keep(made).values())
    optimizer = None if found.finished else made.make_optimizer(kept)
    state.load(path, found, made.supernet, optimizer, kept)


def load_winner(path: Path) -> None:
    shutil.rmtree(path / "__pycache__", ignore_errors=True)
    name = f"damaged_{path.name}"
    spec = importlib.util.spec_from_file_location(name, path / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.load()


def save_supernet(folder: Path) -> None:
    supernet().save(folder)


def train_some(folder: Path) -> None:
    training(folder).run(progress=False, until=4)


def train_all(folder: Path) -> None:
    training(folder).run(progress=False)


def save_elastic(folder: Path) -> None:
    net = supernet()
    task = blobs()
    front = [(arch, {"accuracy": 0.5 + index}) for index, arch in enumerate((net.space.smallest, net.space.largest))]
    nas.ElasticModel(net, front, calibration=task.calibration_inputs()).save(folder)


def extract(folder: Path) -> None:
    from nas.cli.app import run

    (folder.parent / "mine.py").write_text(JOB)
    with contextlib.chdir(folder.parent):
        assert run(["train", "mine.py", "--quiet"]) == 0
        assert run(["run", "mine.py", "--workers", "0", "--quiet"]) == 0
        assert run(["extract", "mlp", "3", "--store", "mlp.db", "--job", "mine.py", "-o", folder.name]) == 0


KINDS: dict[str, tuple[Callable[[Path], None], Load]] = {
    "supernet": (save_supernet, lambda path: Supernet.load(path, space())),
    "training under way": (train_some, resume),
    "finished training": (train_all, resume),
    "elastic model": (save_elastic, lambda path: nas.ElasticModel.load(path, space())),
    "winner": (extract, load_winner),
}
# Written for people and other programs; nothing reads them.
UNREAD = ("log.csv", "events", ".lock")


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Load]:
    make, load = KINDS[request.param]
    folder = tmp_path_factory.mktemp("kind") / "made"
    make(folder)
    load(folder)
    return folder, load


def read_files(folder: Path) -> list[Path]:
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not set(file.relative_to(folder).parts) & {*UNREAD, "__pycache__"}
    ]


@contextlib.contextmanager
def instead(file: Path, content: bytes | None) -> Iterator[None]:
    """Inside the block the file has other content, or is not there."""
    before = file.read_bytes()
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(before)


def refusal(load: Load, folder: Path) -> str:
    with pytest.raises((NasError, RuntimeError, SyntaxError, FileNotFoundError)) as caught:
        load(folder)
    return str(caught.value)


def test_a_flipped_bit_is_one_sentence_that_names_the_file(kind: tuple[Path, Load]) -> None:
    folder, load = kind
    draw = random.Random(0)
    files = read_files(folder)
    assert len(files) >= 2
    for file in files:
        content = file.read_bytes()
        for place in (0, len(content) - 1, *draw.sample(range(len(content)), FLIPS)):
            flipped = bytearray(content)
            flipped[place] ^= 1 << draw.randrange(8)
            with instead(file, bytes(flipped)):
                if file.name == "load.py":  # it may not be Python any more
                    with pytest.raises(Exception, match="."):
                        load(folder)
                    continue
                said = refusal(load, folder)
            assert file.name in said, (file, place, said)
            assert "\n" not in said
    load(folder)


def test_a_file_that_is_cut_missing_or_longer_is_named(kind: tuple[Path, Load]) -> None:
    folder, load = kind
    for file in read_files(folder):
        content = file.read_bytes()
        others = [None, b"", content[:1], content[: len(content) // 2], content[:-1], content + b"\0", content + b" "]
        for other in others:
            with instead(file, other):
                if file.name == "load.py" and other not in (content[:-1], content + b" "):
                    continue  # no Python that could say so
                said = refusal(load, folder)
            assert file.name in said, (file, other and len(other), said)
            assert "\n" not in said
    load(folder)


def test_files_that_were_exchanged_are_noticed(kind: tuple[Path, Load]) -> None:
    folder, load = kind
    files = [file for file in read_files(folder) if file.name != "load.py"]
    for first in files:
        for second in files:
            if first is second:
                continue
            with instead(first, second.read_bytes()):
                assert first.name in refusal(load, folder)
    load(folder)


def test_files_that_nobody_wrote_are_not_read(kind: tuple[Path, Load], tmp_path: Path) -> None:
    folder, load = kind
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    for file in read_files(folder):
        place = copied / file.relative_to(folder)
        place.with_name(f"old-{place.name}").write_bytes(b"something else")
    (copied / "kept.safetensors").write_bytes(b"something else")
    load(copied)


def test_a_link_out_of_the_folder_is_not_followed(kind: tuple[Path, Load], tmp_path: Path) -> None:
    """But for the index, which is where reading begins."""
    folder, load = kind
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    for file in read_files(copied):
        if file.suffix == ".json" or file.name == "load.py":
            continue
        shutil.move(file, tmp_path / file.name)
        file.symlink_to(tmp_path / file.name)
        assert "leads out of the folder" in refusal(load, copied)
        file.unlink()
        shutil.move(tmp_path / file.name, file)
    load(copied)


NAMES = ["../outside", "/etc/passwd", "sub/../../outside", "..\\outside", "C:\\outside", "a\0b", "", "."]


@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_names_no_file_outside_its_folder(name: str, tmp_path: Path) -> None:
    save_supernet(tmp_path / "net")
    index, _ = sealed.unseal((tmp_path / "net" / "supernet.json").read_bytes())
    shutil.copy(tmp_path / "net" / index["weights"]["file"], tmp_path / "outside")
    index["weights"]["file"] = name
    (tmp_path / "net" / "supernet.json").write_bytes(sealed.seal(index))
    with pytest.raises(CheckpointError, match="leads out of the folder"):
        Supernet.load(tmp_path / "net", space())


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd"])
def test_a_winner_reads_no_file_outside_its_folder(name: str, tmp_path: Path) -> None:
    extract(tmp_path / "winner")
    described, _ = sealed.unseal((tmp_path / "winner" / "arch.json").read_bytes())
    described["files"][name] = "0" * 64
    (tmp_path / "winner" / "arch.json").write_bytes(sealed.seal(described))
    with pytest.raises(RuntimeError, match="leads out of the folder"):
        load_winner(tmp_path / "winner")


def test_weights_of_another_step_are_noticed(tmp_path: Path) -> None:
    for path, until in ((tmp_path / "some", 4), (tmp_path / "more", 8)):
        training(path).run(progress=False, until=until)
    (old,), (new,) = ((tmp_path / name).glob("step-*/supernet") for name in ("some", "more"))
    shutil.rmtree(old)
    shutil.copytree(new, old)
    with pytest.raises(CheckpointError, match="step-00000004/supernet' does not hold the weights of step 4"):
        resume(tmp_path / "some")


# -- what an earlier version wrote


def _without_hashes(file: Path) -> None:
    content = json.loads(file.read_bytes())
    for name in ("sealed", "sha256", "hashes"):
        content.pop(name, None)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["supernet", "training under way", "finished training", "elastic model"])
def test_a_folder_without_hashes_is_read_with_a_warning(name: str, tmp_path: Path) -> None:
    make, load = KINDS[name]
    make(tmp_path / "old")
    for file in (tmp_path / "old").rglob("*.json"):
        _without_hashes(file)
    with pytest.warns(UserWarning, match="old.*was written by an earlier version of supernas") as caught:
        load(tmp_path / "old")
    assert all("\n" not in str(one.message) for one in caught)


def test_a_training_of_an_earlier_version_goes_on_and_has_hashes_then(tmp_path: Path) -> None:
    whole = training(tmp_path / "whole").run(progress=False)
    train_some(tmp_path / "old")
    for file in (tmp_path / "old").rglob("*.json"):
        _without_hashes(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = training(tmp_path / "old").run(progress=False)
    expected, found = whole.supernet.state_dict(), again.supernet.state_dict()
    assert all(torch.equal(expected[one], found[one]) for one in expected)
    resume(tmp_path / "old")


@pytest.mark.parametrize("name", ["supernet", "log.csv", "events"])
def test_a_training_writes_over_nothing_that_no_training_wrote(name: str, tmp_path: Path) -> None:
    if name == "supernet":
        supernet().save(tmp_path / name)
    else:
        (tmp_path / name).write_text("mine")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    for again in (True, False):
        with pytest.raises(nas.errors.TrainError, match=f"holds '{name}', which no training wrote"):
            training(tmp_path).run(progress=False, resume=again)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_supernet_is_saved_over_its_own_kind_alone(tmp_path: Path) -> None:
    from searchspaces import conv

    supernet().save(tmp_path / "net")
    supernet(seed=1).save(tmp_path / "net")
    digest = Supernet.load(tmp_path / "net", space()).source
    with pytest.raises(
        CheckpointError, match="is a supernet of space 'mlp', not of 'conv.*' and save|give another folder"
    ):
        conv.supernet().save(tmp_path / "net")
    assert Supernet.load(tmp_path / "net", space()).source == digest
    (tmp_path / "net" / "weights-mine.safetensors").write_bytes(b"mine")
    conv.supernet().save(tmp_path / "net", force=True)
    assert (tmp_path / "net" / "weights-mine.safetensors").read_bytes() == b"mine"
    assert len(os.listdir(tmp_path / "net")) == 3
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "supernet.json").write_text('{"name": "of another program"}')
    with pytest.raises(CheckpointError, match="is a file of another program"):
        supernet().save(tmp_path / "app")
    with pytest.raises(DeployError, match="exists already"):
        save_elastic(tmp_path / "app")
