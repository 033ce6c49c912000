"""Elastic models: whatever their axes are made of, a supernet computes what the built module with its weights does."""

from __future__ import annotations

import copy
import io
import json
import pickle
import random

import pyglove as pg
import pytest
import torch

import nas
from nas.errors import CheckpointError, LayoutError
from nas.supernet import Cut, Layout, Supernet, parts
from nas.supernet.atomic import Parts
from nas.supernet.layouts import Shapes
from nas.supernet.parts import Sum
from tests.supernet import tangle

X = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def space():
    return tangle.tangle_space()


@pytest.fixture
def net(space):
    return Supernet(space).eval()


def archs(space, count=6):
    return [space.largest, space.smallest, *(space.sample(random.Random(seed)) for seed in range(count))]


def scrambled(net):
    """Weights and statistics that are not the template's any more."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in net._shared.state().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.3 * (tensor.dim() > 1))
    return net


def built(net, arch):
    """The module as the space builds it, with the supernet's values gathered by index."""
    module = net.space.build(arch)
    sizes = parts.sizes_of(module)
    state = net._shared.state()
    values = {
        name: tangle.cut(state[name].detach(), tangle.AXES[name], sizes) if name in tangle.AXES else state[name]
        for name in module.state_dict()
        if name in state
    }
    values["tied.weight"] = values["head.weight"]
    module.load_state_dict(values)
    return module.eval()


def test_a_supernet_computes_what_built_modules_do(net):
    for arch in archs(net.space):
        assert torch.equal(net(X, arch), net.space.build(arch).eval()(X))
    scrambled(net)
    for arch in archs(net.space):
        expected = built(net, arch)(X)
        torch.testing.assert_close(net(X, arch), expected)
        with torch.no_grad():
            torch.testing.assert_close(net(X, arch), expected)


def test_gradients_of_bound_subnets_are_those_of_the_functional_form(net):
    scrambled(net).train()
    for arch in archs(net.space):
        found = []
        for call in (lambda arch=arch: net(X, arch), lambda arch=arch: net.bind(arch)(X)):
            net.zero_grad(set_to_none=True)
            call().square().sum().backward()
            found.append({name: each.grad.clone() for name, each in net.named_parameters()})
        for name, gradient in found[0].items():
            torch.testing.assert_close(found[1][name], gradient, msg=name)
            assert gradient.any(), name


def test_gradients_are_those_of_the_built_module_at_their_places(net):
    arch = scrambled(net).space.smallest
    module = built(net, arch)
    module(X).square().sum().backward()
    net(X, arch).square().sum().backward()
    sizes = parts.sizes_of(module)
    for name, parameter in module.named_parameters():
        whole = net.get_parameter(name).grad
        if name in tangle.AXES:
            torch.testing.assert_close(tangle.cut(whole, tangle.AXES[name], sizes), parameter.grad)
            assert int((whole != 0).sum()) <= parameter.numel()


def test_an_extracted_network_is_the_users_own_and_nothing_more(net):
    arch = scrambled(net).space.sample(random.Random(1))
    module = net.extract(arch)
    assert type(module) is tangle.Tangle
    assert torch.equal(module(X), net(X, arch))
    assert module.tied.weight is module.head.weight
    assert not {parts.SIZES, parts.AXES} & set(vars(module))
    assert torch.equal(copy.deepcopy(module)(X), module(X))
    assert torch.equal(pickle.loads(pickle.dumps(module))(X), module(X))
    torch.save(module.state_dict(), io.BytesIO())
    assert net.params(arch) == sum(each.numel() for each in module.parameters())


def test_a_built_module_is_plain_data(space):
    module = space.build(space.smallest)
    again = pickle.loads(pickle.dumps(copy.deepcopy(module)))
    assert parts.sizes_of(again) == parts.sizes_of(module)
    assert parts.axes_of(again) == tangle.AXES
    assert module.state_dict().keys() == tangle.TEMPLATE.state_dict().keys()


def test_statistics_of_joined_branches_are_learnt_at_their_places(net):
    """They are no plain view on the supernet's: two windows, one after the other."""
    scrambled(net).train()
    arch = net.space.smallest
    for use in (lambda: net(X, arch), lambda: net.bind(arch)(X)):
        module, before = built(net, arch).train(), net.get_buffer("norm.running_var").clone()
        module(X)
        use()
        after, sizes = net.get_buffer("norm.running_var"), parts.sizes_of(module)
        torch.testing.assert_close(tangle.cut(after, tangle.AXES["norm.running_var"], sizes), module.norm.running_var)
        kept = parts.indices(tangle.AXES["norm.running_var"][0], tangle.WHOLE, sizes)
        rest = torch.tensor([index for index in range(len(after)) if index not in kept.tolist()])
        assert torch.equal(after[rest], before[rest])
        assert not torch.equal(after[kept], before[kept])
    other = net.bind(net.space.largest)
    other(X)
    torch.testing.assert_close(net.extract(arch).norm.running_var, built(net, arch).norm.running_var)
    net.eval()
    torch.testing.assert_close(net.bind(arch)(X), built(net, arch)(X))


