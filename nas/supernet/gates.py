"""Gradients of gates, one for each unit and sample, that are 1 on what layers read of a unit.

The gradient of the gate of a unit is Σ a·∂L/∂a over positions and the unit's indices, which one backward gives for every sample
by itself; gradients of weights are of a batch, and are not computed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import SupernetError
from nas.supernet import passes
from nas.supernet.activations import Reads, Samples, readers, rows_of
from nas.supernet.inputs import Inputs
from nas.supernet.passes import Largest, Step


def gradients(largest: Largest, steps: Iterable[Step]) -> Iterator[dict[str, list[Tensor]]]:
    """For each step (samples, units) gradients of the gates, by atom, of every call of the network.

    The sum over the layers that read a unit, times the number of samples: that of a sample's own loss, if the loss is their mean.
    Atoms that no layer of a known type reads, or whose layers get no multiple of the samples, are not there.

    Args:
        largest: the network.
        steps: give the losses.

    Raises:
        SupernetError: see `passes.backward`.
    """
    gates = _Gates(largest)
    with ExitStack() as stack:
        for layer, reads in readers(largest):
            hook = partial(gates.attach, reads)
            stack.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
        for _ in passes.each_backward(largest.module, gates, steps, lambda: gates.leaves):
            yield gates.taken()


class _Gates:
    """The network, and what its layers read in the calls since the last backward."""

    def __init__(self, largest: Largest) -> None:
        self._largest, self._whole = largest, largest.units.whole
        self._sums: dict[tuple[str, int], Tensor] = {}
        self._unknown: set[str] = set()
        self._call, self._samples = 0, Samples(1, 0)
        self.leaves: list[Tensor] = []
        """What is read first: all that is read later depends on it, or is here too."""

    def __call__(self, inputs: Inputs) -> Any:
        """The output."""
        self._call += 1
        self._samples = Samples.of(inputs, self._largest.example)
        return self._largest(inputs)

    def taken(self) -> dict[str, list[Tensor]]:
        """What the backward found; the next begins anew."""
        found: dict[str, list[Tensor]] = {}
        for (atom, _), sums in self._sums.items():
            if atom not in self._unknown:
                found.setdefault(atom, []).append(sums)
        self._sums, self.leaves = {}, []
        return found

    def attach(
        self, reads: Reads, _layer: nn.Module, positional: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """A hook before a layer: gives it a name of its own for what it reads, whose gradient is that reading's alone."""
        tensor = reads.of(positional, keywords)
        if tensor is None or not torch.is_grad_enabled():
            return None
        if len(self._samples.first(tensor, reads.tables.place)) % self._samples.count:
            self._unknown |= {share.atom for share in reads.tables.shares}
            return None
        hook = partial(self._reduce, reads, (self._call, self._samples), tensor.detach())
        if tensor.requires_grad:
            own = tensor.view_as(tensor)
            own.register_hook(hook)  # type: ignore[no-untyped-call]
        else:
            own = tensor.detach().requires_grad_()
            own.register_post_accumulate_grad_hook(partial(_dropped, hook))  # type: ignore[no-untyped-call]
            self.leaves.append(own)
        return reads.put(own, positional, keywords)

    def _reduce(self, reads: Reads, call: tuple[int, Samples], tensor: Tensor, gradient: Tensor) -> None:
        if not bool(gradient.isfinite().all()):
            raise SupernetError(
                f"the gradient of what {reads.tables.layer!r} reads is not finite on this batch; leave it out"
            )
        number, samples = call
        leads = [samples.first(each, reads.tables.place) for each in (tensor, gradient)]
        sums = torch.zeros(samples.count, reads.tables.length, dtype=torch.float64, device=tensor.device)
        for owner, (values, slopes) in rows_of(samples.count, *leads):
            product = values.double() * slopes.double()
            sums.index_add_(0, owner, product.reshape(len(product), -1, product.shape[-1]).sum(1))
        sums = sums.cpu() * samples.count
        for share in reads.tables.shares:
            mine = share.unit >= 0
            found = torch.zeros(samples.count, self._whole[share.atom], dtype=torch.float64)
            found.index_add_(1, share.unit[mine], sums[:, mine])
            key = (share.atom, number)
            self._sums[key] = self._sums[key] + found if key in self._sums else found


def _dropped(hook: Any, leaf: Tensor) -> None:
    """A leaf's gradient goes to the hook and no further."""
    gradient, leaf.grad = leaf.grad, None
    hook(gradient)
