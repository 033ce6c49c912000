"""Growing a supernet: old archs keep their weights, the new largest computes what the old one did, or it is refused."""

from __future__ import annotations

import itertools
import random

import pyglove as pg
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nas
from nas.errors import SupernetError
from nas.supernet import Supernet
from nas.supernet.growing import home
from searchspaces import conv, ofa, sorted_lm, vit
from tests.conformance.supernet import fill_distinct

torch.set_num_threads(1)


def inputs_of(net, samples=3):
    example = net.example
    if example.is_floating_point():
        return torch.randn(samples, *example.shape[1:], generator=torch.Generator().manual_seed(1))
    return torch.randint(0, 20, (samples, *example.shape[1:]), generator=torch.Generator().manual_seed(1))


def output(net, arch, inputs):
    net.eval()
    with torch.no_grad():
        return net(inputs, arch)


def assert_close(one, other):
    assert one.shape == other.shape
    assert (one - other).abs().max() <= 1e-5 * one.abs().max()


def assert_grown(net, grown, *, old=True):
    inputs = inputs_of(net)
    assert_close(output(net, net.space.largest, inputs), output(grown, grown.space.largest, inputs))
    draw = random.Random(0)
    archs = [net.space.largest, net.space.smallest, *(net.space.sample(draw) for _ in range(4))]
    same = []
    for arch in archs:
        there = home(grown.space, arch)
        ours, theirs = net.cut(arch), grown.cut(there)
        assert ours.keys() == theirs.keys()
        same.append(all(torch.equal(ours[name], theirs[name]) for name in ours))
        if old:
            assert_close(output(net, arch, inputs), output(grown, there, inputs))
    assert all(same) == old


def conv_net(widths, depths, kernels, ratios):
    return conv.supernet(conv.space(widths=widths, depths=depths, kernels=kernels, ratios=ratios, stem=4), side=8)


def lm_space(widths=(16,), depths=(1, 2), kvs=(1, 2), ratios=(1.0, 2.0)):
    return sorted_lm.space(widths=widths, depths=depths, kvs=kvs, ratios=ratios, head=4, vocabulary=24, context=6)


def lm_net(**choices):
    return filled(sorted_lm.supernet(lm_space(**choices)))


def vit_space(widths=(16,), depths=(2,), heads=(1, 2), ratios=(1, 2)):
    return vit.space(widths=widths, depths=depths, heads=heads, ratios=ratios, head=4, side=4)


def vit_net(**choices):
    return filled(vit.supernet(vit_space(**choices)))


def filled(net):
    fill_distinct(net)
    return net


LARGER = {
    "wider": {"widths": ((6, 9), (8, 12))},
    "deeper": {"depths": (1, 2, 3)},
    "larger kernels": {"kernels": (3, 5)},
    "higher ratios": {"ratios": (1, 2, 3)},
    "all": {"widths": ((6, 9), (8, 12)), "depths": (1, 2, 3), "kernels": (3, 5), "ratios": (1, 2, 3)},
}
SMALL = {"widths": ((6,), (8,)), "depths": (1, 2), "kernels": (3,), "ratios": (1, 2)}


@pytest.mark.parametrize("units", ["drawn", "copied", "next"])
@pytest.mark.parametrize("larger", LARGER)
def test_a_convolutional_family_grows(larger, units):
    net = filled(conv_net(**SMALL))
    space = conv.space(**(SMALL | LARGER[larger]), stem=4)
    grown = nas.grow(net, space, units=units)
    assert_grown(net, grown)
    assert sum(one.numel() for one in grown.parameters()) > sum(one.numel() for one in net.parameters())


@pytest.mark.parametrize(
    "larger", [{"depths": (1, 2, 3)}, {"kvs": (1, 2, 3)}, {"ratios": (1.0, 2.0, 3.0)}, {"widths": (16, 32)}]
)
def test_a_tied_language_model_grows(larger):
    net = lm_net()
    assert_grown(net, nas.grow(net, lm_space(**larger)))


@pytest.mark.parametrize(
    "larger", [{"depths": (2, 3)}, {"heads": (1, 2, 3)}, {"widths": (16, 32)}, {"widths": (16, 48), "depths": (2, 3)}]
)
def test_fused_projections_and_norms_over_units_grow(larger):
    net = vit_net()
    assert_grown(net, nas.grow(net, vit_space(**larger)))


