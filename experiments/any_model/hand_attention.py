"""Attention in the many ways in which people write it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops_free import heads_first
from registry import floats, images, on, steps, tokens, words
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


@on(tokens)
def parallel_blocks() -> nn.Module:
    class Parallel(Block):
        def forward(self, x: Tensor) -> Tensor:
            y = self.norm1(x)
            return x + self.attention(y) + self.mlp(y)

    return Words(Parallel(PackedSplit()), Parallel(PackedSplit()))


@on(tokens)
def post_norm() -> nn.Module:
    class Post(Block):
        def forward(self, x: Tensor) -> Tensor:
            x = self.norm1(x + self.attention(x))
            return self.norm2(x + self.mlp(x))

    return Words(Post(View()), Post(Einsum()))


class SwiGlu(nn.Module):
    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.packed = packed
        self.up = nn.Linear(WIDTH, 96 if packed else 48, bias=False)
        self.gate = None if packed else nn.Linear(WIDTH, 48, bias=False)
        self.down = nn.Linear(48, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            a, b = self.up(x).chunk(2, dim=-1)
            return self.down(F.silu(a) * b)
        return self.down(F.silu(self.gate(x)) * self.up(x))


@on(tokens)
def gated_mlp() -> nn.Module:
    return Words(Block(View(), mlp=SwiGlu(packed=False)), Block(View(), mlp=SwiGlu(packed=True)))


class RmsNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)).type_as(x)


class HandLayerNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6) + self.b


class SumNorm(nn.Module):
    """By the sum and the attribute of its width, and by the L2 norm times a root."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.g = width, nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x / torch.sqrt(x.square().sum(-1, keepdim=True) / self.width + 1e-6)
        return F.normalize(x, dim=-1) * self.width**0.5 * self.g


for _name, _norm in (("rms_norm", RmsNorm), ("hand_layer_norm", HandLayerNorm), ("sum_norm", SumNorm)):

    @on(tokens, name=_name)
    def _normed(norm: type[nn.Module] = _norm) -> nn.Module:
        block = Block(GroupedRepeat())
        block.norm1, block.norm2 = norm(WIDTH), norm(WIDTH)  # type: ignore[assignment]
        return Words(block)


class Experts(nn.Module):
    """Top-k of a softmax, every expert computed and weighed."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, 4, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 48), nn.GELU(), nn.Linear(48, WIDTH)) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x).softmax(-1)
        top, index = weights.topk(2, dim=-1)
        sparse = torch.zeros_like(weights).scatter(-1, index, top / top.sum(-1, keepdim=True))
        return torch.stack([expert(x) for expert in self.experts], dim=-1).mul(sparse[..., None, :]).sum(-1)


class PackedExperts(nn.Module):
    """Experts' weights in one parameter, products by bmm."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, 4, bias=False)
        self.up, self.down = (
            nn.Parameter(torch.randn(4, WIDTH, 96) * 0.1),
            nn.Parameter(torch.randn(4, 48, WIDTH) * 0.1),
        )

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        weights = self.router(flat).softmax(-1)
        top, index = weights.topk(2, dim=-1)
        sparse = torch.zeros_like(weights).scatter(-1, index, top)
        gate, up = torch.bmm(flat[None].expand(4, -1, -1), self.up).chunk(2, -1)
        each = torch.bmm(F.silu(gate) * up, self.down)
        return (each * sparse.t()[..., None]).sum(0).view_as(x)


