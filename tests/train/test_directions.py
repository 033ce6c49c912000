"""Features that are taught the norm and the direction of a teacher's (`nas.train.directions`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nas
from nas.errors import TrainError
from nas.train import InPlace, Labels, Loss, NormAndDirection, Step, Teacher, Training, Uniform
from nas.train.directions import Directions, pooled
from nas.train.trunk import featured
from tests.train.family import blobs, supernet
from tests.train.test_features import LAYER, Net


def loss(inner: Loss | None = None, weight: float = 2.0, seed: int = 0) -> NormAndDirection:
    return NormAndDirection(LAYER, Net(seed), inner or Labels(), weight, teacher_layer="inner.1")


def training(given: Loss, path: Path | None = None, **options: Any) -> Training:
    settings: dict[str, Any] = {"sampler": Uniform(1), "steps": 8, "lr": 1e-2, "checkpoint_every": 1, **options}
    return Training(supernet(), blobs(), loss=given, path=path, **settings)


def slow(f: list[float], t: list[float], c: list[float]) -> float:
    """1 − ⟨f, c⟩ / (‖c‖ · max(‖f‖, ‖t‖)) of one sample, in plain Python."""
    length = [math.sqrt(sum(x * x for x in one)) for one in (f, t, c)]
    return 1 - sum(a * b for a, b in zip(f, c, strict=True)) / (length[2] * max(length[0], length[1]))


def test_a_step_equals_the_definition() -> None:
    given = loss(Teacher(Net(), weight=0.5))
    job = training(given)
    net, task, teacher, kept = job.supernet.eval(), job.task, given.teacher, given.keep(job)
    rows: dict[int, list[Tensor]] = {}
    for batch in task.train_batches(0):
        for one, label in zip(teacher.inner[1](batch.inputs.flatten(1)), batch.targets, strict=True):  # type: ignore[index,operator]
            rows.setdefault(int(label), []).append(one.detach())
    means = {label: torch.stack(some).mean(0).tolist() for label, some in rows.items()}
    batch = next(task.train_batches(1))
    step = Step(0, task, net.space, [net.space.smallest], net.space.smallest, kept={given: kept})
    ((_, output, step.features),) = featured(net, [step.arch], batch.inputs, given.taps)
    matrix = kept.projection.weight[:, : step.features[LAYER].shape[1]]  # type: ignore[index,union-attr]
    ours = (step.features[LAYER] @ matrix.T + kept.projection.bias).tolist()  # type: ignore[operator]
    theirs = teacher.inner[1](batch.inputs.flatten(1)).tolist()  # type: ignore[index,operator]
    each = [slow(f, t, means[int(label)]) for f, t, label in zip(ours, theirs, batch.targets, strict=True)]
    before = teacher.calls
    found = given(output, batch, step)
    assert teacher.calls == before + 1, "for outputs and features"  # type: ignore[operator]
    expected = Teacher(teacher, weight=0.5)(output, batch, step).item() + 2.0 * sum(each) / len(each)
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_features_that_are_longer_than_the_teachers_lose_nothing_and_shorter_ones_do() -> None:
    means = torch.nn.functional.normalize(torch.tensor([[3.0, 4.0], [1.0, 0.0]]))
    judge, teacher, classes = Directions(means, nn.Identity()), torch.tensor([[0.0, 2.0]]), torch.tensor([0])
    for length, expected in ((2.0, 0.0), (9.0, 0.0), (1.0, 0.5), (0.0, 1.0), (-7.0, 2.0)):
        student = (length * means[:1]).requires_grad_()
        found = judge(student, teacher, classes)
        assert found.item() == pytest.approx(expected, abs=1e-6)
        assert torch.isfinite(torch.autograd.grad(found, student)[0]).all()


def test_positions_are_averaged() -> None:
    image = torch.randn(3, 5, 2, 4)
    torch.testing.assert_close(pooled(image), image.mean((2, 3)))
    tokens = image.flatten(2).transpose(1, 2)
    torch.testing.assert_close(pooled(tokens), image.mean((2, 3)))
    torch.testing.assert_close(pooled(image[:, :, 0, 0]), image[:, :, 0, 0])


def test_training_brings_features_nearer() -> None:
    def apart(weight: float) -> float:
        seen: list[Directions] = []

        class Watching(NormAndDirection):
            def begin(self, training: Training, kept: nn.Module, step: int) -> None:
                assert isinstance(kept, Directions)
                seen.append(kept)

        given = Watching(LAYER, Net(), InPlace(), weight, "inner.1")
        job = training(given, steps=40)
        net = job.run(progress=False).supernet.train()
        batch = next(blobs().train_batches(1))
        with torch.no_grad():
            ((_, _, found),) = featured(net, [net.space.smallest], batch.inputs, [LAYER])
            theirs = given.teacher.inner[1](batch.inputs.flatten(1))  # type: ignore[index,operator]
            return float(seen[0](found[LAYER], theirs, batch.targets))

    assert apart(2.0) < 0.7 * apart(1e-9)


def test_a_killed_training_goes_on_with_the_same_projection(tmp_path: Path) -> None:
    whole = training(loss(), tmp_path / "whole").run(progress=False).supernet.state_dict()
    training(loss(), tmp_path / "parts").run(progress=False, until=3)
    resumed = training(loss(), tmp_path / "parts").run(progress=False).supernet.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    said = [
        loss(),
        loss(InPlace()),
        loss(weight=1.0),
        loss(seed=1),
        NormAndDirection("body", Net(), teacher_layer="inner"),
    ]
    assert len({str(one.describe()) for one in said}) == len(said)


def regression() -> nas.Task:
    x, others = torch.rand(2, 64, 1, 8, 8)
    return nas.Task.of((x, x[:, 0, 0, 0]), (others, others[:, 0, 0, 0]), loss="mse")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: NormAndDirection("", Net()), "layer=''.*; give the name of a layer"),
        (lambda: NormAndDirection(LAYER, Net(), weight=0.0), "NormAndDirection was given weight=0.0"),
        (
            lambda: training(NormAndDirection("body.9", Net())).run(),
            "the largest arch of space 'mlp' has no layer 'body.9'",
        ),
        (
            lambda: training(NormAndDirection(LAYER, Net())).run(),
            r"the teacher, a Net, has no layer 'body.1'; there are",
        ),
        (
            lambda: training(NormAndDirection(LAYER, Net(), teacher_layer="unused")).run(),
            "'unused' of a Net is there and is not called",
        ),
        (lambda: Training(supernet(), regression(), loss=loss(), steps=2), "are compared by MeanSquares, so that they"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(TrainError, match=sentence):
        make()


def test_soft_labels_have_no_class() -> None:
    x, others = torch.rand(2, 64, 1, 8, 8)
    soft = torch.softmax(torch.randn(64, 10), -1)
    task = nas.Task.of((x, soft), (others, soft), loss="cross_entropy")
    with pytest.raises(TrainError, match=r"targets are torch.float32 of shape \(\d+, 10\); give whole numbers"):
        Training(supernet(), task, loss=loss(), steps=2).run(progress=False)
