"""Normalisations, and reductions over axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx

from nas.convert.axes import cause_of, cut, fixed, norm, prod_split, rigid, size_of
from nas.convert.rules.base import Call, Value, name_of, rule, words
from nas.convert.rules.pointwise import pointwise
from nas.convert.rules.shapes import alone, frozen, of_axis, passed, slid, trailing


@rule("batch_norm instance_norm native_batch_norm _native_batch_norm_legit_no_training cudnn_batch_norm")
def batch_norm(call: Call) -> Any:
    """Channels are those of weight, bias and statistics."""
    value = call.value("input")
    affine = call.has("weight")
    channel = min(1, len(value.axes) - 1)
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call.has(name):
            call.unify(value.axes[channel], call.value(name).axes[0])
    clean = tuple(
        (affine or flag) if dim == channel else flag and (not affine or rigid(norm(axis)))
        for dim, (axis, flag) in enumerate(zip(value.axes, value.clean, strict=True))
    )
    result = Value(tuple(map(norm, value.axes)), clean)
    return (
        result
        if isinstance(call.node.meta["val"], Tensor)
        else [result, *([Value((norm(value.axes[channel]),), (False,))] * (len(call.fakes) - 1))]
    )


@rule("layer_norm rms_norm native_layer_norm _fused_rms_norm")
def layer_norm(call: Call) -> Any:
    """Over the last axes, which are those of the weight: a narrower one has statistics of its own."""
    value = call.value("input")
    shape = call["normalized_shape"]
    first = len(value.axes) - len(shape)
    affine = call.has("weight")
    for name in ("weight", "bias"):
        if call.has(name):
            for ours, theirs in zip(value.axes[first:], call.value(name).axes, strict=True):
                call.unify(ours, theirs)
    if sum(not rigid(norm(axis)) for axis in value.axes[first:]) > 1:
        call.freeze_all(value.axes[first:], "several normalised axes")
    for place in range(len(shape)):
        call.derive(("normalized_shape", place), norm(value.axes[first + place]))
    biased = call.has("bias")
    clean = tuple(affine if dim >= first else flag and (not biased or rigid(norm(axis)))
                  for dim, (axis, flag) in enumerate(zip(value.axes, value.clean, strict=True)))  # fmt: skip
    result = Value(tuple(map(norm, value.axes)), clean)
    if isinstance(call.node.meta["val"], Tensor):
        return result
    kept = Value((*result.axes[:first], *(() for _ in shape)), (False,) * len(result.axes))
    return [result, *([kept] * (len(call.fakes) - 1))]


@rule("group_norm")
def group_norm(call: Call) -> Value:
    """Channels in whole groups: how many channels a group has stays, how many groups there are may change."""
    value, groups = call.value("input"), int(call["num_groups"])
    if groups > 1:
        shared, inner = prod_split(value.axes[1], size_of(value.axes[1]) // groups)
        call.derive(("num_groups",), shared)
        if not rigid(shared):
            call.freeze(inner, "group norm")
    for name in ("weight", "bias"):
        if call.has(name):
            call.unify(value.axes[1], call.value(name).axes[0])
    affine = call.has("weight")
    clean = tuple(affine if dim == 1 else rigid(norm(axis)) for dim, axis in enumerate(value.axes))
    return Value(tuple(map(norm, value.axes)), clean)


@rule("local_response_norm")
def response_norm(call: Call) -> Value:
    """Over neighbouring channels."""
    value = call.value("input" if call.has("input") else "self")
    call.freeze(value.axes[1], "order")
    return Value(tuple(map(norm, value.axes)), value.clean)


@rule("_weight_norm _weight_norm_interface")
def weight_norm(call: Call) -> Any:
    """The length of each row, over all its columns: columns that are gone add nothing to it."""
    value, scale = call.value("v"), call.value("g")
    for dim, axis in enumerate(scale.axes):
        if size_of(axis) != 1:
            call.unify(value.axes[dim], axis)
    result = Value(tuple(map(norm, value.axes)), value.clean)
    return result if isinstance(call.node.meta["val"], Tensor) else [result, scale]


def _reduced(call: Call, value: Value, dims: Sequence[int]) -> Value:
    """Without the axes `dims`, or with 1 in their place."""
    kept = bool(call["keepdim"])
    axes = [() if dim in dims else norm(axis) for dim, axis in enumerate(value.axes)]
    order = [dim for dim in range(len(axes)) if kept or dim not in dims]
    return Value(tuple(axes), tuple(flag or dim in dims for dim, flag in enumerate(value.clean))).moved(order)


def _dims(call: Call, value: Value) -> list[int]:
    return (
        call.dims("dim" if call["dim"] is not None else "dims", len(value.axes))
        if call["dim"] is not None or call["dims"] is not None
        else list(range(len(value.axes)))
    )


@rule("sum nansum count_nonzero")
def summed(call: Call) -> Value:
    """Zeros add nothing."""
    value = call.value("self")
    dims = _dims(call, value)
    for dim in dims:
        call.contract(value.axes[dim], value.clean[dim])
    return _reduced(call, value, dims)


@rule("linalg_vector_norm norm linalg_norm frobenius_norm")
def length(call: Call) -> Value:
    """Zeros add nothing to the length of a vector."""
    value = call.value("self" if call.has("self") else "A")
    dims = _dims(call, value)
    order = call["ord"] if call["ord"] is not None else call["p"] if call["p"] is not None else 2
    for dim in dims:
        if isinstance(order, (int, float)) and order > 0:
            call.contract(value.axes[dim], value.clean[dim])
        else:
            call.reduce(value, [dim], "reduction")
    return _reduced(call, value, dims)


@rule("mean var std var_mean std_mean")
def averaged(call: Call) -> Any:
    """An average counts what it is over, so that the axis stays; a normalisation by it has statistics of its own."""
    value = call.value("self")
    dims = _dims(call, value)
    if any(not rigid(value.axes[dim]) for dim in dims) and not normalises(call.node):
        call.reduce(value, dims, "mean")
    result = _reduced(call, value, dims)
    return result if isinstance(call.node.meta["val"], Tensor) else [result, result]


@rule("max min amax amin prod logsumexp argmax argmin any all median mode aminmax nanmedian quantile kthvalue")
def extreme(call: Call) -> Any:
    """What is gone would count as zero, or as nothing: the axis stays."""
    value = call.value("self")
    if call.has("other"):
        return pointwise(call)  # the larger of each two
    dims = _dims(call, value)
    call.reduce(value, dims, "max")
    result = _reduced(call, value, dims)
    if call.name.endswith(("prod", "logsumexp")):
        result = Value(
            result.axes, tuple(rigid(norm(axis)) for axis in result.axes) if "log" in call.name else result.clean
        )
    return result if isinstance(call.node.meta["val"], Tensor) else [result] * len(call.fakes)


@rule(
    """
    softmax log_softmax _softmax _log_softmax cumsum cumprod diff sort topk argsort logcumsumexp cummax cummin msort
    softmin _safe_softmax multinomial
    """
)
def along(call: Call) -> Any:
    """Everything along the axis counts, so that it stays."""
    value = call.value("self" if call.has("self") else "input")
    dim = call.dim("dim", len(value.axes), -1)
    if not (call.soft and "softmax" in call.name):
        call.freeze(value.axes[dim], "softmax" if "softm" in call.name else "order")
    same = "cum" in call.name or "sort" in call.name or "topk" in call.name
    results = []
    for place in range(len(call.fakes)):
        axes = tuple(
            fixed(size, cause_of(axis)) if d == dim and rigid(axis) else axis
            for d, (axis, size) in enumerate(zip(map(norm, value.axes), call.fakes[place].shape, strict=True))
        )
        results.append(Value(axes, value.clean if same else tuple(map(rigid, axes))))
    return results if isinstance(call.node.meta["val"], (list, tuple)) else results[0]


@rule("glu")
def glu(call: Call) -> Value:
    """Two halves, multiplied."""
    value = call.value("self")
    dim = call.dim("dim", len(value.axes), -1)
    first, second = cut(value.axes[dim], [size_of(value.axes[dim]) // 2])
    call.unify(first, second)
    axes = (*value.axes[:dim], norm(first), *value.axes[dim + 1 :])
    return Value(tuple(axes), value.clean)


_POOLED = """
    max_pool avg_pool adaptive_avg_pool adaptive_max_pool upsample_nearest _upsample_nearest_exact
    lp_pool max_unpool fractional_max_pool
