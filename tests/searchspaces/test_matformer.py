"""The MatFormer family: encoder and decoder."""

from __future__ import annotations

import pytest
import torch

from nas.errors import SpaceError
from searchspaces import matformer
from tests.conformance.supernet import SupernetConformance


class TestEncoder(SupernetConformance):
    def make(self):
        return matformer.supernet(matformer.space(depth=2, width=16, heads=2))

    def inputs(self, samples):
        return torch.randn(samples, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def expected_macs(self, arch):
        tokens, width = 16, 16
        total = tokens * 4 * width + width * tokens * 0 + width * 10
        for layer in range(2):
            total += 4 * tokens * width**2 + 2 * tokens**2 * width
            total += 2 * tokens * width * arch.choices[f"hidden[{layer}]"]
        return total


class TestDecoder(SupernetConformance):
    def make(self):
        return matformer.supernet(matformer.space(depth=2, width=16, heads=2, causal=True, length=6, values=5))

    def inputs(self, samples):
        return torch.randint(0, 5, (samples, 6), generator=torch.Generator().manual_seed(0))

    def test_a_place_is_predicted_from_those_up_to_it(self, net):
        tokens = self.inputs(2)
        changed = tokens.clone()
        changed[:, 3] = (changed[:, 3] + 1) % 5
        net.eval()
        with torch.no_grad():
            for arch in (net.space.largest, net.space.smallest):
                before, after = net(tokens, arch), net(changed, arch)
                assert before.shape == (2, 6, 5)
                torch.testing.assert_close(before[:, :3], after[:, :3])
                assert not torch.allclose(before[:, 3:], after[:, 3:])

    def test_a_shorter_sequence_gives_the_first_places(self, net):
        tokens = self.inputs(2)
        with torch.no_grad():
            whole, part = net(tokens, net.space.largest), net(tokens[:, :4], net.space.largest)
        assert torch.allclose(whole[:, :4], part, atol=1e-5)


def test_granularities_are_the_uniform_archs_largest_first():
    space = matformer.space(depth=3, width=48)
    assert space.size == 4**3
    archs = matformer.granularities(space)
    assert [set(arch.choices.values()) for arch in archs] == [{192}, {96}, {48}, {24}]
    assert archs[0] == space.largest
    assert archs[-1] == space.smallest


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"fractions": (1, 400)}, r"fractions=\[1, 400\] do not fit 192 hidden units; f is from 1 .* to 192"),
        ({"fractions": (0,)}, r"fractions=\[0\] do not fit"),
        ({"fractions": ()}, r"fractions=\[\] do not fit"),
        ({"heads": 5}, "width=48 a multiple of heads=5"),
        ({"depth": 0}, "depth=0 must be 1 or more"),
        (
            {"value": 5, "causal": True},
            "the decoder has no option 'value'; did you mean 'values'.*it has length, values",
        ),
        ({"values": 5}, "the encoder has no option 'values'; it has side, patch, channels, classes"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(options, sentence):
    with pytest.raises(SpaceError, match=sentence):
        matformer.space(**options)
