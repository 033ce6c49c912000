"""Recommendations, several inputs, sets, forecasts and policies, as people write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from registry import floats, on, rows, steps, words
from torch import Tensor, nn


@on(words(4, 6, most=40), lambda: torch.randn(4, 13))
class Dlrm(nn.Module):
    """Embedding bags and dense features, all pairs' dot products."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(40, 16, mode="sum") for _ in range(3))
        self.bottom = nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(16 + 6, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid())

    def forward(self, sparse: Tensor, dense: Tensor) -> Tensor:
        x = self.bottom(dense)
        each = torch.stack([x, *(bag(sparse[:, 2 * i : 2 * i + 2]) for i, bag in enumerate(self.bags))], 1)
        products = torch.bmm(each, each.transpose(1, 2))
        i, j = torch.tril_indices(4, 4, offset=-1)
        return self.top(torch.cat([x, products[:, i, j]], 1))


@on(words(12, most=40), lambda: torch.tensor([0, 3, 3, 8]))
class Bags(nn.Module):
    """A bag of words by offsets, the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.hidden, self.head = nn.EmbeddingBag(40, 32), nn.Linear(32, 24), nn.Linear(24, 4)

    def forward(self, text: Tensor, offsets: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(self.bag(text, offsets))))


@on(words(4, 5, most=30))
class BagMaximum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.head = (
            nn.EmbeddingBag(30, 32, mode="max"),
            nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 4)),
        )

    def forward(self, text: Tensor) -> Tensor:
        return self.head(self.bag(text))


@on(words(4, 5, most=30), floats(4, 5))
class WeightedBag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(30, 32, mode="sum")
        self.head = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 4))

    def forward(self, text: Tensor, weights: Tensor) -> Tensor:
        return self.head(self.bag(text, per_sample_weights=weights))


@on(words(4, 6, most=10))
class DeepFm(nn.Module):
    """Offsets into one table; the square of the sum less the sum of squares."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offsets", torch.arange(6) * 10)
        self.first, self.second = nn.Embedding(60, 1), nn.Embedding(60, 16)
        self.deep = nn.Sequential(
            nn.Linear(6 * 16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.offsets
        e = self.second(x)
        pairs = 0.5 * (e.sum(1).pow(2) - e.pow(2).sum(1)).sum(1, keepdim=True)
        return torch.sigmoid(self.first(x).sum(1) + pairs + self.deep(e.view(-1, 6 * 16)))


@on(words(4, 6, most=10))
class CrossNetwork(nn.Module):
    """DCN-v2, low rank."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 8)
        self.u, self.v = (
            nn.ModuleList(nn.Linear(12, 48) for _ in range(2)),
            nn.ModuleList(nn.Linear(48, 12, bias=False) for _ in range(2)),
        )
        self.head = nn.Linear(48, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = first = self.table(x).flatten(1)
        for u, v in zip(self.u, self.v, strict=True):
            x = first * u(v(x)) + x
        return self.head(x)


@on(user=words(4, most=30), items=words(4, 7, most=30), context=floats(4, 5))
class TwoTowers(nn.Module):
    """Keyword inputs; the user's items averaged; a dot product."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(30, 16), nn.Embedding(30, 24)
        self.left, self.right = (
            nn.Sequential(nn.Linear(21, 32), nn.ReLU(), nn.Linear(32, 24)),
            nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 24)),
        )

    def forward(self, user: Tensor, items: Tensor, context: Tensor) -> Tensor:
        a = F.normalize(self.left(torch.cat([self.users(user), context], -1)), dim=-1)
        return (a * F.normalize(self.right(self.items(items).mean(1)), dim=-1)).sum(-1)


