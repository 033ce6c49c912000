"""What comes after a conversion takes its supernets as any other: the conformance suite, training, deployment, order."""

from __future__ import annotations

import copy
import functools
import random

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nas
from nas.convert.elastic import ElasticSpace, elastic
from nas.deploy import ElasticModel
from nas.supernet import parts
from tests.conformance.supernet import SupernetConformance, fill_distinct


class Joined(nn.Module):
    """Two branches of other widths, joined twice, with statistics of what is joined, before an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(3, 24, 3, padding=1), nn.Conv1d(3, 16, 1)
        self.norm, self.mix = nn.BatchNorm1d(40), nn.Conv1d(40, 32, 1)
        self.lstm = nn.LSTM(32 + 24, 20, batch_first=True, bidirectional=True)
        self.head = nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        one = self.one(x)
        joined = self.norm(torch.cat([one, self.two(x)], 1)).relu()
        steps = torch.cat([self.mix(joined).relu(), one], 1).transpose(1, 2)
        return self.head(self.lstm(steps)[0])  # type: ignore[no-any-return]


class Block(nn.Module):
    """Grouped queries in one packed projection, and a gated unit."""

    def __init__(self, width: int, groups: int, per: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.groups, self.per, self.dim = groups, per, dim
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, groups * (per + 2) * dim)
        self.proj = nn.Linear(groups * per * dim, width)
        self.up, self.down = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.groups * self.per
        sizes = [heads * self.dim, self.groups * self.dim, self.groups * self.dim]
        q, k, v = (one.unflatten(-1, (-1, self.dim)).transpose(1, 2) for one in self.qkv(self.norm(x)).split(sizes, -1))
        k, v = (one.repeat_interleave(self.per, 1) for one in (k, v))
        x = x + self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        gate, up = self.up(x).chunk(2, -1)
        return x + self.down(gate.sigmoid() * up)


class Tokens(nn.Module):
    """Two blocks, and output weights tied to the input's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(17, 24)
        self.blocks = nn.ModuleList([Block(24, 4, 2, 4, 20) for _ in range(2)])
        self.head = nn.Linear(24, 17, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)  # type: ignore[no-any-return]


@functools.cache
def joined() -> ElasticSpace:
    torch.manual_seed(0)
    return elastic(Joined().eval(), torch.randn(2, 3, 6), width=(0.4, 1.0), granule=4, check=False)


@functools.cache
def tokens() -> ElasticSpace:
    torch.manual_seed(0)
    return elastic(Tokens().eval(), torch.randint(17, (2, 5)), granule=4, check=False)


@functools.cache
def replaced() -> ElasticSpace:
    """With layers that are two factors, and linear maps in the place of blocks."""
    torch.manual_seed(0)
    model, example = Tokens().eval(), torch.randint(17, (2, 5))
    return elastic(model, example, granule=4, rank=True, linear=True, check=False)


class Converted(SupernetConformance):
    """Which indices a subnet has follows from the plan alone."""

    def space(self) -> ElasticSpace:
        raise NotImplementedError

    def make(self):
        return nas.Supernet(self.space())

    def expected(self, name, state, shape):
        whole, module = state[name], self.space().build(self.arch)
        for dim, axis in enumerate(parts.axes_of(module).get(name, ())):
            whole = whole.index_select(dim, parts.indices(axis, self.space().plan.whole, parts.sizes_of(module)))
        return whole


class TestJoined(Converted):
    def space(self):
        return joined()

    def inputs(self, samples):
        return torch.randn(samples, 3, 6, generator=torch.Generator().manual_seed(0))


class TestTokens(Converted):
    exact = False  # attention has a fused fast path whose order of summation depends on strides

    def space(self):
        return tokens()

    def inputs(self, samples):
        return torch.randint(17, (samples, 5), generator=torch.Generator().manual_seed(0))


class TestReplaced(TestTokens):
    def space(self):
        return replaced()

    def make(self):
        net = super().make()
        nas.fit_linear(net, batches=[self.inputs(20)])
        return net


@pytest.fixture(scope="module")
def net():
    """A supernet of joined branches with statistics, and inputs."""
    net = nas.Supernet(joined(), example=torch.zeros(2, 3, 6))
    fill_distinct(net)
    return net


X = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(1))


def archs(space, count=3):
    rng = random.Random(0)
    return [space.smallest, *(space.sample(rng) for _ in range(count))]


def test_statistics_are_those_of_a_network_trained_alone(net):
    net.train()
    for arch in archs(net.space):
        module = net.extract(arch).train()
        module(X)
        net.bind(arch)(X)
        assert torch.equal(net.extract(arch).norm.running_var, module.norm.running_var)
    net.eval()


def test_a_front_of_it_is_deployed(net):
    chosen = archs(net.space)
    model = ElasticModel(net, [(arch, {"accuracy": 0.5}) for arch in chosen], calibration=[X, X + 1])
    for arch in chosen:
        model.switch_to(arch)
        assert torch.equal(model(X), model.extract()(X))


@pytest.mark.filterwarnings("ignore:importance by 'mean_activation' knows nothing of 'lstm.hidden'")
@pytest.mark.parametrize("make", [joined, tokens])
def test_units_in_order_of_their_activations_change_nothing_but_which_come_first(make):
    example = torch.zeros(2, 3, 6) if make is joined else torch.zeros(2, 5, dtype=torch.int64)
    net = nas.Supernet(make(), example=example).eval()
    draw = torch.Generator().manual_seed(2)
    inputs = X if make is joined else torch.randint(17, (4, 5), generator=draw)
    others = [inputs.flip(0), inputs.roll(1, 1)]
    before, by_weight = net(inputs, net.space.largest).detach(), copy.deepcopy(net.state_dict())
    orders = nas.reorder(net, batches=[inputs, *others])
    after = net(inputs, net.space.largest).detach()
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(order, order.sort().values) for order in orders.values())
    net.load_state_dict(by_weight)
    assert any(not torch.equal(order, orders[axis]) for axis, order in nas.reorder(net).items())


def test_the_order_by_activations_is_that_of_what_a_layer_gives():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 3)).eval()
    net = nas.Supernet(elastic(model, X[0, :, :4]), example=X[0, :, :4], weights=model)
    with torch.no_grad():
        expected = model[0](X[:, 0, :4]).abs().mean(0).argsort(descending=True, stable=True)
    (order,) = nas.reorder(net, batches=[X[:, 0, :4]]).values()
    assert torch.equal(order, expected)
    small = net.extract(net.space.smallest)
    assert torch.equal(small[0].weight, model[0].weight[expected[: len(small[0].weight)]])


def test_its_units_are_put_in_order_and_trained_archs_keep_theirs(net):
    chosen = [net.space.largest, *archs(net.space)]
    before = [net(X, arch).detach() for arch in chosen]
    orders = nas.reorder(net, trained=chosen[1:2])
    assert any(not torch.equal(order, order.sort().values) for order in orders.values())
    for arch, expected in list(zip(chosen, before, strict=True))[:2]:
        torch.testing.assert_close(net(X, arch), expected, rtol=1e-4, atol=1e-5)
    assert not all(torch.allclose(net(X, arch), expected) for arch, expected in zip(chosen, before, strict=True))
