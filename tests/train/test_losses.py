from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas.errors import TrainError
from nas.train import Batch, InPlace, Labels, Loss, Step, Teacher, Training, distillation
from tests.train.family import blobs, space, supernet


def slow_distillation(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """Sum over classes of p · ln(p / q), in plain Python."""
    total = 0.0
    rows = list(
        zip(
            student.reshape(-1, student.shape[-1]).tolist(),
            teacher.reshape(-1, teacher.shape[-1]).tolist(),
            strict=True,
        )
    )
    for s, t in rows:
        p = [math.exp(value / temperature) for value in t]
        q = [math.exp(value / temperature) for value in s]
        p, q = [value / sum(p) for value in p], [value / sum(q) for value in q]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(rows)


def test_a_teacher_is_the_same_where_its_statistics_are_rounded_otherwise() -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))
    teacher(torch.randn(64, 8))
    described = [Teacher(teacher).describe()]
    for factor in (1 + 1e-7, 1.05):
        changed = copy.deepcopy(teacher)
        changed[1].running_var *= factor  # type: ignore[operator]
        described.append(Teacher(changed).describe())
    assert described[0] == described[1] != described[2]
    with torch.no_grad():
        teacher[0].weight[0, 0] = teacher[0].weight[0, 0].nextafter(torch.tensor(9.0))  # type: ignore[index]
    assert Teacher(teacher).describe() != described[0], "weights are compared to the bit"


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 4)])
def test_distillation_equals_its_definition(temperature: float, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    found = distillation(student, teacher, temperature).item()
    assert found == pytest.approx(slow_distillation(student, teacher, temperature), rel=1e-5)
    assert distillation(teacher, teacher, temperature).item() == pytest.approx(0.0, abs=1e-6)


def test_the_gradient_of_distillation_is_the_difference_of_distributions() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4, requires_grad=True)
    distillation(student, teacher, 2.0).backward()
    expected = 2.0 * (torch.softmax(student / 2, 1) - torch.softmax(teacher / 2, 1)) / 6
    assert student.grad is not None
    assert torch.allclose(student.grad, expected.detach(), atol=1e-6)
    assert teacher.grad is None


def test_the_size_of_the_gradient_does_not_vanish_with_temperature() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(6, 4)
    norms = []
    for temperature in (20.0, 40.0):
        student = torch.zeros(6, 4, requires_grad=True)
        distillation(student, teacher, temperature).backward()
        assert student.grad is not None
        norms.append(student.grad.norm().item())
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


def test_logits_of_different_shapes_are_refused() -> None:
    with pytest.raises(TrainError, match=r"student's logits are \(2, 3\) and the teacher's \(2, 4\)"):
        distillation(torch.zeros(2, 3), torch.zeros(2, 4))


class Constant(nn.Module):
    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores, self.calls = nn.Parameter(scores), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        assert not self.training
        return self.scores.expand(len(x), -1)


def a_step() -> tuple[Step, Batch, dict[str, Any]]:
    task, ours = blobs(), space()
    batch = next(task.train_batches(0))
    archs = [ours.largest, ours.smallest]
    return Step(0, task, ours, archs, ours.largest), batch, {}


def test_a_teacher_looks_once_a_step_and_is_weighed() -> None:
    step, batch, _ = a_step()
    teacher = Constant(torch.randn(10))
    scores = torch.randn(16, 10)
    labels, soft = step.task.loss(scores, batch), distillation(scores, teacher.scores.expand(16, -1), 3.0)
    for weight in (0.0, 0.3, 1.0):
        loss = Teacher(teacher, weight=weight, temperature=3.0)
        loss.prepare(torch.device("cpu"))
        fresh, before = Step(0, step.task, step.space, step.archs, step.arch), teacher.calls
        for arch in step.archs:
            fresh.arch = arch
            assert loss(scores, batch, fresh).item() == pytest.approx(
                ((1 - weight) * labels + weight * soft).item(), rel=1e-5
            )
        assert teacher.calls == before + 1
    assert teacher.scores.grad is None


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 5)),
            r"student's logits are \(\d+, 10\) and the teacher's \(\d+, 5\); they must agree",
        ),
        (nn.Linear(7, 3), r"the teacher, a Linear, does not take the task's inputs \(.*\); give one that does"),
    ],
)
def test_a_teacher_that_does_not_match_stops_before_any_weight_moves(
    module: nn.Module, sentence: str, tmp_path
) -> None:
    task = blobs()
    net = supernet()
    before = {name: tensor.detach().clone() for name, tensor in net.named_parameters()}
    options: dict[str, Any] = {"path": tmp_path / "run", "steps": 2, "validate_every": 2}
    with pytest.raises(TrainError, match=sentence):
        Training(net, task, loss=Teacher(module), **options).run(progress=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.named_parameters())
    right = Training(net, task, loss=Teacher(nn.Sequential(nn.Flatten(), nn.Linear(64, 10))), **options)
    assert not right.trained, "the path is as if nothing had been there"
    assert right.run(progress=False).steps == 2


def test_in_place_teaches_labels_to_the_largest_and_its_outputs_to_the_rest() -> None:
    step, batch, _ = a_step()
    large, small = (torch.randn(16, 10, requires_grad=True) for _ in range(2))
    loss = InPlace(temperature=2.0)
    first = loss(large, batch, step)
    assert first.item() == pytest.approx(step.task.loss(large, batch).item())
    step.arch = step.space.smallest
    second = loss(small, batch, step)
    assert second.item() == pytest.approx(distillation(small, large, 2.0).item())
    second.backward()
    assert small.grad is not None
    assert large.grad is None  # the teacher is not taught by its pupil
    mixed = InPlace(labels=0.25)(small, batch, step)
    assert mixed.item() == pytest.approx(
        (0.25 * step.task.loss(small, batch) + 0.75 * distillation(small, large)).item(), rel=1e-5
    )


def test_in_place_puts_the_largest_first_and_adds_it_where_it_is_missing() -> None:
    ours = space()
    rest = [ours.smallest, ours.arch({"width": 16, "depth": 1})]
    for archs in (rest, [*rest, ours.largest], [ours.largest, *rest]):
        assert InPlace().archs(archs, ours) == [ours.largest, *rest]
    assert Labels().archs(rest, ours) == rest


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: Teacher(nn.Identity(), weight=1.5),
            "Teacher was given weight=1.5; it is a finite number, 0 or more",
        ),
        (lambda: InPlace(temperature=0.0), "InPlace was given temperature=0.0; it is a finite number, above 0"),
        (lambda: InPlace(labels=-0.1), "InPlace was given labels=-0.1"),
    ],
)
def test_weights_and_temperatures_are_checked(make: Any, sentence: str) -> None:
    with pytest.raises(TrainError, match=sentence):
        make()


def test_descriptions_tell_losses_and_teachers_apart() -> None:
    torch.manual_seed(0)
    a, b = Constant(torch.zeros(10)), Constant(torch.ones(10))
    losses: list[Loss] = [Labels(), InPlace(), InPlace(2.0), Teacher(a), Teacher(b), Teacher(a, weight=0.4)]
    described = [str(loss.describe()) for loss in losses]
    assert len(set(described)) == len(losses)
    assert Teacher(a).describe() == Teacher(Constant(torch.zeros(10))).describe()
