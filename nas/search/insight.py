"""What can be known of an arch without evaluating it, and a memory of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, log, nan
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nas.failures import interrupts
from nas.measurements import usable

if TYPE_CHECKING:
    from nas.metrics import Constraint, Metric
    from nas.space import Arch

Floats = NDArray[np.float64]
Measure: TypeAlias = "Callable[[Arch], Mapping[str, float]]"

MEMORY = 10_000  # archs whose measurements are remembered


@dataclass(frozen=True)
class Insight:
    """What a study can say of archs without evaluating them.

    Args:
        cheap: name of a metric to what computes it: parameters, operations, a predicted latency, zero-cost proxies.  Metrics
            that are objectives are then known exactly; the others are features that a model of the objectives may use.
        remembered: each says what it knows of an arch from another that computes the same (`nas.Once`), `{}` if nothing.
        stored: measurements of a finished trial's arch; `{}` if there are none.
        fidelity: name of a stored metric that says how far a trial went (epochs), and how far is all the way; trials that were
            stopped early are then told from those that were not.
        varying: names of the metrics that depend on how far an evaluation goes; all others are the same after a low one.
    """

    cheap: Mapping[str, Measure] = field(default_factory=dict)
    remembered: Sequence[Measure] = ()
    stored: Measure | None = None
    fidelity: tuple[str, float] | None = None
    varying: Sequence[str] = ()


class Knowledge:
    """An insight, with a memory of what was computed.

    Args:
        insight: of the study.
        objectives: of the study.
        constraints: of the study.
    """

    def __init__(self, insight: Insight, objectives: Sequence[Metric], constraints: Sequence[Constraint] = ()) -> None:
        self._insight, self._objectives = insight, objectives
        self._bounds = [constraint for constraint in constraints if constraint.metric in insight.cheap]
        self._dear = [constraint for constraint in constraints if constraint.metric not in insight.cheap]
        names = {metric.name for metric in objectives}
        self._features = [name for name in insight.cheap if name not in names]
        self._exact = [metric.name for metric in objectives if metric.name in insight.cheap]
        self._wanted = {*self._features, *(bound.metric for bound in self._bounds)}
        self._computed: dict[str, dict[str, float]] = {}  # by arch key, the latest last
        self._archs: dict[str, Arch] = {}  # whose features were computed, by key
        self._gone: dict[str, float] = {}  # how far finished trials went, by arch key
        self._slack: dict[str, tuple[float, float]] = {}  # how far they keep to all constraints, and to the dear ones
        # Seconds that each took at last; one evaluator may give several metrics.
        self._took = dict.fromkeys(insight.cheap.values(), 0.0)
        self._left = inf  # seconds of processor time that may still be spent

    def allow(self, seconds: float) -> None:
        """How much processor time may be spent from now on: counting a large network takes as long as a proposal."""
        self._left = seconds

    @property
    def exhausted(self) -> bool:
        """Whether that has been spent."""
        return self._left <= 0

    @property
    def remembers(self) -> bool:
        """Whether all objectives of an arch may be known, from another that computes the same."""
        return bool(self._insight.remembered)

    @property
    def about_objectives(self) -> bool:
        """Whether objectives of some archs can be known."""
        return bool(self._exact or self._insight.remembered)

    @property
    def about_constraints(self) -> bool:
        """Whether some constraints are on what can be computed."""
        return bool(self._bounds)

    @property
    def has_features(self) -> bool:
        """Whether there is anything beside decisions that a model can learn from."""
        return bool(self._features or self._insight.fidelity)

    def objectives(self, arch: Arch) -> dict[int, float]:
        """Objectives of an arch that are known, minimised, by their place."""
        known = self._compute(arch) if self._exact else {}
        for remembered in self._insight.remembered:
            known = {**self._tried(remembered, arch), **known}
        return {
            at: known[metric.name] * metric.sign for at, metric in enumerate(self._objectives) if metric.name in known
        }

    def excess(self, arch: Arch) -> float:
        """How far an arch that was looked at violates the constraints on what can be computed, summed; 0.0 for any other."""
        return self._over(self._computed.get(arch.key, {})) if self._bounds else 0.0

    def look(self, archs: Iterable[Arch], whole: bool = False) -> None:
        """Computes what is cheap of archs that nobody evaluated, as long as there is time.

        Of an arch that violates a constraint that is no more than what says so, unless the `whole` is wanted.
        """
        for arch in archs if self._wanted else ():
            if self.exhausted:
                break
            self._compute(arch, whole)

    def has(self, arch: Arch) -> bool:
        """Whether what is cheap of an arch is there, if anything is wanted."""
        return not self._wanted or arch.key in self._computed

    def looked(self, most: int) -> list[Arch]:
        """The archs that were looked at last."""
        return list(self._archs.values())[-most:]

    def finished(self, archs: Sequence[Arch]) -> None:
        """Learns what is cheap of archs of finished trials: from what is stored, or else by computing it."""
        if not (self._wanted or self._dear or self._insight.fidelity):
            return
        for arch in archs:
            if arch.key not in self._gone:
                self._learn(arch.key, {} if self._insight.stored is None else self._tried(self._insight.stored, arch))
        self.look(archs)

    def _learn(self, key: str, stored: Mapping[str, float]) -> None:
        told = all(name in stored for name in self._wanted) or self._over(stored) > 0
        if self._wanted and key not in self._computed and told:
            self._remember(key, {name: stored[name] for name in self._insight.cheap if name in stored})
        self._gone[key] = self._far(stored)
        self._slack[key] = (self._within(stored, [*self._bounds, *self._dear]), self._within(stored, self._dear))

    def slack(self, arch: Arch, dear: bool) -> float:
        """By how much a feasible trial keeps to the constraint that it is nearest to, 0.0 or below; NaN if nobody knows.

        Args:
            arch: of the trial.
            dear: count constraints that only an evaluation can tell, not those that can be computed.
        """
        return self._slack.get(arch.key, (nan, nan))[dear]

    def features(self, archs: Sequence[Arch]) -> Floats:
        """(n, f) features of archs, NaN where they were not looked at; the last is the logarithm of how far a trial went."""
        rows = [self._computed.get(arch.key, {}) for arch in archs]
        table = [[row.get(name, nan) for name in self._features] for row in rows]
        if self._insight.fidelity:
            for arch, row in zip(archs, table, strict=True):
                row.append(self._gone.get(arch.key, 0.0))
        return np.array(table, dtype=np.float64).reshape(len(archs), len(self._features) + bool(self._insight.fidelity))

    def _far(self, stored: Mapping[str, float]) -> float:
        if self._insight.fidelity is None:
            return 0.0
        name, whole = self._insight.fidelity
        reached = stored.get(name, whole)
        return log(reached / whole) if reached > 0 else 0.0

    def _compute(self, arch: Arch, whole: bool = False) -> dict[str, float]:
        """What is cheap of an arch, the quickest first."""
        found = self._computed.get(arch.key)
        if found is None or (whole and len(found) < len(self._insight.cheap)):
            found = {}
            for measure in sorted(self._took, key=self._took.__getitem__):
                found |= self._tried(measure, arch)
                if self._over(found) > 0 and not whole:
                    break
            self._remember(arch.key, found)
            self._archs[arch.key] = arch
            if len(self._archs) > MEMORY:
                del self._archs[next(iter(self._archs))]
        return found

    @staticmethod
    def _within(stored: Mapping[str, float], constraints: Sequence[Constraint]) -> float:
        if not constraints or any(one.metric not in stored for one in constraints):
            return nan
        return min(0.0, max(one.excess(stored[one.metric]) for one in constraints))

    def _over(self, found: Mapping[str, float]) -> float:
        return sum(bound.violation(found[bound.metric]) for bound in self._bounds if bound.metric in found)

    def _remember(self, key: str, found: dict[str, float]) -> None:
        self._computed[key] = found
        if len(self._computed) > MEMORY:
            del self._computed[next(iter(self._computed))]

    def _tried(self, measure: Measure, arch: Arch) -> dict[str, float]:
        """Measurements; none where an evaluator refuses the arch or fails, which a trial of it will report."""
        begun = time.thread_time()
        try:
            with interrupts() as is_interrupt:
                return {name: float(value) for name, value in usable(measure(arch))[0].items()}
        except BaseException as error:  # a user's evaluator
            if is_interrupt(error):
                raise
            return {}
        finally:
            took = time.thread_time() - begun
            self._left -= took
            if measure in self._took:
                self._took[measure] = took
