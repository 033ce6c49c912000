"""Renumbering channels by importance: the largest arch computes what it did, brackets are kept, the best come first."""

from __future__ import annotations

import random

import pyglove as pg
import pytest
import torch
from torch import nn

import nas
from nas.errors import SupernetError
from nas.supernet import Supernet, order
from searchspaces import conv, ofa, vit
from tests.conformance.supernet import fill_distinct
from tests.supernet import tangle

torch.set_num_threads(1)


@nas.model
def chain(width, middle, groups=1):
    """Two elastic axes; with groups the channels are told apart by their number."""
    return nn.Sequential(
        nn.Conv2d(2, width, 3, padding=1),
        nn.GroupNorm(groups, width),
        nn.ReLU(),
        nn.Conv2d(width, middle, 1),
        nn.ReLU(),
        nn.Conv2d(middle, 3, 1),
    )


def chain_net(groups=1):
    value = chain(width=pg.oneof([4, 8]), middle=pg.oneof([2, 4, 6]), groups=groups)
    net = Supernet(nas.Space(value, name="chain"), example=torch.zeros(1, 2, 4, 4))
    fill_distinct(net)
    return net


FAMILIES = {
    "mobilenet": lambda: ofa.supernet(
        ofa.space(depths=(1, 2), ratios=(2, 3), widths=[4, 8], stem=4, divisor=2, first=True, features=[10, 6])
    ),
    "resnet": ofa.resnet_supernet,
    "conv": lambda: conv.supernet(conv.space(widths=((4, 6), (6, 10)), depths=(1, 2))),
    "vit": lambda: vit.supernet(vit.space(widths=(16, 24), depths=(1, 2), heads=(1, 2), head=8)),
}


