"""The operators that a model runs, with the tensors that they are called with: parts that need no modules.

A forward may be anything: modules, functions, a captured graph.  What it computes is always a sequence of torch's operators, each
a kernel that can be called again by itself.  Views move no data and are left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from nas.errors import PredictorError
from nas.predict.pieces import UNFIT, Part
from nas.supernet.inputs import Inputs, call, some

if TYPE_CHECKING:
    from nas.space import Arch

MOST = 256
"""Copies of weights that an operator is called with in turns."""
_LINE = 64  # bytes of a cache line, which weights begin at


@dataclass(frozen=True)
class Like:
    """What a tensor is, without its values."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    is_weight: bool = field(default=False, compare=False)

    @property
    def elements(self) -> int:
        """Of its storage."""
        if 0 in self.shape:
            return 0
        return sum((length - 1) * step for length, step in zip(self.shape, self.strides, strict=True)) + 1

    @property
    def nbytes(self) -> int:
        """Of its storage."""
        return self.elements * self.dtype.itemsize

    def made(self, pool: Tensor | None = None, place: int = 0) -> Tensor:
        """A tensor like it: of zeros where it may be an index, of random numbers, or true everywhere.

        Args:
            pool: bytes that it lies in; None is memory of its own.
            place: byte of the pool at which it begins.
        """
        if pool is not None:
            begin = max(0, min(place, pool.numel() - self.nbytes)) // _LINE * _LINE
            return pool[begin : begin + self.nbytes].view(self.dtype).as_strided(self.shape, self.strides)
        flat = torch.empty(self.elements, dtype=self.dtype)
        if self.dtype.is_floating_point or self.dtype.is_complex:
            flat.normal_()
        else:
            flat.fill_(self.dtype == torch.bool)
        return flat.as_strided(self.shape, self.strides)

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape)) or "scalar"
        laid = "" if self.strides == _contiguous(self.shape) else f" strides {'x'.join(map(str, self.strides))}"
        return f"{str(self.dtype).removeprefix('torch.')} {size}{laid}"


class Operator(nn.Module):
    """One call of an operator on tensors like those of the model.

    In a model every operator reads other weights, which are no longer in the processor's caches where the model has more of them
    than these hold.  Here each call takes the next of several copies, which are as large as the model's weights together.

    Args:
        func: the operator.
        args: its positional arguments, `Like` in the places of tensors.
        kwargs: its keyword arguments.
        among: bytes of the weights of the model.
    """

    def __init__(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], among: int) -> None:
        super().__init__()
        self._func, self._template, self._among = func, (tuple(args), dict(kwargs)), among
        self._turns: Iterator[Any] | None = None

    def forward(self) -> Any:
        """What the operator gives."""
        if self._turns is None:
            self._turns = itertools.cycle(self._made())
        args, kwargs = next(self._turns)
        return self._func(*args, **kwargs)

    def _made(self) -> list[Any]:
        """Arguments of calls that follow each other."""
        likes = [one for one in tree_leaves(self._template) if isinstance(one, Like)]
        size = sum(one.nbytes for one in likes if one.is_weight)
        usual = tree_map(lambda one: one.made() if isinstance(one, Like) and not one.is_weight else one, self._template)
        if not size:
            return [usual]
        pool = _pool(max(self._among, size))
        copies = min(MOST, max(1, len(pool) // size))
        return [_in(pool, usual, number * (len(pool) // copies)) for number in range(copies)]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operator that moves data."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Part] = []
        weights = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in module.parameters()}
        self._weights, self._among = frozenset(weights), sum(weights.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if not _is_view(func):
            self.found.append(self._part(func, args, given))
        return func(*args, **given)

    def _part(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Part:
        template = tree_map(self._like, (args, kwargs))
        said = [_shown(one) for one in template[0]] + [f"{name}={_shown(one)}" for name, one in template[1].items()]
        return Part(
            key=f"{func}({', '.join(said)})",
            family=str(func),
            macs=0,
            inputs=0,
            outputs=0,
            weights=0,
            module=Operator(func, template[0], template[1], self._among),
            among=self._among,
        )

    def _like(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        is_weight = value.untyped_storage().data_ptr() in self._weights
        return Like(tuple(value.shape), value.stride(), value.dtype, is_weight)


def operators(module: nn.Module, example: Inputs) -> list[Part]:
    """Every call of an operator in the order in which they run; one that runs twice is there twice.

    Args:
        module: is run once, without gradients, in the mode that it is in.
        example: inputs that it takes.

    Raises:
        PredictorError: the module does not run on the example.
    """
    recorder = _Recorder(module)
    try:
        with torch.no_grad(), recorder:
            call(module, example)
    except UNFIT as error:
        raise PredictorError(
            f"operators of {type(module).__name__} cannot be found, because it does not run on the example: {error}"
        ) from error
    return recorder.found


def operators_of(arch: Arch, example: Inputs) -> list[Part]:
    """Operators of the model that an arch describes, for one sample; it is run for real, since kernels depend on the device."""
    module: Any = arch.space.build(arch)
    return operators(module.eval(), some(example, slice(1)))


_pools: list[Tensor] = []


def _pool(size: int) -> Tensor:
    """So many bytes that weights lie in, the same for all operators."""
    if not _pools or len(_pools[0]) < size:
        _pools[:] = [torch.empty(size // 4 + 1).normal_(std=0.1).view(torch.uint8)]
    return _pools[0][:size]


def _in(pool: Tensor, template: Any, place: int) -> Any:
    """The template with its weights in the pool, one after the other."""

    def made(one: Any) -> Any:
        nonlocal place
        if not isinstance(one, Like):
            return one
        found = one.made(pool, place)
        place += one.nbytes
        return found

    return tree_map(made, template)


def _shown(value: Any) -> str:
    return f"[{', '.join(map(_shown, value))}]" if isinstance(value, (list, tuple)) else str(value)


def _is_view(func: Any) -> bool:
    """Whether an operator gives what its argument has, in another shape."""
    returns = func._schema.returns
    return bool(returns) and all(one.alias_info is not None and not one.alias_info.is_write for one in returns)


def _contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    steps = itertools.accumulate(reversed(shape[1:]), lambda step, length: step * max(1, length), initial=1)
    return tuple(steps)[::-1] if shape else ()
