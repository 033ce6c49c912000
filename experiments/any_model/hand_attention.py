"""Attention in the many ways in which people write it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops_free import heads_first
from registry import on, tokens
from torch import Tensor, nn

WIDTH, HEADS, DIM = 32, 4, 8


class Block(nn.Module):
    """Pre-norm, around an attention and an MLP."""

    def __init__(self, attention: nn.Module, width: int = WIDTH, mlp: nn.Module | None = None) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), attention, nn.LayerNorm(width)
        self.mlp = mlp or nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Words(nn.Module):
    """Embeddings, blocks, a class for each word."""

    def __init__(self, *blocks: nn.Module, width: int = WIDTH, position: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, width)
        self.position = nn.Parameter(torch.randn(1, 16, width) * 0.02) if position else None
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 7)

    def forward(self, text: Tensor) -> Tensor:
        x = self.embedding(text)
        if self.position is not None:
            x = x + self.position[:, : x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def softmaxed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), dim=-1) @ v


def attention(name: str) -> object:
    """Register an attention in two blocks over words."""

    def register(kind: type[nn.Module]) -> type[nn.Module]:
        on(tokens, name=name)(lambda: Words(Block(kind()), Block(kind())))
        return kind

    return register


class Separate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))


@attention("attention_view")
class View(Separate):
    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = (each(x).view(b, n, HEADS, c // HEADS).transpose(1, 2) for each in (self.q, self.k, self.v))
        return self.o(softmaxed(q, k, v).transpose(1, 2).reshape(b, n, c))


@attention("attention_einsum")
class Einsum(Separate):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (each(x).unflatten(-1, (HEADS, DIM)) for each in (self.q, self.k, self.v))
        weights = torch.einsum("bihd,bjhd->bhij", q, k).mul(DIM**-0.5).softmax(-1)
        return self.o(torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2))


@attention("attention_einsum_weights")
class EinsumWeights(nn.Module):
    """Weights by head: width, heads, dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.wq, self.wk, self.wv = (nn.Parameter(torch.randn(WIDTH, HEADS, DIM) * 0.1) for _ in range(3))
        self.wo = nn.Parameter(torch.randn(HEADS, DIM, WIDTH) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("btd,dhk->bhtk", x, w) for w in (self.wq, self.wk, self.wv))
        return torch.einsum("bhtk,hkd->btd", softmaxed(q, k, v), self.wo)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads, self.qkv, self.o = HEADS, nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)


