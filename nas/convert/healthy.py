"""Random weights with which a wrong model shows: every tensor matters, and numbers neither vanish nor explode.

With the weights that a model comes with, errors hide: scales of 1e-6, biases of 0 and statistics of 0 and 1 make branches
vanish, and tiny projections make attention nearly uniform, so that wrong heads give the same output.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from nas.convert.copying import forget, named_tables, named_tensors, tied, with_tensors
from nas.errors import SupernetError
from nas.supernet.inputs import Inputs, arguments, batch_size, few_samples, tensors_in
from nas.supernet.skeleton import quiet

Strength = Literal["fresh", "spread"]

GAIN = 1.4
"""Standard deviation of a sum over `fan` inputs of deviation 1: √2 keeps it through ReLU (He et al. 2015)."""


MOST = 2**27
"""Parameters without values (meta) that a proof gives values to, at most: a model may be there because no memory holds it."""


def too_large(module: nn.Module) -> str:
    """Why a model whose parameters have no values is not proved; "" where it is."""
    count = sum(one.numel() for one in module.parameters() if one.is_meta)
    if count <= MOST:
        return ""
    return (
        f"{count:,} parameters of {type(module).__name__} have no values "
        f"(meta device), and proofs make up at most {MOST:,}; convert the model with its weights, or one of fewer blocks"
    )


def healthy(
    module: nn.Module, seed: int = 0, dtype: torch.dtype | None = None, strength: Strength = "fresh"
) -> dict[str, Tensor]:
    """New values of the parameters, buffers and tables of `module` with a fraction, by name, tied ones once.

    Matrices and kernels are N(0, 1.4/√fan), vectors are spread around their own values, variances lie between 0 and 2, means
    around 0, and other buffers keep their values unless all of them are equal; tables do.  The same seed gives the same numbers.

    Args:
        module: whose values count; it is left as it is.  Tensors without values (meta) get some, on the CPU.
        seed: of the numbers.
        dtype: of the values; their own without it.  Complex tensors get the complex type that is as wide.
        strength: "spread" leaves matrices near their values too, for models that compute nonsense otherwise.
    """
    names, statistics, tables = tied(module), _statistics(module), dict(named_tables(module))
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    found: dict[str, Tensor] = {}
    for name, tensor in named_tensors(module):
        if names[name] != name or not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        generator = torch.Generator().manual_seed(seed * 0x1000003 + zlib.crc32(name.encode()))
        own = _own(name, tensor)
        if name in statistics:
            spread = torch.rand(own.shape, generator=generator, dtype=torch.float64)
            # Means above 0 alone would let no unit through the ReLU behind.
            value = spread - 0.5 if name.endswith("mean") else spread * 1.5 + 0.25
        elif name in parameters:
            value = _parameter(module, name, own, generator, strength)
        elif name in tables:
            value = own.clone()
        else:
            value = _buffer(own, generator)
        device = "cpu" if tensor.is_meta else tensor.device
        found[name] = value.to(device, _like(tensor.dtype, dtype))
    return found


def _own(name: str, tensor: Tensor) -> Tensor:
    """The values in double precision; 1 for weights without values and 0 for biases."""
    wide = torch.complex128 if tensor.is_complex() else torch.float64
    if not tensor.is_meta:
        return tensor.detach().cpu() if tensor.dim() > 1 else tensor.detach().to("cpu", wide)
    return torch.full(tensor.shape, 0.0 if "bias" in name.rpartition(".")[2] else 1.0, dtype=wide)


def _like(own: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    if wanted is None:
        return own
    return wanted.to_complex() if own.is_complex else wanted


def _statistics(module: nn.Module) -> set[str]:
    """Names of running statistics of norms, of torch or with torch's names."""
    return {
        f"{prefix}.{key}" if prefix else key
        for prefix, owner in module.named_modules(remove_duplicate=False)
        for key, buffer in owner._buffers.items()
        if buffer is not None
        and buffer.is_floating_point()
        and (isinstance(owner, _NormBase) or key in ("running_mean", "running_var"))
    }


def _parameter(module: nn.Module, name: str, own: Tensor, generator: torch.Generator, strength: Strength) -> Tensor:
    # Drawn in single precision: half the time, and the same numbers in both.
    noise = torch.randn(own.shape, generator=generator, dtype=torch.complex64 if own.is_complex() else torch.float32)
    fan = _fan(module.get_submodule(name.rpartition(".")[0]), own)
    if fan is not None and strength == "fresh":
        return GAIN / math.sqrt(fan) * noise
    scale = float(own.abs().max()) if own.numel() else 0.0
    if fan is None and strength == "fresh" and _is_small_gain(module.get_submodule(name.rpartition(".")[0]), name, own):
        return 1 + 0.3 * noise.to(own.dtype)
    if fan is None and strength == "fresh":
        # Vectors near zero scale a branch or shift it: at their own values the branch would not be seen.
        return own + 0.1 * noise if scale >= 1e-2 else 0.3 * noise
    return own * (1 + 0.3 * noise) + (0.02 if scale < 1e-2 else 0.02 * scale) * noise


