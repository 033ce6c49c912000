"""Blocks in a row or side by side, on the same weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nas.errors import SupernetError


class Residuals(nn.Sequential):
    """Blocks with a residual each, `block(x) = x + f(x)`: one after another, or all on the same input, `x + Σ f(x)`.

    "Make Deep Networks Shallow Again" (Bermeitinger et al. 2023): side by side, no block waits for another, and the losses of
    small networks are found to be alike.  Names are those of `nn.Sequential` either way, so that a choice of `parallel` in a
    model function gives two archs on the same weights.

    Args:
        blocks: as `nn.Sequential` takes them; each gives the shape that it takes.
        parallel: side by side.

    Raises:
        SupernetError: `parallel` is not true or false.
    """

    def __init__(self, *blocks: Any, parallel: bool = False) -> None:
        super().__init__(*blocks)
        if not isinstance(parallel, bool):
            raise SupernetError(f"Residuals was given parallel={parallel!r}; it is True or False")
        self.parallel = parallel

    def forward(self, x: Tensor) -> Tensor:
        """The shape that the blocks take -> the same."""
        y = x
        for block in self:
            # A block of its own copy: one that begins with an activation in place would change the others' input.
            y = y + (block(x.clone()) - x) if self.parallel else block(y)
        return y
