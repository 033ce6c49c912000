"""Two probes side by side: does the largest network have, at the units of the subnet, what the subnet has?

Where numbers differ, derivatives tell why.  If a unit of the subnet depends on a unit that the same one of the largest
network does not depend on, units are *mixed*.  If both depend on the same units, only numbers differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nas.supernet.probing import Base, Key, Probe, axis_of, units_of
from nas.supernet.union import Union

CHANNELS = 12
"""Units of a tensor that derivatives are taken of, at most."""

TOLERANCE = 1e-4
"""How far apart numbers may be, relative to the largest of them, in float32."""

ABSENT, PRESENT = 1e-6, 0.01
"""Derivatives relative to the largest: up to this there is no dependence; from this on there is one."""

VISITS = 2_000_000
"""Tensors that derivatives of one pair are taken of, together: a network that calls its blocks in a loop has thousands, and in
each of its layers a residual depends on all before."""

OUTPUT: Key = ("", -1)
"""The network's output, as if it were a layer."""

Kind = Literal["mixed", "units", "numbers", "shape", "layers", "unseen"]

Trace = tuple[int, Base, int]
"""Unit of a tensor, and what it depends on in one network only: a tensor made, and its unit."""


class Place(NamedTuple):
    """A dimension of a parameter."""

    name: str
    dim: int


@dataclass(frozen=True)
class Difference:
    """What is not the same in both networks.

    Attributes:
        key: the layer that it reaches.
        reader: the dimension of that layer's parameter, None for the network's output.
        kind: "mixed"; "units", where more or fewer units come together, none in the place of others; "numbers", of the same
            units; "shape"; "layers", where something comes from layers that one of both networks lacks; "unseen", of which
            nothing else is known.
        traces: what units depend on in one network only.
        writers: what wrote the tensor in the subnet, in order.
    """

    key: Key
    reader: Place | None
    kind: Kind
    traces: frozenset[Trace] = frozenset()
    writers: tuple[Place, ...] = ()


class Sides(NamedTuple):
    """Both networks, and what they are cut from.

    `full` is the largest network with random numbers at all of its units: where several zeros are multiplied, it depends on
    none of them, whatever its code is.
    """

    union: Union
    small: Probe
    large: Probe
    full: Callable[[], Probe]
    effort: Effort


class Effort:
    """What may still be computed of a pair.

    Attributes:
        left: tensors that derivatives may be taken of.
    """

    def __init__(self) -> None:
        self.left = VISITS


def differences(sides: Sides) -> Iterator[Difference]:
    """In the order in which the largest network's layers are called."""
    small, large = sides.small, sides.large
    for key in large.calls:
        if key in small.calls:
            for index in range(min(len(large.calls[key].inputs), len(small.calls[key].inputs))):
                yield from _at_layer(sides, key, index)
    if len(small.outputs) != len(large.outputs):
        yield Difference(OUTPUT, None, "shape")
        return
    for index, expected in enumerate(small.outputs):
        if expected.shape == large.outputs[index].shape:
            find = partial(_output, index)
            yield from _compare(sides, _Meeting(OUTPUT, None, expected, find, max(0, expected.dim() - 1)))
        else:
            yield Difference(OUTPUT, None, "shape")


def _output(index: int, probe: Probe) -> Tensor:
    return probe.outputs[index]


class _Meeting(NamedTuple):
    """A tensor of the subnet beside the same units of the one in the largest network, as `find` has it from a probe."""

    key: Key
    reader: Place | None
    expected: Tensor
    find: Callable[[Probe], Tensor]
    axis: int


def _at_layer(sides: Sides, key: Key, index: int) -> Iterator[Difference]:
    union, small, large = sides.union, sides.small, sides.large
    port, seen = large.calls[key].inputs[index]
    expected = small.calls[key].inputs[index][1]
    name = union.ties[port.parameter]
    if name not in small.shapes or name not in large.shapes:
        return
    reader = Place(name, port.dim)
    axis = axis_of(port, large.shapes[name], seen.shape)
    units = units_of(union, name, port.dim, small.shapes, large.shapes)
    if axis is None or units is None or axis >= expected.dim() or expected.shape[axis] != len(units):
        yield Difference(key, reader, "shape")
        return

    def find(probe: Probe) -> Tensor:
        return probe.calls[key].inputs[index][1].index_select(axis, units)

    yield from _compare(sides, _Meeting(key, reader, expected, find, axis))


def _compare(sides: Sides, meeting: _Meeting) -> Iterator[Difference]:
    key, reader, expected, find, _ = meeting
    seen = find(sides.large)
    if expected.shape == seen.shape and _close(expected, seen):
        return
    if not expected.dim() or not expected.isfinite().all() or not seen.isfinite().all():
        yield Difference(key, reader, "numbers")
        return
    if sides.effort.left <= 0:
        yield Difference(key, reader, "unseen")
        return
    kind, traces = _dependence(sides, meeting)
    yield Difference(key, reader, kind, frozenset(traces), tuple(writers(sides.small, expected)))


def _close(expected: Tensor, seen: Tensor) -> bool:
    if not expected.numel():
        return True
    limit = TOLERANCE * expected.detach().abs().max().clamp_(min=1e-6)
    return bool((expected - seen).detach().abs().max() <= limit)


