"""A loss with a teacher compares outputs as fits the task, and refuses what does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyglove as pg
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nas
from nas.errors import TrainError
from nas.train import (
    Batch,
    ExitMean,
    Granular,
    InPlace,
    Interpolated,
    Labels,
    Loss,
    Ramped,
    Snapshots,
    Step,
    Task,
    Teacher,
    Training,
    distillation,
)
from nas.train.divergences import (
    DIST,
    KL,
    AdaptiveAlpha,
    Binary,
    Divergence,
    Hard,
    MeanSquares,
    Similarities,
    SoftSimilarities,
)
from tests.train.family import blobs, supernet


class Silent(Task):
    """A task that does not say what its outputs are."""

    steps_per_epoch = 1
    example = torch.zeros(1, 3)

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        raise NotImplementedError

    def valid_batches(self) -> Iterator[Batch]:
        return iter(())

    test_batches = valid_batches

    def calibration_inputs(self) -> Iterator[Tensor]:
        return iter(())

    def loss(self, output: Any, batch: Batch) -> Tensor:
        return output.sum() * 0.0

    def metrics(self, output: Any, batch: Batch) -> Mapping[str, Tensor]:
        return {}


class Says(Silent):
    def __init__(self, own: Divergence) -> None:
        self.own = own

    @property
    def divergence(self) -> Divergence:
        return self.own


def taught(task: Task, targets: Any, student: Tensor, teacher: Tensor, loss: Loss | None = None) -> Tensor:
    """The loss of the smaller of two networks."""
    space = supernet().space
    step = Step(0, task, space, [space.largest, space.smallest], space.largest)
    batch = Batch(torch.zeros(len(student), 3), targets)
    loss = loss or InPlace()
    loss(teacher, batch, step)
    step.arch = space.smallest
    return loss(student, batch, step)


def test_a_regression_that_says_nothing_is_compared_by_mean_squares() -> None:
    student, teacher = torch.randn(8), torch.randn(8)
    for shape in ((8,), (8, 1), (4, 2)):
        a, b = student.reshape(shape), teacher.reshape(shape)
        found = taught(Silent(), torch.randn(shape), a, b)
        torch.testing.assert_close(found, functional.mse_loss(a, b))


def test_classes_that_nobody_declared_are_compared_by_their_distributions() -> None:
    student, teacher = torch.randn(4, 5, 3), torch.randn(4, 5, 3)
    expected = distillation(student, teacher)
    torch.testing.assert_close(taught(Silent(), torch.zeros(4, 5, dtype=torch.long), student, teacher), expected)
    torch.testing.assert_close(taught(Silent(), {"tokens": torch.zeros(4, 5).long()}, student, teacher), expected)
    soft = torch.softmax(torch.randn(4, 5, 3), -1)
    torch.testing.assert_close(taught(Silent(), soft, student, teacher), expected)


@pytest.mark.parametrize("targets", [torch.zeros(2, 5, 7).long(), torch.zeros(2), None, {"a": torch.zeros(3, 3)}])
def test_what_the_targets_do_not_tell_is_refused(targets: Any) -> None:
    maps = torch.randn(2, 3, 5, 7)  # a softmax over the last axis would be one over the width
    with pytest.raises(
        TrainError, match="does not say how outputs of two networks are compared.*property `divergence`"
    ):
        taught(Silent(), targets, maps, maps)


DEFAULTS = [KL(), MeanSquares(), Binary(), Similarities()]
CHOSEN = [KL(), Hard(), DIST(), AdaptiveAlpha(), MeanSquares(), Binary(), Similarities(), SoftSimilarities()]


@pytest.mark.parametrize("own", DEFAULTS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("chosen", CHOSEN, ids=lambda one: type(one).__name__)
def test_a_divergence_is_refused_where_it_means_nothing(own: Divergence, chosen: Divergence) -> None:
    for loss in (
        InPlace(divergence=chosen),
        Teacher(nn.Linear(3, 3), divergence=chosen),
        Ramped(InPlace(divergence=chosen), 0, 5),
    ):
        checks = [lambda one=one: one.check(Says(own)) for one in loss.within()]
        if own.compares[0] in chosen.compares:
            [check() for check in checks]
            continue
        with pytest.raises(TrainError, match="compares outputs by .*, which is made for .* and those of Says are"):
            [check() for check in checks]


@pytest.mark.parametrize(
    "loss",
    [
        InPlace(temperature=2.0),
        Teacher(nn.Linear(3, 3), temperature=2.0),
        ExitMean(distill=0.5, temperature=2.0),
        Granular(kl=1.0, temperature=2.0),
        Snapshots((1,), temperature=2.0),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_temperature_without_effect_is_refused(loss: Loss) -> None:
    loss.check(Says(KL()))
    loss.check(Says(Binary()))
    with pytest.raises(
        TrainError, match=r"has temperature=2.0, which has no effect on outputs that are compared by MeanSq"
    ):
        loss.check(Says(MeanSquares()))


def test_embeddings_are_not_interpolated() -> None:
    with pytest.raises(TrainError, match="those of Says are embeddings"):
        Interpolated(nn.Linear(3, 3), 5).check(Says(Similarities()))


@pytest.mark.parametrize("loss", [InPlace(), ExitMean(distill=1.0), Granular(kl=1.0), Snapshots((1,))])
@pytest.mark.parametrize("own", [MeanSquares(), Binary(), Similarities()], ids=lambda one: type(one).__name__)
def test_every_loss_with_a_teacher_takes_the_tasks_own(loss: Loss, own: Divergence) -> None:
    student, teacher = torch.randn(6, 4), torch.randn(6, 5 if isinstance(own, Similarities) else 4)
    parts = 2.0 if isinstance(loss, ExitMean) else 1.0
    torch.testing.assert_close(taught(Says(own), None, student, teacher, loss) * parts, own(student, teacher))


def test_teachers_outside_take_the_tasks_own() -> None:
    module, student = nn.Linear(3, 4), torch.randn(6, 4)
    teacher = module(torch.zeros(6, 3)).detach()
    found = taught(Says(MeanSquares()), None, student, student, Teacher(module, weight=1.0))
    torch.testing.assert_close(found, functional.mse_loss(student, teacher))
    found = taught(Says(MeanSquares()), None, student, student, Interpolated(module, 5, start=0.5, weight=1.0))
    torch.testing.assert_close(found, functional.mse_loss(student, (student + teacher) / 2))


def test_a_training_refuses_before_it_begins() -> None:
    class Numbers(type(blobs())):  # type: ignore[misc]
        divergence = property(lambda self: MeanSquares())

    task = blobs()
    other = Numbers(task.train, task.valid, batch=16)
    Training(supernet(), other, loss=Labels())
    with pytest.raises(TrainError, match="InPlace compares outputs by Hard, which is made for logits of classes"):
        Training(supernet(), other, loss=InPlace(divergence=Hard()))


def test_binary_equals_its_definition() -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 3, generator=draw).double() for _ in range(2))
    for t in (1.0, 3.0):
        p, q = (teacher / t).sigmoid(), (student / t).sigmoid()
        expected = t * t * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
        assert Binary(t)(student, teacher).item() == pytest.approx(expected.item(), rel=1e-5)


def test_similarities_equal_their_definition_and_need_no_equal_lengths() -> None:
    student, teacher = torch.randn(5, 3), torch.randn(5, 7)
    total = 0.0
    for i in range(5):
        for j in range(5):
            if i != j:
                ours, theirs = (functional.cosine_similarity(one[i], one[j], dim=0) for one in (student, teacher))
                total += float((ours - theirs) ** 2)
    assert Similarities()(student, teacher).item() == pytest.approx(total / 20, rel=1e-4)
    assert Similarities()(student, 3 * student).item() == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(TrainError, match=r"the student's are \(5,\) and"):
        Similarities()(student[:, 0], teacher)
    with pytest.raises(TrainError, match="relates the samples of a batch and got 1"):
        Similarities()(student[:1], teacher[:1])


def test_soft_similarities_equal_their_definition() -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(5, 3, generator=draw), torch.randn(5, 7, generator=draw)
    for t in (0.2, 1.0):
        total = 0.0
        for i in range(5):
            others = [j for j in range(5) if j != i]
            q, p = (
                torch.stack([functional.cosine_similarity(one[i], one[j], dim=0) for j in others]).div(t).softmax(0)
                for one in (student, teacher)
            )
            total += float((p * (p / q).log()).sum())
        assert SoftSimilarities(t)(student, teacher).item() == pytest.approx(total / 5, rel=1e-4)
    assert SoftSimilarities()(teacher, 3 * teacher).item() == pytest.approx(0.0, abs=1e-5)
    with pytest.raises(TrainError, match="compares each sample with two others and got 2"):
        SoftSimilarities()(student[:2], teacher[:2])
    with pytest.raises(TrainError, match="temperature=0"):
        SoftSimilarities(0.0)


def test_a_softmax_over_the_axis_of_the_batch_is_refused() -> None:
    with pytest.raises(TrainError, match=r"outputs of shape \(8,\), whose last axis is the batch's"):
        KL()(torch.randn(8), torch.randn(8))


@nas.model
def numbers(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 1), nn.Flatten(0))


def test_a_smaller_network_learns_numbers_from_a_larger_one() -> None:
    """The default loss; by a softmax over the batch the smaller network's error stayed above that of a constant."""
    inputs = torch.randn(256, 3, generator=torch.Generator().manual_seed(0))
    targets = inputs.sum(1) + 3.0

    class Sum(Silent):
        metric_names = ("mse",)
        steps_per_epoch = 4

        def train_batches(self, epoch: int) -> Iterator[Batch]:
            return (Batch(inputs[at::4], targets[at::4]) for at in range(4))

        def valid_batches(self) -> Iterator[Batch]:
            yield Batch(inputs, targets)

        def loss(self, output: Any, batch: Batch) -> Tensor:
            return functional.mse_loss(output, batch.targets)

        def metrics(self, output: Any, batch: Batch) -> Mapping[str, Tensor]:
            return {"mse": self.loss(output, batch)}

    net = nas.Supernet(nas.Space(numbers(width=pg.oneof([4, 16]))), example=inputs[:1])
    Training(net, Sum(), steps=150, lr=2e-2).run(progress=False)
    assert Sum().evaluate(lambda x: net(x, net.space.smallest))["mse"] < 0.5 * targets.var()
