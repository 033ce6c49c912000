"""Stitchable networks: the published counts, paths that are their anchors, least squares, low-rank updates."""

from __future__ import annotations

import itertools
import pickle
import random
from collections import Counter

import numpy as np
import pyglove as pg
import pytest
import torch
from torch import nn

import nas
from nas.errors import SpaceError, SupernetError
from searchspaces import conv, stitch, vit
from searchspaces.stitching_plan import SNNet, SNNetV2, join, nearest, paired, parse, unpaired
from tests.conformance.supernet import SupernetConformance, corner, fill_distinct


def small_vit(width, depth=4):
    return vit.vit(width=width, depth=depth, heads=[2] * depth, ratios=[2] * depth, head=8)


def small_conv(width, depth=3):
    return conv.conv_net(
        widths=[width, width + 4], depths=[depth, depth], kernels=[[3] * depth] * 2, ratios=[[2] * depth] * 2, stem=8
    )


def images(samples=3):
    return torch.randn(samples, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Skipping(nn.Module):
    """The output of every block is added at the end."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])

    def forward(self, x):
        total = x
        for block in self.blocks:
            x = block(x)
            total = total + x
        return total


class Shared(nn.Module):
    """Blocks that take a second argument, computed from the inputs; a tensor made in forward; a buffer."""

    def __init__(self, width):
        super().__init__()
        self.embed = nn.Linear(64, width)
        self.gate = nn.Linear(64, 1)
        self.layers = nn.ModuleList([nn.Bilinear(width, 1, width) for _ in range(4)])
        self.register_buffer("shift", torch.full((1,), float(width)))
        self.head = nn.Linear(width, 10)

    def forward(self, images, scale=1.0):
        x = images.flatten(1)
        gate = self.gate(x) * torch.tensor([2.0])
        h = self.embed(x) + self.shift
        for layer in self.layers:
            h = h + layer(h, gate)
        return self.head(h) * scale


# -- which paths there are


@pytest.mark.parametrize(
    ("depth", "window", "step", "pairs", "layers"),
    [(12, 1, 1, 12, 12), (12, 2, 1, 34, 11), (12, 2, 2, 24, 6), (12, 3, 1, 54, 10), (12, 3, 3, 36, 4), (12, 4, 4, 48, 3),
     (6, 2, 1, 16, 5), (4, 2, 1, 10, 3)],
)  # fmt: skip
def test_paired_stitching_has_the_published_counts(depth, window, step, pairs, layers):
    found = paired(depth, window, step)
    assert len(found) == len({pair[:2] for pair in found}) == pairs
    assert {layer for _, _, layer in found} == set(range(layers))


def test_published_numbers_of_configurations():
    assert len(SNNet().plan([[12], [12], [12]]).routes) == 71
    swin = SNNet().plan([[2, 2, 6, 2], [2, 2, 18, 2], [2, 2, 18, 2]])
    assert len(swin.routes) == 41
    assert len([layer for layer in swin.layers if layer.startswith("0to1")]) == 1 + 1 + 6
    two_way = SNNetV2().plan([[12], [24]])
    assert len(two_way.routes) == len(set(two_way.routes)) == 134
    assert len([r for r in two_way.routes if r.count(">") == 2]) == 110
    assert len(SNNet().plan([[12], [12]]).routes) == 2 + 34
    assert len(SNNet().plan([[12]] * 4).routes) == 4 + 3 * 34


def test_chains_are_those_a_slow_count_finds():
    plan = SNNet(nearest=False, longest=4).plan([[3]] * 4)
    pairs = [pair[:2] for pair in paired(3)]
    count = 4
    for anchors in range(2, 5):
        for _ in itertools.combinations(range(4), anchors):
            for hops in itertools.product(pairs, repeat=anchors - 1):
                count += all(right[0] >= left[1] for left, right in itertools.pairwise(hops))
    assert len(plan.routes) == len(set(plan.routes)) == count
    three = SNNet(nearest=False).plan([[3]] * 4)
    assert max(route.count(">") for route in three.routes) == 2
    assert set(three.routes) < set(plan.routes)


def test_unequal_depths_meet_at_the_nearest_block():
    assert nearest(2, 6) == [0, 0, 0, 1, 1, 1]
    assert unpaired(2, 6) == [(0, 1, 0), (0, 2, 0), (1, 3, 1), (1, 4, 1), (1, 5, 1)]
    assert unpaired(6, 2) == [(0, 1, 0), (1, 1, 0), (2, 1, 0)]


def test_two_way_stitches_have_a_layer_each_way():
    plan = SNNetV2().plan([[4], [4]])
    assert plan.stitches["0:1>1:2"] == "0to1_1"
    assert plan.stitches["1:1>0:2"] == "1to0_1"
    assert "0:0>1:1:1>0:2" in plan.routes
    assert SNNetV2().plan([[2], [6]]).routes[:3] == ["0", "1", "0:0>1:3"]


@pytest.mark.parametrize("route", ["0:1>1:2", "1:0>0:2:3>1:3", "0:2>1:2:2>2:2"])
def test_routes_read_as_they_are_written(route):
    assert join(parse(route)) == route


@pytest.mark.parametrize("route", ["", "a", "0:1", "0>1:2", "0:1>1:2:1>2:3", "0:-1>1:2", "0:1>1:2:3"])
def test_what_is_no_route_is_refused(route):
    with pytest.raises(SpaceError, match="is no route"):
        parse(route)


# -- as supernets


class Stitched(SupernetConformance):
    def inputs(self, samples):
        return images(samples)

    @pytest.fixture
    def random_archs(self, net):
        routes = [route for route in net.space.value.sym_getattr("route").candidates if ">" in route]
        chosen = routes[:: max(1, len(routes) // 3)]
        return [net.space.arch({"route": route}) for route in ["0", *chosen[:3]]]


class TestStitchedTransformers(Stitched):
    def make(self):
        return stitch.supernet(stitch.space([small_vit(16), small_vit(24), small_vit(32)], example=images(1)))


class TestStitchedStages(Stitched):
    def make(self):
        anchors = [small_conv(8), small_conv(12)]
        plan = SNNet(last_stage=True)
        return stitch.supernet(stitch.space(anchors, blocks="stages.*", example=images(1), plan=plan))


class TestTwoWayLowRank(Stitched):
    def make(self):
        anchors = [small_vit(16, 3), small_vit(24, 6)]
        return stitch.supernet(stitch.space(anchors, example=images(1), plan=SNNetV2(), rank=4))


def elastic_vit(widths, depth=3):
    """Width, and the heads of each block."""
    heads = [pg.oneof([1, 2]) for _ in range(depth)]
    return vit.vit(width=pg.oneof(widths), depth=depth, heads=heads, ratios=[2] * depth, head=8)


ELASTIC = {
    "route": "0:0>1:1",
    "anchors[0].width": 16, "anchors[0].heads[0]": 1, "anchors[0].heads[1]": 2, "anchors[0].heads[2]": 2,
    "anchors[1].width": 28, "anchors[1].heads[0]": 2, "anchors[1].heads[1]": 2, "anchors[1].heads[2]": 1,
}  # fmt: skip


class TestElasticAnchors(Stitched):
    """Anchors that have decisions of their own: one space, one supernet."""

    def make(self):
        anchors = [elastic_vit([16, 20]), elastic_vit([24, 28])]
        return stitch.supernet(stitch.space(anchors, example=images(1)), layouts=self.layouts(None))

    def layouts(self, net):
        """The anchors' own: heads lie within each of queries, keys and values."""
        return {
            "*.qkv.weight": nas.Layout("(qkv heads dim) in", qkv=3, dim=8),
            "*.qkv.bias": nas.Layout("(qkv heads dim)", qkv=3, dim=8),
        }

    def expected(self, name, state, shape):
        if ".qkv." not in name:
            return corner(state[name], shape)
        return torch.cat([corner(each, (shape[0] // 3, *shape[1:])) for each in state[name].chunk(3)])

    @pytest.fixture(scope="class")
    @classmethod
    def archs(cls, net):
        rng = random.Random(0)
        return [
            net.space.largest,
            net.space.smallest,
            net.space.arch(ELASTIC),
            *(net.space.sample(rng) for _ in range(4)),
        ]

    @pytest.fixture
    def random_archs(self, net):
        return list(net.space.neighbours(net.space.arch(ELASTIC)))[-3:]

    def test_what_an_anchor_decides_is_alive_on_the_routes_through_it(self, net):
        space = net.space
        inside = 2 * 2**3  # widths, and heads of three blocks
        stitched = len(space.value.sym_getattr("route").candidates) - 2
        assert space.size == 2 * inside + stitched * inside**2
        alone = {"route": "0", **{name: value for name, value in ELASTIC.items() if name.startswith("anchors[0]")}}
        assert dict(space.arch(alone).choices) == alone
        with pytest.raises(SpaceError, match="anchors"):
            space.arch({**ELASTIC, "route": "0"})

    def test_each_anchor_is_cut_inside_on_its_own(self, net):
        """The path of the widths and heads chosen, written with the blocks of the two whole anchors."""
        space = net.space
        module = net.extract(space.arch(ELASTIC)).eval()
        shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
        assert shapes["stitches.0to1_0.weight"] == (28, 16)
        rows = {
            n: shapes[f"anchors.{a}.blocks.{b}.attention.qkv.weight"]
            for n, (a, b) in {"front": (0, 0), "end": (1, 2)}.items()
        }
        assert rows == {"front": (3 * 8, 16), "end": (3 * 8, 28)}
        alone = [
            net.extract(
                space.arch({"route": str(n), **{k: v for k, v in ELASTIC.items() if k.startswith(f"anchors[{n}]")}})
            )
            for n in (0, 1)
        ]
        front, end = (each.anchors[str(n)] for n, each in enumerate(alone))
        with torch.no_grad():
            x = front.blocks[0](front.patches(images()).flatten(2).transpose(1, 2) + front.positions)
            x = (
                x @ net.get_parameter("stitches.0to1_0.weight")[:28, :16].T
                + net.get_parameter("stitches.0to1_0.bias")[:28]
            )
            x = end.blocks[2](end.blocks[1](x))
            torch.testing.assert_close(module(images()), end.head(end.norm(x).mean(1)))

    def test_one_search_goes_through_routes_and_widths(self, net):
        algorithm = nas.NSGA2(population=8, seed=1)
        algorithm.bind(net.space, [nas.Metric("params", "min"), nas.Metric("macs", "max")])
        seen = []
        for _ in range(4):
            archs = algorithm.ask(8)
            values = [(float(net.params(arch)), -float(net.macs(arch))) for arch in archs]
            algorithm.tell(
                [nas.search.Finished(len(seen) + i, *pair) for i, pair in enumerate(zip(archs, values, strict=True))]
            )
            seen += archs
        assert len({tuple(arch.choices.items()) for arch in seen}) == 32  # none twice
        assert any(">" in arch.choices["route"] for arch in seen)
        assert {arch.choices.get("anchors[1].width") for arch in seen} >= {24, 28}


@pytest.mark.parametrize("make", [small_vit, small_conv], ids=["vit", "conv"])
def test_a_path_through_one_anchor_is_that_anchor(make):
    anchors = [make(16)(), make(24)(), make(32)()]
    for anchor in anchors:
        fill_distinct(anchor)
        anchor.eval()
    blocks = "blocks" if make is small_vit else "stages.*"
    net = stitch.supernet(stitch.space(anchors, blocks=blocks, example=images(1))).eval()
    before = [{name: tensor.clone() for name, tensor in anchor.state_dict().items()} for anchor in anchors]
    with torch.no_grad():
        for number, anchor in enumerate(anchors):
            arch = net.space.arch({"route": str(number)})
            torch.testing.assert_close(net(images(), arch), anchor(images()))
            torch.testing.assert_close(net.extract(arch)(images()), anchor(images()))
            assert net.params(arch) == sum(parameter.numel() for parameter in anchor.parameters())
        for parameter in net.parameters():
            parameter.zero_()
    for anchor, state in zip(anchors, before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in anchor.state_dict().items())


def test_names_are_the_anchors_own_and_the_stitches():
    net = stitch.supernet(stitch.space([small_vit(16), small_vit(24)], example=images(1)))
    names = {name for name, _ in net.named_parameters()}
    own = {f"anchors.{number}.{name}" for number, width in enumerate((16, 24))
           for name, _ in small_vit(width)().named_parameters()}  # fmt: skip
    stitches = {f"stitches.0to1_{layer}.{kind}" for layer in range(3) for kind in ("weight", "bias")}
    assert names == own | stitches


def test_a_stitched_path_is_the_blocks_one_after_the_other():
    net = stitch.supernet(stitch.space([small_vit(16), small_vit(24)], example=images(1))).eval()
    fill_distinct(net)
    with torch.no_grad():
        front, end = (net.extract(net.space.arch({"route": str(number)})).anchors[str(number)] for number in (0, 1))
        x = front.patches(images()).flatten(2).transpose(1, 2) + front.positions
        x = front.blocks[1](front.blocks[0](x))
        x = x @ net.get_parameter("stitches.0to1_1.weight").T + net.get_parameter("stitches.0to1_1.bias")
        x = end.blocks[3](end.blocks[2](x))
        expected = end.head(end.norm(x).mean(1))
        torch.testing.assert_close(net(images(), net.space.arch({"route": "0:1>1:2"})), expected)
    held = {name for name, _ in net.extract(net.space.arch({"route": "0:1>1:2"})).named_parameters()}
    assert not any(name.startswith(("anchors.0.head", "anchors.1.patches", "anchors.1.blocks.1")) for name in held)


def test_a_path_of_three_legs_returns_to_the_first_anchor():
    space = stitch.space([small_vit(16, 3), small_vit(24, 6)], example=images(1), plan=SNNetV2())
    net = stitch.supernet(space).eval()
    fill_distinct(net)
    with torch.no_grad():
        small, large = (net.extract(space.arch({"route": str(number)})).anchors[str(number)] for number in (0, 1))
        up, down = (
            lambda x, name=name: nn.functional.linear(
                x, net.get_parameter(f"stitches.{name}.weight"), net.get_parameter(f"stitches.{name}.bias")
            )
            for name in ("0to1_0", "1to0_1")
        )
        x = small.blocks[0](small.patches(images()).flatten(2).transpose(1, 2) + small.positions)
        x = small.blocks[2](down(large.blocks[3](large.blocks[2](up(x)))))
        expected = small.head(small.norm(x).mean(1))
        torch.testing.assert_close(net(images(), space.arch({"route": "0:0>1:2:3>0:2"})), expected)


def test_blocks_with_a_second_argument_constants_and_buffers():
    space = stitch.space([Shared(6), Shared(8)], blocks="layers", example=images(1))
    net = stitch.supernet(space).eval()
    arch = space.arch({"route": "0:1>1:2"})
    module = net.extract(arch)
    with torch.no_grad():
        torch.testing.assert_close(module(images()), net(images(), arch))
        front, end = (net.extract(space.arch({"route": str(number)})).anchors[str(number)] for number in (0, 1))
        flat = images().flatten(1)
        h, gates = front.embed(flat) + 6.0, (2 * front.gate(flat), 2 * end.gate(flat))
        h = h + front.layers[0](h, gates[0])
        # A block without its own residual: what it gives is stitched, and the end adds its own to what it was given.
        h = module.stitches.get_submodule("0to1_1")(front.layers[1](h, gates[0]))
        for layer in end.layers[2:]:
            h = h + layer(h, gates[1])
        torch.testing.assert_close(module(images()), end.head(h))
        with pytest.raises(SupernetError, match=r"takes images.* \['scale'\] by name"):
            module(images(), scale=2.0)
    assert {name for name, _ in module.named_parameters() if "gate" in name} == {
        f"anchors.{number}.gate.{kind}" for number in (0, 1) for kind in ("weight", "bias")
    }


def test_spaces_travel_and_functions_keep_them_small():
    space = stitch.space([small_vit(16), small_vit(24)], example=images(1))
    travelled = pickle.loads(pickle.dumps(space))
    assert travelled.fingerprint == space.fingerprint
    assert len(pickle.dumps(space)) < 10_000
    arch = travelled.arch({"route": "0:0>1:1"})
    assert {name for name, _ in travelled.build(arch).named_parameters()} == {
        name for name, _ in space.build(space.arch(arch.choices)).named_parameters()
    }


def test_weights_of_anchors_that_functions_build():
    trained = [small_vit(16)(), small_vit(24)()]
    space = stitch.space([small_vit(16), lambda: small_vit(24)()], example=images(1))
    net = stitch.supernet(space, weights=trained).eval()
    with torch.no_grad():
        for number, anchor in enumerate(trained):
            torch.testing.assert_close(net(images(), space.arch({"route": str(number)})), anchor.eval()(images()))
    with pytest.raises(SupernetError, match=r"weights of 1 anchors were given, and there are 2"):
        stitch.supernet(space, weights=trained[:1])
    with pytest.raises(SupernetError, match=r"anchor 1 have 'positions' of shape \(1, 16, 16\)"):
        stitch.supernet(space, weights=[None, trained[0]])
    with pytest.raises(SupernetError, match=r"anchor 0 have no 'positions'"):
        stitch.supernet(space, weights=[{}, None])


# -- stitches


def features(module, x):
    """(what each block takes, what it gives)."""
    found = []
    for block in module.blocks:
        block.register_forward_hook(lambda _module, args, output: found.append((args[0], output)))
    with torch.no_grad():
        module.eval()(x)
    return found


def test_least_squares_is_what_numpy_finds_and_shared_layers_are_means():
    anchors = [small_vit(16, 3)(), small_vit(24, 3)()]
    space = stitch.space(anchors, example=images(1))
    net = stitch.supernet(space)
    stitch.least_squares(net, images(40))
    front, end = (features(anchor, images(40)) for anchor in anchors)
    for layer in ("0to1_0", "0to1_1"):
        hops = [parse(hop)[0] for hop, name in space.value.stitches.items() if name == layer]
        assert len(hops) == (4 if layer == "0to1_0" else 3)
        solutions = []
        for hop in hops:
            left = front[hop.leave][1].flatten(0, 1).double().numpy()
            right = end[hop.enter][0].flatten(0, 1).double().numpy()
            solutions.append(np.linalg.lstsq(np.c_[left, np.ones(len(left))], right, rcond=None)[0])
        mean = torch.from_numpy(np.mean(solutions, 0)).float()
        torch.testing.assert_close(
            net.get_parameter(f"stitches.{layer}.weight").detach(), mean[:-1].T, rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(net.get_parameter(f"stitches.{layer}.bias").detach(), mean[-1], rtol=1e-4, atol=1e-5)


def test_least_squares_of_images_recovers_a_linear_map():
    """The end is the front in other coordinates, so stitches reproduce it."""
    anchor = small_conv(8)()
    fill_distinct(anchor)
    net = stitch.supernet(stitch.space([anchor, anchor], blocks="stages.*", example=images(1))).eval()
    stitch.least_squares(net, images(40))
    route = next(route for route in net.space.value.sym_getattr("route").candidates if ">" in route)
    assert net.get_parameter("stitches.0to1_0.weight").shape == (8, 8)
    with torch.no_grad():
        assert torch.isfinite(net(images(), net.space.arch({"route": route}))).all()
    same = stitch.supernet(stitch.space([small_vit(16)()] * 2, example=images(1), plan=SNNetV2())).eval()
    stitch.least_squares(same, images(100))
    with torch.no_grad():
        expected = same(images(), same.space.arch({"route": "0"}))
        found = same(images(), same.space.arch({"route": "0:1>1:2"}))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_low_rank_stitches_train_an_update_and_merge():
    space = stitch.space([small_vit(16), small_vit(24)], example=images(1), rank=3)
    net = stitch.supernet(space).eval()
    stitch.least_squares(net, images(40))
    arch = space.arch({"route": "0:1>1:2"})
    weight, bias, down, up = (net.get_parameter(f"stitches.0to1_1.{name}") for name in ("weight", "bias", "down", "up"))
    assert not weight.requires_grad
    assert all(each.requires_grad for each in (bias, down, up))
    assert (up.shape, down.shape) == ((24, 3), (3, 16))
    assert not up.any()
    assert down.any()
    frozen = weight.detach().clone()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        net.bind(arch)(images()).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(weight, frozen)
    assert up.any()
    whole = stitch.merged(net).eval()
    assert not any(name.endswith((".up", ".down")) for name, _ in whole.named_parameters())
    with torch.no_grad():
        torch.testing.assert_close(whole(images(), whole.space.arch(arch.choices)), net(images(), arch))
        torch.testing.assert_close(
            whole.get_parameter("stitches.0to1_1.weight"), frozen + up @ down / 3, rtol=1e-5, atol=1e-6
        )
    with pytest.raises(SupernetError, match="whole already"):
        stitch.merged(whole)


# -- what cannot be stitched


def test_bad_anchors_are_one_sentence_each():
    with pytest.raises(SpaceError, match="two anchors or more, and 1 was given"):
        stitch.space([small_vit(16)], example=images(1))
    with pytest.raises(SpaceError, match=r"no blocks at 'layers'; containers there: 'blocks' \(4\)"):
        stitch.space([small_vit(16), small_vit(24)], blocks="layers", example=images(1))
    with pytest.raises(SpaceError, match=r"did you mean 'blocks'"):
        stitch.space([small_vit(16), small_vit(24)], blocks="block", example=images(1))
    with pytest.raises(SpaceError, match="anchor 1 has 1 stages of blocks and anchor 0 has 2"):
        stitch.space([small_conv(8), small_vit(24)], blocks=["stages.*", "blocks"], example=images(1))
    with pytest.raises(SpaceError, match="3 paths of blocks were given for 2 anchors"):
        stitch.space([small_vit(16), small_vit(24)], blocks=["blocks"] * 3, example=images(1))
    with pytest.raises(SpaceError, match="anchor 1 is a int"):
        stitch.space([small_vit(16), 3], example=images(1))
    with pytest.raises(SpaceError, match="rank=0"):
        stitch.space([small_vit(16), small_vit(24)], example=images(1), rank=0)


def test_incompatible_blocks_are_refused_with_their_shapes():
    patches = vit.vit(width=24, depth=4, heads=[2] * 4, ratios=[2] * 4, head=8, patch=4)
    with pytest.raises(SpaceError, match=r"gives \(1, 16, 16\) and block 0 of anchor 1 takes \(1, 4, 24\)"):
        stitch.space([small_vit(16), patches], example=images(1))
    with pytest.raises(SpaceError, match="may differ in their channels alone"):
        stitch.space(
            [small_conv(8), small_conv(12)],
            blocks="stages.*",
            example=images(1),
            plan=SNNet(strict=False, last_stage=True),
        )


def test_skips_over_a_stitch_and_wrong_orders_are_refused():
    with pytest.raises(SpaceError, match="a skip over blocks"):
        stitch.space([Skipping(), Skipping()], example=torch.zeros(1, 4))
    with pytest.raises(SpaceError, match="does not run on the example"):
        stitch.space([small_vit(16), small_vit(24)], example=torch.zeros(1, 2, 8, 8))


def test_options_without_effect_are_refused():
    with pytest.raises(SpaceError, match="no effect"):
        SNNet(longest=4)
    with pytest.raises(SpaceError, match="window=0"):
        SNNet(window=0)
    with pytest.raises(SpaceError, match="rising depth"):
        SNNetV2().plan([[6], [3]])


def test_uniform_sampling_is_uniform_over_paths():
    space = stitch.space([small_vit(16), small_vit(24)], example=images(1))
    assert space.size == 12
    draw = random.Random(0)
    counts = Counter(nas.Uniform().archs(space, step, draw)[0] for step in range(2400))
    assert len(counts) == 12
    assert all(140 < count < 260 for count in counts.values())
