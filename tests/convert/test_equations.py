"""What a class takes for equal, and the numbers that its modules keep."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nas
from nas.convert.axes import Cause, cause_of, norm
from nas.convert.converting import Conversion, Options, convert
from nas.convert.decisions import Names
from nas.convert.equations import Equation, Solution, Tie, solve
from nas.convert.tracking import evaluate
from nas.supernet import parts
from nas.supernet.parts import Sum


def attr(name: str) -> Any:
    return ("attr", "m", (name,))


def axis(*factors: Any) -> Any:
    return ("axis", factors)


SIZES = {"width": 96, "heads": 3, "unit": 32, "hidden": 48, "left": 10, "right": 10, "groups": 6}


def solved(*equations: tuple[Any, Any], elastic: str = "width heads hidden", **attributes: int) -> Solution:
    """As a conversion does: until nothing more must stay whole."""
    whole: dict[str, tuple[str, str]] = {}
    values = {attr(name): value for name, value in attributes.items()}
    while True:
        given = [Equation(*each, ("aten.view", "m")) for each in equations]
        found = solve(given, SIZES, [name for name in elastic.split() if name not in whole], values)
        if not found.whole:
            return Solution(found.ties, whole, found.numbers)
        whole |= found.whole


def archs(solution: Solution, elastic: str = "width heads hidden") -> Iterator[dict[str, int]]:
    """Sizes that a search may meet: each unit at several lengths."""
    units = {name: (SIZES[name], {name: 1}) for name in elastic.split() if name not in solution.whole}
    for tie in solution.ties:
        for name in tie.times:
            units.pop(name)
        units[next(iter(tie.times))] = (tie.unit, dict(tie.times))
    for share in (1.0, 0.7, 0.4):
        found = dict(SIZES)
        for place, (unit, times) in enumerate(units.values()):
            count = max(1, int(unit * (share - 0.1 * (place % 2 if share < 1 else 0))))
            found.update({name: count * factor for name, factor in times.items()})
        yield found


# -- equations alone


def test_an_attribute_follows_the_axis_that_it_is() -> None:
    solution = solved((attr("heads"), axis("heads")), (attr("dim"), axis("unit")), heads=3, dim=32)
    (number,) = solution.numbers  # that of a whole axis stays
    assert (number.module, number.path, number.axis) == ("m", ("heads",), ("heads",))
    assert not solution.ties
    assert not solution.whole


def test_a_width_that_is_said_to_be_heads_times_their_width_is_tied_to_them() -> None:
    solution = solved((axis("width"), axis("heads", "unit")))
    assert solution.ties == [Tie(3, {"width": 32, "heads": 1})]
    assert not solution.whole


def test_a_quotient_of_a_width_and_an_attribute_ties_them() -> None:
    solution = solved((attr("heads"), axis("heads")), (("//", axis("width"), attr("heads")), axis("unit")), heads=3)
    assert solution.ties == [Tie(3, {"width": 32, "heads": 1})]


def test_the_same_factors_in_another_order_are_equal() -> None:
    solution = solved((axis("unit", "heads"), axis("heads", "unit")), (axis(2, "width"), axis("width", 2)))
    assert solution == Solution()


def test_one_attribute_in_two_places_ties_their_axes() -> None:
    solution = solved((attr("size"), axis("left")), (attr("size"), axis("right")), elastic="left right", size=10)
    assert solution.ties == [Tie(10, {"left": 1, "right": 1})]
    assert [number.axis for number in solution.numbers] == [("left",)]


def test_a_sum_of_pieces_scales_with_them() -> None:
    pieces = axis(Sum((("left",), ("right",))))
    solution = solved((("//", pieces, 2), axis("left")), elastic="left right")
    assert solution.ties == [Tie(10, {"left": 1, "right": 1})]


@pytest.mark.parametrize(
    ("expression", "of", "value", "expected"),
    [
        (("*", attr("x"), 4), axis(4, "hidden"), 48, ("hidden",)),
        (("*", attr("x"), axis("unit")), axis("heads", "unit"), 3, ("heads",)),
        (("//", attr("x"), 2), axis("hidden"), 96, (2, "hidden")),
        (("//", axis("heads", "unit"), attr("x")), axis("unit"), 3, ("heads",)),
        (("-", ("*", 2, attr("x")), axis("hidden")), axis("hidden"), 48, ("hidden",)),
        (("+", axis("left"), attr("x")), axis(Sum((("left",), ("right",)))), 10, ("right",)),
    ],
)
def test_equations_are_solved_for_an_attribute(expression: Any, of: Any, value: int, expected: Any) -> None:
    elastic = "heads hidden left right"
    solution = solved((expression, of), elastic=elastic, x=value)
    assert not solution.whole
    (number,) = solution.numbers
    for sizes in archs(solution, elastic):
        assert parts.length(number.axis, sizes) == parts.length(expected, sizes)


def test_attributes_that_are_multiplied_follow_the_factors_of_their_axis() -> None:
    solution = solved((("*", attr("n"), attr("d")), axis("heads", "unit")), n=3, d=32)
    assert [(number.path, number.axis) for number in solution.numbers] == [(("n",), ("heads",))]


def test_a_number_in_the_source_keeps_its_axis_whole() -> None:
    solution = solved((48, axis("hidden")), (attr("heads"), axis("heads")), heads=3)
    assert solution.whole == {"hidden": ("aten.view", "m")}
    assert len(solution.numbers) == 1


def test_an_offset_keeps_both_sides_whole() -> None:
    solution = solved((("+", axis("left"), 38), axis("hidden")), elastic="left hidden")
    assert set(solution.whole) == {"left", "hidden"}


def test_a_product_of_two_decisions_holds_one_of_them() -> None:
    solution = solved((axis("width"), axis("heads", "unit")), elastic="width heads unit")
    assert list(solution.whole) == ["heads"]
    assert solution.ties == [Tie(32, {"width": 3, "unit": 1})]


def test_a_division_with_a_rest_keeps_its_axes_whole() -> None:
    assert set(solved((("//", axis("hidden"), 5), 9), elastic="hidden width").whole) == {"hidden"}


def test_what_must_be_divisible_is_cut_in_multiples() -> None:
    solution = solved((("%", axis("width"), 8), 0))
    assert solution.ties == [Tie(12, {"width": 8})]


def test_an_equation_that_does_not_hold_keeps_its_axes_whole() -> None:
    assert set(solved((axis("width"), axis("hidden"))).whole) == {"width", "hidden"}
    solution = solved((attr("x"), axis("hidden")), x=47)
    assert set(solution.whole) == {"hidden"}
    assert not solution.numbers


@pytest.mark.parametrize(
    "equations",
    [
        [(axis("width"), axis("heads", "unit")), (axis("hidden"), axis(Sum((("heads",),) * 16)))],
        [(axis(2, "hidden"), axis("width")), (("//", axis("width"), 3), axis("unit"))],
        [
            (("*", attr("a"), attr("b")), axis("width")),
            (attr("a"), axis("heads")),
            (axis("hidden"), ("*", attr("a"), 16)),
        ],
    ],
)
def test_equations_hold_in_every_arch(equations: list[tuple[Any, Any]]) -> None:
    solution = solved(*equations, a=3, b=32)
    numbers = {("attr", number.module, number.path): number.axis for number in solution.numbers}
    whole = {attr("a"): 3, attr("b"): 32}
    for sizes in archs(solution):

        def value(one: Any, sizes: dict[str, int] = sizes) -> int:
            if one[0] == "axis":
                return parts.length(one[1], sizes)
            return parts.length(numbers[one], sizes) if one in numbers else whole[one]

        assert all(evaluate(left, value) == evaluate(right, value) for left, right in equations)


# -- models


def coupled(model: nn.Module, x: Any) -> tuple[Solution, Names]:
    found = convert(model, x, Options())
    return found.solution, found.names


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        mixed = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Model(nn.Module):
    def __init__(self, width: int = 24, heads: int = 3) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(5, width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.attention(self.norm(x)))


def test_the_class_of_a_transformer_ties_its_width_to_its_heads() -> None:
    solution, names = coupled(Model(), torch.randn(2, 4, 5))
    (tie,) = solution.ties
    kinds = {names.kinds[name]: times for name, times in tie.times.items()}
    assert tie.unit == 3
    assert kinds == {"heads": 1, "width": 8}
    assert {(number.module, number.path) for number in solution.numbers} == {
        ("attention", ("heads",)),
        ("norm", ("normalized_shape", 0)),
    }


HEADS = 3


def arithmetic(found: Conversion) -> list[Cause]:
    """Why axes stay whole that the class computes in a way that leaves no smaller size."""
    causes = {cause_of(norm(axis)) for axes in found.analysis.sources.values() for axis in axes}
    return [cause for cause in causes if cause is not None and cause.reason == "class arithmetic"]


def test_numbers_in_a_models_source_keep_its_heads_whole_and_their_width_elastic() -> None:
    class Written(Model):
        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            batch, tokens, width = x.shape
            qkv = self.attention.qkv(x).view(batch, tokens, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).flatten(2)
            return self.head(x + self.attention.out(mixed))

    model = Written()
    found = convert(model, torch.randn(2, 4, 5), Options(granule=1))
    (decision,) = found.plan.decisions
    assert (decision.size, decision.choices) == (24, (6, 9, 12, 15, 18, 21, 24))
    assert any(cause.op.startswith("aten.view (test_equations.py:") for cause in arithmetic(found))


def square_root(value: float) -> float:
    return math.sqrt(value)


@pytest.mark.parametrize("root", [lambda width: width**0.5, square_root])
def test_what_a_factor_is_computed_from_stays_whole(root: Any) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(3, 16), nn.Linear(16, 16), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.last(self.second(x / root(x.shape[-1])).relu())

    found = convert(Scaled(), torch.randn(2, 3), Options())
    assert [decision.name for decision in found.plan.decisions] == ["hidden"]
    assert [cause.op.partition(" ")[0] for cause in arithmetic(found)] == ["aten.div"]


@pytest.mark.parametrize(
    "width_of",
    [
        lambda x: int(x.shape[-1]),
        lambda x: int(x.shape[-1] / 2) * 2,
        lambda x: int(x.shape[-1] * 0.5) * 2,
        lambda x: math.ceil(x.shape[-1] / 4) * 4,
        lambda x: round(x.shape[-1] / 2) + math.floor(x.shape[-1] / 2),
        lambda x: sum(map(int, x.shape[1:])),
    ],
)
def test_sizes_that_are_rounded_follow_the_arch(width_of: Any) -> None:
    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 16), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.last(F.layer_norm(x, [width_of(x)]))

    space = nas.elastic(Rounded(), torch.randn(2, 3))
    assert [decision.size for decision in space.plan.decisions] == [16]
    assert not space.plan.graph
    assert type(int(2.0)) is int
    assert "int" not in vars(sys.modules[__name__])


def test_a_model_that_means_the_type_by_int_is_captured() -> None:
    class Typed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 16), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.last(x.view(-1, x.shape[-1]) * torch.ones(x.shape[0], 1).to(int))

    found = convert(Typed(), torch.randn(2, 3), Options())
    assert [decision.size for decision in found.plan.decisions] == [16]


def test_square_roots_are_forgotten_after_a_capture() -> None:
    convert(Model(), torch.randn(2, 4, 5), Options())
    assert type(math.sqrt(4)) is float
    assert math.__name__ == "math"
    assert math is sys.modules["math"]


def test_copies_of_the_last_axes_are_set_where_the_class_says_them() -> None:
    class Tiled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last, self.times = nn.Linear(3, 16), nn.Linear(32, 2), 2

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).tile(self.times))

    model, x = Tiled(), torch.randn(2, 5, 3)
    found = convert(model, x, Options(granule=1))
    graph = found.reference(found.plan).at(found.plan.whole)
    assert torch.equal(graph(x), model(x))
    assert ("dims", 0) in {path for derived in found.analysis.derived.values() for path in derived}


def test_comparisons_of_a_model_stay_true() -> None:
    class Checked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width, self.first, self.second, self.last = 6, nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x).relu()
            if x.shape[-1] != self.width:
                raise ValueError("another width was expected")
            y = self.second(x).relu()
            if y.shape == x.shape:
                y = y * 2
            return self.last(y)

    solution, _ = coupled(Checked(), torch.randn(2, 3))
    assert [tie.unit for tie in solution.ties] == [6]
    assert [(number.module, number.path) for number in solution.numbers] == [("", ("width",))]


class Shortcut(nn.Module):
    """A residual where widths are the same, which says so by numbers that nothing else follows from."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.ins, self.layer = ins, nn.Linear(ins, outs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x).relu()
        return y if y.shape[-1] != self.ins else x + y


