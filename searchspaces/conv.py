"""An elastic convolutional network for small images: kernel and width of every block, width and depth of every stage.

Inverted residual blocks (Sandler et al. 2018, "MobileNetV2") made elastic as in Cai et al. 2020, "Once-for-All": smaller
kernels are the centre of larger ones, narrower blocks the first channels of wider ones, shallower stages the first blocks of
deeper ones.  The space is written flat, with a kernel and a ratio for every block that a stage can have; those beyond a
stage's depth are inactive.

It has BatchNorm, so a subnet's running statistics are calibrated before it is evaluated; `nas.Accuracy` does so itself.
The stem is a plain 3×3 convolution at full resolution, because on 8×8 images every pixel counts.

Copy this file to begin a family of your own: a model function, a space, a supernet.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyglove as pg
import torch
from torch import Tensor, nn

import nas


class ConvNorm(nn.Sequential):
    """Convolution and BatchNorm, with ReLU unless told not to."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.activation = nn.ReLU(inplace=True) if relu else nn.Identity()


class Block(nn.Module):
    """Inverted residual: widen with 1×1, filter each channel with k×k, narrow with 1×1."""

    def __init__(self, inputs: int, outputs: int, hidden: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.widen = ConvNorm(inputs, hidden, 1)
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride, groups=hidden)
        self.narrow = ConvNorm(hidden, outputs, 1, relu=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h / stride, w / stride)."""
        y: Tensor = self.narrow(self.depthwise(self.widen(x)))
        return x + y if self.residual else y


class ConvNet(nn.Module):
    """Stem, stages, average over the image, classifier."""

    def __init__(self, stem: nn.Module, stages: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.stem = stem
        self.stages = stages
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, h, w) -> (n, classes)."""
        # Depthwise convolutions train three times as fast with the channels last in memory (CPU).
        x = self.stem(images).contiguous(memory_format=torch.channels_last)
        y: Tensor = self.head(self.stages(x).mean((2, 3)))
        return y


@nas.model
def conv_net(
    *,
    widths: Sequence[int],
    depths: Sequence[int],
    kernels: Sequence[Sequence[int]],
    ratios: Sequence[Sequence[int]],
    stem: int = 16,
    channels: int = 1,
    classes: int = 10,
) -> nn.Module:
    """Stages of inverted residual blocks; every stage but the first halves the image.

    Args:
        widths: channels of each stage.
        depths: blocks of each stage.
        kernels: kernel length of each block of each stage; those beyond the depth are not used.
        ratios: hidden channels of each block, as multiples of its stage's width.
        stem: channels of the first convolution.
        channels: of the images.
        classes: to tell apart.
    """
    stages = []
    inputs = stem
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        blocks: list[nn.Module] = []
        for kernel, ratio in list(zip(kernels[stage], ratios[stage], strict=True))[:depth]:
            stride = 2 if stage and not blocks else 1
            blocks.append(Block(inputs, width, ratio * width, kernel, stride))
            inputs = width
        stages.append(nn.Sequential(*blocks))
    return ConvNet(ConvNorm(channels, stem, 3), nn.Sequential(*stages), nn.Linear(inputs, classes))


def space(
    *,
    widths: Sequence[Sequence[int]] = ((12, 16), (24, 40)),
    depths: Sequence[int] = (1, 2, 3),
    kernels: Sequence[int] = (3, 5, 7),
    ratios: Sequence[int] = (1, 2, 3),
    stem: int = 16,
    channels: int = 1,
    classes: int = 10,
) -> nas.Space:
    """The space; the defaults suit 8×8 digits, and more stages suit bigger images.

    Args:
        widths: choices of each stage's width; their number is the number of stages.
        depths: choices of every stage's depth.
        kernels: choices of every block's kernel length.
        ratios: choices of every block's ratio.
        stem: channels of the first convolution.
        channels: of the images.
        classes: to tell apart.
    """
    stages, deepest = range(len(widths)), range(max(depths))
    value = conv_net(
        widths=[pg.oneof(list(width)) for width in widths],
        depths=[pg.oneof(list(depths)) for _ in stages],
        kernels=[[pg.oneof(list(kernels)) for _ in deepest] for _ in stages],
        ratios=[[pg.oneof(list(ratios)) for _ in deepest] for _ in stages],
        stem=stem,
        channels=channels,
        classes=classes,
    )
    active = {
        f"{knob}[{stage}][{block}]": (f"depths[{stage}]", {depth for depth in depths if depth > block})
        for knob in ("kernels", "ratios")
        for stage in stages
        for block in deepest
        if block >= min(depths)
    }
    return nas.Space(value, name="conv", active_when=active)


def supernet(space_: nas.Space | None = None, *, side: int = 8, seed: int = 0) -> nas.Supernet:
    """A fresh supernet of `space_`, by default that of 8×8 digits.

    Args:
        space_: a space of `conv_net`.
        side: height and width of the images that operations are counted for.
        seed: of the initial weights.
    """
    space_ = space_ or space()
    return nas.Supernet(
        space_,
        layouts={"*.depthwise.conv.weight": nas.CentreCrop((2, 3))},
        example=torch.zeros(1, space_.value.channels, side, side),
        seed=seed,
    )
