"""Small modules as people write them, with the plan that is right for each: what a conversion should find."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.convert.plan import AtomPlan, Plan
from nas.supernet.parts import Axis, Sum


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
        return self.head(found), {"mean": hidden.mean()}


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


NETS: dict[str, Callable[[], tuple[nn.Module, Plan, Any]]] = {
    "conv": conv,
    "attention": attention,
    "recurrent": recurrent,
    "branches": branches,
}
