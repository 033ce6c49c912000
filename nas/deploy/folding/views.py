"""Between a layer and a norm, an output may be transposed and reshaped: where its channels are then."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, fx

from nas.deploy.folding.affine import RESHAPES, SWAPS, Affine, name_of, order_of
from nas.deploy.folding.layers import Unmerged

VIEWS = frozenset(("permute", *SWAPS, *RESHAPES))


def axes_of(node: fx.Node) -> int:
    """Number of axes of an output."""
    return len(_shape(node))


def followed(views: Sequence[fx.Node], axis: int) -> int | None:
    """Where the axis is after these; None if it has been split, or put together with others."""
    at: int | None = axis
    for view in views:
        at = None if at is None else _through(view, at)
    return at


def placed(affine: Affine, at: int | None, axes: int, axis: int) -> Affine:
    """What differs along `at` alone, along `axis` of so many.

    Raises:
        Unmerged: the channels are nowhere, or it differs along other axes.
    """
    if at is None:
        raise Unmerged("a reshape puts the channels together with other axes")
    found: list[Tensor] = []
    for values in (affine.scale, affine.shift):
        if any(size != 1 for place, size in enumerate(values.shape) if place != at):
            raise Unmerged("it scales along other axes than the channels")
        found.append(values.reshape([-1 if place == axis else 1 for place in range(axes)]))
    scale, shift = found
    return Affine(scale, shift, tuple(range(axes)))


def _through(view: fx.Node, axis: int) -> int | None:
    given = view.args[0]
    assert isinstance(given, fx.Node)
    before, after = _shape(given), _shape(view)
    if name_of(view) in RESHAPES:
        ahead = math.prod(before[:axis])
        return next(
            (at for at, size in enumerate(after) if size == before[axis] and math.prod(after[:at]) == ahead), None
        )
    return order_of(view, len(before)).index(axis)


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    assert isinstance(value, Tensor)
    return tuple(map(int, value.shape))
