"""Data parallelism: the processes of one training, each with a share of every batch.

All ranks hold the same weights and train the same archs on their own rows of the same batch.  A rank sums the gradients of all
archs of a step, weighted by its share of the batch, and then the ranks add theirs up: one reduction a step, however many archs
it has.  What follows (clipping, the optimizer, the schedule) is the same everywhere.  Losses that are a mean over samples need
nothing else; layers and losses that relate samples to each other do: see `nas.train.synced`.

Random numbers inside a network (dropout) are drawn by each rank for its own rows, as a function of seed, rank and step: a
training on several processes repeats itself exactly, and its dropout is not that of one process.  Batches, augmented ones too,
are those of one process: every rank makes the whole batch and takes its rows.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn

from nas.errors import TrainError
from nas.supernet.inputs import Inputs
from nas.train.rows import part_of
from nas.train.task import Batch, mixed

if TYPE_CHECKING:
    from nas.space import Arch, Space
    from nas.supernet import Supernet


_DRIFT = 1e-3  # of the sum of a parameter's sizes: far more than roundings are between two checkpoints


class PeerLost(Exception):
    """Another rank is gone, or the way to it: not a mistake of this one, and worth another attempt."""


@dataclass(frozen=True)
class Share:
    """Rows `start` to `stop` of a batch of `total` samples."""

    start: int
    stop: int
    total: int

    @property
    def weight(self) -> float:
        """Of this share's mean in the mean of the batch."""
        return (self.stop - self.start) / self.total

    def of(self, batch: Batch, example: Inputs | None = None) -> Batch:
        """The samples of every tensor that has them; everything else whole.

        Args:
            batch: of `total` samples.
            example: of the task: says which axis of the inputs is the batch's.

        Raises:
            TrainError: the inputs have no batch, or two axes of a target may be.
        """
        return part_of(batch, slice(self.start, self.stop), batch.inputs if example is None else example)


class Ranks:
    """One process alone; `Group` is several.

    Attributes:
        rank: this process's number, from 0; the first writes checkpoints and logs, and measures.
        size: how many there are.
    """

    rank, size = 0, 1
    patience_s = 0.0
    """How long to wait for what another process is about to leave or to write."""

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    def asked(self) -> bool:
        """Whether somebody asked the training to stop."""
        return False

    def share(self, samples: int) -> Share:
        """This rank's part of a batch: parts differ by one sample at most.

        Raises:
            TrainError: there are fewer samples than ranks.
        """
        check_share(samples, self.size)
        least, more = divmod(samples, self.size)
        start = self.rank * least + min(self.rank, more)
        return Share(start, start + least + (self.rank < more), samples)

    def told(self, value: Any) -> Any:
        """What the first rank gave for `value`: a small one."""
        return value

    def archs(self, choose: Callable[[], Sequence[Arch]], space: Space) -> list[Arch]:  # noqa: ARG002
        """The archs that the first rank chooses.  The others do not: on another processor a score may round otherwise."""
        return list(choose())

    def gathered(self, ours: Mapping[int, Sequence[float]], count: int, width: int) -> list[list[float]]:  # noqa: ARG002
        """Rows of numbers that the ranks computed, each some of them.

        Args:
            ours: number of a row -> its numbers.
            count: of the rows of all.
            width: numbers of a row.
        """
        return [list(ours[at]) for at in range(count)]

    def seed(self, seed: int, step: int) -> None:
        """Makes this rank's random numbers of a step its own; a process alone goes on with those that it has."""

    def reduce(self, parameters: Sequence[nn.Parameter], loss: Tensor, stop: bool, look: bool) -> tuple[Tensor, bool]:  # noqa: ARG002
        """Adds up gradients and losses of all ranks.

        Args:
            parameters: the same on all ranks; their `grad` is replaced by the sum, and stays None where no rank has one.
            loss: this rank's part.
            stop: whether this rank wants to stop.
            look: whether to look who wants to stop, which waits for the device.

        Returns:
            The loss of all, and whether any of them wants to stop.
        """
        return loss, stop

    def settle(self, supernet: Supernet, begin: bool = False) -> None:
        """Makes the buffers that models learn in a step the mean of those of all ranks; whole numbers and flags the largest.

        Running statistics of torch's layers are not among them: those are of all ranks already.

        Args:
            supernet: whose.
            begin: take those of the first rank instead: what a constructor drew without a seed differs.
        """

    def agree(self, parameters: Sequence[nn.Parameter]) -> None:
        """Makes sure that all ranks have the same weights, to the bit.

        On equal processors they have; where roundings differ, the first rank's are taken.

        Raises:
            TrainError: they differ by more than roundings.
        """


