from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas.errors import TrainError
from nas.train import RKD, AttentionTransfer, Comparison, Hint, Relative, SimilarityPreserving
from nas.train.comparisons import Projection, channels_last

torch.set_num_threads(1)
RELATIONS: list[Comparison] = [RKD(), RKD(angle=0.0), RKD(distance=0.0), SimilarityPreserving()]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def huber(difference: float) -> float:
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


def slow_rkd(student: Tensor, teacher: Tensor) -> tuple[float, float]:
    """Distance and angle terms, from their definitions, in plain Python."""
    n = len(student)
    sides = []
    for x in (student.flatten(1).double().tolist(), teacher.flatten(1).double().tolist()):
        distance = {(i, j): math.dist(x[i], x[j]) for i in range(n) for j in range(n)}
        mean = sum(distance.values()) / sum(value > 0 for value in distance.values())
        angles = {}
        for j, i, k in itertools.product(range(n), repeat=3):
            lengths = distance[i, j] * distance[k, j]
            dot = sum((a - b) * (c - b) for a, b, c in zip(x[i], x[j], x[k], strict=True))
            angles[j, i, k] = dot / lengths if lengths else 0.0
        sides.append(({pair: value / mean for pair, value in distance.items()}, angles))
    (d, a), (e, b) = sides
    return sum(huber(d[key] - e[key]) for key in d) / n**2, sum(huber(a[key] - b[key]) for key in a) / n**3


