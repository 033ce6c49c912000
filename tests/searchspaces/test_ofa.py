"""Once-for-all: the MobileNetV3-like family and the bottleneck one."""

from __future__ import annotations

import pytest
import torch

import nas
from searchspaces import ofa
from tests.conformance.supernet import SupernetConformance, corner, fill_distinct


class TestMobileNet(SupernetConformance):
    def make(self):
        small = {"widths": [4, 8], "stem": 4, "divisor": 2, "first": True, "features": [10, 6]}
        return ofa.supernet(ofa.space(depths=(1, 2), ratios=(2, 3), **small))

    def layouts(self, net):
        return {"stages.*.depthwise.conv.weight": nas.KernelTransform((7, 5, 3))}

    def inputs(self, samples):
        return torch.randn(samples, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def expected(self, name, state, shape):
        whole = state[name]
        if name.startswith("stages.") and name.endswith("depthwise.conv.weight"):
            whole = whole[: shape[0]]
            for big, small in ((7, 5), (5, 3)):
                if shape[2] < big:
                    centre = whole[:, 0, 1:-1, 1:-1].reshape(len(whole), small * small)
                    whole = (centre @ state[f"{name}_{big}to{small}"].T).reshape(-1, 1, small, small)
        return corner(whole, shape)

    def expected_macs(self, arch):
        choices, inputs = arch.choices, 4
        side = choices["resolution"]
        total = side * side * (9 * inputs + 9 * inputs + inputs * inputs)
        for stage, width in enumerate((4, 8)):
            for block in range(choices[f"depths[{stage}]"]):
                hidden = choices[f"ratios[{stage}][{block}]"] * inputs
                total += side * side * inputs * hidden
                side = -(-side // 2) if stage and not block else side
                total += side * side * hidden * (choices[f"kernels[{stage}][{block}]"] ** 2 + width)
                total += 2 * hidden * ofa.divisible(hidden // 4, 2) if stage else 0
                inputs = width
        return total + side * side * inputs * 10 + 10 * 6 + 6 * 10


class TestResNet(SupernetConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def net(cls):
        torch.set_num_threads(1)
        net = cls().make()
        fill_distinct(net)
        for name, tensor in net.state_dict().items():
            if name.endswith("running_mean"):
                tensor.sub_(1.5)  # around 0: above it the ReLU that ends each block leaves nothing to compare
        return net

    def make(self):
        small = {"stems": (4, 6), "widths": ((6, 8), (8, 12)), "ratios": (0.25, 0.5), "divisor": 2}
        return ofa.resnet_supernet(ofa.resnet_space(**small))

    def inputs(self, samples):
        return torch.randn(samples, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def expected_macs(self, arch):
        choices = arch.choices
        side, inputs = choices["resolution"], choices["stem"]
        half = ofa.divisible(inputs // 2, 2)
        total = side * side * 9 * (half + half * half + half * inputs)
        for stage in range(2):
            width = choices[f"widths[{stage}]"]
            for block in range(choices[f"depths[{stage}]"]):
                middle = ofa.divisible(round(width * choices[f"ratios[{stage}][{block}]"]), 2)
                total += side * side * inputs * middle
                side = side // 2 if stage and not block else side
                total += side * side * (9 * middle * middle + middle * width + (0 if block else inputs * width))
                inputs = width
        return total + inputs * 10


def test_published_size_is_reproduced():
    without = ofa.published(resolutions=None)
    assert without.size == sum(9**depth for depth in (2, 3, 4)) ** 5 == 7371**5
    assert 2.1e19 < without.size < 2.2e19
    assert ofa.published().size == 25 * without.size


def test_published_networks_have_the_papers_layers():
    space = ofa.published()
    net = nas.Supernet(space, layouts=ofa.layouts(space))
    largest, smallest = net.extract(space.largest), net.extract(space.smallest)
    assert [len(stage) for stage in largest.stages] == [4] * 5
    assert [len(stage) for stage in smallest.stages] == [2] * 5
    assert largest.stages[4][3].depthwise.conv.weight.shape == (960, 1, 7, 7)
    assert smallest.stages[4][1].depthwise.conv.weight.shape == (480, 1, 3, 3)
    image = torch.zeros(1, 3, 224, 224)
    assert net.macs(space.smallest, image) < 150e6
    assert net.macs(space.largest, image) > 500e6


def test_resnet_size_follows_from_its_choices():
    space = ofa.resnet_space(depths=((1, 2), (2, 3, 4)), resolutions=None)
    assert space.size == 2 * (2 * 2) * (3 + 9) * (9 + 27 + 81)


def test_default_spaces_suit_digits():
    space = ofa.space()
    assert space.size == 2 * (9 + 81 + 729) ** 2
    net = ofa.supernet(space)
    assert net.params(space.smallest) < 5_000
    assert 20_000 < net.params(space.largest) < 150_000
    assert net.macs(space.smallest) * 10 < net.macs(space.largest)


@pytest.mark.parametrize("side", [6, 8, 12])
def test_resolution_resizes_and_keeps_the_picture(side):
    ramp = torch.linspace(0, 1, 8).expand(1, 1, 8, 8)
    found = ofa.resized(ramp, side)
    assert found.shape == (1, 1, side, side)
    torch.testing.assert_close(found.mean(), ramp.mean())
    assert (found.diff(dim=-1) > 0).all()
    assert ofa.resized(ramp, None) is ramp


def test_a_space_without_elastic_kernels_has_no_transforms():
    space = ofa.space(kernels=(3,), depths=(1,), ratios=(2, 3))
    assert ofa.layouts(space) == {}
    assert ofa.supernet(space).params(space.largest) > 0
