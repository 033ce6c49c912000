"""Layers that normalise and activate: known ones are graphs of the space, and every graph is a layer of every anchor."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nas
from nas.errors import SpaceError
from searchspaces import evonorm
from searchspaces.evonorm import EvoNorm, Node


def images(samples: int = 6, channels: int = 8, side: int = 5) -> Tensor:
    return torch.randn(samples, channels, side, side, generator=torch.Generator().manual_seed(0)) * 3 + 1


def layer(name: str, channels: int = 8) -> EvoNorm:
    """A known layer with distinct numbers in its vectors."""
    found = EvoNorm(evonorm.KNOWN[name], channels)
    draw = torch.Generator().manual_seed(1)
    for one in found.parameters():
        one.data = torch.rand(one.shape, generator=draw) + 0.5
    return found


def channelwise(vector: Tensor) -> Tensor:
    return vector.detach()[:, None, None]


class TestKnownLayers:
    def test_batch_norm_and_relu(self) -> None:
        ours, theirs, x = EvoNorm(evonorm.KNOWN["bn-relu"], 8), nn.BatchNorm2d(8), images()
        torch.testing.assert_close(ours(x), theirs(x).relu())

    def test_running_averages_take_the_place_of_the_batch(self) -> None:
        ours, theirs = EvoNorm(evonorm.KNOWN["bn-relu"], 8), nn.BatchNorm2d(8, momentum=evonorm.MOMENTUM)
        x = images()
        theirs.running_mean, theirs.running_var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        for _ in range(3):  # of one batch, they are its moments
            ours(x)
        ours.eval(), theirs.eval()
        other = images(2) * 2
        torch.testing.assert_close(ours(other), theirs(other).relu(), atol=1e-5, rtol=1e-4)

    def test_group_norm_and_relu(self) -> None:
        theirs = nn.GroupNorm(4, 8)
        torch.testing.assert_close(EvoNorm(evonorm.KNOWN["gn-relu"], 8)(images()), theirs(images()).relu())

    def test_evonorm_b0(self) -> None:
        ours, x = layer("evonorm-b0"), images()
        batch = x.var((0, 2, 3), unbiased=False, keepdim=True) + evonorm.EPSILON
        instance = x.var((2, 3), unbiased=False, keepdim=True) + evonorm.EPSILON
        v1, weight, bias = map(channelwise, (ours.v1, ours.weight, ours.bias))
        expected = x / torch.maximum(batch.sqrt(), v1 * x + instance.sqrt()) * weight + bias
        torch.testing.assert_close(ours(x), expected)

    def test_evonorm_s0(self) -> None:
        ours, x = layer("evonorm-s0"), images()
        grouped = x.reshape(6, 4, 2, 5, 5)
        variance = (grouped.var((2, 3, 4), unbiased=False, keepdim=True) + evonorm.EPSILON).expand_as(grouped)
        v1, weight, bias = map(channelwise, (ours.v1, ours.weight, ours.bias))
        expected = x * torch.sigmoid(v1 * x) / variance.reshape_as(x).sqrt() * weight + bias
        torch.testing.assert_close(ours(x), expected)

    def test_tokens_are_positions(self) -> None:
        ours, tokens = layer("gn-relu"), images()[:, :, :, 0].transpose(1, 2)  # (n, t, d)
        expected = ours(tokens.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)
        torch.testing.assert_close(ours(tokens), expected)

    def test_are_archs_that_are_padded_and_read_back(self) -> None:
        space = evonorm.space(nodes=8)
        for graph in evonorm.KNOWN.values():
            found = evonorm.graph_of(evonorm.arch_of(space, graph))
            assert len(found) == 8
            assert evonorm.shown(found) == evonorm.shown(graph)
        with pytest.raises(SpaceError, match="a graph of 6 nodes is outside space 'evonorm' of 4"):
            evonorm.arch_of(evonorm.space(nodes=4), evonorm.KNOWN["bn-relu"])

    def test_formula(self) -> None:
        assert evonorm.shown(evonorm.KNOWN["evonorm-s0"]) == "div(mul(x, sigmoid(mul(v1, x))), std hwg(x))"


class TestMoments:
    @pytest.mark.parametrize("axes", evonorm.AXES)
    @pytest.mark.parametrize("what", evonorm.MOMENTS)
    @pytest.mark.parametrize("shape", [(6, 8, 5, 5), (1, 8, 1, 1), (6, 1, 1, 1), (1, 1, 1, 1)])
    def test_of_what_is_alike_along_an_axis_are_those_of_the_whole(
        self, what: str, axes: str, shape: tuple[int, ...]
    ) -> None:
        """Nodes keep axes of one where nothing differs; a moment is that of the tensor they stand for."""
        small = torch.randn(shape, generator=torch.Generator().manual_seed(2))
        ours = EvoNorm((Node(f"{what} {axes}", "x"),), 8)

        def moment(x: Tensor) -> Tensor:
            return ours._moment(what, axes, x).expand(6, 8, 5, 5)

        torch.testing.assert_close(moment(small), moment(small.expand(6, 8, 5, 5)), atol=1e-6, rtol=1e-5)


class TestEveryGraph:
    @pytest.mark.parametrize("anchor", evonorm.ANCHORS)
    def test_is_a_layer_of_every_anchor(self, anchor: str) -> None:
        space, rng = evonorm.space(width=8), Random(0)
        x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        archs = [space.sample(rng) for _ in range(25)]
        archs += [space.regrow(arch, rng) for arch in archs]
        for arch in archs:
            net = evonorm.in_anchor(arch, anchor)
            assert net(x).shape == (4, 10)
            assert net.eval()(x).shape == (4, 10)
            assert any(isinstance(one, EvoNorm) for one in net.modules())

    def test_the_space_builds_its_anchor(self) -> None:
        space = evonorm.space(nodes=6, anchor="vit", width=8)
        arch = evonorm.arch_of(space, evonorm.KNOWN["gn-relu"])
        torch.manual_seed(0)
        one = space.build(arch)
        torch.manual_seed(0)
        other = evonorm.in_anchor(arch, "vit")
        x = torch.randn(2, 1, 8, 8)
        torch.testing.assert_close(one(x), other(x))

    def test_nodes_that_are_not_needed_are_not_computed(self) -> None:
        graph = (Node("mean bhw", "x"), Node("exp", "x"), Node("max", "x", "zero"))
        assert EvoNorm(graph, 8).live == (2,)
        assert "running_0" not in dict(EvoNorm(graph, 8).named_buffers())

    def test_an_output_without_x_has_its_shape(self) -> None:
        assert EvoNorm((Node("add", "v0", "v1"),), 8)(images()).shape == images().shape

    def test_regrowing_an_operation_draws_its_inputs_anew(self) -> None:
        """As published: one node's operation and inputs."""
        space, rng = evonorm.space(nodes=3), Random(0)
        arch = evonorm.arch_of(space, evonorm.KNOWN["relu"])
        changed = set()
        for _ in range(200):
            before, after = (evonorm.graph_of(one) for one in (arch, space.regrow(arch, rng)))
            different = [at for at in range(3) if before[at] != after[at]]
            assert len(different) == 1
            changed.add(sum(a != b for a, b in zip(before[different[0]], after[different[0]], strict=True)))
        assert changed == {1, 2, 3}

    def test_equal_functions_have_one_name(self) -> None:
        space, name = evonorm.space(nodes=4, width=8), nas.Function(nas.digits())

        def named(*nodes: Node) -> str:
            return name(evonorm.arch_of(space, nodes))

        relu = named(Node("max", "x", "zero"))
        assert relu == named(Node("neg", "zero"), Node("max", "n1", "x"))
        assert relu == named(Node("add", "x", "zero"), Node("max", "zero", "n1"))
        assert relu != named(Node("abs", "x"))
        # Moments of the batch are told from nothing although no batch was averaged yet.
        assert named(Node("mean bhw", "x"), Node("add", "x", "n1")) != named(Node("add", "x", "zero"))


