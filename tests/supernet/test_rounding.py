"""What rounding explains: another order of the sums, and nothing else."""

from __future__ import annotations

import copy
import functools
import math

import pytest
import torch
from torch import nn

from nas.errors import SupernetError
from nas.supernet.inputs import call
from nas.supernet.rounding import first_difference, gap, largest_difference, nudged, rounding
from tests.conformance.machines import MACHINES, move_weights


def deep() -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(256, 256)]
    for _ in range(6):
        layers += [nn.LayerNorm(256), nn.GELU(), nn.Linear(256, 256)]
    return nn.Sequential(*layers, nn.Linear(256, 3))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def attention() -> nn.Module:
    return nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)


class Scaled(nn.Module):
    """Outputs that are small, or large."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.body, self.scale = deep(), scale

    def forward(self, x):
        return self.scale * self.body(x)


class Cancelling(nn.Module):
    """Outputs that are what large numbers leave of each other."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = deep(), nn.Linear(6, 3, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.cat([1001 * torch.eye(3), -1000 * torch.eye(3)], 1))

    def forward(self, x):
        y = self.body(x)
        return self.head(torch.cat([y, y], -1))


CASES = {
    "deep": (deep, (5, 256)),
    "convolutions": (convolutions, (2, 4, 12, 12)),
    "attention": (attention, (2, 9, 64)),
    "tiny": (lambda: Scaled(1e-7), (5, 256)),
    "huge": (lambda: Scaled(1e9), (5, 256)),
    "cancelling": (Cancelling, (5, 256)),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    make, shape = CASES[request.param]
    return make().eval(), torch.randn(shape)


@pytest.mark.parametrize("seed", range(5))
def test_another_machine_is_within_rounding(case, seed: int) -> None:
    module, inputs = case

    def again(given):
        with MACHINES["another processor"](seed):
            return module(given)

    found = gap(module, again, inputs)
    assert 0 < found.absolute <= found.allowed
    assert found.same


def test_other_threads_and_places_in_memory_are_within_rounding(case) -> None:
    module, inputs = case
    other = move_weights(copy.deepcopy(module))

    def threaded(given):
        with MACHINES["two threads"]():
            return module(given)

    with torch.no_grad():
        assert gap(module, other, inputs).same
        assert gap(module, threaded, inputs).same
        assert gap(module, other, inputs[:1]).same
    assert first_difference(module.state_dict(), other.state_dict()) is None


def test_weights_of_one_unit_moved_by_a_hundredth_are_not(case) -> None:
    module, inputs = case
    other = copy.deepcopy(module)
    with torch.no_grad():
        [weight for weight in other.parameters() if weight.ndim > 1][-1][0] *= 1.01
        found = gap(module, other, inputs)
    assert found.absolute > found.allowed
    assert not found.same


def test_the_bound_goes_with_the_size_of_the_outputs(case) -> None:
    module, inputs = case
    with torch.no_grad():
        largest = module(inputs).abs().max().item()
    limit = 1.0 if isinstance(module, Cancelling) else 1e-3
    assert all(0 < one < limit * largest for one in rounding(module, inputs))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_bound_goes_with_the_type(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module, inputs = deep().to(dtype).eval(), torch.randn(5, 256, dtype=dtype)

    def again(given):
        with MACHINES["another processor"](1):
            return module(given)

    found = gap(module, again, inputs)
    assert 0 < found.absolute <= found.allowed
    (bound,) = rounding(module, inputs)
    assert torch.finfo(dtype).eps < bound < 3000 * torch.finfo(dtype).eps


def test_integers_infinities_and_shapes_are_not_rounded() -> None:
    ones = torch.ones(3)
    assert largest_difference(torch.tensor([1, 2]), torch.tensor([1, 3])) == math.inf
    assert largest_difference(ones, torch.ones(2)) == math.inf
    assert largest_difference(ones, torch.tensor([1, 1, math.nan])) == math.inf
    assert largest_difference(torch.tensor([math.inf]), torch.tensor([-math.inf])) == math.inf
    assert largest_difference(torch.tensor([math.inf, math.nan]), torch.tensor([math.inf, math.nan])) == 0
    with torch.no_grad():
        two = nn.Linear(2, 2)
        assert gap(two, lambda x: (two(x), two(x)), torch.ones(1, 2)).absolute == math.inf


def test_an_output_without_tensors_is_refused() -> None:
    class Silent(nn.Module):
        def forward(self, x):
            return None

    with pytest.raises(SupernetError, match="Silent gives no tensors that could be compared"):
        gap(Silent(), functools.partial(call, Silent()), torch.ones(1))


def test_weights_are_compared_to_the_bit() -> None:
    ours = {"a": torch.tensor([0.0, math.nan]), "b": torch.ones(2)}
    assert first_difference(ours, {name: tensor.clone() for name, tensor in ours.items()}) is None
    assert first_difference(ours, {**ours, "a": torch.tensor([-0.0, math.nan])}) == "a"
    assert first_difference(ours, {**ours, "b": torch.ones(2).nextafter(torch.zeros(2))}) == "b"
    assert first_difference(ours, {**ours, "b": torch.ones(2, dtype=torch.float64)}) == "b"
    assert first_difference(ours, {"a": ours["a"]}) == "b"
    assert first_difference({"a": ours["a"]}, ours) == "b"


def test_a_nudged_copy_is_another_machine_s(case) -> None:
    module, inputs = case
    with torch.no_grad():
        far = (nudged(module, 0)(inputs) - module(inputs)).abs().max().item()
        assert 0 < far <= 2 * rounding(module, inputs)[0]
        assert far != (nudged(module, 1)(inputs) - module(inputs)).abs().max().item()


class Twice(nn.Module):
    """A layer that is registered under two names, and a weight that two layers have."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Linear(6, 6)
        self.tied = nn.Linear(6, 6)
        self.tied.weight = self.first.weight

    def forward(self, x):
        return self.tied(torch.relu(self.second(torch.relu(self.first(x)))))


def test_a_module_of_two_names_is_left_as_it_was() -> None:
    module, inputs = Twice().eval(), torch.randn(3, 6)
    before = dict(module.named_parameters(remove_duplicate=False))
    values = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert all(0 < far < 1e-5 for far in rounding(module, inputs))
    after = dict(module.named_parameters(remove_duplicate=False))
    assert all(after[name] is tensor for name, tensor in before.items())
    assert first_difference(module.state_dict(), values) is None
