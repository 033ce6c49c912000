"""One helper of many attentions."""

from __future__ import annotations

from torch import Tensor


def heads_first(x: Tensor, heads: int) -> Tensor:
    """(batch, places, heads * dim) -> (batch, heads, places, dim)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
