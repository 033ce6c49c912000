"""Healthy weights: deterministic, tied where the module's are, no tensor without effect, the user's module untouched."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from nas.convert.copying import tied, with_tensors
from nas.convert.healthy import healthy, healthy_copy
from nas.errors import SupernetError
from tests.convert.nets import NETS, attention, branches, conv


@pytest.mark.parametrize("name", NETS)
def test_the_same_seed_gives_the_same_weights(name: str) -> None:
    first, again, other = (healthy(NETS[name]()[0], seed) for seed in (0, 0, 1))
    module = NETS[name]()[0]
    assert (
        first.keys()
        == again.keys()
        == {tied(module)[one] for one, _ in module.named_parameters()}
        | {one for one, buffer in module.named_buffers() if buffer.is_floating_point()}
    )
    matrices = [one for one in first if first[one].dim() > 1]
    assert all(torch.equal(first[one], again[one]) and not torch.equal(first[one], other[one]) for one in matrices)


def test_sums_keep_their_size() -> None:
    found = healthy(nn.Sequential(nn.Linear(400, 300), nn.Conv2d(32, 16, 3), nn.Conv2d(64, 64, 3, groups=64)))
    for name, fan in (("0.weight", 400), ("1.weight", 288), ("2.weight", 9)):
        assert float(found[name].std()) == pytest.approx(1.4 / math.sqrt(fan), rel=0.1)


def test_vectors_stay_near_their_values_and_scales_near_zero_do_not() -> None:
    found = healthy(attention()[0])
    assert float((found["norm.weight"] - 1).abs().max()) < 0.6
    assert float(found["scale"].abs().mean()) > 0.05


def test_variances_lie_between_0_and_2_and_means_around_0() -> None:
    found = healthy(conv()[0], dtype=torch.float64)
    mean, variance = found["norm.running_mean"], found["norm.running_var"]
    assert float(mean.min()) < 0 < float(mean.max())
    assert float(variance.min()) > 0
    assert float(variance.max()) < 2
    assert mean.dtype == variance.dtype == torch.float64


class Table(nn.Module):
    table: Tensor
    zeros: Tensor
    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(4.0))
        self.register_buffer("zeros", torch.zeros(4))
        self.register_buffer("mask", torch.full((4, 4), -math.inf).triu(1))
        self.register_buffer("order", torch.arange(4))


def test_tables_keep_their_values_and_constants_do_not() -> None:
    module = Table()
    found = healthy(module)
    assert torch.equal(found["table"], module.table)
    assert torch.equal(found["mask"], module.mask)
    assert found["zeros"].std() > 0
    assert "order" not in found


def test_complex_weights_stay_complex() -> None:
    module = nn.ParameterDict({"w": nn.Parameter(torch.zeros(3, 5, dtype=torch.complex64))})
    found = healthy(module, dtype=torch.float64)["w"]
    assert found.dtype == torch.complex128
    assert float(found.imag.std()) > 0.05


def test_a_copy_is_of_the_same_class_and_shares_what_it_is_not_given() -> None:
    module, _, example = branches()
    copied = with_tensors(module, {"out.weight": torch.zeros(11, 4)})
    assert type(copied) is type(module)
    assert copied.out.weight is copied.embed.weight
    assert copied.out.weight.shape == (11, 4)
    assert copied.left.weight is module.left.weight  # type: ignore[union-attr]
    assert module.training
    assert module(**example).shape[-1] == 11


def test_a_copy_of_what_autograd_computed_is_possible() -> None:
    module = nn.Linear(3, 3)
    module.seen = module.weight * 2  # type: ignore[assignment]
    assert torch.equal(with_tensors(module, {}).seen, module.seen)  # type: ignore[arg-type]


def test_a_constant_example_is_drawn_anew_unless_the_model_refuses() -> None:
    module, _, example = conv()
    assert healthy_copy(module, example).inputs[0][0].std() > 0.5
    embedding = nn.Embedding(1, 4)  # index 1 would be out of range
    assert not healthy_copy(embedding, torch.zeros(3).long()).inputs[0][0].any()


def test_a_model_that_cannot_run_is_refused_with_the_reason() -> None:
    with pytest.raises(SupernetError, match="does not run on random weights and its example .RuntimeError: "):
        healthy_copy(nn.Linear(3, 3), torch.zeros(2, 4))
