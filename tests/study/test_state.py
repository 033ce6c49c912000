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
from nas.errors import StudyError, SupernetError
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
    "own statistics": lambda: stateful.drawing_space("learnt", "assigned"),
    "statistics through data": lambda: stateful.drawing_space("learnt", "through data"),
    "codebook": lambda: stateful.drawing_space("learnt", "codebook"),
    "counter": lambda: stateful.drawing_space("learnt", "annealing"),
    "tied": lambda: stateful.reading_space("Tied"),
}


LOCAL = {"copy of the weights", "own statistics", "statistics through data"}
"""Models of functions and classes that are made while a program runs, which no other process can name."""
PROCESSES = {"drawn by a generator without a seed", "codebook"}
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
    written_answers(study, accuracy, tmp_path, without_load=case in LOCAL)


@pytest.mark.parametrize(
    "case", ["in place", "assigned", "through data", "codebook", "annealing", "late", "spectral norm"]
)
def test_a_training_that_was_killed_learns_the_same_buffers(case, tmp_path: Path) -> None:
    """Bit for bit: the processes that follow know the buffers from the checkpoint, or find them themselves."""
    data, space = task(), stateful.drawing_space("learnt", case)

    def training(path: str) -> nas.Training:
        scramble()
        return nas.Training(nas.Supernet(space), data, path=tmp_path / path, steps=9, lr=1e-2, clip=None)

    whole = training("whole")
    whole.run(progress=False)
    for until in (2, 5, 9):
        parts = training("parts")
        parts.run(progress=False, until=until)
    expected, found = whole.supernet.state_dict(), parts.supernet.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    stored = training("parts").load()
    assert all(torch.equal(expected[name], tensor) for name, tensor in stored.state_dict().items())


@pytest.mark.parametrize("case", ["in place", "assigned", "codebook", "counter"])
def test_a_candidate_trained_by_itself_keeps_its_buffers(case, tmp_path: Path) -> None:
    data, space = task(), stateful.drawing_space("learnt", case)
    whole = nas.Trained(data, tmp_path / "whole", epochs=3)
    expected = whole(space.largest)
    parts = nas.Trained(data, tmp_path / "parts", epochs=3)
    for _ in range(3):
        scramble()
        epoch = next(iter(nas.Trained(data, tmp_path / "parts", epochs=3).each_epoch(space.largest)))
        assert epoch["epochs"] == 1
    found = parts(space.largest)
    assert found == expected
    scramble()
    ours, theirs = (evaluator.extract(space.largest).state_dict() for evaluator in (whole, parts))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    measured = parts.measure_module(parts.extract(space.largest))
    assert all(measured[name] == pytest.approx(expected[name]) for name in measured)


@pytest.mark.parametrize("case", ["normal", "from numpy's generator without a seed", "from the system"])
def test_a_candidate_trained_by_itself_keeps_what_was_drawn(case, tmp_path: Path) -> None:
    data, space = task(), stateful.drawing_space("held", case)
    trained = nas.Trained(data, tmp_path, epochs=1)
    measured = trained(space.largest)
    scramble()
    module = nas.Trained(data, tmp_path, epochs=1).extract(space.largest)
    found = trained.measure_module(module)
    assert all(found[name] == pytest.approx(measured[name]) for name in found)


@pytest.mark.parametrize(
    ("group", "case"), [("refused", "list"), ("refused", "tensor"), ("numbers", "numpy without a seed")]
)
def test_a_candidate_that_no_checkpoint_has_is_refused_before_its_training(group, case, tmp_path: Path) -> None:
    trained = nas.Trained(task(), tmp_path, epochs=1)
    with pytest.raises(SupernetError, match="attribute 'kept'"):
        trained.check(stateful.drawing_space(group, case))


def written_answers(study: nas.Study, accuracy: nas.Accuracy, folder: Path, *, without_load: bool) -> None:
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
            if without_load:
                with pytest.raises(
                    StudyError, match=r"cannot be written with a load.py: .* which no other process finds"
                ):
                    winner.write(folder / f"winner{number}")
            else:
                winner.write(folder / f"winner{number}")
                scramble()
                torch.testing.assert_close(loaded(folder / f"winner{number}")(inputs), expected)
            for one in (model, again):
                one.switch_to(winner.arch)
                torch.testing.assert_close(one(inputs), expected)
        assert export(winner.module, folder / f"{number}.pt2", example=inputs, any_batch=False).difference < 1e-5
        assert export(winner.module, folder / f"{number}.safetensors", example=inputs[:1]).difference < 1e-5


def loaded(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"state_{folder.parent.name}_{folder.name}", folder / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load()
