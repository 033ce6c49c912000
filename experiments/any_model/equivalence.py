"""Is a subnet the original with everything else zeroed?  Then every axis was cut where its partners were.

Normalisations see zeros, so that both are compared with normalisations that do not: the affine part times a scalar
that is recorded in the full model and repeated in the subnet.  Means and variances that a model writes out count the
full model's elements.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from case import Case
from tags import Origins, Tags, healthy, refill
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

ATEN = torch.ops.aten
TOLERANCE = 3e-4  # of the largest output; float32 where a model's code forces it
SENSITIVE = 1e-5
SCALE = 0.25


def tensors_of(output: Any) -> list[Tensor]:
    """All tensors of what a model returns, in order."""
    if isinstance(output, Tensor):
        return [output]
    each = output.values() if isinstance(output, Mapping) else output if isinstance(output, (list, tuple)) else ()
    return [tensor for one in each for tensor in tensors_of(one)]


def equivalence(
    tags: Tags, full: nn.Module, subnet: nn.Module, initial: Mapping[str, Tensor], case: Case
) -> tuple[str, float]:
    """("yes", "no", "insensitive" or "not finite", the largest difference, relative to the largest output).

    Args:
        tags: of the original, whose values both hold.
        full: the original.
        subnet: what was cut from it.
        initial: the original's own weights, by name.
        case: the original's inputs.
    """
    found = _compared(tags, full, subnet, initial, case, 0.0)
    # A row of zeros has no direction: weights that are divided by their length need some that hardly differ.
    return _compared(tags, full, subnet, initial, case, 1e-30) if found[0] == "not finite" else found


def _compared(
    tags: Tags, full: nn.Module, subnet: nn.Module, initial: Mapping[str, Tensor], case: Case, *rest: float
) -> tuple[str, float]:
    full, subnet = forgetful(full), forgetful(subnet)
    refill(tags, full, Origins.of(tags, subnet), healthy(tags, initial), *rest)
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its scale could not be held fixed
    try:
        try:
            masked, cut, other = _outputs(full.double(), subnet.double(), case, torch.float64)
        except Exception:  # code that forces a precision; what fails again in float32 fails loudly
            masked, cut, other = _outputs(full.float(), subnet.float(), case, torch.float32)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    if not (torch.isfinite(masked).all() and torch.isfinite(cut).all()):
        return "not finite", math.inf
    error = _relative(masked, cut)
    if error >= TOLERANCE:
        return "no", error
    return ("insensitive" if _relative(cut, other) < SENSITIVE else "yes"), error


def forgetful(module: nn.Module) -> nn.Module:
    """A copy without what earlier calls computed from its weights: models drop that in train()."""
    copied = copy.deepcopy(module)
    copied.train()
    return copied.eval()


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max()) / (float(a.abs().max()) + 1e-12)


def _outputs(full: nn.Module, subnet: nn.Module, case: Case, dtype: torch.dtype) -> list[Tensor]:
    scalars = Recorded()
    varied = varied_inputs(case)
    found = []
    for module, inputs, repeats in ((full, varied, False), (subnet, varied, True), (subnet, case.inputs, True)):
        scalars.start(repeats)
        torch.manual_seed(0)  # of models that draw numbers in every mode
        with torch.no_grad(), _scaled(), scalars:
            outputs = tensors_of(Case(module, cast(inputs, dtype))())
        if repeats and scalars.place != len(scalars.values):
            raise AssertionError(f"{scalars.place} normalisations, the full model has {len(scalars.values)}")
        found.append(torch.cat([each.double().reshape(-1) for each in outputs if each.is_floating_point()]))
    return found


def cast(inputs: Any, dtype: torch.dtype) -> Any:
    """The same inputs, float tensors in `dtype`."""
    if isinstance(inputs, Tensor):
        return inputs.to(dtype) if inputs.is_floating_point() else inputs
    if isinstance(inputs, dict):
        return {name: cast(each, dtype) for name, each in inputs.items()}
    return type(inputs)(cast(each, dtype) for each in inputs) if isinstance(inputs, (tuple, list)) else inputs


def varied_inputs(case: Case) -> Any:
    """Other inputs of the same form: floats drawn anew, numbers shuffled among their places (masks and offsets
    stay)."""
    generator = torch.Generator().manual_seed(5)

    def vary(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: vary(each) for name, each in value.items()}
        if isinstance(value, (tuple, list)):
            return type(value)(map(vary, value))
        if not isinstance(value, Tensor) or value.is_complex() or value.dtype == torch.bool:
            return value
        if value.is_floating_point():
            return torch.randn(value.shape, generator=generator)
        if not value.numel() or int(value.max()) <= 1 or (value.dim() == 1 and bool((value.diff() >= 0).all())):
            return value
        axes = max(1, min(2, value.dim()))  # of boxes, the corners stay together
        flat = value.flatten(0, axes - 1)
        return flat[torch.randperm(len(flat), generator=generator)].view(value.shape)

    return vary(case.inputs)


@contextmanager
def _scaled() -> Iterator[None]:
    """Attention with a constant scale where functions of torch call it themselves: no mode reaches inside them."""
    attention = F.scaled_dot_product_attention

    def scaled(*given: Any, **named: Any) -> Tensor:
        return attention(*given, **({"scale": SCALE} | {k: v for k, v in named.items() if v is not None}))

    F.scaled_dot_product_attention = scaled
    try:
        yield
    finally:
        F.scaled_dot_product_attention = attention


class Recorded(TorchFunctionMode):
    """Normalisations by recorded scalars; attention with a constant scale."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Any] = []
        self.place, self.repeats = 0, False

    def start(self, repeats: bool) -> None:
        """Record, or repeat what was recorded, from the beginning."""
        self.place, self.repeats = 0, repeats
        if not repeats:
            self.values = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        norm = _NORMS.get(func)
        if norm is not None:
            return norm(self, *args, **kwargs)
        if func in _ATTENTIONS and kwargs.get("scale") is None:
            kwargs = {**kwargs, "scale": SCALE}
        if func in _REDUCTIONS and args and isinstance(args[0], Tensor) and args[0].is_floating_point():
            return self.reduced(func, args, kwargs)
        return func(*args, **kwargs)

    def next(self, made: Callable[[], Any]) -> Any:
        """What `made` gives, recorded; or the next of what was."""
        if not self.repeats:
            self.values.append(made())
        self.place += 1
        return self.values[self.place - 1] if self.place <= len(self.values) else 1.0

    def norm(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, axis: int) -> Tensor:
        def scalar() -> float:
            size = float(x.double().norm()) / max(1.0, float((x != 0).sum())) ** 0.5
            return 1.0 / size if size > 0 and math.isfinite(size) else 1.0

        return affine(x * self.next(scalar), weight, bias, axis)

    def reduced(self, func: Any, args: Any, kwargs: Any) -> Any:
        """As if the elements that were cut were there, as zeros."""
        result = func(*args, **kwargs)
        results = result if isinstance(result, tuple) else (result,)
        elements = args[0].numel() / max(1, results[0].numel())
        before, known = self.next(lambda: (elements, results))
        if before == elements:
            return result
        if all(a.shape == b.shape for a, b in zip(known, results, strict=True)):
            return known if isinstance(result, tuple) else known[0]
        if func in _MEANS:
            return result * (elements / before)
        return moments(args[0], results[0], before, func, by_name(func, args, kwargs))