def writers(probe: Probe, tensor: Tensor) -> list[Place]:
    """The dimensions of parameters by which layers wrote what `tensor` is made of, in the order of the layers."""
    return list(dict.fromkeys(Place(probe.made[base].name, probe.made[base].dim) for base in reached(probe, tensor)))


def reached(probe: Probe, tensor: Tensor) -> list[Base]:
    """What `tensor` was made of."""
    gradients = _gradients(probe, tensor)
    return [base for base in probe.made if base in gradients]


def _gradients(probe: Probe, tensor: Tensor) -> dict[Base, Tensor]:
    """Derivatives of a random sum of `tensor`, of what it depends on."""
    if not tensor.requires_grad:
        return {}
    weights = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
    bases = list(probe.made)
    found = torch.autograd.grad(
        (tensor * weights).sum(), [probe.made[base].tensor for base in bases], allow_unused=True, retain_graph=True
    )
    return {base: each for base, each in zip(bases, found, strict=True) if each is not None and bool(each.any())}


def _dependence(sides: Sides, meeting: _Meeting) -> tuple[Kind, set[Trace]]:
    """Units are mixed where one of the subnet depends on some that it does not depend on in the largest network, which has
    others in their place: others that the subnet has too, or some that it has not.
    """
    small, large = sides.small, sides.full()
    seen = meeting.find(large)
    mixed: set[Trace] = set()
    unlike = False
    for unit in _units(meeting, meeting.find(sides.large)):
        sides.effort.left -= len(small.made) + len(large.made)
        ours = _gradients(small, meeting.expected.select(meeting.axis, unit))
        theirs = _gradients(large, seen.select(meeting.axis, unit))
        if any(base in large.foreign for base in theirs) or any(base not in large.made for base in ours):
            return "layers", set()
        profiles = {base: _profile(sides, large, base, ours, theirs) for base in {**ours, **theirs}}
        here = max((float(each.here.max()) for each in profiles.values()), default=0.0)
        there = max((max(float(each.there.max()), each.others) for each in profiles.values()), default=0.0)
        missing, instead = set(), False
        for base, each in profiles.items():
            lacks = (each.here > PRESENT * here) & (each.there <= ABSENT * there)
            more = bool(((each.there > PRESENT * there) & (each.here <= ABSENT * here)).any())
            missing |= {(unit, base, int(index)) for index in lacks.nonzero()}
            instead = instead or more or each.others > PRESENT * there
            unlike = unlike or more or bool(lacks.any())
        if missing and instead:
            mixed |= missing
    return ("mixed" if mixed else "units" if unlike else "numbers"), mixed


def _units(meeting: _Meeting, seen: Tensor) -> list[int]:
    """Those that differ most; spread evenly where numbers cannot be compared."""
    expected, seen = meeting.expected.detach(), seen.detach()
    count = expected.shape[meeting.axis]
    if expected.shape != seen.shape:
        return sorted({round(index * (count - 1) / max(1, CHANNELS - 1)) for index in range(min(count, CHANNELS))})
    apart = (expected - seen).abs().movedim(meeting.axis, 0).flatten(1).amax(1)
    return [int(index) for index in apart.topk(min(count, CHANNELS)).indices]


class _Profile(NamedTuple):
    """How much each unit of a tensor matters: in the subnet, in the largest network, and any of those that only that one has."""

    here: Tensor
    there: Tensor
    others: float


def _profile(
    sides: Sides, large: Probe, base: Base, ours: Mapping[Base, Tensor], theirs: Mapping[Base, Tensor]
) -> _Profile:
    left, right = sides.small.made[base], large.made[base]
    here = ours.get(base, torch.zeros_like(left.tensor)).abs()
    there = theirs.get(base, torch.zeros_like(right.tensor)).abs()
    if base[1] < 0:
        return _of_parameter(sides, left.name, here, there)
    if right.axis is None:
        return _Profile(here.amax()[None], there.amax()[None], 0.0)
    mine, all_ = (each.movedim(right.axis, 0).flatten(1).amax(1) for each in (here, there))
    if right.units is None:
        return _Profile(mine, all_, 0.0)
    return _split(mine, all_, right.units)


def _split(mine: Tensor, all_: Tensor, units: Tensor) -> _Profile:
    kept = all_[units]
    rest = all_.clone()
    rest[units] = 0
    return _Profile(mine, kept, float(rest.max()))


def _of_parameter(sides: Sides, name: str, here: Tensor, there: Tensor) -> _Profile:
    """Element by element; as a whole where the cut computes the part and does not just take it."""
    whole = sides.union.shapes[name]
    numbers = torch.arange(torch.Size(whole).numel()).reshape(whole)
    places, values = [], []
    for shapes, gradient in ((sides.small.shapes, here), (sides.large.shapes, there)):
        cut = sides.union.cut(name, shapes)
        places.append(torch.cat([each.flatten() for each in cut.windows(numbers, shapes[name])]))
        values.append(torch.cat([each.flatten() for each in cut.split(gradient, whole)]))
        if len(places[-1]) != len(values[-1]):
            return _Profile(here.amax()[None], there.amax()[None], 0.0)
    spread = torch.zeros(numbers.numel())
    spread[places[1]] = values[1]
    return _split(values[0], spread, places[0])
