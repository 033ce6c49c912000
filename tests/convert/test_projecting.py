"""Recurrent layers with projections: every arch that is offered runs, and the original is one of them."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nas


class Projecting(nn.Module):
    def __init__(self, both: bool, size: int = 8) -> None:
        super().__init__()
        self.layer = nn.LSTM(4, 16, 2, bidirectional=both, batch_first=True, proj_size=size)
        self.head = nn.Linear((1 + both) * size, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.layer(x)[0].mean(1))
        return y


@pytest.fixture(autouse=True)
def slower() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
        yield


@pytest.mark.parametrize("both", [False, True])
def test_every_arch_runs(both: bool) -> None:
    x = torch.randn(3, 5, 4)
    model = Projecting(both).eval()
    space = nas.elastic(model, x)
    net = nas.Supernet(space, example=x, weights=model)
    archs = list(space.enumerate())
    assert len(archs) == 49 - 9  # without those that project to as many or more
    for arch in archs:
        found = net.extract(arch)
        made = nn.LSTM(4, found.layer.hidden_size, 2, bidirectional=both, proj_size=found.layer.proj_size)
        assert [one.shape for one in made.parameters()] == [one.shape for one in found.layer.parameters()]
        assert found(x).shape == (3, 2)
    assert torch.allclose(net.extract(space.largest)(x), model(x), atol=1e-6)
    assert not space.allows(space.arch({"layer.hidden": 8, "hidden": 8}))
    assert len(list(pickle.loads(pickle.dumps(space)).enumerate())) == len(archs)


def test_a_space_whose_smallest_sizes_are_equal_has_a_smallest_arch() -> None:
    x = torch.randn(3, 5, 4)
    model = Projecting(False, size=15).eval()
    space = nas.elastic(model, x)
    net = nas.Supernet(space, example=x, weights=model)
    for arch in {space.smallest, *space.representatives()}:
        assert net.extract(arch)(x).shape == (3, 2)


def test_other_spaces_have_no_rule() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.LSTM(4, 16, batch_first=True), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.layer(x)[0].mean(1))
            return y

    assert nas.elastic(Plain().eval(), torch.randn(3, 5, 4)).rules == ()
