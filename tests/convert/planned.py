"""Models with plans that were written by hand, for tests of what comes after the analysis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.convert.plan import AtomPlan, Decision, Number, Plan, Unit
from nas.supernet.parts import Axis, Sum


class Mlp(nn.Module):
    """Two branches of unequal width, concatenated."""

    def __init__(self, first: int = 6, second: int = 4) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, first), nn.Linear(3, second)
        self.widths = (first, second)
        self.head = nn.Linear(first + second, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.cat([self.first(x), self.second(x)], 1).relu()
        return self.head(torch.cat(hidden.split(self.widths, 1), 1))  # type: ignore[no-any-return]


def mlp_plan() -> Plan:
    joined: Axis = (Sum((("a",), ("b",))),)
    return Plan(
        decisions=(Decision("first.width", "width", 6, (2, 4, 6)), Decision("second.width", "width", 4, (1, 4))),
        atoms={"a": AtomPlan(6, "first.width"), "b": AtomPlan(4, "second.width")},
        tensors={
            "first.weight": (("a",), (3,)),
            "first.bias": (("a",),),
            "second.weight": (("b",), (3,)),
            "second.bias": (("b",),),
            "head.weight": ((2,), joined),
        },
        numbers=(Number("", ("widths", 0), ("a",)), Number("", ("widths", 1), ("b",))),
    )


class Residual(nn.Module):
    """A bottleneck with a depthwise convolution."""

    def __init__(self, channels: int = 4, hidden: int = 8) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, hidden, 1, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.project = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.depthwise(self.norm(self.expand(x)).relu()))  # type: ignore[no-any-return]


class Cnn(nn.Module):
    """A stem, residual blocks, a classifier."""

    def __init__(self, channels: int = 4, hidden: tuple[int, ...] = (8, 8)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.blocks = nn.ModuleList(Residual(channels, each) for each in hidden)
        self.head = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def cnn_plan() -> Plan:
    batch_norm = ("weight", "bias", "running_mean", "running_var")
    tensors: dict[str, tuple[Axis, ...]] = {
        "stem.weight": (("c",), (1,), (3,), (3,)),
        "stem.bias": (("c",),),
        "head.weight": ((3,), ("c",)),
        **{f"norm.{name}": (("c",),) for name in batch_norm},
    }
    numbers = []
    for block in range(2):
        path, atom = f"blocks.{block}", f"h{block}"
        tensors |= {
            f"{path}.expand.weight": ((atom,), ("c",), (1,), (1,)),
            f"{path}.depthwise.weight": ((atom,), (1,), (3,), (3,)),
            f"{path}.depthwise.bias": ((atom,),),
            f"{path}.project.weight": (("c",), (atom,), (1,), (1,)),
            f"{path}.project.bias": (("c",),),
            **{f"{path}.norm.{name}": ((atom,),) for name in batch_norm},
        }
        numbers.append(Number(f"{path}.depthwise", ("groups",), (atom,)))
    return Plan(
        decisions=(
            Decision("width", "width", 4, (2, 4)),
            *(Decision(f"blocks.{block}.hidden", "hidden", 8, (4, 8)) for block in range(2)),
        ),
        atoms={
            "c": AtomPlan(4, "width"),
            **{f"h{block}": AtomPlan(8, f"blocks.{block}.hidden") for block in range(2)},
        },
        tensors=tensors,
        numbers=tuple(numbers),
        units=(Unit("blocks.0"), Unit("blocks.1")),
    )


class Shared:
    """A configuration that several modules hold."""

    def __init__(self, heads: int) -> None:
        self.heads = heads


class Attention(nn.Module):
    """Packed queries, keys and values; the width of a head follows from the number of heads of the configuration."""

    def __init__(self, dim: int, config: Shared) -> None:
        super().__init__()
        self.config = config
        self.inner = dim
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        heads = self.config.heads
        q, k, v = self.qkv(x).reshape(batch, length, 3, heads, self.inner // heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, self.inner))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and a perceptron; gives a tuple, as blocks of Hugging Face do."""

    def __init__(self, dim: int, config: Shared) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(dim), Attention(dim, config)
        self.up, self.down = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        x = x + self.attention(self.norm(x))
        return x + self.down(self.up(x).relu()), None