@pytest.mark.parametrize("by", ["weights", "activations"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_largest_arch_computes_what_it_did(family, by):
    net = FAMILIES[family]()
    torch.manual_seed(0)
    net.load_state_dict(
        {
            key: value + 0.3 * torch.rand_like(value) if value.is_floating_point() else value
            for key, value in net.state_dict().items()
        }
    )
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(3, *net.example.shape[1:], generator=generator)
    archs = [net.space.largest, net.space.smallest]
    before = [net.eval()(inputs, arch).detach().clone() for arch in archs]
    weights = {key: value.clone() for key, value in net.state_dict().items()}
    bound = net.bind(net.space.largest)

    orders = order.reorder(net, batches=[inputs] if by == "activations" else None)

    assert len(orders) >= 3
    assert sum(not torch.equal(found, found.sort().values) for found in orders.values()) >= 3
    after = [net(inputs, arch) for arch in archs]
    scale = float(before[0].detach().abs().max())
    torch.testing.assert_close(after[0], before[0], rtol=1e-4, atol=1e-5 * scale)
    torch.testing.assert_close(bound(inputs), before[0], rtol=1e-4, atol=1e-5 * scale)
    assert not torch.allclose(after[1], before[1], rtol=1e-3, atol=1e-3 * float(before[1].abs().max()))
    for key, value in net.state_dict().items():  # nothing is lost, nothing invented
        assert torch.equal(value.flatten().sort().values, weights[key].flatten().sort().values), key


def test_axes_are_the_tensors_that_move_together():
    small = {"widths": [4, 8], "stem": 4, "divisor": 2}
    net = ofa.supernet(ofa.space(depths=(1, 2), ratios=(2, 8), **small))
    block = "stages.1.1."
    found = {axis.length: axis for axis in order.axes(net) if axis.places[0][0].startswith(block)}
    hidden, middle = found[64], found[16]
    norms = ("weight", "bias", "running_mean", "running_var")
    assert set(hidden.places) == {
        (f"{block}widen.conv.weight", 0),
        (f"{block}depthwise.conv.weight", 0),
        (f"{block}squeeze.reduce.weight", 1),
        (f"{block}squeeze.expand.weight", 0),
        (f"{block}squeeze.expand.bias", 0),
        (f"{block}narrow.conv.weight", 1),
        *((f"{block}{layer}.norm.{leaf}", 0) for layer in ("widen", "depthwise") for leaf in norms),
    }
    assert set(hidden.readers) == {(f"{block}squeeze.reduce.weight", 1), (f"{block}narrow.conv.weight", 1)}
    assert set(middle.places) == {
        (f"{block}squeeze.reduce.weight", 0),
        (f"{block}squeeze.reduce.bias", 0),
        (f"{block}squeeze.expand.weight", 1),
    }
    assert len(order.axes(net)) == 4 + 2  # a hidden axis a block, a squeezed one in the blocks of the second stage


def test_a_width_runs_through_blocks_that_shallow_archs_lack():
    net = ofa.resnet_supernet(ofa.resnet_space(resolutions=None))
    width = next(axis for axis in order.axes(net) if axis.length == 24)
    assert {"stages.0.0.narrow.conv.weight", "stages.0.1.narrow.conv.weight", "stages.1.0.reduce.conv.weight"} <= {
        name for name, _ in width.places
    }


def test_fused_heads_and_kernel_sizes_are_left_alone():
    net = vit.supernet(vit.space(widths=(16, 24), depths=(1, 2), heads=(1, 2), head=8))
    assert ("blocks.0.attention.qkv.weight", 0) not in {place for axis in order.axes(net) for place in axis.places}
    assert ("blocks.0.attention.qkv.weight", 1) in {place for axis in order.axes(net) for place in axis.places}
    net = ofa.supernet()
    assert all(dim < 2 for axis in order.axes(net) for _, dim in axis.places)


def test_importance_is_the_sum_of_magnitudes_of_what_reads_a_channel():
    net = chain_net()
    width, middle = order.axes(net)
    weights = net.state_dict()
    torch.testing.assert_close(order.importance(net, width), weights["3.weight"].abs().sum((0, 2, 3)).double())
    torch.testing.assert_close(order.importance(net, middle), weights["5.weight"].abs().sum((0, 2, 3)).double())


def test_readers_say_which_tensors_count():
    net = ofa.supernet(ofa.space(depths=(1,), ratios=(2, 8), widths=[4, 8], stem=4, divisor=2))
    fill_distinct(net)
    hidden = next(axis for axis in order.axes(net) if axis.places[0][0].startswith("stages.1.0.") and axis.length == 32)
    narrow = net.state_dict()["stages.1.0.narrow.conv.weight"].abs().sum((0, 2, 3)).double()
    torch.testing.assert_close(order.importance(net, hidden, ofa.READERS), narrow)
    assert not torch.allclose(order.importance(net, hidden), narrow)
    with pytest.raises(SupernetError, match=r"reader pattern 'nothing\.\*' matches no parameter"):
        order.reorder(net, readers=["nothing.*"])


def test_with_inputs_channels_count_by_what_layers_give():
    net = chain_net()
    inputs = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    largest = net.extract(net.space.largest).eval()
    with torch.no_grad():
        norm = largest[:2](inputs)
        scores = [
            largest[0](inputs).abs().mean((0, 2, 3)) + norm.abs().mean((0, 2, 3)),
            largest[2:4](norm).abs().mean((0, 2, 3)),
        ]
    found = list(order.reorder(net, batches=[inputs]).values())
    assert [one.tolist() for one in found] == [one.argsort(descending=True, stable=True).tolist() for one in scores]


def test_channels_fall_in_importance_within_brackets_and_never_leave_one():
    net = chain_net()
    four = net.space.arch({"width": 8, "middle": 4})
    _, middle = order.axes(net)
    scores = order.importance(net, middle)
    found = order.reorder(net, trained=[net.space.largest, four])[middle]
    assert set(found[:4].tolist()) == {0, 1, 2, 3}
    assert set(found[4:].tolist()) == {4, 5}
    sorted_ = scores[found]
    assert (sorted_[:4].diff() <= 0).all()
    assert (sorted_[4:].diff() <= 0).all()
    assert (order.importance(net, middle) == sorted_).all()


def test_trained_archs_compute_what_they_did():
    net, rng = ofa.resnet_supernet(), random.Random(0)
    inputs = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    archs = [net.space.smallest, *(net.space.sample(rng) for _ in range(3))]
    before = [net.eval()(inputs, arch).detach().clone() for arch in archs]
    orders = order.reorder(net, trained=archs)
    assert any(not torch.equal(found, found.sort().values) for found in orders.values())
    for arch, expected in zip(archs, before, strict=True):
        torch.testing.assert_close(net(inputs, arch), expected, rtol=1e-4, atol=1e-5)


def test_a_second_time_changes_nothing():
    net = chain_net()
    order.reorder(net)
    weights = {key: value.clone() for key, value in net.state_dict().items()}
    order.reorder(net)
    assert all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())


def test_the_optimizers_state_follows():
    net = chain_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    net(torch.ones(1, 2, 4, 4), net.space.largest).sum().backward()
    optimizer.step()
    pairs = {name: torch.stack([p.detach(), optimizer.state[p]["exp_avg"]], -1) for name, p in net.named_parameters()}
    steps = {name: optimizer.state[p]["step"].clone() for name, p in net.named_parameters()}
    orders = order.reorder(net, optimizer=optimizer)
    for axis, found in orders.items():
        for name, dim in axis.places:
            pairs[name] = pairs[name].index_select(dim, found)
    for name, parameter in net.named_parameters():
        assert torch.equal(torch.stack([parameter.detach(), optimizer.state[parameter]["exp_avg"]], -1), pairs[name])
        assert torch.equal(optimizer.state[parameter]["step"], steps[name])


def test_sums_over_rows_and_columns_follow():
    net = chain_net()
    optimizer = torch.optim.Adafactor(net.parameters(), lr=1e-2)
    net(torch.randn(3, 2, 4, 4), net.space.largest).square().sum().backward()
    optimizer.step()

    def spread(parameter):  # of the shape of the parameter
        state = optimizer.state[parameter]
        return state["variance"].clone() if parameter.ndim < 2 else state["row_var"] * state["col_var"]

    before = {name: spread(parameter) for name, parameter in net.named_parameters()}
    for axis, found in order.reorder(net, optimizer=optimizer).items():
        assert not torch.equal(found, torch.arange(len(found)))
        for name, dim in axis.places:
            before[name] = before[name].index_select(dim, found)
    for name, parameter in net.named_parameters():
        assert torch.equal(spread(parameter), before[name])


def test_states_of_another_form_start_anew_and_one_vector_is_refused():
    net = chain_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    net(torch.ones(1, 2, 4, 4), net.space.largest).sum().backward()
    optimizer.step()
    first = next(net.parameters())
    optimizer.state[first]["factors"] = [torch.ones(2, 2)]
    order.reorder(net, optimizer=optimizer)
    assert first not in optimizer.state
    optimizer.step()
    with pytest.raises(SupernetError, match="LBFGS keeps gradients of all parameters as one vector"):
        order.reorder(net, optimizer=torch.optim.LBFGS(net.parameters()))


def test_a_model_that_tells_channels_apart_is_refused_and_left_as_it_was():
    net = chain_net(groups=2)
    weights = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(SupernetError, match="cannot be renumbered"):
        order.reorder(net)
    assert all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())


