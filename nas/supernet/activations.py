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
from nas.supernet.inputs import Inputs, axis_of, like, tensors_in
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


def sample_axis(example: Inputs | None, batch: Inputs) -> int | None:
    """Along which axis tensors inside a network have samples, as far as inputs say; None where there are none."""
    said = axis_of(batch if example is None else like(batch, example))
    return said if said is None or isinstance(said, int) else 0


def samples_first(tensor: Tensor, place: int, sample: int | None) -> Tensor:
    """(n, …, length): the axis `place` last and that of samples first; n is 1 where there are none."""
    place %= tensor.dim()
    if sample is None or sample >= tensor.dim() or sample == place:
        return tensor.movedim(place, -1)[None]
    return tensor.movedim((sample, place), (0, -1))


class _Reading:
    """Sums of squares over samples, by atom and layer."""

    def __init__(self, largest: Largest) -> None:
        self.squares: dict[tuple[str, str], Tensor] = {}
        self._example, self._whole = largest.example, largest.units.whole
        self._sample: int | None = 0
        self._last: dict[str, weakref.ref[Tensor]] = {}  # what a layer that reads an atom got last

    def begin(self, batch: Inputs) -> None:
        """The next batch: it says which axis has samples."""
        self._sample = sample_axis(self._example, batch)
        self._last.clear()

    def note(self, reads: Reads, _layer: nn.Module, positional: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """A hook before a layer, of the argument that it reads units of."""
        tensor, tables = reads.of(positional, keywords), reads.tables
        if tensor is None:
            return
        for share in tables.shares:
            last = self._last.get(share.atom)
            if last is None or last() is not tensor:
                norms = _norms(tensor.detach(), tables.place, self._sample, share.unit, self._whole[share.atom])
                key = (share.atom, tables.layer)
                self.squares[key] = self.squares[key] + norms if key in self.squares else norms
        self._last.update((share.atom, weakref.ref(tensor)) for share in tables.shares)


def _norms(tensor: Tensor, place: int, sample: int | None, unit: Tensor, size: int) -> Tensor:
    """(size,) sum over samples of the squared mean over positions of the norm over a unit's indices."""
    lead = samples_first(tensor, place, sample)
    mine = unit >= 0
    index = unit[mine].to(tensor.device)
    step = max(1, ranking.PIECE * len(lead) // max(1, lead.numel()))
    total = torch.zeros(size, dtype=torch.float64, device=tensor.device)
    for start in range(0, len(lead), step):
        piece = lead[start : start + step].double()
        piece = piece.reshape(len(piece), -1, tensor.shape[place])[
            ..., mine.to(tensor.device)
        ].square()  # (n, positions, indices)
        norms = piece.new_zeros(*piece.shape[:2], size).index_add_(2, index, piece).sqrt()
        total += norms.mean(1).square().sum(0)
    return total.cpu()


def _finite(found: dict[Any, Tensor]) -> bool:
    return all(bool(each.isfinite().all()) for each in found.values())
