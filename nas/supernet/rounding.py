"""How far two computations of one output may be apart: the one place that says what rounding explains.

Bits that are copied are compared bit for bit (`first_difference`).  Numbers that are computed are not: on another processor, with
another number of threads, in another library, or with weights at another alignment in memory, a sum is taken in another order.

What that may change is measured on the network itself.  A sum of n terms rounds n times, each time by half a unit in the last
place of what has been added up, so that its error is as if each term had been moved by about √n units (Higham and Mary 2019, "A
New Approach to Probabilistic Rounding Error Analysis").  So every weight is moved by √n units, n the length of the sum that it is
in, and every input by one, up or down at random; the largest change of an output over `DRAWS` such draws, times `SAFETY`, is what
rounding explains.  Depth, cancellation and steep functions are in it, and small outputs are not held to a bound for large ones.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import SupernetError
from nas.supernet.inputs import Inputs, call, call_with, convert, tensors_in

DRAWS = 3
SAFETY = 4.0


@dataclass(frozen=True)
class Gap:
    """How far two outputs are apart."""

    absolute: float
    """Largest difference; infinite where shapes, integers, or the places of NaN and infinities differ."""
    allowed: float
    """What rounding explains, where the two are farthest apart in relation to it."""

    @property
    def same(self) -> bool:
        """Whether rounding explains the difference."""
        return self.absolute <= self.allowed


@torch.no_grad()
def gap(module: nn.Module, again: Callable[[Inputs], Any], inputs: Inputs, *, relative: float = 0.0) -> Gap:
    """How far what `again` gives is from what `module` gives, which is in eval mode.

    Args:
        module: the reference.
        again: another computation of the same.
        inputs: of both.
        relative: of the largest output, allowed besides: for libraries that compute functions in another way.

    Raises:
        SupernetError: the module gives no tensors.
    """
    ours, theirs = tensors_in(call(module, inputs)), tensors_in(again(inputs))
    if not ours:
        raise SupernetError(f"{type(module).__name__} gives no tensors that could be compared")
    if len(ours) != len(theirs):
        return Gap(math.inf, 0.0)
    gaps = [largest_difference(*pair) for pair in zip(ours, theirs, strict=True)]
    if not any(gaps):
        return Gap(0.0, 0.0)
    allowed = [
        max(own, relative * _largest(one)) for own, one in zip(rounding(module, inputs, ours), ours, strict=True)
    ]
    return Gap(
        *max(zip(gaps, allowed, strict=True), key=lambda pair: pair[0] / pair[1] if pair[1] else pair[0] * math.inf)
    )


@torch.no_grad()
def rounding(module: nn.Module, inputs: Inputs, outputs: list[Tensor] | None = None) -> list[float]:
    """The largest difference of each tensor of the output that another order of the sums explains; 0 for integers.

    Args:
        module: in eval mode; it is left as it is.
        inputs: of the module.
        outputs: what it gives for them, if that is known.
    """
    outputs = tensors_in(call(module, inputs)) if outputs is None else outputs
    every = (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    names = dict(itertools.chain(*every))  # all of each tensor, as ties have several
    state = {id(tensor): tensor for tensor in names.values()}
    moved = [0.0] * len(outputs)
    for draw in range(DRAWS):
        generator = torch.Generator().manual_seed(draw)
        moves = {own: _moved(tensor, generator, _units(tensor)) for own, tensor in state.items()}
        shaken = {name: moves[id(tensor)] for name, tensor in names.items()}
        given = convert(inputs, functools.partial(_moved, generator=generator))
        others = tensors_in(call_with(module, given, shaken))
        for place, (one, other) in enumerate(zip(outputs, others, strict=False)):
            if one.is_floating_point() and one.shape == other.shape:
                moved[place] = max(moved[place], _largest(one.double() - other.double()))
    return [
        SAFETY * (far + unit(one) * _largest(one)) if one.is_floating_point() else 0.0
        for far, one in zip(moved, outputs, strict=True)
    ]


def nudged(module: nn.Module, draw: int) -> nn.Module:
    """A copy of `module` as far from it as rounding on another machine may be: what it measures may be measured there.

    Args:
        module: any.
        draw: which of the copies; one for each number.
    """
    generator, copied = torch.Generator().manual_seed(draw), copy.deepcopy(module)
    with torch.no_grad():
        for tensor in (*copied.parameters(), *copied.buffers()):
            tensor.copy_(_moved(tensor, generator, SAFETY * _units(tensor)))
    return copied


def unit(tensor: Tensor) -> float:
    """A unit in the last place of 1 in the arithmetic of `tensor`, which on a GPU may be TF32."""
    if tensor.dtype == torch.float32 and tensor.is_cuda:
        coarse = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
        return 2.0**-10 if coarse else torch.finfo(torch.float32).eps
    return torch.finfo(tensor.dtype).eps


def largest_difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference; infinite where shapes, integers, or the places of NaN and infinities differ."""
    if ours.shape != theirs.shape:
        return math.inf
    theirs = theirs.to(ours.device)
    if not (ours.is_floating_point() and theirs.is_floating_point()):
        return 0.0 if ours.equal(theirs) else math.inf
    first, second = ours.detach().double(), theirs.detach().double()
    finite = torch.isfinite(first)
    if not finite.equal(torch.isfinite(second)) or not torch.equal(
        *(one[~finite].nan_to_num(0.0) for one in (first, second))
    ):
        return math.inf
    return _largest(first[finite] - second[finite])


def first_difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str | None:
    """The first name under which the two have other bits, another type or shape, or that one of them lacks."""
    for name in dict.fromkeys((*ours, *theirs)):
        if name not in ours or name not in theirs or not _same_bits(ours[name], theirs[name]):
            return name
    return None


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(*(each.detach().cpu().contiguous().flatten().view(torch.uint8) for each in (one, other)))


def _moved(tensor: Tensor, generator: torch.Generator, units: float = 1.0) -> Tensor:
    """Each number so many units up or down."""
    if not tensor.is_floating_point():
        return tensor
    signs = torch.randint(0, 2, tensor.shape, generator=generator, dtype=torch.int8).to(tensor) * 2 - 1
    return tensor.detach() * (1 + units * unit(tensor) * signs)


def _units(weight: Tensor) -> float:
    """√n for a weight of sums of n terms; 1 in half precision, whose sums are taken in single precision."""
    return math.sqrt(weight[0].numel()) if weight.ndim > 1 and len(weight) and weight.element_size() > 2 else 1.0


def _largest(tensor: Tensor) -> float:
    finite = tensor[torch.isfinite(tensor)]
    return float(finite.abs().max()) if finite.numel() else 0.0