def test_kernels_with_learned_transforms_and_squeeze_excite_grow():
    choices = {
        "depths": (1, 2),
        "ratios": (2,),
        "widths": [4, 8],
        "stem": 4,
        "divisor": 2,
        "first": True,
        "features": [10, 6],
    }
    net = filled(ofa.supernet(ofa.space(kernels=(3, 5), **choices)))
    larger = ofa.supernet(ofa.space(kernels=(3, 5, 7), **choices | {"ratios": (2, 3), "depths": (1, 2, 3)}))
    assert_grown(net, nas.grow(net, larger))


class Cell(nn.Module):
    """A recurrent layer, BatchNorm and a head, and an embedding that is no part of norms."""

    def __init__(self, width, hidden):
        super().__init__()
        self.embedding = nn.Linear(3, width)
        self.cell = nn.LSTM(width, hidden, batch_first=True)
        self.norm = nn.BatchNorm1d(hidden)
        self.head = nn.Linear(hidden, 2)

    def forward(self, x):
        y, _ = self.cell(self.embedding(x))
        return self.head(self.norm(y[:, -1]))


@nas.model
def recurrent(width, hidden):
    return Cell(width, hidden)


def recurrent_space(widths, hiddens):
    return nas.Space(recurrent(width=pg.oneof(widths), hidden=pg.oneof(hiddens)))


class Tied(nn.Module):
    """An embedding that is the head, too; what is inside of the block is as long as what runs through it."""

    def __init__(self, width):
        super().__init__()
        self.embedding = nn.Embedding(24, width)
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        self.head = nn.Linear(width, 24, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens)
        return self.head(self.after(x + self.down(self.up(self.before(x)).relu())))


@nas.model
def tied(width):
    return Tied(width)


def test_a_head_that_is_the_embedding_reads_nothing_of_new_units_and_learns():
    example = torch.arange(6).reshape(1, 6)
    net = filled(Supernet(nas.Space(tied(width=pg.oneof([4, 8]))), example=example))
    grown = nas.grow(net, nas.Space(tied(width=pg.oneof([4, 8, 16]))))
    assert_grown(net, grown)
    state = grown.state_dict()
    assert torch.equal(state["embedding.weight"], net.state_dict()["embedding.weight"].repeat(1, 2))
    assert not state["after.weight"][8:].any()
    assert state["before.weight"][8:].all()
    grown(example, grown.space.largest).square().mean().backward()
    gradient = grown.get_parameter("after.weight").grad
    assert gradient[8:].all()


@settings(max_examples=8)
@given(st.integers(2, 5), st.integers(2, 5), st.integers(1, 4), st.integers(1, 4), st.sampled_from(["drawn", "copied"]))
def test_any_widths_of_a_recurrent_network_grow(width, hidden, more, also, units):
    net = filled(Supernet(recurrent_space([1, width], [1, hidden]), example=torch.ones(2, 4, 3)))
    grown = nas.grow(net, recurrent_space([1, width, width + more], [1, hidden, hidden + also]), units=units)
    assert_grown(net, grown)


@settings(max_examples=6)
@given(st.data())
def test_any_larger_convolutional_space_contains_the_old_one(data):
    def above(values, candidates):
        more = data.draw(st.sets(st.sampled_from(candidates), max_size=2))
        return tuple(sorted({*values, *more}))

    larger = {
        "widths": tuple(above(old, [10, 12, 13]) for old in SMALL["widths"]),
        "depths": above(SMALL["depths"], [1, 2, 3, 4]),
        "kernels": above(SMALL["kernels"], [1, 3, 5]),
        "ratios": above(SMALL["ratios"], [1, 2, 3]),
    }
    net = filled(conv_net(**SMALL))
    assert_grown(net, nas.grow(net, conv.space(**larger, stem=4)))


