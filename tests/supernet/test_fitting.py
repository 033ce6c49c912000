"""Linear maps in the place of blocks: beside least squares, and refused before they are fitted."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nas
from nas.convert.elastic import ElasticSpace
from nas.convert.plan import Plan
from nas.errors import SpaceError, SupernetError
from nas.train.dropping import Mapped


class Block(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm, self.wide, self.back = nn.LayerNorm(width), nn.Linear(width, 48), nn.Linear(48, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.back(torch.relu(self.wide(self.norm(x))))  # type: ignore[no-any-return]


class Outer(nn.Module):
    """A block of two, which gives a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Block(), Block()
        self.mix = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.two(self.one(x))
        return x + self.mix(x), x


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks, self.outer, self.head = (
            nn.Linear(24, 16),
            nn.ModuleList([Block(), Block()]),
            Outer(),
            nn.Linear(16, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.outer(x)[0])  # type: ignore[no-any-return]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(torch.relu(self.norm(self.first(x))))  # type: ignore[no-any-return]


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 8, 3), Residual(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)).mean((2, 3)))  # type: ignore[no-any-return]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


X = drawn(4, 5, 24)
BATCHES = [drawn(16, 5, 24, seed=1), drawn(16, 5, 24, seed=2)]


def made(model: Any = Net, x: Tensor = X, **options: Any) -> tuple[Any, nas.Supernet]:
    torch.manual_seed(0)
    net = model().eval()
    space = nas.elastic(net, x, **{"linear": True, "granule": 4, **options})
    return net, nas.Supernet(space, example=x, weights=net).eval()


def mapped(space: nas.Space, *names: str) -> nas.Arch:
    assert isinstance(space, ElasticSpace)
    return space._with({f"{name}.keep": "linear" for name in names})


def least_squares(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float]:
    rows = torch.cat([x, torch.ones(len(x), 1)], dim=1).double()
    found = torch.linalg.lstsq(rows, y.double()).solution
    left = (rows @ found - y).square().sum() / (y.double() - y.double().mean(0)).square().sum()
    return found[:-1].T, found[-1], float(left)


@torch.no_grad()
def test_maps_are_those_of_least_squares():
    model, net = made()
    errors = nas.fit_linear(net, batches=BATCHES, ridge=0.0)
    x = model.stem(torch.cat(BATCHES))
    weight, bias, left = least_squares(x.flatten(0, 1), model.blocks[0](x).flatten(0, 1))
    layer = net.extract(mapped(net.space, "blocks[0]")).blocks[0]
    assert isinstance(layer, Mapped)
    assert type(layer.linear_map) is nn.Linear
    assert torch.allclose(layer.linear_map.weight.double(), weight, atol=1e-5)
    assert torch.allclose(layer.linear_map.bias.double(), bias, atol=1e-5)
    assert errors["blocks.0"] == pytest.approx(left, rel=1e-4)
    assert set(errors) == {"blocks.0", "blocks.1", "outer", "outer.one", "outer.two"}


@torch.no_grad()
def test_of_images_the_channels_are_mapped():
    x = drawn(4, 3, 8, 8)
    model, net = made(Images, x)
    errors = nas.fit_linear(net, batches=[x, drawn(4, 3, 8, 8, seed=3)], ridge=0.0)
    given = model.stem(torch.cat([x, drawn(4, 3, 8, 8, seed=3)]))
    weight, _, left = least_squares(*(one.movedim(1, -1).flatten(0, 2) for one in (given, model.block(given))))
    arch = mapped(net.space, "block")
    layer = net.extract(arch).block.linear_map
    assert isinstance(layer, nn.Conv2d)
    assert torch.allclose(layer.weight.flatten(1).double(), weight, atol=1e-5)
    assert errors["block"] == pytest.approx(left, rel=1e-4)
    assert net.macs(net.space.largest) - net.macs(arch) == 36 * (8 * 8 * 9 + 8 * 8 - 8 * 8)


@torch.no_grad()
def test_directions_that_no_input_has_are_left_as_they_are():
    model, net = made()
    model.stem.weight[8:] = 0.0
    net = nas.Supernet(net.space, example=X, weights=model).eval()
    nas.fit_linear(net, batches=BATCHES, ridge=0.0)
    weight = net.extract(mapped(net.space, "blocks[0]")).blocks[0].linear_map.weight
    assert torch.allclose(weight[:, 8:], torch.eye(16)[:, 8:], atol=1e-5)
    assert weight.abs().max() < 10


def test_a_large_ridge_leaves_the_identity():
    _, net = made()
    errors = nas.fit_linear(net, batches=BATCHES, ridge=1e9)
    layer = net.extract(mapped(net.space, "blocks[0]")).blocks[0]
    assert torch.allclose(layer.linear_map.weight, torch.eye(16), atol=1e-4)
    assert errors["blocks.0"] > nas.fit_linear(net, batches=BATCHES)["blocks.0"]


def test_fitting_twice_gives_the_same():
    _, net = made()
    assert nas.fit_linear(net, batches=BATCHES) == nas.fit_linear(net, batches=iter(BATCHES))


