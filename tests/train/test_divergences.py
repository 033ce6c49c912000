from __future__ import annotations

import math
from statistics import mean
from statistics import pstdev as deviation
from typing import Any

import pytest
import torch
from torch import Tensor

from nas.errors import TrainError
from nas.train import (
    DIST,
    KL,
    AdaptiveAlpha,
    BalancedKL,
    Binary,
    Divergence,
    Hard,
    InPlace,
    Interpolated,
    StandardizedKL,
    Step,
    Teacher,
    TeacherOutputs,
    distillation,
)
from nas.train.outputs import Taught
from tests.train.family import blobs, space

ALL: list[Divergence] = [
    KL(),
    KL("reverse", 2.0),
    KL("symmetric"),
    StandardizedKL(),
    BalancedKL(),
    BalancedKL(3.0),
    Hard(),
    AdaptiveAlpha(),
    DIST(),
    DIST(0.0, 2.0, 3.0),
]


def logits(spread: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return tuple(spread * torch.randn(6, 5, generator=generator) for _ in range(2))  # type: ignore[return-value]


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value) for value in row]
    return [value / sum(powers) for value in powers]


def slow_alpha(q: list[float], p: list[float], alpha: float, clip: float) -> tuple[float, list[float]]:
    """Value, and ρ of each class, in plain Python."""
    ratios = [b / a for a, b in zip(q, p, strict=True)]
    if alpha == 1.0:
        return sum(a * r * math.log(r) for a, r in zip(q, ratios, strict=True)), ratios
    if alpha == 0.0:
        ratios = [min(r, clip) for r in ratios]
        return sum(-a * math.log(r) for a, r in zip(q, ratios, strict=True)), [math.log(r) - 1 for r in ratios]
    scale = 1 / (alpha * (alpha - 1))
    w = [min(r**alpha, clip) for r in ratios]
    return sum(a * (b * scale - scale) for a, b in zip(q, w, strict=True)), [b / alpha + scale for b in w]


@pytest.mark.parametrize(("negative", "positive", "clip"), [(-1.0, 1.0, 5.0), (0.0, 1.0, 2.0), (-0.5, 0.5, 3.0)])
def test_adaptive_alpha_and_its_gradient_equal_their_definition(negative: float, positive: float, clip: float) -> None:
    student, teacher = logits()
    student.requires_grad_()
    found = AdaptiveAlpha(negative, positive, clip)(student, teacher)
    found.backward()  # type: ignore[no-untyped-call]
    total, taken = 0.0, set()
    for row, (s, t) in enumerate(zip(student.tolist(), teacher.tolist(), strict=True)):
        q, p = softmax(s), softmax(t)
        value, rho = max((slow_alpha(q, p, alpha, clip) for alpha in (positive, negative)), key=lambda pair: pair[0])
        taken.add(value == slow_alpha(q, p, negative, clip)[0])
        total += value / 6
        # −Σ q ρ ∂log q, with ∂log q_k / ∂s_j = [k = j] − q_j
        pull = sum(a * b for a, b in zip(q, rho, strict=True))
        expected = torch.tensor([-(a * b - a * pull) / 6 for a, b in zip(q, rho, strict=True)])
        assert student.grad is not None
        assert torch.allclose(student.grad[row], expected, atol=1e-5)
    assert found.item() == pytest.approx(total, rel=1e-4)
    assert taken == {True, False} or (negative, positive) == (-0.5, 0.5)


def test_without_a_clamp_the_surrogate_has_the_gradient_of_the_value() -> None:
    student, teacher = (tensor * 0.3 for tensor in logits())
    student.requires_grad_()
    AdaptiveAlpha(-1.0, 1.0, 1e6)(student, teacher).backward()  # type: ignore[no-untyped-call]
    q, p = torch.softmax(student, -1), torch.softmax(teacher, -1)
    values = torch.maximum((0.5 * (q * q / p).sum(-1) - 0.5), (p * (p / q).log()).sum(-1))
    (expected,) = torch.autograd.grad(values.mean(), student)
    assert student.grad is not None
    assert torch.allclose(student.grad, expected, atol=1e-6)


