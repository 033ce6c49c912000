"""Recurrent networks, convolutions over time, and their mixtures, as people write them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from registry import floats, on, steps, tokens, waves, words
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm


def recurrent(kind: type[nn.RNNBase], name: str, **options: object) -> None:
    """A tagger of words: embedding, recurrent layers, a class for each word."""

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(50, 24)
            self.layers = kind(24, 32, batch_first=True, **options)  # type: ignore[arg-type]
            width = options.get("proj_size") or 32
            self.head = nn.Linear(int(width) * (2 if options.get("bidirectional") else 1), 7)  # type: ignore[call-overload]

        def forward(self, text: Tensor) -> Tensor:
            return self.head(self.layers(self.embedding(text))[0])

    on(tokens, name=name)(Tagger)


for _name, _kind in (("lstm", nn.LSTM), ("gru", nn.GRU), ("rnn", nn.RNN)):
    recurrent(_kind, f"{_name}_tagger")
    recurrent(_kind, f"{_name}_stacked", num_layers=2)
    recurrent(_kind, f"{_name}_both_ways", bidirectional=True)
    recurrent(_kind, f"{_name}_stacked_both_ways", num_layers=2, bidirectional=True, dropout=0.1)
    recurrent(_kind, f"{_name}_without_bias", bias=False)
recurrent(nn.LSTM, "lstm_projected", proj_size=16)
recurrent(nn.LSTM, "lstm_projected_both_ways", proj_size=16, bidirectional=True, num_layers=2)
recurrent(nn.RNN, "rnn_relu", nonlinearity="relu")


@on(floats(9, 2, 12))
class LstmTimeFirst(nn.Module):
    """Time first; the last hidden state decides."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(12, 32, num_layers=2)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(x)
        return self.head(hidden[-1])