@pytest.mark.parametrize("make", [lambda: conv_net(**SMALL), lm_net, vit_net], ids=["conv", "lm", "vit"])
def test_everything_new_learns(make):
    net = make()
    space = {
        "conv": lambda: conv.space(**LARGER["all"], stem=4),
        "sorted-lm": lambda: lm_space(widths=(16, 32), depths=(1, 2, 3), kvs=(1, 2, 3), ratios=(1.0, 2.0, 3.0)),
        "vit": lambda: vit_space(widths=(16, 32), depths=(2, 3), heads=(1, 2, 3), ratios=(1, 2, 3)),
    }[net.space.name]()
    grown = nas.grow(net, space)
    before = {name: one.detach().clone() for name, one in grown.named_parameters()}
    grown.train()
    optimizer = torch.optim.Adam(grown.parameters(), 1e-3)
    inputs = inputs_of(grown, 8)
    target = torch.randn(output(grown, space.largest, inputs).shape)
    grown.train()
    for _ in range(4):
        optimizer.zero_grad()
        (grown(inputs, space.largest) - target).square().mean().backward()
        optimizer.step()
    seen = set(torch.unique(inputs).tolist()) if not inputs.is_floating_point() else set()
    for name, one in grown.named_parameters():
        moved = before[name] != one
        if name == "embedding.weight" and seen:
            moved = moved.any(1)
        assert moved.float().mean() > 0.5, name


def test_statistics_of_new_channels_are_those_of_fresh_ones_or_of_copies():
    net = filled(conv_net(**SMALL))
    space = conv.space(**(SMALL | LARGER["wider"]), stem=4)
    old = net.state_dict()["stages.0.0.narrow.norm.running_mean"]
    drawn = nas.grow(net, space).state_dict()["stages.0.0.narrow.norm.running_mean"]
    copied = nas.grow(net, space, units="copied").state_dict()["stages.0.0.narrow.norm.running_mean"]
    assert torch.equal(drawn, torch.cat([old, torch.zeros(3)]))
    assert torch.equal(copied, torch.cat([old, old[:3]]))


def test_units_of_the_next_block_are_its_own_and_of_the_last_block_copies():
    net = lm_net(ratios=(1.0,))
    grown = nas.grow(net, lm_space(ratios=(1.0, 2.0)), units="next").state_dict()
    old = net.state_dict()
    assert torch.equal(grown["blocks.0.up.weight"][16:], old["blocks.1.up.weight"])
    assert torch.equal(grown["blocks.1.up.weight"][16:], old["blocks.1.up.weight"])
    assert not grown["blocks.0.down.weight"][:, 16:].any()


def test_ties_stay_ties():
    net = lm_net()
    grown = nas.grow(net, lm_space(widths=(16, 32)))
    assert len(list(grown.parameters())) == len(list(net.parameters()))
    assert torch.equal(grown.get_parameter("embedding.weight")[:, :16], net.get_parameter("embedding.weight"))


def test_the_old_supernet_is_left_alone_and_shares_nothing():
    net = lm_net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    grown = nas.grow(net, lm_space(kvs=(1, 2, 3)))
    with torch.no_grad():
        for one in grown.parameters():
            one.add_(1)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_what_was_frozen_and_whether_it_was_trained_stays():
    net = lm_net()
    net.get_parameter("norm.weight").requires_grad_(False)
    grown = nas.grow(net, lm_space(kvs=(1, 2, 3)))
    assert not grown.get_parameter("norm.weight").requires_grad
    assert grown.get_parameter("embedding.weight").requires_grad
    assert grown.trained
    fresh = sorted_lm.supernet(lm_space())
    assert not nas.grow(fresh, lm_space(kvs=(1, 2, 3))).trained


# -- what there is to compare with


def test_fpi_keeps_the_largest_arch_and_no_old_one():
    net = vit_net()
    grown = nas.grow(net, vit_space(widths=(16, 32), heads=(1, 2, 3), ratios=(1, 2, 3)), width="fpi")
    assert_grown(net, grown, old=False)


def test_aki_takes_new_units_from_the_next_block_and_changes_the_function():
    net = lm_net(ratios=(1.0,))
    grown = nas.grow(net, lm_space(ratios=(1.0, 2.0)), width="aki")
    new, old = grown.state_dict(), net.state_dict()
    assert torch.equal(new["blocks.0.up.weight"][16:], old["blocks.1.up.weight"])
    assert torch.allclose(new["blocks.0.down.weight"], old["blocks.0.down.weight"].repeat(1, 2) / 2)
    inputs = inputs_of(net)
    assert not torch.allclose(output(net, net.space.largest, inputs), output(grown, grown.space.largest, inputs))


