"""What every task must do: the same batches for the same epoch, metrics that do not depend on how a split is cut, a training."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nas
from nas.metrics import parse_objective
from nas.supernet.inputs import batch_size, call, tensors_in
from nas.train import Batch, Task, Training
from nas.train.rows import part_of


def parts(batch: Batch) -> list[Tensor]:
    return tensors_in((batch.inputs, batch.targets))


def equal(first: list[Batch], second: list[Batch]) -> bool:
    if len(first) != len(second):
        return False
    pairs = [pair for both in zip(first, second, strict=True) for pair in zip(*map(parts, both), strict=True)]
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


class TaskConformance:
    """Inherit, and give `make` and `space`."""

    group = 1
    """Rows of the inputs that belong together."""
    remade = True
    """Whether `make` gives equal data each time, with any number of samples a batch."""

    def make(self, **options: Any) -> Task:
        """A task of a few hundred samples at most; options are `batch`, `seed`."""
        raise NotImplementedError

    def space(self) -> nas.Space:
        """Networks for it."""
        raise NotImplementedError

    @pytest.fixture
    def task(self) -> Task:
        return self.make()

    @pytest.fixture
    def model(self, task: Task) -> nn.Module:
        torch.manual_seed(0)
        return self.space().build(self.space().largest).eval()

    def test_batches_are_a_function_of_seed_and_epoch(self, task: Task) -> None:
        before = torch.get_rng_state()
        first, again, other = (list(task.train_batches(epoch)) for epoch in (3, 3, 4))
        assert equal(first, again)
        assert not equal(first, other)
        assert not equal(first, list(self.make(seed=1).train_batches(3)))
        assert torch.equal(before, torch.get_rng_state())

    def test_an_epoch_has_as_many_batches_as_it_says(self, task: Task) -> None:
        assert len(list(task.train_batches(0))) == task.steps_per_epoch

    def test_the_example_is_one_sample(self, task: Task, model: nn.Module) -> None:
        assert batch_size(task.example) == 1
        inputs = next(task.train_batches(0)).inputs
        for one, other in zip(tensors_in(task.example), tensors_in(inputs), strict=True):
            assert one.dtype == other.dtype
            assert one.ndim == other.ndim
        call(model, task.example)

    def test_calibration_is_the_same_each_time(self, task: Task) -> None:
        first, again = (list(task.calibration_inputs()) for _ in range(2))
        assert first
        assert all(map(torch.equal, tensors_in(first), tensors_in(again)))

    def test_metrics_can_be_objectives(self, task: Task) -> None:
        assert [parse_objective(f"max {name}").name for name in task.metric_names] == list(task.metric_names)

    def test_metrics_do_not_depend_on_how_a_split_is_cut(self, task: Task, model: nn.Module) -> None:
        found = task.evaluate(lambda inputs: call(model, inputs))
        assert tuple(found) == task.metric_names
        cut = [
            part_of(batch, slice(start, start + self.group), task.example)
            for batch in task.valid_batches()
            for start in range(0, task.samples(batch), self.group)
        ]
        object.__setattr__(task, "valid_batches", lambda: iter(cut))
        again = task.evaluate(lambda inputs: call(model, inputs))
        for name in self.exact_metrics(task):
            assert again[name] == pytest.approx(found[name], rel=1e-4, abs=1e-6), name

    def exact_metrics(self, task: Task) -> tuple[str, ...]:
        """Those that are of a split whatever its batches."""
        return task.metric_names

    def test_the_loss_is_a_number_with_a_gradient(self, task: Task, model: nn.Module) -> None:
        batch = next(task.train_batches(0))
        loss = task.loss(call(model, batch.inputs), batch)
        assert loss.shape == ()
        loss.backward()
        assert any(one.grad is not None and one.grad.abs().sum() > 0 for one in model.parameters())

    def test_two_networks_are_compared_as_the_task_says(self, task: Task, model: nn.Module) -> None:
        assert task.divergence is not None
        scores = task.logits(call(model, next(task.train_batches(0)).inputs))
        assert task.divergence(scores, scores).item() == pytest.approx(0.0, abs=1e-5)
        assert task.divergence(scores, scores.flip(0) + scores).item() > 0

    def test_the_description_tells_data_apart(self, task: Task) -> None:
        described = task.describe()
        assert json.loads(json.dumps(described)) == json.loads(json.dumps(self.make().describe()))
        assert described != self.make(seed=1).describe()

    def test_a_copy_in_another_process_is_the_same_task(self, task: Task) -> None:
        copy = pickle.loads(pickle.dumps(task))
        assert copy.describe() == task.describe()
        assert equal(list(copy.train_batches(1)), list(task.train_batches(1)))

    def test_it_is_trained_and_shown_by_its_first_metric(
        self, task: Task, capfd: pytest.CaptureFixture[str], tmp_path: Any
    ) -> None:
        net = nas.Supernet(self.space(), example=task.example)
        training = Training(net, task, steps=3, path=tmp_path / "run")
        history = training.run().history
        for name in task.metric_names:
            assert torch.isfinite(torch.tensor(history[f"smallest_{name}"].iloc[-1]))
        assert f"{task.metric_names[0]}: largest" in capfd.readouterr().err
        found = nas.Accuracy(training, task)(net.space.smallest)
        assert tuple(found) == task.metric_names
        assert found[task.metric_names[0]] == pytest.approx(
            history[f"smallest_{task.metric_names[0]}"].iloc[-1], rel=1e-4
        )
