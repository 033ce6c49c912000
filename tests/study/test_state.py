"""What is drawn by a constructor or learnt in buffers is one thing from the training to the extracted file."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nas
from nas.deploy import ElasticModel, export
from nas.study.take_home import take_home
from tests.supernet import stateful


def task() -> nas.Classification:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 4, generator=generator)
    y = ((3 * x[:, 0]).sin() + x[:, 1] > 0).long() + (x[:, 2] > 0.8).long()
    return nas.Classification(train=(x[:200], y[:200]), valid=(x[200:], y[200:]), batch=50)


def scramble() -> None:
    """As if it were another process."""
    torch.seed()
    np.random.seed()
    random.seed()


SPACES = {
    "drawn vector": lambda: stateful.drawing_space("held", "normal"),
    "drawn by a generator without a seed": lambda: stateful.drawing_space(
        "held", "from numpy's generator without a seed"
    ),
    "permutation": lambda: stateful.drawing_space("indices", "permutation"),
    "copy of the weights": lambda: stateful.drawing_space("held", "copy of the weights"),
    "spectral norm": lambda: stateful.reading_space("spectral"),
    "tied": lambda: stateful.reading_space("Tied"),
}


PROCESSES = {"drawn by a generator without a seed"}
"""Studied in a worker too."""


@pytest.mark.parametrize("case", SPACES)
def test_one_answer_from_the_training_to_the_file(case, tmp_path: Path) -> None:
    data, space = task(), SPACES[case]()
    scramble()
    training = nas.Training(nas.Supernet(space, example=data.example), data, path=tmp_path / "t", steps=12, lr=1e-2)
    training.run(progress=False)
    accuracy = nas.Accuracy(training.supernet, data)
    expected = [accuracy(arch) for arch in (space.smallest, space.largest)]
    assert expected[0] != expected[1]
    evaluators = [nas.Accuracy(nas.Training(nas.Supernet(space), data, path=tmp_path / "t", steps=12, lr=1e-2), data)]
    for workers in (0, 1) if case in PROCESSES else (0,):
        scramble()
        study = nas.Study(
            f"workers {workers}",
            space=space,
            objectives=["max accuracy", "min loss"],
            evaluators=evaluators,
            algorithm="exhaustive",
            store=tmp_path / "nas.db",
            trials=2,
        )
        study.run(workers=workers, progress=False)
        assert study.trials()[["accuracy", "loss"]].to_dict("records") == [pytest.approx(one) for one in expected]
    written_answers(study, accuracy, tmp_path)


def written_answers(study: nas.Study, accuracy: nas.Accuracy, folder: Path) -> None:
    """Extracted, written with `load.py`, exported, and in an elastic folder."""
    space, net = study.space, accuracy.weights.get(study.space)
    inputs = accuracy.task.valid[0]  # type: ignore[attr-defined]
    model = ElasticModel(
        net,
        [(arch, accuracy(arch)) for arch in space.enumerate()],
        objective="max accuracy",
        calibration=accuracy.task.calibration_inputs(),
    )
    model.save(folder / "elastic")
    scramble()
    again = ElasticModel.load(folder / "elastic", space)
    for number in range(2):
        scramble()
        winner = take_home(study, number)
        with torch.no_grad():
            expected = net.eval()(inputs, winner.arch)
            torch.testing.assert_close(winner.module(inputs), expected)
            winner.write(folder / f"winner{number}")
            scramble()
            torch.testing.assert_close(loaded(folder / f"winner{number}")(inputs), expected)
            for one in (model, again):
                one.switch_to(winner.arch)
                torch.testing.assert_close(one(inputs), expected)
        assert export(winner.module, folder / f"{number}.pt2", example=inputs[:1]).difference < 1e-5
        assert export(winner.module, folder / f"{number}.safetensors", example=inputs[:1]).difference < 1e-5


def loaded(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"state_{folder.parent.name}_{folder.name}", folder / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load()
