"""Blocks in a row or side by side: two archs, one set of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyglove as pg
import pytest
import torch
from torch import Tensor, nn

import nas
from nas.errors import SupernetError
from nas.study.take_home import Winner
from nas.train import Sandwich, train
from tests.train.family import blobs


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.layer(self.norm(x)).relu()
        return y


@nas.model
def family(width: int, parallel: bool, depth: int = 3) -> nn.Module:
    blocks = nas.Residuals(*(Block(width) for _ in range(depth)), parallel=parallel)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), blocks, nn.Linear(width, 10))


def supernet(parallel: Any) -> nas.Supernet:
    space = nas.Space(family(width=pg.oneof([8, 16]), parallel=parallel), name="residuals")
    return nas.Supernet(space, example=torch.zeros(1, 1, 8, 8), seed=0)


def test_a_choice_of_both_has_the_weights_of_one(tmp_path: Path) -> None:
    both, deep = supernet(pg.oneof([False, True])), supernet(False)
    assert both.state_dict().keys() == deep.state_dict().keys()
    train(both, blobs(), sampler=Sandwich(2), steps=6, progress=False)
    x = torch.randn(3, 1, 8, 8)
    for parallel in (False, True):
        arch = both.space.arch({"width": 16, "parallel": parallel})
        module = both.extract(arch)
        first, layer, blocks, head = module.children()
        hidden = layer(first(x))
        if parallel:
            hidden = hidden + sum(block(hidden) - hidden for block in blocks.children())
        else:
            for block in blocks.children():
                hidden = block(hidden)
        assert torch.allclose(module(x), head(hidden), atol=1e-6)
        assert torch.allclose(both.eval()(x, arch), module(x), atol=1e-6)
        folded = nas.fold(module, x)
        assert set(folded.merged) == {f"2.{place}.norm" for place in range(3)}
        Winner("residuals", 0, arch, module, {}, {}, x, None).write(tmp_path / str(parallel))


def test_a_word_is_not_taken_for_true() -> None:
    with pytest.raises(SupernetError, match="Residuals was given parallel='deep'; it is True or False"):
        nas.Residuals(nn.Identity(), parallel="deep")  # type: ignore[arg-type]


class InPlace(nn.Module):
    """Begins with an activation in place: relu(x) + layer(relu(x)), and in f(x) of that less x."""

    def __init__(self, function: bool) -> None:
        super().__init__()
        self.activation: Any = nn.functional.relu_ if function else nn.ReLU(inplace=True)
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.layer(self.activation(x))
        return y


@pytest.mark.parametrize("function", [False, True])
def test_blocks_that_write_into_their_input_do_not_write_into_each_other_s(function: bool) -> None:
    blocks, x = [InPlace(function) for _ in range(3)], torch.randn(2, 4)
    before = x.clone()
    found = nas.Residuals(*blocks, parallel=True)(x)
    assert torch.equal(x, before)
    assert torch.allclose(found, x + sum(block(x.clone()) - x for block in blocks), atol=1e-6)
