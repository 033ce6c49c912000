"""A sorted decoder language model: nested in width and depth, with one norm and one head for all exits.

Valipour et al. 2023, "SortedNet": smaller models are prefixes of larger ones.  Kavehzadeh et al. 2024, "Sorted LLaMA" (SoFT): the
first n layers are a model by themselves, whose features go through the full model's own last norm and head.  So an exit is an
arch of another `depth` and nothing else, and `nas.train` trains all exits of a step on one forward of the trunk.

Blocks as in LLaMA (Touvron et al. 2023): RMSNorm before each part, rotary positions, grouped-query attention (Ainslie et al.
2023), gated perceptron; the head is the embedding's own matrix.  Query heads are ordered by the key-value head that they
share, so the leading corner keeps whole groups, and no layout needs to be declared.

`nas.decode` generates: an early exit drafts, the full depth verifies.  `pretrained` begins with the weights of a Llama.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pyglove as pg
import torch
from torch import Tensor, nn
from torch.nn import functional

import nas
from nas.decode import Cache
from nas.errors import SpaceError


class Attention(nn.Module):
    """Causal attention in which `group` query heads share the keys and values of one head."""

    def __init__(self, width: int, kv: int, group: int, head: int) -> None:
        super().__init__()
        self.group, self.size = group, head
        self.q = nn.Linear(width, kv * group * head, bias=False)
        self.k = nn.Linear(width, kv * head, bias=False)
        self.v = nn.Linear(width, kv * head, bias=False)
        self.out = nn.Linear(kv * group * head, width, bias=False)

    def forward(self, x: Tensor, rotary: Tensor, layer: int, cache: Cache | None) -> Tensor:
        """(n, new, width) -> the same; `rotary` is (2, new, head / 2): cosines and sines of the new positions."""
        q, k, v = (part(x).unflatten(2, (-1, self.size)).transpose(1, 2) for part in (self.q, self.k, self.v))
        q, k = rotate(q, rotary), rotate(k, rotary)  # (n, heads, new, head)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        new, seen = q.shape[2], k.shape[2]
        mask = None
        if 1 < new < seen:  # each new position sees what was before and itself
            mask = torch.ones(new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
        k, v = (part.repeat_interleave(self.group, 1) for part in (k, v))
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=new == seen and new > 1)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021): feature i and i + head / 2 are a pair that turns with the position."""
    cosine, sine = rotary
    left, right = x.chunk(2, -1)
    return torch.cat([left * cosine - right * sine, right * cosine + left * sine], -1)


class Block(nn.Module):
    """Attention, then a gated perceptron (SwiGLU: Shazeer 2020), each with its norm and residual."""

    def __init__(self, width: int, kv: int, group: int, head: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(width, eps=1e-6)
        self.attention = Attention(width, kv, group, head)
        self.norm2 = nn.RMSNorm(width, eps=1e-6)
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, rotary: Tensor, layer: int, cache: Cache | None) -> Tensor:
        """(n, new, width) -> the same."""
        x = x + self.attention(self.norm1(x), rotary, layer, cache)
        y = self.norm2(x)
        out: Tensor = x + self.down(functional.silu(self.gate(y)) * self.up(y))
        return out


