"""The keys and values that a model keeps while it writes a sequence, found by running it.

What a model must remember of earlier positions is what its attention reads of them, if that is all by which positions depend on
each other.  Both are tested, not assumed, on weights with noise, so that no zero of an initialisation hides anything: earlier
outputs stay when later positions change (the model is causal), and an output stays when all other positions change and every call
of `scaled_dot_product_attention` gives its own position's values back (nothing else mixes positions: no product written out, no
recurrence, no convolution).  A model that fails is refused.

The keys and values are then counted as attention is given them, each different head once: heads repeated for groups of queries
(Ainslie et al. 2023, "GQA") and tensors that several layers share are kept once, and a head keeps no more positions than its mask
lets a query see (a window).
"""

from __future__ import annotations

import copy
import hashlib
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from nas.convert.observing import without_overrides
from nas.errors import EvaluationError
from nas.supernet.inputs import Inputs, axis_of, call, convert, plain, some, tensors_in

FEW = 13  # positions on which the model is tested: prime, so that no other axis is as long by chance
HEAD = 16  # positions by which a head is told from others
NOISE = 0.05  # of weights, where theirs vary less
LEAST = 1e-4  # relative change of outputs that is no rounding
WAY_OUT = "leave batch= and length= out to count weights alone"

_ATTENTION = (
    scaled_dot_product_attention,
    torch.ops.aten.scaled_dot_product_attention,
    torch.ops.aten.scaled_dot_product_attention.default,  # of exported graphs
)


def cache_bytes(module: nn.Module, inputs: Inputs, length: int) -> int:
    """Bytes of the keys and values of one sequence of `length` positions.

    Args:
        module: any; left as it is.
        inputs: that it takes: tensors of whole numbers or features, (n, positions, …).
        length: positions that it is run on.

    Raises:
        EvaluationError: the module is not causal, positions depend on each other by more than its attention, it gives no output
            for each position, or it does not run on so many.
    """
    noisy = _with_noise(module)
    _check(noisy, inputs)
    attention = _Attention(length, off=True)
    _outputs(noisy, _of_length(inputs, length), attention)
    return attention.size()


def _check(module: nn.Module, inputs: Inputs) -> None:
    """Whether keys and values are all that the module needs of earlier positions.

    Raises:
        EvaluationError: they are not.
    """
    name, few = type(module).__name__, _of_length(inputs, FEW)
    place = FEW // 2
    later, others = (_changed(few, keep) for keep in (range(place), range(place, place + 1)))
    usual = _outputs(module, few, _Attention(FEW, off=False))
    if _differ(usual[:, :place], _outputs(module, later, _Attention(FEW, off=False))[:, :place]):
        raise EvaluationError(
            f"{name} looks at later positions, as an encoder does, and keeps no keys and values for the next; {WAY_OUT}"
        )
    alone, among = (_outputs(module, given, _Attention(FEW, off=True)) for given in (few, others))
    if _differ(alone[:, place], among[:, place]):
        raise EvaluationError(
            f"positions of {name} depend on each other by more than scaled_dot_product_attention (products written out, a "
            f"recurrence, a convolution), so that what it keeps of earlier ones is not known; {WAY_OUT}"
        )


