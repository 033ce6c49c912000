"""Recurrent layers that project their hidden states: to fewer numbers, as torch asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from nas.convert.plan import Plan
from nas.convert.spelling import spelled
from nas.supernet import parts

if TYPE_CHECKING:
    from nas.space import Arch


@dataclass(frozen=True)
class Projected:
    """A rule of a space: refuses archs in which a layer projects to as many numbers as its hidden states have, or more.

    torch makes no such layer, and takes one whose sizes are equal for one without a projection.

    Args:
        plan: of the space.
        weights: names of projections, each (numbers, hidden states).
    """

    plan: Plan
    weights: tuple[str, ...]

    def __call__(self, arch: Arch) -> bool:
        """Whether the arch is allowed."""
        choices = arch.choices
        names = {decision.name: spelled(decision.name) for decision in self.plan.decisions}
        sizes = self.plan.sizes({name: choices[told] for name, told in names.items() if told in choices})
        axes = (self.plan.tensors[name] for name in self.weights)
        return all(parts.length(numbers, sizes) < parts.length(hidden, sizes) for numbers, hidden in axes)


def projected(model: nn.Module, plan: Plan) -> Projected | None:
    """The rule of a model; None where it has no recurrent layer with an elastic projection."""
    found = [
        f"{path}.weight_hr_l0".lstrip(".")
        for path, layer in model.named_modules()
        if isinstance(layer, nn.RNNBase) and layer.proj_size
    ]
    elastic = [name for name in found if _decided(plan, name)]
    return Projected(plan, tuple(elastic)) if elastic else None


def _decided(plan: Plan, name: str) -> bool:
    return any(plan.atoms[atom].decision for axis in plan.tensors.get(name, ()) for atom in parts.atoms(axis))
