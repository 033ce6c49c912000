"""Smaller images prove as much, where the model calls the same operators on them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.convert.converting import Options, convert
from nas.convert.healthy import healthy_copy
from nas.convert.proofs import prove
from nas.convert.smaller import of_few, smaller
from nas.supernet.inputs import Example
from tests.convert.nets import plan_of


def sides(module: nn.Module, *shape: int) -> tuple[int, ...]:
    """Size of the images that are computed with, for inputs of a shape."""
    patient = smaller(healthy_copy(module.eval(), torch.randn(shape), samples=None))
    return tuple(patient.inputs[0][0].shape[2:])


def strided(times: int) -> list[nn.Module]:
    return [nn.Conv2d(3 if not place else 8, 8, 3, stride=2, padding=1) for place in range(times)]


def test_convolutions_see_smaller_images_of_the_same_remainder() -> None:
    assert sides(nn.Sequential(*strided(2)), 1, 3, 224, 224) == (64, 64)
    assert sides(nn.Sequential(*strided(2)), 1, 3, 331, 331) == (75, 75)
    assert sides(nn.Sequential(*strided(2)), 1, 3, 128, 256) == (64, 128)
    assert sides(nn.Sequential(*strided(2)), 1, 3, 80, 80) == (80, 80)  # not worth it


def test_no_axis_shrinks_to_one() -> None:
    assert sides(nn.Sequential(*strided(6)), 1, 3, 224, 224) == (96, 96)


class Positions(nn.Module):
    """Adds a table of positions, which fits one size of images only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.table = nn.Conv2d(3, 8, 16, 16), nn.Parameter(torch.randn(8, 10, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images) + self.table


class Padded(nn.Module):
    """Pads what its windows do not divide."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 7, 7)

    def forward(self, images: Tensor) -> Tensor:
        rest = -images.shape[-1] % 7
        return self.conv(functional.pad(images, (0, rest, 0, rest)) if rest else images)


@pytest.mark.parametrize(("make", "side"), [(Positions, 160), (Padded, 224)])
def test_models_that_do_something_else_on_other_sizes_keep_theirs(make: type[nn.Module], side: int) -> None:
    assert sides(make(), 1, 3, side, side) == (side, side)


def test_images_of_several_sizes_stay() -> None:
    class Two(nn.Module):
        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            return one.mean((2, 3)) + other.mean((2, 3))

    patient = healthy_copy(Two(), (torch.randn(1, 3, 160, 160), torch.randn(1, 3, 192, 192)), samples=None)
    assert smaller(patient) is patient


def test_few_samples_are_taken_along_the_axis_of_the_example() -> None:
    module, example = nn.Linear(4, 2), Example(torch.randn(5, 7, 4), batch_axis=1)
    patient = of_few(healthy_copy(module, example, samples=None), example, 2)
    assert patient.inputs[0][0].shape == (5, 2, 4)


class Net(nn.Module):
    """Squeezes images to one place, and has a head that counts them where `side` says so."""

    def __init__(self, side: int | None = None) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, stride=4, padding=1), nn.BatchNorm2d(16)
        self.squeeze, self.gate = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)
        self.side, self.head = side, nn.Linear(16 if side is None else 16 * side * side, 5)

    def forward(self, images: Tensor) -> Tensor:
        found = functional.relu(self.norm(self.stem(images)))
        found = found * self.gate(functional.relu(self.squeeze(found.mean((2, 3), keepdim=True)))).sigmoid()
        return self.head(found.mean((2, 3)) if self.side is None else found.flatten(1))


@pytest.mark.parametrize("side", [None, 40])
def test_conversions_are_proved_whatever_the_size(side: int | None) -> None:
    model = Net(side).eval()
    example = torch.randn(1, 3, 160, 160)
    found = convert(model, example, Options())
    proofs = prove(model, found.plan, example, found.reference(found.plan))
    assert not proofs.frozen
    assert [each.count for each in proofs.findings][1:] == [3, 4]
    assert len(proofs.plan.decisions) == 2


def test_a_wrong_plan_is_refused_on_smaller_images() -> None:
    model, example = Net().eval(), torch.randn(1, 3, 160, 160)
    found = convert(model, example, Options())
    wrong = {**found.plan.tensors}
    (atom,) = wrong["squeeze.bias"][0]
    wrong["squeeze.bias"] = (("control",),)
    plan = plan_of({**found.plan.whole, "control": 8}, wrong)
    assert {atom, "control"} & prove(model, plan, example).frozen.keys()


def test_attention_over_few_places_is_still_attention() -> None:
    """Over one place a softmax is 1, and nothing of queries and keys would show."""

    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.qkv = nn.Conv2d(3, 16, 64, 64), nn.Conv2d(16, 48, 1)

        def forward(self, images: Tensor) -> Tensor:
            q, k, v = self.qkv(self.stem(images)).flatten(2).chunk(3, 1)
            return (q.mT @ k).softmax(-1) @ v.mT

    assert sides(Attending(), 1, 3, 192, 192) == (128, 128)


class Gated(nn.Module):
    """A gate and what it lets through in one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.head = nn.Conv2d(3, 16, 3, stride=4, padding=1), nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(functional.glu(self.both(images), 1).square().mean((2, 3)))


def test_means_over_a_smaller_image_are_not_taken_for_shorter_ones() -> None:
    """A mean over an axis that is cut is replaced in the comparison with zeros; one over places is not."""
    model, example = Gated().eval(), torch.randn(1, 3, 160, 160)
    found = convert(model, example, Options(granule=2))
    graph = found.reference(found.plan)
    assert not prove(model, found.plan, example, graph).frozen
    name = found.plan.decisions[0].name
    atom = next(atom for atom, one in found.plan.atoms.items() if one.decision == name)
    rows = {**graph.tensors, "both.weight": ((atom, 2), (3,), (3,), (3,)), "both.bias": ((atom, 2),)}
    wrong = replace(graph, tensors=rows)  # the first rows of both instead of rows of each
    assert name in prove(model, found.plan, example, wrong, classes=False).frozen
