"""Residual units: which modules can be left out of the class and of the graph alike."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas.convert.analysis import analyse
from nas.convert.capture import capture
from nas.convert.depth import checked_units, residual_units, without


class Block(nn.Module):
    def __init__(self, width: int, out: int | None = None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, out or width)
        self.short = nn.Linear(width, out) if out else nn.Identity()

    def forward(self, hidden: Tensor) -> Tensor:
        return self.short(hidden) + self.down(self.up(self.norm(hidden)).relu())


class Reading(nn.Module):
    """Adds what it is given second to what it makes of what it is given first: no unit."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, context: Tensor, hidden: Tensor) -> Tensor:
        return self.dense(context) + hidden


class PostNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.output, self.norm = nn.Linear(width, width), Reading(width), nn.LayerNorm(width)

    def forward(self, hidden: Tensor) -> tuple[Tensor, None]:
        return self.norm(self.output(self.inner(hidden).relu(), hidden)), None


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(8), Block(8, 16), PostNorm(16), Block(16)])
        self.twice = Block(16)
        self.head = nn.Linear(16, 3)

    def forward(self, hidden: Tensor) -> Tensor:
        for block in self.blocks:
            found = block(hidden)
            hidden = found[0] if isinstance(found, tuple) else found
        return self.head(self.twice(self.twice(hidden)))


def test_units_are_the_smallest_modules_that_add_to_what_they_are_given() -> None:
    model, example = Model().eval(), (torch.randn(2, 5, 8),)
    captured = capture(model, example)
    residuals = residual_units(analyse(captured), model, captured.calls)
    units = checked_units(model, residuals)
    assert [(unit.name, unit.extras) for unit in units] == [("blocks.0", None), ("blocks.2", 1), ("blocks.3", None)]


def test_the_graph_without_units_is_the_class_without_them() -> None:
    model, example = Model().eval(), (torch.randn(2, 5, 8),)
    captured = capture(model, example)
    residuals = residual_units(analyse(captured), model, captured.calls)
    values = [source.tensor for source in captured.sources]
    (found,) = without(captured.module, residuals)(*values)
    hidden = model.blocks[1](example[0])
    torch.testing.assert_close(found, model.head(model.twice(model.twice(hidden))))
