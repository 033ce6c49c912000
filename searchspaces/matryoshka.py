"""An encoder whose embedding prefixes and layers are usable alone.

Kusupati et al. 2022, "Matryoshka Representation Learning": the first m numbers of the embedding are an embedding too.  Each
prefix is read by a head of its own (MRL), or all by the first columns of one head (MRL-E, the efficient one).  Li et al.
2024, "2D Matryoshka Sentence Embeddings", and Zhuang et al. 2024, "Starbucks", use the first l layers alone as well.

The trunk is that of `searchspaces.vit` at a fixed width.  An arch is a depth and a prefix; all of them share one forward of the
trunk in training (`nas.train.trunk`), and `embed` of an extracted model gives what is stored for retrieval (`nas.retrieval`).
Tokens are averaged before the last norm, which all depths share, so that reading a granularity costs one vector and not an image.
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


class Encoder(nn.Module):
    """Vision transformer whose output is read from the first `dim` numbers of its embedding."""

    granularities: ClassVar[tuple[str, ...]] = ("depth", "dim")

    def __init__(
        self,
        *,
        depth: int,
        dim: int,
        width: int,
        head: int,
        side: int,
        patch: int,
        channels: int,
        classes: int,
        name: str,
    ) -> None:
        super().__init__()
        self.extent, self.dim, self.name = depth, dim, name
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Parameter(torch.empty(1, (side // patch) ** 2, width))
        self.blocks = nn.ModuleList(Block(width, width // head, 2 * width, head) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({name: nn.Linear(dim, classes)})
        nn.init.normal_(self.positions, std=0.5)  # as large as a token: nothing else tells places apart

    def trunk(self, images: Tensor) -> list[Tensor]:
        """(n, channels, side, side) -> the average token after each block, (n, width) each."""
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions  # (n, tokens, width)
        averages = []
        for block in self.blocks:
            x = block(x)
            averages.append(x.mean(1))
        return averages

    def read(self, averages: Sequence[Tensor]) -> Tensor:
        """The averages of this trunk, or of a deeper one -> (n, classes)."""
        y: Tensor = self.heads[self.name](self._prefix(averages))
        return y

    def embed(self, images: Tensor) -> Tensor:
        """(n, channels, side, side) -> (n, dim)."""
        return self._prefix(self.trunk(images))

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, side, side) -> (n, classes)."""
        return self.read(self.trunk(images))

    def _prefix(self, averages: Sequence[Tensor]) -> Tensor:
        y: Tensor = self.norm(averages[self.extent - 1])[:, : self.dim]
        return y


@nas.model
def encoder(
    *,
    depth: int,
    dim: int,
    heads: Heads = "shared",
    width: int = 64,
    head: int = 16,
    side: int = 8,
    patch: int = 2,
    channels: int = 1,
    classes: int = 10,
) -> nn.Module:
    """An encoder of images with a classifier on a prefix of its embedding.

    Args:
        depth: number of blocks.
        dim: length of the prefix that is used.
        heads: "shared" reads each prefix with the first columns of one classifier (MRL-E), and its bias; "separate" with one
            of its own (MRL).  Depths share them either way.
        width: of the whole embedding.
        head: features of one attention head.
        side: height and width of the images.
        patch: height and width of a patch.
        channels: of the images.
        classes: to tell apart.
    """
    name = "all" if heads == "shared" else f"of_{dim}"
    return Encoder(
        depth=depth,
        dim=dim,
        width=width,
        head=head,
        side=side,
        patch=patch,
        channels=channels,
        classes=classes,
        name=name,
    )


def space(
    *,
    dims: Sequence[int] = (2, 4, 8, 16, 32, 64),
    depths: Sequence[int] = (4,),
    heads: Heads = "shared",
    width: int = 64,
    head: int = 16,
    side: int = 8,
    patch: int = 2,
    channels: int = 1,
    classes: int = 10,
) -> nas.Space:
    """The space; the defaults are Matryoshka's six prefixes of one depth, for 8×8 digits.

    Args:
        dims: choices of the prefix.
        depths: choices of the number of blocks.
        heads: "shared" (MRL-E) or "separate" (MRL).
        width: of the whole embedding.
        head: features of one attention head.
        side: height and width of the images.
        patch: height and width of a patch.
        channels: of the images.
        classes: to tell apart.

    Raises:
        SpaceError: a prefix that the embedding does not have, no block, or heads that do not fit.
    """
    if heads not in ("shared", "separate"):
        raise SpaceError(f"heads={heads!r} is not 'shared' (MRL-E) or 'separate' (MRL)")
    if not dims or not 1 <= min(dims) <= max(dims) <= width:
        raise SpaceError(
            f"dims={list(dims)} do not fit an embedding of {width} numbers; choose prefixes from 1 to {width}"
        )
    if not depths or min(depths) < 1:
        raise SpaceError(f"depths={list(depths)} are not numbers of blocks; choose 1 or more")
    if width % head or side % patch:
        raise SpaceError(
            f"width={width} is to be a multiple of head={head}, and side={side} one of patch={patch}; change one of them"
        )
    value = encoder(
        depth=pg.oneof(list(depths)),
        dim=pg.oneof(list(dims)),
        heads=heads,
        width=width,
        head=head,
        side=side,
        patch=patch,
        channels=channels,
        classes=classes,
    )
    return nas.Space(value, name="matryoshka")


def supernet(space_: nas.Space | None = None, *, seed: int = 0) -> nas.Supernet:
    """A fresh supernet of `space_`, by default that of 8×8 digits.

    Args:
        space_: a space of `encoder`.
        seed: of the initial weights.
    """
    space_ = space_ or space()
    settings = space_.value
    example = torch.zeros(1, settings.channels, settings.side, settings.side)
    return nas.Supernet(space_, example=example, seed=seed)