def test_stacked_blocks_are_the_old_ones_in_order():
    net = lm_net(depths=(1, 2))
    grown = nas.grow(net, lm_space(depths=(1, 2, 3, 4)), depth="stacked").state_dict()
    for new, old in itertools.product((2, 3), (0, 1)):
        same = torch.equal(grown[f"blocks.{new}.down.weight"], grown[f"blocks.{old}.down.weight"])
        assert same == (new % 2 == old)


# -- an optimizer


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop])
def test_an_optimizer_goes_on_with_the_larger_supernet(kind):
    net = lm_net()
    optimizer = kind(net.parameters(), lr=1e-3, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))
    inputs = inputs_of(net)
    for _ in range(3):
        optimizer.zero_grad()
        net(inputs, net.space.largest).square().mean().backward()
        optimizer.step()
    before = {name: dict(optimizer.state[one]) for name, one in net.named_parameters()}
    grown = nas.grow(net, lm_space(depths=(1, 2, 3), kvs=(1, 2, 3)), optimizer=optimizer)
    params = {id(one) for group in optimizer.param_groups for one in group["params"]}
    assert params == {id(one) for one in grown.parameters()}
    for name, kept in before.items():
        one = grown.get_parameter(name)
        for key, old in kept.items():
            new = optimizer.state[one][key]
            if not old.ndim:
                assert new == old
                continue
            assert new.shape == one.shape
            assert torch.equal(new[tuple(map(slice, old.shape))], old)
            rest = torch.ones_like(new, dtype=torch.bool)
            rest[tuple(map(slice, old.shape))] = False
            expected = old.mean() if key in ("exp_avg_sq", "square_avg") else torch.zeros(())
            assert torch.allclose(new[rest], expected)
    start = grown(inputs, grown.space.largest).square().mean()
    for _ in range(3):
        optimizer.zero_grad()
        grown(inputs, grown.space.largest).square().mean().backward()
        optimizer.step()
    assert grown(inputs, grown.space.largest).square().mean() < start


@nas.model
def _one(width):
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 1))


_SQUARED = {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "acc_delta", "exp_inf", "step_size", "variance"}
_OF_TORCH = {
    "SGD": {"momentum": 0.9},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "AdamW": {"amsgrad": True},
    **{kind: {} for kind in ("Adam", "NAdam", "RAdam", "Adamax", "Adadelta", "Adagrad", "Rprop", "Adafactor", "ASGD")},
}


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("smallest", [1, 2])
@pytest.mark.parametrize("name", _OF_TORCH)
def test_an_optimizer_s_states_are_padded_by_what_they_are(name, smallest, sign):
    """Whatever the sign of the gradients."""
    net = Supernet(nas.Space(_one(pg.oneof([smallest]))), example=torch.ones(2, 3))
    optimizer = getattr(torch.optim, name)(net.parameters(), lr=1e-3, **_OF_TORCH[name])
    for _ in range(3):
        optimizer.zero_grad()
        sum(sign * one.sum() for one in net.parameters()).backward()
        optimizer.step()
    before = {name: dict(optimizer.state[one]) for name, one in net.named_parameters()}
    grown = nas.grow(net, nas.Space(_one(pg.oneof([smallest, smallest + 2]))), optimizer=optimizer)
    for path, one in grown.named_parameters():
        for key, old in before[path].items():
            if name == "Adafactor" and one.ndim > 1:
                assert one not in optimizer.state
            elif old.ndim and one.shape != old.shape and key != "ax":
                new = optimizer.state[one][key]
                rest = torch.ones_like(new, dtype=torch.bool)
                rest[tuple(map(slice, old.shape))] = False
                assert torch.allclose(new[rest], old.mean() if key in _SQUARED else torch.zeros(()))
    for _ in range(2):
        optimizer.zero_grad()
        grown(torch.ones(2, 3), grown.space.largest).square().mean().backward()
        optimizer.step()


# -- what cannot be grown


def test_an_optimizer_that_keeps_one_vector_is_refused():
    net = Supernet(nas.Space(_one(pg.oneof([2]))), example=torch.ones(2, 3))
    with pytest.raises(SupernetError, match="LBFGS keeps gradients of all parameters as one vector"):
        nas.grow(net, nas.Space(_one(pg.oneof([2, 4]))), optimizer=torch.optim.LBFGS(net.parameters()))


def test_a_norm_over_units_that_are_no_multiple_is_refused():
    with pytest.raises(
        SupernetError, match=r"from 16 to 24 units through 'blocks.0.norm1' \(RMSNorm\).*whole multiple of 16"
    ):
        nas.grow(lm_net(), lm_space(widths=(16, 24)))


