"""Published ways to low rank, as a sampler and a loss.

Xu et al. 2020, "TRP: Trained Rank Pruning for Efficient Deep Neural Networks"; Guo et al. 2024, "PELA: Learning
Parameter-Efficient Models with Low-Rank Approximation".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

import nas
from nas.train import Batch, Labels, Loss, Sampler, Step
from nas.train.losses import Around, digest


@dataclass(frozen=True)
class Truncated(Sampler):
    """TRP: trains the largest arch, whose layers become matrices of their `ranks` again every few steps.

    Singular values beyond the rank are dropped.  The others lose what the subgradient of the nuclear norm takes from them at the
    optimizer's rate in as many steps, and stay at least 0.  The authors choose ranks by energy; here they are given, so that
    networks end with as many parameters as others.

    Args:
        ranks: of linear layers, by name.
        every: steps from one truncation to the next.
        nuclear: weight of the nuclear norm; 3e-4 is the authors'.
    """

    ranks: Mapping[str, int]
    every: int = 20
    nuclear: float = 3e-4

    def archs(self, space: nas.Space, step: int, rng: Random) -> list[nas.Arch]:  # noqa: ARG002
        """The largest alone."""
        return [space.largest]

    @torch.no_grad()
    def begin(self, supernet: nas.Supernet, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Truncates, if it is time."""
        if step % self.every:
            return
        shrink = self.nuclear * optimizer.param_groups[0]["lr"] * self.every
        for layer, rank in self.ranks.items():
            weight = supernet.get_parameter(f"{layer}.weight")
            left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
            weight.copy_(left[:, :rank] * (values[:rank] - shrink).clamp(min=0.0) @ right[:rank])


@dataclass(frozen=True, eq=False)
class Near(Around):
    """PELA's limit to how far factors move: another loss, and (max |up · down − W| − margin)² of each layer, summed.

    The authors add the mean squared difference of features, which is `Features(…, Hint("none"))`.

    Args:
        net: with the factors.
        teacher: with the layers as they were.
        ranks: of linear layers, by name.
        loss: the other.
        weight: of the sum.
        margin: 1e-3 is the authors'.
    """

    net: nas.Supernet
    teacher: nn.Module
    ranks: Mapping[str, int]
    loss: Loss = Labels()  # noqa: RUF009 (frozen)
    weight: float = 1.0
    margin: float = 1e-3

    def __call__(self, output: Any, batch: Batch, step: Step) -> Tensor:
        """The sum of both."""
        value = self.loss(output, batch, step)
        for layer, rank in self.ranks.items():
            down, up = (self.net.get_parameter(f"{layer}.{one}.weight") for one in ("down", "up"))
            far = (up[:, :rank] @ down[:rank] - self.teacher.get_parameter(f"{layer}.weight").detach()).abs().amax()
            value = value + self.weight * (far - self.margin).square()
        return value

    def describe(self) -> dict[str, Any]:
        """Options, the loss's own, and a digest of the teacher's weights."""
        options = {"ranks": dict(self.ranks), "weight": self.weight, "margin": self.margin}
        return {"class": "Near", **options, "loss": self.loss.describe(), "teacher": digest(self.teacher)}