def test_calibration_leaves_the_supernet_alone(net):
    arch = scrambled(net).space.smallest
    before = {name: each.clone() for name, each in net.state_dict().items()}
    statistics = net.calibrate(arch, [X, X + 1])
    assert statistics["norm.running_mean"].shape == (5,)
    assert all(torch.equal(each, before[name]) for name, each in net.state_dict().items())
    torch.testing.assert_close(net.extract(arch, statistics)(X), net(X, arch, statistics))


def test_a_checkpoint_gives_the_same_subnets(net, tmp_path):
    scrambled(net).save(tmp_path / "net")
    again = Supernet.load(tmp_path / "net", net.space).eval()
    for arch in archs(net.space, 2):
        assert torch.equal(again(X, arch), net(X, arch))
        assert torch.equal(again.extract(arch)(X), net.extract(arch)(X))
    assert torch.equal(copy.deepcopy(again).eval()(X, net.space.smallest), net(X, net.space.smallest))


def test_training_bound_subnets_lowers_the_loss(space):
    net = Supernet(space)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    y, losses = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(5)), []
    for step in range(30):
        losses.append(0.0)
        for arch in (space.largest, space.smallest, space.sample(random.Random(step))):
            loss = (net.bind(arch)(X) - y).square().mean()
            loss.backward()
            losses[-1] += loss.item()
        optimizer.step()
        net.zero_grad()
    assert losses[-1] < 0.3 * losses[0]


def test_pretrained_weights_fill_the_largest(space):
    model = copy.deepcopy(tangle.TEMPLATE)
    with torch.no_grad():
        for tensor in (*model.parameters(), model.norm.running_mean, model.table):
            tensor.mul_(1.5)
    for weights in (model, model.state_dict()):
        net = Supernet(space, weights=weights).eval()
        assert torch.equal(net(X, space.largest), model.eval()(X))
        assert torch.equal(
            net.extract(space.smallest).table, tangle.cut(model.table, tangle.AXES["table"], {"left": 3, "width": 4})
        )


def test_a_state_dict_need_not_have_buffers_that_are_not_persistent():
    space = nas.Space(tangle.held_tangle(width=pg.oneof([4, 10])), name="held")
    net = Supernet(space, weights=tangle.TEMPLATE.state_dict()).eval()
    assert torch.equal(net.get_buffer("ramp"), tangle.TEMPLATE.ramp)
    assert torch.equal(net(X, space.largest), copy.deepcopy(tangle.TEMPLATE).eval()(X))
    assert torch.equal(net(X, space.smallest), space.build(space.smallest).eval()(X))


def test_the_proof_accepts_it(space):
    net = Supernet(space, example=X)
    assert net.proof is not None
    assert net.proof.proven
    assert net.macs(space.smallest) < net.macs(space.largest)


def test_elastic_models_may_be_parts_of_another():
    space = tangle.twice_space()
    net = Supernet(space).eval()
    for arch in (space.smallest, space.sample(random.Random(3)), space.largest):
        module = net.extract(arch)
        assert torch.equal(module(X), net(X, arch))
        first, second = space.build(arch).first.eval(), space.build(arch).second.eval()
        torch.testing.assert_close(net(X, arch), module.last(first(X) + second(X)))


# -- what is refused


AXES = {"weight": (("out",), (Sum((("a",), ("b",))),)), "bias": (("out",),)}


class Layer(torch.nn.Module):
    def __init__(self, sizes, shape, axes):
        super().__init__()
        self.layer = torch.nn.Linear(shape[1], shape[0])
        self.norm = torch.nn.LayerNorm(shape[0])
        parts.mark(self.layer, sizes, axes)

    def forward(self, x):
        return self.norm(self.layer(x))


@nas.model
def layer(case):
    sizes, shape, names = json.loads(case)
    return Layer(sizes, shape, {name: AXES[name] for name in names})


def layers(*cases, names=("weight", "bias")):
    """A space whose archs have these lengths of atoms and shapes."""
    return nas.Space(layer(case=pg.oneof([json.dumps([*case, names]) for case in cases])), name="layers")


def refused(*cases, names=("weight", "bias")):
    with pytest.raises(LayoutError) as error:
        Supernet(layers(*cases, names=names))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_shapes_that_do_not_follow_from_lengths_are_refused():
    good = ({"out": 4, "a": 3, "b": 2}, (4, 5))
    Supernet(layers(good, ({"out": 4, "a": 1, "b": 2}, (4, 3))))
    said = refused(good, ({"out": 4, "a": 1, "b": 2}, (4, 4)))
    assert (
        "parameter 'layer.weight': its shape is (4, 4) of (4, 5), and the lengths of its atoms make it (4, 3) of (4, 5)"
        in said
    )


