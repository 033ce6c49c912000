"""Once-for-all networks: inverted residuals with elastic kernel, depth, width and resolution, and a bottleneck version.

Cai et al. 2020, "Once-for-All: Train One Network and Specialize it for Efficient Deployment".  `space()` and `supernet()`
are the MobileNetV3-like family (Howard et al. 2019): a smaller depthwise kernel is the centre of the larger one times a learned
matrix (7→5→3, `nas.KernelTransform`), a narrower block has the first hidden channels, a shallower stage the first
blocks.  `resnet_space()` and `resnet_supernet()` are the bottleneck family after ResNet-D (He et al. 2019, "Bag of Tricks"),
whose stages are elastic in width too.  Defaults suit 8×8 digits; `published()` is the paper's space.

Where this is not the paper's code: an image is resized inside the model (bilinear, antialiased), so that resolution is a
decision of the arch like any other; the bottleneck family has no optional convolution in its stem.

Both have BatchNorm, so a subnet is calibrated before it is evaluated; `nas.Accuracy` does so itself.  `READERS` names the
tensors by which the paper measures a channel's importance.  Copy this file to begin a family of your own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyglove as pg
import torch
from torch import Tensor, nn
from torch.nn import functional

import nas

READERS = ("*.narrow.conv.weight", "*.squeeze.expand.weight")
"""Hidden channels matter as much as the last convolution that reads them, a squeeze-excite's as its second layer."""


def divisible(value: float, divisor: int = 8) -> int:
    """The multiple of `divisor` next to `value`, and not less than nine tenths of it (Howard et al. 2019).

    >>> divisible(4 * 24), divisible(0.35 * 24), divisible(18)
    (96, 8, 24)
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def resized(images: Tensor, side: int | None) -> Tensor:
    """(n, c, h, w) -> (n, c, side, side); None leaves them as they are."""
    if side is None or images.shape[-2:] == (side, side):
        return images
    return functional.interpolate(images, (side, side), mode="bilinear", antialias=True)


class ConvNorm(nn.Sequential):
    """Convolution, BatchNorm, activation."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, act: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.act = act or nn.Identity()


class SqueezeExcite(nn.Module):
    """Scales each channel by a number between 0 and 1 that is computed from the averages of all (Hu et al. 2018)."""

    def __init__(self, channels: int, divisor: int) -> None:
        super().__init__()
        middle = divisible(channels // 4, divisor)
        self.reduce = nn.Conv2d(channels, middle, 1)
        self.expand = nn.Conv2d(middle, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> the same."""
        y = self.expand(functional.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * functional.hardsigmoid(y)


class Inverted(nn.Module):
    """Inverted residual: widen with 1×1, filter each channel with k×k, squeeze and excite, narrow with 1×1."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        ratio: float,
        kernel: int,
        stride: int,
        squeeze: bool,
        swish: bool,
        divisor: int,
    ) -> None:
        super().__init__()
        hidden = inputs if ratio == 1 else divisible(round(inputs * ratio), divisor)
        self.widen = ConvNorm(inputs, hidden, 1, act=_act(swish)) if ratio != 1 else nn.Identity()
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride, groups=hidden, act=_act(swish))
        self.squeeze = SqueezeExcite(hidden, divisor) if squeeze else nn.Identity()
        self.narrow = ConvNorm(hidden, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h / stride, w / stride)."""
        y: Tensor = self.narrow(self.squeeze(self.depthwise(self.widen(x))))
        return x + y if self.residual else y


class Bottleneck(nn.Module):
    """1×1 down, 3×3, 1×1 up; a shortcut that changes shape averages before it projects (ResNet-D)."""

    def __init__(self, inputs: int, outputs: int, middle: int, stride: int, *, project: bool) -> None:
        super().__init__()
        self.reduce = ConvNorm(inputs, middle, 1, act=_act(swish=False))
        self.filter = ConvNorm(middle, middle, 3, stride, act=_act(swish=False))
        self.narrow = ConvNorm(middle, outputs, 1)
        pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
        self.shortcut = nn.Sequential(pool, ConvNorm(inputs, outputs, 1)) if project else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h / stride, w / stride)."""
        return functional.relu(self.shortcut(x) + self.narrow(self.filter(self.reduce(x))))


