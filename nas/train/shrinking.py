"""Progressive shrinking: first the largest network, then smaller and smaller ones beside it.

Cai et al. 2020, "Once-for-All": kernels first, then depths, then widths, whose channels are sorted by importance before
narrower ones are cut.  Everything is a function of the step (and of the weights, for the sorting), so that a training that was
killed and resumed goes on as it would have.

The paper trains each phase under a cosine of its own: give a `Training` `schedule=progressive.schedule(steps)`.  Under one
schedule for all, the last phase, the only one with the smallest networks, is trained at the lowest rates.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nas.checking import Positive, checked
from nas.errors import TrainError, suggest
from nas.space.activity import matches
from nas.supernet.order import reorder
from nas.train.samplers import Sampler
from nas.train.schedule import Schedule

if TYPE_CHECKING:
    import torch

    from nas.space import Arch, Space
    from nas.space.compiling import Decision
    from nas.supernet import Supernet


@checked(TrainError)
@dataclass(frozen=True)
class Phase:
    """Some steps of a progressive shrinking.

    Args:
        steps: their number; the last phase goes on to the end of the training.
        candidates: decision -> candidates that become allowed.  A name means the decision and all inside: "kernels" is
            every `kernels[0][1]`.  None allows all candidates.
        n: archs a step, drawn independently from what is allowed.
        sort: renumber channels by importance before the first step (`nas.supernet.order.reorder`); channels stay within the
            brackets that were trained in the phases before.
        lr: highest rate of the phase as a fraction of the training's, with `Progressive.schedule`.
    """

    steps: int
    candidates: Mapping[str, Sequence[Any] | None] = field(default_factory=dict)
    n: int = 1
    sort: bool = False
    lr: Positive = 1.0

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("n", self.n)):
            if not isinstance(value, int) or value < 1:
                raise TrainError(f"Phase({name}={value!r}) is not a whole number of {name}; choose 1 or more")


@checked(TrainError)
@dataclass(frozen=True)
class Progressive(Sampler):
    """Archs from a set that grows from phase to phase; what no phase named so far is as in the largest arch.

    Decisions that the largest arch does not have are free from the start.

    Args:
        phases: in their order.
        readers: name patterns of the tensors by which sorting measures importance; () is all that read a channel.

    Raises:
        TrainError: there is no phase; or a phase names a decision or candidate that the space does not have.
    """

    phases: Sequence[Phase]
    readers: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.phases:
            raise TrainError("Progressive(phases=[]) has no phase; give at least one Phase(steps, {...})")

    def describe(self) -> dict[str, Any]:
        """See `Sampler`; a phase's `lr` where it is not 1, so that earlier trainings are known again."""
        found = super().describe()
        for phase in found["phases"] if isinstance(found["phases"], list) else ():
            if phase.get("lr") == 1.0:
                del phase["lr"]
        return found

    def phase(self, step: int) -> int:
        """Index of the phase of step 0, 1, …"""
        ends = itertools.accumulate(phase.steps for phase in self.phases[:-1])
        return sum(step >= end for end in ends)

    def schedule(self, steps: int) -> Rates:
        """A warm-up of a twentieth and half a cosine for each phase, for a training of so many steps.

        Raises:
            TrainError: the training is over before its last phase begins.
        """
        *before, _ = [phase.steps for phase in self.phases]
        if steps <= sum(before):
            raise TrainError(
                f"a training of {steps} steps is over before the last of {len(self.phases)} phases, which begins after "
                f"{sum(before)} steps; give more steps"
            )
        lengths = (*before, steps - sum(before))
        return Rates(lengths, tuple(phase.lr for phase in self.phases))

    def archs(self, space: Space, step: int, rng: random.Random) -> list[Arch]:
        """Drawn uniformly per decision, each once: fewer than `n` where the same was drawn twice."""
        number = self.phase(step)
        genes = self._allowed(space, number)
        return list(dict.fromkeys(_draw(space, genes, rng) for _ in range(self.phases[number].n)))

    def begin(self, supernet: Supernet, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Sorts channels, and the optimizer's state with them, when `step` is the first of a phase that asks for it."""
        number = self.phase(step)
        first = sum(phase.steps for phase in self.phases[:number])
        if step != first or not self.phases[number].sort:
            return
        trained = self.trained(supernet.space, number)
        reorder(supernet, trained=trained, readers=self.readers, optimizer=optimizer)

    def trained(self, space: Space, number: int) -> list[Arch]:
        """Archs that show what the phases before phase `number` trained; [] when there is none.

        Each candidate that they allowed occurs with everything else largest; in one more arch all are the first at once.
        A length that only two decisions together make (a ratio of a smaller width) is not among them, and no bracket.
        """
        if not number:
            return []
        genes = self._allowed(space, number - 1)
        top = [_top(space, index, allowed) for index, allowed in enumerate(genes)]
        vectors = [top]
        for index, allowed in enumerate(genes):
            vectors += [[*top[:index], gene, *top[index + 1 :]] for gene in allowed if gene != top[index]]
        vectors.append([allowed[0] for allowed in genes])
        return list(dict.fromkeys(space.repair(vector) for vector in vectors))

    def _allowed(self, space: Space, number: int) -> list[list[Any]]:
        """For each decision the genes that phase `number` may use; of a float its value, or its bounds once it is open."""
        genes = [_fixed(space, index) for index in range(len(space.decisions))]
        for phase in self.phases[: number + 1]:
            for name, candidates in phase.candidates.items():
                touched = [decision for decision in space.decisions if matches(decision.name, name)]
                if not touched:
                    raise TrainError(
                        f"Progressive names {name!r}, which is no decision of space {space.name!r}"
                        f"{suggest(name, space.names)}"
                    )
                for decision in touched:
                    found = _genes(space, decision, candidates)
                    held = genes[decision.index]
                    genes[decision.index] = found if decision.point.range else sorted({*held, *found})
        return genes


@dataclass(frozen=True)
class Rates:
    """The learning rate of phases, as `nas.Training` takes it as `schedule`.

    Args:
        steps: of each phase.
        highest: rate of each, as a fraction of the optimizer's.
    """

    steps: tuple[int, ...]
    highest: tuple[float, ...]

    def __call__(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """A scheduler of torch."""
        import torch

        return torch.optim.lr_scheduler.LambdaLR(optimizer, self.share)

    def share(self, step: int) -> float:
        """Rate of step 0, 1, … as a fraction of the optimizer's; 0 after the last."""
        for length, highest in zip(self.steps, self.highest, strict=True):
            if step < length:
                return Schedule(highest, length, length // 20)(step)
            step -= length
        return 0.0


def _fixed(space: Space, index: int) -> list[Any]:
    """The largest arch's gene; all of them where it has none."""
    gene = space.largest.genome[index]
    return [gene] if gene is not None else _genes(space, space.decisions[index], None)


def _genes(space: Space, decision: Decision, candidates: Sequence[Any] | None) -> list[Any]:
    """Genes of `candidates`: indices by value or label, or the bounds of a float; None is everything."""
    if (bounds := decision.point.range) is not None:
        if candidates is not None:
            raise TrainError(
                f"Progressive gives candidates for {decision.name!r}, which is a float; give None to open it"
            )
        return [bounds.low, bounds.high]
    labels = list(decision.labels)
    if candidates is None:
        return list(range(len(labels)))
    for candidate in candidates:
        if candidate not in labels:
            shown = ", ".join(map(str, labels))
            raise TrainError(
                f"Progressive allows {candidate!r} for {decision.name!r} of space {space.name!r}, which is one of {shown}"
            )
    return [labels.index(candidate) for candidate in candidates]


def _draw(space: Space, genes: Sequence[Sequence[Any]], rng: random.Random) -> Arch:
    """A gene for every decision; those that turn out inactive are dropped."""
    numbers = []
    for decision, allowed in zip(space.decisions, genes, strict=True):
        bounds = decision.point.range
        free = bounds is not None and len(allowed) > 1
        numbers.append(bounds.value(rng.random()) if bounds is not None and free else rng.choice(allowed))
    return space.repair(numbers)


def _top(space: Space, index: int, allowed: Sequence[Any]) -> Any:
    """The largest arch's gene, where it has one."""
    gene = space.largest.genome[index]
    return gene if gene is not None else allowed[-1]
