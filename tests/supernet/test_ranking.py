"""Scores along atoms: what belongs to a unit in every tensor, in products and in sums, and the order that they give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nas.supernet import parts, ranking
from nas.supernet.parts import Sum

WHOLE = {"a": 2, "b": 3, "h": 2}
JOINED = (Sum((("a",), ("b",))),)


def test_a_unit_has_all_numbers_that_belong_to_it():
    weight = torch.tensor([[1.0, -2, 3, 4, 5]])
    found = ranking.by_magnitude(
        {"w": ((), JOINED), "v": (("a",),)}, WHOLE, {"w": weight, "v": torch.tensor([10.0, 0])}.get
    )
    assert found["a"].tolist() == [11, 2]
    assert found["b"].tolist() == [3, 4, 5]


def test_heads_have_their_rows_of_a_packed_projection():
    weight = torch.zeros(3, 2, 4)
    weight[:, 1] = 1
    found = ranking.by_magnitude({"qkv": ((3, "h", 4),)}, WHOLE, lambda _: weight.flatten())
    assert found["h"].tolist() == [0, 12]


def test_readers_count_alone_where_there_are_some():
    tensors = {"w": torch.ones(2, 3), "r": torch.tensor([[5.0, 6]])}
    axes = {"w": (("a",), ("b",)), "r": ((), ("a",))}
    found = ranking.by_magnitude(axes, WHOLE, tensors.__getitem__, {("r", 1)})
    assert found["a"].tolist() == [5, 6]
    assert found["b"].tolist() == [2, 2, 2]


def test_activations_are_those_of_the_layers_that_write_a_unit():
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(8, 3))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([1.0, -3]).view(2, 1, 1, 1))
        module[0].bias.zero_()
    axes = {"0.weight": (("a",), (), (), ()), "0.bias": (("a",),), "2.weight": (("b",), ("a", 4))}
    found = ranking.by_activation(module, axes, WHOLE, [torch.ones(2, 1, 2, 2), 3 * torch.ones(1, 1, 2, 2)])
    assert found["a"].tolist() == [4, 12]
    assert found["b"].shape == (3,)
    assert not module[0]._forward_hooks


def test_the_units_of_an_axis_are_where_its_indices_are():
    axis = (2, "a", Sum((("b",), (2, "a"))))
    found = list(parts.units(axis, WHOLE))
    outer = torch.arange(2).view(1, 2, 1).expand(2, 2, 7).flatten()
    tables = [torch.tensor([0, 1, 2, -1, -1, -1, -1]), torch.tensor([-1, -1, -1, 0, 1, 0, 1])]
    assert [name for name, _ in found] == ["a", "b", "a"]
    assert torch.equal(found[0][1], outer)
    assert all(torch.equal(unit, table.repeat(4)) for (_, unit), table in zip(found[1:], tables, strict=True))


@pytest.mark.parametrize(("bounds", "expected"), [((), [1, 3, 0, 2]), ((2,), [1, 0, 3, 2]), ((1, 3), [0, 1, 2, 3])])
def test_units_fall_within_brackets(bounds, expected):
    assert ranking.order(torch.tensor([3.0, 9, 1, 3.5]), bounds).tolist() == expected
