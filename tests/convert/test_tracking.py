"""Numbers that remember where they came from."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch._dynamo.source import ConstantSource
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from nas.convert.tracking import TrackedInt, Whole, evaluate, leaves, plain, track_attributes, unknowns, whole

HEADS = ("attr", "layer", ("heads",))


def heads(value: int = 6) -> Any:
    return TrackedInt(value, HEADS)


@pytest.mark.parametrize(
    ("compute", "expression"),
    [
        (lambda x: x + 1, ("+", HEADS, 1)),
        (lambda x: 10 - x, ("-", 10, HEADS)),
        (lambda x: x * x, ("*", HEADS, HEADS)),
        (lambda x: x**2, ("*", HEADS, HEADS)),
        (lambda x: 64 // x, ("//", 64, HEADS)),
        (lambda x: x % 4, ("%", HEADS, 4)),
        (lambda x: -x, ("-", 0, HEADS)),
        (lambda x: x * 2 // 3 - 1, ("-", ("//", ("*", HEADS, 2), 3), 1)),
        (lambda x: sum([x, x]), ("+", ("+", 0, HEADS), HEADS)),
    ],
)
def test_arithmetic_keeps_value_and_source(compute: Any, expression: Any) -> None:
    result = compute(heads())
    assert result == compute(6)
    assert result.expression == expression
    assert evaluate(expression, lambda _: 6) == compute(6)


def test_floating_point_numbers_computed_from_sizes_are_tracked() -> None:
    scale = heads(16) ** -0.5
    assert scale == 0.25
    assert scale.expression == ("**", HEADS, -0.5)
    assert (scale * 2).expression == ("*", scale.expression, 2)


@pytest.mark.parametrize(
    ("value", "expression"),
    [
        (heads(), HEADS),
        (heads() / 2, ("//", HEADS, 2)),
        (heads() * 0.5, ("//", HEADS, 2)),
        (heads() * 2.0, ("*", HEADS, 2)),
        (heads() / 4, None),
        (heads(16) ** 0.5, None),
        (7.5, None),
    ],
)
def test_whole_numbers_keep_their_source_where_nothing_is_rounded(value: Any, expression: Any) -> None:
    found = whole(value)
    assert found == int(plain(value))
    assert getattr(found, "expression", None) == expression


def test_what_stands_for_int_is_it_to_whoever_asks() -> None:
    assert isinstance(3, Whole)
    assert not isinstance(3.0, Whole)
    assert issubclass(bool, Whole)
    assert {int: 1}[Whole] == 1
    assert Whole("11", base=2) == 3
    assert type(Whole(2.5)) is int


def test_a_tensor_or_foreign_number_decides_itself() -> None:
    assert isinstance(heads() * torch.ones(2), torch.Tensor)
    assert type(heads() + True) is int
    assert type(plain(heads())) is int


def test_a_symbol_of_torch_meets_a_plain_number() -> None:
    shapes = ShapeEnv()
    name = shapes.create_symbol(7, source=ConstantSource("n"), dynamic_dim=DimDynamic.DYNAMIC)
    symbol = shapes.create_symintnode(name, hint=7)
    assert [int(heads() + symbol), int(symbol - heads()), int(heads() * symbol), int(symbol // heads())] == [
        13,
        1,
        42,
        1,
    ]
    assert heads() < symbol
    assert symbol >= heads()
    assert heads() != symbol
    assert TrackedInt(7) == symbol


def test_copies_and_pickles_are_plain() -> None:
    assert type(copy.deepcopy(heads())) is int
    assert type(pickle.loads(pickle.dumps(heads()))) is int


class Pair(NamedTuple):
    first: int
    second: int


def test_plain_strips_nested_containers_and_keeps_the_rest() -> None:
    given = (Pair(heads(), 2), [heads()], {"a": heads()}, slice(None, heads()))
    stripped = plain(given)
    assert not list(leaves(stripped))
    assert stripped == (Pair(6, 2), [6], {"a": 6}, slice(None, 6))
    assert isinstance(stripped[0], Pair)
    untouched = [1, 2]
    assert plain(untouched) is untouched


class Kept(nn.Module):
    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.width, self._private, self.flag, self.one = 8, 4, True, 1
        self.pair, self.table = (2, 3), {"a": [5]}
        self.settings = settings


def test_attributes_are_found_in_containers_and_settings_but_flags_are_not() -> None:
    settings = SimpleNamespace(heads=4, name="x", inner=SimpleNamespace(dims=[7]))
    model = nn.Sequential(Kept(settings), Kept(settings))
    track_attributes(model)
    first: Any = model[0]
    assert first.width.expression == ("attr", "0", ("width",))
    assert first._private.expression == ("attr", "0", ("_private",))
    assert first.pair[1].expression == ("attr", "0", ("pair", 1))
    assert first.table["a"][0].expression == ("attr", "0", ("table", "a", 0))
    assert first.settings.heads.expression == ("attr", "0", ("settings", "heads"))
    assert first.settings.inner.dims[0].expression == ("attr", "0", ("settings", "inner", "dims", 0))
    assert [type(value) for value in (first.flag, first.one, first.training)] == [bool, int, bool]
    other: Any = model[1]
    assert other.settings.heads.expression == ("attr", "1", ("settings", "heads"))
    assert type(settings.heads) is int


class Constant(nn.Module):
    heads, scale, _version = 4, 0.5, 2


def test_numbers_of_a_class_are_attributes_of_its_modules() -> None:
    class Other(Constant):
        heads = 6

    model = nn.Sequential(Constant(), Other())
    track_attributes(model)
    assert [module.heads.expression for module in model] == [("attr", str(place), ("heads",)) for place in range(2)]
    assert [int(module.heads) for module in model] == [4, 6]
    assert type(Constant.heads) is int


def test_unknowns_come_in_order() -> None:
    expression = ("*", ("//", ("dim", 1, 2), HEADS), HEADS)
    assert list(unknowns(expression)) == [("dim", 1, 2), HEADS, HEADS]