@attention("packed_chunk")
class PackedChunk(Packed):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads_first(each, self.heads) for each in self.qkv(x).chunk(3, dim=-1))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@attention("packed_split")
class PackedSplit(Packed):
    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.size()
        q, k, v = self.qkv(x).split(c, dim=2)
        q, k, v = (each.view(b, n, self.heads, c // self.heads).transpose(1, 2) for each in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).contiguous().view(b, n, c))


@attention("packed_reshape")
class PackedReshape(Packed):
    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        return self.o(softmaxed(q, k, v).transpose(1, 2).reshape(b, n, c))


@attention("packed_unbind_heads_first")
class PackedUnbind(Packed):
    """Heads outermost: each head's q, k and v side by side (GPT-NeoX)."""

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, self.heads, 3, -1).unbind(3)
        return self.o(softmaxed(*(each.transpose(1, 2) for each in (q, k, v))).transpose(1, 2).flatten(2))


@attention("packed_slices")
class PackedSlices(Packed):
    """By literal indices."""

    def forward(self, x: Tensor) -> Tensor:
        each = self.qkv(x)
        q, k, v = each[..., :32], each[..., 32:64], each[..., 64:]
        return self.o(softmaxed(heads_first(q, 4), heads_first(k, 4), heads_first(v, 4)).transpose(1, 2).flatten(2))


@attention("packed_functional")
class PackedFunctional(nn.Module):
    """One parameter, three slices of its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(96, WIDTH) * 0.1), nn.Parameter(torch.zeros(96))
        self.o = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q = F.linear(x, self.w[:32], self.b[:32])
        k = F.linear(x, self.w[32:64], self.b[32:64])
        v = F.linear(x, self.w[64:], self.b[64:])
        return self.o(softmaxed(*(heads_first(each, HEADS) for each in (q, k, v))).transpose(1, 2).flatten(2))


class Grouped(nn.Module):
    """Four query heads, two of keys and values."""

    def __init__(self, keys: int = 2) -> None:
        super().__init__()
        self.keys = keys
        self.q, self.k, self.v = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, keys * DIM), nn.Linear(WIDTH, keys * DIM)
        self.o = nn.Linear(WIDTH, WIDTH)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, -1, DIM).transpose(1, 2)
        k, v = (each(x).view(b, n, self.keys, DIM).transpose(1, 2) for each in (self.k, self.v))
        return q, k, v

    def joined(self, y: Tensor) -> Tensor:
        return self.o(y.transpose(1, 2).reshape(y.shape[0], y.shape[2], -1))


@attention("grouped_repeat")
class GroupedRepeat(Grouped):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x)
        return self.joined(softmaxed(q, k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)))


@attention("grouped_expand")
class GroupedExpand(Grouped):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x)
        b, h, n, d = k.shape
        k, v = (each[:, :, None].expand(b, h, 2, n, d).reshape(b, h * 2, n, d) for each in (k, v))
        return self.joined(softmaxed(q, k, v))


@attention("grouped_broadcast")
class GroupedBroadcast(Grouped):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x)
        y = softmaxed(q.unflatten(1, (self.keys, -1)), k[:, :, None], v[:, :, None])
        return self.joined(y.flatten(1, 2))


@attention("grouped_sdpa")
class GroupedSdpa(Grouped):
    def forward(self, x: Tensor) -> Tensor:
        return self.joined(F.scaled_dot_product_attention(*self.project(x), enable_gqa=True))


@attention("multi_query")
class MultiQuery(Grouped):
    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x)
        return self.joined(softmaxed(q, k, v))


def angles(length: int, dim: int) -> Tensor:
    return torch.arange(length)[:, None] / 10000 ** (torch.arange(0, dim, 2) / dim)


@attention("rotary_halves")
class RotaryHalves(Grouped):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x)
        angle = torch.cat([angles(x.shape[1], DIM)] * 2, -1)

        def turn(each: Tensor) -> Tensor:
            a, b = each.chunk(2, dim=-1)
            return each * angle.cos() + torch.cat([-b, a], -1) * angle.sin()

        return self.joined(F.scaled_dot_product_attention(turn(q), turn(k), v, enable_gqa=True))


@attention("rotary_interleaved")
class RotaryInterleaved(Grouped):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x)
        angle = angles(x.shape[1], DIM)

        def turn(each: Tensor) -> Tensor:
            a, b = each[..., ::2], each[..., 1::2]
            return torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1).flatten(-2)

        return self.joined(F.scaled_dot_product_attention(turn(q), turn(k), v, enable_gqa=True))


@attention("rotary_complex")
class RotaryComplex(Grouped):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x)
        turn = torch.polar(torch.ones(x.shape[1], DIM // 2), angles(x.shape[1], DIM))
        q, k = (
            torch.view_as_real(torch.view_as_complex(e.float().reshape(*e.shape[:-1], -1, 2)) * turn)
            .flatten(3)
            .to(e.dtype)
            for e in (q, k)
        )
        return self.joined(F.scaled_dot_product_attention(q, k, v, enable_gqa=True))


@attention("rotary_partial")
class RotaryPartial(Grouped):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x)
        angle = torch.cat([angles(x.shape[1], 4)] * 2, -1)

        def turn(each: Tensor) -> Tensor:
            turned, rest = each[..., :4], each[..., 4:]
            a, b = turned.chunk(2, dim=-1)
            return torch.cat([turned * angle.cos() + torch.cat([-b, a], -1) * angle.sin(), rest], -1)

        return self.joined(F.scaled_dot_product_attention(turn(q), turn(k), v, enable_gqa=True))


@attention("alibi")
class Alibi(Separate):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("slopes", 2.0 ** -torch.arange(1, HEADS + 1).float())

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads_first(each(x), HEADS) for each in (self.q, self.k, self.v))
        place = torch.arange(x.shape[1])
        bias = self.slopes[:, None, None] * (place[None] - place[:, None]).abs().neg()
        return self.o(((q @ k.transpose(-1, -2) * DIM**-0.5 + bias).softmax(-1) @ v).transpose(1, 2).flatten(2))


@attention("relative_table")
class RelativeTable(Separate):
    """A bias by distance and head, looked up in a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(2 * 16 - 1, HEADS) * 0.1)
        place = torch.arange(16)
        self.register_buffer("index", place[None] - place[:, None] + 15)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        q, k, v = (heads_first(each(x), HEADS) for each in (self.q, self.k, self.v))
        bias = self.table[self.index[:n, :n].reshape(-1)].view(n, n, -1).permute(2, 0, 1)
        return self.o(((q @ k.transpose(-1, -2) * DIM**-0.5 + bias).softmax(-1) @ v).transpose(1, 2).flatten(2))


