"""Pretrained weights into a supernet's initial values."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nas.errors import SupernetError, suggest
from nas.space import Space
from nas.supernet.parts import Shape
from nas.supernet.skeleton import Slot, buffers_of, build_skeleton, parameters_of
from nas.supernet.union import Union

UNITS = 16
"""In the last place: how far a table that is computed again may be from the one that was stored."""


def fill_from(space: Space, union: Union, values: dict[str, Tensor], weights: nn.Module | Mapping[str, Tensor]) -> None:
    """Overwrite what the largest arch has of `values` with `weights`, so that it computes what their model does.

    Buffers that the constructor computes may be left out of `weights`; one that is there with another value than the
    constructor's is data, and is an error unless a cut is declared for it.

    Raises:
        SupernetError: a name is missing, unknown or of another shape.
    """
    given = dict(weights.state_dict() if isinstance(weights, nn.Module) else weights)
    if isinstance(weights, nn.Module):  # those that are not persistent, where they are data
        others = {
            name: buffer for name, buffer in weights.named_buffers(remove_duplicate=False) if name in union.buffers
        }
        given = others | given
    largest = build_skeleton(space, space.largest)  # its names, shapes and buffers are needed, and none of its weights
    shapes = union.shapes_of(largest)
    for entry in parameters_of(largest):
        alias = next((alias for alias in entry.names if alias in given), None)
        if alias is None:
            raise SupernetError(
                f"weights have no {entry.names[0]!r}, which the largest arch has{suggest(entry.names[0], given)}"
            )
        _put(union, values, union.ties[entry.names[0]], shapes, given[alias])
    for alias in (alias for entry in parameters_of(largest) for alias in entry.names):
        given.pop(alias, None)
    buffers = buffers_of(largest)
    known = largest.state_dict()
    for name in union.buffers & set(buffers):
        if name not in given and name not in known:
            continue  # not persistent: no state dict has it, and the constructor's values are there
        if name not in given:
            raise SupernetError(f"weights have no {name!r}, which the largest arch has{suggest(name, given)}")
        _put(union, values, name, shapes, given.pop(name))
    for name, tensor in given.items():
        if name not in buffers:
            raise SupernetError(f"weights have {name!r}, which the largest arch has not{suggest(name, known)}")
        _expect_same(buffers[name], name, tensor)


def _put(union: Union, values: dict[str, Tensor], name: str, shapes: Mapping[str, Shape], given: Tensor) -> None:
    if given.shape != shapes[name]:
        raise SupernetError(
            f"weights have {name!r} of shape {tuple(given.shape)}, and the largest arch needs {shapes[name]}"
        )
    cut = union.cut(name, shapes)
    windows = cut.windows(values[name], shapes[name])
    for window, piece in zip(windows, cut.split(given.detach(), union.shapes[name]), strict=True):
        window.copy_(piece.reshape(window.shape))


def _expect_same(slot: Slot, name: str, given: Tensor) -> None:
    """What is left over must be what the constructor computes anyway, on whatever machine it did."""
    built = slot[0][slot[1]]
    if built.shape != given.shape or not _equal(built, given.to(built)):
        raise SupernetError(
            f"buffer {name!r} of the weights is not what the constructor computes; declare a cut for it in layouts= to keep it"
        )


def _equal(built: Tensor, given: Tensor) -> bool:
    """Functions such as the powers in a rotary table are rounded in the last places otherwise on another processor."""
    if not built.is_floating_point():
        return torch.equal(built, given)
    units = UNITS * torch.finfo(built.dtype).eps
    return torch.allclose(built, given, rtol=units, atol=units * float(built.abs().max()) if built.numel() else 0.0)
