"""A training is resumed with the loss, the sampler and the task that it began with, parameters included."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import nas
from nas import sealed
from nas.errors import TrainError
from nas.identity import IDENTITY
from nas.train import Bucketed, Classification, Labels, Loss, Sampler, Training, Uniform, state
from tests.train.family import blobs, supernet


class Weighted(Loss):
    """No dataclass, and counts its calls."""

    def __init__(self, weight: Any) -> None:
        self.weight, self.calls = weight, 0

    def __call__(self, output: Any, batch: Any, step: Any) -> Tensor:
        self.calls += 1
        return 0.5 * step.task.loss(output, batch)


class Some(Sampler):
    def __init__(self, n: int) -> None:
        self.n = n

    def archs(self, space: Any, step: int, rng: Any) -> Any:
        return [space.sample(rng) for _ in range(self.n)]


def cost(arch: nas.Arch, base: float = 1.0) -> float:
    return base + arch.choices["width"]


def shifted(inputs: Tensor, generator: Any, by: float) -> Tensor:
    return inputs + by


def task(by: float) -> Classification:
    made = blobs()
    return Classification(train=made.train, valid=made.valid, augment=functools.partial(shifted, by=by), batch=16)


class Own(Classification):
    """A user's own, with a parameter more."""

    def __init__(self, floor: float) -> None:
        made = blobs()
        super().__init__(train=made.train, valid=made.valid, batch=16)
        object.__setattr__(self, "floor", floor)


WAYS: dict[str, Callable[[float], dict[str, Any]]] = {
    "loss": lambda value: {"loss": Weighted(value)},
    "loss with a tensor": lambda value: {"loss": Weighted(torch.full((3,), value))},
    "loss with a function": lambda value: {"loss": Weighted(functools.partial(cost, base=value))},
    "sampler": lambda value: {"sampler": Some(int(value))},
    "cost": lambda value: {"sampler": Bucketed(functools.partial(cost, base=value), width=16.0)},
    "augmentation": lambda value: {"task": task(value)},
    "task": lambda value: {"task": Own(value)},
}


def made(path: Path, options: dict[str, Any]) -> Training:
    given = {"task": blobs(), "loss": Labels(), "sampler": Uniform(1), **options}
    return Training(supernet(), given.pop("task"), path=path, steps=4, checkpoint_every=1, **given)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_other_parameters_are_another_training_and_named(
    tmp_path: Path, way: Callable[[float], dict[str, Any]]
) -> None:
    made(tmp_path, way(1.0)).run(progress=False, until=2)
    with pytest.raises(TrainError, match=r"holds a training with .*, not .*; use that, or another path"):
        made(tmp_path, way(2.0)).run(progress=False)
    assert made(tmp_path, way(1.0)).run(progress=False).steps == 4


def test_the_sentence_says_what_it_was_and_is(tmp_path: Path) -> None:
    made(tmp_path, WAYS["loss"](0.1)).run(progress=False, until=2)
    with pytest.raises(TrainError, match=r"with loss.weight=0.1, not loss.weight=0.10000001;"):
        made(tmp_path, WAYS["loss"](0.10000001)).run(progress=False)


def test_what_a_loss_counts_is_no_other_parameter(tmp_path: Path) -> None:
    loss = Weighted(1.0)
    made(tmp_path, {"loss": loss}).run(progress=False, until=2)
    assert loss.calls
    assert made(tmp_path, {"loss": loss}).run(progress=False, until=3).steps == 3
    assert made(tmp_path, {"loss": Weighted(1.0)}).run(progress=False).steps == 4


@pytest.mark.parametrize("way", [WAYS["loss"], WAYS["sampler"], WAYS["task"], WAYS["cost"]])
def test_a_checkpoint_of_an_earlier_version_is_resumed(tmp_path: Path, way: Callable[[float], dict[str, Any]]) -> None:
    made(tmp_path, way(1.0)).run(progress=False, until=2)
    file = tmp_path / state.STATE
    record, _ = sealed.unseal(file.read_bytes())
    for one in record["config"].values():
        if isinstance(one, dict):
            one.pop(IDENTITY, None)
    file.write_bytes(sealed.seal({name: value for name, value in record.items() if name not in ("sealed", "sha256")}))
    assert made(tmp_path, way(2.0)).run(progress=False, until=3).steps == 3
    with pytest.raises(TrainError, match="holds a training with"):  # which was noted meanwhile
        made(tmp_path, way(1.0)).run(progress=False)
