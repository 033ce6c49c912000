"""Look-ups: the axis that is indexed stays whole, the others pass."""

from __future__ import annotations

from typing import Any

from torch import fx

from nas.convert.axes import fixed, norm, size_of
from nas.convert.rules.base import Call, Value, broadcast, rule, spread
from nas.convert.rules.shapes import frozen


@rule("embedding")
def embedding(call: Call) -> Value:
    """Rows of a table."""
    weight, indices = call.value("weight"), call.value("indices")
    call.freeze(weight.axes[0], "vocabulary")
    return Value((*indices.axes, norm(weight.axes[1])), (*indices.clean, weight.clean[1]))


@rule("embedding_bag _embedding_bag _embedding_bag_forward_only")
def embedding_bag(call: Call) -> list[Value]:
    """Sums, means or maxima of rows of a table."""
    weight = call.value("weight")
    call.freeze(weight.axes[0], "vocabulary")
    first = Value((fixed(call.shape[0]), norm(weight.axes[1])), (True, weight.clean[1]))
    return [first, *(Value(tuple(fixed(size) for size in fake.shape), (True,) * fake.dim()) for fake in call.fakes[1:])]


@rule("index _unsafe_index index_put index_put_")
def indexed(call: Call) -> Any:
    """As numpy: axes that are indexed give way to those of the indices, in their place if they are beside each other."""
    value = call.value("self")
    given = [(dim, each) for dim, each in enumerate(call["indices"]) if isinstance(each, fx.Node)]
    fakes = [each.meta["val"] for _, each in given]
    if any(fake.dtype.is_floating_point is False and str(fake.dtype) == "torch.bool" for fake in fakes):
        return frozen(call)
    for dim, _ in given:
        call.freeze(value.axes[dim], "index")
    places = [dim for dim, _ in given]
    indices = [call.value(each) for _, each in given]
    rank = max((fake.dim() for fake in fakes), default=0)
    inner = broadcast(call, indices, rank)
    together = places == list(range(places[0], places[0] + len(places))) if places else True
    start = places[0] if together and places else 0
    rest = [dim for dim in range(len(value.axes)) if dim not in places]
    before = [dim for dim in rest if together and dim < start]
    after = [dim for dim in rest if dim not in before]
    axes = (*(norm(value.axes[dim]) for dim in before), *inner, *(norm(value.axes[dim]) for dim in after))
    clean = (*(value.clean[dim] for dim in before), *((True,) * rank), *(value.clean[dim] for dim in after))
    if "index_put" in call.name:
        values = call.value("values")
        broadcast(call, [Value(axes, clean), values], len(axes))
        flags = spread(values, axes)
        if call.name.endswith("_"):
            node = call.node.args[0]
            assert isinstance(node, fx.Node)
            call.zeroed.append((node, Value(value.axes, tuple(flag and all(flags) for flag in value.clean))))
        return Value(tuple(map(norm, value.axes)), tuple(flag and all(flags) for flag in value.clean))
    return Value(axes, clean)


@rule(
    """
    index_select take_along_dim gather index_add index_add_ index_copy index_copy_ index_fill scatter scatter_
    scatter_add scatter_add_ scatter_reduce scatter_reduce_ index_reduce select_scatter slice_scatter
    masked_scatter
    """
)
def picked(call: Call) -> Any:
    """Along one axis, which stays; the others are those of the index, the source and the table."""
    value = call.value("self")
    rank = len(value.axes)
    dim = call.dim("dim", rank)
    call.freeze(value.axes[dim], "index")
    others = [call.value(name) for name in ("index", "src", "source") if call.has(name)]
    for other in others:
        if len(other.axes) == rank:
            _unify_rest(call, value, other, dim)
        else:
            call.freeze_all(other.axes, "index")
    if call.name.endswith(("gather", "take_along_dim")):
        index = others[0]
        axes = tuple(
            norm(axis) if place == dim or size_of(axis) == size_of(value.axes[place]) else fixed(call.shape[place])
            for place, axis in enumerate(index.axes)
        )
        return Value(axes, value.clean)
    axes = tuple(fixed(call.shape[dim]) if place == dim else norm(axis) for place, axis in enumerate(value.axes))
    flags = (
        [other.clean for other in others if len(other.axes) == rank]
        if "scatter" in call.name or "index_add" in call.name
        else []
    )
    return Value(axes, tuple(all((flag, *(each[place] for each in flags))) for place, flag in enumerate(value.clean)))


def _unify_rest(call: Call, value: Value, other: Value, dim: int) -> None:
    for place, (ours, theirs) in enumerate(zip(value.axes, other.axes, strict=True)):
        if place == dim:
            call.freeze(theirs, "index")
        elif size_of(ours) == size_of(theirs):
            call.unify(ours, theirs)
        else:
            call.freeze_all((ours, theirs), "index")


@rule("bucketize searchsorted bincount histc unique nonzero masked_select")
def counted(call: Call) -> Any:
    """Of values: everything stays."""
    return frozen(call)


@rule(
    """
    fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn fft_rfftn
    fft_irfftn fft_hfft fft_fftshift fft_ifftshift stft istft
    """
)
def fourier(call: Call) -> Any:
    """The axes that are transformed stay, the others pass."""
    value = call.value("self")
    rank = len(value.axes)
    if len(call.shape) != rank:
        return frozen(call)
    if call["dim"] is not None:
        dims = call.dims("dim", rank)
    else:
        dims = (
            list(range(rank))
            if call.name.endswith(("n", "shift"))
            else list(range(max(0, rank - (2 if call.name.endswith("2") else 1)), rank))
        )
    for dim in dims:
        call.freeze(value.axes[dim], "order")
    axes = tuple(fixed(call.shape[dim]) if dim in dims else norm(axis) for dim, axis in enumerate(value.axes))
    return Value(axes, value.clean)