class Transformer(nn.Module):
    """Blocks with one configuration, and tied embeddings."""

    def __init__(self, dim: int = 8, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.config = Shared(heads)
        self.embed = nn.Embedding(7, dim)
        self.register_buffer("scale", torch.linspace(1, 2, dim))
        self.blocks = nn.ModuleList(Block(dim, self.config) for _ in range(depth))
        self.head = nn.Linear(dim, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) * self.scale
        for block in self.blocks:
            x = block(x)[0]
        return self.head(x)  # type: ignore[no-any-return]


def transformer_plan(dim: int = 8, heads: int = 4, depth: int = 2) -> Plan:
    """Heads and neurons of each block: the stream stays whole."""
    tensors: dict[str, tuple[Axis, ...]] = {}
    atoms: dict[str, AtomPlan] = {}
    decisions: list[Decision] = []
    numbers: list[Number] = []
    for block in range(depth):
        path, h, n = f"blocks.{block}", f"h{block}", f"n{block}"
        inner: Axis = (h, dim // heads)
        tensors |= {
            f"{path}.attention.qkv.weight": ((3, *inner), (dim,)),
            f"{path}.attention.qkv.bias": ((3, *inner),),
            f"{path}.attention.out.weight": ((dim,), inner),
            f"{path}.up.weight": ((n,), (dim,)),
            f"{path}.up.bias": ((n,),),
            f"{path}.down.weight": ((dim,), (n,)),
        }
        decisions += [
            Decision(f"{path}.attention.heads", "heads", heads, tuple(range(1, heads + 1))),
            Decision(f"{path}.hidden", "hidden", 2 * dim, (dim, 2 * dim)),
        ]
        atoms |= {h: AtomPlan(heads, decisions[-2].name), n: AtomPlan(2 * dim, decisions[-1].name)}
        numbers += [
            Number(f"{path}.attention", ("config", "heads"), (h,)),
            Number(f"{path}.attention", ("inner",), inner),
        ]
    units = tuple(Unit(f"blocks.{block}", 1) for block in range(depth))
    return Plan(tuple(decisions), atoms, tensors, tuple(numbers), units)


def bert(layers: int = 2) -> Any:
    """A tiny BERT with a head, as transformers builds it."""
    import transformers

    config = transformers.BertConfig(
        vocab_size=16, hidden_size=8, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=16,
        max_position_embeddings=16,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def bert_plan(layers: int = 2) -> Plan:
    """Heads and neurons of each layer, and layers that can be left out."""
    tensors: dict[str, tuple[Axis, ...]] = {}
    atoms: dict[str, AtomPlan] = {}
    decisions: list[Decision] = []
    numbers: list[Number] = []
    units: list[Unit] = []
    for layer in range(layers):
        path, h, n = f"bert.encoder.layer.{layer}", f"h{layer}", f"n{layer}"
        for name in ("query", "key", "value"):
            tensors[f"{path}.attention.self.{name}.weight"] = ((h, 2), (8,))
            tensors[f"{path}.attention.self.{name}.bias"] = ((h, 2),)
        tensors |= {
            f"{path}.attention.output.dense.weight": ((8,), (h, 2)),
            f"{path}.intermediate.dense.weight": ((n,), (8,)),
            f"{path}.intermediate.dense.bias": ((n,),),
            f"{path}.output.dense.weight": ((8,), (n,)),
        }
        decisions += [
            Decision(f"{path}.attention.heads", "heads", 4, (1, 2, 4)),
            Decision(f"{path}.hidden", "hidden", 16, (8, 16)),
        ]
        atoms |= {h: AtomPlan(4, decisions[-2].name), n: AtomPlan(16, decisions[-1].name)}
        numbers += [
            Number(f"{path}.attention.self", ("num_attention_heads",), (h,)),
            Number(f"{path}.attention.self", ("all_head_size",), (h, 2)),
        ]
        units.append(Unit(path))
    return Plan(tuple(decisions), atoms, tensors, tuple(numbers), tuple(units))


def filled(model: nn.Module, seed: int = 0) -> nn.Module:
    """`model` in eval mode with every tensor of numbers its own, norms and statistics too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(drawn.abs() + 0.5 if "var" in name else drawn)
    return model.eval()


def zeroed(model: nn.Module, plan: Plan, sizes: Mapping[str, int]) -> nn.Module:
    """A copy of `model` with what an arch does not have at zero; not for atoms that a norm over channels reads."""
    import copy

    from nas.supernet import parts

    masked = copy.deepcopy(model)
    tensors = dict(masked.named_parameters()) | dict(masked.named_buffers())
    with torch.no_grad():
        for name, axes in plan.tensors.items():
            for dimension, axis in enumerate(axes):
                mask = torch.zeros(tensors[name].shape[dimension])
                mask[parts.indices(axis, plan.whole, sizes)] = 1
                shape = [-1 if each == dimension else 1 for each in range(tensors[name].dim())]
                tensors[name].mul_(mask.reshape(shape))
    return masked


class Digits(nn.Module):
    """A perceptron for the handwritten digits of scikit-learn, with a block that can be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, 8), nn.Linear(8, 10)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x.flatten(1)).relu()))  # type: ignore[no-any-return]


def digits_plan() -> Plan:
    return Plan(
        (Decision("width", "width", 8, (4, 8)),),
        {"c": AtomPlan(8, "width")},
        {
            "stem.weight": (("c",), (64,)),
            "stem.bias": (("c",),),
            "block.0.weight": (("c",), ("c",)),
            "block.0.bias": (("c",),),
            "head.weight": ((10,), ("c",)),
        },
        (),
        (Unit("block"),),
    )
