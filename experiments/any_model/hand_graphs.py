"""Networks of points and graphs, as people write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from registry import floats, on, words
from torch import Tensor, nn


@on(floats(2, 3, 64))
class PointNet(nn.Module):
    """A learnt transformation of the points, shared layers, a maximum over points."""

    def __init__(self) -> None:
        super().__init__()
        self.align = nn.Sequential(nn.Conv1d(3, 16, 1), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 32, 1))
        self.align_head = nn.Linear(32, 9)
        self.layers = nn.Sequential(
            nn.Conv1d(3, 24, 1), nn.BatchNorm1d(24), nn.ReLU(), nn.Conv1d(24, 48, 1), nn.BatchNorm1d(48), nn.ReLU()
        )
        self.head = nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 5))

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.align_head(torch.max(self.align(x), 2, keepdim=True)[0].view(-1, 32)).view(-1, 3, 3) + torch.eye(
            3
        )
        x = torch.bmm(x.transpose(2, 1), matrix).transpose(2, 1)
        return self.head(torch.max(self.layers(x), 2)[0])


@on(floats(2, 3, 64))
class PointSegmentation(nn.Module):
    """Global features repeated beside each point's."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv1d(3, 16, 1), nn.Conv1d(16, 32, 1), nn.Conv1d(48, 24, 1)
        self.head = nn.Conv1d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        n = x.size(2)
        local = F.relu(self.a(x))
        whole = F.relu(self.b(local)).max(2, keepdim=True)[0].repeat(1, 1, n)
        return self.head(F.relu(self.c(torch.cat([local, whole], 1))))


@on(floats(2, 3, 24))
class EdgeConvolution(nn.Module):
    """DGCNN: the nearest neighbours' differences, gathered."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(6, 16, 1), nn.Conv2d(32, 24, 1), nn.Linear(24, 5)

    @staticmethod
    def edges(x: Tensor, k: int = 4) -> Tensor:
        b, c, n = x.shape
        nearest = torch.cdist(x.mT, x.mT).topk(k, largest=False).indices
        neighbours = torch.gather(x[:, :, None].expand(b, c, n, n), 3, nearest[:, None].expand(b, c, n, k))
        centre = x[..., None].expand(-1, -1, -1, k)
        return torch.cat([neighbours - centre, centre], 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(self.edges(x))).max(-1).values
        x = F.relu(self.second(self.edges(x))).max(-1).values
        return self.head(x.mean(-1))


def adjacency() -> Tensor:
    matrix = (torch.rand(10, 10) < 0.3).float()
    matrix = ((matrix + matrix.T) > 0).float() + torch.eye(10)
    return matrix / matrix.sum(1, keepdim=True)


@on(floats(10, 12), adjacency)
class GraphConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Parameter(torch.randn(12, 32) * 0.2), nn.Parameter(torch.randn(32, 4) * 0.2)
        self.b1, self.w3 = nn.Parameter(torch.zeros(32)), nn.Parameter(torch.randn(32, 32) * 0.2)

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        x = torch.relu(a @ (x @ self.w1) + self.b1)
        return F.log_softmax(a @ torch.relu(a @ (x @ self.w3)) @ self.w2, dim=-1)


@on(floats(10, 12), adjacency)
class GraphAttention(nn.Module):
    """Two vectors by head; scores by broadcast; heads concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.a, self.b = (
            nn.Linear(12, 32, bias=False),
            nn.Parameter(torch.randn(4, 8) * 0.2),
            nn.Parameter(torch.randn(4, 8) * 0.2),
        )
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        h = self.w(x).view(-1, 4, 8)
        scores = F.leaky_relu((h * self.a).sum(-1)[:, None] + (h * self.b).sum(-1)[None], 0.2)
        scores = scores.masked_fill(a[..., None] == 0, -1e9).softmax(1)
        return self.head(F.elu(torch.einsum("ijh,jhd->ihd", scores, h).flatten(1)))


@on(floats(10, 12), words(2, 25, most=10))
class MessagePassing(nn.Module):
    """Edges as a list; messages summed by index_add."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 24)
        self.message = nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 24))
        self.update, self.head = nn.GRUCell(24, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.first(x)
        for _ in range(2):
            messages = self.message(torch.cat([h[edges[0]], h[edges[1]]], dim=-1))
            h = self.update(torch.zeros_like(h).index_add(0, edges[1], messages), h)
        return self.head(h.sum(0))
