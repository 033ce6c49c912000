"""What layers give and read on calibration data, reduced to a number for each unit as it comes.

Only layers of known types are watched (`nas.supernet.roles`): of others it is not known where their units are.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nas.supernet import parts, passes, ranking
from nas.supernet.inputs import Inputs, axis_of, batch_size, like, tensors_in
from nas.supernet.parts import Axis
from nas.supernet.passes import Largest
from nas.supernet.ranking import Share
from nas.supernet.roles import Port, Role, argument, role_of


def written(largest: Largest, batches: Iterable[Inputs], atoms: Collection[str] | None = None) -> dict[str, Tensor]:
    """(units,) mean |activation| over a batch and positions, summed over the layers that write a unit, its indices and batches.

    Args:
        largest: the network.
        batches: inputs.
        atoms: that are asked; None is all.  Those that no layer is known to write are not in the result.
    """
    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        _watch_written(largest, found, atoms, stack)
        passes.forward(largest, batches, lambda _: None, lambda: _finite(found))
    return found


def read(largest: Largest, batches: Iterable[Inputs]) -> dict[str, Tensor]:
    """(units,) of Minitron, of what layers read: along samples the L2 norm of the mean magnitude along positions.

    A unit of several indices (a head) has the L2 norm over them as its magnitude at a position.  Summed over the layers that
    read a unit; layers in a row that get the very same tensor (query, key and value) are one, as the norm before them would be.
    Units that no layer is known to read have what `written` gives.
    """
    reading, others = _Reading(largest), dict[str, Tensor]()
    with ExitStack() as stack:
        watched: set[str] = set()
        for layer, reads in readers(largest):
            watched |= {share.atom for share in reads.tables.shares}
            hook = partial(reading.note, reads)
            stack.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
        rest = set(largest.units.whole) - watched
        _watch_written(largest, others, rest, stack)
        passes.forward(largest, batches, reading.begin, lambda: _finite(others) and _finite(reading.squares))
    found: dict[str, Tensor] = {}
    for (atom, _), total in reading.squares.items():
        ranking.add(found, atom, total.sqrt())
    return {**others, **found}


@dataclass(frozen=True)
class Tables:
    """The units along an axis of a tensor that a layer gets or gives.

    Attributes:
        layer: its name, or that of its parameter.
        length: of the axis.
        place: which of the tensor's axes.
        shares: tables of units.
    """

    layer: str
    length: int
    place: int
    shares: tuple[Share, ...]

    def fit(self, tensor: Tensor) -> bool:
        """Whether the tensor has that axis."""
        there = tensor.is_floating_point() and -tensor.dim() <= self.place < tensor.dim()
        return there and tensor.shape[self.place] == self.length


@dataclass(frozen=True)
class Reads:
    """Which argument of a layer has units, and which."""

    position: int
    name: str
    tables: Tables

    def of(self, positional: Sequence[Any], keywords: dict[str, Any]) -> Tensor | None:
        """The argument, if it has the axis."""
        tensor = argument(self.position, self.name, positional, keywords)
        return tensor if tensor is not None and self.tables.fit(tensor) else None

    def put(
        self, tensor: Tensor, positional: Sequence[Any], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with `tensor` in its place."""
        if self.position < len(positional):
            return (*positional[: self.position], tensor, *positional[self.position + 1 :]), keywords
        name = self.name if self.name in keywords else next(iter(keywords))
        return tuple(positional), {**keywords, name: tensor}


def readers(largest: Largest) -> Iterator[tuple[nn.Module, Reads]]:
    """The layers of known types that sum over units which count there; norms are none."""
    for layer, role in _layers(largest):
        for position, name, port in () if role.keeps_shape else role.inputs:
            tensor = _name_of(largest, layer, port)
            if tensor is None:
                continue
            place = (tensor, port.dim)
            atoms = {atom for atom, counted in largest.units.counted.items() if place in counted}
            tables = _tables(largest, tensor, port, atoms)
            if tables.shares:
                yield layer, Reads(position, name, tables)


def _layers(largest: Largest) -> Iterator[tuple[nn.Module, Role]]:
    for layer in largest.module.modules():
        role = role_of(layer)
        if role is not None:
            yield layer, role


def _name_of(largest: Largest, layer: nn.Module, port: Port) -> str | None:
    """Canonical name of a layer's parameter that has axes."""
    *path, leaf = port.parameter.split(".")
    for part in path:
        layer = layer._modules[part]  # type: ignore[assignment]
    name = largest.called.get(id(layer._parameters.get(leaf)))
    return name if name in largest.units.axes else None


def _tables(largest: Largest, tensor: str, port: Port, atoms: Collection[str]) -> Tables:
    axis: Axis = largest.units.axes[tensor][port.dim]
    shares = [Share(atom, 0, unit) for atom, unit in parts.units(axis, largest.units.sizes) if atom in atoms]
    return Tables(tensor, parts.length(axis, largest.units.sizes), port.axis, tuple(shares))


