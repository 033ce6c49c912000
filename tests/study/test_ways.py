"""A job file is the same job whether it is run, started as a script or imported, and from which folder."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import nas
from nas.errors import CheckpointError, PredictorError, StudyError
from nas.predict import Learned, Predictor
from nas.store import StoredPredictor, open_store
from nas.study.job import load_module

JOB = """
import pyglove as pg
import torch
from torch import nn

import nas

@nas.model
def net(width, act):
    return nn.Sequential(nn.Linear(4, width), act(), nn.Linear(width, 2))

@nas.model
def act():
    return nn.ReLU()

class Negative(nn.ReLU):
    pass

x = torch.linspace(-1, 1, 64).reshape(16, 4)
data = x, (x.sum(1) > 0).long()
task = nas.Classification(data, data, batch=8)
act_of = pg.oneof([act(), nas.model(Negative)()])
space = nas.Space(net(width=pg.oneof([2, 3, 4, 5]), act=act_of), name="net")
supernet = nas.Supernet(space, example=task.example)
training = nas.Training(supernet, task, path="runs", steps=2)
study = nas.Study(
    "s",
    space=space,
    objectives=["max accuracy"],
    evaluators=[nas.Accuracy(training, task), nas.Costs(supernet)],
    training=training,
    store="nas.db",
    trials=2,
)
"""

WAYS: dict[str, Callable[[], Any]] = {
    "run": lambda: load_module("folder/ways.py")[0],
    "imported": lambda: importlib.import_module("ways"),
    "imported from above": lambda: importlib.import_module("folder.ways"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "ways.py").write_text(JOB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "folder"), *sys.path])
    importlib.invalidate_caches()
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if "ways" in name or name == "folder":
            del sys.modules[name]


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(WAYS, 2)))
def test_a_study_its_training_and_what_was_saved_go_on(folder: Path, first: str, second: str) -> None:
    was = WAYS[first]()
    was.training.run()
    was.study.run(workers=0, progress=False)
    was.supernet.save("saved")
    archs = list(was.space.enumerate())
    predictor = Learned(was.space, device="board", regressor="ridge").fit(
        archs, [1.0 + number for number in range(len(archs))]
    )
    predictor.save("board.npz")
    with open_store("devices.db") as store:
        packed = predictor.pack()
        store.hardware.add_device("board", {})
        parts = (packed.kind, predictor.errors, packed.state["state"], packed.array_bytes())
        store.hardware.save_predictor(StoredPredictor("board", was.space.fingerprint, was.space.name, *parts))
    now = WAYS[second]()
    assert now.space.fingerprint != was.space.fingerprint
    assert now.training.run().steps == was.training.run().steps
    now.study.run(3, workers=0, progress=False)
    assert len(now.study.trials()) == 3
    loaded = nas.Supernet.load("saved", now.space)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, was.supernet.state_dict()[name])
    for source in ("board.npz", "devices.db"):
        board = nas.Custom("board", lambda module, inputs: 1.0)
        predicted = nas.Predicted(source, board)(now.space.largest)["latency_ms"]
        assert predicted == predictor.predict([was.space.largest])[0][0]


def test_another_space_is_still_refused(folder: Path) -> None:
    was = WAYS["run"]()
    was.supernet.save("saved")
    archs = list(was.space.enumerate())
    Learned(was.space, device="board", regressor="ridge").fit(
        archs, [1.0 + number for number in range(len(archs))]
    ).save("board.npz")
    (folder / "folder" / "ways.py").write_text(
        JOB.replace("nn.Linear(width, 2)", "nn.Linear(width, 2)")
        .replace("def act", "def other")
        .replace("act(), nas", "other(), nas")
    )
    now = WAYS["imported"]()
    with pytest.raises(CheckpointError, match="is of space 'net'"):
        nas.Supernet.load("saved", now.space)
    with pytest.raises(PredictorError, match="knows space 'net'"):
        Predictor.load("board.npz", now.space)


def test_a_refusal_names_the_setting_that_differs(folder: Path) -> None:
    was = WAYS["run"]()
    was.training.run()
    was.study.run(workers=0, progress=False)
    changed = JOB.replace("nas.Accuracy(training, task)", "nas.Accuracy(training, task, calibrate=False)")
    (folder / "folder" / "ways.py").write_text(changed)
    with pytest.raises(StudyError) as error:
        WAYS["imported"]().study.trials()
    assert str(error.value) == (
        "study 's' was begun with evaluators of other settings: Accuracy.calibrate: true → false; restore them, or give the "
        "new study another name (--name)"
    )
