"""Small modules as people write them, with the plan that is right for each: what a conversion should find."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.convert.plan import AtomPlan, Decision, Number, Plan
from nas.supernet.parts import Axis, Sum


def elastic(plan: Plan, choices: Mapping[str, tuple[int, ...]], together: Mapping[str, str] | None = None) -> Plan:
    """`plan` with a decision for each of these atoms; others may be decided `together` with one of them."""
    decisions = tuple(Decision(name, "width", plan.atoms[name].size, sizes) for name, sizes in choices.items())
    decided = {**dict.fromkeys(choices), **(together or {})}
    atoms = {
        name: AtomPlan(atom.size, (decided[name] or name) if name in decided else None)
        for name, atom in plan.atoms.items()
    }
    return replace(plan, decisions=decisions, atoms=atoms)


def plan_of(sizes: Mapping[str, int], tensors: Mapping[str, tuple[Axis, ...]]) -> Plan:
    """A plan whose atoms have these sizes."""
    return Plan(atoms={name: AtomPlan(size) for name, size in sizes.items()}, tensors=tensors)


class Conv(nn.Module):
    """Convolutions with BatchNorm and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.inner, self.back = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        found = functional.relu(self.norm(self.stem(images)))
        found = found + self.back(functional.relu(self.inner(found)))
        return self.head(found.mean((2, 3)))


def conv() -> tuple[nn.Module, Plan, Any]:
    c, h, k = ("c",), ("h",), ((3,), (3,))
    tensors: dict[str, tuple[Axis, ...]] = {
        "stem.weight": (c, (3,), *k),
        **{f"norm.{name}": (c,) for name in ("weight", "bias", "running_mean", "running_var")},
        "inner.weight": (h, c, (), ()),
        "inner.bias": (h,),
        "back.weight": (c, h, *k),
        "back.bias": (c,),
        "head.weight": ((5,), c),
    }
    return Conv(), plan_of({"c": 8, "h": 6}, tensors), torch.zeros(2, 3, 6, 6)


class Attention(nn.Module):
    """A block with heads in one packed projection, LayerNorm, a scale near zero, and a parameter that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(17, 12), nn.LayerNorm(12)
        self.qkv, self.out, self.head = nn.Linear(12, 36), nn.Linear(12, 12), nn.Linear(12, 4)
        self.scale, self.unused = nn.Parameter(torch.full((12,), 1e-6)), nn.Parameter(torch.zeros(7))

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        found = self.embed(tokens)
        batch, length, width = found.shape
        q, k, v = self.qkv(self.norm(found)).view(batch, length, 3, 3, 4).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
        return {"logits": self.head(found + self.scale * self.out(mixed))}


def attention() -> tuple[nn.Module, Plan, Any]:
    width, inner = ("width",), ("heads", "hd")
    tensors: dict[str, tuple[Axis, ...]] = {
        "embed.weight": ((17,), width),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "qkv.weight": ((3, *inner), width),
        "qkv.bias": ((3, *inner),),
        "out.weight": (width, inner),
        "out.bias": (width,),
        "scale": (width,),
        "head.weight": ((4,), width),
        "unused": (("nothing",),),
    }
    return Attention(), plan_of({"width": 12, "heads": 3, "hd": 4, "nothing": 7}, tensors), torch.zeros(2, 5).long()


class Recurrent(nn.Module):
    """An LSTM in both directions, after a gated unit whose halves come from one projection."""

    def __init__(self) -> None:
        super().__init__()
        self.gated, self.lstm, self.head = nn.Linear(4, 12), nn.LSTM(6, 5, bidirectional=True), nn.Linear(10, 3)

    def forward(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        found, (hidden, _) = self.lstm(functional.glu(self.gated(inputs)))
        return self.head(found), {"sum": hidden.sum()}


def recurrent() -> tuple[nn.Module, Plan, Any]:
    tensors: dict[str, tuple[Axis, ...]] = {"gated.weight": ((2, "g"), (4,)), "gated.bias": ((2, "g"),)}
    for end in ("", "_reverse"):
        atom = f"h{end}"
        tensors |= {
            f"lstm.weight_ih_l0{end}": ((4, atom), ("g",)),
            f"lstm.weight_hh_l0{end}": ((4, atom), (atom,)),
            f"lstm.bias_ih_l0{end}": ((4, atom),),
            f"lstm.bias_hh_l0{end}": ((4, atom),),
        }
    tensors["head.weight"] = ((3,), (Sum((("h",), ("h_reverse",))),))
    return Recurrent(), plan_of({"g": 6, "h": 5, "h_reverse": 5}, tensors), torch.randn(7, 2, 4)


class Branches(nn.Module):
    """Two branches of unequal width, concatenated, one of them also skipped to the end; tied output weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.left, self.right, self.join = nn.Linear(6, 4), nn.Linear(6, 10), nn.Linear(14, 6)
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        found = self.embed(tokens)
        both = torch.cat([self.left(found).tanh(), self.right(found).sigmoid()], -1)
        return self.out(found + self.join(both))


def branches() -> tuple[nn.Module, Plan, Any]:
    tensors: dict[str, tuple[Axis, ...]] = {
        "out.weight": ((11,), ("e",)),  # the other name of the tied weight
        "left.weight": (("a",), ("e",)),
        "left.bias": (("a",),),
        "right.weight": (("b",), ("e",)),
        "right.bias": (("b",),),
        "join.weight": (("e",), (Sum((("a",), ("b",))),)),
        "join.bias": (("e",),),
    }
    return Branches(), plan_of({"e": 6, "a": 4, "b": 10}, tensors), {"tokens": torch.arange(6).view(2, 3)}


class Norms(nn.Module):
    """Normalisations: of groups, of layers and written out, with a standardised convolution and a literal width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.groups = nn.Conv2d(2, 12, 1), nn.GroupNorm(4, 12)
        self.conv = nn.Conv2d(12, 10, 3, bias=False)
        self.norm, self.scale = nn.LayerNorm(10), nn.Parameter(torch.ones(10))
        self.shift, self.head = nn.Parameter(torch.zeros(10)), nn.Linear(10, 3)

    def forward(self, images: Tensor) -> Tensor:
        weight = self.conv.weight
        weight = functional.batch_norm(weight.reshape(1, 10, -1), None, None, training=True).view_as(weight)
        found = functional.conv2d(self.groups(self.stem(images)), weight).flatten(2).mT
        found = self.norm(found)
        found = self.scale * found * torch.rsqrt(found.pow(2).mean(-1, keepdim=True) + 1e-6)
        centred = found - found.mean(-1, keepdim=True)
        return self.head(self.shift + centred / (centred.var(-1, keepdim=True) + 1e-5).sqrt())


def norms() -> tuple[nn.Module, Plan, Any]:
    channels, out = ("g", 3), ("o",)
    tensors: dict[str, tuple[Axis, ...]] = {
        "stem.weight": (channels, (2,), (), ()),
        **dict.fromkeys(("stem.bias", "groups.weight", "groups.bias"), (channels,)),
        "conv.weight": (out, channels, (3,), (3,)),
        **dict.fromkeys(("norm.weight", "norm.bias", "scale", "shift"), (out,)),
        "head.weight": ((3,), out),
    }
    plan = replace(plan_of({"g": 4, "o": 10}, tensors), numbers=(Number("groups", ("num_groups",), ("g",)),))
    return Norms(), plan, torch.randn(2, 2, 5, 5)


NETS: dict[str, Callable[[], tuple[nn.Module, Plan, Any]]] = {
    "conv": conv,
    "attention": attention,
    "recurrent": recurrent,
    "branches": branches,
    "norms": norms,
}