def _watch_written(largest: Largest, found: dict[str, Tensor], atoms: Collection[str] | None, stack: ExitStack) -> None:
    for layer, role in _layers(largest):
        tensor = _name_of(largest, layer, role.output)
        if tensor is not None:
            tables = _tables(largest, tensor, role.output, largest.units.whole.keys() if atoms is None else atoms)
            if tables.shares:
                stack.callback(layer.register_forward_hook(partial(_write, largest, found, tables)).remove)


def _write(
    largest: Largest, found: dict[str, Tensor], tables: Tables, _layer: nn.Module, _inputs: object, output: object
) -> None:
    for tensor in filter(tables.fit, tensors_in(output)[:1]):
        first = tensor.detach().movedim(tables.place, 0)
        rows = max(1, first.numel() // max(1, len(first)))
        for share in tables.shares:
            sums = ranking.moments(share, largest.units.whole[share.atom], ranking.magnitudes, first)[0]
            ranking.add(found, share.atom, sums / rows)


@dataclass(frozen=True)
class Samples:
    """How many samples inputs have, and along which axis."""

    count: int
    axis: int

    @staticmethod
    def of(inputs: Inputs, example: Inputs | None) -> Samples:
        """Those of `inputs`, along the axis that the example says; one sample where there is no batch."""
        said = axis_of(inputs if example is None else like(inputs, example))
        if said is None:
            return Samples(1, 0)
        return Samples(
            batch_size(inputs if example is None else like(inputs, example)), said if isinstance(said, int) else 0
        )

    def first(self, tensor: Tensor, place: int) -> Tensor:
        """(n, …, length) of a tensor inside the network: the axis `place` last, and that of samples first.

        The axis of samples is as long as they are many, the inputs' own before others.  Where there is none of that length it is
        the inputs', which may have several rows for each sample, as windows of images; n is 1 where `place` is that axis.
        """
        place %= tensor.dim()
        others = [axis for axis in range(tensor.dim()) if axis != place]
        axis = next(
            (axis for axis in sorted(others, key=lambda each: each != self.axis) if tensor.shape[axis] == self.count),
            self.axis,
        )
        if self.count == 1 or axis not in others:
            return tensor.movedim(place, -1)[None]
        return tensor.movedim((axis, place), (0, -1))


class _Reading:
    """Sums of squares over samples, by atom and layer."""

    def __init__(self, largest: Largest) -> None:
        self.squares: dict[tuple[str, str], Tensor] = {}
        self._example, self._whole = largest.example, largest.units.whole
        self._samples = Samples(1, 0)
        self._last: dict[str, weakref.ref[Tensor]] = {}  # what a layer that reads an atom got last

    def begin(self, batch: Inputs) -> None:
        """The next batch: it says which axis has samples."""
        self._samples = Samples.of(batch, self._example)
        self._last.clear()

    def note(self, reads: Reads, _layer: nn.Module, positional: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """A hook before a layer, of the argument that it reads units of."""
        tensor, tables = reads.of(positional, keywords), reads.tables
        if tensor is None:
            return
        for share in tables.shares:
            last = self._last.get(share.atom)
            if last is None or last() is not tensor:
                norms = _norms(tensor.detach(), tables.place, self._samples, share.unit, self._whole[share.atom])
                key = (share.atom, tables.layer)
                self.squares[key] = self.squares[key] + norms if key in self.squares else norms
        self._last.update((share.atom, weakref.ref(tensor)) for share in tables.shares)


def _norms(tensor: Tensor, place: int, samples: Samples, unit: Tensor, size: int) -> Tensor:
    """(size,) sum over samples of the squared mean over positions of the norm over a unit's indices."""
    lead = samples.first(tensor, place)
    count = samples.count if len(lead) % samples.count == 0 else len(lead)
    means = torch.zeros(count, size, dtype=torch.float64, device=tensor.device)
    mine = (unit >= 0).to(tensor.device)
    index = unit[unit >= 0].to(tensor.device)
    for owner, (piece,) in rows_of(count, lead):
        squares = piece.double().reshape(len(piece), -1, piece.shape[-1])[..., mine].square()  # (n, positions, indices)
        norms = squares.new_zeros(*squares.shape[:2], size).index_add_(2, index, squares).sqrt()
        means.index_add_(0, owner, norms.mean(1))
    return (means * count / max(1, len(lead))).square().sum(0).cpu()


def rows_of(count: int, *leads: Tensor) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Pieces of rows of several tensors, and the sample of `count` that each row is of."""
    length, numbers = len(leads[0]), leads[0].numel()
    step = max(1, ranking.PIECE * length // max(1, numbers))
    for start in range(0, length, step):
        rows = torch.arange(start, min(start + step, length), device=leads[0].device)
        yield rows // max(1, length // count), [lead[start : start + step] for lead in leads]


def _finite(found: dict[Any, Tensor]) -> bool:
    return all(bool(each.isfinite().all()) for each in found.values())
