"""Blocks of transformers beside their attention, and whole transformers, as people write them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops_free import heads_first
from hand_attention import (
    WIDTH,
    Block,
    Einsum,
    GroupedRepeat,
    PackedChunk,
    PackedReshape,
    PackedSplit,
    View,
    Words,
    softmaxed,
)
from registry import floats, images, on, steps, tokens, words
from torch import Tensor, nn


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