@attention("relative_buckets")
class RelativeBuckets(Separate):
    """The same through an embedding, as T5 has it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, HEADS)

    def forward(self, x: Tensor) -> Tensor:
        place = torch.arange(x.shape[1])
        bias = self.table((place[None] - place[:, None]).clamp(-4, 3) + 4).permute(2, 0, 1)[None]
        q, k, v = (heads_first(each(x), HEADS) for each in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2))


@attention("relative_keys")
class RelativeKeys(Separate):
    """Shaw et al. 2018: an embedding of the distance meets the query."""

    def __init__(self) -> None:
        super().__init__()
        self.distances = nn.Embedding(31, DIM)

    def forward(self, x: Tensor) -> Tensor:
        place = torch.arange(x.shape[1])
        distance = self.distances(place[None] - place[:, None] + 15)
        q, k, v = (heads_first(each(x), HEADS) for each in (self.q, self.k, self.v))
        scores = q @ k.transpose(-1, -2) + torch.einsum("bhid,ijd->bhij", q, distance)
        return self.o(((scores * DIM**-0.5).softmax(-1) @ v).transpose(1, 2).flatten(2))


@attention("relative_shift")
class RelativeShift(Separate):
    """Transformer-XL: two learnt biases, and the shift by padding and a view."""

    def __init__(self) -> None:
        super().__init__()
        self.u, self.w = nn.Parameter(torch.zeros(HEADS, DIM)), nn.Parameter(torch.zeros(HEADS, DIM))
        self.r = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (each(x).view(b, n, HEADS, DIM) for each in (self.q, self.k, self.v))
        angle = angles(n, WIDTH)
        r = self.r(torch.cat([angle.sin(), angle.cos()], -1)).view(n, HEADS, DIM)
        place = torch.einsum("bihd,jhd->bhij", q + self.w, r)
        place = F.pad(place, (1, 0)).view(b, HEADS, n + 1, n)[:, :, 1:].view(b, HEADS, n, n)
        weights = ((torch.einsum("bihd,bjhd->bhij", q + self.u, k) + place) * DIM**-0.5).softmax(-1)
        return self.o(torch.einsum("bhij,bjhd->bihd", weights, v).reshape(b, n, -1))


@attention("linear_attention")
class LinearAttention(Separate):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads_first(each(x), HEADS) for each in (self.q, self.k, self.v))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        y = q @ (k.transpose(-1, -2) @ v) / (q @ k.sum(-2, keepdim=True).transpose(-1, -2) + 1e-6)
        return self.o(y.transpose(1, 2).flatten(2))


@attention("cosine_attention")
class CosineAttention(Packed):
    """Normalised queries and keys with a learnt temperature by head."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(HEADS, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads_first(each, HEADS) for each in self.qkv(x).chunk(3, -1))
        weights = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.temperature.exp()).softmax(
            -1
        )
        return self.o((weights @ v).transpose(1, 2).flatten(2))


