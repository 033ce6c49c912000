"""The convolutional family runs."""

from __future__ import annotations

import pickle
import random

import pytest
import torch

from searchspaces import conv

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def net():
    return conv.supernet()


def test_extracted_subnet_equals_supernet(net):
    images = torch.randn(4, 1, 8, 8)
    net.eval()
    for arch in [net.space.largest, net.space.smallest, net.space.sample(random.Random(0))]:
        module = net.extract(arch)
        with torch.no_grad():
            assert torch.equal(module(images), net(images, arch))
        assert sum(p.numel() for p in module.parameters()) == net.params(arch)


def test_bound_gradients_equal_forward_gradients(net):
    images = torch.randn(4, 1, 8, 8)
    arch = net.space.sample(random.Random(1))
    net.train().zero_grad(set_to_none=True)
    net(images, arch).square().sum().backward()
    expected = {name: p.grad for name, p in net.named_parameters()}
    net.zero_grad(set_to_none=True)
    binding = net.bind(arch)
    binding.backward(binding(images).square().sum())
    for name, p in net.named_parameters():
        if expected[name] is None:
            assert p.grad is None
        else:
            torch.testing.assert_close(p.grad, expected[name])


def test_checkpoint_and_pickle(net, tmp_path):
    images = torch.randn(4, 1, 8, 8)
    net.save(tmp_path)
    arch = net.space.sample(random.Random(2))
    again = type(net).load(tmp_path, net.space)
    revived = pickle.loads(pickle.dumps(net))
    outputs = [each.eval()(images, arch) for each in (net, again, revived)]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