class _Attention(TorchFunctionMode):
    """Notes the keys and values of each attention, by what is in them.

    Args:
        length: positions of queries and keys.
        off: attention gives each position its own values.
    """

    def __init__(self, length: int, *, off: bool) -> None:
        super().__init__()
        self.heads: dict[str, tuple[int, int]] = {}
        """Digest of a head's keys or values -> bytes of a position, positions that are kept."""
        self._length, self._off = length, off
        self._inside: list[object] = []

    def size(self) -> int:
        """Bytes of all that was noted."""
        return sum(each * positions for each, positions in self.heads.values())

    def __torch_function__(
        self, func: Any, types_: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in _ATTENTION:
            return self._attend(*args, **given)
        if (
            isinstance(func, types.FunctionType) and func not in self._inside
        ):  # one of torch's, which may call attention
            self._inside.append(func)
            try:
                with self:
                    return without_overrides(func)(*args, **given)
            finally:
                self._inside.pop()
        return func(*args, **given)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **options: Any
    ) -> Tensor:
        lengths = query.shape[-2], key.shape[-2]
        if lengths != (self._length, self._length):
            raise EvaluationError(
                f"attention of {lengths[0]} queries to {lengths[1]} keys in a sequence of {self._length} positions is not what a "
                f"decoder keeps keys and values of; {WAY_OUT}"
            )
        positions = self._length if attn_mask is None else _seen(attn_mask)
        for tensor in (key, value):
            for head in tensor.detach().flatten(0, -3) if tensor.dim() > 2 else tensor.detach()[None]:
                self._note(head, positions)
        if not self._off:
            return scaled_dot_product_attention(query, key, value, attn_mask, *args, **options)
        if options.get("enable_gqa"):
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
        return value.expand(*query.shape[:-1], value.shape[-1]) + 0.0

    def _note(self, head: Tensor, positions: int) -> None:
        """(length, features)."""
        some_of_it = head[:HEAD].float().contiguous().cpu().numpy().tobytes()
        name = hashlib.blake2b(some_of_it, digest_size=16).hexdigest()
        size = head.shape[-1] * head.element_size()
        before = self.heads.get(name, (size, 0))
        self.heads[name] = size, max(before[1], positions)


def _seen(mask: Tensor) -> int:
    """The most keys that a query sees."""
    allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return int(allowed.sum(-1).max())


def _with_noise(module: nn.Module) -> nn.Module:
    """A copy in eval mode whose weights differ from each other."""
    found = copy.deepcopy(module).cpu().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in found.parameters():
            if parameter.is_floating_point() and parameter.numel():
                spread = float(parameter.float().std()) if parameter.numel() > 1 else 0.0
                noise = torch.randn(parameter.shape, generator=generator) * max(NOISE * spread, NOISE)
                parameter.add_(noise.to(parameter.dtype))
    return found


def _outputs(module: nn.Module, inputs: Inputs, attention: _Attention) -> Tensor:
    """The outputs of each position, (1, length, …).

    Raises:
        EvaluationError: the module does not run on so many, or gives none for each.
    """
    name, length = type(module).__name__, attention._length
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # which computes attention where nothing of it is seen
    try:
        with torch.no_grad(), attention:
            found = call(module, plain(inputs))
    except EvaluationError:
        raise
    except Exception as error:  # of any kind: the module is anybody's
        raise EvaluationError(f"{name} does not run on a sequence of {length} positions: {error}; {WAY_OUT}") from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    for tensor in tensors_in(found):
        if tensor.is_floating_point() and tensor.dim() > 1 and tensor.shape[1] == length:
            return tensor
    raise EvaluationError(f"{name} gives no output for each of {length} positions; {WAY_OUT}")


def _differ(one: Tensor, other: Tensor) -> bool:
    scale = float(one.abs().max()) + float(other.abs().max())
    return bool((one - other).abs().max() > LEAST * scale) or not bool(torch.isfinite(one).all())


def _of_length(inputs: Inputs, length: int) -> Inputs:
    """One sample, its positions repeated up to so many.

    Raises:
        EvaluationError: tensors have no positions along their second axis.
    """
    given = some(inputs, slice(1))
    tensors = [tensor for tensor in tensors_in(plain(given)) if tensor.dim() > 1]
    if axis_of(inputs) != 0 or not tensors:
        raise EvaluationError(f"a sequence is (samples, positions, …), and the example's inputs are not; {WAY_OUT}")
    positions = tensors[0].shape[1]

    def longer(tensor: Tensor) -> Tensor:
        if tensor.dim() < 2 or tensor.shape[1] != positions:
            return tensor
        return tensor[:, torch.arange(length) % positions]

    found: Inputs = convert(given, longer)
    return found


def _changed(inputs: Inputs, keep: range) -> Inputs:
    """Other tokens or features at all positions but those to keep."""

    def other(tensor: Tensor) -> Tensor:
        if tensor.dim() < 2 or tensor.shape[1] != FEW or tensor.dtype == torch.bool:
            return tensor
        moved = tensor + 1 if tensor.is_floating_point() else torch.where(tensor > 0, tensor - 1, tensor + 1)
        moved[:, keep.start : keep.stop] = tensor[:, keep.start : keep.stop]
        return moved

    found: Inputs = convert(inputs, other)
    return found
