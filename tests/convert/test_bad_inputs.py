"""What people have that is no plain network, through nas.elastic: a sentence, or a right supernet."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nas
from nas.convert.elastic import ElasticSpace, elastic
from nas.errors import NasError, SpaceError
from nas.supernet.inputs import call

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A perceptron with a buffer; `forward` is given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Linear(4, 32), nn.Linear(32, 3)
        self.register_buffer("mean", torch.zeros(32))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x).relu())  # type: ignore[no-any-return]


class Normalising(Net):
    """Divides its own weights, whenever it is called."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.first.weight.div_(self.first.weight.norm(dim=1, keepdim=True))
        return super().forward(x)


class Averaging(Net):
    """Keeps a running mean in evaluation mode too, in place."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        self.mean.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        return self.head((x - self.mean).relu())  # type: ignore[no-any-return]


class Replacing(Net):
    """The same with a new buffer at each call."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        self.mean = self.mean * 0.9 + x.detach().mean(0) * 0.1
        return self.head((x - self.mean).relu())  # type: ignore[no-any-return]


class LowRank(nn.Module):
    """A layer with an adapter, named as adapters are."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(4, 32)
        self.lora_down, self.lora_up = nn.Linear(4, 2, bias=False), nn.Linear(2, 32, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.lora_up(self.lora_down(x))  # type: ignore[no-any-return]


def quantised() -> nn.Module:
    with warnings.catch_warnings(action="ignore"):  # it is deprecated, and people have it
        return torch.ao.quantization.quantize_dynamic(Net(), {nn.Linear})  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (quantised, "packed weights; convert the model before it is quantised"),
        (lambda: nn.Sequential(LowRank(), nn.ReLU(), nn.Linear(32, 3)), "low-rank adapters .* merge"),
        (Normalising, "changes its parameter 'first.weight' when it is called at test_bad_inputs.py, line"),
        (Averaging, "changes its buffer 'mean' in evaluation mode .* under `if self.training:`"),
        (Replacing, "changes its buffer 'mean' in evaluation mode .* under `if self.training:`"),
    ],
)
def test_a_model_whose_subnets_would_be_wrong_is_refused_in_one_sentence(make: Callable[[], nn.Module], said: str):
    with pytest.raises(SpaceError, match=said) as raised:
        elastic(make().eval(), X)
    assert "\n" not in str(raised.value)


class Adapted(nn.Module):
    """The same adapter under other names is an ordinary layer."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.inner, self.outer = nn.Linear(4, 32), nn.Linear(4, 2, bias=False), nn.Linear(2, 32, bias=False)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.base(x) + self.outer(self.inner(x))).relu())  # type: ignore[no-any-return]


class OfTheBatch(Net):
    """Centres what it computes by the batch's own mean, adds the sample before, and scales by how many there are."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x - x.mean(0, keepdim=True) + x.roll(1, 0)
        return self.head(x.relu()) * len(x)  # type: ignore[no-any-return]


class BatchNormed(Net):
    """Normalises by the batch's statistics in evaluation mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(32, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.first(x)).relu())  # type: ignore[no-any-return]


class Unused(Net):
    """Has layers that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.never, self.alone = nn.Linear(32, 32), nn.Parameter(torch.ones(32))


class Named(nn.Module):
    """Takes a mapping in a mapping, keywords alone, and None; gives a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.extra, self.head = nn.Linear(4, 32), nn.Linear(6, 32), nn.Linear(32, 3)

    def forward(self, images: Any, *, extra: Tensor | None = None, scale: float = 1.0) -> dict[str, Tensor]:
        found = self.left(images["left"])
        if extra is not None:
            found = found + self.extra(extra)
        return {"logits": self.head(found.relu() * scale)}


def right(space: ElasticSpace, model: nn.Module, example: Any, inputs: Any) -> None:
    """The largest arch is the model, and every extracted one what the supernet says, for other inputs than the example."""
    net = nas.Supernet(space, example=example, weights=model).eval()
    with torch.no_grad():
        for arch in (space.largest, space.smallest):
            expected = net(inputs, arch)
            for network in (net.extract(arch).eval(), *((model,) if arch == space.largest else ())):
                torch.testing.assert_close(call(network, inputs), expected)


@pytest.mark.parametrize("make", [Adapted, OfTheBatch, BatchNormed, Unused])
def test_models_that_depend_on_the_batch_or_have_idle_parts_are_cut_rightly(make: Callable[[], nn.Module]):
    model = make().eval()
    space = elastic(model, X)
    assert any(decision.size == 32 and len(decision.choices) > 1 for decision in space.plan.decisions)
    right(space, model, X, torch.randn(5, 4))


def test_parameters_that_are_never_used_stay_whole_and_are_told():
    space = elastic(Unused().eval(), X)
    assert {kept.tensor for kept in space.report.kept if kept.reason == "unused"} <= {"never.weight", "alone"}
    assert "unused: is not used for the example" in str(space.report)
    small = nas.Supernet(space).extract(space.smallest)
    assert small.never.weight.shape == (32, 32)


@pytest.mark.parametrize(
    "inputs",
    [
        {"images": {"left": X}, "extra": torch.ones(3, 6)},
        {"images": {"left": X}, "extra": None, "scale": 0.5},
        ({"left": X},),
    ],
    ids=["keywords", "None and a number", "a mapping as an argument"],
)
def test_inputs_come_as_mappings_and_keywords(inputs):
    model = Named().eval()
    space = elastic(model, inputs)
    assert space.report.execution == "class"
    right(space, model, inputs, inputs)


def test_a_model_too_large_for_two_copies_is_looked_at_without_weights():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 200_000), nn.ReLU(), nn.Linear(200_000, 100_000))  # 80 GB
    space = elastic(model, X, check=False)
    assert [decision.size for decision in space.plan.decisions] == [200_000]
    assert "not proved (check=False)" in str(space.report)
    with pytest.raises(NasError, match=r"meta device.*give build="):
        space.build(space.largest)
