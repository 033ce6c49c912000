"""Axes made of atoms: worked examples, and orders of their units."""

from __future__ import annotations

import pytest
import torch

from nas.errors import LayoutError
from nas.supernet import parts
from nas.supernet.parts import Sum

WHOLE = {"heads": 3, "a": 4, "b": 2}


def test_a_product_keeps_products_of_leading_units():
    axis = (2, "heads", 2)
    assert parts.length(axis, WHOLE) == 12
    assert parts.indices(axis, WHOLE, {"heads": 2}).tolist() == [0, 1, 2, 3, 6, 7, 8, 9]
    assert parts.indices((), WHOLE, {}).tolist() == [0]


def test_a_sum_keeps_what_each_term_keeps():
    axis = (Sum((("a",), (2, "b"), (3,))),)
    assert parts.length(axis, WHOLE) == 11
    assert parts.indices(axis, WHOLE, {"a": 2, "b": 1}).tolist() == [0, 1, 4, 6, 8, 9, 10]
    assert list(parts.atoms(axis)) == ["a", "b"]


def test_units_are_renumbered_wherever_their_atom_occurs():
    axis = (2, Sum((("a",), ("b",))))
    order = torch.tensor([3, 0, 2, 1])
    assert parts.permuted(axis, WHOLE, {"a": order}).tolist() == [3, 0, 2, 1, 4, 5, 9, 6, 8, 7, 10, 11]
    assert parts.permuted(axis, WHOLE, {"heads": order}).tolist() == list(range(12))


def test_renumbering_and_its_inverse_change_nothing():
    axis = ("heads", Sum((("a", 2), ("b", "heads"))), "a")
    orders = {name: torch.randperm(size, generator=torch.Generator().manual_seed(1)) for name, size in WHOLE.items()}
    there = parts.permuted(axis, WHOLE, orders)
    back = parts.permuted(axis, WHOLE, {name: order.argsort() for name, order in orders.items()})
    assert torch.equal(there[back], torch.arange(parts.length(axis, WHOLE)))
    assert not torch.equal(there, back)


def test_axes_travel_as_json():
    axis = (3, "a", Sum((("b", 2), (Sum((("a",), (1,))),))))
    assert parts.from_json(parts.to_json(axis)) == axis


@pytest.mark.parametrize("data", ["a", {"sum": []}, [-1], [True], [1.5], [{"sum": "a"}], [{"sum": [1]}], [None]])
def test_what_is_no_axis_is_refused(data):
    with pytest.raises(LayoutError, match="an axis is a list|a factor of an axis is"):
        parts.from_json(data)
