"""Bound subnets: whatever happens to the supernet's gradients and weights meanwhile, nothing is lost or stale."""

from __future__ import annotations

import gc
import weakref

import pyglove as pg
import pytest
import torch
from torch import nn

import nas
from nas.errors import SupernetError
from nas.supernet import KernelTransform, Supernet
from tests.supernet import families

X = torch.linspace(-1, 1, 6).reshape(2, 3)


@pytest.fixture
def net():
    return Supernet(families.linear_space()).eval()


def loss(output):
    return output.square().sum()


def gradients(net):
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def expected(net, arch):
    net.zero_grad(set_to_none=True)
    loss(net(X, arch)).backward()
    found = gradients(net)
    net.zero_grad(set_to_none=True)
    return found


def assert_same(left, right):
    assert set(left) == set(right)
    for name, gradient in left.items():
        torch.testing.assert_close(gradient, right[name])


@pytest.mark.parametrize("arch", ["smallest", "largest"])
def test_gradients_dropped_between_forward_and_backward_are_made_anew(net, arch):
    arch = getattr(net.space, arch)
    reference = expected(net, arch)
    binding = net.bind(arch)
    loss(binding(X)).backward()
    output = loss(binding(X))
    net.zero_grad(set_to_none=True)  # the usual place: after the forward pass
    output.backward()
    assert_same(gradients(net), reference)


def test_gradients_that_were_replaced_are_added_to(net):
    arch = net.space.smallest
    reference = expected(net, arch)
    binding = net.bind(arch)
    binding.backward(loss(binding(X)))
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    binding.backward(loss(binding(X)))
    assert_same(gradients(net), {name: gradient + 1 for name, gradient in reference.items()})


def test_zero_grad_keeps_the_buffers(net):
    binding = net.bind(net.space.smallest)
    binding.backward(loss(binding(X)))
    buffers = [parameter.grad for parameter in net.parameters()]
    net.zero_grad()
    assert all(parameter.grad is buffer for parameter, buffer in zip(net.parameters(), buffers, strict=True))
    assert not any(buffer.any() for buffer in buffers)


def test_untouched_parameters_have_no_gradient():
    net = Supernet(families.mixed_space())
    binding = net.bind(net.space.arch({"ops[0]": "Skip", "ops[1]": "Skip", "width": 4}))
    binding.backward(loss(binding(torch.randn(3, 5))))
    assert {name for name, p in net.named_parameters() if p.grad is None} == {
        name for name, _ in net.named_parameters() if name.startswith("ops.")
    }


def test_second_derivatives_are_refused_by_bindings_and_right_in_forward(net):
    arch = net.space.smallest
    with pytest.raises(SupernetError, match="create_graph=True.*call supernet"):
        loss(net.bind(arch)(X)).backward(create_graph=True)
    net.zero_grad(set_to_none=True)
    (gradient,) = torch.autograd.grad(loss(net(X, arch)), [net.get_parameter("0.weight")], create_graph=True)
    gradient.square().sum().backward()
    assert net.get_parameter("0.weight").grad.any()


def test_frozen_parameters_get_none(net):
    binding = net.bind(net.space.largest)
    net.get_parameter("0.weight").requires_grad_(False)
    binding.backward(loss(binding(X)))
    assert net.get_parameter("0.weight").grad is None
    net.get_parameter("0.weight").requires_grad_(True)
    binding.backward(loss(binding(X)))
    assert net.get_parameter("0.weight").grad.any()


def test_weights_moved_replaced_or_loaded_are_followed(net):
    arch = net.space.smallest
    binding = net.bind(arch)

    def check():
        with torch.no_grad():
            assert torch.equal(
                binding(X.to(next(net.parameters()).dtype)), net.extract(arch)(X.to(next(net.parameters()).dtype))
            )

    with torch.no_grad():
        net.get_parameter("0.weight").data = torch.randn(8, 3)
    check()
    net.load_state_dict({name: torch.randn_like(tensor) for name, tensor in net.state_dict().items()})
    check()
    state = {name: torch.randn_like(tensor) for name, tensor in net.state_dict().items()}
    net.load_state_dict(state, assign=True)
    check()
    net.double()
    check()
    net.get_parameter("1.bias").data.fill_(3.0)
    check()


