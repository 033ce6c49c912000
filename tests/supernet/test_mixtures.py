"""Mixtures that a model gives: where they are its archs, and where it is said that they are not."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pyglove as pg
import torch
from torch import Tensor, nn

import nas
from nas.supernet import Supernet
from nas.supernet.masks import Masks
from nas.supernet.mixtures import Mixtures, relaxed
from searchspaces import nasbench201
from tests.supernet.test_masks import assert_subnets, gated, images


def test_cells_are_their_mixture_with_one_operation_an_edge() -> None:
    net = nasbench201.supernet(nasbench201.space(width=4, cells=1, stages=2, channels=1, classes=4), side=8)
    before, state = {name: one.clone() for name, one in net.state_dict().items()}, torch.get_rng_state()
    found = relaxed(net, images())
    assert isinstance(found, Mixtures)
    assert not found.unfit
    assert found.relaxed == list(range(6))
    assert_subnets(found, random.Random(0))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], one) for name, one in net.state_dict().items())


def test_models_without_a_mixture_are_masked() -> None:
    assert isinstance(relaxed(gated(), images()), Masks)


class Choice(nn.Module):
    """Two activations before a width, of which a mixture knows the activations alone, or weighs them wrongly."""

    def __init__(self, act: str, width: int, kind: str) -> None:
        super().__init__()
        self.act, self.width, self.kind = act, width, kind
        self.first, self.head = nn.Linear(64, width), nn.Linear(width, 4)

    def mixture(self) -> nn.Module:
        mixed = Choice("both", self.width, self.kind)
        if self.kind == "more":
            mixed.gain = nn.Parameter(torch.ones(()))
        return mixed

    def forward(self, x: Tensor, shares: Mapping[str, Tensor] | None = None) -> Tensor:
        x = self.first(x.flatten(1))
        if shares is None:
            y: Tensor = self.head(x.relu() if self.act == "relu" else x.tanh())
            return y
        share = shares["act"] * (2 if self.kind == "wrong" else 1)
        mixed: Tensor = self.head(share[0] * x.relu() + share[1] * x.tanh())
        return mixed


@nas.model
def chosen(act: str, width: int, kind: str = "right") -> nn.Module:
    return Choice(act, width, kind)


def family(kind: str) -> Supernet:
    space = nas.Space(chosen(act=pg.oneof(["relu", "tanh"]), width=pg.oneof([4, 8]), kind=kind), name=kind)
    return Supernet(space, example=images(1))


def test_decisions_that_a_mixture_does_not_know_stay_as_they_are() -> None:
    found = relaxed(family("right"), images())
    assert "4 computes something else than the model's mixture" in found.unfit["width"]
    assert [found.supernet.space.names[p] for p in found.relaxed] == ["act"]
    assert_subnets(found, random.Random(0))


def test_a_mixture_that_is_none_is_told() -> None:
    found = relaxed(family("wrong"), images())
    assert "relu computes something else" in found.unfit["act"]
    assert not found.relaxed


def test_parameters_of_its_own_are_told() -> None:
    found = relaxed(family("more"), images())
    assert (
        "the mixture of Choice has parameters that the supernet has not: parameter 'gain' is not held"
        in found.unfit["act"]
    )
