"""Small families for tests, whose model functions can be imported (so that their spaces pickle)."""

from __future__ import annotations

import pyglove as pg
import torch
from torch import nn

import nas


class AttentionMLP(nn.Module):
    """`nn.MultiheadAttention` (fused `in_proj_weight`) and a perceptron, with a scale that the constructor computes."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.inputs = nn.Linear(6, width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.register_buffer("scale", torch.tensor(width**-0.5))
        self.rates = torch.linspace(1, 2, width).tolist()
        self.outputs = nn.Linear(width, 4)

    def forward(self, x, bias=0.0):
        x = self.inputs(x) * self.scale * self.rates[-2]
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.outputs(x + self.mlp(x)) + bias


@nas.model
def attention_mlp(width, heads, hidden):
    return AttentionMLP(width, heads, hidden)


class Mixed(nn.Module):
    """A chain of different operations, a tied pair, a gated layer, a recurrent layer, a statistic."""

    def __init__(self, ops, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(5, width)
        self.ops = nn.ModuleDict({f"{index}_{name}": make(width) for index, (name, make) in enumerate(ops)})
        self.norm = nn.BatchNorm1d(width)
        self.last = nn.Linear(width, 5, bias=False)
        self.last.weight = nn.Parameter(torch.randn(5, width))
        self.tied = nn.Linear(5, width, bias=False)
        self.first.weight = self.tied.weight

    def forward(self, x):
        x = self.first(x)
        for op in self.ops.values():
            x = op(x)
        return self.last(self.norm(x) + self.tied(self.last(x)))


class Gated(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(width, 2 * hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x):
        gate, up = self.gate_up_proj(x).chunk(2, -1)
        return x + self.down(torch.sigmoid(gate) * up)


class Recurrent(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.cell = nn.GRUCell(width, width)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.cell(x) * self.scale


class Op(pg.Object):
    """An operation of the chain: a symbolic object, chosen whole."""


class GatedOp(Op):
    hidden: int


class RecurrentOp(Op):
    pass


class Skip(Op):
    pass


def _make(op):
    if isinstance(op, GatedOp):
        return ("gated", lambda width: Gated(width, op.hidden))
    if isinstance(op, RecurrentOp):
        return ("recurrent", Recurrent)
    return ("skip", lambda _: nn.Identity())


@nas.model
def mixed(ops, width):
    return Mixed([_make(op) for op in ops], width)


@nas.model
def kernels(kernel, width):
    return nn.Sequential(
        nn.Conv2d(2, width, kernel, padding=kernel // 2), nn.ReLU(), nn.Conv2d(width, 3, kernel, padding=kernel // 2)
    )


@nas.model
def linear(width, bias=True):
    return nn.Sequential(nn.Linear(3, width, bias=bias), nn.Linear(width, 2))


def attention_mlp_space():
    value = attention_mlp(width=pg.oneof([8, 12, 16]), heads=pg.oneof([2, 4]), hidden=pg.oneof([6, 10]))
    return nas.Space(value, name="attention-mlp")


def mixed_space():
    op = lambda: pg.oneof([GatedOp(hidden=pg.oneof([3, 7])), RecurrentOp(), Skip()])  # noqa: E731
    return nas.Space(mixed(ops=[op(), op()], width=pg.oneof([4, 6])), name="mixed")


def kernels_space():
    return nas.Space(kernels(kernel=pg.oneof([3, 5, 7]), width=pg.oneof([2, 4])), name="kernels")


def linear_space(widths=(4, 8), name="linear"):
    return nas.Space(linear(width=pg.oneof(list(widths))), name=name)


class Summed(nn.Module):
    """Axes that are several parts: a concatenation of two elastic widths, queries with fewer keys and values, both directions."""

    def __init__(self, left: int, right: int, keys: int) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(5, left), nn.Linear(5, right)
        self.norm = nn.BatchNorm1d(left + right)
        self.qkv = nn.Linear(left + right, 4 + 2 * keys)
        self.sizes = [4, keys, keys]
        self.recurrent = nn.GRU(4, keys, bidirectional=True, batch_first=True)
        self.last = nn.Linear(2 * keys, 3)

    def forward(self, x):
        x = torch.cat([self.left(x), torch.tanh(self.right(x))], -1)
        q, k, v = self.qkv(self.norm(x)).split(self.sizes, -1)
        return self.last(self.recurrent((q * (k * v).sum(-1, keepdim=True))[:, None])[0][:, 0])


@nas.model
def summed(left, right, keys):
    return Summed(left, right, keys)


def summed_space():
    return nas.Space(summed(left=pg.oneof([2, 6]), right=pg.oneof([3, 5]), keys=pg.oneof([2, 3])), name="summed")


def summed_layouts():
    both = {"left": "left.bias", "right": "right.bias"}
    return {
        "norm.*": nas.Layout("(left + right)", **both),
        "qkv.weight": nas.Layout("(q + kv + kv) (left + right)", q=4, left="left.bias"),
        "qkv.bias": nas.Layout("(q + kv + kv)", q=4),
        "last.weight": nas.Layout("out (directions in)", directions=2),
    }
