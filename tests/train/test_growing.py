"""A training that goes on in a larger space."""

from __future__ import annotations

from pathlib import Path

import pyglove as pg
import pytest
import torch

import nas
from nas.errors import SupernetError, TrainError
from nas.train import Training, state
from tests.train.family import blobs, mlp, space, supernet


def larger() -> nas.Space:
    return nas.Space(mlp(width=pg.oneof([8, 16, 32, 48]), depth=pg.oneof([0, 1])), name="mlp")


def training(path: Path, **options: object) -> Training:
    settings = {"steps": 40, "lr": 1e-2, "checkpoint_every": 10, "validate_every": 10, **options}
    return Training(supernet(), blobs(), path=path, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adafactor"])
def test_a_training_goes_on_in_the_larger_space(tmp_path: Path, optimizer: str) -> None:
    first = training(tmp_path / "small", optimizer=optimizer)
    first.run(progress=False, until=20)
    later = first.grow(larger(), tmp_path / "large")
    old = space()
    with torch.no_grad():
        x = torch.randn(4, 1, 8, 8)
        small, large = (net.eval()(x, net.space.largest) for net in (first.supernet, later.supernet))
    assert torch.allclose(small, large, atol=1e-5)
    kept = state.read(tmp_path / "large")
    assert kept is not None
    assert (kept.step, kept.finished) == (20, False)
    done = later.run(progress=False)
    assert done.steps == 40
    assert list(done.history["step"]) == [10, 20, 30, 40]
    assert done.supernet.space.largest.choices["width"] == 48
    assert done.history["loss"].iloc[-1] < done.history["loss"].iloc[0]
    assert old.largest.choices["width"] == 32


def test_a_grown_training_is_resumed_to_the_bit(tmp_path: Path) -> None:
    first = training(tmp_path / "small")
    first.run(progress=False, until=20)
    whole = first.grow(larger(), tmp_path / "whole").run(progress=False).supernet.state_dict()
    later = first.grow(larger(), tmp_path / "parts")
    later.run(progress=False, until=30)
    again = first.grow(larger(), tmp_path / "parts")
    assert state.read(tmp_path / "parts").step == 30  # type: ignore[union-attr]
    parts = again.run(progress=False).supernet.state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_smaller_training_goes_on_as_if_nothing_had_been_grown(tmp_path: Path) -> None:
    alone = training(tmp_path / "alone").run(progress=False).supernet.state_dict()
    first = training(tmp_path / "small")
    first.run(progress=False, until=20)
    first.grow(larger(), tmp_path / "large").run(progress=False)
    both = training(tmp_path / "small").run(progress=False).supernet.state_dict()
    assert all(torch.equal(alone[name], both[name]) for name in alone)


@pytest.mark.parametrize(("until", "why"), [(None, "has finished"), (0, "has no checkpoint")])
def test_what_is_not_on_its_way_is_refused(tmp_path: Path, until: int | None, why: str) -> None:
    first = training(tmp_path / "small")
    if until is None:
        first.run(progress=False)
    with pytest.raises(TrainError, match=f"a training that {why} cannot go on in a larger space"):
        first.grow(larger(), tmp_path / "large")


def test_another_folder_is_needed(tmp_path: Path) -> None:
    first = training(tmp_path / "small")
    first.run(progress=False, until=10)
    with pytest.raises(TrainError, match="give another one"):
        first.grow(larger(), tmp_path / "small")
    training(tmp_path / "taken", lr=1e-3).run(progress=False, until=10)
    with pytest.raises(TrainError, match="holds a training"):
        first.grow(larger(), tmp_path / "taken")


def test_a_space_that_cannot_be_grown_to_leaves_no_folder(tmp_path: Path) -> None:
    first = training(tmp_path / "small")
    first.run(progress=False, until=10)
    deeper = nas.Space(mlp(width=pg.oneof([8, 16, 32]), depth=pg.oneof([0, 1, 2])), name="mlp")
    with pytest.raises(SupernetError, match="'body.7'"):
        first.grow(deeper, tmp_path / "large")
    assert not (tmp_path / "large").exists()


def test_a_loss_whose_projections_follow_from_the_space_is_refused(tmp_path: Path) -> None:
    first = training(tmp_path / "small", loss=nas.InPlace() + nas.Hint(["body.2"]) if False else None)
    first.run(progress=False, until=10)
    assert first.grow(larger(), tmp_path / "large").steps == 40


def test_a_policy_is_not_taken_along(tmp_path: Path) -> None:
    first = training(tmp_path / "small", policy=nas.Policy(batch=8, share=0.2), steps=40)
    first.run(progress=False, until=20)
    with pytest.raises(TrainError, match="a training with a policy cannot go on in a larger space"):
        first.grow(larger(), tmp_path / "large")
