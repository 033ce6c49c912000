"""The cells of NAS-Bench-201: 15,625 models of one skeleton, and a table of what they were measured to be.

Dong, Yang 2020, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search".  A cell has four nodes; the
edge into node i from node j carries one of five operations, and a node is the sum of its edges.  Decisions are called
`e10` to `e32`: into, from.  Three stages of equal cells, whose width doubles and whose image halves at a residual block,
make the network; width, stages and cells are parameters, so that reduced versions are cheap.

Each edge and operation has weights of its own name, so a supernet shares the operations of every edge.  `function` names what
a cell computes: the 15,625 are 6,466 functions.  `Table` answers from measured columns instead of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyglove as pg
import torch
from torch import Tensor, nn
from torch.nn import functional

import nas
from nas.errors import SpaceError, suggest
from searchspaces.nasbench201_table import EDGES, OPS, Table, function

__all__ = ["EDGES", "OPS", "Table", "cell_net", "function", "space", "supernet"]


class Conv(nn.Module):
    """ReLU, convolution without bias, BatchNorm."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h / stride, w / stride)."""
        y: Tensor = self.norm(self.conv(functional.relu(x)))
        return y


class Zero(nn.Module):
    """No connection."""

    def forward(self, x: Tensor) -> Tensor:
        """Zeros of the same shape."""
        return torch.zeros_like(x)


def operation(name: str, width: int) -> nn.Module:
    """The module of an edge of a cell of `width` channels.

    Raises:
        SpaceError: no operation has that name.
    """
    match name:
        case "none":
            return Zero()
        case "skip_connect":
            return nn.Identity()
        case "nor_conv_1x1":
            return Conv(width, width, 1)
        case "nor_conv_3x3":
            return Conv(width, width, 3)
        case "avg_pool_3x3":
            return nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    raise SpaceError(f"operation {name!r} is not one of {', '.join(OPS)}{suggest(name, OPS)}")


class Cell(nn.Module):
    """Four nodes, each the sum of operations on the nodes before it; the last is the output.

    Args:
        ops: edge -> its operations: one, or several that are summed by their shares.
        width: channels.
    """

    def __init__(self, ops: Mapping[str, Sequence[str]], width: int) -> None:
        super().__init__()
        # The operation is part of the name: 1×1 and 3×3 convolutions of an edge have weights of their own in a supernet.
        for edge in EDGES:
            self.add_module(edge, nn.ModuleDict({op: operation(op, width) for op in ops[edge]}))

    def forward(self, x: Tensor, shares: Mapping[str, Tensor] | None = None) -> Tensor:
        """(n, width, h, w) -> the same; with `shares` edge -> (operations,) of each that the edge has."""
        nodes = [x]
        for into in (1, 2, 3):
            parts = [self._edge(f"e{into}{source}", nodes[source], shares or {}) for source in range(into)]
            nodes.append(torch.stack(parts).sum(0) if len(parts) > 1 else parts[0])
        return nodes[-1]

    def _edge(self, edge: str, x: Tensor, shares: Mapping[str, Tensor]) -> Tensor:
        outputs: list[Tensor] = [op(x) for op in self.get_submodule(edge).children()]
        if edge not in shares:
            return outputs[0]
        return torch.stack([share * one for share, one in zip(shares[edge], outputs, strict=True)]).sum(0)


class Reduction(nn.Module):
    """The residual block between stages: half the side, twice the channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = Conv(inputs, outputs, 3, 2)
        self.second = Conv(outputs, outputs, 3)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h / 2, w / 2)."""
        y: Tensor = self.shortcut(x) + self.second(self.first(x))
        return y


class Network(nn.Module):
    """Stem, stages of cells, average over the image, classifier."""

    def __init__(
        self, ops: Mapping[str, Sequence[str]], *, width: int, cells: int, stages: int, channels: int, classes: int
    ) -> None:
        super().__init__()
        self._sizes = {"width": width, "cells": cells, "stages": stages, "channels": channels, "classes": classes}
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.stages = nn.ModuleList()
        for stage in range(stages):
            blocks: list[nn.Module] = [Reduction(width // 2, width)] if stage else []
            self.stages.append(nn.Sequential(*blocks, *(Cell(ops, width) for _ in range(cells))))
            width *= 2
        self.norm = nn.BatchNorm2d(width // 2)
        self.head = nn.Linear(width // 2, classes)

    def mixture(self) -> Network:
        """The network with all operations on every edge, for policies that weigh them (`nas.train.Mixable`)."""
        return Network(dict.fromkeys(EDGES, OPS), **self._sizes)

    def features(self, images: Tensor, shares: Mapping[str, Tensor] | None = None) -> Tensor:
        """(n, channels, h, w) -> (n, width of the last stage, h', w'): what is averaged and classified."""
        x = self.stem(images)
        for stage in self.stages.children():
            for block in stage.children():
                x = block(x, shares) if isinstance(block, Cell) else block(x)
        return functional.relu(self.norm(x))

    def forward(self, images: Tensor, shares: Mapping[str, Tensor] | None = None) -> Tensor:
        """(n, channels, h, w) -> (n, classes); of a mixture with the shares of each edge's operations."""
        y: Tensor = self.head(self.features(images, shares).mean((2, 3)))
        return y


@nas.model
def cell_net(
    *,
    e10: str,
    e20: str,
    e21: str,
    e30: str,
    e31: str,
    e32: str,
    width: int = 16,
    cells: int = 5,
    stages: int = 3,
    channels: int = 3,
    classes: int = 10,
) -> nn.Module:
    """The network of one cell.

    Args:
        e10: operation on the edge into node 1 from node 0; and so on.
        e20: one of `OPS`.
        e21: one of `OPS`.
        e30: one of `OPS`.
        e31: one of `OPS`.
        e32: one of `OPS`.
        width: channels of the first stage; each following one has twice as many.
        cells: of each stage.
        stages: between them the image halves.
        channels: of the images.
        classes: to tell apart.
    """
    ops = {edge: [op] for edge, op in zip(EDGES, (e10, e20, e21, e30, e31, e32), strict=True)}
    return Network(ops, width=width, cells=cells, stages=stages, channels=channels, classes=classes)


def space(*, width: int = 16, cells: int = 5, stages: int = 3, channels: int = 3, classes: int = 10) -> nas.Space:
    """All 15,625 cells; the defaults are the published networks for CIFAR-10.

    Args:
        width: channels of the first stage.
        cells: of each stage.
        stages: between them the image halves.
        channels: of the images.
        classes: to tell apart.
    """
    edges = {edge: pg.oneof(list(OPS)) for edge in EDGES}
    largest, smallest = dict.fromkeys(EDGES, "nor_conv_3x3"), dict.fromkeys(EDGES, "none")
    cell = cell_net(**edges, width=width, cells=cells, stages=stages, channels=channels, classes=classes)
    return nas.Space(cell, name="nasbench201", largest=largest, smallest=smallest)


def supernet(space_: nas.Space | None = None, *, side: int = 32, seed: int = 0) -> nas.Supernet:
    """A fresh supernet of `space_`, by default of the published size: every edge has all operations.

    Args:
        space_: a space of `cell_net`.
        side: height and width of the images that operations are counted for.
        seed: of the initial weights.
    """
    space_ = space_ or space()
    return nas.Supernet(space_, example=torch.zeros(1, space_.value.channels, side, side), seed=seed)
