"""An encoder of texts whose exits and embedding prefixes are usable alone.

What `searchspaces.matryoshka` is for images: prefixes of the embedding (Kusupati et al. 2022, "Matryoshka Representation
Learning"), the first blocks alone (Li et al. 2024, "2D Matryoshka Sentence Embeddings"; Zhuang et al. 2024, "Starbucks"), and
exits with a projection of their own (Gurioli et al. 2025, "One Model to Train them All", ModularStarEncoder).

Tokens are numbers from 1; 0 is padding, which no token attends to and no average counts.  Blocks are those of
`searchspaces.vit`.  All archs share one forward of the trunk in training (`nas.train.trunk`), and `nas.Embedding` is the task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, TypeAlias

import pyglove as pg
import torch
from torch import Tensor, nn

import nas
from nas.errors import SpaceError
from searchspaces.vit import Block

Heads: TypeAlias = Literal["shared", "separate"]
Pooling: TypeAlias = Literal["mean", "first"]


class Encoder(nn.Module):
    """Transformer whose embedding is a projection of what its last block leaves: the average, or an additional first token."""

    granularities: ClassVar[tuple[str, ...]] = ("depth", "dim")

    def __init__(
        self,
        *,
        depth: int,
        dim: int,
        width: int,
        head: int,
        length: int,
        vocabulary: int,
        name: str,
        pooling: Pooling,
    ) -> None:
        super().__init__()
        self.extent, self.name = depth, name
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.empty(1, length, width))
        self.blocks = nn.ModuleList(Block(width, width // head, 2 * width, head) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({name: nn.Linear(width, dim)})
        # With the usual deviation of 1 it takes long until a token is what it was taught, and positions are not seen beside it.
        nn.init.normal_(self.tokens.weight, std=0.1)
        nn.init.normal_(self.positions, std=0.1)
        self.first = nn.Parameter(0.1 * torch.randn(1, 1, width)) if pooling == "first" else None

    def trunk(self, texts: Tensor) -> list[Tensor]:
        """(n, length) tokens -> the average or the first token after each block, (n, width) each."""
        there = texts != 0
        x = self.tokens(texts) + self.positions[:, : texts.shape[1]]
        if self.first is not None:
            there = torch.cat([there.new_ones(len(there), 1), there], 1)
            x = torch.cat([self.first.expand(len(x), -1, -1), x], 1)
        mask = there[:, None, None]  # (n, 1, 1, length)
        mask = mask | ~mask.any(-1, keepdim=True)  # a text without a token attends to its padding, and is no NaN
        share = there / there.sum(1, keepdim=True).clamp_min(1)  # (n, length)
        found = []
        for block in self.blocks:
            x = block(x, mask)
            found.append(x[:, 0] if self.first is not None else (x * share[:, :, None]).sum(1))
        return found

    def read(self, features: Sequence[Tensor]) -> Tensor:
        """What this trunk found, or a deeper one -> (n, dim)."""
        y: Tensor = self.heads[self.name](self.norm(features[self.extent - 1]))
        return y

    def forward(self, texts: Tensor) -> Tensor:
        """(n, length) -> (n, dim)."""
        return self.read(self.trunk(texts))


@nas.model
def encoder(
    *,
    depth: int,
    dim: int,
    heads: Heads = "shared",
    pooling: Pooling = "mean",
    width: int = 64,
    head: int = 16,
    length: int = 16,
    vocabulary: int = 8192,
) -> nn.Module:
    """An encoder of texts.

    Args:
        depth: number of blocks.
        dim: length of the embedding, which is the prefix of a longer one's.
        heads: "shared" projects all depths with one matrix; "separate" each with one of its own.
        pooling: "mean" averages tokens, "first" reads an additional token in front of them, as BERT's.
        width: of tokens.
        head: features of one attention head.
        length: tokens of a text at most.
        vocabulary: tokens that there are, the padding included.
    """
    name = "all" if heads == "shared" else f"of_{depth}"
    return Encoder(
        depth=depth,
        dim=dim,
        width=width,
        head=head,
        length=length,
        vocabulary=vocabulary,
        name=name,
        pooling=pooling,
    )


def space(
    *,
    dims: Sequence[int] = (4, 8, 16, 32, 48, 64),
    depths: Sequence[int] = (1, 2, 3, 4, 5, 6),
    heads: Heads = "shared",
    pooling: Pooling = "mean",
    width: int = 64,
    head: int = 16,
    length: int = 16,
    vocabulary: int = 8192,
) -> nas.Space:
    """The space.

    Args:
        dims: choices of the embedding's length.
        depths: choices of the number of blocks.
        heads: "shared" or "separate".
        pooling: "mean" averages tokens, "first" reads an additional token in front of them, as BERT's.
        width: of tokens.
        head: features of one attention head.
        length: tokens of a text at most.
        vocabulary: tokens that there are, the padding included.

    Raises:
        SpaceError: no prefix, no block, no token, or heads that do not fit.
    """
    if heads not in ("shared", "separate"):
        raise SpaceError(f"heads={heads!r} is not 'shared' or 'separate'")
    if pooling not in ("mean", "first"):
        raise SpaceError(f"pooling={pooling!r} is not 'mean' or 'first'")
    for name, numbers, least in (
        ("dims", dims, 1),
        ("depths", depths, 1),
        ("length and vocabulary", (length, vocabulary), 2),
    ):
        if not numbers or min(numbers) < least:
            raise SpaceError(f"{name} are {list(numbers)}; give numbers of {least} or more")
    if head < 1 or width % head:
        raise SpaceError(f"width={width} is to be a multiple of head={head}; change one of them")
    value = encoder(
        depth=pg.oneof(list(depths)),
        dim=pg.oneof(list(dims)),
        heads=heads,
        pooling=pooling,
        width=width,
        head=head,
        length=length,
        vocabulary=vocabulary,
    )
    return nas.Space(value, name="sentences")


def supernet(space_: nas.Space | None = None, *, seed: int = 0) -> nas.Supernet:
    """A fresh supernet of `space_`, by default six depths and six prefixes.

    Args:
        space_: a space of `encoder`.
        seed: of the initial weights.
    """
    space_ = space_ or space()
    return nas.Supernet(space_, example=torch.ones(1, space_.value.length, dtype=torch.int64), seed=seed)