def test_learned_transforms_learn():
    net = Supernet(families.kernels_space(), layouts={"*.weight": KernelTransform((7, 5, 3))})
    x = torch.randn(2, 2, 8, 8)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    small = net.bind(net.space.smallest)
    small.backward(loss(small(x)))
    assert net.get_parameter("0.weight_5to3").grad.any()
    assert net.get_parameter("0.weight_7to5").grad.any()
    with torch.no_grad():
        large = net(x, net.space.largest)
    net.get_parameter("0.weight").grad = net.get_parameter("2.weight").grad = None
    net.get_parameter("0.bias").grad = net.get_parameter("2.bias").grad = None
    optimizer.step()
    with torch.no_grad():
        assert torch.equal(net(x, net.space.largest), large)  # only the matrices moved
        torch.testing.assert_close(net(x, net.space.smallest), net.extract(net.space.smallest)(x))


def test_under_autocast(net):
    arch = net.space.smallest
    reference = expected(net, arch)
    binding = net.bind(arch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = binding(X)
        assert output.dtype == torch.bfloat16
        value = loss(output.float())
    binding.backward(value)
    for name, gradient in gradients(net).items():
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, reference[name], rtol=0.1, atol=0.1)


def test_a_step_in_place_between_forward_and_backward_is_an_error(net):
    output = loss(net.bind(net.space.largest)(X))
    with torch.no_grad():
        net.get_parameter("1.weight").add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()


def test_buffers_of_another_arch():
    net = Supernet(families.mixed_space())
    x = torch.randn(4, 5)
    small = net.space.arch({"ops[0]": "Skip", "ops[1]": "Skip", "width": 4})
    large = net.space.arch({"ops[0]": "Skip", "ops[1]": "Skip", "width": 6})
    buffers = net.calibrate(large, [x])
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for method in (
        lambda: net(x, small, buffers),
        lambda: net.extract(small, buffers),
        lambda: net.bind(small)(x, buffers),
    ):
        with pytest.raises(SupernetError, match=r"buffer 'norm.running_mean' of shape \(6,\) is not one of this arch"):
            method()
    with pytest.raises(SupernetError, match="buffer 'nrom.running_mean'"):
        net(x, small, {"nrom.running_mean": torch.zeros(4)})
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_statistics_are_updated_in_the_corner_while_training():
    net = Supernet(families.mixed_space())
    small = net.space.arch({"ops[0]": "Skip", "ops[1]": "Skip", "width": 4})
    net.bind(small)(torch.randn(8, 5))
    mean = net.get_buffer("norm.running_mean")
    assert mean[:4].all()
    assert not mean[4:].any()
    assert isinstance(net.bind(small).module.norm, nn.BatchNorm1d)


def test_subnets_that_are_forgotten_leave_nothing_behind(monkeypatch):
    monkeypatch.setattr("nas.supernet.supernet.BINDINGS", 1)
    net = Supernet(families.linear_space((1, 2, 3, 4)))
    first, *others = net.space.enumerate()
    gone = [weakref.ref(parameter) for parameter in net.bind(first).module.parameters()]
    loss(net.bind(first)(X)).backward()
    for arch in others:
        loss(net.bind(arch)(X)).backward()
    gc.collect()
    assert len(gone) > 1
    assert all(one() is None for one in gone), "a training would keep the parameters of every arch that it has seen"


def test_a_backward_reaches_the_supernet_after_its_subnet_was_forgotten(net, monkeypatch):
    monkeypatch.setattr("nas.supernet.supernet.BINDINGS", 1)
    arch = net.space.smallest
    reference = expected(net, arch)
    output = loss(net.bind(arch)(X))
    net.bind(net.space.largest)
    gc.collect()
    output.backward()
    assert_same(gradients(net), reference)


@nas.model
class _Twice(nn.Module):
    """A layer that is registered under two names."""

    def __init__(self, width):
        super().__init__()
        self.stem, self.head = nn.Linear(6, width), nn.Linear(width, 3)
        self.first = self.second = nn.Linear(width, width)

    def forward(self, x):
        return self.head(self.second(torch.relu(self.first(self.stem(x)))))


def test_a_layer_of_two_names_is_still_bound_after_a_differentiable_call():
    space = nas.Space(_Twice(pg.oneof([4, 6])))
    net = Supernet(space, seed=0)
    binding, inputs = net.bind(space.smallest), torch.randn(3, 6)
    before = dict(binding.module.named_parameters(remove_duplicate=False))
    net(inputs, space.smallest).sum().backward()
    wanted = net.get_parameter("first.weight").grad
    after = dict(binding.module.named_parameters(remove_duplicate=False))
    assert all(after[name] is leaf for name, leaf in before.items())
    net.zero_grad()
    net.bind(space.smallest)(inputs).sum().backward()
    assert torch.equal(net.get_parameter("first.weight").grad, wanted)
