"""Which axes of a layer's inputs and output run along which dimensions of its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm


class Port(NamedTuple):
    """An axis of a layer's input or output, and the dimension of the layer's parameter that it is as long as."""

    axis: int
    parameter: str
    dim: int


class Role(NamedTuple):
    """What a layer does to units: it reads some along each of `inputs` (argument, name, port), and writes others.

    `keeps_shape`: the output has the shape of the input, as that of a norm.
    """

    inputs: tuple[tuple[int, str, Port], ...]
    output: Port
    keeps_shape: bool = False


_NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.PReLU)


def role_of(module: nn.Module) -> Role | None:
    """Role of a layer whose type is known and whose forward is that type's own; None of others.

    Convolutions with groups are not among them: which inputs an output channel reads is theirs to show.
    """
    if "forward" in vars(module):
        return None
    role = _role(module)
    if role is None or any(module_of(module, port.parameter) is None for *_, port in role.inputs):
        return None
    return role


def module_of(module: nn.Module, parameter: str) -> Tensor | None:
    """The parameter of that name, if it is one (and not computed from others by a parametrisation)."""
    *path, leaf = parameter.split(".")
    for part in path:
        module = module._modules[part]  # type: ignore[assignment]
    return module._parameters.get(leaf)


def _role(module: nn.Module) -> Role | None:
    forward = type(module).forward
    if forward in (nn.Linear.forward,):
        return _layer(-1, 1, 0)
    if isinstance(module, _ConvNd) and module.groups == 1 and forward.__module__ == "torch.nn.modules.conv":
        reads = input_dim(module, "weight")
        assert reads is not None
        return _layer(-1 - len(module.kernel_size), reads, 1 - reads)
    if forward is nn.Embedding.forward:
        return Role((), Port(-1, "weight", 1))
    if type(module).__name__ == "Conv1D" and input_dim(module, "weight") == 0:
        return _layer(-1, 0, 1)
    if forward is nn.MultiheadAttention.forward:
        assert isinstance(module, nn.MultiheadAttention)
        names = ("query", "key", "value")
        weights = (
            ["in_proj_weight"] * 3 if module.in_proj_weight is not None else [f"{n[0]}_proj_weight" for n in names]
        )
        ports = tuple(
            (i, name, Port(-1, weight, 1)) for i, (name, weight) in enumerate(zip(names, weights, strict=True))
        )
        return Role(ports, Port(-1, "out_proj.weight", 0))
    return _elementwise(module)


def _layer(axis: int, reads: int, writes: int) -> Role:
    return Role(((0, "input", Port(axis, "weight", reads)),), Port(axis, "weight", writes))


def _elementwise(module: nn.Module) -> Role | None:
    """Norms, scales, slopes: a number or two for each unit, and what comes in goes out at the same place."""
    parameters = {name: each for name, each in module._parameters.items() if each is not None}
    if module._modules or not parameters or any(each.dim() != 1 for each in parameters.values()):
        return None
    lengths = {len(each) for each in parameters.values()}
    known = isinstance(module, _NORMS) and type(module).forward.__module__.startswith("torch.nn")
    if len(lengths) > 1 or lengths == {1} or not (known or _looks_like_a_norm(module)):
        return None
    axis = 1 if isinstance(module, (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.PReLU)) else -1
    port = Port(axis, next(iter(parameters)), 0)
    return Role(((0, "input", port),), port, keeps_shape=True)


def _looks_like_a_norm(module: nn.Module) -> bool:
    """Somebody's own norm or scale, which works along the last axis: transformers' RMSNorm, LayerScale."""
    return any(word in type(module).__name__.lower() for word in ("norm", "scale"))


def input_dim(owner: nn.Module, leaf: str) -> int | None:
    """Which dimension of the parameter `leaf` of a layer runs over the layer's inputs."""
    if isinstance(owner, nn.MultiheadAttention) and leaf in ("in_proj_weight", "q_proj_weight"):
        return 1
    if leaf != "weight":
        return None
    if isinstance(owner, _ConvNd):
        return 0 if isinstance(owner, _ConvTransposeNd) else 1
    if type(owner).__name__ == "Conv1D":  # transformers' keeps its weight transposed: (in, out)
        return 0
    return 1 if isinstance(owner, nn.Linear) else None


def argument(position: int, name: str, positional: Sequence[Any], keywords: dict[str, Any]) -> Tensor | None:
    """The tensor that a layer was called with as its argument of that position or name."""
    found = positional[position] if position < len(positional) else keywords.get(name)
    if found is None and position == 0 and keywords:
        found = next(iter(keywords.values()))
    return found if isinstance(found, Tensor) else None


def output_of(module: nn.Module, role: Role, positional: Sequence[Any], keywords: dict[str, Any]) -> Any:
    """What a layer with a role would return, as tensors without values."""
    given = argument(0, role.inputs[0][1] if role.inputs else "input", positional, keywords)
    assert given is not None, "every layer with a role takes a tensor first"
    if isinstance(module, nn.MultiheadAttention):
        return _attention_of(module, given, positional, keywords)
    if role.keeps_shape:
        return _empty(given.shape)
    if isinstance(module, _ConvNd):
        axes = len(module.kernel_size)
        lead = given.shape[: -1 - axes]
        return _empty((*lead, module.out_channels, *_extent(module, given.shape[-axes:], positional, keywords)))
    weight = module_of(module, role.output.parameter)
    assert weight is not None
    lead = given.shape if isinstance(module, nn.Embedding) else given.shape[:-1]
    return _empty((*lead, weight.shape[role.output.dim]))


def _empty(shape: Sequence[int]) -> Tensor:
    return torch.empty(tuple(shape), device="meta")


def _extent(layer: _ConvNd, sizes: Sequence[int], positional: Sequence[Any], keywords: dict[str, Any]) -> list[int]:
    """Height and width of a convolution's output, as torch documents them."""
    output_size = positional[1] if len(positional) > 1 else keywords.get("output_size")
    if output_size is not None:
        return list(output_size)[-len(sizes) :]
    found = []
    for index, size in enumerate(sizes):
        span = layer.dilation[index] * (layer.kernel_size[index] - 1)
        if layer.padding == "same":
            found.append(size)
            continue
        padding = 0 if isinstance(layer.padding, str) else layer.padding[index]
        stride = layer.stride[index]
        if isinstance(layer, _ConvTransposeNd):
            found.append((size - 1) * stride - 2 * padding + span + layer.output_padding[index] + 1)
        else:
            found.append((size + 2 * padding - span - 1) // stride + 1)
    return found


def _attention_of(
    module: nn.MultiheadAttention, query: Tensor, positional: Sequence[Any], keywords: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    key = argument(1, "key", positional, keywords)
    assert key is not None
    output = _empty((*query.shape[:-1], module.embed_dim))
    if not (positional[4] if len(positional) > 4 else keywords.get("need_weights", True)):
        return output, None
    time = 1 if module.batch_first and query.dim() == 3 else 0
    batch = [query.shape[1 - time]] if query.dim() == 3 else []
    average = positional[6] if len(positional) > 6 else keywords.get("average_attn_weights", True)
    heads = [] if average else [module.num_heads]
    return output, _empty((*batch, *heads, query.shape[time], key.shape[time]))