def _is_small_gain(owner: nn.Module, name: str, own: Tensor) -> bool:
    """Whether a vector is what a norm or a scale multiplies with, and so small that deep networks give nothing any more."""
    if "bias" in name.rpartition(".")[2] or any(one.dim() > 1 for one in owner.parameters(recurse=False)):
        return False
    return own.numel() > 1 and float(own.square().mean()) < 0.25 if not own.is_complex() else False


def _fan(owner: nn.Module, tensor: Tensor) -> int | None:
    """Terms in the sums that a matrix or kernel is in; None of vectors."""
    if isinstance(owner, _ConvNd) and tensor.dim() > 2:
        return max(1, tensor[0].numel()) if tensor.numel() else 1
    lengths = [length for length in tensor.shape if length > 1]
    if len(lengths) < 2:
        return None
    # Of three axes the first may be of experts, heads or output channels, the last a kernel's.
    return math.prod(lengths[1:]) if len(lengths) > 3 else max(lengths[1:])


def _buffer(own: Tensor, generator: torch.Generator) -> Tensor:
    """Tables and masks keep their values; what is constant so far (a bias of zeros, a scale of ones) gets others."""
    if own.numel() < 2 or not bool((own == own.flatten()[0]).all()) or not bool(own.isfinite().all()):
        return own.clone()
    if not own.is_complex() and float(own.flatten()[0]) > 0:
        return own * (0.5 + torch.rand(own.shape, generator=generator, dtype=own.dtype))
    return own + 0.3 * torch.randn(own.shape, generator=generator, dtype=own.dtype)


# -- a module that runs on them

SAMPLES = 2
"""Of an example of more, where the batch does not matter."""

Called = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""

Operators = tuple[tuple[Any, tuple[torch.Size, ...]], ...]
"""Operators in order, with the shapes of the tensors that each gave."""

DOUBLE = 2**24
"""Parameters up to which all is computed in double precision: it takes twice the time and memory."""


@dataclass(frozen=True)
class Patient:
    """A copy of a module on healthy weights, with inputs that it runs on.

    Attributes:
        module: of the same class, in eval mode; its parameters and buffers are its own.
        buffers: what its buffers hold before each run, which may change them.
        inputs: positional and keyword arguments.
        dtype: of values and inputs.
        first: the tensors that it gave when it was run first.
        single: whether it computes anything in less than double precision.
        operators: that it called then.
    """

    module: nn.Module
    buffers: dict[str, Tensor]
    inputs: Called
    dtype: torch.dtype
    first: list[Tensor] = field(default_factory=list)
    single: bool = True
    operators: Operators = ()

    @property
    def example(self) -> Inputs:
        """The inputs in the form of an example, which has arguments of one kind."""
        positional, keywords = self.inputs
        return keywords or positional

    @torch.no_grad()
    def outputs(self) -> list[Tensor]:
        """The tensors that it gives, copied, for its parameters as they are and `buffers`."""
        self.reset()
        found = [one.detach().clone() for one in outputs_of(self.module, self.inputs)]
        return [torch.view_as_real(one.resolve_conj()) if one.is_complex() else one for one in found]

    @torch.no_grad()
    def reset(self) -> None:
        """Undo what runs left in buffers and attributes."""
        for name, buffer in self.module.named_buffers():
            buffer.copy_(self.buffers[name])
        forget(self.module)


def outputs_of(module: nn.Module, inputs: Called) -> list[Tensor]:
    """The tensors that `module` gives, in order; what it draws is the same each time."""
    with same_draws():
        return tensors_in(tree_leaves(module(*inputs[0], **inputs[1])))


@contextmanager
def same_draws() -> Iterator[None]:
    """Random numbers as in every other such block; whether gradients are recorded stays as it is."""
    recorded = torch.is_grad_enabled()
    with quiet(0), torch.set_grad_enabled(recorded):
        yield


def is_large(module: nn.Module) -> bool:
    """Whether double precision costs so much that it is asked for only where single precision finds something wrong."""
    return sum(one.numel() for one in module.parameters()) > DOUBLE


