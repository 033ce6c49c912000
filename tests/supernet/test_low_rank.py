"""Two factors whose prefixes are the best approximations: beside closed forms."""

from __future__ import annotations

import pytest
import torch

from nas.errors import SupernetError
from nas.supernet.low_rank import factors, fill, largest_saving, saves

SHAPES = [(6, 9), (9, 6), (7, 7)]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(inputs: int) -> torch.Tensor:
    """(200, inputs) inputs some directions of which are a hundred times as long as others."""
    return (
        drawn(200, inputs, seed=1)
        @ torch.diag(torch.logspace(-1, 1, inputs, dtype=torch.float64))
        @ drawn(inputs, inputs, seed=2)
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_every_prefix_leaves_the_singular_values_behind_it(shape):
    weight = drawn(*shape)
    down, up = factors(weight, min(shape))
    values = torch.linalg.svdvals(weight)
    for rank in range(1, min(shape) + 1):  # Eckart and Young: the squared error is the sum of the squares left out
        error = (weight - up[:, :rank] @ down[:rank]).square().sum()
        assert torch.allclose(error, values[rank:].square().sum(), atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_with_a_second_moment_the_outputs_are_approximated_as_well_as_they_can_be(shape):
    weight, inputs = drawn(*shape), correlated(shape[1])
    moment = inputs.T @ inputs / len(inputs)
    down, up = factors(weight, min(shape), moment)
    plain_down, plain_up = factors(weight, min(shape))
    values = torch.linalg.svdvals(inputs @ weight.T)
    for rank in range(1, min(shape)):
        error = (inputs @ (weight - up[:, :rank] @ down[:rank]).T).square().sum()
        plain = (inputs @ (weight - plain_up[:, :rank] @ plain_down[:rank]).T).square().sum()
        assert torch.allclose(error, values[rank:].square().sum(), rtol=1e-3)
        assert error < plain


@pytest.mark.parametrize("shape", SHAPES)
def test_inputs_that_never_occur_are_approximated_as_the_weights_are(shape):
    weight, inputs = drawn(*shape), correlated(shape[1])
    inputs[:, 2:] = 0.0
    down, up = factors(weight, min(shape), inputs.T @ inputs)
    assert torch.allclose(inputs @ (up[:, :2] @ down[:2]).T, inputs @ weight.T, rtol=1e-3, atol=1e-3)
    assert torch.allclose(up @ down, weight, atol=1e-4)


def test_a_layer_of_lower_rank_needs_no_more():
    weight = drawn(8, 2) @ drawn(2, 8, seed=3)
    down, up = factors(weight, 5)
    assert torch.allclose(up[:, :2] @ down[:2], weight)
    assert torch.allclose(up @ down, weight)
    assert not any(one.isnan().any() for one in factors(torch.zeros(4, 4), 2))


def test_both_factors_are_as_long_in_every_direction():
    down, up = factors(drawn(6, 9), 4)
    assert torch.allclose(down.norm(dim=1), up.norm(dim=0))


@pytest.mark.parametrize(
    ("weight", "rank", "moment", "said"),
    [
        (torch.ones(4, 6), 5, None, "ranks from 1 to 4, and 5 is none"),
        (torch.ones(4, 6), 0, None, "ranks from 1 to 4, and 0 is none"),
        (torch.ones(4, 6), 2, torch.eye(4), r"second moment of \(4, 4\) is not one of 6 inputs"),
        (torch.full((4, 6), torch.nan), 2, None, "numbers that are not finite"),
        (torch.ones(4, 6), 2, torch.full((6, 6), torch.inf), "numbers that are not finite"),
    ],
)
def test_what_has_no_factors_is_a_sentence(weight, rank, moment, said):
    with pytest.raises(SupernetError, match=said):
        factors(weight, rank, moment)


def test_an_error_names_the_layer():
    values = {
        "a.weight": torch.full((4, 4), torch.nan),
        "a.down.weight": torch.zeros(1, 4),
        "a.up.weight": torch.zeros(4, 1),
    }
    with pytest.raises(SupernetError, match="'a': a layer, or what goes into it"):
        fill(values, {"a": False})


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 4), (6, 12), (3, 1000), (5, 2)])
def test_a_rank_saves_up_to_the_one_at_which_two_factors_cost_as_much(inputs, outputs):
    ranks = [rank for rank in range(1, min(inputs, outputs) + 1) if rank * (inputs + outputs) < inputs * outputs]
    assert largest_saving(inputs, outputs) == max(ranks)
    assert [rank for rank in range(1, min(inputs, outputs) + 1) if saves(rank, inputs, outputs)] == ranks
