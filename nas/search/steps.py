"""What searches that walk down the tree of a space have in common."""

from __future__ import annotations

import random
from collections.abc import Container
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.space import Arch

_MUTATIONS = 8


def beside(arch: Arch, known: Container[str], rng: random.Random) -> Arch:
    """`arch`, if its key is not `known`; else one a few mutations away, which is known only where nearly all are."""
    for _ in range(_MUTATIONS):
        if arch.key not in known:
            break
        arch = arch.space.mutate(arch, rng)
    return arch


def mutated(arch: Arch, rng: random.Random, regrow: float, probability: float | None = None) -> Arch:
    """`arch` with a subtree grown anew with probability `regrow`, else with one decision mutated, or each with `probability`."""
    if regrow > 0 and rng.random() < regrow:
        return arch.space.regrow(arch, rng)
    return arch.space.mutate(arch, rng, probability)


def weights(count: int, rng: random.Random) -> list[float]:
    """`count` weights that sum to 1, uniformly from all such (a flat Dirichlet distribution)."""
    drawn = [rng.expovariate(1.0) for _ in range(count)]
    total = sum(drawn)
    return [weight / total for weight in drawn]
