"""The largest arch with some of its weights at zero, in the place of a subnet: decisions relaxed without a change to a model.

An option of a decision is a mask for some parameters of the largest arch, and an arch is the product of the masks of its options;
options with shares are the product of their masks' means, which mixes weights and not outputs (Sukthanker et al. 2024,
"Weight-Entanglement Meets Gradient-Based Neural Architecture Search").  Only what reads a narrower axis is masked: with a mask on
what writes it as well, a gradient of growing it would be a product of two zeros.  A block that is left out has zeros in the
parameters of its last layer alone, for the same reason; behind a residual connection it then adds nothing.

A layer normalisation along a narrower axis sees the whole one, a residual connection that a width switches on is not there,
another operation has parameters of its own: such decisions are found by `nas.supernet.relaxation.tried`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nas.supernet.calibration import own_statistics
from nas.supernet.inputs import Inputs, call_with
from nas.supernet.parts import Shape
from nas.supernet.relaxation import Relaxation, Shares, only

if TYPE_CHECKING:
    from nas.space import Arch
    from nas.supernet.binding import Binding
    from nas.supernet.supernet import Supernet

Mask = Mapping[str, Tensor]
"""Parameter of the largest arch -> 1 where it counts, 0 elsewhere; broadcasts to its shape."""
_KEPT = 256  # decisions of networks whose masks are kept


class Masks(Relaxation):
    """Options as masks of the largest arch, or of the largest beside options that are not relaxed."""

    called = "the largest arch with masks"

    def __init__(self, supernet: Supernet, relaxed: Sequence[int] = (), unfit: Mapping[str, str] | None = None) -> None:
        super().__init__(supernet, relaxed, unfit)
        self._made: OrderedDict[tuple[str, int], dict[str, Tensor] | None] = OrderedDict()

    def of(self, whole: Arch, decision: int) -> dict[str, Tensor] | None:
        """Parameter -> (options, …) the masks of all options of a decision that touch it.

        None where no arch differs from `whole` in this decision alone.

        Raises:
            Infeasible: an option cannot be built.
        """
        key = whole.key, decision
        if key not in self._made:
            self._made[key] = self._of(whole, decision)
            if len(self._made) > _KEPT:
                self._made.popitem(last=False)
        return self._made[key]

    @torch.no_grad()
    def _of(self, whole: Arch, decision: int) -> dict[str, Tensor] | None:
        point = self.supernet.space.decisions[decision].point
        masks: dict[int, Mask] = {}
        for option in point.distinct_candidates:
            near = only(self.supernet, whole, decision, option)
            if near is None:
                return None
            masks[option] = _mask(self.supernet, whole, near)
        names = sorted({name for mask in masks.values() for name in mask})
        weights = self.supernet.cut(whole)
        found = {}
        for name in names:
            like = next(mask[name] for mask in masks.values() if name in mask)
            every = [masks[own].get(name, torch.ones_like(like)) for own in point.canonical]
            found[name] = torch.stack(every).to(weights[name].device, weights[name].dtype)
        return found

    def has(self, whole: Arch, decision: int) -> bool:
        """As said there."""
        return self.of(whole, decision) is not None

    def weights(self, whole: Arch, shares: Shares, *, learning: bool = False) -> dict[str, Tensor]:
        """Name of each parameter of `whole` -> its weights times the masks, by their shares."""
        cut = self.supernet.cut(whole)
        binding = self.supernet.bind(whole)
        found = {names[0]: cut[names[0]] if learning else cut[names[0]].detach() for names, _ in binding.entries}
        for decision, share in shares.items():
            for name, masks in (self.of(whole, decision) or {}).items():
                mean = torch.tensordot(share.to(masks.device, masks.dtype), masks, 1)
                found[name] = found[name] * mean
        return found

    def output(self, whole: Arch, inputs: Inputs, shares: Shares, *, learning: bool = False) -> Any:
        """As said there."""
        binding = self.supernet.bind(whole)
        weights = self.weights(whole, shares, learning=learning)
        aliases = {name: weights[names[0]] for names, _ in binding.entries for name in names}
        with own_statistics(binding, dropping=learning):
            return call_with(binding.module, inputs, aliases)


def _mask(supernet: Supernet, whole: Arch, arch: Arch) -> Mask:
    """What makes the network of `whole` compute what `arch` does, as far as rules tell."""
    binding, small = supernet.bind(whole), supernet.bind(arch)
    shared = supernet._shared
    kept = {shared.name_of(names, shape): shape for names, shape in small.entries}
    found: dict[str, Tensor] = {}
    absent: list[str] = []
    for names, shape in binding.entries:
        name = shared.name_of(names, shape)
        if name not in kept:
            absent.append(names[0])
        elif kept[name] != shape:
            reader = _reader(binding, small, name, shape, kept[name])
            if not bool(reader.all()):
                found[names[0]] = reader
    for name in _last(binding.module, absent):
        found[name] = torch.zeros_like(binding.module.get_parameter(name))
    return found


def _reader(binding: Binding, small: Binding, name: str, shape: Shape, narrow: Shape) -> Tensor:
    """1 where the smaller network reads what this parameter of the larger one reads."""
    shared = binding._shared
    if shared.union.cut(name, binding.shapes).needs(
        shape
    ):  # computed from more than a window: of equal lengths it is all
        part = torch.zeros(shape)
        part[tuple(slice(length) for length in narrow)] = 1
        return part.amax(0, keepdim=True)
    whole = torch.zeros_like(shared.tensor(name))
    cut = shared.union.cut(name, small.shapes)
    for window in cut.windows(whole, narrow):
        window.fill_(1)
    cut = shared.union.cut(name, binding.shapes)
    part = cut.join(cut.sources(whole, shape), whole.shape, shape, {})
    return part.amax(0, keepdim=True) if part.ndim > 1 else torch.ones_like(part)


def _last(module: nn.Module, absent: Sequence[str]) -> list[str]:
    """Of each block that is left out as a whole, the parameters of its last layer."""
    lost = {*absent}
    found: list[str] = []

    def walk(prefix: str, inner: nn.Module) -> None:
        names = [f"{prefix}{name}" for name, _ in inner.named_parameters(remove_duplicate=False)]
        if names and lost.issuperset(names):
            owners = [
                f"{prefix}{name}"
                for name, one in inner.named_modules()
                if any(True for _ in one.parameters(recurse=False))
            ]
            last = owners[-1].rstrip(".")
            found.extend(name for name in names if name.rpartition(".")[0] == last)
            return
        for name, child in inner.named_children():
            walk(f"{prefix}{name}.", child)

    if lost:
        walk("", module)
    return found
