"""An elastic model by hand: one module of full size whose archs are copies of it, cut by the atoms of its axes."""

from __future__ import annotations

import copy

import pyglove as pg
import torch
from torch import Tensor, nn
from torch.nn import functional

import nas
from nas.supernet import parts
from nas.supernet.parts import Axis, Sum

DIM = 4
WHOLE = {"width": 10, "groups": 3, "per": 2, "left": 12, "right": 9, "hidden": 7, "kept": 5}


class Tangle(nn.Module):
    """Grouped queries in one projection, branches of two lengths joined, statistics of both, a recurrent layer, a table."""

    def __init__(self) -> None:
        super().__init__()
        size = WHOLE
        self.groups, self.per, self.hidden = size["groups"], size["per"], size["hidden"]
        heads = self.groups * self.per
        self.inputs = nn.Linear(size["kept"], size["width"])
        self.qkv = nn.Linear(size["width"], (heads + 2 * self.groups) * DIM)
        self.proj = nn.Linear(heads * DIM, size["width"], bias=False)
        self.left = nn.Linear(size["width"], size["left"])
        self.right = nn.Linear(size["width"], size["right"])
        self.norm = nn.BatchNorm1d(size["left"] + size["right"])
        self.mix = nn.Linear(2 * (size["left"] + size["right"]), size["width"])
        self.lstm = nn.LSTM(size["width"], self.hidden, 2, bidirectional=True, batch_first=True)
        self.register_buffer("table", torch.linspace(0.5, 1.5, size["left"] + size["width"]))
        self.register_buffer("ramp", torch.linspace(1, 2, size["width"]), persistent=False)
        self.head = nn.Linear(size["width"] + 2 * self.hidden, 3)
        self.tied = nn.Linear(size["width"] + 2 * self.hidden, 3, bias=False)
        self.tied.weight = self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.inputs(x) * self.ramp
        batch, steps, _ = x.shape
        lengths = [self.groups * self.per * DIM, self.groups * DIM, self.groups * DIM]
        q, k, v = (each.reshape(batch, steps, -1, DIM).transpose(1, 2) for each in self.qkv(x).split(lengths, dim=-1))
        k, v = (each.repeat_interleave(self.per, 1) for each in (k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(mixed.transpose(1, 2).flatten(2))
        left = self.left(x)
        joined = torch.cat([left * self.table[: left.shape[-1]], self.right(x)], -1)
        joined = self.norm(joined.transpose(1, 2)).transpose(1, 2)
        x = x + self.mix(torch.cat([joined, joined.square()], -1)) * self.table[left.shape[-1] :]
        last = torch.cat([x, self.lstm(x)[0]], -1)
        return self.head(last) + self.tied(last.abs())


_BOTH = Sum((("left",), ("right",)))
_GATES = (4, "hidden")
_HEADS = (Sum((("groups", "per", DIM), ("groups", DIM), ("groups", DIM))),)
AXES: dict[str, tuple[Axis, ...]] = {
    "inputs.weight": (("width",), ("kept",)),
    "inputs.bias": (("width",),),
    "qkv.weight": (_HEADS, ("width",)),
    "qkv.bias": (_HEADS,),
    "proj.weight": (("width",), ("groups", "per", DIM)),
    "left.weight": (("left",), ("width",)),
    "left.bias": (("left",),),
    "right.weight": (("right",), ("width",)),
    "right.bias": (("right",),),
    **{f"norm.{each}": ((_BOTH,),) for each in ("weight", "bias", "running_mean", "running_var")},
    "mix.weight": (("width",), (2, _BOTH)),
    "mix.bias": (("width",),),
    "table": ((Sum((("left",), ("width",))),),),
    "ramp": (("width",),),
    "head.weight": ((3,), (Sum((("width",), (2, "hidden"))),)),
    **{
        f"lstm.{kind}_l{layer}{way}": axes
        for layer, inputs in enumerate((("width",), (2, "hidden")))
        for way in ("", "_reverse")
        for kind, axes in {
            "weight_ih": (_GATES, inputs),
            "weight_hh": (_GATES, ("hidden",)),
            "bias_ih": (_GATES,),
            "bias_hh": (_GATES,),
        }.items()
    },
}

torch.manual_seed(0)
TEMPLATE = Tangle()
with torch.no_grad():
    for _each in (*TEMPLATE.parameters(), TEMPLATE.norm.running_mean, TEMPLATE.norm.running_var):
        _each.add_(torch.rand(_each.shape))


def cut(tensor: Tensor, axes: tuple[Axis, ...], sizes: dict[str, int]) -> Tensor:
    for dim, axis in enumerate(axes):
        tensor = tensor.index_select(dim, parts.indices(axis, WHOLE, sizes))
    return tensor


def resized(axes: dict[str, tuple[Axis, ...]], sizes: dict[str, int]) -> Tangle:
    module = copy.deepcopy(TEMPLATE)
    for name, each in AXES.items():
        owner, _, leaf = name.rpartition(".")
        layer = module.get_submodule(owner)
        part = cut(getattr(layer, leaf).detach(), each, sizes)
        setattr(layer, leaf, part if leaf in layer._buffers else nn.Parameter(part))
    module.tied.weight = module.head.weight
    module.groups, module.per = sizes["groups"], sizes["per"]
    module.lstm.input_size, module.lstm.hidden_size = sizes["width"], sizes["hidden"]
    module.lstm._init_flat_weights()
    parts.mark(module, sizes, axes)
    return module


@nas.model
def tangle(width, groups, per, left, right, hidden):
    sizes = {"width": width, "groups": groups, "per": per, "left": left, "right": right, "hidden": hidden, "kept": 5}
    return resized(AXES, sizes)


CHOICES = {"width": [4, 7, 10], "groups": [1, 3], "per": [1, 2], "left": [3, 12], "right": [2, 9], "hidden": [2, 5, 7]}


def tangle_space() -> nas.Space:
    return nas.Space(tangle(**{name: pg.oneof(choices) for name, choices in CHOICES.items()}), name="tangle")


@nas.model
def held_tangle(width):
    """One that says itself which buffers are data; `ramp` is in no state dict."""
    module = resized(AXES, {**WHOLE, "width": width})
    vars(module)[parts.HELD] = frozenset({"table", "ramp", "norm.running_mean", "norm.running_var"})
    return module


@nas.model
def flat_tangle(left):
    """What reads the branches takes the first of both as if they were one axis."""
    sizes = {**WHOLE, "left": left, "both": left + WHOLE["right"]}
    return resized({**AXES, "mix.weight": (("width",), (2, "both"))}, sizes)


class Twice(nn.Module):
    """Two elastic models inside an ordinary one."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.last = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) + self.second(x))


@nas.model
def twice(first, second):
    return Twice(first(), second())


def twice_space() -> nas.Space:
    def one(**sizes):
        return tangle(**{"width": 10, "groups": 3, "per": 2, "left": 12, "right": 9, "hidden": 7, **sizes})

    return nas.Space(
        twice(one(left=pg.oneof([3, 12])), one(left=pg.oneof([5, 12]), hidden=pg.oneof([2, 7]))), name="twice"
    )