def test_an_example_is_needed():
    net = Supernet(chain_net().space)
    with pytest.raises(SupernetError, match="give the supernet an example="):
        order.reorder(net)


# -- elastic models


def tangle_net():
    net = Supernet(tangle.tangle_space(), example=torch.zeros(2, 3, 5))
    fill_distinct(net)
    return net


def test_atoms_of_elastic_models_are_renumbered_inside_products_and_sums():
    net = tangle_net()
    inputs = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    archs = [net.space.largest, net.space.smallest]
    before = [net.eval()(inputs, arch).detach() for arch in archs]
    weights = {key: value.clone() for key, value in net.state_dict().items()}
    orders = order.reorder(net)
    assert {axis.atom for axis in orders} == {"width", "groups", "per", "left", "right", "hidden"}
    assert sum(not torch.equal(found, found.sort().values) for found in orders.values()) >= 4
    after = [net(inputs, arch).detach() for arch in archs]
    torch.testing.assert_close(after[0], before[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(after[1], before[1], rtol=1e-3)
    for key, value in net.state_dict().items():
        if key in weights:
            assert torch.equal(value.flatten().sort().values, weights[key].flatten().sort().values), key
    again = order.reorder(net)
    assert all(torch.equal(found, found.sort().values) for found in again.values())


def test_what_an_elastic_model_computes_for_each_unit_moves_with_it(tmp_path):
    net = tangle_net()
    assert "ramp" not in net._shared.buffers
    orders = order.reorder(net)
    (width,) = (found for axis, found in orders.items() if axis.atom == "width")
    assert torch.equal(net.get_buffer("ramp"), tangle.TEMPLATE.ramp[width])
    inputs = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    arch = net.space.smallest
    net.save(tmp_path / "net")
    again = Supernet.load(tmp_path / "net", net.space).eval()
    assert torch.equal(again(inputs, arch), net.eval()(inputs, arch))
    assert torch.equal(net.extract(arch)(inputs), net(inputs, arch))


def test_importance_of_an_atom_adds_up_what_reads_its_units():
    net = tangle_net()
    found = {axis.atom: axis for axis in order.axes(net)}
    weights, left = net.state_dict(), tangle.WHOLE["left"]
    read = weights["mix.weight"].abs().double().sum(0).reshape(2, -1)
    torch.testing.assert_close(order.importance(net, found["left"]), read[:, :left].sum(0))
    torch.testing.assert_close(order.importance(net, found["right"]), read[:, left:].sum(0))
    groups = weights["proj.weight"].abs().double().sum(0).reshape(3, 2, tangle.DIM)
    torch.testing.assert_close(order.importance(net, found["groups"]), groups.sum((1, 2)))
    torch.testing.assert_close(order.importance(net, found["per"]), groups.sum((0, 2)))


def test_trained_archs_keep_their_units():
    net = tangle_net()
    inputs = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    arch = net.space.smallest
    before = net.eval()(inputs, arch).detach()
    order.reorder(net, trained=[arch])
    torch.testing.assert_close(net(inputs, arch), before, rtol=1e-4, atol=1e-4)