@pytest.mark.parametrize(
    ("larger", "names"),
    [
        ({"ratios": (1.0, 3.0)}, "2.0"),
        ({"kvs": (3,)}, "kv was 2"),
        ({"depths": (1,)}, "depth was 2"),
    ],
)
def test_a_space_that_does_not_contain_the_old_one_is_refused(larger, names):
    with pytest.raises(SupernetError, match=f"does not contain the old one.*{names}"):
        nas.grow(lm_net(), lm_space(**larger))


def test_an_arch_that_where_refuses_is_not_contained():
    net = Supernet(recurrent_space([1, 2], [1, 2]), example=torch.ones(2, 4, 3))
    value = recurrent(width=pg.oneof([1, 2, 3]), hidden=pg.oneof([1, 2, 3]))
    with pytest.raises(SupernetError, match="where= refuses"):
        nas.grow(net, nas.Space(value, where=lambda c: c["width"] != c["hidden"] or c["width"] == 3))


class Post(nn.Module):
    """Normalises after the sum."""

    def __init__(self, width, depth, heads):
        super().__init__()
        self.heads = heads
        self.first = nn.Linear(4, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.last = nn.Linear(width, 2)

    def forward(self, x):
        x = self.first(x)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(x + layer(x) / self.heads)
        return self.last(x)


@nas.model
def post(width, depth, heads):
    return Post(width, depth, heads)


def post_space(depths=(1, 2), widths=(8,), heads=(1,)):
    return nas.Space(post(width=pg.oneof(widths), depth=pg.oneof(depths), heads=pg.oneof(heads)), name="post")


def test_a_new_block_that_cannot_be_the_identity_is_refused():
    net = filled(Supernet(post_space(), example=torch.zeros(2, 4)))
    with pytest.raises(SupernetError, match=r"the new '(norms|layers).2' of the largest arch cannot give"):
        nas.grow(net, post_space(depths=(1, 2, 3)))


def test_what_computes_otherwise_by_its_numbers_is_refused_with_the_layer():
    net = filled(Supernet(post_space(), example=torch.zeros(2, 4)))
    with pytest.raises(SupernetError, match=r"'norms.0' \(LayerNorm\) is the first layer"):
        nas.grow(net, post_space(heads=(1, 2)))


@nas.model
def classifier(width, classes):
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, classes))


def test_another_form_of_the_output_is_refused():
    space = [
        nas.Space(classifier(width=pg.oneof([2, 4]), classes=pg.oneof(some)), name="out") for some in ([2], [2, 3])
    ]
    with pytest.raises(SupernetError, match="another shape"):
        nas.grow(filled(Supernet(space[0], example=torch.zeros(1, 3))), space[1])


@nas.model
def fewer(width, extra):
    layers = [nn.Linear(3, width), nn.Linear(width, 2)]
    return nn.Sequential(*layers, *([nn.Linear(2, 2)] if extra else []))


def test_a_space_without_a_tensor_of_the_old_one_is_refused():
    old = nas.Space(fewer(width=pg.oneof([2, 4]), extra=pg.oneof([False, True])), name="fewer")
    new = nas.Space(fewer(width=pg.oneof([2, 4, 6]), extra=False), name="fewer")
    with pytest.raises(SupernetError, match="does not contain"):
        nas.grow(Supernet(old, example=torch.zeros(1, 3), check=False), new)


def test_options_that_have_no_effect_are_refused():
    net = lm_net()
    with pytest.raises(SupernetError, match="units='copied' has no effect"):
        nas.grow(net, lm_space(kvs=(1, 2, 3)), units="copied", width="fpi")
    with pytest.raises(SupernetError, match="layouts= has no effect"):
        nas.grow(net, sorted_lm.supernet(lm_space(kvs=(1, 2, 3))), layouts={})


def test_a_supernet_without_an_example_needs_inputs():
    net = Supernet(lm_space())
    with pytest.raises(SupernetError, match="grow compares outputs"):
        nas.grow(net, lm_space(kvs=(1, 2, 3)))
    grown = nas.grow(net, lm_space(kvs=(1, 2, 3)), inputs=torch.zeros(1, 6, dtype=torch.int64))
    assert grown.space.largest.choices["kv"] == 3
