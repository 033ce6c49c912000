"""Cuts: worked examples with distinct numbers, valid patterns beside their smallest corruptions."""

from __future__ import annotations

import pytest
import torch

from nas.errors import LayoutError
from nas.supernet import CentreCrop, Corner, Cut, KernelTransform, Layout

WHOLE = torch.arange(3 * 4 * 2 * 5.0).reshape(24, 5)  # (qkv=3 heads=4 dim=2) in=5


def part(cut: Cut, whole: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    helpers = {suffix: value for suffix, value in cut.helpers(tuple(whole.shape)).items() if suffix in cut.needs(shape)}
    return cut.join(cut.windows(whole, shape), tuple(whole.shape), shape, helpers)


def test_corner_is_the_leading_part_and_a_view():
    cut = Corner().window(WHOLE, (2, 3))
    assert cut.tolist() == [[0, 1, 2], [5, 6, 7]]
    assert cut.data_ptr() == WHOLE.data_ptr()
    assert Corner().window(WHOLE, (24, 5)) is WHOLE
    assert Corner().window(torch.tensor(3.0), ()).item() == 3


def test_layout_takes_leading_heads_of_queries_keys_and_values():
    layout = Layout("(qkv heads dim) in", qkv=3, dim=2)
    expected = WHOLE.reshape(3, 4, 2, 5)[:, :3, :, :4].reshape(18, 4)
    assert torch.equal(part(layout, WHOLE, (18, 4)), expected)


@pytest.mark.parametrize(
    ("pattern", "sizes", "split", "shape"),
    [
        ("(qkv dim) in", {"qkv": 3}, lambda w: w.reshape(3, 8, 5)[:, :6].reshape(18, 5), (18, 5)),
        ("(heads dim) in", {"heads": 4}, lambda w: w.reshape(4, 6, 5)[:, :2, :3].reshape(8, 3), (8, 3)),
        ("(dim heads) in", {"heads": 4}, lambda w: w.reshape(6, 4, 5)[:2].reshape(8, 5), (8, 5)),
        ("out in", {}, lambda w: w[:7, :2], (7, 2)),
        ("out in", {"in": 5}, lambda w: w[:7], (7, 5)),
        ("(a b) in", {"a": 4, "b": 6}, lambda w: w[:, :2], (24, 2)),
    ],
)
def test_layout_cuts_only_the_open_axes(pattern, sizes, split, shape):
    assert torch.equal(part(Layout(pattern, **sizes), WHOLE, shape), split(WHOLE))


def test_transposed_fused_weight():
    whole = torch.arange(4 * 12.0).reshape(4, 12)
    cut = part(Layout("in (fused out)", fused=3), whole, (2, 6))
    assert torch.equal(cut, whole.reshape(4, 3, 4)[:2, :, :2].reshape(2, 6))


ROWS = torch.arange(24.0)


@pytest.mark.parametrize(
    ("pattern", "sizes", "length", "rows"),
    [
        ("(q + k)", {"q": 20}, 22, [*range(20), 20, 21]),
        ("(q + k)", {"k": 20}, 22, [0, 1, *range(4, 24)]),
        ("(q + kv + kv)", {"q": 8}, 16, [*range(8), *range(8, 12), *range(16, 20)]),
        ("(q dim + kv dim + kv dim)", {"q": 2, "dim": 4}, 16, [*range(8), *range(8, 12), *range(16, 20)]),
        ("(heads dim + dim + dim)", {"heads": 2}, 12, [0, 1, 2, 6, 7, 8, 12, 13, 14, 18, 19, 20]),
        ("(h d + h d + s + s + h)", {"d": 2, "s": 2}, 14, [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 20, 21]),
        ("(a b + c)", {"a": 2, "b": 4, "c": 16}, 24, [*range(24)]),
        ("(a)", {}, 5, [*range(5)]),
    ],
)
def test_sums_are_parts_one_after_the_other(pattern, sizes, length, rows):
    layout = Layout(pattern, **sizes)
    cut = part(layout, ROWS, (length,))
    assert cut.tolist() == rows
    pieces = layout.split(cut, tuple(ROWS.shape))
    windows = layout.windows(ROWS, (length,))
    assert all(torch.equal(piece.reshape(window.shape), window) for piece, window in zip(pieces, windows, strict=True))
    assert all(window.untyped_storage().data_ptr() == ROWS.untyped_storage().data_ptr() for window in windows)


def test_sums_in_two_dimensions_are_blocks():
    whole = torch.arange(6.0)[:, None] * 10 + torch.arange(8.0)
    cut = part(Layout("(a + b) (c + c)", a=2), whole, (3, 4))
    rows, columns = [0, 1, 2], [0, 1, 4, 5]
    assert torch.equal(cut, whole[rows][:, columns])
    layout = Layout("(a + b) (c + c)", a=2)
    assert [tuple(window.shape) for window in layout.windows(whole, (3, 4))] == [(2, 2), (2, 2), (1, 2), (1, 2)]
    with pytest.raises(LayoutError, match="is made of 4 windows"):
        layout.window(whole, (3, 4))


def test_lengths_that_a_sum_does_not_tell_are_looked_up():
    layout = Layout("(left + right)", left="left.bias")
    whole, part_ = {"block.left.bias": (16,), "left.bias": (1,)}, {"block.left.bias": (4,), "left.bias": (1,)}
    placed = layout.placed("block.head.weight", whole, part_)
    assert part(placed, ROWS, (12,)).tolist() == [0, 1, 2, 3, *range(16, 24)]
    same_length = layout.placed("block.head.weight", whole, {"block.left.bias": (8,)})
    assert len(same_length.windows(ROWS, (16,))) == 2
    assert Cut.from_json(layout.to_json()) == layout
    other = Layout("(left + right)", left="norm.weight[1]").placed(
        "a.b.c", {"norm.weight": (3, 20)}, {"norm.weight": (3, 4)}
    )
    assert part(other, ROWS, (6,)).tolist() == [0, 1, 2, 3, 20, 21]
    for missing in ("lefd.bias", "left.bias[1]"):
        with pytest.raises(LayoutError, match="is no dimension of a parameter of this arch"):
            Layout("(left + right)", left=missing).placed("block.head.weight", whole, part_)


@pytest.mark.parametrize(
    ("pattern", "sizes", "message"),
    [
        ("(qkv dim in", {"qkv": 3}, "does not close its parenthesis"),
        ("qkv dim) in", {}, "closes a parenthesis that is not open"),
        ("((qkv dim) in)", {}, "opens a parenthesis inside another"),
        ("() in", {}, "has empty parentheses"),
        ("", {}, "names no axis"),
        ("(qkv qkv) in", {"qkv": 3}, "names axis 'qkv' twice"),
        ("(3 dim) in", {}, "'3' is not an axis name"),
        ("(qkv-dim) in", {}, "'qkv-dim' is not an axis name"),
        ("(qkv dim) in", {"qvk": 3}, "no axis 'qvk' to give a size; did you mean 'qkv'?"),
        ("(qkv dim) in", {"qkv": 0}, "size qkv=0 is not a positive whole number"),
        ("(qkv dim) in", {"qkv": 3.0}, "size qkv=3.0 is not a positive whole number"),
        ("(qkv dim) in", {}, "axes 'qkv' and 'dim' have no size"),
        ("(q + kv", {"q": 3}, "does not close its parenthesis"),
        ("q + kv", {"q": 3}, "has a '+' outside of parentheses"),
        ("(q + ) in", {"q": 3}, "has a '+' without an axis on each side"),
        ("(+ kv) in", {}, "has a '+' without an axis on each side"),
        ("(q ++ kv) in", {"q": 3}, "has a '+' without an axis on each side"),
        (
            "(q + k + v) in",
            {"q": 3},
            "axes 'k' and 'v' have no size; give a size to all but one, or say which parameter",
        ),
        ("(kv kv + q) in", {"q": 3}, "names axis 'kv' twice"),
        ("(q + kv) q", {"q": 3}, "names axis 'q' twice"),
        ("(q - kv) in", {"q": 3}, "'-' is not an axis name"),
        ("(q + kv) in", {"q": "left.bias[one]"}, "nor a parameter's name as in 'left.bias'"),
        ("(q + kv) in", {"q": ""}, "size q='' is not a positive whole number"),
        ("(q + kv) in", {"q": True}, "size q=True is not a positive whole number"),
    ],
)
def test_ill_formed_layouts_say_what_is_wrong(pattern, sizes, message):
    with pytest.raises(LayoutError) as error:
        Layout(pattern, **sizes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("cut", "whole", "shape", "message"),
    [
        (
            Layout("(heads qkv dim) in", qkv=3, dim=2),
            (25, 4),
            (24, 4),
            "dimension (heads qkv dim): length 25 does not fit",
        ),
        (Layout("(heads qkv dim) in", qkv=3, dim=2), (24, 4), (20, 4), "length 20 does not fit {'qkv': 3, 'dim': 2}"),
        (Layout("(a b) in", a=2, b=3), (12, 4), (6, 4), "length 12 does not fit {'a': 2, 'b': 3}"),
        (Layout("(qkv dim)", qkv=3), (24, 4), (12, 4), "has 1 dimensions"),
        (Layout("(q + kv + kv) in", q=8), (24, 4), (15, 4), "dimension (q + kv + kv): length 15 does not fit {'q': 8}"),
        (Layout("(q + kv + kv) in", q=8), (24, 4), (6, 4), "length 6 does not fit {'q': 8}"),
        (Layout("(q + k) in", q=8, k=4), (12, 4), (8, 4), "length 8 does not fit {'q': 8, 'k': 4}"),
        (CentreCrop((2, 3)), (4, 4, 7, 7), (4, 4, 4, 4), "length 4 has no centre in length 7"),
        (KernelTransform((7, 5, 3)), (4, 4, 7, 7), (4, 4, 1, 1), "is not one of its sizes"),
        (KernelTransform((5, 3)), (4, 4, 7, 7), (4, 4, 3, 3), "the largest kernel is (7, 7)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(cut, whole, shape, message):
    with pytest.raises(LayoutError) as error:
        cut.window(torch.zeros(whole), shape)
    assert message in str(error.value)


@pytest.mark.parametrize("arguments", [(), (-1,), ("2",)])
def test_centre_crop_needs_axis_numbers(arguments):
    with pytest.raises(LayoutError, match=r"are not axis numbers|dims\[0\]='2'; it is a whole number"):
        CentreCrop(arguments)


@pytest.mark.parametrize("sizes", [(7,), (3, 5), (7, 4), (7, 7)])
def test_kernel_sizes_fall_in_even_steps(sizes):
    with pytest.raises(LayoutError, match="do not fall in even steps"):
        KernelTransform(sizes)


def test_centre_crop():
    whole = torch.arange(2 * 3 * 5 * 5.0).reshape(2, 3, 5, 5)
    assert torch.equal(CentreCrop((2, 3)).window(whole, (1, 2, 3, 3)), whole[:1, :2, 1:4, 1:4])


def test_kernel_transform_is_the_centre_at_first_and_chains_its_matrices():
    whole = torch.randn(4, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    transform = KernelTransform((7, 5, 3))
    assert torch.equal(part(transform, whole, (2, 3, 3, 3)), whole[:2, :, 2:5, 2:5])
    assert transform.window(whole, (4, 3, 7, 7)).shape == whole.shape
    five, three = torch.randn(25, 25), torch.randn(9, 9)
    cut = transform.apply(whole[:2, :1], (2, 1, 3, 3), {"7to5": five, "5to3": three})
    for out in range(2):  # by hand, one kernel at a time
        kernel = (five @ whole[out, 0, 1:6, 1:6].reshape(25)).reshape(5, 5)
        kernel = (three @ kernel[1:4, 1:4].reshape(9)).reshape(3, 3)
        torch.testing.assert_close(cut[out, 0], kernel)


def test_kernel_transform_in_one_and_three_dimensions():
    transform = KernelTransform((5, 3))
    assert transform.helpers((2, 2, 5))["5to3"].shape == (3, 3)
    assert transform.helpers((2, 2, 5, 5, 5))["5to3"].shape == (27, 27)
    whole = torch.randn(2, 2, 5)
    assert torch.equal(part(transform, whole, (2, 2, 3)), whole[:, :, 1:4])


@pytest.mark.parametrize(
    "cut",
    [
        Corner(),
        CentreCrop((2, 3)),
        KernelTransform((7, 5)),
        Layout("(qkv heads dim) in", qkv=3, dim=64),
        Layout("(a + b c) in", a="x.bias", b=2),
    ],
)
def test_cuts_travel_as_json(cut):
    again = Cut.from_json(cut.to_json())
    assert again == cut
    assert hash(again) == hash(cut)
    assert type(again) is type(cut)


def test_unknown_kind_of_cut():
    with pytest.raises(LayoutError, match="cut of kind 'layuot' is unknown.*did you mean 'layout'"):
        Cut.from_json({"kind": "layuot", "pattern": "a b"})