class TestStability:
    def test_of_a_linear_layer_is_the_closed_form(self) -> None:
        """Beyond it the gradient climbs to its bound: what softmax says differs from the label by the root of two at most."""
        torch.manual_seed(0)
        net = nn.Linear(3, 2, bias=False)
        x, labels = torch.randn(5, 3), torch.zeros(5, dtype=torch.long)
        loss = functional.cross_entropy(net(x), labels)
        expected = torch.autograd.grad(loss, net.weight)[0].norm()
        assert evonorm.gradient_norm(net, x, labels, steps=0) == pytest.approx(float(expected), rel=1e-5)
        bound = float(2**0.5 * x.norm(dim=1).mean())
        climbed = evonorm.gradient_norm(net, x, labels, steps=200, rate=0.2)
        assert float(expected) < climbed <= bound * (1 + 1e-5)

    def test_normalised_networks_are_more_stable_and_networks_are_left_alone(self) -> None:
        space = evonorm.space(nodes=6, width=8)
        x, labels = torch.randn(32, 1, 8, 8), torch.arange(32) % 10
        found = {}
        for name in ("bn-relu", "relu"):
            torch.manual_seed(0)
            net = evonorm.in_anchor(evonorm.arch_of(space, evonorm.KNOWN[name]), "cnn")
            before = {key: one.clone() for key, one in net.state_dict().items()}
            found[name] = evonorm.gradient_norm(net, x, labels)
            assert all(torch.equal(one, before[key]) for key, one in net.state_dict().items())
        assert found["relu"] > 100 * found["bn-relu"]

    def test_what_has_no_finite_gradient_is_not_stable(self) -> None:
        net = nn.Sequential(nn.Linear(3, 2), EvoNormOf("exp", "exp"), EvoNormOf("exp", "exp"))
        net[0].weight.data.fill_(30.0)
        assert evonorm.gradient_norm(net, torch.ones(4, 3), torch.zeros(4, dtype=torch.long)) == math.inf


class EvoNormOf(nn.Module):
    """Operations on one input, one after the other, of (n, c)."""

    def __init__(self, *ops: str) -> None:
        super().__init__()
        nodes = [Node(op, f"n{at}" if at else "x") for at, op in enumerate(ops)]
        self.layer = EvoNorm(nodes, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x[:, None])[:, 0]
        return y


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: evonorm.space(nodes=0),
            "evonorm was given nodes=0; a graph that can build something has a whole number",
        ),
        (lambda: _built(anchor="resnet"), "anchor 'resnet' is not one of cnn, mobile, mixer, vit"),
        (lambda: _built(side=7), "an image of side 7 has no whole patches of 2 by 2; give an even side"),
    ],
)
def test_mistakes_get_one_sentence(call: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        call()


def _built(**settings: Any) -> Any:
    space = evonorm.space(nodes=2, **settings)
    return space.build(space.smallest)