class Widening(nn.Module):
    """A residual where shapes are the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 16), nn.Linear(16, 24), nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        y = self.second(x).relu()
        return self.last(x + y if x.shape == y.shape else y)


def test_lengths_that_a_model_found_different_never_become_the_same() -> None:
    space = nas.elastic(nn.Sequential(Shortcut(3, 16), Shortcut(16, 32), nn.Linear(32, 2)), torch.randn(2, 3))
    first, second = space.plan.decisions
    assert (first.size, second.size) == (16, 32)
    assert 8 in first.choices
    assert 16 not in second.choices
    assert {8, 24} < set(second.choices)


def test_lengths_of_two_decisions_that_a_model_found_different_keep_their_ratio() -> None:
    solution, names = coupled(Widening(), torch.randn(2, 3))
    (tie,) = solution.ties
    assert sorted(tie.times[name] for name in names.decided) == [2, 3]
    assert tie.unit == 8
    space = nas.elastic(Widening(), torch.randn(2, 3))
    net = nas.Supernet(space, weights=Widening())
    assert net.extract(space.smallest)(torch.randn(2, 3)).shape == (2, 2)


def test_attention_of_torch_keeps_its_own_numbers_right() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, 12), nn.Linear(12, 2)
            self.attention = nn.MultiheadAttention(12, 3, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.last(x + self.attention(x, x, x, need_weights=False)[0])

    solution, _ = coupled(Mixed(), torch.randn(2, 4, 5))
    paths = {number.path for number in solution.numbers if number.module == "attention"}
    assert {("num_heads",), ("embed_dim",)} <= paths
    assert not solution.whole


def test_configurations_of_transformers_are_solved() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=16, patch_size=8
    )
    solution, names = coupled(transformers.ViTModel(config, add_pooling_layer=False).eval(), torch.randn(1, 3, 16, 16))
    assert not solution.whole
    assert {names.kinds[name] for name in names.decided} >= {"heads", "hidden"}