@attention("query_norm")
class QueryNorm(Separate):
    """RMSNorm of each head's queries and keys, written out."""

    def __init__(self) -> None:
        super().__init__()
        self.gain_q, self.gain_k = nn.Parameter(torch.ones(DIM)), nn.Parameter(torch.ones(DIM))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads_first(each(x), HEADS) for each in (self.q, self.k, self.v))
        q = q * torch.rsqrt(q.pow(2).mean(-1, keepdim=True) + 1e-6) * self.gain_q
        k = k * torch.rsqrt(k.pow(2).mean(-1, keepdim=True) + 1e-6) * self.gain_k
        return self.o(softmaxed(q, k, v).transpose(1, 2).flatten(2))


@attention("sink_tokens")
class SinkTokens(Separate):
    """Keys and values that are parameters, before those of the text."""

    def __init__(self) -> None:
        super().__init__()
        self.memory_k, self.memory_v = (
            nn.Parameter(torch.randn(1, HEADS, 3, DIM)),
            nn.Parameter(torch.randn(1, HEADS, 3, DIM)),
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads_first(each(x), HEADS) for each in (self.q, self.k, self.v))
        k = torch.cat([self.memory_k.expand(len(x), -1, -1, -1), k], 2)
        v = torch.cat([self.memory_v.expand(len(x), -1, -1, -1), v], 2)
        return self.o(softmaxed(q, k, v).transpose(1, 2).flatten(2))


@attention("latent_attention")
class LatentAttention(nn.Module):
    """Keys and values through a low rank, a rotary part beside (DeepSeek's MLA)."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(WIDTH, HEADS * (DIM + 4))
        self.down, self.norm, self.up = nn.Linear(WIDTH, 16 + 4), nn.LayerNorm(16), nn.Linear(16, HEADS * 2 * DIM)
        self.o = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, HEADS, DIM + 4).transpose(1, 2)
        latent, shared = self.down(x).split([16, 4], dim=-1)
        k, v = self.up(self.norm(latent)).view(b, n, HEADS, 2 * DIM).transpose(1, 2).split([DIM, DIM], dim=-1)
        k = torch.cat([k, shared[:, None].expand(b, HEADS, n, 4)], -1)
        return self.o(softmaxed(q, k, v).transpose(1, 2).reshape(b, n, -1))


@attention("differential_attention")
class Differential(nn.Module):
    """The difference of two softmaxes."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.balance = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k = (each(x).view(b, n, 2 * 2, DIM).transpose(1, 2) for each in (self.q, self.k))
        v = self.v(x).view(b, n, 2, 2 * DIM).transpose(1, 2)
        weights = (q @ k.transpose(-1, -2) * DIM**-0.5).softmax(-1).view(b, 2, 2, n, n)
        return self.o(((weights[:, :, 0] - self.balance * weights[:, :, 1]) @ v).transpose(1, 2).reshape(b, n, -1))


@attention("talking_heads")
class TalkingHeads(Separate):
    def __init__(self) -> None:
        super().__init__()
        self.mix1, self.mix2 = nn.Linear(HEADS, HEADS), nn.Linear(HEADS, HEADS)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads_first(each(x), HEADS) for each in (self.q, self.k, self.v))
        scores = self.mix1((q @ k.transpose(-1, -2) * DIM**-0.5).permute(0, 2, 3, 1)).softmax(2)
        return self.o((self.mix2(scores).permute(0, 3, 1, 2) @ v).transpose(1, 2).flatten(2))


@attention("torch_attention")
class TorchAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x)[0]