def test_networks_with_a_map_that_was_never_fitted_are_refused():
    _, net = made()
    arch = mapped(net.space, "blocks[1]")
    for use in (net.bind, net.extract, lambda arch: net(X, arch)):
        with pytest.raises(
            SupernetError, match=r"the linear map in the place of 'blocks.1' was never fitted.*fit_linear"
        ):
            use(arch)
    assert net.macs(arch) < net.macs(net.space.largest)
    assert net.params(arch) < net.params(net.space.largest)
    nas.fit_linear(net, batches=BATCHES)
    assert torch.equal(net.extract(arch)(X), net(X, arch))


def test_what_gives_a_tuple_still_does():
    _, net = made()
    nas.fit_linear(net, batches=BATCHES)
    outer = net.extract(mapped(net.space, "outer")).outer
    assert len(outer(torch.zeros(2, 16))) == 2
    assert torch.equal(net(X, mapped(net.space, "outer.one")), net.extract(mapped(net.space, "outer.one"))(X))


def test_every_arch_is_an_ordinary_module(tmp_path):
    model, net = made(rank=True)
    nas.fit_linear(net, task=None, batches=BATCHES)
    seen = set()
    net.save(tmp_path / "net")
    again = nas.Supernet.load(tmp_path / "net", net.space).eval()
    for seed in range(12):
        arch = net.space.sample(random.Random(seed))
        module = net.extract(arch)
        assert torch.equal(module(X), net(X, arch))
        assert torch.equal(again(X, arch), net(X, arch))
        assert net.params(arch) == sum(one.numel() for one in module.parameters())
        seen |= {value for value in arch.choices.values() if isinstance(value, str)}
    assert seen == {"linear"}
    assert torch.equal(net(X, net.space.largest), model(X))
    plan = net.space.plan  # type: ignore[attr-defined]
    assert Plan.from_json(plan.to_json()).digest == plan.digest


def test_reordering_channels_reorders_maps():
    _, net = made()
    nas.fit_linear(net, batches=BATCHES)
    arch = mapped(net.space, "blocks[0]", "outer")
    before = net(X, arch)
    orders = nas.reorder(net)
    assert any(not torch.equal(order, torch.arange(len(order))) for order in orders.values())
    assert torch.allclose(net(X, arch), before, atol=1e-5)


def test_spaces_with_maps_are_others_and_leave_those_without_as_they_were():
    _, net = made()
    plain = nas.elastic(Net().eval(), X, granule=4)
    assert plain.fingerprint != net.space.fingerprint
    assert {d.name for d in plain.decisions} == {d.name for d in net.space.decisions}
    assert all(len(unit) == 2 for unit in plain.plan.to_json()["units"])  # type: ignore[attr-defined]
    assert net.space.smallest.choices["blocks[0].keep"] is False


def test_ordered_depth_has_no_maps():
    _, net = made()
    nas.fit_linear(net, batches=BATCHES)
    space = nas.order_depth(net, loss=lambda network: network(X).square().mean())
    assert any("any more" in note for note in space.report.notes)
    assert isinstance(nas.Supernet(space, example=X), nas.Supernet)


# -- bad input


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"batches": [drawn(3, 5, 24)]}, "15 rows are too few to fit a map of the 16 features of"),
        ({"batches": [drawn(3, 5, 9)]}, "batch 0 of the calibration does not fit the model"),
        ({"batches": []}, "got no batch"),
        ({}, "give either batches=, inputs of the model, or task="),
        ({"batches": BATCHES, "ridge": -1.0}, "ridge"),
    ],
)
def test_data_that_do_not_fit_are_a_sentence_and_nothing_is_changed(data, said):
    _, net = made()
    before = {name: one.clone() for name, one in net.named_parameters()}
    with pytest.raises(SupernetError, match=said):
        nas.fit_linear(net, **data)
    assert all(torch.equal(one, before[name]) for name, one in net.named_parameters())


def test_spaces_without_maps_have_nothing_to_fit():
    _, net = made(linear=False)
    with pytest.raises(SupernetError, match="no linear map may take the place of a block of space 'Net'"):
        nas.fit_linear(net, batches=BATCHES)


class Growing(nn.Module):
    """No block gives what it gets: of each the width changes."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(24, 16), nn.Linear(16, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (Growing, {}, "Growing has no block that can be left out, whose place a linear map could take"),
        (Net, {"depth": False}, "Net has no block that can be left out"),
        (Net, {"mode": "free"}, "linear= puts layers in the place of others"),
        (Net, {"linear": "yes"}, "linear"),
    ],
)
def test_what_no_map_can_stand_for_is_a_sentence(model, options, said):
    with pytest.raises(SpaceError, match=said):
        nas.elastic(model().eval(), X, **{"linear": True, **options})


class Named(Block):
    def __init__(self) -> None:
        super().__init__()
        self.linear_map = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_map(x) + super().forward(x)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.named, self.block = nn.Linear(24, 16), Named(), Block()
        self.thin = Thin()

    def forward(self, x: Tensor) -> Tensor:
        return self.thin(self.block(self.named(self.stem(x))))  # type: ignore[no-any-return]


class Thin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(16, 4), nn.Linear(4, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(torch.relu(self.down(x)))  # type: ignore[no-any-return]


def test_the_report_says_which_blocks_have_no_map_and_why():
    notes = "\n".join(nas.elastic(Small().eval(), X, linear=True).report.notes)
    assert "a linear map may take the place of block;" in notes
    assert "no linear map takes the place of thin: a map of 16 features has no fewer weights than it" in notes