@pytest.mark.parametrize("shapes", [((5, 3), (5, 7)), ((4, 3, 2, 2), (4, 5, 3, 3)), ((4, 6, 2), (4, 6, 2))])
def test_rkd_equals_its_definition(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    student, teacher = draw(*shapes[0]), 3.0 + draw(*shapes[1], seed=1)
    distance, angle = slow_rkd(student, teacher)
    assert RKD(1.0, 0.0)(student, teacher).item() == pytest.approx(distance, rel=1e-4)
    assert RKD(0.0, 1.0)(student, teacher).item() == pytest.approx(angle, rel=1e-4)
    assert RKD()(student, teacher).item() == pytest.approx(25 * distance + 50 * angle, rel=1e-4)


def test_rkd_forgives_moving_turning_and_scaling() -> None:
    teacher = draw(6, 5)
    turn = torch.linalg.qr(draw(5, 5, seed=2))[0]
    assert RKD()(4.0 * teacher @ turn + 7.0, teacher).item() == pytest.approx(0.0, abs=1e-4)
    assert RKD()(teacher * torch.tensor([1.0, 2.0, 1.0, 1.0, 1.0]), teacher).item() > 0.01


def test_samples_that_coincide_leave_the_gradient_finite() -> None:
    student = draw(5, 4)
    student[1] = student[0]
    student.requires_grad_()
    RKD()(student, draw(5, 6, seed=1)).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    same = torch.zeros(5, 4, requires_grad=True)  # a layer that has died
    RKD()(same, draw(5, 6, seed=1)).backward()
    assert same.grad is not None
    assert same.grad.isfinite().all()


def test_similarity_preserving_equals_its_definition() -> None:
    student, teacher = draw(4, 3, 2, 2), draw(4, 5, seed=1)
    sides = []
    for features in (student, teacher):
        rows = features.flatten(1).tolist()
        gram = [[sum(a * b for a, b in zip(left, right, strict=True)) for right in rows] for left in rows]
        sides.append([[value / math.hypot(*row) for value in row] for row in gram])
    expected = sum((a - b) ** 2 for left, right in zip(*sides, strict=True) for a, b in zip(left, right, strict=True))
    assert SimilarityPreserving()(student, teacher).item() == pytest.approx(expected / 16, rel=1e-5)


def test_attention_transfer_equals_its_definition() -> None:
    student, teacher = draw(2, 3, 2, 2), draw(2, 5, 2, 2, seed=1)
    total = 0.0
    for n in range(2):
        maps = []
        for features in (student, teacher):
            one = [sum(v**2 for v in features[n, :, y, x].tolist()) for y in range(2) for x in range(2)]
            maps.append([value / math.hypot(*one) for value in one])
        total += sum((a - b) ** 2 for a, b in zip(*maps, strict=True))
    assert AttentionTransfer()(student, teacher).item() == pytest.approx(total / 8, rel=1e-5)
    tokens = channels_last(student).flatten(1, 2)  # a transformer with the same features
    assert AttentionTransfer()(tokens, teacher).item() == pytest.approx(total / 8, rel=1e-5)


@pytest.mark.parametrize("shape", [(4, 6, 3, 3), (4, 7, 6), (4, 6)])
def test_a_hint_projects_channels_at_each_position(shape: tuple[int, ...]) -> None:
    wide = draw(*shape)
    teacher = draw(
        *[size if place != (1 if len(shape) == 4 else len(shape) - 1) else 5 for place, size in enumerate(shape)]
    )
    projection = Hint().adapt("a", wide, teacher, torch.Generator().manual_seed(0))
    assert isinstance(projection, Projection)
    assert projection.weight.shape == (5, 6)
    narrow = wide[:, :4] if len(shape) == 4 else wide[..., :4]
    found = Hint()(narrow, teacher, projection)
    if len(shape) == 4:  # a 1×1 convolution
        moved = nn.functional.conv2d(narrow, projection.weight[:, :4, None, None], projection.bias)
    else:
        moved = narrow @ projection.weight[:, :4].T + projection.bias
    assert found.item() == pytest.approx((moved - teacher).square().mean().item(), rel=1e-5)
    found.backward()
    assert projection.weight.grad is not None
    assert (projection.weight.grad[:, :4] != 0).all()
    assert (projection.weight.grad[:, 4:] == 0).all()


def test_an_image_teaches_tokens() -> None:
    image = draw(2, 3, 2, 2)
    assert Hint("none")(channels_last(image).flatten(1, 2), image).item() == pytest.approx(0.0, abs=1e-10)
    with pytest.raises(TrainError, match="which Hint cannot compare"):
        Hint("none")(image, draw(2, 3, 4, 4))


def test_given_matrices_are_used_as_they_are() -> None:
    matrix = draw(5, 6)
    hint = Hint({"a": matrix})
    projection = hint.adapt("a", draw(2, 6), draw(2, 5), torch.Generator())
    assert projection is not None
    assert not any(one.requires_grad for one in projection.parameters())
    student = draw(2, 6, seed=3)
    assert hint(student, student @ matrix.T, projection).item() == pytest.approx(0.0, abs=1e-10)
    assert Hint({"a": matrix}).describe() != Hint({"a": matrix + 1}).describe()
    assert Hint("none").adapt("a", draw(2, 6), draw(2, 6), torch.Generator()) is None
    assert Hint("none")(student, student + 2.0).item() == pytest.approx(4.0)


def test_a_relative_difference_has_no_scale() -> None:
    student, teacher = draw(2, 3, 4, 4), draw(2, 3, 4, 4)
    found = Relative()(student, teacher).item()
    assert found == pytest.approx(((student - teacher).square().sum() / teacher.square().sum()).item(), rel=1e-5)
    assert Relative()(1e-3 * student, 1e-3 * teacher).item() == pytest.approx(found, rel=1e-4)
    assert Relative()(torch.zeros_like(teacher), teacher).item() == pytest.approx(1.0)
    assert math.isfinite(Relative()(student, torch.zeros_like(teacher)).item())
    with pytest.raises(
        TrainError, match=r"gives \(2, 3, 4, 4\) and its teacher's \(2, 6, 4, 4\), which Relative cannot compare"
    ):
        Relative()(student, draw(2, 6, 4, 4))


@pytest.mark.parametrize("compare", [*RELATIONS, AttentionTransfer(), Hint("none"), Relative()])
def test_equal_features_are_at_no_distance_and_the_teacher_gets_no_gradient(compare: Comparison) -> None:
    teacher = draw(5, 3, 2, 2).requires_grad_()
    student = teacher.detach().clone().requires_grad_()
    assert compare(student, teacher).item() == pytest.approx(0.0, abs=1e-5)
    compare(student + draw(5, 3, 2, 2, seed=1), teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("compare", [*RELATIONS, AttentionTransfer(), Hint("none"), Relative()])
def test_half_precision_is_compared_in_float32(compare: Comparison) -> None:
    student, teacher = draw(5, 3, 2, 2).bfloat16(), draw(5, 3, 2, 2, seed=1).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = compare(student, teacher)
    assert found.dtype == torch.float32
    assert found.item() == compare(student.float(), teacher.float()).item()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: Hint("lerned"), "did you mean 'learned'"),
        (lambda: Hint({"a": torch.zeros(3)}), "no matrix"),
        (lambda: Hint({"a": torch.zeros(2, 3)}).adapt("b", draw(2, 3), draw(2, 2), torch.Generator()), "for layer 'b'"),
        (
            lambda: Hint({"a": torch.zeros(2, 3)}).adapt("a", draw(2, 4), draw(2, 2), torch.Generator()),
            r"give \(2, 4\)",
        ),
        (lambda: Hint("none")(draw(2, 3), draw(2, 4)), "give it a projection"),
        (lambda: Hint()(draw(2, 9), draw(2, 4), Projection(draw(4, 8), None, learn=True)), "as wide as the widest"),
        (lambda: AttentionTransfer()(draw(2, 3), draw(2, 3)), "no positions"),
        (lambda: AttentionTransfer()(draw(2, 3, 4, 4), draw(2, 3, 2, 2)), "different positions"),
        (lambda: RKD(0.0, 0.0), "one is positive"),
        (lambda: RKD()(draw(2, 3), draw(2, 3)), "3 samples or more and got 2"),
        (lambda: SimilarityPreserving()(draw(1, 3), draw(1, 3)), "got 1"),
        (lambda: RKD()(draw(4, 3), draw(5, 3)), "4 samples and the teacher of 5"),
    ],
)
def test_what_cannot_be_compared_is_refused(call: Any, sentence: str) -> None:
    with pytest.raises(TrainError, match=sentence):
        call()
