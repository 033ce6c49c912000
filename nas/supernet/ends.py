"""Does a layer give the output in one arch and stand in the middle of another?

A head behind a part of elastic depth in a numbered `nn.Sequential` has the name of a hidden layer at every other depth.  Where
it is as wide as that layer, no shape tells.  Two probes do: in the subnet the layer's output *is* the network's, and in the
largest network an activation, or a norm and then an activation, reads it.  A layer whose output another layer reads as it is, or
a residual sum, is none: chains that are just shorter have those.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from nas.supernet.comparing import Place, reached
from nas.supernet.probing import Base, Probe
from nas.supernet.union import CORNER, Union


def clash(union: Union, small: Probe, large: Probe) -> str:
    """A sentence about a layer that gives the output in the subnet and is hidden in the largest network; "" if none is."""
    last = [last_layers(probe) for probe in (small, large)]
    for base in last[0] - last[1]:
        place = Place(small.made[base].name, small.made[base].dim)
        if base not in large.made or base[1] < 0 or union.cuts.get(place.name) == CORNER:
            continue
        differ = small.shapes[place.name][place.dim] != large.shapes[place.name][place.dim]
        if differ or (_is_output(small, base) and _is_activated(large, base)):
            what = "has the first rows" if differ else "has the weights"
            return (
                f"layer {base[0]!r} gives the output and {what} of a layer that is in the middle of the largest "
                f"network ({place.name!r}, axis {place.dim}); give the last layer a name of its own "
                f"(nas.sequential(*layers, head=...)), "
                f"or declare layouts={{{place.name!r}: nas.Corner()}} if it is meant"
            )
    return ""


def last_layers(probe: Probe) -> set[Base]:
    """What the output is made of, with no layer in between."""
    return {base for output in probe.outputs for base in reached(probe, output)}


def _is_output(probe: Probe, base: Base) -> bool:
    """Is the network's output what the layer gives, up to its shape and a softmax?"""
    made = probe.made[base].tensor
    axes = {axis % made.dim() for axis in (1, -1) if -made.dim() <= axis < made.dim()}
    forms = [made, *(made.softmax(axis) for axis in axes), *(made.log_softmax(axis) for axis in axes)]
    return any(_same(output, form) for output in probe.outputs for form in forms)


def _is_activated(probe: Probe, base: Base) -> bool:
    """Is what the layer gives read by no layer as it is, but for norms whose output none reads either?"""
    made = probe.made[base].tensor
    if any(_same(output, made) for output in probe.outputs):
        return False
    return all(after is not None and _is_activated(probe, after) for after in _norms_that_read(probe, made))


def _norms_that_read(probe: Probe, made: Tensor) -> Iterator[Base | None]:
    """What each layer that reads the tensor gives; None of a layer that is no norm."""
    for (name, number), call in probe.calls.items():
        if any(_same(tensor, made) for _, tensor in call.inputs):
            yield (name, number, 0) if name in probe.norms else None


def _same(one: Tensor, other: Tensor) -> bool:
    return one.numel() == other.numel() and torch.equal(one.detach().flatten(), other.detach().flatten().to(one.dtype))