class SortedLM(nn.Module):
    """The language model; its `trunk` serves every shallower depth (`nas.train.trunk.Nested`)."""

    granularities: tuple[str, ...] = ("depth",)

    def __init__(
        self, *, width: int, depth: int, kv: int, group: int, head: int, hidden: int, vocabulary: int, context: int
    ) -> None:
        super().__init__()
        self.extent, self.context = depth, context
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, kv, group, head, hidden) for _ in range(depth))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        frequencies = 10_000.0 ** (-torch.arange(0, head, 2) / head)
        angles = torch.arange(context)[:, None] * frequencies  # (context, head / 2)
        self.register_buffer("rotary", torch.stack([angles.cos(), angles.sin()]), persistent=False)
        # It is the head too: with the usual deviation of 1 the first logits would be as large as √width.
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, length) -> logits (n, length, vocabulary)."""
        return self.read(self.trunk(tokens))

    def trunk(self, tokens: Tensor) -> list[Tensor]:
        """What each block leaves: depth × (n, length, width)."""
        x, features = self.embed(tokens), []
        for layer in range(self.extent):
            x = self.run(x, layer, layer + 1)
            features.append(x)
        return features

    def read(self, features: Sequence[Tensor]) -> Tensor:
        """Logits of this depth, from features of a trunk that goes as deep or deeper."""
        return self.head(features[self.extent - 1])

    def embed(self, tokens: Tensor) -> Tensor:
        """(n, length) -> (n, length, width)."""
        x: Tensor = self.embedding(tokens)
        return x

    def run(self, x: Tensor, start: int, stop: int, cache: Cache | None = None) -> Tensor:
        """Blocks start … stop − 1, on positions that come after those in the cache."""
        past = cache.lengths[start] if cache is not None else 0
        rotary: Any = self.rotary
        rotary = rotary[:, past : past + x.shape[1]].to(x.dtype)
        for layer in range(start, stop):
            x = self.blocks[layer](x, rotary, layer, cache)
        return x

    def head(self, x: Tensor) -> Tensor:
        """The norm and the matrix that all exits share: (n, length, width) -> logits."""
        return functional.linear(self.norm(x), self.embedding.weight)


@nas.model
def sorted_lm(
    *,
    width: int,
    depth: int,
    kv: int,
    ratio: float,
    group: int = 2,
    head: int = 16,
    vocabulary: int = 769,
    context: int = 128,
) -> nn.Module:
    """A sorted language model.

    Args:
        width: of the embedding.
        depth: number of blocks; an exit of a deeper model is one of fewer.
        kv: heads of keys and values.
        ratio: hidden features of the perceptrons, as a multiple of the width.
        group: query heads for each of them.
        head: features of one head, even.
        vocabulary: number of tokens.
        context: longest text.
    """
    return SortedLM(
        width=width,
        depth=depth,
        kv=kv,
        group=group,
        head=head,
        hidden=int(ratio * width),
        vocabulary=vocabulary,
        context=context,
    )


def space(
    *,
    widths: Sequence[int] = (64, 96),
    depths: Sequence[int] = (1, 2, 3, 4, 5, 6),
    kvs: Sequence[int] = (3,),
    ratios: Sequence[float] = (8 / 3,),
    group: int = 2,
    head: int = 16,
    vocabulary: int = 769,
    context: int = 128,
) -> nas.Space:
    """The space: the nested sub-models.  A setting with one choice is fixed.

    Args:
        widths: choices of the embedding's width.
        depths: exits.
        kvs: choices of the number of key-value heads, the same in all blocks.
        ratios: choices of the perceptrons' ratio, the same in all blocks.
        group: query heads for each key-value head.
        head: features of one head.
        vocabulary: number of tokens; `nas.train.python_corpus` has 256 bytes, its merges, and one for the end of a file.
        context: longest text.
    """
    value = sorted_lm(
        width=_open(widths),
        depth=_open(depths),
        kv=_open(kvs),
        ratio=_open(ratios),
        group=group,
        head=head,
        vocabulary=vocabulary,
        context=context,
    )
    return nas.Space(value, name="sorted-lm")


def _open(choices: Sequence[Any]) -> Any:
    return pg.oneof(list(choices)) if len(choices) > 1 else choices[0]


def supernet(space_: nas.Space | None = None, *, seed: int = 0) -> nas.Supernet:
    """A fresh supernet of `space_`.

    Args:
        space_: a space of `sorted_lm`.
        seed: of the initial weights.
    """
    space_ = space_ or space()
    return nas.Supernet(space_, example=torch.zeros(1, space_.value.context, dtype=torch.int64), seed=seed)


def pretrained(model: nn.Module, depths: Sequence[int] | None = None) -> nas.Supernet:
    """A supernet whose largest arch is a trained Llama, for sorted fine-tuning: its exits are those of the trained layers.

    Args:
        model: `LlamaForCausalLM` of transformers, its head tied to the embedding.
        depths: exits, the model's own depth among them; None is every layer.

    Raises:
        SpaceError: the model does not compute what `SortedLM` does with the same weights.
        SupernetError: its weights do not fit.
    """
    config: Any = model.config
    layers, width, heads = config.num_hidden_layers, config.hidden_size, config.num_attention_heads
    space_ = space(
        widths=(width,),
        depths=range(1, layers + 1) if depths is None else depths,
        kvs=(config.num_key_value_heads,),
        ratios=(config.intermediate_size / width,),
        group=heads // config.num_key_value_heads,
        head=width // heads,
        vocabulary=config.vocab_size,
        context=config.max_position_embeddings,
    )
    weights = {_ours(name): value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    tokens = torch.arange(min(16, space_.value.context))[None] % config.vocab_size
    net = nas.Supernet(space_, example=tokens, weights=weights)
    _check_same(model, net.extract(net.space.largest), tokens)
    return net


_NAMES = {
    "model.embed_tokens": "embedding",
    "model.layers": "blocks",
    "model.norm": "norm",
    "self_attn": "attention",
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "o_proj": "out",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
    "input_layernorm": "norm1",
    "post_attention_layernorm": "norm2",
}
"""Parts of the names of Llama's parameters, and those of ours."""


def _ours(name: str) -> str:
    return re.sub("|".join(map(re.escape, _NAMES)), lambda found: _NAMES[found[0]], name)


@torch.no_grad()
def _check_same(model: nn.Module, ours: nn.Module, tokens: Tensor) -> None:
    was_training = model.training
    theirs = model.eval()(tokens).logits
    model.train(was_training)
    difference, largest = float((theirs - ours.eval()(tokens)).abs().max()), float(theirs.abs().max())
    if not difference <= 1e-4 * largest:
        raise SpaceError(
            f"the model's logits differ by {difference:.2g} (of {largest:.2g}) from those of SortedLM with its weights; it needs "
            "a head tied to the embedding, rotary positions of base 10,000, gated perceptrons with SiLU and norms with eps=1e-6"
        )
