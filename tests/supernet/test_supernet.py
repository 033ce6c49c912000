"""What a supernet is made of, and what it refuses."""

from __future__ import annotations

import pyglove as pg
import pytest
import torch
from torch import nn

import nas
from nas.errors import LayoutError, SupernetError
from nas.supernet import CentreCrop, Corner, Layout, Supernet
from nas.supernet.pretrained import _equal
from tests.supernet import families


@nas.model
def pair(first, second, tie=False):
    model = nn.Sequential(
        nn.Linear(2, first), nn.Linear(first, second, bias=False), nn.Linear(first, second, bias=False)
    )
    if tie:
        model[2].weight = model[1].weight
    return model


@nas.model
def by_rank(rank):
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros([2] * rank))
    return model


@nas.model
def by_type(wide):
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(2, dtype=torch.float64 if wide else torch.float32))
    return model


@nas.model
def nothing(width):
    return [width]


def crossed(width, length):
    """Largest width and largest length never meet: no single arch has the far corner of `weight`."""
    model = nn.Module()
    rows, columns = (width, 2) if width > length else (2, length)
    model.weight = nn.Parameter(torch.randn(rows, columns) * 5 + 100)
    model.ones = nn.Parameter(torch.ones(rows, columns))
    model.forward = lambda x: x
    return model


def constants(size):
    model = nn.Module()
    model.register_buffer("table", torch.arange(size) / size)
    model.register_buffer("given", torch.zeros(size))
    model.linear = nn.Linear(size, 1)
    return model


def test_names_are_the_models_own():
    space = families.mixed_space()
    names = {
        name for arch in space.enumerate() for name in dict(space.build(arch).named_parameters(remove_duplicate=False))
    }
    net = Supernet(space)
    assert set(dict(net.named_parameters(remove_duplicate=False))) == names
    largest = space.build(space.largest).state_dict()
    assert set(largest) <= set(net.state_dict())
    net.load_state_dict(largest, strict=False)


def test_children_may_be_called_like_methods():
    space = nas.Space(nas.model(odd_names)(width=pg.oneof([2, 3])), name="odd")
    net = Supernet(space)
    assert set(net.state_dict()) == {"cut.weight", "cut.bias", "space.weight", "space.bias", "params.0.weight"}
    x = torch.randn(2, 2)
    torch.testing.assert_close(net.eval().extract(space.smallest)(x), net.bind(space.smallest)(x))


def odd_names(width):
    model = OddNames()
    model.add_module("space", nn.Linear(2, width))
    model.add_module("cut", nn.Linear(width, 2))
    model.add_module("params", nn.Sequential(nn.Linear(2, 2, bias=False)))
    return model


class OddNames(nn.Module):
    def forward(self, x):
        return self.params(self.cut(self.space(x)))


def test_a_corner_that_no_arch_has_is_drawn_like_the_rest():
    space = nas.Space(nas.model(crossed)(width=pg.oneof([3, 40]), length=pg.oneof([3, 30])), name="crossed")
    net = Supernet(space)
    assert net.get_parameter("weight").shape == (40, 30)
    far = net.get_parameter("weight")[2:, 2:]
    assert abs(far.mean() - 100) < 3
    assert 3 < far.std() < 7
    assert torch.equal(net.get_parameter("ones"), torch.ones(40, 30))


def test_another_seed_gives_other_weights():
    space = families.linear_space()
    assert not torch.equal(Supernet(space, seed=1).get_parameter("0.weight"), Supernet(space).get_parameter("0.weight"))


def test_the_largest_arch_starts_as_its_constructor_makes_it():
    space = families.linear_space()
    state = torch.get_rng_state()
    torch.manual_seed(3)
    expected = space.build(space.largest).state_dict()
    torch.set_rng_state(state)
    net = Supernet(space, seed=3)
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in expected.items())


# -- what it refuses