def test_a_sure_student_that_is_wrong_gets_finite_values_and_gradients() -> None:
    student, teacher = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True), torch.tensor([[0.0, 200.0, 0.0]])
    for divergence in (AdaptiveAlpha(), KL("symmetric"), BalancedKL(), Hard(), DIST(gamma=0.0)):
        value = divergence(student, teacher)
        (gradient,) = torch.autograd.grad(value, student)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all(), divergence


def test_kl_of_each_direction_equals_its_definition() -> None:
    student, teacher = logits()
    for temperature in (1.0, 3.0):
        forward, reverse = distillation(student, teacher, temperature), distillation(teacher, student, temperature)
        assert KL("forward", temperature)(student, teacher).item() == pytest.approx(forward.item(), rel=1e-5)
        assert KL("reverse", temperature)(student, teacher).item() == pytest.approx(reverse.item(), rel=1e-5)
        mean = 0.5 * (forward + reverse).item()
        assert KL("symmetric", temperature)(student, teacher).item() == pytest.approx(mean, rel=1e-5)


def test_dist_equals_its_definition() -> None:
    student, teacher = logits()
    q, p = torch.softmax(student / 2, -1), torch.softmax(teacher / 2, -1)
    rows = [torch.corrcoef(torch.stack([a, b]))[0, 1] for a, b in zip(q, p, strict=True)]
    columns = [torch.corrcoef(torch.stack([a, b]))[0, 1] for a, b in zip(q.T, p.T, strict=True)]
    expected = 4 * (0.5 * (1 - sum(rows) / 6) + 3 * (1 - sum(columns) / 5))
    assert DIST(0.5, 3.0, 2.0)(student, teacher).item() == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("divergence", ALL, ids=repr)
def test_a_divergence_falls_along_its_gradient_and_leaves_the_teacher_alone(divergence: Divergence) -> None:
    student, teacher = (tensor.requires_grad_() for tensor in logits(0.5))
    value = divergence(student, teacher)
    value.backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None
    assert student.grad is not None
    assert divergence(student - 0.1 * student.grad, teacher) < value
    shaped = divergence(student.reshape(2, 3, 5), teacher.reshape(2, 3, 5))
    assert shaped.item() == pytest.approx(value.item(), rel=1e-6)
    if not isinstance(divergence, Hard):
        assert divergence(teacher, teacher).item() == pytest.approx(0.0, abs=1e-5)
    with pytest.raises(TrainError, match=r"\(6, 4\) and the teacher's \(6, 5\)"):
        divergence(student[:, :4], teacher)


def test_in_place_and_teacher_use_the_divergence() -> None:
    task, ours = blobs(), space()
    batch = next(task.train_batches(0))
    student, teacher = torch.randn(2, 16, 10, generator=torch.Generator().manual_seed(0))
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    for divergence in ALL:
        step = Step(0, task, ours, [ours.largest, ours.smallest], ours.smallest, {"largest": teacher})
        labels, soft = task.loss(student, batch), divergence(student, teacher)
        expected = (0.25 * labels + 0.75 * soft).item()
        assert InPlace(labels=0.25, divergence=divergence)(student, batch, step).item() == pytest.approx(expected)
        soft = divergence(student, module(batch.inputs))
        expected = (0.25 * labels + 0.75 * soft).item()
        found = Teacher(module, weight=0.75, divergence=divergence)(student, batch, step)
        assert found.item() == pytest.approx(expected, rel=1e-5)
    described = {str(InPlace(divergence=divergence).describe()) for divergence in (None, *ALL)}
    assert len(described) == len(ALL) + 1
    assert "divergence" not in InPlace().describe()


