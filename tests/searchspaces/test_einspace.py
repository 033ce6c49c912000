"""A grammar of networks: every derivation builds and runs, and known networks are among them."""

from __future__ import annotations

import itertools
import math
from random import Random
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import nas
from nas.errors import SpaceError
from nas.metrics import Metric
from nas.search import Finished
from searchspaces import einspace
from searchspaces.einspace import branch, convolution, function, linear, repeat, route, sequence


def images(samples: int = 2, side: int = 8, channels: int = 1) -> torch.Tensor:
    return torch.randn(samples, channels, side, side, generator=torch.Generator().manual_seed(0))


def body(derivation: einspace.Derivation, **settings: Any) -> nn.Module:
    """The module of a derivation without its classifier."""
    space = einspace.space(depth=max(einspace.depth_of(derivation), 1), widths=(4, 8, 9, 16, 32, 64), **settings)
    network = space.build(einspace.arch(space, derivation))
    assert isinstance(network, einspace.Network)
    return network.body.eval()


def linears(module: nn.Module) -> list[Any]:
    return [one for one in module.modules() if isinstance(one, (nn.Linear, nn.Conv2d))]


class TestEveryArch:
    @pytest.mark.parametrize(("side", "channels"), [(8, 1), (7, 3)])
    def test_builds_runs_and_learns(self, side: int, channels: int) -> None:
        space, rng = einspace.space(side=side, channels=channels, operations=60), Random(0)
        x = images(4, side, channels)
        archs = [space.sample(rng) for _ in range(60)]
        archs += [space.mutate(arch, rng) for arch in archs[:20]] + [space.regrow(arch, rng) for arch in archs]
        for arch in [*archs, space.largest, space.smallest]:
            net = space.build(arch)
            logits = net(x)
            assert logits.shape == (4, 10)
            assert torch.isfinite(logits).all(), einspace.shown(einspace.derivation(arch))
            functional.cross_entropy(logits, torch.arange(4)).backward()
            assert all(one.grad is not None for one in net.parameters()), "a layer that is not used was built"

    def test_keeps_to_the_limits_that_are_counted_as_torch_counts(self) -> None:
        space, rng = einspace.space(numbers=2_000, macs=30_000, operations=20), Random(1)
        largest: list[int] = []

        def look(module: nn.Module, args: Any, output: torch.Tensor) -> None:
            largest.append(output[0].numel())

        for arch in [space.sample(rng) for _ in range(40)]:
            net = space.build(arch)
            for one in net.modules():
                one.register_forward_hook(look)
            with FlopCounterMode(display=False) as counter:
                net(images(1))
            head = net.head.in_features * 10
            assert counter.get_total_flops() / 2 - head <= 30_000
        assert max(largest) <= 2_000

    def test_multiplications_are_counted_as_torch_counts(self) -> None:
        space, rng = einspace.space(depth=4), Random(2)
        for arch in [space.sample(rng) for _ in range(60)]:
            builder = einspace._Builder(einspace.Limits(10**9, 10**9, 10**9))
            module, shape = builder.build(einspace.derivation(arch), (1, 8, 8))
            with FlopCounterMode(display=False) as counter:
                assert module(images(1)).shape == (1, *shape)
            assert counter.get_total_flops() == 2 * builder.macs

    def test_is_written_and_read_back(self) -> None:
        space, rng = einspace.space(), Random(3)
        for arch in [space.sample(rng) for _ in range(50)]:
            assert einspace.arch(space, einspace.derivation(arch)) == arch


