"""Skeletons: parameters without values, everything else as the constructor computes it."""

from __future__ import annotations

import random
import threading

import pyglove as pg
import pytest
import torch
from torch import nn
from torch.nn.modules.module import _global_parameter_registration_hooks as hooks

import nas
from nas.errors import SpaceError, SupernetError
from nas.supernet import Supernet
from nas.supernet.skeleton import build_skeleton, parameters_of
from tests.conformance.patience import PATIENCE_S


def skeleton(function, **arguments):
    space = nas.Space(nas.model(function)(**arguments), name=function.__name__)
    return build_skeleton(space, space.largest)


class Model(nn.Module):
    """Everything that a constructor may do."""

    def __init__(self, width):
        super().__init__()
        shared = nn.Parameter(torch.randn(width, width))
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.first.weight = shared
        self.second.weight = shared
        self.third = nn.Linear(width, width, bias=False)
        self.third.weight = self.first.weight
        self.listed = nn.ParameterList([nn.Parameter(torch.zeros(width)), shared])
        self.frozen = nn.Parameter(torch.ones(()), requires_grad=False)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(width, 1))
        self.register_parameter("nothing", None)
        self.register_buffer("positions", torch.arange(width)[None])
        self.register_buffer("mask", torch.ones(width, width).tril(), persistent=False)
        self.angles = torch.outer(torch.arange(3.0), 1 / torch.arange(1.0, width))
        self.rates = torch.linspace(0, 0.1, width).tolist()
        nn.init.trunc_normal_(self.first.bias, std=0.02)
        nn.init.orthogonal_(self.second.weight)
        torch.nn.init.constant_(self.listed[0], random.random())
        self.to(torch.float32)


def model(width):
    return Model(width)


def test_parameters_are_on_meta_and_the_rest_is_real():
    built, real = skeleton(model, width=pg.oneof([3, 4])), Model(4)
    assert all(parameter.is_meta for parameter in built.parameters())
    assert all(torch.equal(buffer, dict(real.named_buffers())[name]) for name, buffer in built.named_buffers())
    assert torch.equal(built.angles, real.angles)
    assert built.rates == real.rates
    assert {name: (p.shape, p.requires_grad) for name, p in built.named_parameters(remove_duplicate=False)} == {
        name: (p.shape, p.requires_grad) for name, p in real.named_parameters(remove_duplicate=False)
    }


def test_ties_stay_ties_even_before_registration():
    groups = [entry.names for entry in parameters_of(skeleton(model, width=pg.oneof([3, 4])))]
    assert ["first.weight", "second.weight", "third.weight", "listed.1"] in groups
    assert [entry.names for entry in parameters_of(Model(4))] == groups


def test_random_states_are_left_alone():
    state, python = torch.get_rng_state(), random.getstate()
    skeleton(model, width=pg.oneof([3, 4]))
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == python
    assert not hooks


def reads_values(width):
    module = nn.Linear(2, width)
    module.scale = module.weight.abs().max().item()
    return module


def test_a_constructor_that_reads_its_parameters_is_built_for_real():
    state = torch.get_rng_state()
    built = skeleton(reads_values, width=pg.oneof([3, 4]))
    assert built.scale > 0
    assert built.weight.shape == (4, 2)
    assert torch.equal(torch.get_rng_state(), state)
    net = Supernet(nas.Space(nas.model(reads_values)(width=pg.oneof([3, 4])), name="reads"))
    x = torch.randn(1, 2)
    torch.testing.assert_close(net.eval()(x, net.space.smallest), net.extract(net.space.smallest)(x))


def fails(width):
    raise KeyError("no such width")


def test_a_failing_constructor_is_reported_and_leaves_no_hook():
    with pytest.raises(SpaceError, match="cannot be built: KeyError: 'no such width'"):
        skeleton(fails, width=pg.oneof([1, 2]))
    assert not hooks


def waits(width):
    inside.set()
    assert outside.wait(PATIENCE_S)
    return nn.Linear(2, width)


inside, outside = threading.Event(), threading.Event()


def test_other_threads_build_ordinary_modules_meanwhile():
    built = []
    thread = threading.Thread(target=lambda: built.append(skeleton(waits, width=pg.oneof([1, 2]))))
    thread.start()
    assert inside.wait(PATIENCE_S)
    ordinary = nn.Linear(2, 2)
    outside.set()
    thread.join()
    assert not ordinary.weight.is_meta
    assert built[0].weight.is_meta


def shares_a_module(width):
    layer = nn.Linear(width, width)
    return nn.Sequential(nn.Linear(2, width), layer, nn.ReLU(), layer)


def test_a_module_used_twice():
    net = Supernet(nas.Space(nas.model(shares_a_module)(width=pg.oneof([3, 4])), name="twice")).eval()
    assert net.get_parameter("1.weight") is net.get_parameter("3.weight")
    x = torch.randn(2, 2)
    for arch in net.space.enumerate():
        module = net.extract(arch)
        torch.testing.assert_close(module(x), net.bind(arch)(x))
        assert net.params(arch) == sum(parameter.numel() for parameter in module.parameters())


def test_weight_norm_shares_its_originals():
    net = Supernet(nas.Space(nas.model(normed)(width=pg.oneof([3, 4])), name="normed")).eval()
    x = torch.randn(2, 2)
    for arch in net.space.enumerate():
        torch.testing.assert_close(net.extract(arch)(x), net.bind(arch)(x))
        torch.testing.assert_close(net.extract(arch)(x), net(x, arch))


def normed(width):
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, width)), nn.Linear(width, 2))


def recurrent(width):
    return nn.LSTM(3, width, num_layers=2, batch_first=True)


def test_recurrent_layers_use_the_bound_weights():
    net = Supernet(nas.Space(nas.model(recurrent)(width=pg.oneof([3, 4])), name="lstm")).eval()
    x = torch.randn(2, 5, 3)
    for arch in net.space.enumerate():
        with torch.no_grad():
            torch.testing.assert_close(net(x, arch)[0], net.extract(arch)(x)[0])
        torch.testing.assert_close(net(x, arch)[0], net.extract(arch)(x)[0])


def gives_up(width):
    raise SupernetError("this one is ours")


def test_our_own_errors_keep_their_sentence():
    with pytest.raises(nas.NasError, match="this one is ours"):
        skeleton(gives_up, width=pg.oneof([1, 2]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu():
    from searchspaces import conv

    net = conv.supernet().cuda()
    images, arch = torch.randn(8, 1, 8, 8, device="cuda"), net.space.smallest
    binding = net.bind(arch)
    binding.backward(binding(images).square().sum())
    buffers = net.calibrate(arch, [images])
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(images, arch, buffers), net.extract(arch, buffers)(images))
    assert net.extract(arch).head.weight.device.type == "cuda"
    net.cpu()
    assert binding(images.cpu()).device.type == "cpu"
