"""Networks of tables, and code without layers, as people write them."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from registry import floats, on, rows
from torch import Tensor, nn


@on(rows)
def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 3))


@on(rows)
def mlp_norm_dropout() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(20, 64),
            bn=nn.BatchNorm1d(64),
            act=nn.SELU(),
            drop=nn.AlphaDropout(0.1),
            fc2=nn.Linear(64, 32),
            ln=nn.LayerNorm(32),
            act2=nn.Softplus(),
            fc3=nn.Linear(32, 3),
        )
    )


@on(rows)
class ResidualMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(20, 48)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm1d(48), nn.Linear(48, 96), nn.ReLU(), nn.Dropout(0.1), nn.Linear(96, 48))
            for _ in range(3)
        )
        self.last = nn.Sequential(nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x).squeeze(-1)


@on(rows)
class Functional(nn.Module):
    """Parameters as plain tensors, no layers at all."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.randn(20, 48) * 0.1), nn.Parameter(torch.zeros(48))
        self.w2, self.b2 = nn.Parameter(torch.randn(3, 48) * 0.1), nn.Parameter(torch.zeros(3))
        self.w3, self.mask = nn.Parameter(torch.randn(48, 48) * 0.1), nn.Parameter(torch.ones(48))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(x @ self.w1 + self.b1) * torch.sigmoid(self.mask)
        return torch.addmm(self.b2, torch.relu(hidden.mm(self.w3)), self.w2.t())


@on(rows)
class ParameterDictionary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterDict(
            {
                "a": torch.randn(48, 20) * 0.1,
                "b": torch.randn(48) * 0.1,
                "c": torch.randn(3, 32) * 0.1,
                "d": torch.randn(32, 48) * 0.1,
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(F.linear(x, self.weights["a"], self.weights["b"]))
        return F.linear(F.gelu(F.linear(hidden, self.weights["d"])), self.weights["c"])


@on(rows)
class MaskedWeights(nn.Module):
    """A buffer masks the weight (pruning by hand), and another scales."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(20, 48), nn.Linear(48, 48), nn.Linear(48, 3)
        self.register_buffer("mask", (torch.rand(48, 20) > 0.3).float())
        self.register_buffer("scale", torch.rand(48))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(F.linear(x, self.first.weight * self.mask, self.first.bias)) * self.scale
        return self.last(torch.relu(self.middle(x)))


@on(rows)
class SharedTwice(nn.Module):
    """A layer called twice, in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(20, 32), nn.Linear(32, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        x = torch.tanh(self.middle(x))
        return self.last(x + torch.tanh(self.middle(x)))


@on(rows)
class TransposedTie(nn.Module):
    """The decoder's weight is the encoder's, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.inner, self.bias = nn.Linear(20, 48), nn.Linear(48, 32), nn.Parameter(torch.zeros(20))
        self.middle = nn.Parameter(torch.zeros(48))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.inner(torch.relu(self.encoder(x))))
        return F.linear(torch.relu(F.linear(x, self.inner.weight.t(), self.middle)), self.encoder.weight.t(), self.bias)


@on(rows)
class HyperNetwork(nn.Module):
    """One network makes the weights of another."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Sequential(nn.Linear(20, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 16 * 20))
        self.last = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.make(x).view(x.shape[0], 16, 20)
        return self.last(torch.relu(torch.bmm(weight, x.unsqueeze(-1)).squeeze(-1)))


@on(rows)
class Kan(nn.Module):
    """Radial functions on every edge (FastKAN)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("grid", torch.linspace(-2, 2, 8))
        self.splines = nn.ParameterList(nn.Parameter(torch.randn(o, i, 8) * 0.1) for i, o in ((20, 32), (32, 3)))
        self.base = nn.ModuleList(nn.Linear(i, o) for i, o in ((20, 32), (32, 3)))

    def forward(self, x: Tensor) -> Tensor:
        for spline, base in zip(self.splines, self.base, strict=True):
            basis = torch.exp(-(((x[..., None] - self.grid) * 2) ** 2))
            x = torch.einsum("big,oig->bo", basis, spline) + base(F.silu(x))
        return x


@on(rows)
class Polynomial(nn.Module):
    """Products of two projections (factorised second order)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(20, 32), nn.Linear(20, 32), nn.Linear(32, 3), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x) * self.b(x)
        return self.c(x * self.d(x))


@on(floats(4, 8), floats(4, 8))
class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 24), nn.Linear(8, 16)
        self.pair, self.last = nn.Bilinear(24, 16, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.last(torch.relu(self.pair(self.a(x), self.b(y))))


@on(floats(64, 3))
class Nerf(nn.Module):
    """Sines of the place, a skip to the fifth layer, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList([nn.Linear(39, 48), nn.Linear(48, 48), nn.Linear(48, 48)])
        self.second = nn.ModuleList([nn.Linear(48 + 39, 48), nn.Linear(48, 48)])
        self.sigma, self.colour = (
            nn.Linear(48, 1),
            nn.Sequential(nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 3), nn.Sigmoid()),
        )

    def forward(self, x: Tensor) -> Tensor:
        each = [x]
        for i in range(6):
            each += [torch.sin(2.0**i * x), torch.cos(2.0**i * x)]
        h = place = torch.cat(each, -1)
        for layer in self.first:
            h = F.relu(layer(h))
        h = torch.cat([place, h], -1)
        for layer in self.second:
            h = F.relu(layer(h))
        return torch.cat([self.colour(h), self.sigma(h)], -1)


@on(floats(64, 2))
class Siren(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 32), nn.Linear(32, 32), nn.Linear(32, 32)])
        self.last = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(30 * layer(x))
        return self.last(x)


@on(floats(64, 2))
class RandomFeatures(nn.Module):
    """Fourier features from a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("b", torch.randn(2, 32))
        self.net = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 1))

    def forward(self, x: Tensor) -> Tensor:
        angle = 2 * math.pi * x @ self.b
        return self.net(torch.cat([angle.sin(), angle.cos()], -1))