class TestWhatIsExpressed:
    def test_patches_a_linear_layer_and_an_image_are_a_convolution(self) -> None:
        for patches, (side, stride) in einspace.PATCHES.items():
            module = body(route(linear(4), patches, "image"), channels=3)
            layer = linears(module)[0]
            kernel = layer.weight.view(4, 3, side, side)
            x = images(2, 8, 3)
            expected = functional.conv2d(x, kernel, layer.bias, stride, side // 2 if side % 2 else 0)
            torch.testing.assert_close(module(x), expected)

    def test_branches_of_linear_layers_are_attention(self) -> None:
        logits = branch(linear(8), route(linear(8), after="swap"), "scaled matmul")
        attention = branch(sequence(logits, function("softmax")), linear(8), "matmul")
        module = body(sequence(route(function("identity"), "patches 2x2/2"), attention))
        q, k, v = linears(module)
        tokens = einspace.Patches(2, 2)(images())
        expected = functional.scaled_dot_product_attention(q(tokens), k(tokens), v(tokens))
        torch.testing.assert_close(module(images()), expected)

    def test_four_groups_of_channels_are_a_grouped_convolution(self) -> None:
        module = body(sequence(linear(16), repeat(route(linear(4), "patches 3x3", "image"), "concat", "group")))
        first, *groups = linears(module)
        kernel = torch.cat([one.weight.view(4, 4, 3, 3) for one in groups])
        bias = torch.cat([one.bias for one in groups])
        expected = functional.conv2d(first(images()), kernel, bias, padding=1, groups=4)
        torch.testing.assert_close(module(images()), expected)

    def test_a_layer_of_a_mixer_works_across_tokens(self) -> None:
        module = body(route(route(linear(16), "swap", "swap"), "patches 2x2/2"))
        tokens = einspace.Patches(2, 2)(images())
        expected = linears(module)[0](tokens.transpose(1, 2)).transpose(1, 2)
        torch.testing.assert_close(module(images()), expected)


class TestWhatDoesNotFit:
    def test_rearrangements_are_the_identity(self) -> None:
        torch.testing.assert_close(body(route(function("identity"), after="image"))(images()), images())
        twice = body(route(route(function("identity"), "patches 3x3"), "patches 3x3"))
        torch.testing.assert_close(twice(images()), einspace.Patches(3, 1)(images()))

    @pytest.mark.parametrize(
        "derivation",
        [
            branch(linear(4), linear(8), "add"),
            branch(linear(4), route(function("identity"), "patches 3x3"), "concat"),
            branch(linear(4), linear(8), "matmul"),
        ],
        ids=einspace.shown,
    )
    def test_a_join_gives_what_it_has_so_far(self, derivation: einspace.Derivation) -> None:
        module = body(derivation, side=7)
        assert len(linears(module)) == 1
        torch.testing.assert_close(module(images(2, 7)), linears(module)[0](images(2, 7)))

    def test_channels_that_cannot_be_cut_are_cloned(self) -> None:
        module = body(sequence(linear(9), branch(function("identity"), function("leaky relu"), "add", "group")))
        y = linears(module)[0](images())
        torch.testing.assert_close(module(images()), y + functional.leaky_relu(y))


class TestSeeds:
    def test_a_convolutional_network(self) -> None:
        space = einspace.space()
        net = space.build(einspace.cnn(space))
        kernels = [16 * 9 + 16, 32 * 16 * 9 + 32, 32 * 32 * 9 + 32]
        assert sum(one.numel() for one in net.parameters()) == sum(kernels) + 2 * (16 + 32 + 32) + 330
        assert einspace.shown(einspace.derivation(einspace.cnn(space))).startswith(
            "patches 3x3 < linear 16 > image ; norm"
        )

    def test_a_mixer(self) -> None:
        space = einspace.space()
        net = space.build(einspace.mixer(space))
        layers = [(4, 32), (16, 16), (32, 64), (64, 32)]
        assert [(one.in_features, one.out_features) for one in linears(net)[:-1]] == layers

    def test_too_deep_for_the_space_is_refused(self) -> None:
        with pytest.raises(SpaceError, match=r"has not; it is 4 productions deep: give space\(depth=…\) that"):
            einspace.cnn(einspace.space(depth=3))

    def test_begin_a_search_that_regrows(self) -> None:
        space = einspace.space()
        seeds = [einspace.cnn(space), einspace.mixer(space)]
        algorithm = nas.Given(seeds, then=nas.RegularizedEvolution(population=2, sample=2, regrow=1.0))
        algorithm.bind(space, [Metric("size", "min")])
        assert algorithm.ask(2) == seeds
        algorithm.tell([Finished(number, arch, (float(number),)) for number, arch in enumerate(seeds)])
        children = algorithm.ask(8)
        assert not set(children) & set(seeds)
        same = [sum(child.choices.get(name) == value for name, value in seeds[0].choices.items()) for child in children]
        assert max(same) > len(seeds[0].choices) // 2  # all but a subtree is the parent's


class TestSpace:
    def test_productions_share_their_children(self) -> None:
        sizes = [len(einspace.space(depth=depth).names) for depth in range(6)]
        assert sizes[0] == 3
        assert all(after == 7 + 2 * before for before, after in itertools.pairwise(sizes))

    def test_a_third_of_the_nodes_end(self) -> None:
        space, rng = einspace.space(), Random(0)
        kinds = [space.sample(rng).choices["tree.kind"] for _ in range(3000)]
        assert math.isclose(sum(kind in einspace.ENDS for kind in kinds) / 3000, 1 / 3, abs_tol=0.03)

    def test_size_of_a_small_grammar(self) -> None:
        # An end is one of 2 + 1; a node is an end, or one of 4 combinations of route with a node, or two nodes in a row.
        words = {
            "functions": ("identity", "norm"),
            "widths": (8,),
            "before": ("identity", "swap"),
            "after": ("identity", "swap"),
        }
        for depth, expected in ((0, 3), (1, 3 + 4 * 3 + 9), (2, 3 + 4 * 24 + 24 * 24)):
            space = einspace.space(depth=depth, productions=("function", "linear", "route", "sequence"), **words)
            assert space.size == expected

    def test_functional_duplicates_have_one_name(self) -> None:
        space, name = einspace.space(), nas.Function(nas.digits())
        nothing = sequence(function("identity"), route(function("identity"), "swap", "swap"))
        names = {
            name(einspace.arch(space, one))
            for one in (linear(16), sequence(linear(16), nothing), sequence(nothing, linear(16)))
        }
        assert len(names) == 1
        assert name(einspace.arch(space, sequence(linear(16), function("leaky relu")))) not in names

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"productions": ()},
                "a grammar of no productions can build nothing, since no derivation ends; add 'function' or 'linear'",
            ),
            (
                {"productions": ("route", "sequence")},
                "a grammar of route, sequence can build nothing, since no derivation ends",
            ),
            (
                {"widths": ()},
                "a grammar with 'linear' can build nothing of it without a width; give one, or leave 'linear' out",
            ),
            ({"joins": ()}, "a grammar with 'branch' can build nothing of it without a join"),
            (
                {"productions": ("linear", "sequense")},
                "einspace has no production 'sequense'; .*did you mean 'sequence'",
            ),
            ({"functions": ("relu",)}, "einspace has no function 'relu'; there are identity"),
            ({"widths": (0,)}, "einspace was given the width 0; it is a whole number, 1 or more"),
            ({"depth": -1}, "einspace was given depth=-1; it is a whole number, 0 or more"),
        ],
    )
    def test_a_grammar_that_builds_nothing_gets_one_sentence(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(SpaceError, match=message):
            einspace.space(**options)

    def test_a_sequence_of_nothing_is_refused(self) -> None:
        with pytest.raises(SpaceError, match="a sequence of no parts is no derivation"):
            sequence()

    def test_a_convolution_normalises_and_is_bent(self) -> None:
        assert einspace.shown(convolution(8)) == "patches 3x3 < linear 8 > image ; norm ; leaky relu"
