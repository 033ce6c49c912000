"""Tensors that modules keep in plain attributes: positions, frequencies, masks."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nas
from nas.convert.copying import named_tables


def sines(length: int, width: int) -> Tensor:
    places = torch.arange(length)[:, None] / 10 ** torch.linspace(0, 3, width // 2)
    return torch.cat([places.sin(), places.cos()], 1)


class Positions(nn.Module):
    """Positions as an attribute, added to a residual of 16 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.out = nn.Linear(3, 16), nn.LayerNorm(16), nn.Linear(16, 2)
        self.positions = sines(5, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.up(x) + self.positions.to(x.device, x.dtype)))  # type: ignore[no-any-return]


class Computed(Positions):
    """The same positions, computed at each call from the width."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        return self.out(self.norm(x + sines(x.shape[1], x.shape[2])))  # type: ignore[no-any-return]


X = torch.randn(2, 5, 3)


def made(model: nn.Module) -> Any:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model.eval()


def test_positions_in_an_attribute_are_cut_with_the_width() -> None:
    model = made(Positions())
    space = nas.elastic(model, X)
    (width,) = space.plan.decisions
    assert width.size == 16
    net = nas.Supernet(space, example=X, weights=model).eval()
    narrow = net.extract(space.arch({width.name: 8}))
    assert torch.equal(narrow.positions, model.positions[:, :8])
    assert torch.equal(narrow(X), net(X, space.arch({width.name: 8})))
    assert torch.equal(net(X, space.largest), model(X))
    by_hand = nn.functional.layer_norm(
        X @ model.up.weight[:8].T + model.up.bias[:8] + model.positions[:, :8],
        (8,),
        model.norm.weight[:8],
        model.norm.bias[:8],
    )
    torch.testing.assert_close(narrow(X), by_hand @ model.out.weight[:, :8].T + model.out.bias)


def test_positions_that_a_call_computes_from_the_width_keep_it_whole() -> None:
    model = made(nn.Sequential(Computed(), nn.Linear(2, 24), nn.ReLU(), nn.Linear(24, 3)))
    space = nas.elastic(model, X)
    assert sorted(decision.size for decision in space.plan.decisions) == [2, 24]
    assert any(row.tensor.startswith("0.") and row.size == 16 for row in space.report.kept)


def test_a_table_under_several_names_is_cut_under_all() -> None:
    model = made(nn.Sequential(Positions(), nn.Linear(2, 3)))
    second = made(Positions())
    second.positions = model[0].positions
    model.append(second)
    space = nas.elastic(model, X)
    narrow = nas.Supernet(space, weights=model).extract(space.smallest)
    assert narrow[0].positions.shape[1] == narrow[0].up.weight.shape[0] < 16
    assert narrow[2].positions.shape[1] == narrow[2].up.weight.shape[0] < 16


def test_what_shares_memory_with_a_parameter_or_has_a_gradient_is_no_table() -> None:
    model = Positions()
    model.copied = model.up.weight.data
    model.view = model.norm.weight.detach()[:3]
    model.computed = model.up.weight * 2
    model.count = torch.tensor([1, 2])
    assert [name for name, _ in named_tables(model)] == ["positions"]


def test_units_on_a_table_keep_their_order_where_others_are_renumbered() -> None:
    model = made(nn.Sequential(Positions(), nn.Linear(2, 24), nn.ReLU(), nn.Linear(24, 3)))
    space = nas.elastic(model, X)
    net = nas.Supernet(space, example=X, weights=model).eval()
    orders = nas.reorder(net)
    assert sorted(axis.length for axis in orders) == [2, 24]  # 16 is not among them
    torch.testing.assert_close(net(X, space.largest), model(X))


@pytest.mark.parametrize("mode", ["class", "free"])
def test_a_checkpoint_of_a_model_with_tables_gives_the_same_networks(mode: Any, tmp_path: Path) -> None:
    model = made(Positions())
    space = nas.elastic(model, X, mode=mode)
    net = nas.Supernet(space, example=X, weights=model).eval()
    net.save(tmp_path / "net")
    again = nas.Supernet.load(tmp_path / "net", pickle.loads(pickle.dumps(space))).eval()
    arch = space.smallest
    assert torch.equal(again(X, arch), net(X, arch))
    torch.testing.assert_close(net.extract(arch)(X), net(X, arch))
    assert net.extract(arch).positions.shape == (5, net.extract(arch).up.weight.shape[0])


class Bare(Positions):
    """The same without a word of devices."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.up(x) + self.positions))  # type: ignore[no-any-return]


def test_tables_of_a_captured_graph_follow_the_device_of_its_parameters() -> None:
    model = made(Bare())
    space = nas.elastic(model, X, mode="free")
    narrow = nas.Supernet(space, weights=model).extract(space.smallest)
    assert narrow.to("meta")(X.to("meta")).shape == (2, 5, 2)