class Group(Ranks):
    """The ranks of torch's process group, which this process has joined.

    Args:
        asked: says whether to stop; asked of the first rank once a step.
    """

    patience_s = 20.0

    def __init__(self, asked: Callable[[], bool] = lambda: False) -> None:
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self._asked = asked
        self._sum: _Sum | None = None
        self._buffers: list[str] | None = None

    def asked(self) -> bool:
        """Whether the first rank was asked to stop."""
        return self.first and self._asked()

    def told(self, value: Any) -> Any:
        """What the first rank gave: JSON-able, at most a few thousand numbers.

        As text: torch's own broadcast of objects is a pickle, which whoever reaches the socket could send.
        """
        text = json.dumps(value).encode() if self.first else b""
        size = torch.tensor(len(text))
        with lost():
            distributed.broadcast(size, src=0)
            sent = (
                torch.tensor(list(text), dtype=torch.uint8) if self.first else torch.empty(int(size), dtype=torch.uint8)
            )
            distributed.broadcast(sent, src=0)
        return json.loads(bytes(sent.tolist()))

    def archs(self, choose: Callable[[], Sequence[Arch]], space: Space) -> list[Arch]:
        """As rows of numbers."""
        chosen = list(choose()) if self.first else []
        rows = self.told([arch.row() for arch in chosen])
        return chosen if self.first else list(space.rows_to_archs(rows))

    def gathered(self, ours: Mapping[int, Sequence[float]], count: int, width: int) -> list[list[float]]:
        """By a sum of float64, to which every row is added by one rank."""
        rows = torch.zeros(count, width, dtype=torch.float64)
        for at, numbers in ours.items():
            rows[at] = torch.tensor(numbers, dtype=torch.float64)
        if count:
            with lost():
                distributed.all_reduce(rows)
        return rows.tolist()

    def seed(self, seed: int, step: int) -> None:
        """A function of seed, rank and step, so that nothing of it needs to be kept."""
        torch.manual_seed(mixed(seed, "rank", self.rank, step))

    def reduce(self, parameters: Sequence[nn.Parameter], loss: Tensor, stop: bool, look: bool) -> tuple[Tensor, bool]:
        """One all-reduce of one flat tensor."""
        if self._sum is None:
            self._sum = _Sum(parameters)
        return self._sum(loss, stop, look)

    @torch.no_grad()
    def settle(self, supernet: Supernet, begin: bool = False) -> None:
        """One reduction of whole numbers, which says as well what others hold, and one of fractions."""
        if self._buffers is None:
            self._buffers = supernet.own_buffers()
        if not self._buffers:
            return
        held = dict(supernet.named_buffers())
        there = torch.tensor([name in held for name in self._buffers], dtype=torch.int64)
        with lost():
            distributed.all_reduce(there, distributed.ReduceOp.MAX)
        names = [name for name, some in zip(self._buffers, there.tolist(), strict=True) if some]
        supernet.hold(set(names))
        held = dict(supernet.named_buffers())
        if begin:
            with lost():
                for name in names:
                    distributed.broadcast(held[name], src=0)
            return
        fractions = [held[name] for name in names if held[name].is_floating_point()]
        # In float64 the mean of equal numbers is that number, so that what nobody changed stays as it is.
        _reduced(fractions, torch.float64, distributed.ReduceOp.SUM, self.size)
        whole = [held[name] for name in names if not held[name].is_floating_point() and not held[name].is_complex()]
        _reduced(whole, torch.int64, distributed.ReduceOp.MAX, 1)

    def agree(self, parameters: Sequence[nn.Parameter]) -> None:
        """Compares two sums over each parameter."""
        if not parameters:
            return
        with torch.no_grad():
            sums = torch.stack([one.detach().double().sum() for one in parameters]).cpu()
            sizes = torch.stack([one.detach().double().abs().sum() for one in parameters]).cpu()
        extremes = torch.cat([sums, -sums, sizes])
        with lost():
            distributed.all_reduce(extremes, distributed.ReduceOp.MAX)
        highest, lowest, sizes = extremes.chunk(3)
        if torch.equal(highest, -lowest):
            return
        if bool((highest + lowest > _DRIFT * sizes).any()):
            raise TrainError(
                "the weights of the processes have drifted apart: something that they compute differs from process to process, "
                "such as initial weights without a seed, or a sampler that changes weights by random numbers of its own"
            )
        with torch.no_grad(), lost():
            for one in parameters:
                distributed.broadcast(one.data, src=0)


