"""Operations against formulas, on the meta device and off it."""

from __future__ import annotations

import pyglove as pg
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import nas
from nas.errors import SupernetError
from nas.supernet import Supernet
from tests.supernet import families


class Attention(nn.Module):
    """Attention and an LSTM; looks at values unless told not to."""

    def __init__(self, width, look):
        super().__init__()
        self.look = look
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.table = torch.ones(width)

    def forward(self, x):
        if self.look and (x == 0).all():
            x = x + 1
        q = x.unsqueeze(1) * self.table
        return self.lstm(functional.scaled_dot_product_attention(q, q, q).squeeze(1))[0]


@pytest.mark.parametrize("look", [False, True])
def test_attention_and_recurrent_layers_count(look):
    space = nas.Space(nas.model(Attention)(width=pg.oneof([4, 8]), look=look), name="attention")
    net = Supernet(space, example=torch.zeros(2, 5, 8))
    assert net.macs(space.largest) == 2 * 5 * 5 * 8 + 5 * 2 * (4 * 8 * 8)
    x = torch.ones(3, 7, 4)
    assert net.macs(space.smallest, x) == 2 * 7 * 7 * 4 + 7 * 2 * (4 * 4 * 4)


class Normed(nn.Module):
    """BatchNorm of images and of vectors, with and without statistics of its own; a side must come out as it went in."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.norms = nn.Sequential(nn.BatchNorm2d(width), nn.BatchNorm2d(width, affine=False))
        self.own = nn.BatchNorm2d(width, track_running_stats=False)
        self.vector = nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, 5))

    def forward(self, x):
        y = self.own(self.norms(self.conv(x)))
        return self.vector(y.permute(0, 2, 3, 1)[:, : y.shape[2], 0, :].mean(1))


def test_batch_norm_counts_for_nothing_and_keeps_sizes():
    net = Supernet(nas.Space(nas.model(Normed)(width=pg.oneof([4, 8])), name="normed"), example=torch.zeros(2, 3, 6, 7))
    for arch, width in ((net.space.smallest, 4), (net.space.largest, 8)):
        module = net.extract(arch).eval()
        with FlopCounterMode(display=False) as counter:  # torch's own, on numbers
            module(torch.zeros(1, 3, 6, 7))
        assert net.macs(arch) == counter.get_total_flops() // 2 == 6 * 7 * 27 * width + 5 * width


def test_counting_changes_nothing():
    net = Supernet(families.attention_mlp_space(), example=(torch.zeros(1, 5, 6),))
    arch = net.space.smallest
    before, state = {name: tensor.clone() for name, tensor in net.state_dict().items()}, torch.get_rng_state()
    count = net.macs(arch)
    assert net.macs(arch) == count
    assert net.bind(arch).module.scale.device.type == "cpu"
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_what_cannot_be_counted():
    net = Supernet(families.linear_space())
    with pytest.raises(SupernetError, match="macs needs inputs to count with; give example="):
        net.macs(net.space.largest)
    with pytest.raises(SupernetError, match="does not run on the example"):
        net.macs(net.space.largest, torch.zeros(1, 4))
    assert net.macs(net.space.largest, torch.zeros(1, 3)) == 3 * 8 + 8 * 2