def healthy_copy(
    module: nn.Module,
    example: Inputs,
    seed: int = 0,
    *,
    samples: int | None = SAMPLES,
    precise: bool | None = None,
) -> Patient:
    """A copy of `module` on healthy weights, in double precision where its code permits.

    Inputs that are constant are drawn anew (an example of zeros shows nothing), unless the model refuses them.  The first of a
    few settings counts with which it runs and gives finite numbers.

    Args:
        module: of any class; it is left as it is.
        example: inputs.
        seed: of the weights.
        samples: of the example, at most, unless the model refuses so few; None for all.
        precise: in double precision; None where the model is not large.

    Raises:
        SupernetError: it runs with none.
    """
    reason = ""
    own = next((one.dtype for one in module.parameters() if one.is_floating_point()), torch.float32)
    precise = not is_large(module) if precise is None else precise
    for dtype in dict.fromkeys((*((torch.float64,) if precise else ()), torch.float32, own)):
        for strength in ("fresh", "spread"):
            state = {**healthy(module, seed, dtype, strength), **_others(module)}
            copied = with_tensors(module, state)
            buffers = {name: buffer.clone() for name, buffer in copied.named_buffers()}
            for inputs in _variants(example, dtype, samples):
                patient = Patient(copied, buffers, inputs, dtype)
                try:
                    found = run_first(patient)
                except Exception as error:  # a model may do anything on numbers that it was not made for
                    reason = reason or f"{type(error).__name__}: {error}"
                    continue
                if found is not None:
                    return found
                reason = reason or "it gives no finite numbers"
    raise SupernetError(f"{type(module).__name__} does not run on random weights and its example ({reason})")


def run_first(patient: Patient) -> Patient | None:
    """`patient` with what its first run gave; None where that are no finite numbers."""
    with _Watching() as watching:
        outputs = patient.outputs()
    if not _sound(outputs):
        return None
    return replace(patient, first=outputs, single=watching.single, operators=tuple(watching.operators))


def _variants(example: Inputs, dtype: torch.dtype, samples: int | None) -> Iterator[Called]:
    """The example with other numbers, of few samples; as it is, in the end."""
    few = [example]
    if samples is not None and batch_size(example) > samples:
        few.insert(0, few_samples(example, samples))
    for given in few:
        for lively in (2, 1, 0):
            positional, keywords = arguments(given)
            yield tree_map(lambda leaf, n=lively: _lively(leaf, dtype, n), (positional, keywords))


class _Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes operators, and whether anything but double precision is computed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.single = False
        self.operators: list[tuple[Any, tuple[torch.Size, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        given = [one for one in (found if isinstance(found, (tuple, list)) else (found,)) if isinstance(one, Tensor)]
        self.single |= any(one.is_floating_point() and one.dtype != torch.float64 for one in given)
        self.operators.append((func, tuple(one.shape for one in given)))
        return found


def _others(module: nn.Module) -> dict[str, Tensor]:
    """Copies of what has no fraction: a forward may change it."""
    names = tied(module)
    return {
        name: torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor.detach().clone()
        for name, tensor in named_tensors(module)
        if names[name] == name and not (tensor.is_floating_point() or tensor.is_complex())
    }


def _sound(outputs: list[Tensor]) -> bool:
    """Are there numbers, and none of them NaN?"""
    real = [one for one in outputs if one.is_floating_point()]
    if not any(bool(one.isfinite().any()) for one in real):
        return not real and bool(outputs)
    return not any(bool(one.isnan().any()) for one in real)


def _lively(leaf: Any, dtype: torch.dtype, how: int) -> Any:
    """An input in `dtype`; constant numbers with a fraction are drawn anew where `how` is 1, and indices of 0 where it is 2."""
    if not isinstance(leaf, Tensor):
        return leaf
    leaf = leaf.detach()
    constant = leaf.numel() > 1 and not leaf.is_meta and bool((leaf == leaf.flatten()[0]).all())
    generator = torch.Generator().manual_seed(leaf.numel())
    if leaf.is_floating_point() or leaf.is_complex():
        if leaf.is_meta or (constant and how >= 1):
            kind = torch.complex64 if leaf.is_complex() else torch.float32
            leaf = torch.randn(leaf.shape, generator=generator, dtype=kind).to("cpu" if leaf.is_meta else leaf.device)
        return leaf.to(_like(leaf.dtype, dtype), copy=True)
    if leaf.is_meta:
        return torch.zeros(leaf.shape, dtype=leaf.dtype)
    if constant and how >= 2 and leaf.dtype != torch.bool and not bool(leaf.flatten()[0]):
        return torch.randint(0, 2, leaf.shape, generator=generator).to(leaf)
    return leaf.clone()
