"""What cannot be compressed is one sentence, before anything is converted or written."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import nas
from nas.errors import EvaluationError, MetricError, NasError, StudyError
from nas.train.task import Batch
from tests.compressing.nets import Net, task, trained


class Noisy(Net):
    """Draws at random in eval mode, too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.dropout(x, 0.1))


class Counting(Net):
    """Computes with what it keeps of earlier calls."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * self.calls


class NoLoss(type(task())):  # type: ignore[misc]
    """Measures accuracy alone."""

    @property
    def metric_names(self) -> tuple[str, ...]:
        return ("accuracy",)

    def metrics(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        return {"accuracy": super().metrics(output, batch)["accuracy"]}


def without_loss() -> nas.Task:
    made: nas.Task = NoLoss(task().train, task().valid, batch=32)  # type: ignore[attr-defined]
    return made


def images(*shape: int, classes: int = 10) -> nas.Task:
    x, y = torch.randn(40, *shape), torch.arange(40) % classes
    return nas.Task.of((x, y), (x + 1, y), loss="cross_entropy", metrics="accuracy", batch=8, name="images")


def broken() -> Net:
    net = copy.deepcopy(trained())
    net.head.weight.data[0, 0] = torch.nan
    return net


def own_loss(output: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(output, targets)


def silent(*shape: int) -> nas.Task:
    """Of a loss that does not say how outputs are compared."""
    x, y = torch.randn(64, 1, 8, 8), torch.randint(0, 10, (64, *shape))
    return nas.Task.of((x, y), (x + 1, y), loss=own_loss, batch=32, name="silent")


def infinite() -> nas.Task:
    def loss(output: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(output, targets) / 0.0

    x, y = torch.randn(64, 1, 8, 8), torch.arange(64) % 10
    return nas.Task.of((x, y), (x + 1, y), loss=loss, batch=32, name="infinite")


class Narrow(type(task())):  # type: ignore[misc]
    """Calibrates with images of other channels."""

    def calibration_inputs(self) -> Iterator[Tensor]:
        yield torch.zeros(8, 3, 8, 8)


def narrow() -> nas.Task:
    made: nas.Task = Narrow(task().train, task().valid, batch=32)  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize(
    ("model", "data", "said"),
    [
        (trained, lambda: images(3, 8, 8), r"Net does not take the example inputs of .* \(float32 \(1, 3, 8, 8\)\)"),
        (trained, lambda: images(64), r"Net does not take the example inputs of .* \(float32 \(1, 64\)\): RuntimeError"),
        (trained, lambda: images(1, 8, 8, classes=12), "class 11 and the model gives logits of 10 classes"),
        (trained, lambda: silent(10), r"Net gives .* \(outputs float32 \(32, 10\), targets int64 \(32, 10\)\)"),
        (trained, narrow, r"Net does not take the calibration inputs of Narrow \(float32 \(8, 3, 8, 8\)\)"),
        (broken, task, "Net gives outputs that are not a number"),
        (Noisy, task, "Noisy gives other outputs at each call in eval mode"),
        (Counting, task, "Counting gives other outputs at each call in eval mode"),
        (trained, infinite, "the loss of Net on the first training batch of .* is inf"),
        (trained, without_loss, "NoLoss measures accuracy and no loss; give best=, as best='max accuracy'"),
    ],
)  # fmt: skip
def test_models_and_data_that_do_not_fit_are_told(tmp_path: Path, model: Any, data: Any, said: str) -> None:
    made = copy.deepcopy(model())
    before = {name: one.clone() for name, one in made.state_dict().items()}
    made.train()
    made.stem.eval()
    with pytest.raises(NasError, match=said) as caught:
        nas.compress(made, data(), "macs <= 50%", folder=tmp_path / "net", progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "net").exists()
    assert made.training, "modules are left in their modes"
    assert not made.stem.training
    assert all(torch.equal(one.nan_to_num(), before[name].nan_to_num()) for name, one in made.state_dict().items())


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"best": "accuracy"}, MetricError, "best='accuracy' is not understood; write 'max NAME' .* accuracy, loss"),
        ({"best": "max nowhere"}, MetricError, "best='max nowhere' names no metric of .*, which measures accuracy, loss"),
        ({"best": "max acuracy"}, MetricError, "did you mean 'accuracy'"),
        ({"epochs": 1, "warmup": 1}, EvaluationError, "leave no epoch for tuning; give at least epochs=2"),
        ({"epochs": 3, "candidates": 4}, EvaluationError, "leave no epoch for tuning; give at least epochs=4"),
        ({"epochs": 0}, NasError, "epochs=0; it is a whole number, 1 or more"),
        ({"lrr": 1e-3}, EvaluationError, "no option 'lrr'.*did you mean 'lr'"),
        ({"loss": None}, EvaluationError, "decides loss of its trainings itself"),
        ({"teacher": 1.5}, NasError, "teacher=1.5"),
        ({"order": "fischer"}, NasError, "'fischer' is no importance score; did you mean 'fisher'"),
        ({"stored": True, "teacher": 0.0}, EvaluationError, "stored=True has no effect where labels alone teach"),
        ({"hidden": 1.0, "teacher": 0.0}, EvaluationError, "hidden=1 has no effect where labels alone teach"),
        ({"hidden": 1.0, "tune": "family"}, EvaluationError, "hidden=1 has no effect with tune='family'"),
        ({"hidden": 1.0, "stored": True}, EvaluationError, "stored=True has no effect with hidden=1"),
        ({"tune": "all"}, NasError, "tune='all'"),
        ({"lr": "fast"}, NasError, "lr='fast'"),
        ({"optimizer": "adamx"}, NasError, "adamx"),
    ],
)  # fmt: skip
def test_options_that_mean_nothing_are_told(
    tmp_path: Path, options: Mapping[str, Any], error: type[NasError], said: str
) -> None:
    with pytest.raises(error, match=said):
        nas.compress(trained(), task(), "macs <= 50%", folder=tmp_path / "net", progress=False, **options)
    assert not (tmp_path / "net" / "supernet").exists()


def test_a_teacher_needs_a_task_that_compares_outputs(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="teacher=0.5 has no effect on .*leave teacher= out"):
        nas.compress(trained(), silent(), "macs <= 50%", folder=tmp_path, teacher=0.5, progress=False)


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "net").write_text("mine")
    with pytest.raises(StudyError, match="net"):
        nas.compress(trained(), task(), "macs <= 50%", folder=tmp_path / "net", progress=False)
    assert (tmp_path / "net").read_text() == "mine"
