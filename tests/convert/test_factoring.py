"""Ranks of layers as decisions: which layers, what archs are, and that the model takes them."""

from __future__ import annotations

import pickle
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nas
from nas import elastic
from nas.compressing.uniform import uniform
from nas.convert.elastic import ElasticSpace, cost
from nas.convert.factoring import FACTORED
from nas.convert.plan import Plan
from nas.errors import SpaceError

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.wide, self.back = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.back(torch.relu(self.wide(self.norm(x))))  # type: ignore[no-any-return]


class Net(nn.Module):
    """A stem, two residual blocks, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Linear(8, 32), nn.ModuleList([Block(), Block()]), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)  # type: ignore[no-any-return]


def made(cls: Any = Net, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return cls().eval()


def supernet(model: nn.Module, x: Any = X, **options: Any) -> nas.Supernet:
    space = elastic(model, x, **{"rank": True, **options})
    return nas.Supernet(space, example=x, weights=model).eval()


def chosen(space: nas.Space, **ranks: int) -> nas.Arch:
    """The largest arch with other ranks; `__` is a dot."""
    return space.arch({**space.largest.choices, **{name.replace("__", "."): rank for name, rank in ranks.items()}})


@pytest.fixture(scope="module")
def net() -> nas.Supernet:
    return supernet(made())


def test_the_largest_network_is_the_model_itself(net):
    assert torch.equal(net(X, net.space.largest), made()(X))
    assert isinstance(net.extract(net.space.largest).stem, nn.Linear)


def test_a_rank_makes_two_ordinary_layers_that_approximate_the_weights_best(net):
    arch = net.space.arch({**net.space.largest.choices, "blocks[0].wide.rank": 6})
    layer = net.extract(arch).blocks[0].wide
    assert [type(each) for each in (layer, layer.down, layer.up)] == [nn.Sequential, nn.Linear, nn.Linear]
    weight = made().blocks[0].wide.weight
    error = (weight - layer.up.weight @ layer.down.weight).square().sum()
    assert torch.allclose(error, torch.linalg.svdvals(weight)[6:].square().sum(), rtol=1e-4)
    assert torch.equal(layer.up.bias, made().blocks[0].wide.bias)


def test_networks_cost_what_they_are_counted_with(net):
    for seed in range(6):
        arch = net.space.sample(random.Random(seed))
        module = net.extract(arch)
        assert torch.equal(module(X), net(X, arch))
        assert net.params(arch) == sum(one.numel() for one in module.parameters())
        assert cost(net.space, arch, X) == (net.params(arch), net.macs(arch))
    low = chosen(net.space, stem__rank=4)
    assert net.macs(net.space.largest) - net.macs(low) == 8 * 32 - 4 * (8 + 32)
    assert net.params(net.space.largest) - net.params(low) == 8 * 32 - 4 * (8 + 32)


def test_a_narrow_layer_is_two_only_where_that_saves_operations(net):
    space = net.space
    narrow = space.arch({**space.largest.choices, "width": 8, "blocks[0].hidden": 16, "blocks[0].wide.rank": 16})
    assert isinstance(net.extract(narrow).blocks[0].wide, nn.Linear)
    narrow = space.arch({**narrow.choices, "blocks[0].hidden": 64, "blocks[0].wide.rank": 6})
    layer = net.extract(narrow).blocks[0].wide
    assert (layer.down.weight.shape, layer.up.weight.shape) == ((6, 8), (64, 6))
    assert net.macs(space.smallest) <= min(net.macs(space.sample(random.Random(seed))) for seed in range(20))


def test_a_built_network_has_the_factors_of_the_models_weights(net):
    low = chosen(net.space, head__rank=4)
    assert torch.allclose(net.space.build(low).eval()(X), net(X, low))


def test_factors_follow_the_weights_that_a_supernet_is_given(net):
    other = made(seed=1)
    again = nas.Supernet(net.space, example=X, weights=other)
    low = chosen(net.space, stem__rank=5)
    layer = again.extract(low).stem
    assert torch.allclose((layer.up.weight @ layer.down.weight - other.stem.weight).square().sum(),
                          torch.linalg.svdvals(other.stem.weight)[5:].square().sum(), rtol=1e-4)  # fmt: skip


def test_ranks_of_what_is_left_out_are_not_asked(net):
    left = [arch for seed in range(20) if not (arch := net.space.sample(random.Random(seed))).choices["blocks[0].keep"]]
    assert left
    assert not any("blocks[0].wide.rank" in arch.choices for arch in left)


def test_plans_with_ranks_survive_files_and_other_processes(net, tmp_path):
    space = net.space
    assert isinstance(space, ElasticSpace)
    assert Plan.from_json(space.plan.to_json()).digest == space.plan.digest
    plain = elastic(made(), X)
    assert plain.fingerprint != space.fingerprint
    assert "factors" not in plain.plan.to_json()
    assert elastic(made(seed=3), X, rank=True).fingerprint == space.fingerprint
    arch = space.sample(random.Random(0))
    assert pickle.loads(pickle.dumps(space)).arch(arch.choices).key == arch.key
    net.save(tmp_path / "net")
    again = nas.Supernet.load(tmp_path / "net", space).eval()
    assert torch.equal(again(X, arch), net(X, arch))


def test_reordering_channels_leaves_ranks_in_the_order_of_their_singular_values():
    net = supernet(made())
    low = chosen(net.space, stem__rank=4)
    before = net(X, low)
    assert not any("rank" in axis.atom for axis in nas.reorder(net))
    assert torch.allclose(net(X, low), before, atol=1e-5)


def test_factors_learn_with_the_rest():
    net = supernet(made())
    low = chosen(net.space, stem__rank=4)
    before = net.extract(low)
    torch.nn.functional.cross_entropy(net.bind(low)(X), torch.arange(4)).backward()
    with torch.no_grad():
        for one in net.parameters():
            if one.grad is not None:
                one.sub_(0.1 * one.grad)
    after = net.extract(low)
    assert not torch.equal(after.stem.down.weight, before.stem.down.weight)
    assert not torch.equal(after.stem.up.bias, before.stem.up.bias)


def test_uniform_scaling_leaves_ranks_whole(net):
    half = uniform(net.space, 0.5)
    assert half.choices["stem.rank"] == 8
    assert half.choices["width"] == 16


# -- which layers


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.one, self.depthwise = nn.Conv2d(16, 32, 1, stride=2, bias=False), nn.Conv2d(32, 32, 1, groups=32)
        self.padded, self.head = nn.Conv2d(32, 16, 1, padding=1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(self.padded(self.depthwise(self.one(x))).mean((2, 3)))  # type: ignore[no-any-return]


def test_convolutions_with_kernels_of_one_pixel_are_linear_layers():
    x = torch.randn(2, 3, 8, 8)
    net = supernet(made(Convolutions), x)
    assert {row.name for row in net.space.report.rows if row.kind == "rank"} == {"one.rank", "head.rank"}
    assert torch.equal(net(x, net.space.largest), made(Convolutions)(x))
    low = chosen(net.space, one__rank=3)
    layer = net.extract(low).one
    assert (layer.down.stride, layer.down.weight.shape, layer.up.weight.shape) == ((2, 2), (3, 16, 1, 1), (32, 3, 1, 1))
    assert layer.up.bias is None
    assert net.macs(net.space.largest) - net.macs(low) == 16 * (16 * 32 - 3 * (16 + 32))
    assert torch.equal(net.extract(low)(x), net(x, low))


class Turned(nn.Module):
    """A linear layer of another library: its weight is (inputs, outputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


class Scaled(Turned):
    """Looks like one, and is not."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class Others(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.turned, self.square, self.scaled = Turned(8, 32), Turned(32, 32), Scaled(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(self.square(self.turned(x)))  # type: ignore[no-any-return]


def test_linear_layers_of_other_classes_are_known_by_what_they_compute():
    net = supernet(made(Others))
    assert {row.name for row in net.space.report.rows if row.kind == "rank"} == {"turned.rank", "square.rank"}
    low = chosen(net.space, square__rank=8)
    layer, weight = net.extract(low).square, made(Others).square.weight
    assert torch.allclose((layer.up.weight @ layer.down.weight - weight.T).square().sum(),
                          torch.linalg.svdvals(weight)[8:].square().sum(), rtol=1e-4)  # fmt: skip


class Hindered(nn.Module):
    """Layers that cannot be two, and one that can."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.tied, self.read = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.peeked, self.plain = nn.Linear(32, 32), nn.Linear(32, 32)
        self.same, self.hooked, self.kept = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.tied.weight = self.same.weight
        self.hooked.register_forward_hook(lambda *_: None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.same(self.tied(self.first(x)))
        x = functional.linear(x, self.read.weight)
        x = self.peeked(x) * (1.0 if isinstance(self.peeked, nn.Linear) else 2.0)
        x = self.kept(x) + self.kept.weight.sum()
        return self.plain(self.hooked(x))  # type: ignore[no-any-return]


def test_layers_that_cannot_be_two_stay_whole_and_the_report_says_why():
    report = elastic(made(Hindered), X, rank=True, exclude=["first"]).report
    assert [row.name for row in report.rows if row.kind == "rank"] == ["plain.rank"]
    notes = "\n".join(report.notes)
    for name, why in {
        "first": "it was to stay whole",
        "tied": "its weight is another layer's too",
        "read": "it is not called for the example",
        "hooked": "it has hooks",
        "peeked": "as two factors the output is off by",
        "kept": r"as two factors the model fails (AttributeError: 'Sequential' object has no attribute 'weight')",
    }.items():
        assert f"no rank is decided of '{name}'" in notes
        assert why in notes
    assert any(proof.what == FACTORED and proof.count > 1 for proof in report.proofs)


def test_ranks_alone_make_a_space():
    space = elastic(made(), X, rank=(4, 8), include=["blocks.0.wide"], depth=False)
    assert {d.name: d.candidates for d in space.decisions if "rank" in d.name} == {"blocks[0].wide.rank": (4, 8, 32)}


def test_blocks_share_ranks_where_their_layers_are_alike():
    space = elastic(made(), X, rank=True, share="block")
    ranks = {d.name for d in space.decisions if d.name.endswith("rank")}
    assert ranks == {"stem.rank", "blocks[:].wide.rank", "blocks[:].back.rank", "head.rank"}
    arch = space.arch({**space.largest.choices, "blocks[:].wide.rank": 6})
    module = nas.Supernet(space, example=X, weights=made()).extract(arch)
    assert [type(block.wide) for block in module.blocks] == [nn.Sequential] * 2


def test_ranks_are_numbers_or_shares_of_the_full_rank():
    space = elastic(made(), X, rank=(4, 0.25, 100.0 / 400, 31), include=["blocks.0.wide"], depth=False)
    assert space.decisions[-1].candidates == (4, 8, 32)  # 31 would take more operations than the layer
    space = elastic(made(), X, rank=True, granule=4, include=["blocks.0.wide"], depth=False)
    assert space.decisions[-1].candidates[-1] == 32


# -- bad input


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": (64,)}, "rank=64 is above the full rank of every layer of Net, at most 32"),
        ({"rank": (0,)}, "is True, or a sequence of ranks"),
        ({"rank": (2.5,)}, "is True, or a sequence of ranks"),
        ({"rank": ()}, "is True, or a sequence of ranks"),
        ({"rank": (True,)}, "rank"),
        ({"rank": "all"}, "rank"),
        ({"rank": (32,)}, "no layer of Net may be two factors: 'stem' is whole, since no such rank saves anything"),
        ({"rank": True, "mode": "free"}, "rank= puts layers in the place of others"),
    ],
)
def test_wrong_ranks_are_a_sentence(options, said):
    with pytest.raises(SpaceError, match=said):
        elastic(made(), X, **options)


def test_a_model_without_a_linear_layer_has_no_ranks():
    model = nn.Sequential(nn.Conv1d(2, 16, 3), nn.ReLU(), nn.Conv1d(16, 4, 3))
    with pytest.raises(SpaceError, match="Sequential has no linear layer and no convolution with kernels of one pixel"):
        elastic(model, torch.randn(2, 2, 12), rank=True)


def test_without_proofs_ranks_are_offered_all_the_same():
    space = elastic(made(), X, rank=True, check=False)
    assert "stem.rank" in {d.name for d in space.decisions}
    assert not space.report.proofs