def by_name(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """Arguments of a variance but the tensor, by name."""
    if isinstance(func, torch._ops.OpOverload):
        names = [argument.name for argument in func._schema.arguments[1:]]
    else:
        names = ["unbiased"] if len(args) > 1 and isinstance(args[1], bool) else ["dim", "unbiased", "keepdim"]
    return {**dict(zip(names, args[1:], strict=False)), **kwargs}


def moments(x: Tensor, like: Tensor, count: float, func: Any, kwargs: Any) -> Any:
    """The variance, deviation or both with the mean, of `count` elements of which those beyond `x` are 0."""
    kept = like.dim() == x.dim()
    axes = kwargs.get("dim")
    if axes is None:
        raise AssertionError(f"{func.__name__} over all axes, of which one was cut")
    mean = x.sum(axes, keepdim=True) / count
    given = kwargs.get("correction", kwargs.get("unbiased"))
    spread = (x.square().sum(axes, keepdim=True) - count * mean.square()) / (count - (1 if given is None else given))
    shape = [*mean.shape] if kept else [*like.shape]
    name = str(getattr(func, "__name__", func))
    first = (spread.sqrt() if "std" in name else spread).reshape(shape)
    return (first, mean.reshape(shape)) if "mean" in name else first


def affine(x: Tensor, weight: Tensor | None, bias: Tensor | None, axis: int) -> Tensor:
    shape = [1, -1] + [1] * (x.dim() - 2)
    for each, join in ((weight, torch.mul), (bias, torch.add)):
        if each is not None:
            x = join(x, each.view(shape) if axis == 1 else each)
    return x


def _layer_norm(
    each: Recorded, x: Tensor, _: Any, weight: Any = None, bias: Any = None, *_rest: Any, **_more: Any
) -> Tensor:
    return each.norm(x, weight, bias, -1)


def _rms_norm(each: Recorded, x: Tensor, _: Any, weight: Any = None, *_rest: Any, **_more: Any) -> Tensor:
    return each.norm(x, weight, None, -1)


def _group_norm(
    each: Recorded, x: Tensor, _: Any, weight: Any = None, bias: Any = None, *_rest: Any, **_more: Any
) -> Tensor:
    return each.norm(x, weight, bias, 1)


def _batch_norm_of_graph(each: Recorded, *given: Any, **named: Any) -> Tensor:
    x, weight, bias, mean, var, training, momentum, eps, *_ = given
    return _batch_norm(each, x, mean, var, weight, bias, training, momentum, eps, **named)


def _batch_norm(_: Recorded, *given: Any, **named: Any) -> Tensor:
    names = ("x", "mean", "var", "weight", "bias", "training", "momentum", "eps")
    renamed = {"input": "x", "running_mean": "mean", "running_var": "var"}
    each = dict(zip(names, given, strict=False)) | {renamed.get(name, name): value for name, value in named.items()}
    if each.get("mean") is None or each.get("training"):  # of weights, or of one sample
        return affine(each["x"], each.get("weight"), each.get("bias"), 1)
    return F.batch_norm(*given, **named)


_NORMS: dict[Any, Callable[..., Tensor]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    torch.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    torch.group_norm: _group_norm,
    F.batch_norm: _batch_norm,
    ATEN.layer_norm.default: _layer_norm,  # captured graphs call operators
    ATEN.rms_norm.default: _rms_norm,
    ATEN.group_norm.default: _group_norm,
    ATEN.batch_norm.default: _batch_norm_of_graph,
}
_ATTENTIONS = {F.scaled_dot_product_attention, ATEN.scaled_dot_product_attention.default}
_OPERATORS = (ATEN.mean, ATEN.var, ATEN.std, ATEN.var_mean, ATEN.std_mean)
_REDUCTIONS = {
    *(torch.mean, Tensor.mean, torch.var, Tensor.var, torch.std, Tensor.std, torch.var_mean, torch.std_mean),
    *(getattr(each, overload) for each in _OPERATORS for overload in each.overloads()),
}
_MEANS = {torch.mean, Tensor.mean, *(getattr(ATEN.mean, overload) for overload in ATEN.mean.overloads())}
