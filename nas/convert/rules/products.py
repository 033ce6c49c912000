"""Linear layers, convolutions, products of matrices and attention: contracted axes are equal."""

from __future__ import annotations

from typing import Any

from nas.convert.axes import Axis, fixed, norm, prod_split, rigid, size_of
from nas.convert.rules.base import Call, Value, broadcast, rule, spread
from nas.convert.rules.shapes import alone, passed, slid, trailing


@rule("linear")
def linear(call: Call) -> Value:
    """x W' + b: the last axis is that of the weight's columns, and becomes that of its rows."""
    value, weight = call.value("input"), call.value("weight")
    call.unify(value.axes[-1], weight.axes[-1])
    call.contract(value.axes[-1], value.clean[-1], weight.clean[-1])
    biased = call.has("bias")
    if biased:
        call.unify(weight.axes[0], call.value("bias").axes[0])
    rows = weight.axes[:-1]  # none for a weight that is a vector
    clean = (
        weight.clean[:-1]
        if not biased
        else tuple(all(both) for both in zip(weight.clean[:-1], call.value("bias").clean, strict=False))
    )
    return Value((*value.axes[:-1], *map(norm, rows)), (*_unbiased(value.axes[:-1], value.clean[:-1], biased), *clean))


def _unbiased(axes: tuple[Axis, ...], clean: tuple[bool, ...], biased: bool) -> tuple[bool, ...]:
    """A bias is added at every index of the other axes, those that an arch has not got as well."""
    return tuple(flag and (not biased or rigid(norm(axis))) for axis, flag in zip(axes, clean, strict=True))


@rule("bilinear")
def bilinear(call: Call) -> Value:
    """x1 W x2 + b."""
    first, second, weight = call.value("input1"), call.value("input2"), call.value("weight")
    call.unify(first.axes[-1], weight.axes[1])
    call.unify(second.axes[-1], weight.axes[2])
    if call.has("bias"):
        call.unify(weight.axes[0], call.value("bias").axes[0])
    axes = broadcast(call, [Value(v.axes[:-1], v.clean[:-1]) for v in (first, second)], len(call.shape) - 1)
    return Value((*axes, norm(weight.axes[0])), (*(rigid(norm(axis)) for axis in axes), True))


_PAIRS = (
    *(("mat1", "mat2"), ("batch1", "batch2"), ("mat", "vec"), ("self", "other"), ("self", "mat2"), ("self", "vec2")),
    *(("self", "vec"), ("self", "tensor"), ("input", "other"), ("x", "y")),
)


def _operands(call: Call) -> tuple[str, str]:
    """Names of the two matrices or vectors; what they are added to comes besides."""
    return next(pair for pair in _PAIRS if call.has(pair[0]) and call.has(pair[1]))


@rule(
    """
    matmul mm bmm mv dot vdot inner addmm baddbmm addbmm addmv _grouped_mm transformers.grouped_mm_fallback linalg_matmul
    linalg_vecdot chain_matmul
    """
)
def matmul(call: Call) -> Value:
    """Batch axes are broadcast, the inner ones contracted, of a vector the only one."""
    if "grouped_mm" in call.name:
        return grouped(call)
    names = _operands(call)
    left, right = call.value(names[0]), call.value(names[1])
    if call.name.endswith("linalg_vecdot"):
        return _vecdot(call, left, right)
    inner = len(right.axes) - 2 if len(right.axes) > 1 and not call.name.endswith("inner") else len(right.axes) - 1
    call.unify(left.axes[-1], right.axes[inner])
    call.contract(left.axes[-1], left.clean[-1], right.clean[inner])
    value = _product(call, left, right, inner)
    if call.name in ("aten.addmm", "aten.baddbmm", "aten.addmv"):
        return _added(call, value)
    if call.name == "aten.addbmm":
        call.contract(left.axes[0], left.clean[0], right.clean[0])
        return _added(call, value.moved([1, 2]))
    return value


def _product(call: Call, left: Value, right: Value, inner: int) -> Value:
    rows, row_flags = (left.axes[-2:-1], left.clean[-2:-1])
    columns = [dim for dim in range(max(0, len(right.axes) - 2), len(right.axes)) if dim != inner]
    pair = [Value(each.axes[:-2], each.clean[:-2]) for each in (left, right)]
    batch = broadcast(call, pair, max(len(each.axes) for each in pair))
    either = tuple(map(any, zip(*(spread(each, batch) for each in pair), strict=True)))
    axes = (*batch, *map(norm, rows), *(norm(right.axes[dim]) for dim in columns))
    return Value(axes, (*either, *row_flags, *(right.clean[dim] for dim in columns)))


def _vecdot(call: Call, left: Value, right: Value) -> Value:
    dim = call.dim("dim", len(left.axes), -1)
    axes = broadcast(call, [left, right], len(left.axes))
    call.contract(axes[dim], left.clean[dim], right.clean[dim])
    flags = tuple(map(any, zip(spread(left, axes), spread(right, axes), strict=True)))
    return Value(axes, flags).moved([place for place in range(len(axes)) if place != dim])