def test_standardized_logits_are_compared_whatever_their_size() -> None:
    student, teacher = logits()
    found = StandardizedKL(3.0)(student, teacher)
    p, q = (
        [softmax([3 * (one - mean(row)) / deviation(row) / 9 for one in row]) for row in both.tolist()]
        for both in (teacher, student)
    )
    slow = sum(
        a * math.log(a / b) for one, other in zip(p, q, strict=True) for a, b in zip(one, other, strict=True)
    ) / len(p)
    assert found.item() == pytest.approx(9 * slow, rel=1e-4)
    assert StandardizedKL(3.0)(5 * student - 2, 0.1 * teacher + 7).item() == pytest.approx(found.item(), rel=1e-3)
    flat = StandardizedKL()(torch.zeros(2, 4, requires_grad=True), torch.ones(2, 4))
    assert flat.item() == 0.0


def entropy(row: list[float]) -> float:
    return -sum(one * math.log(one) for one in row)


def test_balanced_divergences_and_their_gradient_equal_their_definition() -> None:
    student, teacher = logits()
    student.requires_grad_()
    found = BalancedKL(2.0)(student, teacher)
    (gradient,) = torch.autograd.grad(found, student)
    total, shares = 0.0, []
    for row, (s, t) in enumerate(zip(student.tolist(), teacher.tolist(), strict=True)):
        q, p = (softmax([value / 2 for value in one]) for one in (s, t))
        share = entropy(p) / (entropy(p) + entropy(q))
        forward, reverse = (sum(a * math.log(a / b) for a, b in zip(x, y, strict=True)) for x, y in ((p, q), (q, p)))
        total += 4 * (share * forward + (1 - share) * reverse) / 6
        shares.append(share)
        # ∂ forward / ∂s_j = (q_j − p_j) / 2, ∂ reverse / ∂s_j = q_j (log q_j / p_j − reverse) / 2: the share is fixed
        for place, (a, b) in enumerate(zip(q, p, strict=True)):
            pull = share * (a - b) + (1 - share) * a * (math.log(a / b) - reverse)
            assert gradient[row, place].item() == pytest.approx(4 * pull / 2 / 6, abs=1e-5)
    assert found.item() == pytest.approx(total, rel=1e-4)
    assert min(shares) < 0.45
    assert max(shares) > 0.54


def test_a_surer_student_learns_more_from_the_forward_divergence() -> None:
    sure, unsure = torch.tensor([[6.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.5]])
    for student, teacher, near, far in ((sure, unsure, "forward", "reverse"), (unsure, sure, "reverse", "forward")):
        found = BalancedKL()(student, teacher).item()
        one, other = (KL(direction)(student, teacher).item() for direction in (near, far))  # type: ignore[arg-type]
        assert abs(found - one) < abs(found - other)
    certain = torch.tensor([[500.0, 0.0, 0.0]], requires_grad=True)
    both = BalancedKL()(certain, certain.detach())
    assert both.item() == 0.0
    assert torch.autograd.grad(both, certain)[0].abs().max() == 0.0


def test_interpolated_targets_move_from_the_student_to_the_teacher() -> None:
    task, ours = blobs(), space()
    batch = next(task.train_batches(0))
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    student = torch.randn(16, 10, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = Interpolated(module, steps=10, start=0.2, weight=0.6)
    for number, share in ((0, 0.2), (5, 0.6), (10, 1.0), (99, 1.0)):
        found = loss(student, batch, Step(number, task, ours, [ours.largest], ours.largest))
        (gradient,) = torch.autograd.grad(found, student)
        scores = module(batch.inputs).detach()
        target = torch.softmax((1 - share) * student.detach() + share * scores, -1)
        soft = (target * (target.log() - torch.log_softmax(student, -1))).sum(-1).mean()
        expected = 0.4 * task.loss(student, batch) + 0.6 * soft
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)
        assert torch.allclose(gradient, torch.autograd.grad(expected, student)[0], atol=1e-6)


class Masked(torch.nn.Module):
    """A teacher that holds the last class impossible."""

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.zeros(len(x), 10)
        scores[:, -1] = -math.inf
        return scores


