"""Layers that normalise and activate, as graphs of elementary operations, and four small networks to judge them in.

Liu, Brock, Simonyan, Le 2020, "Evolving Normalization-Activation Layers".  A graph has four nodes that are given (the input x,
zeros, and two vectors with a number for each channel, which begin as 0 and 1) and ten that are computed, each an operation on
nodes before it; the last one, scaled and shifted for each channel, is the layer's output.  Operations are elementwise, or
moments over axes of the batch: samples and positions (`bhw`), positions (`hw`), positions and channels (`hwc`), positions and
a group of channels (`hwg`).  Of tokens (n, t, d) the positions are the tokens.  Over `bhw` running averages take the
batch's place in eval mode, as in BatchNorm.

`Space.regrow` of an operation is the published mutation: an operation and its inputs are drawn anew.  `KNOWN` are layers that
people and the authors found.  A layer is good if networks of several kinds train with it, and if it is stable when weights
go where gradients are large (`gradient_norm`): `ANCHORS` has four networks to ask.

Where the paper leaves it open: a standard deviation is √(variance + 1e-5), a root sign(x)·√(|x| + 1e-5), a logarithm that of
|x| + 1e-5, and the second moment the mean of squares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import pyglove as pg
import torch
from torch import Tensor, nn
from torch.nn import functional

import nas
from nas.errors import SpaceError, suggest

EPSILON = 1e-5
MOMENTUM = 0.1
GIVEN = ("x", "zero", "v0", "v1")
AXES = ("bhw", "hwc", "hw", "hwg")
MOMENTS = ("mean", "std", "square")
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "mul": torch.mul,
    "div": torch.div,
    "max": torch.maximum,
}
UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "neg": torch.neg,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "log": lambda x: (x.abs() + EPSILON).log(),
    "abs": torch.abs,
    "square": torch.square,
    "sqrt": lambda x: x.sign() * (x.abs() + EPSILON).sqrt(),
}
OPS = (*BINARY, *UNARY, *(f"{moment} {axes}" for moment in MOMENTS for axes in AXES))


class Node(NamedTuple):
    """One operation of a graph."""

    op: str
    first: str
    """`x`, `zero`, `v0`, `v1`, or a node before it: `n1` is the first that is computed."""
    second: str | None = None
    """Of an operation on two."""


Graph = Sequence[Node]

KNOWN: dict[str, Graph] = {
    "bn-relu": (
        Node("mean bhw", "x"),
        Node("neg", "n1"),
        Node("add", "x", "n2"),
        Node("std bhw", "x"),
        Node("div", "n3", "n4"),
        Node("max", "n5", "zero"),
    ),
    "gn-relu": (
        Node("mean hwg", "x"),
        Node("neg", "n1"),
        Node("add", "x", "n2"),
        Node("std hwg", "x"),
        Node("div", "n3", "n4"),
        Node("max", "n5", "zero"),
    ),
    "evonorm-b0": (
        Node("mul", "v1", "x"),
        Node("std hw", "x"),
        Node("add", "n1", "n2"),
        Node("std bhw", "x"),
        Node("max", "n3", "n4"),
        Node("div", "x", "n5"),
    ),
    "evonorm-s0": (
        Node("mul", "v1", "x"),
        Node("sigmoid", "n1"),
        Node("mul", "x", "n2"),
        Node("std hwg", "x"),
        Node("div", "n3", "n4"),
    ),
    "relu": (Node("max", "x", "zero"),),
}
"""Layers of others as graphs; the two EvoNorms are what the paper found."""


# -- the layer


class EvoNorm(nn.Module):
    """The layer of a graph.

    Args:
        graph: its nodes; those that the last one does not need are not computed.
        channels: of the input.
        groups: of channels, for moments over one; their greatest common divisor with `channels` is taken.
    """

    def __init__(self, graph: Graph, channels: int, groups: int = 4) -> None:
        super().__init__()
        self.graph, self.groups = tuple(graph), math.gcd(groups, channels)
        self.live = needed(self.graph)
        self.v0 = nn.Parameter(torch.zeros(channels))
        self.v1 = nn.Parameter(torch.ones(channels))
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.tracked: Tensor
        self.register_buffer("tracked", torch.zeros((), dtype=torch.long))
        for at in self.live:
            if self.graph[at].op.endswith("bhw"):
                self.register_buffer(f"running_{at}", torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) or (n, t, c) -> the same."""
        if x.ndim == 3:
            y: Tensor = self.forward(x.transpose(1, 2).unsqueeze(-1))
            return y.squeeze(-1).transpose(1, 2)
        values = {"x": x, "zero": x.new_zeros(1, 1, 1, 1), "v0": _channelwise(self.v0), "v1": _channelwise(self.v1)}
        for at in self.live:
            values[f"n{at + 1}"] = self._value(at, values)
        if self.training:
            self.tracked += 1
        last = values[f"n{len(self.graph)}"]
        return (last * _channelwise(self.weight) + _channelwise(self.bias)).expand_as(x)

    def _value(self, at: int, values: Mapping[str, Tensor]) -> Tensor:
        op, first, second = self.graph[at]
        x = values[first]
        if op in BINARY:
            assert second is not None
            return BINARY[op](x, values[second])
        if op in UNARY:
            return UNARY[op](x)
        what, axes = op.split()
        if axes != "bhw":
            return self._moment(what, axes, x)
        # A layer that was never trained has seen no other batch.
        moment = self._moment(what, axes, x) if self.training or not self.tracked else None
        running: Tensor = self.get_buffer(f"running_{at}")
        if self.training and moment is not None:
            with torch.no_grad():
                running.lerp_(moment.detach().expand_as(running), MOMENTUM if self.tracked else 1.0)
        return running if moment is None else moment

    def _moment(self, what: str, axes: str, x: Tensor) -> Tensor:
        if axes == "hwg":
            x = x.expand(-1, len(self.weight), -1, -1)
            shape, dims = x.shape, (2, 3, 4)
            x = x.reshape(len(x), self.groups, -1, *x.shape[2:])
            # Back to a number for each channel.
            return (
                self._over(what, dims, x)
                .expand(-1, -1, shape[1] // self.groups, -1, -1)
                .reshape(len(x), shape[1], 1, 1)
            )
        return self._over(what, {"bhw": (0, 2, 3), "hwc": (1, 2, 3), "hw": (2, 3)}[axes], x)

    def _over(self, what: str, dims: tuple[int, ...], x: Tensor) -> Tensor:
        if what == "square":
            return x.square().mean(dims, keepdim=True)
        if what == "mean":
            return x.mean(dims, keepdim=True)
        return (x.var(dims, unbiased=False, keepdim=True) + EPSILON).sqrt()

    def extra_repr(self) -> str:
        """The output as a formula."""
        return shown(self.graph)


def _channelwise(vector: Tensor) -> Tensor:
    return vector.view(1, -1, 1, 1)


def needed(graph: Graph) -> tuple[int, ...]:
    """Which nodes the last one is computed of, itself included, in order."""
    wanted = {f"n{len(graph)}"}
    for at in reversed(range(len(graph))):
        if f"n{at + 1}" in wanted:
            wanted.update(name for name in graph[at][1:] if name)
    return tuple(at for at in range(len(graph)) if f"n{at + 1}" in wanted)


def shown(graph: Graph) -> str:
    """The output of a graph as a formula: `max(div(x, std bhw(x)), zero)`."""

    def text(name: str) -> str:
        if name in GIVEN:
            return name
        op, *inputs = graph[int(name[1:]) - 1]
        return f"{op}({', '.join(text(one) for one in inputs if one)})"

    return text(f"n{len(graph)}")


# -- networks to judge it in

Norm = Callable[[int], nn.Module]


class _Beside(nn.Module):
    """x + inner(x)."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape -> the same."""
        y: Tensor = x + self.inner(x)
        return y


class _Tokens(nn.Module):
    """Patches of 2×2 as tokens, with a place each."""

    def __init__(self, channels: int, width: int, side: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, width, 2, 2)
        self.places = nn.Parameter(torch.randn((side // 2) ** 2, width) * 0.02)

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, side, side) -> (n, side²/4, width)."""
        y: Tensor = self.embed(images).flatten(2).transpose(1, 2) + self.places
        return y


class _Across(nn.Module):
    """A layer on the axis of tokens."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """(n, t, d) -> (n, t, d)."""
        y: Tensor = self.inner(x.transpose(1, 2)).transpose(1, 2)
        return y


class _Attention(nn.Module):
    """Attention with two heads, without the layer before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, t, d) -> the same."""
        n, t, d = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, 2, d // 2).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(2, 3) / math.sqrt(d / 2)).softmax(3)  # torch's own has no second derivative
        y: Tensor = self.out((weights @ v).transpose(1, 2).reshape(n, t, d))
        return y


class _Pooled(nn.Module):
    """The average over positions or tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) or (n, t, c) -> (n, c)."""
        return x.mean((2, 3)) if x.ndim == 4 else x.mean(1)


def cnn(norm: Norm, *, width: int, side: int, channels: int, classes: int) -> nn.Module:
    """A residual network with the layer before every convolution but the first (He et al. 2016, pre-activation)."""
    del side

    def block(width: int) -> nn.Module:
        parts = [(norm(width), nn.Conv2d(width, width, 3, padding=1, bias=False)) for _ in range(2)]
        return _Beside(*(one for pair in parts for one in pair))

    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        block(width),
        nn.Conv2d(width, 2 * width, 3, 2, padding=1, bias=False),
        block(2 * width),
        norm(2 * width),
        _Pooled(),
        nn.Linear(2 * width, classes),
    )


def mobile(norm: Norm, *, width: int, side: int, channels: int, classes: int) -> nn.Module:
    """Inverted residuals: the layer after the expansion and after the depthwise convolution (MobileNetV2)."""
    del side

    def inner(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        wide = 2 * inputs
        return [
            nn.Conv2d(inputs, wide, 1, bias=False),
            norm(wide),
            nn.Conv2d(wide, wide, 3, stride, padding=1, groups=wide, bias=False),
            norm(wide),
            nn.Conv2d(wide, outputs, 1, bias=False),
        ]

    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        _Beside(*inner(width, width, 1)),
        *inner(width, 2 * width, 2),
        _Beside(*inner(2 * width, 2 * width, 1)),
        norm(2 * width),
        _Pooled(),
        nn.Linear(2 * width, classes),
    )


def mixer(norm: Norm, *, width: int, side: int, channels: int, classes: int) -> nn.Module:
    """Two blocks of a mixer: the layer takes the place of LayerNorm, and of the activation."""
    tokens, wide = (side // 2) ** 2, 2 * width
    blocks = [
        module
        for _ in range(2)
        for module in (
            _Beside(norm(wide), _Across(nn.Linear(tokens, tokens)), norm(wide), _Across(nn.Linear(tokens, tokens))),
            _Beside(norm(wide), nn.Linear(wide, wide), norm(wide), nn.Linear(wide, wide)),
        )
    ]
    return nn.Sequential(_Tokens(channels, wide, side), *blocks, norm(wide), _Pooled(), nn.Linear(wide, classes))


def vit(norm: Norm, *, width: int, side: int, channels: int, classes: int) -> nn.Module:
    """Two blocks of a vision transformer: the layer takes the place of LayerNorm, and of the activation."""
    wide = 2 * width
    blocks = [
        module
        for _ in range(2)
        for module in (
            _Beside(norm(wide), _Attention(wide)),
            _Beside(norm(wide), nn.Linear(wide, 2 * wide), norm(2 * wide), nn.Linear(2 * wide, wide)),
        )
    ]
    return nn.Sequential(_Tokens(channels, wide, side), *blocks, norm(wide), _Pooled(), nn.Linear(wide, classes))


ANCHORS: dict[str, Callable[..., nn.Module]] = {"cnn": cnn, "mobile": mobile, "mixer": mixer, "vit": vit}


@nas.model
def network(
    *,
    graph: Any,
    anchor: str = "cnn",
    width: int = 16,
    groups: int = 4,
    side: int = 8,
    channels: int = 1,
    classes: int = 10,
) -> nn.Module:
    """An anchor with the layer of a graph at every place of a norm and an activation.

    Args:
        graph: its nodes: `op`, and `first` and `second`, the inputs.
        anchor: one of `ANCHORS`.
        width: channels of the first stage; tokens have twice as many.
        groups: of channels.
        side: of the images, an even number.
        channels: of the images.
        classes: to tell apart.

    Raises:
        SpaceError: no anchor has that name, or the side is odd.
    """
    if anchor not in ANCHORS:
        raise SpaceError(f"anchor {anchor!r} is not one of {', '.join(ANCHORS)}{suggest(anchor, ANCHORS)}")
    if side % 2:
        raise SpaceError(f"an image of side {side} has no whole patches of 2 by 2; give an even side")
    nodes = [Node(one["op"], one["first"], one["second"] if one["op"] in BINARY else None) for one in graph]
    layer = partial(EvoNorm, nodes, groups=groups)
    return ANCHORS[anchor](layer, width=width, side=side, channels=channels, classes=classes)


# -- the space


def space(nodes: int = 10, **settings: Any) -> nas.Space:
    """All graphs; an operation's inputs hang on it, so that both are drawn anew when it is regrown.

    Args:
        nodes: that are computed.
        settings: others of `network`: anchor, width, groups, side, channels, classes.

    Raises:
        SpaceError: there is no node.
    """
    if isinstance(nodes, bool) or not isinstance(nodes, int) or nodes < 1:
        raise SpaceError(
            f"evonorm was given nodes={nodes!r}; a graph that can build something has a whole number, 1 or more"
        )
    graph, conditions = [], {}
    for at in range(nodes):
        inputs = [*GIVEN, *(f"n{before + 1}" for before in range(at))]
        graph.append(pg.Dict(op=pg.oneof(list(OPS)), first=pg.oneof(inputs), second=pg.oneof(inputs)))
        conditions[f"graph[{at}].first"] = (f"graph[{at}].op", list(OPS))
        conditions[f"graph[{at}].second"] = (f"graph[{at}].op", list(BINARY))
    return nas.Space(network(graph=graph, **settings), name="evonorm", active_when=conditions)


def graph_of(arch: nas.Arch) -> Graph:
    """The graph of an arch."""
    chosen = arch.choices
    count = sum(name.endswith(".op") for name in chosen)
    names = (f"graph[{at}]" for at in range(count))
    return tuple(Node(chosen[f"{n}.op"], chosen[f"{n}.first"], chosen.get(f"{n}.second")) for n in names)


def arch_of(space_: nas.Space, graph: Graph) -> nas.Arch:
    """A graph as an arch of a space of as many nodes or more: before it are nodes that it does not need.

    Raises:
        SpaceError: the space has it not.
    """
    missing = sum(name.endswith(".op") for name in space_.names) - len(graph)
    if missing < 0:
        raise SpaceError(f"a graph of {len(graph)} nodes is outside space {space_.name!r} of {len(graph) + missing}")

    def moved(name: str | None) -> str | None:
        return name if name is None or name in GIVEN else f"n{int(name[1:]) + missing}"

    nodes = [Node("neg", "zero")] * missing + [Node(one.op, *map(moved, one[1:])) for one in graph]  # type: ignore[arg-type]
    words = {f"graph[{at}].{word}": value for at, one in enumerate(nodes) for word, value in one._asdict().items()}
    return space_.arch({name: value for name, value in words.items() if value is not None})


def in_anchor(arch: nas.Arch, anchor: str) -> nn.Module:
    """The network of another anchor with the layer of an arch, all else as in its space."""
    value = arch.space.value
    settings = {name: getattr(value, name) for name in ("width", "groups", "side", "channels", "classes")}
    module: nn.Module = network(graph=[one._asdict() for one in graph_of(arch)], anchor=anchor, **settings)()
    return module


def gradient_norm(net: nn.Module, images: Tensor, labels: Tensor, *, steps: int = 20, rate: float = 0.05) -> float:
    """The largest norm of the gradient that weights reach which climb it: how unstable a network may become.

    Each step moves the weights (those of two dimensions or more) in the direction in which the norm of the cross-entropy's
    gradient with regard to them grows fastest, by `rate` of their own norm.  The published test has 100 unnormalised steps.

    Args:
        net: left as it was.
        images: one batch.
        labels: of it.
        steps: to climb.
        rate: length of a step, as a share of the weights' norm.

    Returns:
        inf where the gradient has no finite norm.
    """
    named = [(name, one.detach().clone()) for name, one in net.named_parameters() if one.ndim >= 2]
    weights = {name: one.requires_grad_() for name, one in named}
    buffers = {name: one.clone() for name, one in net.named_buffers()}
    largest = 0.0
    for step in range(steps + 1):
        loss = functional.cross_entropy(torch.func.functional_call(net, (weights, buffers), (images,)), labels)
        slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True, allow_unused=True)
        norm = _norm(slopes)
        if not torch.isfinite(norm):
            return math.inf
        largest = max(largest, norm.item())
        if step == steps or not norm.requires_grad:
            break
        climb = torch.autograd.grad(norm, list(weights.values()), allow_unused=True)
        length = _norm(climb)
        if not torch.isfinite(length):
            return math.inf
        if length > 0:
            size = rate * _norm(list(weights.values())).item() / length.item()
            weights = {
                name: (one.detach() + (0 if up is None else size * up)).requires_grad_()
                for (name, one), up in zip(weights.items(), climb, strict=True)
            }
    return largest


def _norm(tensors: Sequence[Tensor | None]) -> Tensor:
    squares = [one.square().sum() for one in tensors if one is not None]
    return torch.stack(squares).sum().sqrt() if squares else torch.zeros(())
