"""A distribution over the archs of a space: a softmax for every decision, of which only the active ones count.

log p(arch) is the sum over the active decisions, in the order in which those that control others come first, and so are its
gradient and the entropy.  Inactive decisions have no part: counting them would pull the logits of a conditional space towards
what was never built (Bender et al. 2020, "Can Weight Sharing Outperform Random Architecture Search? An Investigation with
TuNAS").
"""

from __future__ import annotations

import copy
import heapq
import itertools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas.choosing.steps import Choices, Steps
from nas.errors import SpaceError

if TYPE_CHECKING:
    from nas.space import Arch, Space

Floats = NDArray[np.float64]
Logits = Mapping[str, Sequence[float]]
TRIES = 1_000
"""Draws before a space whose rules leave next to nothing is given up."""


class Distribution:
    """Independent softmaxes over the decisions of a space, one after the other.

    Slots of a choice of distinct or ordered candidates are drawn from what the slots before them leave; a continuous decision
    is one of `bins` equal parts of its scaled range.  Archs that a rule of the space forbids are drawn again: `log_p` is then
    that of the draws before, whose expected gradient is the same where rewards are taken against their mean.

    Args:
        space: the space.
        logits: decision name -> a number for each option; those that are not named are uniform.
        bins: parts of a continuous decision's range.

    Attributes:
        values: (total,) logits of all decisions, one after the other; assign to them.

    Raises:
        SpaceError: logits of a decision that there is not, or another number of them.
    """

    def __init__(self, space: Space, logits: Logits | None = None, bins: int = 10) -> None:
        self.space, self.steps = space, Steps(space, bins)
        widths = self.steps.widths
        self._starts = [sum(widths[:p]) for p in range(self.steps.count)]
        self._counted: frozenset[int] | None = None
        self.values: Floats = np.zeros(sum(widths))
        for name, numbers in (logits or {}).items():
            if name not in space.names:
                raise SpaceError(f"logits are given for {name!r}, which is no decision of space {space.name!r}")
            p = space.names.index(name)
            if len(numbers) != widths[p]:
                raise SpaceError(
                    f"decision {name!r} of space {space.name!r} has {widths[p]} options, and {len(numbers)} logits are given"
                )
            self.values[self.of(p)] = numbers

    def of(self, p: int) -> slice:
        """Where the logits of decision `p` are among `values`."""
        return slice(self._starts[p], self._starts[p] + self.steps.widths[p])

    @property
    def logits(self) -> dict[str, list[float]]:
        """By decision name, JSON-able."""
        return {name: self.values[self.of(p)].tolist() for p, name in enumerate(self.space.names)}

    @property
    def flat(self) -> bool:
        """Whether every decision has the same options in every arch, and so every arch the same entropy."""
        return all(self.steps.is_free(p) for p in range(self.steps.count))

    def probabilities(self, p: int, options: Sequence[int]) -> Floats:
        """(options,) of decision `p`, given that these are open."""
        logits = self.values[self._starts[p] + np.asarray(options)]
        likely = np.exp(logits - logits.max())
        found: Floats = likely / likely.sum()
        return found

    # -- drawing -----------------------------------------------------------------------------------------------------------

    def draw(self, rng: random.Random, allows: Callable[[Arch], bool] | None = None) -> Arch:
        """A random arch.

        Args:
            rng: random numbers.
            allows: refuses archs beside the space's own rules.

        Raises:
            SpaceError: none of 1,000 draws is allowed.
        """
        for _ in range(TRIES):
            arch = self.steps.arch(self._filled([None] * self.steps.count, self.steps.order, rng), rng)
            if self.space.allows(arch) and (allows is None or allows(arch)):
                return arch
        raise self._none_allowed()

    def _filled(self, chosen: Choices, order: Sequence[int], rng: random.Random) -> Choices:
        for p in order:
            options = self.steps.options(p, chosen)
            chosen[p] = rng.choices(options, self.probabilities(p, options).tolist())[0] if options else None
        return chosen

    def likeliest(self) -> Arch:
        """The arch of the likeliest option of every decision, one after the other; the middle of a continuous one's part.

        Where a rule of the space forbids it, the likeliest that is allowed of those with other options in some decisions and the
        likeliest ones after each of them.

        Raises:
            SpaceError: none of 1,000 is allowed.
        """
        serial = itertools.count()  # of equally likely ones the first
        start, surprise = self._ended([None] * self.steps.count, 0)
        waiting = [(surprise, next(serial), start, 0)]
        for _ in range(TRIES):
            if not waiting:
                break
            _, _, chosen, begin = heapq.heappop(waiting)
            arch = self.steps.arch(chosen, _Middle())
            if self.space.allows(arch):
                return arch
            for at in range(
                begin, self.steps.count
            ):  # every list is made once, from the one that lacks its last change
                for changed in self._others(chosen, at):
                    other, surprise = self._ended(changed, at + 1)
                    heapq.heappush(waiting, (surprise, next(serial), other, at + 1))
        raise self._none_allowed()

    def _ended(self, chosen: Choices, begin: int) -> tuple[Choices, float]:
        """The choices with the likeliest options from the place `begin` of the order on, and −log p of the whole."""
        surprise = 0.0
        for place, p in enumerate(self.steps.order):
            options = self.steps.options(p, chosen)
            if not options:
                chosen[p] = None
                continue
            likely = self.probabilities(p, options)
            taken = chosen[p]
            at = int(likely.argmax()) if place >= begin or taken is None else list(options).index(taken)
            chosen[p] = options[at]
            surprise -= float(np.log(likely[at]))
        return chosen, surprise

    def _others(self, chosen: Choices, at: int) -> list[Choices]:
        """The choices before the place `at` of the order, with each other option there."""
        p = self.steps.order[at]
        found = []
        for option in self.steps.options(p, chosen):
            if option != chosen[p]:
                found.append([*chosen])
                found[-1][p] = option
        return found

    def _none_allowed(self) -> SpaceError:
        return SpaceError(
            f"none of {TRIES:,} archs that were drawn is allowed by the rules of space {self.space.name!r}; relax them"
        )

    def flipped(self, arch: Arch, p: int, option: int, rng: random.Random) -> Arch:
        """`arch` with another option of decision `p`: what depends on that is drawn, everything else stays."""
        chosen, below = self.steps.choices(arch), self.steps.below(p)
        chosen[p] = option
        made = self.steps.arch(self._filled(chosen, below, rng), rng)
        if not self.space.floats:
            return made
        new = {p, *below}
        genome = [made.genome[q] if q in new else arch.genome[q] for q in range(self.steps.count)]
        return self.space.from_row(genome)

    # -- counting ----------------------------------------------------------------------------------------------------------

    def counting(self, decisions: Iterable[int]) -> Distribution:
        """This distribution as it is now, of which only these decisions are active for whoever counts."""
        found = copy.copy(self)
        found._counted = frozenset(decisions)
        return found

    def active(self, arch: Arch) -> list[tuple[int, Sequence[int], int]]:
        """(decision, open options, the place of the one taken among them) of each active decision with two options or more."""
        chosen = self.steps.choices(arch)
        found = []
        for p in self.steps.order:
            if self._counted is not None and p not in self._counted:
                continue
            options = self.steps.options(p, chosen)
            taken = chosen[p]
            if len(options) > 1 and taken is not None:
                found.append((p, options, list(options).index(taken)))
        return found

    def log_p(self, arch: Arch) -> float:
        """Logarithm of the probability of the arch's options."""
        return float(sum(np.log(self.probabilities(p, options)[at]) for p, options, at in self.active(arch)))

    def slope(self, arch: Arch) -> Floats:
        """(total,) gradient of `log_p` with respect to the logits."""
        found = np.zeros_like(self.values)
        for p, options, at in self.active(arch):
            part = -self.probabilities(p, options)
            part[at] += 1
            found[self._starts[p] + np.asarray(options)] += part
        return found

    def entropy(self, arch: Arch) -> tuple[float, Floats]:
        """Sum of the entropies of the decisions that are active in `arch`, in nats, and its (total,) gradient."""
        total, slope = 0.0, np.zeros_like(self.values)
        for p, options, _ in self.active(arch):
            probability = self.probabilities(p, options)
            logs = np.log(np.maximum(probability, 1e-300))
            entropy = -float(probability @ logs)
            total += entropy
            slope[self._starts[p] + np.asarray(options)] -= probability * (logs + entropy)
        return total, slope


class _Middle(random.Random):
    """What draws the middle of every part."""

    def random(self) -> float:
        return 0.5
