"""Memory that the weights of a subnet take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nas.checking import checked
from nas.errors import EvaluationError
from nas.evaluate.base import Cost, Evaluator
from nas.evaluate.subnets import Source, Weights
from nas.supernet.skeleton import build_skeleton, parameters_of

if TYPE_CHECKING:
    from nas.space import Arch, Space

MIB = 2**20


class Memory(Evaluator):
    """MiB of a subnet's parameters, each tie once, in the number type that they have.

    Args:
        source: a supernet, a training or a checkpoint's folder.
    """

    weights: Weights
    cost: Cost = "cheap"
    metrics = ("weights_mib",)

    @checked(EvaluationError)
    def __init__(self, source: Source) -> None:
        self.weights = Weights(source)

    def __call__(self, arch: Arch) -> dict[str, float]:
        """One number."""
        return {"weights_mib": weights_mib(self.weights.get(arch.space).space, arch)}

    def check(self, space: Space) -> None:
        """Whether the supernet is there."""
        self.weights.check(space)

    def describe(self) -> dict[str, Any]:
        """JSON-able name."""
        return {"name": "Memory"}


def weights_mib(space: Space, arch: Arch) -> float:
    """MiB of an arch's parameters, without giving them values."""
    entries = parameters_of(build_skeleton(space, arch))
    return sum(one.tensor.numel() * one.tensor.element_size() for one in entries) / MIB
