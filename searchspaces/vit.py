"""An elastic vision transformer: embedding width, depth, and heads and MLP ratio of every block.

Pre-norm blocks (Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words") made elastic as in Chen et al. 2021,
"AutoFormer": a narrower model is the first features of the wider one, fewer heads are the first heads, a shallower model is the
first blocks.  Queries, keys and values are one fused layer; `Layout("(qkv heads dim) in", qkv=3, dim=…)` says how its rows are
made up, so that 2 of 4 heads are the first 2 of the queries, of the keys and of the values.

There is no class token: tokens are averaged, which suits images of a few tokens.  LayerNorm needs no calibration.

Copy this file to begin a family of your own: a model function, a space, a supernet.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyglove as pg
import torch
from torch import Tensor, nn
from torch.nn import functional

import nas


class Attention(nn.Module):
    """Multi-head self-attention whose heads keep their size, however many there are."""

    def __init__(self, width: int, heads: int, head: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * heads * head)
        self.out = nn.Linear(heads * head, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(n, tokens, width) -> the same; `mask` (n, 1, 1, tokens) is True at the tokens that are there, None is all."""
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1))  # (n, tokens, 3, heads, head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (n, heads, tokens, head)
        y: Tensor = self.out(functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))
        return y


class Block(nn.Module):
    """Attention, then a two-layer perceptron, each with its norm and residual."""

    def __init__(self, width: int, heads: int, hidden: int, head: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, head)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(n, tokens, width) -> the same; `mask` as of the attention."""
        x = x + self.attention(self.norm1(x), mask)
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class ViT(nn.Module):
    """Vision transformer; `heads` and `hidden` have one entry for each block."""

    def __init__(
        self,
        *,
        width: int,
        heads: Sequence[int],
        hidden: Sequence[int],
        head: int,
        side: int,
        patch: int,
        channels: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Parameter(torch.empty(1, (side // patch) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, h, m, head) for h, m in zip(heads, hidden, strict=True)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        # Tokens are averaged, so only this tells places apart: as large as a token, or it takes long to be learnt.
        nn.init.normal_(self.positions, std=0.5)

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, side, side) -> (n, classes)."""
        x = self.patches(images).flatten(2).transpose(1, 2)  # (n, tokens, width)
        x = self.blocks(x + self.positions)
        y: Tensor = self.head(self.norm(x).mean(1))
        return y


@nas.model
def vit(
    *,
    width: int,
    depth: int,
    heads: Sequence[int],
    ratios: Sequence[float],
    head: int = 16,
    side: int = 8,
    patch: int = 2,
    channels: int = 1,
    classes: int = 10,
) -> nn.Module:
    """A vision transformer.

    Args:
        width: of the embedding.
        depth: number of blocks.
        heads: of each block; those beyond the depth are not used.
        ratios: hidden features of each block's perceptron, as multiples of the width.
        head: features of one head.
        side: height and width of the images.
        patch: height and width of a patch.
        channels: of the images.
        classes: to tell apart.
    """
    hidden = [int(ratio * width) for ratio in ratios[:depth]]
    return ViT(
        width=width,
        heads=heads[:depth],
        hidden=hidden,
        head=head,
        side=side,
        patch=patch,
        channels=channels,
        classes=classes,
    )


def space(
    *,
    widths: Sequence[int] = (48, 64, 80),
    depths: Sequence[int] = (2, 3, 4),
    heads: Sequence[int] = (2, 3, 4),
    ratios: Sequence[float] = (1, 2, 3),
    head: int = 16,
    side: int = 8,
    patch: int = 2,
    channels: int = 1,
    classes: int = 10,
) -> nas.Space:
    """The space; the defaults suit 8×8 digits.

    Args:
        widths: choices of the embedding's width.
        depths: choices of the number of blocks.
        heads: choices of every block's number of heads.
        ratios: choices of every block's MLP ratio.
        head: features of one head.
        side: height and width of the images.
        patch: height and width of a patch.
        channels: of the images.
        classes: to tell apart.
    """
    deepest = range(max(depths))
    value = vit(
        width=pg.oneof(list(widths)),
        depth=pg.oneof(list(depths)),
        heads=[pg.oneof(list(heads)) for _ in deepest],
        ratios=[pg.oneof(list(ratios)) for _ in deepest],
        head=head,
        side=side,
        patch=patch,
        channels=channels,
        classes=classes,
    )
    active = {
        f"{knob}[{block}]": ("depth", {depth for depth in depths if depth > block})
        for knob in ("heads", "ratios")
        for block in deepest
        if block >= min(depths)
    }
    return nas.Space(value, name="vit", active_when=active)


def supernet(space_: nas.Space | None = None, *, seed: int = 0) -> nas.Supernet:
    """A fresh supernet of `space_`, by default that of 8×8 digits.

    Args:
        space_: a space of `vit`.
        seed: of the initial weights.
    """
    space_ = space_ or space()
    settings = space_.value
    fused = {"qkv": 3, "dim": settings.head}
    return nas.Supernet(
        space_,
        layouts={
            "*.qkv.weight": nas.Layout("(qkv heads dim) in", **fused),
            "*.qkv.bias": nas.Layout("(qkv heads dim)", **fused),
        },
        example=torch.zeros(1, settings.channels, settings.side, settings.side),
        seed=seed,
    )