def _added(call: Call, value: Value) -> Value:
    """With the first argument added."""
    other = call.value("self")
    axes = broadcast(call, [value, other], len(value.axes))
    return Value(axes, tuple(map(all, zip(spread(value, axes), spread(other, axes), strict=True))))


@rule("outer ger")
def outer(call: Call) -> Value:
    """Every pair."""
    left, right = call.value("self"), call.value("vec2")
    return Value((left.axes[0], right.axes[0]), (left.clean[0], right.clean[0]))


def grouped(call: Call) -> Value:
    """A matrix for each group of rows (experts): experts stay, the inner axes are contracted."""
    names = ("self", "mat2") if call.has("self") else ("input", "weight")
    left, right = call.value(names[0]), call.value(names[1])
    call.unify(left.axes[-1], right.axes[-2])
    call.contract(left.axes[-1], left.clean[-1], right.clean[-2])
    call.aligned.extend((left.axes[-1], right.axes[-1]))
    if len(right.axes) == 3:
        call.freeze(right.axes[0], "experts")
    if len(left.axes) == 3:
        call.freeze(left.axes[0], "experts")
    call.freeze(left.axes[-2], "experts")
    rows = tuple(fixed(size) for size in call.shape[:-1])
    return Value((*rows, norm(right.axes[-1])), (*((True,) * len(rows)), right.clean[-1]))


@rule("einsum")
def einsum(call: Call) -> Value:
    """By letters; an ellipsis stands for axes that are broadcast."""
    values = call.values("tensors")
    ranks = [len(value.axes) for value in values]
    inputs, output = _letters(str(call["equation"]), ranks)
    axes: dict[str, Axis] = {}
    clean: dict[str, list[bool]] = {}
    for letters, value in zip(inputs, values, strict=True):
        for letter, axis, flag in zip(letters, value.axes, value.clean, strict=True):
            if letter not in axes or size_of(axes[letter]) == 1:
                axes[letter] = axis
            elif size_of(axis) != 1:
                call.unify(axes[letter], axis)
            clean.setdefault(letter, []).append(flag)
        for letter in {each for each in letters if letters.count(each) > 1}:
            call.freeze(axes[letter], "order")
    for letter, flags in clean.items():
        if letter not in output:
            call.contract(axes[letter], *flags)
    return Value(tuple(norm(axes[letter]) for letter in output), tuple(any(clean[letter]) for letter in output))