"""


@rule(
    *(f"{kind}{count}d" for count in (1, 2, 3) for kind in _POOLED.split()),
    """
    max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices upsample_bilinear2d upsample_bicubic2d
    upsample_linear1d upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa _adaptive_avg_pool2d
    _adaptive_avg_pool3d
    """,
)
def pooled(call: Call) -> Any:
    """Places stay whole, channels pass; and so does an axis along which each place is pooled alone."""
    name = "input" if call.has("input") else "self" if call.has("self") else ""
    if not name:
        return frozen(call)
    value = call.value(name)
    spatial = next(int(count) for count in "123" if f"{count}d" in call.name)
    kernel = [of_axis(call["kernel_size"], dim, 0) for dim in range(spatial)]
    passing = _unscaled(call, spatial) if "upsample" in call.name else alone(call, kernel, spatial)
    averages = call.name.startswith("aten.avg_pool")
    kept = slid(call, value, kernel, call[name], padded=False) if averages else {}
    result = passed(trailing(call, value, spatial, [*passing, *kept]), kept, spatial)
    for dim in passing if call["output_size"] is not None else ():
        axis = norm(value.axes[len(value.axes) - spatial + dim])
        if not rigid(axis):
            call.derive(("output_size", dim), axis)
    return result if isinstance(call.node.meta["val"], Tensor) else [result] * len(call.fakes)


def _unscaled(call: Call, spatial: int) -> list[int]:
    """Spatial axes along which an image keeps its size, so that each place is interpolated from itself."""
    names = ("scales",) if spatial == 1 else ("scales_d", "scales_h", "scales_w")[-spatial:]
    factors = call["scale_factors"] or [call[name] for name in names]
    before = call["input" if call.has("input") else "self"].meta["val"].shape[-spatial:]
    after = call.shape[-spatial:]
    return [dim for dim in range(spatial) if after[dim] == before[dim] and factors[dim] in (None, 1.0)]


@rule("grid_sampler grid_sampler_2d grid_sampler_3d")
def sampled(call: Call) -> Value:
    """Places of the grid; channels pass."""
    value, grid = call.value("input"), call.value("grid")
    call.freeze_all(grid.axes, "kernel")
    return trailing(call, value, len(value.axes) - 2)


# -- normalisations written out

_PASS = words(
    """
    to _to_copy clone contiguous detach dropout alias type_as float view reshape expand expand_as unsqueeze squeeze
    """
)
_SCALE = words(
    """
    add add_ clamp clamp_ clamp_min clamp_min_ maximum rsqrt rsqrt_ sqrt sqrt_ pow reciprocal mul mul_ div div_
    sub relu
    """
)


def normalises(node: fx.Node) -> bool:
    """Whether a mean or variance only centres or scales what it was taken of, as layer and RMS norms do that are written out."""
    argument = node.args[0]
    assert isinstance(argument, fx.Node)
    short = _short(node)
    squared = _square_of(argument)
    base = _base(squared if squared is not None else argument)
    if short == "mean" and squared is None and is_size(argument):
        return _used_for(node, base | _sized(argument), ("div", "div_", "divide", "divide_"))
    if short == "mean" and squared is None:
        return _used_for(node, base, ("sub", "sub_", "rsub"), centring=True)
    return _used_for(node, base, ("mul", "mul_", "div", "div_"))


def _short(node: fx.Node) -> str:
    return name_of(node).removeprefix("aten.")


def _square_of(node: fx.Node) -> fx.Node | None:
    """x of x²."""
    node = _through(node)
    short = _short(node)
    if short in ("pow", "pow_", "float_power") and node.args[1] in (2, 2.0):
        return node.args[0] if isinstance(node.args[0], fx.Node) else None
    if short == "square" or (short == "mul" and node.args[0] is node.args[1]):
        return node.args[0] if isinstance(node.args[0], fx.Node) else None
    if short == "abs":
        return _square_of(node.args[0]) if isinstance(node.args[0], fx.Node) else None
    return None


def is_size(node: Any) -> bool:
    """Is it x², |x|, a length, or what is made of it without another number?  Then its mean is a size, not a centre."""
    while isinstance(node, fx.Node):
        short = _short(node)
        if short in _SIZES or (short == "mul" and node.args[0] is node.args[1]):
            return True
        if short not in _OF_SIZES:
            return False
        node = node.args[0]
    return False


_SIZES = words("pow square abs float_power linalg_vector_norm norm linalg_norm frobenius_norm")
_OF_SIZES = words("to _to_copy clone contiguous alias detach float type_as add clamp sum sqrt view reshape")


def _sized(node: fx.Node) -> set[fx.Node]:
    """x of |x|: dividing it by the mean of its size scales it, too."""
    inner = _through(node)
    return _base(inner.args[0]) if _short(inner) == "abs" and isinstance(inner.args[0], fx.Node) else set()


def _through(node: fx.Node) -> fx.Node:
    while _short(node) in (
        "view",
        "reshape",
        "flatten",
        "to",
        "_to_copy",
        "clone",
        "contiguous",
        "detach",
        "dropout",
        "alias",
        "float",
        "type_as",
    ) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _base(node: fx.Node) -> set[fx.Node]:
    """What is normalised: `node`, before casts and before a mean was taken from it."""
    found = {node}
    while True:
        node = _through(node)
        found.add(node)
        if _short(node) in ("sub", "sub_") and isinstance(node.args[0], fx.Node) and isinstance(node.args[1], fx.Node):
            node = node.args[0]
            continue
        if _short(node) in ("mul", "mul_") and (larger := _larger(node)) is not None:
            node = larger  # times a gain
            continue
        return found


def _larger(node: fx.Node) -> fx.Node | None:
    """The operand of a product that has as many elements as the result, if the other has fewer."""
    operands = [each for each in node.args[:2] if isinstance(each, fx.Node)]
    full = [each for each in operands if each.meta["val"].numel() == node.meta["val"].numel()]
    return full[0] if len(full) == 1 else None


def _used_for(node: fx.Node, base: set[fx.Node], last: tuple[str, ...], *, centring: bool = False) -> bool:
    """Whether every way on from `node` ends in one of the operations `last` with something of `base`."""
    pending, seen, ended = list(node.users), set(), False
    if _short(node) in ("var_mean", "std_mean"):  # both outputs
        return all(_used_for(user, base, ("mul", "div", "sub", "mul_", "div_", "sub_")) for user in node.users)
    reached = {node}
    while pending:
        user = pending.pop()
        if user in seen:
            continue
        seen.add(user)
        others = [each for each in user.all_input_nodes if each not in reached]
        short = _short(user)
        if others and short in last and all(bool(_base(other) & base) for other in others):
            if short.startswith("div") and user.args[0] in reached:
                return False  # the statistic by what it is of
            ended = True
            continue
        if centring and others and short in ("mul", "mul_", "pow"):
            return False
        if (short in _PASS or (short in _SCALE and not centring)) and all(_small(other, node) for other in others):
            reached.add(user)
            pending.extend(user.users)
            continue
        if centring and short in _PASS:
            reached.add(user)
            pending.extend(user.users)
            continue
        return False
    return ended


def _small(other: fx.Node, statistic: fx.Node) -> bool:
    """Whether an operand is a statistic as well, or a number: nothing that has the normalised axis."""
    ours, theirs = other.meta.get("val"), statistic.meta.get("val")
    if not isinstance(ours, Tensor) or not isinstance(theirs, Tensor):
        return True
    return ours.numel() <= theirs.numel()
