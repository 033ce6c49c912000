"""Windows of random axes against plain gathering, values and gradients."""

from __future__ import annotations

import math
import random

import pytest
import torch

from nas.errors import LayoutError
from nas.supernet import parts
from nas.supernet.parts import Axis, Factor, Sum
from nas.supernet.selection import Selection

ATOMS = ("a", "b", "c", "d")


def random_axis(rng: random.Random, depth: int) -> Axis:
    return tuple(random_factor(rng, depth) for _ in range(rng.choice([0, 1, 1, 2, 2, 3])))


def random_factor(rng: random.Random, depth: int) -> Factor:
    kind = rng.choice(["int", "atom", "atom", "sum"] if depth else ["int", "atom", "atom"])
    if kind == "sum":
        return Sum(tuple(random_axis(rng, depth - 1) for _ in range(rng.randint(1, 3))))
    return rng.randint(1, 3) if kind == "int" else rng.choice(ATOMS)


def cases() -> list[tuple[list[Axis], dict[str, int], dict[str, int]]]:
    rng, found = random.Random(0), []
    while len(found) < 600:
        axes = [random_axis(rng, 2) for _ in range(rng.randint(0, 3))]
        whole = {atom: rng.randint(1, 4) for atom in ATOMS}
        part = {atom: rng.randint(1, size) for atom, size in whole.items()}
        if math.prod(parts.length(axis, whole) for axis in axes) <= 20_000:
            found.append((axes, whole, part))
    return found


def gathered(whole: torch.Tensor, axes: list[Axis], sizes: dict[str, int], part: dict[str, int]) -> torch.Tensor:
    for dim, axis in enumerate(axes):
        whole = whole.index_select(dim, parts.indices(axis, sizes, part))
    return whole


def test_any_axes_are_joined_from_windows_as_gathering_has_it():
    several = nested = 0
    for axes, sizes, part in cases():
        selection = Selection(axes, sizes, part)
        whole = torch.randn(selection.whole, dtype=torch.float64, requires_grad=True)
        windows = selection.windows(whole)
        joined = selection.join(windows)
        expected = gathered(whole, axes, sizes, part)
        assert torch.equal(joined, expected)
        assert joined.shape == selection.shape
        assert all(window.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr() for window in windows)
        assert sum(window.numel() for window in windows) == expected.numel()
        if selection.gathers:
            assert torch.equal(selection.gather(selection.hull(whole)), expected)
            joined = selection.gather(selection.hull(whole))
        weights = torch.randn(expected.shape, dtype=torch.float64)
        ours, theirs = (torch.autograd.grad((one * weights).sum(), whole)[0] for one in (joined, expected))
        assert torch.equal(ours, theirs)
        for window, piece in zip(windows, selection.split(expected), strict=True):
            assert torch.equal(piece.reshape(window.shape), window)
        several += len(windows) > 1
        nested += len(windows) > 4
    assert several > 100
    assert nested > 15


def test_second_derivatives_go_through_windows():
    selection = Selection([(2, "a", Sum((("b",), (3,))))], {"a": 3, "b": 2}, {"a": 2, "b": 1})
    whole = torch.randn(selection.whole, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda w: selection.join(selection.windows(w)).pow(3), whole)


@pytest.mark.parametrize("layout", ["transposed", "channels_last"])
def test_memory_may_be_laid_out_otherwise(layout):
    axes: list[Axis] = [(2, "a"), ("b", 2), (1,), ("c",)]
    sizes, part = {"a": 3, "b": 2, "c": 2}, {"a": 2, "b": 1, "c": 1}
    whole = torch.randn(6, 4, 1, 2)
    other = (
        whole.clone(memory_format=torch.channels_last)
        if layout == "channels_last"
        else whole.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    )
    selection = Selection(axes, sizes, part)
    assert torch.equal(selection.join(selection.windows(other)), gathered(whole, axes, sizes, part))


def test_what_is_a_leading_part_is_a_slice_and_what_is_whole_is_the_tensor():
    axes: list[Axis] = [("a", 4), (Sum((("b",), ("b",))),)]
    sizes = {"a": 3, "b": 2}
    whole = torch.randn(12, 4)
    (window,) = Selection(axes, sizes, {"a": 2, "b": 2}).windows(whole)
    assert window.shape == (8, 4)
    assert window.stride() == whole.stride()
    assert Selection(axes, sizes, sizes).windows(whole)[0] is whole


def test_terms_that_are_whole_are_one_window_with_their_neighbours():
    selection = Selection(
        [(Sum((("a",), ("b",), ("c",), ("a",))),)], {"a": 3, "b": 2, "c": 4}, {"a": 3, "b": 2, "c": 1}
    )
    assert [window.tolist() for window in selection.windows(torch.arange(12))] == [[0, 1, 2, 3, 4], [5], [9, 10, 11]]


def test_a_tensor_of_another_shape_is_refused():
    with pytest.raises(LayoutError, match=r"has shape \(5,\), and by its axes it is \(3,\)"):
        Selection([("a",)], {"a": 3}, {"a": 2}).windows(torch.zeros(5))