@on(steps)
class GruBothEnds(nn.Module):
    """The last states of both directions side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(12, 32, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.gru(x)[1]
        return self.head(torch.cat([hidden[-2], hidden[-1]], dim=1))


@on(steps)
class LstmZeroState(nn.Module):
    """A state that is made by hand, with the width written into it."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_size, self.num_layers = 32, 1
        self.lstm = nn.LSTM(12, self.hidden_size, self.num_layers, batch_first=True)
        self.head = nn.Linear(self.hidden_size, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(self.num_layers, x.size(0), self.hidden_size)
        c = torch.zeros(self.num_layers, x.size(0), self.hidden_size)
        out, _ = self.lstm(x, (h, c))
        return self.head(out[:, -1])


@on(steps)
class LearnedState(nn.Module):
    """The first state is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(1, 1, 32))
        self.gru = nn.GRU(12, 32, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x, self.first.expand(1, x.shape[0], 32).contiguous())[0])


def looped(cell: type[nn.RNNCellBase], name: str) -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = cell(12, 32)  # type: ignore[call-arg]
            self.head = nn.Linear(32, 5)

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(x.shape[0], 32)
            c = x.new_zeros(x.shape[0], 32)
            for step in range(x.shape[1]):
                if isinstance(self.cell, nn.LSTMCell):
                    h, c = self.cell(x[:, step], (h, c))
                else:
                    h = self.cell(x[:, step], h)
            return self.head(h)

    on(floats(2, 4, 12), name=name)(Loop)


for _name, _cell in (("lstm_cells", nn.LSTMCell), ("gru_cells", nn.GRUCell), ("rnn_cells", nn.RNNCell)):
    looped(_cell, _name)


@on(floats(2, 4, 12))
class HandLstm(nn.Module):
    """Gates in one product, taken apart by chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 24
        self.inputs = nn.Linear(12, 4 * self.hidden)
        self.states = nn.Linear(self.hidden, 4 * self.hidden, bias=False)
        self.head = nn.Linear(self.hidden, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(x.shape[0], self.hidden)
        for step in x.unbind(1):
            i, f, g, o = (self.inputs(step) + self.states(h)).chunk(4, dim=-1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.head(h)


@on(floats(2, 4, 12))
class HandGru(nn.Module):
    """Three gates, cut by index."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 24
        self.w = nn.Parameter(torch.randn(12, 72) * 0.2)
        self.u = nn.Parameter(torch.randn(24, 72) * 0.2)
        self.head = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], self.size)
        for step in range(x.shape[1]):
            a, b = x[:, step] @ self.w, h @ self.u
            r = torch.sigmoid(a[:, : self.size] + b[:, : self.size])
            z = torch.sigmoid(a[:, self.size : 2 * self.size] + b[:, self.size : 2 * self.size])
            n = torch.tanh(a[:, 2 * self.size :] + r * b[:, 2 * self.size :])
            h = (1 - z) * n + z * h
        return self.head(h)


@on(words(2, 9), words(2, 5))
class SequenceToSequence(nn.Module):
    """LSTM encoder and decoder with dot-product attention."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(50, 24), nn.Embedding(50, 24)
        self.encoder = nn.LSTM(24, 32, batch_first=True)
        self.decoder = nn.LSTM(24, 32, batch_first=True)
        self.mix = nn.Linear(64, 32)
        self.head = nn.Linear(32, 50)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, state = self.encoder(self.source(source))
        out, _ = self.decoder(self.target(target), state)
        weights = torch.softmax(out @ memory.transpose(1, 2), dim=-1)
        return self.head(torch.tanh(self.mix(torch.cat([out, weights @ memory], dim=-1))))


@on(words(2, 12))
class CharacterConvolutions(nn.Module):
    """Kim's convolutions of several widths with a maximum over time."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16, padding_idx=0)
        self.convolutions = nn.ModuleList(nn.Conv1d(16, 24, width) for width in (2, 3, 4))
        self.head = nn.Linear(72, 4)

    def forward(self, text: Tensor) -> Tensor:
        x = self.embedding(text).permute(0, 2, 1)
        pooled = [F.max_pool1d(F.relu(c(x)), c(x).shape[2]).squeeze(2) for c in self.convolutions]
        return self.head(torch.cat(pooled, dim=1))


@on(waves)
class ConvolutionThenLstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(
            nn.Conv1d(1, 16, 5, 2, 2), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 24, 5, 2, 2), nn.ReLU()
        )
        self.lstm = nn.LSTM(24, 32, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.front(x).transpose(1, 2))[0].mean(dim=1))


@on(floats(2, 1, 32, 64))
class Crnn(nn.Module):
    """Text in images: the height folded into channels before the LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.lstm = nn.LSTM(32 * 8, 48, bidirectional=True)
        self.head = nn.Linear(96, 11)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        b, c, h, w = x.size()
        x = x.view(b, c * h, w).permute(2, 0, 1)
        return self.head(self.lstm(x)[0])


class Chomp(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : -self.size].contiguous()


class TemporalBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, dilation: int, norm: object) -> None:
        super().__init__()
        pad = 2 * dilation
        self.conv1 = norm(nn.Conv1d(inputs, outputs, 3, padding=pad, dilation=dilation))  # type: ignore[operator]
        self.conv2 = norm(nn.Conv1d(outputs, outputs, 3, padding=pad, dilation=dilation))  # type: ignore[operator]
        self.net = nn.Sequential(
            self.conv1, Chomp(pad), nn.ReLU(), nn.Dropout(0.1), self.conv2, Chomp(pad), nn.ReLU(), nn.Dropout(0.1)
        )
        self.down = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.net(x) + (x if self.down is None else self.down(x)))


@on(waves)
class Tcn(nn.Module):
    """Bai et al. 2018, with the new weight norm."""

    def __init__(self) -> None:
        super().__init__()
        norm = parametrizations.weight_norm
        self.net = nn.Sequential(*(TemporalBlock(1 if not i else 24, 24, 2**i, norm) for i in range(3)))
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x)[:, :, -1])


