"""Layouts of layers that everybody has: known from a layer's type or name, so that nobody has to declare them.

They are defaults: a declared cut replaces them, and `nas.supernet.proof` tries them like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn
from torch.nn.modules.conv import _ConvNd

from nas.supernet.fused import Layout
from nas.supernet.parts import Shape

_PARTS = {"qkv": 3, "c_attn": 3, "gate_up_proj": 2}
"""Linear layers whose output is several projections, one after the other: timm's qkv, GPT-2's c_attn, gated MLPs."""

_GATES = {"LSTM": 4, "GRU": 3, "LSTMCell": 4, "GRUCell": 3}


def known_layout(name: str, owners: Mapping[str, nn.Module]) -> Layout | None:
    """Layout of the parameter `name` if its layer is known to need one; `owners` are the model's modules by name."""
    prefix, _, leaf = name.rpartition(".")
    owner = owners[prefix]
    if isinstance(owner, (nn.RNNBase, nn.RNNCellBase)):
        return _recurrent(owner, leaf)
    if isinstance(owner, nn.MultiheadAttention):
        return (
            _rows("weight" if leaf == "in_proj_weight" else leaf, "(fused out)", fused=3) if "in_proj" in leaf else None
        )
    if leaf not in ("weight", "bias"):
        return None
    layout = _attention(prefix.rpartition(".")[2], owners[prefix.rpartition(".")[0]], leaf)
    if layout is None:
        parts = _PARTS.get(prefix.rpartition(".")[2], 0)
        if prefix.endswith("crossattention.c_attn"):  # keys and values only
            parts = 2
        layout = _rows(leaf, "(fused out)", fused=parts) if parts else None
    if layout is not None and leaf == "weight" and type(owner).__name__ == "Conv1D":
        # transformers' Conv1D keeps its weight transposed: (in, out)
        rows, columns = layout.pattern.rsplit(" ", 1)
        return Layout(f"{columns} {rows}", **layout.sizes)
    return layout


def _rows(leaf: str, rows: str, **sizes: int | str) -> Layout:
    return Layout(f"{rows} in" if leaf == "weight" else rows, **sizes)


def _recurrent(owner: nn.Module, leaf: str) -> Layout | None:
    """Gates one after the other; layers above a bidirectional one read both directions, one after the other."""
    if leaf.startswith("weight_hr"):
        return None
    base = next(base.__name__ for base in type(owner).__mro__ if base.__module__ == "torch.nn.modules.rnn")
    gates = _GATES.get(base, 1)
    rows, sizes = ("(gates hidden)", {"gates": gates}) if gates > 1 else ("hidden", {})
    if leaf.startswith("bias"):
        return Layout(rows, **sizes) if gates > 1 else None
    both = bool(getattr(owner, "bidirectional", False)) and leaf.startswith("weight_ih") and "_l0" not in leaf
    if both:
        return Layout(f"{rows} (directions inputs)", directions=2, **sizes)
    return Layout(f"{rows} inputs", **sizes) if gates > 1 else None


def _attention(layer: str, attention: nn.Module, leaf: str) -> Layout | None:
    """Projections of attention whose queries have other sizes than keys and values (transformers' Phi-3, GPTBigCode)."""
    if layer == "qkv_proj" and isinstance(getattr(attention, "o_proj", None), nn.Linear):
        return _rows(leaf, "(q + kv + kv)", q="o_proj.weight[1]")
    if layer in ("c_attn", "c_proj") and hasattr(attention, "multi_query"):
        heads = int(attention.num_heads)  # type: ignore[arg-type]
        if layer == "c_proj":
            return Layout("out (heads dim)", heads=heads) if leaf == "weight" else None
        if attention.multi_query:
            return _rows(leaf, "(heads dim + dim + dim)", heads=heads)
        return _rows(leaf, "(heads qkv dim)", heads=heads, qkv=3)
    return None


Channels = tuple[int, int, int]
"""Groups, inputs and outputs of a convolution."""

Lengths = tuple[int | None, ...]
"""Length of an axis in every arch looked at; None in those that have not got it."""


def channels_of(module: nn.Module) -> dict[str, Channels]:
    """Every convolution of `module` with groups, by name."""
    return {
        name: (layer.groups, layer.in_channels, layer.out_channels)
        for name, layer in module.named_modules()
        if isinstance(layer, _ConvNd) and layer.groups > 1
    }


def grouped_layouts(
    convolutions: Sequence[Mapping[str, Channels]], shapes: Sequence[Mapping[str, Shape]]
) -> dict[str, Layout]:
    """Layouts, by name, of all tensors along the channels of a convolution with a fixed number of groups.

    A narrower convolution has fewer channels in *each* group, so whatever writes, normalises or reads these channels has
    to keep the first of each group too.  Which tensors those are is seen from lengths that are equal in every arch.  Groups
    that change with the width (depthwise convolutions) are as wide in each arch, and the leading corner keeps whole ones.

    Args:
        convolutions: `channels_of` every arch looked at.
        shapes: of the tensors of every arch.
    """
    fixed = _fixed(convolutions)
    if not fixed:
        return {}
    fused: dict[str, dict[int, int]] = {}
    ranks = {name: len(shape) for each in shapes for name, shape in each.items()}
    for name, rank in ranks.items():
        for dim in range(rank):
            ours: Lengths = tuple(each[name][dim] if name in each else None for each in shapes)
            for lengths, groups in fixed.items():
                pairs = {pair for pair in zip(ours, lengths, strict=True) if None not in pair}
                if len(pairs) > 1 and all(left == right for left, right in pairs):
                    fused.setdefault(name, {})[dim] = groups
    return {name: _layout(ranks[name], dims) for name, dims in fused.items()}


def _layout(rank: int, groups: Mapping[int, int]) -> Layout:
    pattern = " ".join(f"(groups{dim} axis{dim})" if dim in groups else f"axis{dim}" for dim in range(rank))
    return Layout(pattern, **{f"groups{dim}": count for dim, count in groups.items()})


def _fixed(convolutions: Sequence[Mapping[str, Channels]]) -> dict[Lengths, int]:
    """Number of groups, by its lengths, of each axis along the channels of a convolution whose groups are the same everywhere."""
    found: dict[Lengths, int] = {}
    for name in dict.fromkeys(name for each in convolutions for name in each):
        layers = [each.get(name) for each in convolutions]
        first = next(layer for layer in layers if layer is not None)
        if any(layer is not None and layer[0] != first[0] for layer in layers) or first[0] == first[1]:
            continue
        for side in (1, 2):
            lengths: Lengths = tuple(layer[side] if layer is not None else None for layer in layers)
            if len({length for length in lengths if length is not None}) > 1:
                found[lengths] = first[0]
    return found
