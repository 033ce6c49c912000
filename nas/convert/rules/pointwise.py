"""Operations on each element: operands are broadcast from the right."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from nas.convert.axes import norm, rigid
from nas.convert.rules.base import Call, Value, broadcast, rule, spread, words

KEEP_ZERO = words(
    """
    relu gelu silu tanh hardswish leaky_relu elu selu celu mish softsign relu6 neg negative abs absolute sin tan
    asin atan sinh asinh atanh erf sqrt sign square floor ceil round trunc expm1 log1p softshrink hardshrink
    dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout clone contiguous to _to_copy
    detach detach_ alias lift_fresh_copy lift_fresh float double half nan_to_num real imag conj conj_physical
    resolve_conj resolve_neg positive prelu rrelu type_as hardtanh clamp logit_ view_as_real_copy zeros_like
    tanhshrink deg2rad rad2deg frac fix arctan arcsin signbit requires_grad_
    """
)
"""Of one operand, zero for zero (`clamp` and `hardtanh` where their range has it)."""

PRODUCTS = words("mul multiply bitwise_and logical_and __and__")
QUOTIENTS = words("div divide true_divide floor_divide remainder fmod")
SUMS = words(
    """
    add sub subtract maximum minimum fmax fmin where lerp addcmul addcdiv copy rsub hypot __or__ __xor__ bitwise_or
    logical_or bitwise_xor
    """
)


def is_pointwise(node: fx.Node) -> bool:
    """Whether torch says so."""
    return torch.Tag.pointwise in getattr(node.target, "tags", ())


@rule(
    """
    to _to_copy clone contiguous detach detach_ alias dropout dropout_ feature_dropout alpha_dropout
    feature_alpha_dropout type_as copy_ copy lift_fresh_copy lift_fresh zeros_like ones_like empty_like
    full_like rand_like randn_like float double half prelu where masked_fill masked_fill_ fill fill_ zero_ isin
    bernoulli native_dropout polar complex resolve_conj resolve_neg conj real imag requires_grad_ nan_to_num
    rsub isclose isfinite isnan isinf _conj _neg_view logical_not_ float_power fake_quantize_per_tensor_affine
    hardswish hardswish_ gelu_ silu_ mish_ softplus rrelu rrelu_ log_sigmoid bitwise_not_ hardsigmoid
    hardsigmoid_
    multiply multiply_ divide divide_ floor_divide floor_divide_ subtract subtract_ negative negative_ absolute absolute_
    arccos arccosh arcsin arcsinh arctan arctan2 arctanh fix fix_ special_ndtr
    greater greater_equal less less_equal not_equal __and__ __or__ __iand__ __ior__ __ixor__
    """  # from multiply on: other spellings, which torch does not mark as pointwise
)
def pointwise(call: Call) -> Value:
    """Axes of all operands are equal where they are not 1."""
    if call.name == "aten.prelu":
        return _prelu(call)
    operands = [call.value(node) for node in _read(call)]
    axes = broadcast(call, operands, len(call.shape))
    value = Value(axes, _clean(call, operands, axes))
    target = call.node.args[0] if call.node.args else None
    if _writes(call) and isinstance(target, fx.Node):
        call.zeroed.append((target, value))
    return value


def _plain(call: Call) -> str:
    """Name of an operation without what says that it writes into its first operand."""
    name = call.name.removeprefix("aten.")
    if name.endswith("__"):
        return name.replace("__i", "__") if _writes(call) else name
    return name.rstrip("_")


def _writes(call: Call) -> bool:
    """Whether it writes into its first operand."""
    if call.name.endswith("__"):
        return call.name in ("aten.__iand__", "aten.__ior__", "aten.__ixor__")
    return call.name.endswith("_")


def _read(call: Call) -> list[fx.Node]:
    """The operands whose numbers count: of another tensor that only says a type, none do."""
    inputs = call.inputs()
    return inputs[:1] if call.name in ("aten.to", "aten.type_as") else inputs


def _prelu(call: Call) -> Value:
    value, weight = call.value("self"), call.value("weight")
    if len(value.axes) > 1 and len(weight.axes) == 1 and call["weight"].meta["val"].numel() > 1:
        call.unify(value.axes[1], weight.axes[0])
    return Value(tuple(map(norm, value.axes)), value.clean)


def _clean(call: Call, operands: list[Value], axes: Any) -> tuple[bool, ...]:
    """Where the result is zero for what an arch has not got."""
    name = _plain(call)
    flags = [spread(operand, axes) for operand in operands]
    none = tuple(rigid(norm(axis)) for axis in axes)
    if name in ("zero", "zeros_like"):
        return (True,) * len(axes)
    if not flags or name in ("fill", "full_like", "empty_like", "ones_like", "rand_like", "randn_like"):
        return none
    if name in PRODUCTS:
        return _any(flags)
    if name in SUMS and not _adds_number(call):
        return _all(flags[1:] if name == "where" and len(flags) == 3 else flags)
    return flags[0] if _keeps_zero(call, name, len(operands)) else none


def _keeps_zero(call: Call, name: str, operands: int) -> bool:
    """Whether the result is zero where the first operand is."""
    if name == "masked_fill":
        return bool(call["value"] == 0)
    if name == "pow":
        return isinstance(call["exponent"], (int, float)) and call["exponent"] > 0
    if name in ("clamp", "hardtanh", "clamp_min", "clamp_max"):
        return _has_zero(call)
    if name in QUOTIENTS:
        return isinstance(call.node.args[0], fx.Node)
    return name in KEEP_ZERO and operands == 1


def _has_zero(call: Call) -> bool:
    """Whether a clamp leaves zero alone."""
    low = next((call[key] for key in ("min", "min_val") if call[key] is not None), None)
    high = next((call[key] for key in ("max", "max_val") if call[key] is not None), None)
    return all(isinstance(each, (int, float)) or each is None for each in (low, high)) and (low or 0) <= 0 <= (
        high or 0
    )


def _adds_number(call: Call) -> bool:
    """Whether something that is no tensor with axes, and not zero, is an operand of a sum."""
    rest = [
        value
        for key, value in call._arguments.items()
        if key not in ("alpha", "value", "non_blocking", "weight", "condition")
    ]
    return any(isinstance(value, (int, float)) and not isinstance(value, bool) and value != 0 for value in rest)


def _any(flags: list[tuple[bool, ...]]) -> tuple[bool, ...]:
    return tuple(map(any, zip(*flags, strict=True)))


def _all(flags: list[tuple[bool, ...]]) -> tuple[bool, ...]:
    return tuple(map(all, zip(*flags, strict=True)))
