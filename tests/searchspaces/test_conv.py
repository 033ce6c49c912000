"""The convolutional family."""

from __future__ import annotations

import torch

import nas
from searchspaces import conv
from tests.conformance.supernet import SupernetConformance, corner


class TestConv(SupernetConformance):
    def make(self):
        return conv.supernet(conv.space(widths=((4, 6), (6, 10)), depths=(1, 2), ratios=(1, 2), stem=4))

    def layouts(self, net):
        return {"*.depthwise.conv.weight": nas.CentreCrop((2, 3))}

    def inputs(self, samples):
        return torch.randn(samples, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def expected(self, name, state, shape):
        whole = state[name]
        if name.endswith("depthwise.conv.weight"):
            margin = (whole.shape[2] - shape[2]) // 2
            whole = whole[:, :, margin : margin + shape[2], margin : margin + shape[3]]
        return corner(whole, shape)

    def expected_macs(self, arch):
        choices, side, inputs = arch.choices, 8, 4
        total = side * side * 9 * inputs
        for stage in range(2):
            width = choices[f"widths[{stage}]"]
            for block in range(choices[f"depths[{stage}]"]):
                hidden = choices[f"ratios[{stage}][{block}]"] * width
                total += side * side * inputs * hidden
                side = side // 2 if stage and not block else side
                total += side * side * hidden * (choices[f"kernels[{stage}][{block}]"] ** 2 + width)
                inputs = width
        return total + inputs * 10


def test_default_space_has_the_size_that_is_promised():
    space = conv.space()
    assert space.size > 1_000_000
    net = conv.supernet(space)
    assert net.params(space.smallest) < 5_000
    assert 50_000 < net.params(space.largest) < 150_000
