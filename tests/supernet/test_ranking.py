"""Scores along atoms: what belongs to a unit in every tensor, in products and in sums, and the order that they give."""

from __future__ import annotations

import pytest
import torch

from nas.supernet import parts, ranking
from nas.supernet.parts import Sum

WHOLE = {"a": 2, "b": 3, "h": 2}
JOINED = (Sum((("a",), ("b",))),)


def magnitude(axes, places, tensor):
    return ranking.by_magnitude(ranking.shares(axes, WHOLE, places), WHOLE, tensor)


def test_a_unit_has_all_numbers_that_belong_to_it():
    weight = torch.tensor([[1.0, -2, 3, 4, 5]])
    axes = {"w": ((), JOINED), "v": (("a",),)}
    places = {"a": [("w", 1), ("v", 0)], "b": [("w", 1)]}
    found = magnitude(axes, places, {"w": weight, "v": torch.tensor([10.0, 0])}.get)
    assert found["a"].tolist() == [11, 2]
    assert found["b"].tolist() == [3, 4, 5]


def test_heads_have_their_rows_of_a_packed_projection():
    weight = torch.zeros(3, 2, 4)
    weight[:, 1] = 1
    found = magnitude({"qkv": ((3, "h", 4),)}, {"h": [("qkv", 0)]}, lambda _: weight.flatten())
    assert found["h"].tolist() == [0, 12]


def test_places_that_are_not_named_do_not_count():
    tensors = {"w": torch.ones(2, 3), "r": torch.tensor([[5.0, 6]])}
    axes = {"w": (("a",), ("b",)), "r": ((), ("a",))}
    found = magnitude(axes, {"a": [("r", 1)], "b": [("w", 1)]}, tensors.__getitem__)
    assert found["a"].tolist() == [5, 6]
    assert found["b"].tolist() == [2, 2, 2]


def test_complex_numbers_count_by_their_modulus():
    weight = torch.tensor([[3 + 4j, 0], [1j, 0]])
    assert magnitude({"w": (("a",), ())}, {"a": [("w", 0)]}, lambda _: weight)["a"].tolist() == [5, 1]


@pytest.mark.parametrize("piece", [1, 7, 2**17])
def test_pieces_do_not_change_sums(monkeypatch, piece):
    monkeypatch.setattr(ranking, "PIECE", piece)
    weight, gradient = torch.randn(2, 4, 14, 3, generator=torch.Generator().manual_seed(0)).unbind()
    share = ranking.Share("b", 1, torch.tensor([-1, -1, 0, 1, 2, -1, -1, -1, -1, 0, 1, 2, -1, -1]))
    found = ranking.moments(share, 3, lambda w, g: [(w * g).sum(1), w.square().sum(1)], weight, gradient)
    index = [[2, 9], [3, 10], [4, 11]]
    expected = [[float((weight[:, i] * gradient[:, i]).double().sum()) for i in index]]
    expected.append([float(weight[:, i].double().square().sum()) for i in index])
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-6)


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