def message(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def test_arch_of_another_space():
    net, other = Supernet(families.linear_space()), families.linear_space((4, 9), name="other")
    for method in (net.bind, net.extract, net.cut, net.params, lambda arch: net(torch.zeros(1, 3), arch)):
        with pytest.raises(SupernetError) as error:
            method(other.largest)
        assert "arch of space 'other'" in message(error)
        assert "supernet of space 'linear'" in message(error)
    with pytest.raises(SupernetError, match="is a dict, not an Arch"):
        net.bind({"width": 4})


def test_an_equal_space_is_the_same_space():
    net = Supernet(families.linear_space())
    twin = families.linear_space()
    assert net.params(twin.largest) == net.params(net.space.largest)


def test_what_is_not_a_module():
    with pytest.raises(SupernetError, match="builds a list, and a supernet needs an nn.Module"):
        Supernet(nas.Space(nothing(width=pg.oneof([1, 2])), name="nothing"))


def test_shapes_that_disagree():
    with pytest.raises(SupernetError, match=r"'weight' has shape \(2, 2\) in one arch and \(2,\) in another"):
        Supernet(nas.Space(by_rank(rank=pg.oneof([1, 2])), name="ranks"))
    with pytest.raises(SupernetError, match=r"'weight' is torch.float64 in one arch and torch.float32 in another"):
        Supernet(nas.Space(by_type(wide=pg.oneof([False, True])), name="types"))


@pytest.mark.parametrize("order", [[True, False], [False, True]])
def test_ties_that_disagree(order):
    space = nas.Space(pair(first=3, second=4, tie=pg.oneof(order)), name="pair")
    with pytest.raises(SupernetError, match="are one parameter in some archs and two in others"):
        Supernet(space)


def test_a_parameter_that_no_covering_arch_has_so_large():
    # 3·8 and 8·3 are covered, 8·8 is not: the space calls the wrong values largest
    space = nas.Space(
        nas.model(product)(a=pg.oneof([3, 8]), b=pg.oneof([3, 8])), name="product", largest={"a": 3, "b": 3}
    )
    net = Supernet(space)
    with pytest.raises(SupernetError, match=r"'0.weight' of shape \(64, 3\) does not fit into \(24, 3\)"):
        net.bind(space.arch({"a": 8, "b": 8}))


def product(a, b):
    return nn.Sequential(nn.Linear(3, a * b), nn.Linear(a * b, 2))


def test_a_parameter_that_no_covering_arch_has():
    space = nas.Space(nas.model(rare)(a=pg.oneof([3, 8]), b=pg.oneof([3, 8])), name="rare", largest={"a": 3, "b": 3})
    net = Supernet(space)
    with pytest.raises(SupernetError, match="parameter 'extra.weight' is not held"):
        net.extract(space.arch({"a": 8, "b": 8}))


def rare(a, b):
    model = nn.Sequential(nn.Linear(3, 2))
    if a * b == 64:
        model.add_module("extra", nn.Linear(2, 2))
    return model


def test_layout_patterns_must_decide_something():
    space = families.linear_space()
    with pytest.raises(SupernetError, match="pattern '0.weigth' decides about no parameter .*did you mean '0.weight'"):
        Supernet(space, layouts={"0.weigth": Corner()})
    with pytest.raises(SupernetError, match="pattern '0.weight' decides about no parameter"):
        Supernet(space, layouts={"*.weight": Corner(), "0.weight": Corner()})


def test_layout_that_does_not_fit_names_the_parameter():
    space = families.linear_space((4, 8))
    with pytest.raises(LayoutError, match=r"parameter '0.weight': '\(a b\) in', .*length 8 does not fit {'a': 3}"):
        Supernet(space, layouts={"0.weight": Layout("(a b) in", a=3)})
    with pytest.raises(LayoutError, match="has no centre"):
        Supernet(families.linear_space((4, 7)), layouts={"0.weight": CentreCrop((0,))})


def test_layout_that_fits_the_covering_archs_but_not_this_one():
    space = families.linear_space((6, 12))
    net = Supernet(space, layouts={"0.weight": Layout("(a b) in", a=6)})
    assert net.params(space.smallest) > 0


def test_lazy_modules_and_cached_tensors_are_refused():
    with pytest.raises(nas.NasError, match="lazy module has no shapes"):
        Supernet(nas.Space(nas.model(lazy)(width=pg.oneof([2, 3])), name="lazy"))
    with pytest.raises(SupernetError, match="attribute 'transposed' is computed from parameters in the constructor"):
        Supernet(nas.Space(nas.model(cached)(width=pg.oneof([2, 3])), name="cached"))


def lazy(width):
    return nn.LazyLinear(width)


def cached(width):
    model = nn.Linear(2, width)
    model.transposed = model.weight.detach().t()
    return model


def test_inputs_of_the_wrong_kind():
    net = Supernet(families.linear_space())
    with pytest.raises(SupernetError, match="inputs of type list are not understood"):
        net([torch.zeros(1, 3)], net.space.largest)


# -- constants and data among the buffers


def test_constants_are_the_constructors_and_data_is_shared():
    space = nas.Space(nas.model(constants)(size=pg.oneof([2, 4])), name="constants")
    net = Supernet(space, layouts={"given": Corner()})
    assert set(net.state_dict()) == {"given", "linear.weight", "linear.bias"}
    net.get_buffer("given").copy_(torch.arange(4.0))
    small = net.extract(space.smallest)
    assert small.table.tolist() == [0, 0.5]
    assert small.given.tolist() == [0, 1]
    small.given.zero_()
    assert net.get_buffer("given").tolist() == [0, 1, 2, 3]
    assert net.bind(space.smallest).module.given.tolist() == [0, 1]


def test_a_broad_pattern_for_parameters_does_not_take_constants_along():
    space = nas.Space(nas.model(constants)(size=pg.oneof([2, 4])), name="constants")
    assert set(Supernet(space, layouts={"*": Corner()}).state_dict()) == {"linear.weight", "linear.bias"}


# -- pretrained weights


def test_weights_from_a_state_dict():
    space = families.linear_space()
    state = {name: torch.randn_like(tensor) for name, tensor in space.build(space.largest).state_dict().items()}
    net = Supernet(space, weights=state)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in state.items())
    assert net.get_parameter("0.weight").data_ptr() != state["0.weight"].data_ptr()


