"""Transformers whose feed-forward layers are nested: any granularity in any layer.

Devvrit et al. 2023, "MatFormer: Nested Transformer for Elastic Inference": the first n/8, n/4, n/2 hidden units of each
feed-forward layer are a feed-forward layer too; attention is shared whole.  Training sees the G archs that have the same
granularity everywhere (`granularities`): each step all of them, as in the authors' code, or one at random, as in the paper.
Mix'n'Match afterwards takes any granularity for each layer, which is what a search over the whole space does.

An encoder for images and a decoder for text share the blocks.  The granularities differ inside the blocks, so each is
a forward of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyglove as pg
import torch
from torch import Tensor, nn
from torch.nn import functional

import nas
from nas.errors import SpaceError, suggest

FRACTIONS = (8, 4, 2, 1)
"""A granularity f uses the first 1/f of the hidden units."""


class Block(nn.Module):
    """Attention with a fixed number of heads, then a perceptron with `hidden` units."""

    def __init__(self, width: int, heads: int, hidden: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, width) -> the same."""
        qkv = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1))  # (n, tokens, 3, heads, dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (n, heads, tokens, dim)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        z: Tensor = x + self.mlp(self.norm2(x))
        return z


class Encoder(nn.Module):
    """Image to classes."""

    def __init__(
        self, *, hidden: Sequence[int], width: int, heads: int, side: int, patch: int, channels: int, classes: int
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Parameter(0.5 * torch.randn(1, (side // patch) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads, units, causal=False) for units in hidden))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, side, side) -> (n, classes)."""
        x = self.patches(images).flatten(2).transpose(1, 2)  # (n, tokens, width)
        y: Tensor = self.head(self.norm(self.blocks(x + self.positions)).mean(1))
        return y


class Decoder(nn.Module):
    """A language model: each token to scores of the next one, from the tokens up to it."""

    def __init__(self, *, hidden: Sequence[int], width: int, heads: int, length: int, values: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(values, width)
        self.positions = nn.Parameter(0.5 * torch.randn(1, length, width))
        self.blocks = nn.Sequential(*(Block(width, heads, units, causal=True) for units in hidden))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, values)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, tokens) integers, `length` tokens at most -> (n, tokens, values)."""
        x = self.embedding(tokens) + self.positions[:, : tokens.shape[1]]  # (n, tokens, width)
        y: Tensor = self.head(self.norm(self.blocks(x)))
        return y


@nas.model
def encoder(
    *,
    hidden: Sequence[int],
    width: int = 48,
    heads: int = 3,
    side: int = 8,
    patch: int = 2,
    channels: int = 1,
    classes: int = 10,
) -> nn.Module:
    """A vision transformer; `hidden` has the number of hidden units of each block."""
    return Encoder(hidden=hidden, width=width, heads=heads, side=side, patch=patch, channels=channels, classes=classes)


@nas.model
def decoder(
    *, hidden: Sequence[int], width: int = 48, heads: int = 3, length: int = 64, values: int = 257
) -> nn.Module:
    """A causal transformer; `hidden` has the number of hidden units of each block.

    Args:
        hidden: units of each block.
        width: of the embedding.
        heads: of each block.
        length: most tokens of a sequence.
        values: of a token; a task of `nas.train.text` says it as `vocabulary`, 257 for bytes and the end of a file.
    """
    return Decoder(hidden=hidden, width=width, heads=heads, length=length, values=values)


def space(
    *,
    depth: int = 3,
    width: int = 48,
    heads: int = 3,
    ratio: int = 4,
    fractions: Sequence[int] = FRACTIONS,
    causal: bool = False,
    **options: Any,
) -> nas.Space:
    """The space of Mix'n'Match: a granularity for each layer.

    Args:
        depth: number of blocks.
        width: of the embedding.
        heads: of each block.
        ratio: hidden units of a whole layer, as a multiple of the width.
        fractions: 1/f of the hidden units is a granularity, for each f.
        causal: the decoder; else the encoder.
        options: of the model function: `side`, `patch`, `channels`, `classes`, or `length`, `values`.

    Raises:
        SpaceError: a fraction that leaves no unit or is larger than the layer, heads that do not fit, or an option that
            this model does not have.
    """
    known = ("length", "values") if causal else ("side", "patch", "channels", "classes")
    for option in options:
        if option not in known:
            what = "decoder" if causal else "encoder"
            raise SpaceError(f"the {what} has no option {option!r}{suggest(option, known)}; it has {', '.join(known)}")
    whole = ratio * width
    if not fractions or not all(1 <= f <= whole for f in fractions):
        raise SpaceError(
            f"fractions={list(fractions)} do not fit {whole} hidden units; f is from 1 (all of them) to {whole} (one)"
        )
    if depth < 1 or width % heads:
        raise SpaceError(f"depth={depth} must be 1 or more, and width={width} a multiple of heads={heads}")
    units = sorted({whole // f for f in fractions})
    build = decoder if causal else encoder
    value = build(hidden=[pg.oneof(units) for _ in range(depth)], width=width, heads=heads, **options)
    return nas.Space(value, name="matformer-decoder" if causal else "matformer")


def granularities(space_: nas.Space) -> list[nas.Arch]:
    """The archs with the same granularity in every layer, largest first: what training sees."""
    count = len(space_.decisions[0].labels)
    archs = [space_.from_genome([gene] * len(space_.decisions)) for gene in range(count)]
    return archs[::-1]


def supernet(space_: nas.Space | None = None, *, seed: int = 0) -> nas.Supernet:
    """A fresh supernet of `space_`, by default the encoder of 8×8 digits.

    Args:
        space_: a space of `encoder` or `decoder`.
        seed: of the initial weights.
    """
    space_ = space_ or space()
    settings = space_.value
    example = (
        torch.zeros(1, settings.length, dtype=torch.int64)
        if "length" in settings.sym_init_args
        else torch.zeros(1, settings.channels, settings.side, settings.side)
    )
    return nas.Supernet(space_, example=example, seed=seed)
