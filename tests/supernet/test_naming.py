from __future__ import annotations

from typing import Any

import pyglove as pg
import pytest
import torch
from torch import nn

import nas
from nas.errors import LayoutError, SupernetError


@nas.model
def plain(width: int, depth: int) -> nn.Module:
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Linear(64, width), *layers, nn.Linear(width, 10))


@nas.model
def named(width: int, depth: int) -> nn.Module:
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nas.sequential(nn.Linear(64, width), *layers, head=nn.Linear(width, 10))


def supernet(model: Any) -> nas.Supernet:
    space = nas.Space(model(width=pg.oneof([16, 32, 64]), depth=pg.oneof([1, 2, 3])))
    return nas.Supernet(space, example=torch.zeros(1, 64))


def test_a_head_behind_an_elastic_depth_has_one_name() -> None:
    net = supernet(named)
    shallow, deep = (net.extract(net.space.arch({"width": 64, "depth": depth})) for depth in (1, 3))
    assert torch.equal(shallow.head.weight, deep.head.weight)  # type: ignore[union-attr, arg-type]
    assert torch.equal(shallow.get_parameter("1.weight"), deep.get_parameter("1.weight"))
    assert net.proof is not None


def test_a_head_that_would_be_a_hidden_layer_is_refused_with_the_helper() -> None:
    with pytest.raises(LayoutError, match=r"layer '3' gives the output .*nas.sequential\(\*layers, head=...\)"):
        supernet(plain)


def test_names_and_modules_are_checked() -> None:
    with pytest.raises(SupernetError, match="a function; give modules|give modules"):
        nas.sequential(torch.relu)  # type: ignore[arg-type]
    with pytest.raises(SupernetError, match="'forward', which nn.Sequential has already"):
        nas.sequential(forward=nn.ReLU())