def test_weights_that_do_not_fit_are_named():
    space = families.linear_space()
    state = space.build(space.largest).state_dict()
    with pytest.raises(
        SupernetError, match="weights have no '1.bias', which the largest arch has; did you mean '1.bais'"
    ):
        Supernet(space, weights={("1.bais" if name == "1.bias" else name): tensor for name, tensor in state.items()})
    with pytest.raises(SupernetError, match="weights have '2.bias', which the largest arch has not; did you mean"):
        Supernet(space, weights={**state, "2.bias": torch.zeros(2)})
    with pytest.raises(SupernetError, match=r"weights have '0.weight' of shape \(4, 3\), .* needs \(8, 3\)"):
        Supernet(space, weights=space.build(space.smallest))


def test_weights_with_data_in_buffers():
    space = nas.Space(nas.model(constants)(size=pg.oneof([2, 4])), name="constants")
    model = space.build(space.largest)
    Supernet(space, weights=model)
    model.given.fill_(3)
    with pytest.raises(SupernetError, match="buffer 'given' of the weights is not what the constructor computes"):
        Supernet(space, weights=model)
    net = Supernet(space, weights=model, layouts={"given": Corner()})
    assert net.extract(space.smallest).given.tolist() == [3, 3]
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "given"}
    with pytest.raises(SupernetError, match="weights have no 'given'"):
        Supernet(space, weights=state, layouts={"given": Corner()})


def test_a_table_that_another_processor_computed_is_the_constructor_s():
    table = 1e4 ** -torch.linspace(0, 1, 32)
    assert _equal(table, table * (1 + 2 * torch.finfo(torch.float32).eps))
    assert not _equal(table, table * (1 + 1e-4))
    assert _equal(torch.zeros(0), torch.zeros(0))
    assert not _equal(torch.arange(3), torch.arange(3) + 1)


# -- as a module


def test_converted_weights_take_constants_along():
    space = families.attention_mlp_space()
    net = Supernet(space).to(torch.float64).eval()
    assert net.extract(space.smallest).scale.dtype == torch.float64
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    before = net(x, space.smallest)
    assert before.dtype == torch.float64
    net.float()
    torch.testing.assert_close(net(x.float(), space.smallest).double(), before, rtol=1e-4, atol=1e-5)


def test_training_mode_reaches_the_subnets():
    net = Supernet(nas.Space(nas.model(noisy)(width=pg.oneof([4, 8])), name="noisy"))
    x = torch.ones(1, 4)
    arch = net.space.largest
    with torch.no_grad():
        assert not torch.equal(net.train()(x, arch), net(x, arch))
        assert torch.equal(net.eval()(x, arch), net(x, arch))
    assert not torch.equal(net.train()(x, arch), net(x, arch))


def noisy(width):
    return nn.Sequential(nn.Linear(4, width), nn.Dropout(), nn.Linear(width, 16))


def test_repr_is_short():
    net = Supernet(families.linear_space())
    assert repr(net) == "Supernet(space='linear', params=50, device='cpu')"


def test_bindings_are_reused_and_bounded(monkeypatch):
    monkeypatch.setattr("nas.supernet.supernet.BINDINGS", 2)
    net = Supernet(families.linear_space((1, 2, 3, 4)))
    first, *others = net.space.enumerate()
    binding = net.bind(first)
    assert net.bind(first) is binding
    for arch in others:
        net.bind(arch)
    assert len(net._bindings) == 2
    assert net.bind(first) is not binding
