"""The family of text encoders: exits, prefixes, padding."""

from __future__ import annotations

import pytest
import torch

from nas.errors import SpaceError
from searchspaces import sentences
from tests.conformance.supernet import SupernetConformance

DIMS, DEPTHS = (2, 4, 12), (1, 2, 3)


def small(heads="shared", pooling="mean"):
    open_ = {"dims": DIMS, "depths": DEPTHS, "heads": heads, "pooling": pooling}
    return sentences.supernet(sentences.space(**open_, width=16, head=8, length=7, vocabulary=31))


def texts(samples):
    return torch.arange(samples * 7).reshape(samples, 7) * 11 % 30 + 1


class Encoders(SupernetConformance):
    heads = "shared"
    pooling = "mean"

    def make(self):
        return small(self.heads, self.pooling)

    def inputs(self, samples):
        return texts(samples)

    def expected_macs(self, arch):
        tokens, width = 7 + (self.pooling == "first"), 16
        block = 4 * tokens * width**2 + 2 * tokens**2 * width + 4 * tokens * width**2
        return arch.choices["depth"] * block + width * arch.choices["dim"]

    def test_every_granularity_is_read_from_the_largest_trunk(self, net):
        net.eval()
        with torch.no_grad():
            features = net.bind(net.space.largest).module.trunk(texts(3))
            for arch in net.space.enumerate():
                self.same(net.bind(arch).module.read(features), net(texts(3), arch))

    def test_a_smaller_embedding_is_the_prefix_of_a_larger_one(self, net):
        with torch.no_grad():
            for depth in DEPTHS:
                whole = net.extract(net.space.arch({"depth": depth, "dim": 12}))(texts(3))
                for dim in DIMS:
                    part = net.extract(net.space.arch({"depth": depth, "dim": dim}))(texts(3))
                    self.same(part, whole[:, :dim])


class TestSharedHead(Encoders):
    def test_there_is_one_head(self, net):
        assert [name for name in net.state_dict() if name.startswith("heads")] == ["heads.all.weight", "heads.all.bias"]


class TestFirstToken(Encoders):
    pooling = "first"


class TestSeparateHeads(Encoders):
    heads = "separate"

    def test_each_exit_has_its_own_head(self, net):
        weights = {name: tuple(value.shape) for name, value in net.state_dict().items() if name.startswith("heads")}
        assert {name for name in weights if name.endswith("weight")} == {f"heads.of_{d}.weight" for d in DEPTHS}
        assert weights["heads.of_2.weight"] == (12, 16)


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_padding_changes_nothing(pooling):
    module = small(pooling=pooling).extract(small(pooling=pooling).space.largest)
    with torch.no_grad():
        short = texts(3)[:, :4]
        padded = torch.cat([short, torch.zeros(3, 3, dtype=torch.int64)], 1)
        torch.testing.assert_close(module(padded), module(short))
        assert torch.isfinite(module(torch.zeros(1, 7, dtype=torch.int64))).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"dims": ()}, r"dims are \[\]; give numbers of 1 or more"),
        ({"depths": (0, 2)}, r"depths are \[0, 2\]"),
        ({"vocabulary": 1}, r"length and vocabulary are \[16, 1\]; give numbers of 2 or more"),
        ({"heads": "both"}, "heads='both' is not 'shared'"),
        ({"pooling": "last"}, "pooling='last' is not 'mean' or 'first'"),
        ({"width": 65}, "width=65 is to be a multiple of head=16"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(options, sentence):
    with pytest.raises(SpaceError, match=sentence):
        sentences.space(**options)