def test_atoms_without_lengths_are_refused():
    good = ({"out": 4, "a": 3, "b": 2}, (4, 5))
    said = refused(good, ({"out": 4, "a": 1}, (4, 3)))
    assert "parameter 'layer.weight': atom 'layer.b' has no length in this arch" in said
    said = refused(({"out": 4, "a": 3}, (4, 5)))
    assert "parameter 'layer.weight': atom 'layer.b' has no length" in said
    assert "atom 'layer.a' has length 0" in refused(({"out": 4, "a": 0, "b": 5}, (4, 5)))


def test_tensors_without_axes_must_be_whole():
    archs = [({"out": 4, "a": 3, "b": 2}, (4, 5)), ({"out": 3, "a": 3, "b": 2}, (3, 5))]
    said = refused(*archs, names=["weight"])
    assert "parameter 'layer.bias' of an elastic model has shapes (3,) and (4,) and no axes" in said


def test_an_elastic_model_takes_no_layouts(space):
    with pytest.raises(LayoutError, match=r"'mix\.weight' is one of an elastic model"):
        Supernet(space, layouts={"mix.weight": Layout("out (parts in)", parts=2)})


def test_an_arch_with_more_of_an_atom_than_the_supernet_is_refused():
    cut = Parts(AXES["weight"], {"out": 4, "a": 3, "b": 2})
    with pytest.raises(LayoutError, match="atom 'a' is 4 long in this arch and 3 in the supernet"):
        cut.placed("weight", {}, Shapes({}, {"out": 4, "a": 4, "b": 1}))
    with pytest.raises(LayoutError, match="place the cut in an arch first"):
        cut.windows(torch.zeros(4, 5), (4, 3))
    assert cut.windows(torch.zeros(4, 5), (4, 5))[0].shape == (4, 5)


# -- files


def test_cuts_by_atoms_travel_as_json():
    cut = Parts(AXES["weight"], {"out": 4, "a": 3, "b": 2, "other": 7})
    again = Cut.from_json(json.loads(json.dumps(cut.to_json())))
    assert again == cut
    assert isinstance(again, Parts)
    assert again.whole == {"out": 4, "a": 3, "b": 2}
    placed = cut.placed("weight", {}, Shapes({}, {"out": 2, "a": 1, "b": 1}))
    assert placed == cut
    assert type(Cut.from_json(placed.to_json())) is Parts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": None}, "has axes and whole"),
        ({"more": 1}, "has axes and whole"),
        ({"axes": [["out"], [{"sum": "a"}]]}, "a factor of an axis"),
        ({"axes": [["out"], "a"]}, "an axis is a list"),
        ({"whole": {"out": 4, "a": 3}}, "atom 'b' has no length"),
        ({"whole": {"out": 4, "a": 3, "b": 2.0}}, "no positive whole number"),
        ({"whole": {"out": 4, "a": -3, "b": 2}}, "no positive whole number"),
        ({"whole": []}, "has axes and whole"),
    ],
)
def test_damaged_cuts_by_atoms_are_refused(change, message):
    data = Parts(AXES["weight"], {"out": 4, "a": 3, "b": 2}).to_json()
    with pytest.raises(LayoutError, match=message):
        Cut.from_json({**data, **change})


def test_sums_without_an_end_are_refused():
    axis: list = ["a"]
    for _ in range(500):
        axis = [{"sum": [axis]}]
    with pytest.raises(LayoutError, match="sums inside each other without an end"):
        Cut.from_json({"kind": "parts", "axes": [axis], "whole": {"a": 3}})


def test_a_checkpoint_whose_cut_does_not_fit_its_weights_is_refused(net, tmp_path, monkeypatch):
    monkeypatch.setitem(net._shared.union.cuts["mix.bias"].whole, "width", 9)
    net.save(tmp_path / "net")
    with pytest.raises(CheckpointError, match=r"parameter 'mix\.bias': its shape is \(10,\), and .* make it \(9,\)"):
        Supernet.load(tmp_path / "net", net.space)


def test_wrong_axes_are_told_apart_from_missing_layouts():
    """Joined branches cut as if they were one: the second branch's units are in the place of the first one's."""
    space = nas.Space(tangle.flat_tangle(left=pg.oneof([3, 12])), name="flat")
    with pytest.warns(
        UserWarning, match=r"mix units.* because the axes that the model says of .*mix\.weight.* correct them"
    ):
        net = Supernet(space, example=X)
    assert not net.proof.proven


def test_marks_inside_a_marked_module_are_of_an_earlier_model():
    space = tangle.twice_space()
    module = space.build(space.largest)
    assert {"first.left", "second.left"} < parts.sizes_of(module).keys()
    parts.mark(module, {"width": 3}, {})
    assert parts.sizes_of(module) == {"width": 3}
    assert parts.axes_of(module) == {}
    assert parts.elastic_in(module) == ("",)
    parts.unmark(module)
    assert parts.sizes_of(module) == {}