@pytest.mark.parametrize("start", [0.0, 0.5])
def test_interpolated_targets_keep_what_the_teacher_holds_impossible(start: float) -> None:
    task, ours = blobs(), space()
    batch = next(task.train_batches(0))
    student = torch.randn(16, 10, generator=torch.Generator().manual_seed(0))
    found = Interpolated(Masked(), steps=10, start=start, weight=1.0)(
        student, batch, Step(0, task, ours, [], ours.largest)
    )
    target = torch.softmax((1 - start) * student[:, :-1], -1)
    expected = (target * (target.log() - torch.log_softmax(student, -1)[:, :-1])).sum(-1).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: KL("forwards"), "KL was given direction='forwards'.*did you mean 'forward'"),  # type: ignore[arg-type]
        (lambda: KL(temperature=0.0), "KL has temperature=0.0"),
        (lambda: BalancedKL(-1.0), "BalancedKL has temperature=-1.0"),
        (lambda: AdaptiveAlpha(1.0, -1.0), "the first must be the smaller"),
        (lambda: AdaptiveAlpha(clip=0.0), "AdaptiveAlpha has clip=0.0"),
        (lambda: DIST(0.0, 0.0), "DIST has beta=0.0 and gamma=0.0"),
        (lambda: DIST()(torch.zeros(1, 3), torch.zeros(1, 3)), "DIST correlates the samples of a batch and got 1"),
        (lambda: InPlace(temperature=2.0, divergence=DIST()), "temperature=2.0, which has no effect"),
        (lambda: InPlace(labels=1.0, divergence=DIST()), "divergence has no effect; use Labels"),
        (lambda: Teacher(torch.nn.Identity(), 0.0, divergence=Hard()), "divergence has no effect; use Labels"),
        (lambda: InPlace(divergence="kl"), "divergence='kl'; it is a nas.train.Divergence"),  # type: ignore[arg-type]
        (lambda: Interpolated(torch.nn.Identity(), 0), "Interpolated was given steps=0"),
        (lambda: Interpolated(torch.nn.Identity(), 5, start=1.0), "Interpolated has start=1.0"),
    ],
)
def test_options_are_checked(make: Any, sentence: str) -> None:
    with pytest.raises(TrainError, match=sentence):
        make()


@pytest.mark.parametrize("divergence", [KL(), KL("symmetric", 2.0), BalancedKL(), AdaptiveAlpha(), Binary(2.0), None])
def test_a_class_that_both_hold_impossible_adds_nothing(divergence: Divergence | None) -> None:
    compare = distillation if divergence is None else divergence
    student, teacher = logits()
    never = torch.full((len(student), 1), -math.inf)
    wide = [torch.cat([one, never], 1) for one in (student, teacher)]
    share = 6 / 5 if isinstance(divergence, Binary) else 1.0  # which is a mean over labels
    student.requires_grad_()
    wide[0].requires_grad_()
    value, wanted = compare(wide[0], wide[1]), compare(student, teacher)
    (slope,) = torch.autograd.grad(value, wide[0])
    (other,) = torch.autograd.grad(wanted, student)
    assert value.item() * share == pytest.approx(wanted.item(), rel=1e-5)
    assert torch.allclose(slope[:, :-1] * share, other, atol=1e-6)
    assert not slope[:, -1].any()


@pytest.mark.parametrize("compare", [KL(), distillation, TeacherOutputs])
def test_a_class_that_the_teacher_holds_impossible_adds_nothing(compare: Any) -> None:
    student, teacher = torch.tensor([[0.3, -1.0, 0.5]]), torch.tensor([[0.0, 1.0, -math.inf]])
    if compare is TeacherOutputs:  # its rest has probability 0
        taught = Taught.top(teacher, 2)
        found = KL()(taught.of(student), taught.logits)
    else:
        found = compare(student, teacher)
    q, p = softmax(student[0].tolist()), [*softmax([0.0, 1.0]), 0.0]
    assert found.item() == pytest.approx(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a), rel=1e-5)