@on(words(4, most=30), words(4, most=30))
class NeuralCollaborative(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Embedding(30, 16) for _ in range(4))
        self.mlp, self.last = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16)), nn.Linear(32, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        product = self.a(user) * self.b(item)
        deep = self.mlp(torch.cat([self.c(user), self.d(item)], dim=-1))
        return self.last(torch.cat([product, deep], dim=-1)).sigmoid()


@on(lambda: {"numbers": torch.randn(4, 6), "kinds": torch.randint(0, 8, (4, 3))})
class DictionaryInput(nn.Module):
    """One argument that is a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers, self.kinds = nn.Linear(6, 24), nn.Embedding(8, 8)
        self.hidden, self.head = nn.Linear(48, 32), nn.Linear(32, 2)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = torch.cat([self.numbers(batch["numbers"]), self.kinds(batch["kinds"]).flatten(1)], dim=1)
        return self.head(torch.relu(self.hidden(torch.relu(x))))


@on(floats(4, 6), floats(4, 3, 16, 16), words(4, 5, most=30))
class ThreeInputs(nn.Module):
    """A table, an image and a text."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Linear(6, 16)
        self.image = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.text, self.lstm = nn.Embedding(30, 16), nn.LSTM(16, 24, batch_first=True)
        self.head = nn.Sequential(nn.Linear(56, 32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, numbers: Tensor, image: Tensor, text: Tensor) -> Tensor:
        return self.head(
            torch.cat([self.table(numbers), self.image(image), self.lstm(self.text(text))[0][:, -1]], dim=1)
        )


@on(floats(4, 10), words(4, 4, most=6))
class FeatureTokens(nn.Module):
    """FT-Transformer: every number a token by its own weight and bias."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(10, 32) * 0.1), nn.Parameter(torch.zeros(10, 32))
        self.kinds, self.token = nn.ModuleList(nn.Embedding(6, 32) for _ in range(4)), nn.Parameter(torch.zeros(32))
        self.layer, self.head = (
            nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True),
            nn.Linear(32, 2),
        )

    def forward(self, numbers: Tensor, kinds: Tensor) -> Tensor:
        x = numbers[..., None] * self.weight + self.bias
        k = torch.stack([table(kinds[:, i]) for i, table in enumerate(self.kinds)], 1)
        x = torch.cat([self.token.expand(len(x), 1, -1), x, k], 1)
        return self.head(self.layer(x)[:, 0])


@on(rows)
class TabNetStep(nn.Module):
    """Gated units with half of the features for the decision, half for the next mask."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.shared, self.steps = (
            nn.BatchNorm1d(20),
            nn.Linear(20, 64),
            nn.ModuleList(nn.Linear(32, 64) for _ in range(2)),
        )
        self.masks, self.head = nn.ModuleList(nn.Linear(16, 20) for _ in range(2)), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        total, masked = torch.zeros(x.shape[0], 16), x
        for step, mask in zip(self.steps, self.masks, strict=True):
            h = F.glu(self.shared(masked))
            decision, following = F.glu(step(h)).split(16, dim=-1)
            total = total + F.relu(decision)
            masked = x * mask(following).softmax(-1)
        return self.head(total)


@on(steps)
class NBeats(nn.Module):
    """Backcast subtracted, forecast summed."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(108, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 32), nn.ReLU())
            for _ in range(3)
        )
        self.back, self.fore = (
            nn.ModuleList(nn.Linear(32, 108) for _ in range(3)),
            nn.ModuleList(nn.Linear(32, 5) for _ in range(3)),
        )

    def forward(self, x: Tensor) -> Tensor:
        x, total = x.flatten(1), torch.zeros(x.shape[0], 5)
        for block, back, fore in zip(self.blocks, self.back, self.fore, strict=True):
            h = block(x)
            x, total = x - back(h), total + fore(h)
        return total


@on(floats(4, 8))
class ActorCritic(nn.Module):
    """Two heads on one trunk, a deviation that is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh())
        self.actor, self.critic, self.log_std = nn.Linear(48, 3), nn.Linear(48, 1), nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.trunk(x)
        return self.actor(h), self.log_std.exp().expand(x.shape[0], 3), self.critic(h).squeeze(-1)


