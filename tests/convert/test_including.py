"""Automatic spaces of larger models have the archs of smaller ones, and supernets grow into them."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nas
from nas.convert.elastic import ElasticSpace
from nas.errors import SpaceError, SupernetError
from nas.supernet import Supernet
from nas.supernet.growing import home
from tests.conformance.supernet import fill_distinct

torch.set_num_threads(1)
EXAMPLE = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * 4 * heads), nn.Linear(4 * heads, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, 4)).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
        x = x + self.out(y.transpose(1, 2).flatten(2))
        found: Tensor = x + self.down(torch.relu(self.up(self.second(x))))
        return found


class Net(nn.Module):
    """(n, t, 8) to (n, 3)."""

    def __init__(self, width: int = 16, heads: int = 2, hidden: int = 24, depth: int = 2) -> None:
        super().__init__()
        self.first = nn.Linear(8, width)
        self.blocks = nn.Sequential(*(Block(width, heads, hidden) for _ in range(depth)))
        self.last = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.blocks(self.first(x)).mean(1))
        return found


def spaces(larger: dict[str, int], **options: Any) -> tuple[nn.Module, ElasticSpace, ElasticSpace]:
    small = Net()
    fill_distinct(small)
    small.eval()
    made = [nas.elastic(one, EXAMPLE, granule=4, **options) for one in (small, Net(**larger).eval())]
    return small, made[0], made[1]


def assert_grown(small: nn.Module, net: Supernet, grown: Supernet) -> None:
    net.eval()
    grown.eval()
    draw = random.Random(0)
    with torch.no_grad():
        assert torch.allclose(grown(EXAMPLE, grown.space.largest), small(EXAMPLE), atol=1e-5)
        for arch in [net.space.largest, net.space.smallest, *(net.space.sample(draw) for _ in range(5))]:
            assert torch.equal(grown(EXAMPLE, home(grown.space, arch)), net(EXAMPLE, arch))


@pytest.mark.parametrize(
    "larger",
    [{"hidden": 40}, {"heads": 3}, {"depth": 3}, {"width": 32}, {"width": 32, "heads": 4, "hidden": 36, "depth": 4}],
    ids=str,
)
def test_a_supernet_grows_into_the_space_of_a_larger_model(larger: dict[str, int]) -> None:
    small, old, new = spaces(larger)
    net = Supernet(old, example=EXAMPLE, weights=small)
    grown = nas.grow(net, new)
    assert_grown(small, net, grown)
    assert grown.is_checked
    now = {one.name: set(one.candidates) for one in grown.space.decisions}
    for one in (*old.decisions, *new.decisions):
        assert set(one.candidates) <= now[one.name]


def test_ranks_grow() -> None:
    small, old, new = spaces({"hidden": 40, "depth": 3}, rank=True)
    net = Supernet(old, example=EXAMPLE, weights=small)
    assert_grown(small, net, nas.grow(net, new))


def test_linear_maps_grow_fitted_or_not() -> None:
    small, old, new = spaces({"width": 32}, linear=True)
    net = Supernet(old, example=EXAMPLE, weights=small)
    nas.grow(net, new)
    nas.fit_linear(net, batches=[torch.randn(64, 5, 8) for _ in range(4)])
    assert_grown(small, net, nas.grow(net, new))


def test_what_was_not_decided_is_what_it_was() -> None:
    small, _, new = spaces({"hidden": 32})
    old = nas.elastic(small, EXAMPLE, granule=4, exclude=["blocks.0.*"])
    assert "blocks[0].hidden" not in old.names
    grown = nas.grow(Supernet(old, example=EXAMPLE, weights=small), new)
    assert home(grown.space, old.largest).choices["blocks[0].hidden"] == 24


def test_rows_are_followed_by_copies_and_through_several_growths() -> None:
    _, old, middle = spaces({"hidden": 32})
    wide = middle.including(old)
    last = nas.elastic(Net(hidden=40, depth=3).eval(), EXAMPLE, granule=4).including(wide)
    for space in (wide, last, pickle.loads(pickle.dumps(last))):
        found = space.from_row(old.largest.row(), old.schema()).choices
        assert {name: found[name] for name in old.largest.choices} == old.largest.choices
    with pytest.raises(SpaceError):
        middle.from_row(old.largest.row(), old.schema())


def test_a_study_goes_on_in_the_larger_space(tmp_path: Path) -> None:
    _, old, new = spaces({"depth": 3})
    asked: list[str] = []

    @nas.evaluator
    def size(arch: nas.Arch) -> dict[str, float]:
        asked.append(arch.key)
        return {"size": float(sum(value for value in arch.choices.values() if not isinstance(value, bool)))}

    def study(space: nas.Space, trials: int) -> nas.Study:
        made = nas.Study(
            "s",
            space=space,
            objectives=["min size"],
            evaluators=[size],
            store=tmp_path / "a.db",
            algorithm="random",
            trials=trials,
        )
        made.run(workers=0, progress=False)
        return made

    study(old, 5)
    grown = study(new.including(old), 8)
    assert len(asked) == 8
    assert len({grown.arch(number).key for number in range(8)}) == 8
    assert all(grown.arch(number).choices["blocks[2].keep"] is False for number in range(5))


def test_another_class_or_another_model_is_not_contained() -> None:
    small, old, new = spaces({"depth": 3})
    net = Supernet(old, example=EXAMPLE, weights=small)
    other = nas.elastic(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)), EXAMPLE)
    with pytest.raises(SupernetError, match="is of a Sequential and does not contain one of a Net"):
        nas.grow(net, other)
    with pytest.raises(SupernetError, match=r"is no arch of space 'Net'|was 16, which is no candidate here"):
        nas.grow(net, nas.elastic(Net(width=12).eval(), EXAMPLE, granule=4))
    assert new.including(nas.Space(nas.model(Net)(width=16))) is new


def test_depths_in_another_order_are_refused() -> None:
    small, old, new = spaces({"depth": 3})
    ordered = []
    for space, draw in ((old, 1), (new, 3)):
        net = Supernet(space, example=EXAMPLE, seed=draw)
        ordered.append(nas.order_depth(net, loss=lambda network: network(EXAMPLE).square().mean()))
    expected = ordered[1].plan.depths[0].order[:2] == ordered[0].plan.depths[0].order
    net = Supernet(ordered[0], example=EXAMPLE, weights=small)
    if expected:
        assert_grown(small, net, nas.grow(net, ordered[1]))
    else:
        with pytest.raises(SupernetError, match="leaves out other blocks of 'blocks.depth' first"):
            nas.grow(net, ordered[1])
    with pytest.raises(SupernetError, match="leaves out other blocks of 'blocks.depth' first"):
        nas.grow(net, new)