class GatheredExperts(nn.Module):
    """The weights of each token's best expert gathered."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.up, self.down = (
            nn.Linear(WIDTH, 4),
            nn.Parameter(torch.randn(4, 48, WIDTH) * 0.1),
            nn.Parameter(torch.randn(4, WIDTH, 48) * 0.1),
        )

    def forward(self, x: Tensor) -> Tensor:
        weight, best = self.router(x).softmax(-1).max(-1)
        h = F.gelu(torch.einsum("bnd,bnhd->bnh", x, self.up[best]))
        return torch.einsum("bnh,bndh->bnd", h, self.down[best]) * weight[..., None]


for _name, _experts in (("experts", Experts), ("experts_packed", PackedExperts), ("experts_gathered", GatheredExperts)):
    on(tokens, name=_name)(lambda experts=_experts: Words(Block(View(), mlp=experts()), Block(View(), mlp=experts())))


class LowRank(nn.Module):
    """LoRA beside a frozen linear layer."""

    def __init__(self, inner: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.inner = inner
        for parameter in inner.parameters():
            parameter.requires_grad_(False)
        self.a, self.b = (
            nn.Parameter(torch.randn(rank, inner.in_features) * 0.1),
            nn.Parameter(torch.zeros(inner.out_features, rank)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + (x @ self.a.T @ self.b.T) * 2.0


@on(tokens)
def low_rank() -> nn.Module:
    block = Block(View())
    for name in ("q", "v"):
        setattr(block.attention, name, LowRank(getattr(block.attention, name)))
    return Words(block)


@on(tokens)
class TorchEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2)
        self.head = nn.Linear(32, 7)

    def forward(self, text: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(text) * math.sqrt(32)))


@on(tokens)
class TorchEncoderPreNorm(nn.Module):
    """Pre-norm, masked, time first."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(32, 4, 64, norm_first=True, activation="gelu"), 2, enable_nested_tensor=False
        )
        self.head = nn.Linear(32, 7)

    def forward(self, text: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(text.shape[1])
        return self.head(self.encoder(self.embedding(text).transpose(0, 1), mask=mask).transpose(0, 1))


@on(words(2, 9), words(2, 5))
class TorchTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(50, 32), nn.Embedding(50, 32)
        self.inner = nn.Transformer(32, 4, 2, 2, 64, batch_first=True)
        self.head = nn.Linear(32, 50)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = torch.triu(torch.full((target.shape[1], target.shape[1]), float("-inf")), diagonal=1)
        return self.head(self.inner(self.source(source), self.target(target), tgt_mask=mask))


@on(words(2, 5), floats(2, 7, 24))
class TorchDecoder(nn.Module):
    """Text over features of another width."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.features = nn.Embedding(50, 32), nn.Linear(24, 32)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(32, 4, 64, batch_first=True), 2)
        self.head = nn.Linear(32, 50)

    def forward(self, text: Tensor, features: Tensor) -> Tensor:
        return self.head(self.decoder(self.embedding(text), self.features(features)))


@on(floats(2, 6, 32), floats(2, 9, 20))
class CrossAttention(nn.Module):
    """Keys and values of another width (kdim, vdim)."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, kdim=20, vdim=20, batch_first=True)
        self.first, self.head = nn.Linear(32, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = self.first(x)
        return self.head(x + self.attention(x, memory, memory, need_weights=False)[0])


@on(input_ids=tokens, attention_mask=lambda: torch.tensor([[1] * 9, [1] * 6 + [0] * 3]))
class MaskedKeywords(nn.Module):
    """Keyword inputs with a padding mask; a dictionary out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer, self.head = (
            nn.Embedding(50, 32),
            nn.TransformerEncoderLayer(32, 4, 64, batch_first=True),
            nn.Linear(32, 5),
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        x = self.layer(self.embedding(input_ids), src_key_padding_mask=attention_mask == 0)
        kept = attention_mask[..., None].to(x.dtype)
        return {"logits": self.head((x * kept).sum(1) / kept.sum(1))}


@on(tokens)
class TiedLanguageModel(nn.Module):
    """The embedding's weight is the head's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.blocks = nn.ModuleList(Block(PackedSplit()) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 50, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, text: Tensor) -> Tensor:
        x = self.embedding(text)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


@on(tokens)
class SharedBlock(nn.Module):
    """One block called three times (ALBERT)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.block, self.head = nn.Embedding(50, 32), Block(PackedReshape()), nn.Linear(32, 7)

    def forward(self, text: Tensor) -> Tensor:
        x = self.embedding(text)
        for _ in range(3):
            x = self.block(x)
        return self.head(x)


@on(tokens)
class FactorisedEmbedding(nn.Module):
    """A narrow embedding, projected up, and the head tied through the projection."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.up, self.block = nn.Embedding(50, 16), nn.Linear(16, 32, bias=False), Block(View())

    def forward(self, text: Tensor) -> Tensor:
        x = self.block(self.up(self.embedding(text)))
        return x @ self.up.weight @ self.embedding.weight.T


@on(images)
class HandVit(nn.Module):
    """Class token, position table, patches by convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, 32)), nn.Parameter(torch.randn(1, 17, 32) * 0.02)
        self.blocks = nn.Sequential(Block(PackedReshape()), Block(PackedReshape()))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


@on(images)
class PatchesByUnfold(nn.Module):
    """Patches by reshape, mean over tokens, registers cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.registers = nn.Linear(3 * 64, 32), nn.Parameter(torch.randn(1, 2, 32))
        self.block, self.head = Block(PackedChunk()), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.unfold(x, 8, stride=8).transpose(1, 2)
        x = torch.cat([self.registers.expand(len(x), -1, -1), self.first(x)], 1)
        return self.head(self.block(x)[:, 2:].mean(1))


class Window(nn.Module):
    """Windows by two views, shifted by roll."""

    def __init__(self, width: int, shift: int) -> None:
        super().__init__()
        self.shift, self.norm, self.qkv, self.o = (
            shift,
            nn.LayerNorm(width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        y = torch.roll(self.norm(x), (-self.shift, -self.shift), (1, 2))
        y = y.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        q, k, v = self.qkv(y).reshape(-1, 16, 3, 4, c // 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = self.o(softmaxed(q, k, v).transpose(1, 2).reshape(-1, 16, c))
        y = y.view(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        x = x + torch.roll(y, (self.shift, self.shift), (1, 2))
        return x + self.mlp(x)


@on(images)
class HandSwin(nn.Module):
    """Windows, and patches merged four into one."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.first, self.merge_norm, self.merge = Window(32, 0), nn.LayerNorm(128), nn.Linear(128, 64, bias=False)
        self.second, self.head = Window(64, 2), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.patches(x).permute(0, 2, 3, 1))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.head(self.second(self.merge(self.merge_norm(x))).mean((1, 2)))


class MixerBlock(nn.Module):
    def __init__(self, tokens_: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(tokens_, 24), nn.GELU(), nn.Linear(24, tokens_))
        self.channels = nn.Sequential(nn.Linear(width, 96), nn.GELU(), nn.Linear(96, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


@on(images)
class MlpMixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.blocks, self.head = (
            nn.Conv2d(3, 32, 8, 8),
            nn.Sequential(MixerBlock(16, 32), MixerBlock(16, 32)),
            nn.Linear(32, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.patches(x).flatten(2).mT).mean(1))


@on(steps)
class PlacesGate(nn.Module):
    """gMLP: half of the channels gate the other half over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up, self.norm = nn.Linear(12, 32), nn.Linear(32, 96), nn.LayerNorm(48)
        self.places, self.down, self.head = nn.Conv1d(9, 9, 1), nn.Linear(48, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        u, v = F.gelu(self.up(x)).chunk(2, dim=-1)
        return self.head(x + self.down(u * self.places(self.norm(v))))


@on(floats(2, 30, 16))
class Perceiver(nn.Module):
    """Learnt queries over many inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.latents, self.keys = nn.Parameter(torch.randn(8, 32)), nn.Linear(16, 64)
        self.query, self.o, self.block, self.head = (
            nn.Linear(32, 32),
            nn.Linear(32, 32),
            Block(Einsum()),
            nn.Linear(32, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        q = heads_first(self.query(self.latents).expand(x.shape[0], -1, -1), 4)
        k, v = (heads_first(each, 4) for each in self.keys(x).chunk(2, -1))
        y = self.latents + self.o(softmaxed(q, k, v).transpose(1, 2).flatten(2))
        return self.head(self.block(y).mean(1))


@on(images, words(2, 7))
class ImageAndText(nn.Module):
    """Two encoders, normalised embeddings, a temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(
            nn.Conv2d(3, 24, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 32)
        )
        self.embedding, self.block, self.text = nn.Embedding(50, 32), Block(View()), nn.Linear(32, 32)
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        a = F.normalize(self.image(image), dim=-1)
        b = F.normalize(self.text(self.block(self.embedding(text))[:, -1]), dim=-1)
        return self.temperature.exp() * a @ b.T


@on(floats(2, 4, 8, 8), floats(2), words(2, most=10))
class DiffusionTransformer(nn.Module):
    """DiT: norms without weights, six modulations from the condition."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.time, self.label = nn.Conv2d(4, 32, 2, 2), nn.Linear(16, 32), nn.Embedding(10, 32)
        self.norm = nn.LayerNorm(32, elementwise_affine=False)
        self.modulation = nn.Linear(32, 6 * 32)
        self.attention, self.mlp = PackedReshape(), nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32))
        self.last = nn.Linear(32, 16)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        angle = t[:, None] * torch.exp(-torch.arange(8.0))
        c = F.silu(self.time(torch.cat([angle.cos(), angle.sin()], -1)) + self.label(y))
        x = self.patches(x).flatten(2).transpose(1, 2)
        a, b, g, d, e, h = self.modulation(c).unsqueeze(1).chunk(6, dim=-1)
        x = x + g * self.attention(self.norm(x) * (1 + a) + b)
        x = x + h * self.mlp(self.norm(x) * (1 + d) + e)
        return self.last(x).view(-1, 4, 4, 2, 2, 4).permute(0, 5, 1, 3, 2, 4).reshape(-1, 4, 8, 8)
