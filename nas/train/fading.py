"""Layers that help while a network is trained, and are gone when it is used: they fade into what `nas.fold` merges away.

Chen et al. 2023, "VanillaNet: the Power of Minimalism in Deep Learning": an activation between two layers becomes the identity
while the network trains (`Fade(nn.ReLU(), nn.Identity())` is the leaky ReLU whose slope rises to 1), and the two layers are
merged afterwards.  Guo et al. 2024, "SLAB: Efficient Transformers with Simplified Linear Attention and Progressive
Re-parameterized Batch Normalization": a LayerNorm becomes a BatchNorm beside a scaled skip (`Fade(nn.LayerNorm(n), RepNorm(n))`),
which goes into the next linear layer.  The authors' programs keep the share in a Python attribute, and evaluate with the second
norm alone; here it is a buffer, which checkpoints have, and a network is evaluated as it is trained.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nas.checking import Count, Natural, checked
from nas.errors import TrainError
from nas.train.samplers import Sampler

if TYPE_CHECKING:
    from nas.space import Arch, Space
    from nas.supernet import Supernet

_SHARE = "faded_share"


class Fade(nn.Module):
    """`(1 - share) * first(x) + share * second(x)`: 0 of the second at first, and whatever `Fading` makes of it.

    Both are computed, whatever the share is; `nas.fold` drops the first once the share is 1.

    Args:
        first: what is trained with.
        second: what is left; takes and gives what the first does.

    Raises:
        TrainError: one changes its input in place, which the other reads.
    """

    faded_share: Tensor

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        for module in (*first.modules(), *second.modules()):
            if getattr(module, "inplace", False):
                raise TrainError(
                    f"Fade was given {module}, which changes its input in place, and both modules read it; give inplace=False"
                )
        self.first, self.second = first, second
        self.register_buffer("faded_share", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape that both take -> what they give."""
        one: Tensor = self.first(x.clone())  # whose functions may write into it
        other: Tensor = self.second(x)
        return (1 - self.faded_share) * one + self.faded_share * other


class RepNorm(nn.Module):
    """A BatchNorm over the last axis beside a scaled skip: `norm(x) + skip * x`.

    Args:
        width: length of the last axis.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.skip = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """(n, …, width) -> the same shape."""
        if x.ndim == 2:
            y: Tensor = self.norm(x)
        else:
            y = self.norm(x.flatten(1, -2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)
        return y + self.skip * x


@checked(TrainError)
@dataclass(frozen=True)
class Fading(Sampler):
    """Lets every `Fade` of the supernet go from its first module to its second; `sampler` chooses the archs.

    The share is a function of the step alone, so that a training resumes with it: 0 until step `start`, then rising linearly, and
    1 from step `start + steps` on, which must be before the last.  VanillaNet's is over in a third of the training; the rest
    adapts the network to what is left.

    Args:
        sampler: any.
        steps: of the rise.
        start: its first step.

    Raises:
        TrainError: when the training begins: the supernet's archs have no `Fade`, or the share is not 1 before its last step.
    """

    sampler: Sampler
    steps: Count
    start: Natural = 0

    def share(self, step: int) -> float:
        """Of the second module at step 0, 1, …"""
        return min(1.0, max(0.0, (step - self.start) / self.steps))

    def archs(self, space: Space, step: int, rng: random.Random) -> list[Arch]:
        """The sampler's."""
        return self.sampler.archs(space, step, rng)

    def begin(self, supernet: Supernet, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Sets the shares, after the sampler's own."""
        self.sampler.begin(supernet, optimizer, step)
        shares = _shares(supernet)
        if not shares:
            supernet.hold({name for name in supernet.own_buffers() if name.rpartition(".")[2] == _SHARE})
            shares = _shares(supernet)
        if not shares:
            raise TrainError("Fading has nothing to fade: no arch of the space has a nas.Fade; put one into the model")
        with torch.no_grad():
            for share in shares:
                share.fill_(self.share(step))

    def check(self, steps: int) -> None:
        """Whether the second module alone is trained for a step at least, after the sampler's own check."""
        self.sampler.check(steps)
        if self.share(steps - 1) < 1:
            raise TrainError(
                f"Fading ends at step {self.start + self.steps + 1} of {steps}, so that no network would be trained without the "
                f"first modules; start + steps is at most {steps - 1}"
            )

    def describe(self) -> dict[str, Any]:
        """Options, and the sampler's own."""
        return {"class": "Fading", "sampler": self.sampler.describe(), "steps": self.steps, "start": self.start}


def _shares(supernet: Supernet) -> list[Tensor]:
    return [tensor for name, tensor in supernet.named_buffers() if name.rpartition(".")[2] == _SHARE]
