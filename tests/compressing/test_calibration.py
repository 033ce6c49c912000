"""How much a subnet lost, on a few training batches."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from torch.nn import functional

import nas
from nas.compressing import Calibration, Memory
from nas.errors import EvaluationError
from tests.compressing.nets import supernet, task, trained
from tests.conformance.evaluator import EvaluatorConformance


class TestCalibration(EvaluatorConformance):
    @pytest.fixture
    def space(self) -> nas.Space:
        return saved().space

    @pytest.fixture
    def evaluator(self, net: nas.Supernet) -> Any:
        return Calibration(net, task(), batches=2)

    @pytest.fixture
    def net(self, tmp_path: Any) -> nas.Supernet:
        net = saved()
        net.save(tmp_path / "net")
        return net


class TestMemory(TestCalibration):
    @pytest.fixture
    def evaluator(self, net: nas.Supernet) -> Any:
        return Memory(net)


def saved() -> nas.Supernet:
    return supernet()


@torch.no_grad()
def test_loss_and_divergence_are_means_over_the_samples_of_the_first_batches() -> None:
    net = supernet()
    arch = net.space.smallest
    found = Calibration(net, task(), batches=3)(arch)
    small = nas.Accuracy(net, task()).extract(arch)
    losses, apart, count = 0.0, 0.0, 0
    for batch in islice(task().train_batches(0), 3):
        student, teacher = small(batch.inputs), trained()(batch.inputs)
        size = len(batch.inputs)
        losses += float(functional.cross_entropy(student, batch.targets)) * size
        p, q = teacher.log_softmax(-1), student.log_softmax(-1)
        apart += float((p.exp() * (p - q)).sum(-1).mean()) * size
        count += size
    assert found["calibration_loss"] == pytest.approx(losses / count, rel=1e-3)
    assert found["divergence"] == pytest.approx(apart / count, rel=1e-2)


def test_the_original_has_lost_nothing_but_what_other_statistics_cost() -> None:
    net = supernet()
    quality = Calibration(net, task(), batches=2)
    assert quality(net.space.largest)["divergence"] < 0.05 * quality(net.space.smallest)["divergence"]


def test_a_task_that_compares_no_outputs_has_its_loss_alone() -> None:
    x, y = torch.randn(64, 1, 8, 8), torch.randint(0, 10, (64,))

    def loss(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(output, targets)

    alone = nas.Task.of((x, y), (x + 1, y), loss=loss, batch=32, name="noise")
    assert alone.divergence is None
    quality = Calibration(supernet(), alone)
    assert set(quality(supernet().space.smallest)) == {"calibration_loss"} == set(quality.metrics)


def test_no_training_batch_is_said() -> None:
    class Empty(type(task())):  # type: ignore[misc]
        def train_batches(self, epoch: int) -> Any:
            return iter(())

    empty = Empty(task().train, task().valid)  # type: ignore[attr-defined]
    with pytest.raises(EvaluationError, match="no training batch to calibrate with"):
        Calibration(supernet(), empty)(supernet().space.smallest)