class Network(nn.Module):
    """Resizing, stem, stages, an optional 1×1 to more channels, average over the image, classifier."""

    def __init__(self, side: int | None, stem: nn.Module, stages: nn.Module, final: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.side = side
        self.stem = stem
        self.stages = stages
        self.final = final
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, h, w) -> (n, classes)."""
        # Depthwise convolutions train three times as fast with the channels last in memory (CPU).
        x = self.stem(resized(images, self.side)).contiguous(memory_format=torch.channels_last)
        y: Tensor = self.head(self.final(self.stages(x)).mean((2, 3)))
        return y


def _act(swish: bool) -> nn.Module:
    return nn.Hardswish(inplace=True) if swish else nn.ReLU(inplace=True)


@nas.model
def mobilenet(
    *,
    depths: Sequence[int],
    kernels: Sequence[Sequence[int]],
    ratios: Sequence[Sequence[float]],
    resolution: int | None = None,
    widths: Sequence[int] = (12, 24),
    strides: Sequence[int] = (1, 2),
    squeeze: Sequence[bool] = (False, True),
    swish: Sequence[bool] = (False, True),
    stem: int = 12,
    stem_stride: int = 1,
    first: bool = False,
    features: Sequence[int] = (),
    divisor: int = 4,
    channels: int = 1,
    classes: int = 10,
) -> nn.Module:
    """Stages of inverted residuals.

    Args:
        depths: blocks of each stage.
        kernels: kernel length of each block of each stage; those beyond the depth are not used.
        ratios: hidden channels of each block, as multiples of its input's.
        resolution: images are resized to this many pixels a side; None takes them as they are.
        widths: channels of each stage.
        strides: of the first block of each stage.
        squeeze: whether the blocks of a stage have squeeze-excite.
        swish: whether the blocks of a stage have hard swish, not ReLU.
        stem: channels of the first convolution.
        stem_stride: of the first convolution.
        first: a fixed 3×3 block of ratio 1 follows the stem.
        features: channels of a last 1×1 convolution, and of a layer between average and classifier; () has neither.
        divisor: hidden channels are multiples of it.
        channels: of the images.
        classes: to tell apart.
    """
    start = nn.Sequential(ConvNorm(channels, stem, 3, stem_stride, act=_act(swish=True)))
    if first:
        start.append(Inverted(stem, stem, ratio=1, kernel=3, stride=1, squeeze=False, swish=False, divisor=divisor))
    stages, inputs = nn.Sequential(), stem
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        blocks = nn.Sequential()
        for kernel, ratio in list(zip(kernels[stage], ratios[stage], strict=True))[:depth]:
            stride = 1 if len(blocks) else strides[stage]
            block = Inverted(
                inputs,
                width,
                ratio=ratio,
                kernel=kernel,
                stride=stride,
                squeeze=squeeze[stage],
                swish=swish[stage],
                divisor=divisor,
            )
            blocks.append(block)
            inputs = width
        stages.append(blocks)
    if not features:
        return Network(resolution, start, stages, nn.Identity(), nn.Linear(inputs, classes))
    final = ConvNorm(inputs, features[0], 1, act=_act(swish=True))
    mix = nn.Linear(features[0], features[1], bias=False)
    return Network(
        resolution, start, stages, final, nn.Sequential(mix, _act(swish=True), nn.Linear(features[1], classes))
    )


def space(
    *,
    stages: int = 2,
    depths: Sequence[int] = (1, 2, 3),
    kernels: Sequence[int] = (3, 5, 7),
    ratios: Sequence[float] = (2, 3, 4),
    resolutions: Sequence[int] | None = (6, 8),
    **fixed: Any,
) -> nas.Space:
    """The MobileNetV3-like space.

    Args:
        stages: their number.
        depths: choices of every stage's depth.
        kernels: choices of every block's kernel length.
        ratios: choices of every block's ratio.
        resolutions: choices of the images' side in pixels; None leaves images as they are, and no decision.
        fixed: further arguments of `mobilenet`, which no decision is about.
    """
    deepest = range(max(depths))
    value = mobilenet(
        depths=[pg.oneof(list(depths)) for _ in range(stages)],
        kernels=[[pg.oneof(list(kernels)) for _ in deepest] for _ in range(stages)],
        ratios=[[pg.oneof(list(ratios)) for _ in deepest] for _ in range(stages)],
        resolution=pg.oneof(list(resolutions)) if resolutions else None,
        **fixed,
    )
    active = _beyond(("kernels", "ratios"), [list(depths)] * stages)
    return nas.Space(value, name="ofa-mobilenet", active_when=active)


def published(*, resolutions: Sequence[int] | None = tuple(range(128, 225, 4)), classes: int = 1000) -> nas.Space:
    """The paper's space for ImageNet: 7371⁵ ≈ 2·10¹⁹ networks, times 25 resolutions.

    Args:
        resolutions: choices of the images' side in pixels; None leaves images as they are.
        classes: to tell apart.
    """
    return space(
        stages=5,
        depths=(2, 3, 4),
        kernels=(3, 5, 7),
        ratios=(3, 4, 6),
        resolutions=resolutions,
        widths=[24, 40, 80, 112, 160],
        strides=[2, 2, 2, 1, 2],
        squeeze=[False, True, False, True, True],
        swish=[False, False, True, True, True],
        stem=16,
        stem_stride=2,
        first=True,
        features=[960, 1280],
        divisor=8,
        channels=3,
        classes=classes,
    )


def supernet(space_: nas.Space | None = None, *, side: int = 8, seed: int = 0) -> nas.Supernet:
    """A fresh supernet of `space_`, by default that of 8×8 digits.

    Args:
        space_: a space of `mobilenet`.
        side: height and width of the images that operations are counted for.
        seed: of the initial weights.
    """
    space_ = space_ or space()
    example = torch.zeros(1, space_.value.channels, side, side)
    return nas.Supernet(space_, layouts=layouts(space_), example=example, seed=seed)


def layouts(space_: nas.Space) -> dict[str, nas.KernelTransform]:
    """How the elastic kernels of a space of `mobilenet` are cut."""
    kernels = [one for one in space_.decisions if one.name.startswith("kernels[")]
    sizes = {label for one in kernels for label in one.labels if isinstance(label, int)}
    if len(sizes) < 2:
        return {}
    # Not the fixed block after the stem, whose kernel is the smallest there is.
    return {"stages.*.depthwise.conv.weight": nas.KernelTransform(sorted(sizes, reverse=True))}


@nas.model
def resnet(
    *,
    stem: int,
    widths: Sequence[int],
    depths: Sequence[int],
    ratios: Sequence[Sequence[float]],
    resolution: int | None = None,
    strides: Sequence[int] = (1, 2),
    stem_stride: int = 1,
    divisor: int = 4,
    channels: int = 1,
    classes: int = 10,
) -> nn.Module:
    """Stages of bottleneck blocks.

    Args:
        stem: channels of the stem's last convolution; those before it have half as many.
        widths: channels of each stage.
        depths: blocks of each stage.
        ratios: channels inside each block, as fractions of its stage's width; those beyond the depth are not used.
        resolution: images are resized to this many pixels a side; None takes them as they are.
        strides: of the first block of each stage.
        stem_stride: of the first convolution; with 2, a 3×3 maximum of stride 2 follows the stem.
        divisor: channels inside blocks are multiples of it.
        channels: of the images.
        classes: to tell apart.
    """
    half = divisible(stem // 2, divisor)
    start = nn.Sequential(
        ConvNorm(channels, half, 3, stem_stride, act=_act(swish=False)),
        ConvNorm(half, half, 3, act=_act(swish=False)),
        ConvNorm(half, stem, 3, act=_act(swish=False)),
    )
    if stem_stride > 1:
        start.append(nn.MaxPool2d(3, 2, 1))
    stages, inputs = nn.Sequential(), stem
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        blocks = nn.Sequential()
        for ratio in ratios[stage][:depth]:
            middle = divisible(round(width * ratio), divisor)
            # The first block projects even where widths happen to agree, so that all archs have the same layers.
            entry = not len(blocks)
            blocks.append(Bottleneck(inputs, width, middle, strides[stage] if entry else 1, project=entry))
            inputs = width
        stages.append(blocks)
    return Network(resolution, start, stages, nn.Identity(), nn.Linear(inputs, classes))


def resnet_space(
    *,
    stems: Sequence[int] = (8, 12),
    widths: Sequence[Sequence[int]] = ((16, 24), (32, 48)),
    depths: Sequence[Sequence[int]] = ((1, 2), (1, 2)),
    ratios: Sequence[float] = (0.25, 0.35, 0.5),
    resolutions: Sequence[int] | None = (6, 8),
    **fixed: Any,
) -> nas.Space:
    """The ResNet-D-like space.

    Args:
        stems: choices of the stem's channels.
        widths: choices of each stage's width; their number is the number of stages.
        depths: choices of each stage's depth.
        ratios: choices of every block's ratio.
        resolutions: choices of the images' side in pixels; None leaves images as they are, and no decision.
        fixed: further arguments of `resnet`, which no decision is about.
    """
    value = resnet(
        stem=pg.oneof(list(stems)),
        widths=[pg.oneof(list(width)) for width in widths],
        depths=[pg.oneof(list(depth)) for depth in depths],
        ratios=[[pg.oneof(list(ratios)) for _ in range(max(depth))] for depth in depths],
        resolution=pg.oneof(list(resolutions)) if resolutions else None,
        **fixed,
    )
    return nas.Space(value, name="ofa-resnet", active_when=_beyond(("ratios",), depths))


def resnet_supernet(space_: nas.Space | None = None, *, side: int = 8, seed: int = 0) -> nas.Supernet:
    """A fresh supernet of `space_`, by default that of 8×8 digits.

    Args:
        space_: a space of `resnet`.
        side: height and width of the images that operations are counted for.
        seed: of the initial weights.
    """
    space_ = space_ or resnet_space()
    return nas.Supernet(space_, example=torch.zeros(1, space_.value.channels, side, side), seed=seed)


def _beyond(knobs: Sequence[str], depths: Sequence[Sequence[int]]) -> Mapping[str, tuple[str, set[int]]]:
    """Conditions that switch off the knobs of blocks beyond their stage's depth."""
    return {
        f"{knob}[{stage}][{block}]": (f"depths[{stage}]", {depth for depth in choices if depth > block})
        for knob in knobs
        for stage, choices in enumerate(depths)
        for block in range(min(choices), max(choices))
    }
