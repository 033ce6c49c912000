"""Evaluations that go a part of the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nas.evaluate.base import Evaluator, settings_of

if TYPE_CHECKING:
    from nas.space import Arch, Space


class Partial(Evaluator):
    """An evaluator that goes as far as it is told, and no further.

    Args:
        evaluator: one that has `up_to`.
        far: in the unit of its fidelity.
    """

    def __init__(self, evaluator: Evaluator, far: float) -> None:
        self.evaluator, self.far = evaluator, far
        self.metrics, self.cost, self.needs = evaluator.metrics, evaluator.cost, evaluator.needs
        self.exclusive = evaluator.exclusive

    def __call__(self, arch: Arch) -> Mapping[str, float]:
        """What the evaluator measures when it has come so far."""
        return self.evaluator.up_to(arch, self.far)

    def check(self, space: Space) -> None:
        """As the evaluator does."""
        self.evaluator.check(space)

    def describe(self) -> dict[str, Any]:
        """The evaluator, and how far it goes."""
        return {"name": "Partial", "far": self.far, "evaluator": settings_of(self.evaluator)}

    def inner(self) -> Sequence[Evaluator]:
        """The evaluator."""
        return (self.evaluator,)