@on(floats(4, 8))
class DuelingEnsemble(nn.Module):
    """Several networks in one parameter, by baddbmm; a value and advantages less their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.randn(3, 8, 32) * 0.2), nn.Parameter(torch.zeros(3, 1, 32))
        self.w2, self.b2 = nn.Parameter(torch.randn(3, 32, 6) * 0.2), nn.Parameter(torch.zeros(3, 1, 6))
        self.w3 = nn.Parameter(torch.randn(3, 32, 32) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(torch.baddbmm(self.b1, x.expand(3, -1, -1), self.w1))
        h = torch.relu(h @ self.w3)
        y = torch.baddbmm(self.b2, h, self.w2)
        value, advantage = y[..., :1], y[..., 1:]
        return (value + advantage - advantage.mean(-1, keepdim=True)).mean(0)


@on(floats(4, 8))
class Coupling(nn.Module):
    """A flow: half of the features shift and scale the other half; a permutation in between."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros(x.shape[0])
        for net in self.nets:
            a, b = x.chunk(2, dim=1)
            shift, scale = net(a).chunk(2, dim=1)
            scale = torch.tanh(scale)
            x, total = torch.cat([b * scale.exp() + shift, a], dim=1), total + scale.sum(1)
        return x, total


@on(floats(4, 20))
class PhysicsNetwork(nn.Module):
    """Learnt slopes of the activation, layers in a plain loop over attributes."""

    def __init__(self) -> None:
        super().__init__()
        for i, (a, b) in enumerate(((20, 32), (32, 32), (32, 32))):
            setattr(self, f"layer{i}", nn.Linear(a, b))
            self.register_parameter(f"slope{i}", nn.Parameter(torch.ones(1)))
        self.u, self.v, self.last = nn.Linear(20, 32), nn.Linear(20, 32), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        u, v, h = torch.tanh(self.u(x)), torch.tanh(self.v(x)), x
        for i in range(3):
            h = torch.tanh(getattr(self, f"slope{i}") * getattr(self, f"layer{i}")(h))
            h = (1 - h) * u + h * v
        return self.last(h)


@on(floats(4, 20))
class Reshaped(nn.Module):
    """A hidden layer seen as a small image and back."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv, self.last = (
            nn.Linear(20, 8 * 4 * 4),
            nn.Conv2d(8, 12, 3, padding=1),
            nn.Linear(12 * 16, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x)).reshape(-1, 8, 4, 4)
        return self.last(torch.relu(self.conv(x)).reshape(x.shape[0], -1))


@on(floats(4, 20))
class SoftTree(nn.Module):
    """A soft decision tree: products of gates of every path."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(20, 48), nn.ReLU(), nn.Linear(48, 32))
        self.gates, self.leaves = nn.Linear(32, 7), nn.Parameter(torch.randn(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        g = torch.sigmoid(self.gates(torch.relu(self.embed(x))))
        path, start = torch.ones(x.shape[0], 1), 0
        for depth in range(3):
            gate = g[:, start : start + 2**depth]
            path = torch.stack([path * gate, path * (1 - gate)], -1).flatten(1)
            start += 2**depth
        return path @ self.leaves


@on(floats(2, 16, 12))
class SetTransformer(nn.Module):
    """Induced points, and pooling by a learnt seed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.points, self.seed = (
            nn.Linear(12, 32),
            nn.Parameter(torch.randn(1, 4, 32)),
            nn.Parameter(torch.randn(1, 1, 32)),
        )
        self.a, self.b, self.c = (nn.MultiheadAttention(32, 4, batch_first=True) for _ in range(3))
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, b = self.first(x), x.shape[0]
        points = self.a(self.points.expand(b, -1, -1), x, x)[0]
        x = x + self.b(x, points, points)[0]
        return self.head(self.c(self.seed.repeat(b, 1, 1), x, x)[0].squeeze(1))


@on(floats(2, 16, 12))
class DeepSets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.phi, self.rho = (
            nn.Sequential(nn.Linear(12, 48), nn.ELU(), nn.Linear(48, 32)),
            nn.Sequential(nn.Linear(64, 32), nn.ELU(), nn.Linear(32, 3)),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.phi(x)
        return self.rho(torch.cat([x.sum(1), x.amax(1)], -1))


@on(floats(4, 20))
class MixtureDensity(nn.Module):
    """Weights, means and deviations from one layer, by split sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 64))
        self.out = nn.Linear(64, 5 + 5 * 2 + 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, mean, deviation = self.out(torch.tanh(self.hidden(x))).split([5, 10, 5], dim=-1)
        return weight.softmax(-1), mean.view(-1, 5, 2), F.softplus(deviation)
