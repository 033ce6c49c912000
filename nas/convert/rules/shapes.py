"""Operations that move, split and join axes, and those that make tensors of a given shape."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from nas.convert import axes as algebra
from nas.convert.axes import Axis, cut, fixed, fresh, joined, norm, prod_split, regroup, rigid, size_of
from nas.convert.rules.base import Call, Value, arguments, broadcast, name_of, rule, spread, whole, words


@rule("view reshape _unsafe_view view_as reshape_as flatten unflatten ravel view_copy _reshape_alias")
def reshaped(call: Call) -> Value:
    """The factors of all axes, grouped anew."""
    value = call.value("self")
    if call.name == "aten.view" and not isinstance(call["size"], (list, tuple)):
        return _same(value, regroup(value.axes, call.shape))  # view of another type
    axes = regroup(value.axes, call.shape)
    given = call["size"] if call["size"] is not None else call["shape"]
    name = "size" if call["size"] is not None else "shape"
    if call.name == "aten.unflatten":
        start = call.dim("dim", len(value.axes))
        name, given, offset = "sizes", call["sizes"], start
    else:
        offset = 0
    if isinstance(given, (list, tuple)):
        for place, size in enumerate(given):
            if size != -1:
                call.derive((name, place), axes[offset + place])
    return _same(value, axes)


def _same(value: Value, axes: Sequence[Axis]) -> Value:
    """With `clean` of the axes that are the same before and after; of others what all have."""
    known = {norm(axis): flag for axis, flag in zip(value.axes, value.clean, strict=True)}
    every = all(flag for axis, flag in zip(value.axes, value.clean, strict=True) if not rigid(norm(axis)))
    return Value(tuple(axes), tuple(known.get(norm(axis), every) for axis in axes))


@rule("permute transpose swapaxes swapdims movedim moveaxis t numpy_T mT mH adjoint matrix_H permute_copy")
def moved(call: Call) -> Value:
    """Axes in another order."""
    value = call.value("self")
    rank = len(value.axes)
    order = list(range(rank))
    if call.name.endswith((".permute", ".permute_copy")):
        order = [dim % rank for dim in call["dims"]]
    elif call.name.endswith((".movedim", ".moveaxis")):
        order = (
            list(torch.empty((0,) * rank).movedim(call["source"], call["destination"]).shape)
            if rank == 0
            else _moved(call, rank)
        )
    elif call.name.endswith(".t") or call.name.endswith(".numpy_T"):
        order = order[::-1]
    elif call.name.endswith((".mT", ".mH", ".adjoint", ".matrix_H")):
        order[-2:] = order[-2:][::-1]
    else:
        first, second = (call["dim0"], call["dim1"]) if call["dim0"] is not None else (call["axis0"], call["axis1"])
        if rank:
            order[first % rank], order[second % rank] = order[second % rank], order[first % rank]
    return value.moved(order)


def _moved(call: Call, rank: int) -> list[int]:
    source, target = call["source"], call["destination"]
    source = [source] if isinstance(source, int) else list(source)
    target = [target] if isinstance(target, int) else list(target)
    source, target = [dim % rank for dim in source], [dim % rank for dim in target]
    rest = iter(dim for dim in range(rank) if dim not in source)
    places = dict(zip(target, source, strict=True))
    return [places[dim] if dim in places else next(rest) for dim in range(rank)]


@rule("squeeze squeeze_copy")
def squeezed(call: Call) -> Value:
    """Without axes of length 1."""
    value = call.value("self")
    dims = call.dims("dim", len(value.axes)) if call["dim"] is not None else range(len(value.axes))
    fake = call["self"].meta["val"]
    return value.moved([dim for dim in range(fake.dim()) if dim not in dims or fake.shape[dim] != 1])


@rule("unsqueeze unsqueeze_copy")
def unsqueezed(call: Call) -> Value:
    """With an axis of length 1."""
    value = call.value("self")
    dim = call["dim"] % (len(value.axes) + 1)
    return Value(_with(value.axes, dim, ()), _with(value.clean, dim, True))


def _with(items: tuple[Any, ...], place: int, item: Any) -> tuple[Any, ...]:
    return (*items[:place], item, *items[place:])


@rule("expand expand_as broadcast_to expand_copy")
def expanded(call: Call) -> Value:
    """An axis of 1 that is repeated is a new atom: what it is used with says what it is."""
    value, shape = call.value("self"), call.shape
    offset = len(shape) - len(value.axes)
    axes, clean = [], []
    for dim, size in enumerate(shape):
        source = value.axes[dim - offset] if dim >= offset else ()
        kept = size_of(source) == size
        axes.append(source if kept else fresh(size))
        clean.append(kept and (dim < offset or value.clean[dim - offset]))
    given = call["size"]
    for place, size in enumerate(given or ()):
        if size != -1:
            call.derive(("size", place), axes[place])
    if call.name == "aten.expand_as":
        other = call.value("other")
        for ours, theirs in zip(reversed(axes), reversed(other.axes), strict=False):
            call.unify(ours, theirs)
    return Value(tuple(axes), tuple(clean))


@rule("broadcast_tensors")
def broadcasted(call: Call) -> list[Value]:
    """All of the same axes."""
    operands = call.values("tensors")
    axes = broadcast(call, operands, len(call.shape))
    return [Value(axes, spread(operand, axes)) for operand in operands]


@rule("repeat tile")
def repeated(call: Call) -> Value:
    """Copies one after the other: the number of copies is the major factor."""
    value, shape = call.value("self"), call.shape
    counts = list(call["repeats"] if call["repeats"] is not None else call["dims"])
    missing = len(shape) - len(counts)  # tile may be given fewer than the tensor has axes
    counts = [1] * missing + counts
    offset = len(shape) - len(value.axes)
    axes = []
    for dim, count in enumerate(counts):
        source = value.axes[dim - offset] if dim >= offset else ()
        copies = fresh(count)
        if count > 1:
            call.derive((("repeats" if call["repeats"] is not None else "dims"), dim - missing), copies)
        axes.append(norm((*copies, *source)))
    flags = (True,) * offset + value.clean
    return Value(tuple(axes), tuple(flag and count == 1 for flag, count in zip(flags, counts, strict=True)))


@rule("repeat_interleave")
def interleaved(call: Call) -> Any:
    """Copies side by side: the number of copies is the minor factor."""
    value = call.value("self")
    if not isinstance(call["repeats"], int):
        return frozen(call)
    if call["dim"] is None:
        value = Value((norm(factor for axis in value.axes for factor in axis),), (all(value.clean),))
    dim = call.dim("dim", len(value.axes))
    copies = fresh(call["repeats"])
    call.derive(("repeats",), copies)
    axis = norm((*value.axes[dim], *copies))
    clean = _replaced(value.clean, dim, value.clean[dim] and call["repeats"] == 1)
    return Value(_replaced(value.axes, dim, axis), clean)


def _replaced(items: tuple[Any, ...], place: int, item: Any) -> tuple[Any, ...]:
    return (*items[:place], item, *items[place + 1 :])


def _pieces(call: Call, dim: int, lengths: Sequence[int]) -> list[Value]:
    value = call.value("self")
    axes = cut(value.axes[dim], list(itertools.accumulate(lengths))[:-1])
    return [Value(_replaced(value.axes, dim, axis), value.clean) for axis in axes]


@rule("split split_with_sizes chunk tensor_split unsafe_split unsafe_chunk hsplit vsplit split_copy")
def split(call: Call) -> list[Value]:
    """Pieces of an axis; those of a chunk are equal where the class is to stay as it is."""
    rank = len(call.value("self").axes)
    dim = call.dim("dim", rank)
    lengths = [fake.shape[dim] for fake in call.fakes]
    pieces = _pieces(call, dim, lengths)
    sizes = call["split_sizes"] if call["split_sizes"] is not None else call["split_size"]
    if isinstance(sizes, (list, tuple)):
        name = "split_sizes" if call["split_sizes"] is not None else "split_size"
        for place, piece in enumerate(pieces):
            call.derive((name, place), piece.axes[dim])
        return pieces
    if isinstance(sizes, int):
        call.derive(("split_size",), pieces[0].axes[dim])
    if call.coupled or isinstance(sizes, int):
        for piece in pieces[1:]:
            if lengths[0] == size_of(piece.axes[dim]):
                call.unify(pieces[0].axes[dim], piece.axes[dim])
            else:  # a remainder: how long it is would change the number of pieces
                call.freeze(piece.axes[dim], "class arithmetic")
                call.freeze(pieces[0].axes[dim], "class arithmetic")
    return pieces


SPLITS = words("aten.split aten.split_with_sizes aten.chunk aten.tensor_split aten.unsafe_split aten.unsafe_chunk")
"""Operations that take one axis apart, with the axis as `dim`."""


def split_dim(node: fx.Node) -> int:
    """The axis that a node of `SPLITS` takes apart."""
    found = arguments(node)
    rank: int = found["self"].meta["val"].dim()
    return int(found["dim"] or 0) % max(rank, 1)


@rule("slice narrow slice_copy narrow_copy")
def sliced(call: Call) -> Any:
    """A piece of an axis, or every so many-th index of it."""
    value = call.value("self")
    dim = call.dim("dim", len(value.axes))
    size = size_of(value.axes[dim])
    if "narrow" in call.name:
        start, end, step = int(call["start"]), int(call["start"]) + int(call["length"]), 1
    else:
        start, end, step = call["start"] or 0, size if call["end"] is None else call["end"], call["step"] or 1
    negative = start < 0, end < 0
    start, end = (min(max(place + size if place < 0 else place, 0), size) for place in (start, end))
    if step != 1:
        return _stepped(call, value, dim, (start, end), step)
    if (start, end) == (0, size) or rigid(value.axes[dim]):
        if rigid(value.axes[dim]):
            return Value(_replaced(value.axes, dim, fixed(end - start, algebra.cause_of(value.axes[dim]))), value.clean)
        return value
    if end <= start:  # nothing: what follows a partial rotary embedding where all of a head is rotated
        return Value(_replaced(value.axes, dim, fixed(0)), value.clean)
    pieces = cut(value.axes[dim], [mark for mark in (start, end) if 0 < mark < size])
    middle = pieces[1] if start > 0 else pieces[0]
    _derive_bounds(call, pieces, start > 0, end < size, negative)
    return Value(_replaced(value.axes, dim, middle), value.clean)


def _derive_bounds(call: Call, pieces: list[Axis], begins: bool, ends: bool, negative: tuple[bool, bool]) -> None:
    """Where a slice starts and ends, from the left or, where it was given so, from the right."""
    after_start, after_end = pieces[1:] if begins else pieces, pieces[-1:]
    if begins:
        call.derive(("start",), joined(after_start) if negative[0] else pieces[0], -1 if negative[0] else 1)
    if "narrow" in call.name:
        call.derive(("length",), pieces[1] if begins else pieces[0])
    elif ends:
        call.derive(("end",), joined(after_end) if negative[1] else joined(pieces[:-1]), -1 if negative[1] else 1)


def _stepped(call: Call, value: Value, dim: int, bounds: tuple[int, int], step: int) -> Value:
    """Every `step`-th: the minor part of the axis is `step` long, and stays."""
    axis, (start, end) = value.axes[dim], bounds
    size = size_of(axis)
    if size % step or end < size - step + 1 or start >= step:
        call.freeze(axis, "step")
        return Value(_replaced(value.axes, dim, fixed(call.shape[dim])), value.clean)
    major, minor = prod_split(axis, step)
    call.freeze(minor, "step")
    return Value(_replaced(value.axes, dim, major), value.clean)


@rule("select unbind select_copy unbind_copy")
def selected(call: Call) -> Value | list[Value]:
    """One index of an axis, or each of them: it is no width."""
    value = call.value("self")
    dim = call.dim("dim", len(value.axes))
    if not (call["index"] in (0, -1) and _same_everywhere(call["self"])):
        call.freeze(value.axes[dim], "select")
    rest = value.moved([place for place in range(len(value.axes)) if place != dim])
    return rest if "select" in call.name else [rest] * len(call.fakes)


_FILLED = words(
    """
    aten.zeros aten.ones aten.full aten.zeros_like aten.ones_like aten.full_like aten.new_zeros aten.new_ones
    aten.new_full
    """
)


def _same_everywhere(node: fx.Node) -> bool:
    """Whether a tensor was filled with one number, so that each index of it is any other, and nothing was written into it."""
    while len(node.users) == 1 and (name := name_of(node)) not in _FILLED:
        if not (is_view(node) or name == "aten._to_copy") or not isinstance(node.args[0], fx.Node):
            return False
        node = node.args[0]
    return len(node.users) == 1 and name_of(node) in _FILLED


@rule("cat concat concatenate hstack vstack dstack column_stack")
def concatenated(call: Call) -> Any:
    """One after the other; the other axes are equal."""
    nodes = [node for node in call["tensors"] if node.meta["val"].shape != (0,)]
    values = [call.value(node) for node in nodes]
    rank = len(call.shape)
    if any(len(value.axes) != rank for value in values):
        return frozen(call)
    dim = (
        call.dim("dim" if "dim" in call._arguments else "axis", rank)
        if "stack" not in call.name
        else _stack_dim(call.name, rank)
    )
    axes = []
    for place in range(rank):
        if place == dim:
            axes.append(joined([value.axes[place] for value in values]))
            continue
        for value in values[1:]:
            call.unify(values[0].axes[place], value.axes[place])
        axes.append(norm(values[0].axes[place]))
    clean = tuple(all(value.clean[place] for value in values) for place in range(rank))
    return Value(tuple(axes), clean)


def _stack_dim(name: str, rank: int) -> int:
    return {"aten.vstack": 0, "aten.dstack": 2}.get(name, 0 if rank == 1 else 1)


@rule("stack")
def stacked(call: Call) -> Value:
    """A new axis, of which nothing is left out."""
    values = call.values("tensors")
    for value in values[1:]:
        for ours, theirs in zip(values[0].axes, value.axes, strict=True):
            call.unify(ours, theirs)
    dim = call["dim"] % (len(values[0].axes) + 1)
    clean = tuple(map(all, zip(*(value.clean for value in values), strict=True)))
    axes = tuple(map(norm, values[0].axes))
    return Value(_with(axes, dim, fixed(len(values))), _with(clean, dim, True))


@rule("constant_pad_nd pad")
def padded(call: Call) -> Value:
    """Zeros around an elastic axis are atoms: what it is added to says which."""
    value = call.value("self")
    amounts = list(call["pad"])
    fills = call["value"] if call["value"] is not None else 0
    if call.name == "aten.pad" and call["mode"] != "constant":
        fills, trailing = 0, len(amounts) // 2
        call.freeze_all(value.axes[len(value.axes) - trailing :], "kernel")
    axes, clean = list(value.axes), list(value.clean)
    for back in range(len(amounts) // 2):
        dim, (left, right) = len(axes) - 1 - back, amounts[2 * back : 2 * back + 2]
        if left == right == 0:
            continue
        if rigid(axes[dim]) or left < 0 or right < 0:
            call.freeze(axes[dim], "kernel")
            axes[dim] = fixed(call.shape[dim], algebra.cause_of(axes[dim]))
            continue
        sides = [(_padding(size), place) for size, place in ((left, 2 * back), (right, 2 * back + 1))]
        for side, place in sides:
            if side:
                call.derive(("pad", place), side)
        axes[dim] = joined([side for side in (sides[0][0], axes[dim], sides[1][0]) if side is not None])
    if fills != 0:
        clean = [False] * len(clean)
    return Value(tuple(axes), tuple(clean))


def _padding(size: int) -> Axis | None:
    """An atom for padding; of one element too, since an axis of one is none."""
    return (algebra.Atom(size),) if size > 1 else fixed(1) if size == 1 else None


@rule("reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d")
def mirrored(call: Call) -> Value:
    """Spatial axes stay whole."""
    value = call.value("self")
    spatial = int(call.name[-2])
    return trailing(call, value, spatial)


def trailing(call: Call, value: Value, spatial: int, passing: Sequence[int] = ()) -> Value:
    """The last `spatial` axes are rigid but for those of them that are `passing`, as the others are."""
    keep = len(value.axes) - spatial
    gone = [keep + place for place in range(spatial) if place not in passing]
    call.freeze_all((value.axes[dim] for dim in gone), "kernel")
    cause = call.cause("kernel")
    axes = tuple(fixed(call.shape[dim], cause) if dim in gone else axis for dim, axis in enumerate(value.axes))
    return Value(axes, value.clean)


def of_axis(given: Any, dim: int, otherwise: int) -> int:
    """An argument of a convolution or a pooling for one of its spatial axes: a number, or one for each axis."""
    if isinstance(given, str):  # "valid" or "same"
        return otherwise
    several = [given] if isinstance(given, int) else list(given or ())
    return int(several[0 if len(several) == 1 else dim]) if several else otherwise


def alone(call: Call, kernel: Sequence[int], spatial: int) -> list[int]:
    """The spatial axes along which windows are one place wide and come one after the other, without padding."""

    def each(dim: int) -> bool:
        size = of_axis(kernel, dim, 0)
        return (size, of_axis(call["stride"], dim, size), of_axis(call["padding"], dim, 0)) == (1, 1, 0)

    return [dim for dim in range(spatial) if each(dim)]


def slid(call: Call, value: Value, kernel: Sequence[int], before: fx.Node, *, padded: bool) -> dict[int, Axis]:
    """The elastic spatial axes that sums of neighbours leave as long as they were, zeros being around and where nothing is.

    Where the last units are gone, zeros are in the place of zeros: a narrower network is the masked one.  Their order counts
    from then on.  Channels are such an axis in "ECA-Net" (Wang et al. 2020) and in local response normalisation.

    Args:
        call: of a convolution or an average.
        value: of its input, whose last axes are spatial.
        kernel: length of windows along each of them.
        before: the node that gives the input: zeros may have been put around there.
        padded: whether padding of its own is zeros.
    """
    found: dict[int, Axis] = {}
    first = len(value.axes) - len(kernel)
    for dim, size in enumerate(kernel):
        axis = value.axes[first + dim]
        if size == 1 or rigid(axis) or call.soft or of_axis(call["stride"], dim, size) != 1:
            continue
        around = of_axis(call["dilation"], dim, 1) * (size - 1)
        same = call["padding"] == "same"
        if same and around % 2:
            continue
        padding = around // 2 if same else of_axis(call["padding"], dim, 0)
        if padded and 2 * padding == around and value.clean[first + dim]:
            found[dim] = axis
        elif padding == 0:
            found |= _padded_before(call, before, dim - len(kernel), around, dim)
    call.ordered += found.values()
    return found


def _padded_before(call: Call, node: fx.Node, back: int, around: int, dim: int) -> dict[int, Axis]:
    """The axis `back` from the end, without the `around` zeros that a node of its own put around it."""
    given = arguments(node)
    if name_of(node) not in ("aten.pad", "aten.constant_pad_nd") or given.get("mode", "constant") != "constant":
        return {}
    left, right = [*given["pad"], *[0] * (-2 * back)][2 * (-back - 1) : 2 * -back]
    inner = call.value(given["self"])
    if given.get("value") or min(left, right) < 0 or left + right != around or not inner.clean[back]:
        return {}
    length = size_of(inner.axes[back])
    pieces = cut(call.value(node).axes[back], [mark for mark in (left, left + length) if 0 < mark < length + around])
    call.freeze_all((piece for piece in pieces if piece is not pieces[1 if left else 0]), "kernel")
    return {dim: inner.axes[back]}


def passed(value: Value, kept: Mapping[int, Axis], spatial: int) -> Value:
    """With axes that were `slid`: of them nothing is zero any more."""
    first = len(value.axes) - spatial
    axes, clean = list(value.axes), list(value.clean)
    for dim, axis in kept.items():
        axes[first + dim], clean[first + dim] = axis, False
    return Value(tuple(axes), tuple(clean))


@rule("zeros ones full empty rand randn new_zeros new_ones new_full new_empty")
def made(call: Call) -> Value:
    """New axes: what it is used with says what they are."""
    axes = tuple(map(fresh, call.shape))
    for place, axis in enumerate(axes):
        call.derive(("size", place), axis)
    zero = "zeros" in call.name
    return Value(axes, (zero,) * len(axes))


@rule(
    """
    arange eye linspace logspace scalar_tensor tril_indices triu_indices hann_window hamming_window range
    meshgrid one_hot tensor _assert_tensor_metadata bartlett_window blackman_window kaiser_window
    """
)
def counted(call: Call) -> Value | list[Value]:
    """Numbers of a fixed length."""
    for node in call.inputs():
        call.freeze_all(call.value(node).axes, "index")
    return (
        [whole(fake, call.cause("constant")) for fake in call.fakes]
        if len(call.fakes) > 1
        else whole(call.fakes[0], call.cause("constant"))
    )


def frozen(call: Call) -> Any:
    """Nothing is known of this operation: everything that goes in or comes out stays whole."""
    reason = "unknown op"
    for node in call.inputs():
        found = call._known[node]
        for value in found if isinstance(found, list) else [found]:
            call.freeze_all(value.axes, reason)
    results = [whole(fake, call.cause(reason)) for fake in call.fakes]
    return results if isinstance(call.node.meta["val"], (list, tuple)) else results[0]


@rule("diagonal diag_embed tril triu rot90 flip fliplr flipud roll diag trace block_diag kron")
def ordered(call: Call) -> Any:
    """The place of an index counts, so that it stays whole; other axes pass."""
    value = call.value("self") if call.has("self") else None
    if value is None or len(value.axes) != len(call.shape):
        return frozen(call)
    if call.name.endswith(("flip", "roll", "rot90")):
        dims = call.dims("dims", len(value.axes))
    else:
        dims = list(range(max(0, len(value.axes) - 2), len(value.axes)))
    for dim in dims:
        call.freeze(value.axes[dim], "order")
    return Value(tuple(map(norm, value.axes)), value.clean)


@rule("view_as_complex view_as_real")
def as_complex(call: Call) -> Value:
    """Pairs of numbers."""
    value = call.value("self")
    if call.name.endswith("real"):
        return Value((*value.axes, fixed(2)), (*value.clean, True))
    call.freeze(value.axes[-1], "pair")
    return value.moved(range(len(value.axes) - 1))


@rule("pixel_shuffle pixel_unshuffle")
def pixel_shuffled(call: Call) -> Value:
    """Channels of r x r places each."""
    value = call.value("self")
    channels = len(value.axes) - 3
    call.freeze_all(value.axes[-2:], "kernel")
    if call.name.endswith("unshuffle"):
        factor = int(call["downscale_factor"])
        axis = norm((*value.axes[channels], *fixed(factor * factor)))
    else:
        axis, low = prod_split(value.axes[channels], int(call["upscale_factor"]) ** 2)
        call.freeze(low, "kernel")
    axes = (*value.axes[:channels], axis, *(fixed(size) for size in call.shape[-2:]))
    return Value(axes, value.clean)


@rule("channel_shuffle native_channel_shuffle")
def channels_shuffled(call: Call) -> Value:
    """Groups and what is in them change places."""
    value = call.value("self" if call.has("self") else "input")
    high, low = prod_split(value.axes[1], size_of(value.axes[1]) // int(call["groups"]))
    call.derive(("groups",), high)
    return Value(_replaced(value.axes, 1, norm((*low, *high))), value.clean)


@rule("im2col col2im unfold unfold_copy")
def unfolded(call: Call) -> Value:
    """Patches: channels times places of the kernel, which stay whole."""
    value = call.value("self")
    if call.name.endswith(("unfold", "unfold_copy")):
        dim = call.dim("dimension", len(value.axes))
        call.freeze(value.axes[dim], "kernel")
        axes = (*_replaced(value.axes, dim, fixed(call.shape[dim])), fixed(call.shape[-1]))
        return Value(axes, (*value.clean, True))
    area = int(call["kernel_size"][0]) * int(call["kernel_size"][1])
    channels = len(value.axes) - (3 if call.name.endswith("im2col") else 2)
    if call.name.endswith("im2col"):
        call.freeze_all(value.axes[channels + 1 :], "kernel")
        axes = (*value.axes[:channels], norm((*value.axes[channels], *fixed(area))), fixed(call.shape[-1]))
        return Value(axes, (*value.clean[: channels + 1], True))
    high, low = prod_split(value.axes[channels], area)
    call.freeze(low, "kernel")
    call.freeze(value.axes[-1], "kernel")
    axes = (*value.axes[:channels], high, *(fixed(size) for size in call.shape[-2:]))
    return Value(axes, (*value.clean[: channels + 1], True, True))


def is_view(node: fx.Node) -> bool:
    """Whether a node only shows its first argument in another way."""
    return name_of(node).removeprefix("aten.") in _VIEWS


_VIEWS = words(
    """
    view reshape flatten unflatten permute transpose t squeeze unsqueeze expand slice select narrow split chunk
    split_with_sizes unbind to clone contiguous detach alias movedim view_as expand_as tensor_split swapaxes
    dropout
    """
)