@on(waves)
class TcnOldNorm(nn.Module):
    """The same with hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(*(TemporalBlock(1 if not i else 24, 24, 2**i, weight_norm) for i in range(2)))
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x)[:, :, -1])


@on(waves)
class WaveNet(nn.Module):
    """Gated dilated convolutions with residual and skip sums."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 24, 1)
        self.dilated = nn.ModuleList(nn.Conv1d(24, 48, 2, dilation=2**i) for i in range(4))
        self.residual = nn.ModuleList(nn.Conv1d(24, 24, 1) for _ in range(4))
        self.skip = nn.ModuleList(nn.Conv1d(24, 32, 1) for _ in range(4))
        self.last = nn.Sequential(nn.ReLU(), nn.Conv1d(32, 32, 1), nn.ReLU(), nn.Conv1d(32, 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.first(x), torch.zeros(())
        for i, (dilated, residual, skip) in enumerate(zip(self.dilated, self.residual, self.skip, strict=True)):
            filtered, gate = dilated(F.pad(x, (2**i, 0))).chunk(2, dim=1)
            z = torch.tanh(filtered) * torch.sigmoid(gate)
            total = total + skip(z)
            x = x + residual(z)
        return self.last(total)


@on(waves)
class WaveUNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            [nn.Conv1d(1, 16, 5, padding=2), nn.Conv1d(16, 24, 5, padding=2), nn.Conv1d(24, 32, 5, padding=2)]
        )
        self.up = nn.ModuleList([nn.Conv1d(56, 24, 5, padding=2), nn.Conv1d(40, 16, 5, padding=2)])
        self.last = nn.Conv1d(17, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept, y = [], x
        for conv in self.down[:-1]:
            y = F.leaky_relu(conv(y))
            kept.append(y)
            y = y[:, :, ::2]
        y = F.leaky_relu(self.down[-1](y))
        for conv, skip in zip(self.up, reversed(kept), strict=True):
            y = F.interpolate(y, scale_factor=2, mode="linear", align_corners=False)
            y = F.leaky_relu(conv(torch.cat([y, skip], dim=1)))
        return self.last(torch.cat([y, x], dim=1))


class ConformerBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width)
        )
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.point1 = nn.Conv1d(width, 2 * width, 1)
        self.depth = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.batch = nn.BatchNorm1d(width)
        self.point2 = nn.Conv1d(width, width, 1)
        self.second = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width)
        )
        self.last = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.first(x)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        y = F.glu(self.point1(self.norm2(x).transpose(1, 2)), dim=1)
        x = x + self.point2(F.silu(self.batch(self.depth(y)))).transpose(1, 2)
        return self.last(x + 0.5 * self.second(x))


@on(steps)
class Conformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 32)
        self.blocks = nn.ModuleList(ConformerBlock(32, 4) for _ in range(2))
        self.head = nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x).log_softmax(-1)


@on(steps)
class QuasiRecurrent(nn.Module):
    """Gates by convolution, a product of prefixes by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(12, 3 * 24, 2, padding=1)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        z, f, o = self.conv(x.transpose(1, 2))[..., :-1].split(24, dim=1)
        z, f, o = z.tanh(), f.sigmoid(), o.sigmoid()
        c, found = torch.zeros_like(z[..., 0]), []
        for step in range(z.shape[-1]):
            c = f[..., step] * c + (1 - f[..., step]) * z[..., step]
            found.append(o[..., step] * c)
        return self.head(torch.stack(found, dim=1))


@on(steps)
class StateSpace(nn.Module):
    """A diagonal state space per channel (S4D), as a convolution by its kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 24)
        self.log_a = nn.Parameter(torch.log(torch.arange(1, 9).float()).repeat(24, 1))
        self.b = nn.Parameter(torch.randn(24, 8))
        self.c = nn.Parameter(torch.randn(24, 8))
        self.d = nn.Parameter(torch.ones(24))
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        u = self.first(x).transpose(1, 2)
        length = u.shape[-1]
        decay = torch.exp(-torch.exp(self.log_a)[..., None] * 0.1 * torch.arange(length))
        kernel = torch.einsum("hn,hnl->hl", self.b * self.c, decay)
        spectrum = torch.fft.rfft(u, n=2 * length) * torch.fft.rfft(kernel, n=2 * length)
        y = torch.fft.irfft(spectrum, n=2 * length)[..., :length] + u * self.d[:, None]
        return self.head(F.gelu(y).transpose(1, 2))


