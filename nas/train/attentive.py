"""Attentive sampling: of several archs of about the same cost, train the best or the worst.

Wang et al. 2021, "AttentiveNAS: Improving Neural Architecture Search via Attentive Sampling".
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import torch

from nas.checking import Count, Positive, Range, checked
from nas.errors import TrainError
from nas.identity import IDENTITY, identity
from nas.supernet.inputs import like
from nas.train.samplers import Sampler
from nas.train.task import Batch, Task
from nas.train.validate import device_of, evaluating

if TYPE_CHECKING:
    from nas.space import Arch, Space
    from nas.supernet import Supernet

TRIES = 100
"""Draws to hit a cost before the last one is taken."""


class Attentive(Sampler):
    """Largest, smallest and `n` attentive archs: each the best (BestUp) or worst (WorstUp) of `k` of one cost.

    A cost is drawn from the histogram of `pool` random archs; then `k` archs are drawn, decision by decision from how often the
    pool's archs of that bin chose what, until they have that cost (at most 100 tries, then the last is taken).
    `score` picks one.

    The histogram is a function of the space, and the sampler's draws of the step alone; `score` may look at the weights.
    The cost of an arch is asked once: counting with a supernet builds the arch's modules, which takes longer than a small
    training step, and most of the time of a first step is that of the pool.

    Args:
        score: of an arch, higher is better: `BatchScore(supernet, task)`, or a predictor's.
        cost: of an arch: `supernet.macs`, `supernet.params`; does not change with training.
        width: of a bin, in units of the cost (25e6 operations in the paper).
        best: True trains the best of the `k`, False the worst.
        k: archs compared; 3 in the paper.
        n: attentive archs a step.
        pool: random archs for the histogram.

    Raises:
        TrainError: an argument is not what it must be.
    """

    @checked(TrainError)
    def __init__(
        self,
        score: Callable[[Arch], float],
        cost: Callable[[Arch], float],
        width: Positive,
        *,
        best: bool = True,
        k: Annotated[int, Range(least=2)] = 3,
        n: Count = 2,
        pool: Annotated[int, Range(least=2)] = 1000,
    ) -> None:
        self.score, self.cost, self.width = score, cost, width
        self.best, self.k, self.n, self.pool = best, k, n, pool
        self._known: tuple[str, Histogram] | None = None
        self._costs: dict[str, float] = {}

    def histogram(self, space: Space) -> Histogram:
        """Of the space's random archs; worked out once.

        Raises:
            TrainError: all have one cost, or the space has float decisions.
        """
        if self._known is None or self._known[0] != space.fingerprint:
            self._known = space.fingerprint, Histogram.of(space, self._cost, self.width, self.pool)
        return self._known[1]

    def archs(self, space: Space, step: int, rng: random.Random) -> list[Arch]:
        """Largest, smallest, then the attentive ones."""
        if isinstance(self.score, BatchScore):
            self.score.begin(step)
        histogram = self.histogram(space)
        chosen = [self._attentive(space, histogram, rng) for _ in range(self.n)]
        return list(dict.fromkeys([space.largest, space.smallest, *chosen]))

    def _attentive(self, space: Space, histogram: Histogram, rng: random.Random) -> Arch:
        target = histogram.target(rng)
        drawn = list(dict.fromkeys(histogram.draw(space, target, self._cost, rng) for _ in range(self.k)))
        scores = [self.score(arch) for arch in drawn]
        if any(math.isnan(score) for score in scores):
            raise TrainError("Attentive's score of an arch is not a number")
        wanted = max(scores) if self.best else min(scores)
        return drawn[scores.index(wanted)]

    def _cost(self, arch: Arch) -> float:
        if arch.key not in self._costs:
            self._costs[arch.key] = self.cost(arch)
        return self._costs[arch.key]

    def describe(self) -> dict[str, Any]:
        """Options, and what score and cost are."""
        names = {name: _name(getattr(self, name)) for name in ("score", "cost")}
        options = {"width": self.width, "best": self.best, "k": self.k, "n": self.n, "pool": self.pool}
        what = {name: identity(getattr(self, name)) for name in ("score", "cost")}
        return {"class": "Attentive", **names, **options, IDENTITY: what}


@dataclass(frozen=True)
class Histogram:
    """How often random archs have a cost, and what those of each cost chose."""

    width: float
    bins: dict[int, int]
    """Bin -> number of archs."""
    chosen: dict[int, list[Counter[int]]]
    """Bin -> for each decision how often each candidate was active."""

    @classmethod
    def of(cls, space: Space, cost: Callable[[Arch], float], width: float, pool: int) -> Histogram:
        """The histogram of `pool` random archs."""
        if space.floats:
            raise TrainError(f"Attentive counts candidates, and space {space.name!r} has float decisions; use Sandwich")
        draw = random.Random(0)
        bins: Counter[int] = Counter()
        chosen: dict[int, list[Counter[int]]] = {}
        for arch in (space.sample(draw) for _ in range(pool)):
            place = int(cost(arch) // width)
            bins[place] += 1
            counters = chosen.setdefault(place, [Counter() for _ in space.decisions])
            for counter, gene in zip(counters, arch.genome, strict=True):
                if gene is not None:
                    counter[int(gene)] += 1
        if len(bins) == 1:
            raise TrainError(
                f"{pool} random archs of space {space.name!r} all cost the same to within width={width:g}; choose a smaller one"
            )
        return cls(width, dict(sorted(bins.items())), chosen)

    def target(self, rng: random.Random) -> int:
        """A bin, as often as random archs are in it."""
        return rng.choices(list(self.bins), list(self.bins.values()))[0]

    def draw(self, space: Space, target: int, cost: Callable[[Arch], float], rng: random.Random) -> Arch:
        """An arch of bin `target`; after 100 tries one of another."""
        for _ in range(TRIES):
            arch = space.repair([_gene(counter, rng) for counter in self.chosen[target]])
            if cost(arch) // self.width == target:
                break
        return arch


def _gene(counter: Counter[int], rng: random.Random) -> int:
    """A candidate; the first where the decision was never active, so that it is dropped."""
    return rng.choices(list(counter), list(counter.values()))[0] if counter else 0


class BatchScore:
    """−loss of a subnet on the training batch of the step, with that batch's own statistics: what AttentiveNAS compares by.

    Each step has a batch of its own: the first has the first of epoch 0, as in a training without `accumulate`.  Batches are
    read a second time for it.  The supernet is left as it is.
    """

    @checked(TrainError)
    def __init__(self, supernet: Supernet, task: Task) -> None:
        self.supernet, self.task = supernet, task
        self._next = 0  # step of the batch that `_batches` gives next
        self._batches: Iterator[Batch] = task.train_batches(0)
        self.begin(0)

    def begin(self, step: int) -> None:
        """Compare by the batch of this step from now on."""
        if step == self._next - 1:
            return
        epoch, place = divmod(step, self.task.steps_per_epoch)
        if step != self._next or place == 0:
            self._batches = islice(self.task.train_batches(epoch), place, None)
        self._batch, self._next = next(self._batches), step + 1

    @torch.no_grad()
    def __call__(self, arch: Arch) -> float:
        """Higher is better."""
        batch = self._batch.to(device_of(self.supernet))
        with evaluating(self.supernet):
            buffers = self.supernet.calibrate(arch, [like(batch.inputs, self.task.example)])
            return -float(self.task.loss(self.supernet(batch.inputs, arch, buffers), batch))


def _name(function: object) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))