def _letters(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """Letters of each operand and of the result, with a letter of its own for each axis of an ellipsis."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    spare = [chr(code) for code in range(0x100, 0x100 + 32)]
    count = max(
        (rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True) if "..." in term),
        default=0,
    )
    inputs = []
    for term, rank in zip(terms, ranks, strict=True):
        missing = rank - len(term.replace("...", ""))
        inputs.append(term.replace("...", "".join(spare[count - missing : count])))
    if not arrow:
        seen = "".join(inputs)
        right = "..." + "".join(
            sorted(letter for letter in set(seen) if seen.count(letter) == 1 and letter not in spare)
        )
        right = right if count else right[3:]
    return inputs, right.replace("...", "".join(spare[:count]))


@rule("tensordot")
def tensordot(call: Call) -> Value:
    """Contracted over pairs of axes."""
    left, right = call.value("self"), call.value("other")
    ours, theirs = (
        [dim % len(v.axes) for dim in call[name]] for v, name in ((left, "dims_self"), (right, "dims_other"))
    )
    for one, other in zip(ours, theirs, strict=True):
        call.unify(left.axes[one], right.axes[other])
        call.contract(left.axes[one], left.clean[one], right.clean[other])
    a = left.moved([dim for dim in range(len(left.axes)) if dim not in ours])
    b = right.moved([dim for dim in range(len(right.axes)) if dim not in theirs])
    return Value((*a.axes, *b.axes), (*a.clean, *b.clean))


@rule("conv1d conv2d conv3d convolution _convolution conv_transpose1d conv_transpose2d conv_transpose3d")
def convolution(call: Call) -> Value:
    """Channels of the input are those of the weight, in each group; kernels and places stay."""
    name = "input" if call.has("input") else "self"
    value, weight = call.value(name), call.value("weight")
    groups = int(call["groups"] or 1)
    spatial = len(weight.axes) - 2
    channels = len(value.axes) - spatial - 1
    transposed = "transpose" in call.name or bool(call["transposed"])
    call.freeze_all(weight.axes[2:], "kernel")
    ins, outs, shared = _channels(call, value.axes[channels], weight, groups, transposed)
    if groups > 1:
        call.derive(("groups",), norm(shared))
    call.contract(ins, value.clean[channels], weight.clean[0 if transposed else 1])
    result = norm((*shared, *outs))
    biased = call.has("bias")
    if biased:
        call.unify(result, call.value("bias").axes[0])
    kernel = list(map(size_of, weight.axes[2:]))
    single = [] if transposed else alone(call, kernel, spatial)
    kept = {} if transposed else slid(call, value, kernel, call[name], padded=True)
    moved = passed(trailing(call, value, spatial, [*single, *kept]), kept, spatial)
    axes = (*moved.axes[:channels], norm(result), *moved.axes[channels + 1 :])
    before, after = (
        _unbiased(moved.axes[part], moved.clean[part], biased)
        for part in (slice(None, channels), slice(channels + 1, None))
    )
    return Value(axes, (*before, True, *after))


def _channels(call: Call, channels: Axis, weight: Value, groups: int, transposed: bool) -> tuple[Axis, Axis, Axis]:
    """Input and output channels of one group, and the groups."""
    if groups == 1:
        call.unify(channels, weight.axes[0 if transposed else 1])
        return channels, norm(weight.axes[1 if transposed else 0]), ()
    per_input = size_of(channels) // groups
    shared, ins = prod_split(channels, per_input)
    if transposed:
        ours, rows = prod_split(weight.axes[0], per_input)
        outs = weight.axes[1]
    else:
        ours, outs = prod_split(weight.axes[0], size_of(weight.axes[0]) // groups)
        rows = weight.axes[1]
    call.unify(ins, rows)
    call.unify(shared, ours)
    return norm(ins), norm(outs), norm(shared)


@rule("scaled_dot_product_attention")
def attention(call: Call) -> Value:
    """Queries and keys are contracted; the number of keys stays, since the softmax counts them."""
    query, key, value = call.value("query"), call.value("key"), call.value("value")
    call.unify(query.axes[-1], key.axes[-1])
    call.contract(query.axes[-1], query.clean[-1], key.clean[-1])
    call.unify(key.axes[-2], value.axes[-2])
    call.freeze(key.axes[-2], "attention keys")
    heads, flags = _heads(call, query, key, value)
    if call.has("attn_mask"):
        mask = call.value("attn_mask")
        scores = Value((*heads, norm(query.axes[-2]), norm(key.axes[-2])), (False,) * (len(heads) + 2))
        broadcast(call, [scores, mask], len(scores.axes))
    axes = (*map(norm, heads), norm(query.axes[-2]), norm(value.axes[-1]))
    return Value(axes, (*flags, rigid(norm(query.axes[-2])), value.clean[-1]))


def _heads(call: Call, query: Value, key: Value, value: Value) -> tuple[tuple[Axis, ...], tuple[bool, ...]]:
    """Batch axes, the last of which is heads: of grouped queries so many for each head of the keys, and of the values."""
    batch = [Value(each.axes[:-2], each.clean[:-2]) for each in (query, key, value)]
    queries, *others = (size_of(each.axes[-3]) if len(each.axes) > 2 else 1 for each in (query, key, value))
    if call["enable_gqa"] and any(count != queries for count in others):
        for count, each in zip(others, (key, value), strict=True):
            high, _ = prod_split(query.axes[-3], queries // count)
            call.unify(high, each.axes[-3])
        outer_axes = broadcast(call, [Value(each.axes[:-1], each.clean[:-1]) for each in batch], len(batch[0].axes) - 1)
        return (*outer_axes, norm(query.axes[-3])), (*(rigid(norm(axis)) for axis in outer_axes), value.clean[-3])
    axes = broadcast(call, batch, len(batch[0].axes))
    return axes, spread(batch[2], axes)


@rule("cosine_similarity pairwise_distance cdist")
def compared(call: Call) -> Any:
    """Vectors compared along their last axis, or the one named."""
    first, second = (call.value(name) for name in ("x1", "x2"))
    if call.name.endswith("cdist"):
        call.unify(first.axes[-1], second.axes[-1])
        call.contract(first.axes[-1], first.clean[-1] and second.clean[-1])
        batch = broadcast(call, [Value(v.axes[:-2], v.clean[:-2]) for v in (first, second)], len(call.shape) - 2)
        axes = (*batch, norm(first.axes[-2]), norm(second.axes[-2]))
        return Value(axes, tuple(rigid(axis) for axis in axes))
    axes = broadcast(call, [first, second], max(len(first.axes), len(second.axes)))
    dim = call.dim("dim", len(axes), 1) if call.name.endswith("similarity") else len(axes) - 1
    call.contract(axes[dim], spread(first, axes)[dim] and spread(second, axes)[dim])
    if call["keepdim"]:
        kept = (*axes[:dim], (), *axes[dim + 1 :])
        return Value(kept, tuple(rigid(norm(axis)) for axis in kept))
    rest = tuple(axis for place, axis in enumerate(axes) if place != dim)
    return Value(rest, tuple(rigid(norm(axis)) for axis in rest))