@on(floats(2, 6, 12))
class SelectiveScan(nn.Module):
    """Mamba's block, the scan by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.d_inner, self.d_state, self.rank = 48, 8, 4
        self.first = nn.Linear(12, 24)
        self.in_proj = nn.Linear(24, 2 * self.d_inner, bias=False)
        self.conv = nn.Conv1d(self.d_inner, self.d_inner, 4, groups=self.d_inner, padding=3)
        self.x_proj = nn.Linear(self.d_inner, self.rank + 2 * self.d_state, bias=False)
        self.dt_proj = nn.Linear(self.rank, self.d_inner)
        self.a_log = nn.Parameter(torch.log(torch.arange(1.0, 9.0)).repeat(self.d_inner, 1))
        self.d = nn.Parameter(torch.ones(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, 24, bias=False)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        u, z = self.in_proj(x).chunk(2, dim=-1)
        u = F.silu(self.conv(u.transpose(1, 2))[..., : x.shape[1]]).transpose(1, 2)
        dt, b, c = self.x_proj(u).split([self.rank, self.d_state, self.d_state], dim=-1)
        dt = F.softplus(self.dt_proj(dt))
        decay = torch.exp(dt[..., None] * -torch.exp(self.a_log))
        drive = dt[..., None] * b[:, :, None] * u[..., None]
        state, found = torch.zeros_like(drive[:, 0]), []
        for step in range(u.shape[1]):
            state = decay[:, step] * state + drive[:, step]
            found.append((state * c[:, step, None]).sum(-1))
        y = torch.stack(found, dim=1) + u * self.d
        return self.head(x + self.out_proj(y * F.silu(z)))


@on(floats(2, 5, 32))
class LinearAttentionDecay(nn.Module):
    """RWKV-like: a decaying sum of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.full((32,), 0.5))
        self.decay = nn.Parameter(torch.zeros(32))
        self.first = nn.Linear(32, 32)
        self.key, self.value, self.gate, self.out = (nn.Linear(32, 32, bias=False) for _ in range(4))
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        before = F.pad(x, (0, 0, 1, -1))
        mixed = x * self.mix + before * (1 - self.mix)
        k, v, r = self.key(mixed).exp(), self.value(mixed), self.gate(x).sigmoid()
        top = bottom = torch.zeros_like(k[:, 0])
        found = []
        for step in range(x.shape[1]):
            top = top * torch.exp(-self.decay.exp()) + k[:, step] * v[:, step]
            bottom = bottom * torch.exp(-self.decay.exp()) + k[:, step]
            found.append(top / (bottom + 1e-6))
        return self.head(x + self.out(r * torch.stack(found, 1)))


@on(steps)
class DilatedGlu(nn.Module):
    """Gated linear units with the two halves from two convolutions, and weight norm kept by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.randn(24, 12, 3) / 6)
        self.g = nn.Parameter(torch.ones(24, 1, 1))
        self.gate = nn.Conv1d(12, 24, 3, padding=1)
        self.middle, self.head = nn.Conv1d(24, 32, 3, padding=1), nn.Conv1d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        weight = self.g * self.v / self.v.norm(dim=(1, 2), keepdim=True)
        return self.head(F.relu(self.middle(F.conv1d(x, weight, padding=1) * torch.sigmoid(self.gate(x)))))


@on(floats(2, 8, 12))
class TimeEmbedding(nn.Module):
    """Sines of the position, made in forward for the width at hand."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 32
        self.first = nn.Linear(12, 32)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 32))
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        half = self.width // 2
        frequency = torch.exp(-math.log(10000.0) * torch.arange(half) / half)
        angle = torch.arange(x.shape[1])[:, None] * frequency[None]
        position = torch.cat([angle.sin(), angle.cos()], dim=-1)
        x = self.first(x) + position
        return self.head(x + self.mlp(x))
