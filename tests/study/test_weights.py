"""Stored trials are of the weights that measured them: others are refused, and weights that keep these are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyglove as pg
import pytest
import torch
from torch import nn

import nas
from nas.errors import StudyError
from nas.identity import same


@nas.model
def perceptron(width: int) -> nn.Module:
    return nas.sequential(nn.Linear(4, width), nn.ReLU(), head=nn.Linear(width, 2))


def space(*widths: int) -> nas.Space:
    return nas.Space(perceptron(pg.oneof(list(widths))), name="perceptrons")


def task() -> nas.Classification:
    inputs = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    labels = (inputs.sum(1) > 0).long()
    return nas.Classification((inputs[:40], labels[:40]), valid=(inputs[40:], labels[40:]), batch=20)


def net(seed: int = 0) -> nas.Supernet:
    found = nas.Supernet(space(4, 8), example=task().example, seed=seed)
    found.trained = True
    return found


def study(folder: Path, of: nas.Supernet, source: Any = None) -> nas.Study:
    return nas.Study(
        "weights",
        space=of.space,
        objectives=["max accuracy"],
        evaluators=[nas.Accuracy(source or of, task())],
        algorithm=nas.Exhaustive(),
        store=folder / "s.db",
    )


def measured(folder: Path, of: nas.Supernet, source: Any = None) -> nas.Study:
    found = study(folder, of, source)
    found.run(3, workers=0, progress=False)
    return found


def test_other_weights_in_memory_are_refused(tmp_path: Path) -> None:
    measured(tmp_path, net())
    measured(tmp_path, net())  # equal ones are the same
    with pytest.raises(StudyError, match="was begun with evaluators"):
        measured(tmp_path, net(seed=1))


def test_weights_are_the_same_wherever_they_are_kept(tmp_path: Path) -> None:
    measured(tmp_path, net())
    saved = net()
    saved.save(tmp_path / "one")
    saved.save(tmp_path / "two")
    for source in (saved, str(tmp_path / "one"), tmp_path / "two"):
        measured(tmp_path, saved, source)


def test_weights_that_are_trained_on_between_runs_are_refused(tmp_path: Path) -> None:
    of = net()
    found = study(tmp_path, of)
    found.run(1, workers=0, progress=False)
    with torch.no_grad():
        next(of.parameters()).add_(1.0)
    with pytest.raises(StudyError, match="was begun with evaluators"):
        study(tmp_path, of).run(2, workers=0, progress=False)


@pytest.mark.parametrize("kept", ["memory", "folder", "loaded"])
def test_a_grown_supernet_has_the_trials_of_the_smaller_one(tmp_path: Path, kept: str) -> None:
    measured(tmp_path, net())
    grown = nas.grow(net(), space(4, 8, 12))
    assert grown.keeps == (net().digest,)
    source: Any = grown
    if kept != "memory":
        grown.save(tmp_path / "grown")
        source = tmp_path / "grown" if kept == "folder" else nas.Supernet.load(tmp_path / "grown", grown.space)
    found = measured(tmp_path, grown, source)
    rows = found.trials()
    assert len(rows) == 3
    now = nas.Accuracy(grown, task())
    for number in range(3):
        assert rows["accuracy"][number] == now(found.arch(number))["accuracy"]
    twice = nas.grow(grown, space(4, 8, 12, 16))
    assert twice.keeps == (grown.digest, net().digest)
    assert len(measured(tmp_path, twice).trials()) == 3


def test_what_changed_the_old_archs_has_not(tmp_path: Path) -> None:
    measured(tmp_path, net())
    copies = nas.grow(net(), space(4, 8, 12), width="fpi")
    trained = nas.grow(net(), space(4, 8, 12))
    with torch.no_grad():
        next(trained.parameters()).mul_(2.0)
    trained.save(tmp_path / "trained")
    for other in (copies, trained, nas.Supernet.load(tmp_path / "trained", trained.space)):
        assert other.keeps == ()
        with pytest.raises(StudyError, match="was begun with evaluators"):
            measured(tmp_path, other)


def trained(folder: Path, path: str, seed: int) -> nas.Training:
    made = nas.Training(net(seed), task(), path=folder / path, steps=4, seed=0)
    made.run(progress=False)
    return made


def test_a_training_that_began_with_other_weights_is_refused(tmp_path: Path) -> None:
    one, other = trained(tmp_path, "one", 0), trained(tmp_path, "other", 1)
    assert one.config == other.config
    measured(tmp_path, one.supernet, one)
    measured(tmp_path, one.supernet, trained(tmp_path, "again", 0))
    with pytest.raises(StudyError, match="was begun with evaluators"):
        measured(tmp_path, other.supernet, other)


def test_a_study_of_before_the_weights_were_noted_goes_on(tmp_path: Path) -> None:
    made = trained(tmp_path, "one", 0)
    described = nas.Accuracy(made, task()).describe()
    assert described["supernet"]["identity"]["weights"] == made.load().digest
    old = {**described, "supernet": made.config}
    assert same(old, described)
