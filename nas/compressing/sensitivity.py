"""What each decision alone costs in quality, from a few training batches: a smaller network without a supernet's training.

Every candidate of every decision is measured with all else whole, once, and kept by hash.  A threshold then gives a network: each
decision has the cheapest candidate that loses at most so much.  The network for a budget is that of the lowest threshold within
it, by bisection, so that another budget costs nothing (the idea of FastNAS in NVIDIA's Model-Optimizer).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas.checking import Count, NonNegative, checked
from nas.compressing.calibration import DIVERGENCE, LOSS, Calibration
from nas.compressing.uniform import largest_within
from nas.errors import EvaluationError
from nas.evaluate import Once
from nas.search.replacements import Replacements
from nas.supernet import Supernet
from nas.text import human
from nas.train import Task
from nas.train.log import Reporter

if TYPE_CHECKING:
    import pandas as pd

    from nas.space import Arch, Space

SPREAD = 8  # values of a decision between more numbers than can be listed


@dataclass(frozen=True)
class Alternative:
    """One decision replaced, all else whole.

    Attributes:
        place: of the decision.
        gene: what it is instead.
        value: the same as a candidate.
        lost: how far the network is from the whole one; 0 is nothing.
        macs: of the network.
        params: of the network.
    """

    place: int
    gene: int | float
    value: object
    lost: float
    macs: float
    params: float


class Sensitivities:
    """What each decision alone loses, and networks chosen by it; see `nas.sensitivities`.

    Attributes:
        space: of the networks.
        metric: "divergence" or "calibration_loss", above that of the whole network with statistics of these batches.
        alternatives: one for each candidate of each decision, the whole network's own included.
    """

    def __init__(self, space: Space, metric: str, alternatives: Sequence[Alternative]) -> None:
        self.space, self.metric, self.alternatives = space, metric, list(alternatives)

    @property
    def table(self) -> pd.DataFrame:
        """A row for each alternative: decision, value, what is lost, macs, params."""
        import pandas as pd

        names = [decision.name for decision in self.space.decisions]
        rows = [(names[one.place], one.value, one.lost, one.macs, one.params) for one in self.alternatives]
        return pd.DataFrame(rows, columns=["decision", "value", "lost", "macs", "params"])

    def __str__(self) -> str:
        """A line for each decision: what its candidates lose."""
        lines = []
        for place, decision in enumerate(self.space.decisions):
            found = [one for one in self.alternatives if one.place == place]
            if found:
                lost = ", ".join(
                    f"{one.value} {human(one.lost)}" for one in sorted(found, key=lambda one: one.macs, reverse=True)
                )
                lines.append(f"{decision.name}: {lost}")
        return "\n".join(lines)

    @checked(EvaluationError)
    def at(self, threshold: NonNegative) -> Arch:
        """Each decision the cheapest candidate that alone loses at most `threshold`.

        Raises:
            EvaluationError: a rule of the space forbids that network.
        """
        found = self._composed(self._cheapest(threshold))
        if found is None:
            raise EvaluationError(f"a rule of space {self.space.name!r} forbids the network of threshold={threshold:g}")
        return found

    def path(self) -> list[Arch]:
        """Networks of all thresholds, from that which loses nothing to the smallest; those that a rule forbids are left out."""
        thresholds = sorted({max(one.lost, 0.0) for one in self.alternatives})
        found = (self._composed(self._cheapest(one)) for one in thresholds)
        return list(dict.fromkeys([self.space.largest, *(arch for arch in found if arch is not None)]))

    def within(self, cost: Callable[[Arch], float], bound: float) -> Arch | None:
        """The network of the lowest threshold within a budget; then widened where the budget has room.

        Args:
            cost: of an arch; asked for about the logarithm of the alternatives, and once for each decision.
            bound: the most.

        Returns:
            None where the network of the highest threshold costs more.
        """
        found = largest_within(self.path()[::-1], cost, bound)
        return None if found is None else self._filled(found, cost, bound)

    def _filled(self, arch: Arch, cost: Callable[[Arch], float], bound: float) -> Arch:
        """Each decision in turn one candidate larger, where that fits; what loses most comes first."""
        now = {one.place: one for one in self.alternatives if arch.genome[one.place] == one.gene}
        for place in sorted(now, key=lambda place: now[place].lost, reverse=True):
            larger = [one for one in self.alternatives if one.place == place and one.macs > now[place].macs]
            if not larger:
                continue
            wider = self._composed({**now, place: min(larger, key=_costs)})
            if wider is not None and cost(wider) <= bound:
                now[place], arch = min(larger, key=_costs), wider
        return arch

    def _cheapest(self, threshold: float) -> dict[int, Alternative]:
        chosen: dict[int, Alternative] = {}
        for one in self.alternatives:
            if one.lost <= threshold and (one.place not in chosen or _costs(one) < _costs(chosen[one.place])):
                chosen[one.place] = one
        return chosen

    def _composed(self, chosen: dict[int, Alternative]) -> Arch | None:
        genes = [0 if gene is None else gene for gene in self.space.largest.genome]
        for place, one in chosen.items():
            genes[place] = one.gene
        found = self.space.repair(genes)
        return found if self.space.allows(found) else None


@checked(EvaluationError)
def sensitivities(
    net: Supernet,
    task: Task,
    *,
    batches: Count = 8,
    folder: str | Path | None = None,
    device: str | None = None,
    progress: bool = True,
) -> Sensitivities:
    """What each candidate of each decision loses with all else whole, measured on training batches.

    >>> found = nas.sensitivities(net, task, folder="sensitivities")  # doctest: +SKIP
    >>> arch = found.within(net.macs, 0.5 * net.macs(net.space.largest))  # doctest: +SKIP

    Put channels in order before (`nas.reorder`), or narrower candidates keep any of them.

    Args:
        net: with trained weights.
        task: gives the batches; outputs are compared as it says, losses where it does not.
        batches: their number.
        folder: keeps measurements by hash of weights, data and network: for other budgets, and after a kill.
        device: where networks are evaluated; None is where the supernet is.
        progress: show a bar or lines.

    Raises:
        EvaluationError: the task has no training batch; what the whole network gives is no number; or the folder cannot be used.
    """
    quality, space = Calibration(net, task, batches=batches, device=device), net.space
    measure = quality if folder is None else Once(quality, _key, folder)
    metric = DIVERGENCE if DIVERGENCE in quality.metrics else LOSS
    base, replaced = space.largest, Replacements(space, space.largest, SPREAD)
    archs = {
        (place, gene): base if gene == base.genome[place] else space.replaced(base, place, gene)
        for place, genes in enumerate(replaced.genes)
        if base.genome[place] is not None
        for gene in genes
    }
    there = {key: arch for key, arch in archs.items() if arch is not None and net.has(arch)}
    different = list(dict.fromkeys([base, *there.values()]))
    lost: dict[Arch, float] = {}
    with Reporter(len(different), show=progress) as teller:
        for number, arch in enumerate(different, 1):
            lost[arch] = measure(arch)[metric]
            teller.step(number, f"{metric} {human(lost[arch])}")
    if not math.isfinite(lost[base]):
        raise EvaluationError(
            f"the {metric} of the whole network on training batches is {lost[base]:g}; look at its weights and at the data"
        )
    found = []
    for (place, gene), arch in there.items():
        if not math.isfinite(lost[arch]):
            continue  # no threshold allows it
        decision = space.decisions[place]
        value = arch.choices[decision.name]
        apart = max(lost[arch] - lost[base], 0.0)  # a loss may be lower; a network that loses nothing loses 0
        found.append(Alternative(place, gene, value, apart, float(net.macs(arch)), float(net.params(arch))))
    return Sensitivities(space, metric, found)


def _costs(one: Alternative) -> tuple[float, float]:
    return one.macs, one.params


def _key(arch: Arch) -> str:
    return arch.key
