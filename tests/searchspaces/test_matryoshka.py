"""The Matryoshka family: prefixes and depths."""

from __future__ import annotations

import pytest
import torch

from nas.errors import SpaceError
from searchspaces import matryoshka
from tests.conformance.supernet import SupernetConformance

DIMS, DEPTHS = (2, 4, 8, 16), (1, 2, 3)


def images(samples):
    return torch.randn(samples, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def small(heads="shared"):
    return matryoshka.supernet(matryoshka.space(dims=DIMS, depths=DEPTHS, heads=heads, width=16, head=8))


class Encoders(SupernetConformance):
    heads = "shared"

    def make(self):
        return small(self.heads)

    def inputs(self, samples):
        return images(samples)

    def expected_macs(self, arch):
        tokens, width = 16, 16
        block = 3 * tokens * width**2 + 2 * tokens**2 * width + tokens * width**2 + 2 * tokens * width * 2 * width
        return tokens * 4 * width + arch.choices["depth"] * block + arch.choices["dim"] * 10

    def test_every_granularity_is_read_from_the_largest_trunk(self, net):
        inputs = images(3)
        net.eval()
        with torch.no_grad():
            features = net.bind(net.space.largest).module.trunk(inputs)
            for arch in net.space.enumerate():
                self.same(net.bind(arch).module.read(features), net(inputs, arch))

    def test_a_smaller_embedding_is_the_prefix_of_a_larger_one(self, net):
        with torch.no_grad():
            for depth in DEPTHS:
                whole = net.extract(net.space.arch({"depth": depth, "dim": 16})).embed(images(3))
                assert whole.shape == (3, 16)
                for dim in DIMS:
                    module = net.extract(net.space.arch({"depth": depth, "dim": dim}))
                    self.same(module.embed(images(3)), whole[:, :dim])


class TestSharedHead(Encoders):
    def test_there_is_one_head(self, net):
        assert [name for name in net.state_dict() if name.startswith("heads")] == ["heads.all.weight", "heads.all.bias"]
        assert net.state_dict()["heads.all.weight"].shape == (10, 16)


class TestSeparateHeads(Encoders):
    heads = "separate"

    def test_each_prefix_has_its_own_head(self, net):
        shapes = {name: tuple(value.shape) for name, value in net.state_dict().items() if name.endswith("weight")}
        assert {name: shape for name, shape in shapes.items() if name.startswith("heads")} == {
            f"heads.of_{dim}.weight": (10, dim) for dim in DIMS
        }


def test_the_default_space_has_the_six_prefixes():
    space = matryoshka.space()
    assert space.size == 6
    assert space.largest.choices["dim"] == 64
    assert matryoshka.space(depths=(1, 2)).size == 12


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"dims": (8, 128)}, r"dims=\[8, 128\] do not fit an embedding of 64 numbers; choose prefixes from 1 to 64"),
        ({"dims": ()}, r"dims=\[\] do not fit"),
        ({"dims": (0, 8)}, r"dims=\[0, 8\] do not fit"),
        ({"depths": (0, 2)}, r"depths=\[0, 2\] are not numbers of blocks"),
        ({"heads": "both"}, "heads='both' is not 'shared'"),
        ({"width": 65}, "width=65 is to be a multiple of head=16"),
        ({"patch": 3}, "side=8 one of patch=3"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(options, sentence):
    with pytest.raises(SpaceError, match=sentence):
        matryoshka.space(**options)
