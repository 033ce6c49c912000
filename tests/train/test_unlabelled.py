"""Training without labels: a teacher is all there is."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nas
from nas.errors import TrainError
from nas.train import Batch, Interpolated, Loss, Teacher, Training
from tests.train.family import blobs, supernet


def images(count: int = 200) -> Tensor:
    return torch.rand(count, *blobs().example.shape[1:], generator=torch.Generator().manual_seed(5))


def teacher() -> nn.Module:
    net = supernet()
    return net.extract(net.space.largest)


def test_batches_have_no_labels_and_splits_are_the_tasks() -> None:
    task = nas.Unlabelled(blobs(), images(), batch=32, seed=3)
    assert task.steps_per_epoch == 6
    first, again, other = (list(task.train_batches(epoch)) for epoch in (0, 0, 1))
    assert [one.targets for one in first] == [()] * 6
    rows = torch.cat([one.inputs for one in first])
    assert torch.equal(rows, torch.cat([one.inputs for one in again]))
    assert not torch.equal(rows, torch.cat([one.inputs for one in other]))
    known = {bytes(one.numpy().tobytes()) for one in images()}
    assert all(bytes(one.numpy().tobytes()) in known for one in rows)
    ours, theirs = (list(one.valid_batches()) for one in (task, blobs()))
    assert all(torch.equal(a.targets, b.targets) for a, b in zip(ours, theirs, strict=True))
    assert task.metric_names == blobs().metric_names
    assert next(iter(pickle.loads(pickle.dumps(task)).train_batches(0))).inputs.equal(first[0].inputs)
    others = [nas.Unlabelled(blobs(), images() + 0.1, batch=32, seed=3), nas.Unlabelled(blobs(), images(), seed=3)]
    assert all(one.describe() != task.describe() for one in others)


@pytest.mark.parametrize("loss", [lambda one: Teacher(one, weight=1.0), lambda one: Interpolated(one, 9, weight=1.0)])
def test_a_student_comes_nearer_to_its_teacher(loss: type[Loss], tmp_path: Path) -> None:
    module, task = teacher(), nas.Unlabelled(blobs(), images(), batch=32)
    net = supernet(seed=1)

    def apart() -> float:
        with torch.no_grad():
            student = net.extract(net.space.largest)(images())
        return float(nas.KL()(student, module(images())))

    before = apart()
    training = Training(net, task, loss=loss(module), steps=30, lr=1e-2, path=tmp_path, sampler=nas.Uniform(1))
    result = training.run(progress=False)
    assert apart() < 0.7 * before
    assert "largest_accuracy" in result.history.columns, "judged by the task's labels"


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (nas.InPlace(), "InPlace"),
        (nas.Labels(), "Labels"),
        (Teacher(nn.Identity(), weight=0.5), "Teacher"),
        (nas.train.Ramped(nas.InPlace(), 2, 3), "Ramped"),
    ],
)
def test_losses_that_learn_from_labels_are_refused_before_a_step(loss: Loss, name: str) -> None:
    with pytest.raises(TrainError, match=f"have no labels, and {name} learns from them; teach with nas.Teacher"):
        Training(supernet(), nas.Unlabelled(blobs(), images()), loss=loss, steps=3)


def test_what_asks_for_a_loss_all_the_same_gets_a_sentence() -> None:
    task = nas.Unlabelled(blobs(), images())
    with pytest.raises(TrainError, match="have no labels, and something asked for their loss"):
        task.loss(torch.zeros(64, 10), next(task.train_batches(0)))
    batch = next(task.valid_batches())
    scores = torch.zeros(len(batch.targets), 10)
    assert task.loss(scores, batch) == blobs().loss(scores, Batch(batch.inputs, batch.targets))


def test_inputs_of_another_kind_are_refused() -> None:
    with pytest.raises(TrainError, match=r"have samples of \(1, 1, 5, 5\) float32 and those of the task"):
        nas.Unlabelled(blobs(), torch.zeros(20, 1, 5, 5), batch=4)
    with pytest.raises(TrainError, match="give a tensor or array"):
        nas.Unlabelled(blobs(), ["a.png"])
    own = nas.Task.of(
        (images(), torch.zeros(200)), (images(20) + 1, torch.zeros(20)), loss=lambda a, b: a.mean() + b.mean()
    )
    with pytest.raises(TrainError, match="does not say how the outputs of two networks are compared"):
        nas.Unlabelled(own, images())
