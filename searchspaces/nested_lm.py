"""A sorted language model with Matryoshka embeddings: exits × embedding prefixes × widths in one space.

Two families in one set of weights.  Valipour et al. 2023, "SortedNet", and Kavehzadeh et al. 2024, "Sorted LLaMA": fewer
layers and narrower ones are models by themselves, which share the last norm and the head.  Kusupati et al. 2022,
"Matryoshka Representation Learning": a prefix of the embedding is an embedding.  Here every exit, at every width, is read by
a prefix of its features, with the same columns of the tied matrix (MRL-E): the head, which each exit pays for again and which
weighs most where the vocabulary is large beside the trunk, gets cheaper too.  The same prefix of the averaged features
represents a text for retrieval (`nas.retrieval`).

An arch is a `depth`, a `part` of the embedding, a `width`, and what `searchspaces.sorted_lm` has besides.  Archs that differ
in depth and part alone share one forward of the trunk in training (`nas.train.trunk`).  `nas.decode` generates as with
any sorted model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyglove as pg
import torch
from torch import Tensor, nn
from torch.nn import functional

import nas
from nas.errors import SpaceError
from searchspaces.sorted_lm import SortedLM

LEAST = 1e-6
"""How far a part of a width may be from a whole number."""


class NestedLM(SortedLM):
    """A sorted language model whose head reads the first `dim` features alone."""

    granularities = ("depth", "part")

    def __init__(self, *, dim: int, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.dim = dim

    def head(self, x: Tensor) -> Tensor:
        """(n, length, width) -> logits (n, length, vocabulary), by the first columns of the embedding."""
        return functional.linear(self.norm(x)[..., : self.dim], self.embedding.weight[:, : self.dim])

    def represent(self, tokens: Tensor) -> Tensor:
        """What is stored of a text for retrieval: (n, length) -> (n, dim), averaged over its positions."""
        y: Tensor = self.norm(self.trunk(tokens)[self.extent - 1]).mean(1)[:, : self.dim]
        return y


def prefix(part: float, width: int) -> int:
    """Features in a part of a width.

    Raises:
        SpaceError: the part is larger than the embedding, or no whole number of features.
    """
    dim = round(part * width)
    if not 0.0 < part <= 1.0:
        raise SpaceError(
            f"part={part} does not fit an embedding of {width} features; choose a fraction above 0 and up to 1"
        )
    if dim < 1 or abs(dim - part * width) > LEAST:
        raise SpaceError(
            f"part={part} of an embedding of {width} is {part * width:g} features; choose parts that make whole numbers"
        )
    return dim


@nas.model
def nested_lm(
    *,
    width: int,
    depth: int,
    part: float,
    kv: int,
    ratio: float,
    group: int = 2,
    head: int = 16,
    vocabulary: int = 769,
    context: int = 128,
) -> nn.Module:
    """A sorted language model read by a prefix of its embedding.

    Args:
        width: of the embedding.
        depth: number of blocks; an exit of a deeper model is one of fewer.
        part: fraction of the embedding that the head reads.
        kv: heads of keys and values.
        ratio: hidden features of the perceptrons, as a multiple of the width.
        group: query heads for each of them.
        head: features of one head, even.
        vocabulary: number of tokens.
        context: longest text.
    """
    return NestedLM(
        dim=prefix(part, width),
        width=width,
        depth=depth,
        kv=kv,
        group=group,
        head=head,
        hidden=int(ratio * width),
        vocabulary=vocabulary,
        context=context,
    )


def space(
    *,
    widths: Sequence[int] = (32, 48, 64),
    depths: Sequence[int] = (1, 2, 3, 4),
    parts: Sequence[float] = (0.25, 0.5, 1.0),
    kvs: Sequence[int] = (2,),
    ratios: Sequence[float] = (8 / 3,),
    group: int = 2,
    head: int = 16,
    vocabulary: int = 769,
    context: int = 128,
) -> nas.Space:
    """The space: any exit, at any width, with any prefix.  A setting with one choice is fixed.

    Args:
        widths: choices of the embedding's width.
        depths: exits.
        parts: choices of the fraction of the embedding that is read.
        kvs: choices of the number of key-value heads, the same in all blocks.
        ratios: choices of the perceptrons' ratio, the same in all blocks.
        group: query heads for each key-value head.
        head: features of one head.
        vocabulary: number of tokens.
        context: longest text.

    Raises:
        SpaceError: a setting without a choice, a depth below 1, or a part that a width does not have.
    """
    for name, choices in (("widths", widths), ("depths", depths), ("parts", parts), ("kvs", kvs), ("ratios", ratios)):
        if not choices or min(choices) <= 0:
            raise SpaceError(
                f"{name}={list(choices)} leaves nothing to choose, or a choice below 1; give positive ones"
            )
    for width in widths:
        for part in parts:
            prefix(part, width)
    value = nested_lm(
        width=_open(widths),
        depth=_open(depths),
        part=_open(parts),
        kv=_open(kvs),
        ratio=_open(ratios),
        group=group,
        head=head,
        vocabulary=vocabulary,
        context=context,
    )
    return nas.Space(value, name="nested-lm")


def _open(choices: Sequence[Any]) -> Any:
    return pg.oneof(list(choices)) if len(choices) > 1 else choices[0]


def supernet(space_: nas.Space | None = None, *, seed: int = 0) -> nas.Supernet:
    """A fresh supernet of `space_`.

    Args:
        space_: a space of `nested_lm`.
        seed: of the initial weights.
    """
    space_ = space_ or space()
    return nas.Supernet(space_, example=torch.zeros(1, space_.value.context, dtype=torch.int64), seed=seed)