def _reduced(tensors: Sequence[Tensor], kind: torch.dtype, how: Any, count: int) -> None:
    """Replaces tensors by what the ranks' give together, divided by `count`."""
    if not tensors:
        return
    flat = torch.cat([one.reshape(-1).to(kind) for one in tensors])
    with lost():
        distributed.all_reduce(flat, how)
    if count > 1:
        flat /= count
    for one, part in zip(tensors, torch.split(flat, [one.numel() for one in tensors]), strict=True):
        one.copy_(part.view(one.shape))


class _Sum:
    """The flat tensor that is reduced: gradients, which of them there are, the loss, who wants to stop."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._learnt = [one for one in parameters if one.requires_grad]
        kind, place = torch.float32, torch.device("cpu")
        for one in self._learnt:
            kind, place = torch.promote_types(kind, one.dtype), one.device
        sizes = [one.numel() for one in self._learnt]
        self._flat = torch.zeros(sum(sizes) + len(sizes) + 2, dtype=kind, device=place)
        *pieces, self._there, self._rest = torch.split(self._flat, [*sizes, len(sizes), 2])
        self._pieces = [piece.view_as(one) for piece, one in zip(pieces, self._learnt, strict=True)]

    def __call__(self, loss: Tensor, stop: bool, look: bool) -> tuple[Tensor, bool]:
        there = [one.grad is not None for one in self._learnt]
        self._there.copy_(torch.tensor(there, dtype=self._there.dtype))
        self._rest[0] = loss
        self._rest[1] = float(stop)
        with torch.no_grad():
            for piece, one in zip(self._pieces, self._learnt, strict=True):
                piece.copy_(one.grad) if one.grad is not None else piece.zero_()
        with lost():
            distributed.all_reduce(self._flat)
        # Where a rank has no gradient and another one has (networks that decide by random numbers), it gets one.
        wanted = there if all(there) else (self._there > 0).tolist()
        with torch.no_grad():
            for piece, one, some in zip(self._pieces, self._learnt, wanted, strict=True):
                if not some:
                    continue
                if one.grad is None:
                    one.grad = torch.zeros_like(one)
                one.grad.copy_(piece)
        return self._rest[0].to(loss.dtype, copy=True), bool(self._rest[1] > 0) if look else False


def check_share(samples: int, workers: int) -> None:
    """Refuses more ranks than a batch has samples.

    Raises:
        TrainError: with both numbers.
    """
    if samples < workers:
        raise TrainError(
            f"{workers} workers cannot share a batch of {samples} sample{'s' if samples != 1 else ''}; "
            f"give at most {samples} workers, or a larger batch"
        )


@contextlib.contextmanager
def lost() -> Iterator[None]:
    """Names what a collective operation raises when a peer is gone."""
    try:
        yield
    except RuntimeError as error:  # torch's, of every backend
        raise PeerLost(" ".join(str(error).split())) from error
