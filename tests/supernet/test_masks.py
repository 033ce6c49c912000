"""Masks of the largest arch in the place of subnets: where they are equal, and where it is said that they are not."""

from __future__ import annotations

import random

import pyglove as pg
import pytest
import torch
from torch import Tensor, nn

import nas
from nas.supernet import Supernet
from nas.supernet.calibration import own_statistics
from nas.supernet.masks import Masks
from nas.supernet.relaxation import Relaxation, tried
from searchspaces import conv, vit
from tests.train.family import mlp


def images(n: int = 4) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def masks_of(net: Supernet) -> Masks:
    return tried(Masks, net, images())


def options_of(masks: Masks, name: str) -> dict[str, Tensor]:
    """Parameter -> (options, …) the masks of a decision, on the largest arch."""
    space = masks.supernet.space
    found = masks.of(space.largest, space.names.index(name))
    assert found is not None
    return found


def assert_subnets(relaxation: Relaxation, draw: random.Random, count: int = 10) -> None:
    """In float32, to the last bits, on the supernet's own weights."""
    net = relaxation.supernet
    with torch.no_grad():
        for _ in range(count):
            arch = net.space.sample(draw)
            binding = net.bind(arch)
            with own_statistics(binding):
                expected = binding.module(images())
            got = relaxation.output(relaxation.whole(arch), images(), relaxation.sharp(arch))
            assert torch.allclose(got, expected, rtol=1e-5, atol=1e-6)


def gated() -> Supernet:
    return conv.supernet(conv.space(widths=((4,), (6,)), depths=(1, 2, 3), kernels=(3, 5), ratios=(1, 2, 3), stem=4))


def test_every_decision_of_fixed_widths_is_a_mask_and_archs_are_their_product() -> None:
    """With the supernet's own weights, in float32, to the last bits."""
    net, draw = gated(), random.Random(0)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    masks = masks_of(net)
    assert not masks.unfit
    assert masks.relaxed == [p for p, one in enumerate(net.space.decisions) if len(one.labels) > 1]
    assert all(masks.whole(net.space.sample(draw)) == net.space.largest for _ in range(5))
    assert_subnets(masks, draw)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_only_readers_and_last_layers_are_masked() -> None:
    """A mask on what writes would make the gradient of growing a unit a product of two zeros."""
    net = gated()
    masks = masks_of(net)
    ratio = options_of(masks, "ratios[0][0]")
    assert {*ratio} == {"stages.0.0.narrow.conv.weight"}
    assert ratio["stages.0.0.narrow.conv.weight"].flatten(1).mean(1).tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    depth = options_of(masks, "depths[1]")
    assert {*depth} == {f"stages.1.{block}.narrow.norm.{part}" for block in (1, 2) for part in ("weight", "bias")}
    kernel = options_of(masks, "kernels[0][1]")["stages.0.1.depthwise.conv.weight"][0]
    assert kernel.sum(dim=(2, 3)).eq(9).all()


def test_a_width_that_switches_a_residual_connection_on_is_told() -> None:
    """Stages as wide as the stem have one in their first block; widths and ratios together are no product, either."""
    net = conv.supernet(conv.space(widths=((4, 6), (6, 8)), depths=(1, 2), kernels=(3,), ratios=(1, 2), stem=4))
    masks = masks_of(net)
    assert "4 computes something else than the largest arch with masks" in masks.unfit["widths[0]"]
    assert "together are not the subnet" in masks.unfit["widths[1]"]
    assert {*masks.unfit} == {"widths[0]", "widths[1]"}


def test_other_decisions_are_masks_of_the_largest_arch_of_each_width() -> None:
    """Also where that width has the residual connection that the largest has not."""
    net = conv.supernet(conv.space(widths=((4, 6), (6, 8)), depths=(1, 2), kernels=(3,), ratios=(1, 2), stem=4))
    masks, draw = masks_of(net), random.Random(1)
    wholes = [masks.whole(net.space.sample(draw)).choices for _ in range(30)]
    assert len({tuple(choices.items()) for choices in wholes}) == 4
    assert {(choices["widths[0]"], choices["widths[1]"]) for choices in wholes} == {(4, 6), (4, 8), (6, 6), (6, 8)}
    assert_subnets(masks, draw, 20)


def test_normalisations_along_a_width_are_told() -> None:
    masks = masks_of(vit.supernet(vit.space(widths=(16, 32), depths=(1, 2), heads=(1, 2), ratios=(1, 2), head=8)))
    assert "width" in masks.unfit
    assert "ratios[0]" not in masks.unfit


def test_a_width_of_a_plain_network_is_a_mask() -> None:
    space = nas.Space(mlp(width=pg.oneof([8, 16, 32]), depth=0), name="plain")
    masks = masks_of(Supernet(space, example=images(1)))
    assert not masks.unfit
    assert options_of(masks, "width")["head.weight"].flatten(1).mean(1).tolist() == [0.25, 0.5, 1.0]


@nas.model
def either(wide: bool, rate: float) -> nn.Module:
    model = nn.Sequential()
    model.flat = nn.Flatten()
    model.first = nn.Linear(64, 8, bias=wide)
    model.act = nn.LeakyReLU(rate)
    model.head = nn.Linear(8, 10)
    return model


@pytest.mark.parametrize(
    ("space", "name", "why"),
    [
        (nas.Space(either(wide=True, rate=pg.floatv(0.0, 0.5)), name="float"), "rate", "it is a number"),
        (nas.Space(either(wide=True, rate=pg.oneof([0.0, 0.3])), name="slope"), "rate", "computes something else"),
    ],
    ids=["float", "slope"],
)
def test_what_is_no_mask_is_told(space: nas.Space, name: str, why: str) -> None:
    masks = masks_of(Supernet(space, example=images(1)))
    assert why in masks.unfit[name]
    assert not masks.relaxed


def test_learned_kernel_transforms_are_told() -> None:
    space = conv.space(widths=((4,),), depths=(1,), kernels=(3, 5), ratios=(1, 2), stem=4)
    layouts = {"*.depthwise.conv.weight": nas.KernelTransform((5, 3))}
    masks = masks_of(Supernet(space, layouts=layouts, example=images(1)))
    assert "kernels[0][0]" in masks.unfit
    assert [space.names[p] for p in masks.relaxed] == ["ratios[0][0]"]
