"""BatchNorm statistics of one subnet, against torch's own cumulative average."""

from __future__ import annotations

import pyglove as pg
import pytest
import torch
from torch import nn

import nas
from nas.errors import SupernetError
from nas.supernet import Supernet
from searchspaces import conv
from tests.supernet import families


@pytest.fixture(scope="module")
def net():
    return conv.supernet(conv.space(widths=((4, 6),), depths=(1, 2), ratios=(1, 2), stem=4))


def batches(*sizes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, 1, 8, 8, generator=generator) for size in sizes]


def test_equal_batches_give_torchs_cumulative_average(net):
    arch, data = net.space.smallest, batches(8, 8, 8)
    module = net.extract(arch)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
    with torch.no_grad():
        for batch in data:
            module(batch)
    buffers = net.calibrate(arch, data)
    assert set(buffers) == set(dict(module.named_buffers()))
    for name, tensor in module.named_buffers():
        torch.testing.assert_close(buffers[name], tensor, rtol=1e-5, atol=1e-6)


def test_batches_weigh_as_much_as_their_samples(net):
    arch, data = net.space.largest, batches(4, 12)
    buffers = net.calibrate(arch, data)
    stem = net.extract(arch).stem.conv
    with torch.no_grad():
        outputs = [stem(batch) for batch in data]
    mean = sum(len(out) * out.mean((0, 2, 3)) for out in outputs) / 16
    variance = sum(len(out) * out.var((0, 2, 3)) for out in outputs) / 16
    torch.testing.assert_close(buffers["stem.norm.running_mean"], mean)
    torch.testing.assert_close(buffers["stem.norm.running_var"], variance)


def test_supernet_is_left_alone_and_buffers_are_used(net):
    arch, data = net.space.smallest, batches(8)
    for training in (True, False):
        net.train(training)
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        buffers = net.calibrate(arch, iter(data))
        assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
        assert net.training == training
        assert all(
            layer.momentum == 0.1 for layer in net.bind(arch).module.modules() if isinstance(layer, nn.BatchNorm2d)
        )
    with torch.no_grad():
        calibrated = net(data[0], arch, buffers)
        assert not torch.allclose(calibrated, net(data[0], arch))
        torch.testing.assert_close(net.extract(arch, buffers)(data[0]), calibrated)
    torch.testing.assert_close(net(data[0], arch, buffers), calibrated)
    # with its own batch's statistics, up to the bias of the variance
    expected = net.extract(arch).train()(data[0])
    torch.testing.assert_close(calibrated, expected, rtol=0.05, atol=0.02)


def test_other_layers_are_in_eval_mode():
    net = Supernet(nas.Space(nas.model(dropping)(width=pg.oneof([3, 4])), name="dropping"))
    data = torch.randn(64, 3)
    buffers = net.calibrate(net.space.largest, [data])
    linear = net.extract(net.space.largest)[0]
    torch.testing.assert_close(buffers["2.running_mean"], linear(data).mean(0).detach())


def dropping(width):
    return nn.Sequential(nn.Linear(3, width), nn.Dropout(0.9), nn.BatchNorm1d(width))


class Twice(nn.Module):
    """One BatchNorm called on two activations."""

    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(3, width)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x):
        return self.norm(self.linear(x)) + self.norm(self.linear(x[: len(x) // 3]) * 5).mean()


def test_a_layer_called_twice_averages_both():
    net = Supernet(nas.Space(nas.model(Twice)(width=pg.oneof([3, 4])), name="twice"))
    data = torch.randn(9, 3)
    buffers = net.calibrate(net.space.smallest, [data])
    linear = net.extract(net.space.smallest).linear
    with torch.no_grad():
        first, second = linear(data), linear(data[:3]) * 5
    torch.testing.assert_close(buffers["norm.running_mean"], (9 * first.mean(0) + 3 * second.mean(0)) / 12)


def test_models_without_statistics_have_none():
    net = Supernet(families.linear_space())
    assert net.calibrate(net.space.largest, [torch.zeros(1, 3)]) == {}


def test_no_batch_is_an_error(net):
    with pytest.raises(SupernetError, match="calibration got no batch"):
        net.calibrate(net.space.largest, [])


def test_a_failing_batch_leaves_everything_as_it_was(net):
    arch = net.space.largest
    net.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(ValueError, match="expected 4D input"):
        net.calibrate(arch, [*batches(4), torch.zeros(1, 2, 3)])
    module = net.bind(arch).module
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in module.modules())
    assert all(layer.training for layer in module.modules())
