"""Multi-fidelity search: which arch is evaluated, and how far."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil, isfinite, nan
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nas.checking import checked
from nas.errors import AlgorithmError
from nas.search.archive import Archive, Kept, Seen
from nas.search.base import Algorithm, Finished, History
from nas.search.beliefs import Models
from nas.search.breeding import Breeding, Genes, genes_of
from nas.search.encoding import Encoding
from nas.search.insight import Insight
from nas.search.linking import Known, Link, Prospects
from nas.search.options import number
from nas.search.selection import constrained_ranks
from nas.search.surrogate import CAPACITY, FIRST_S, FITTED, GROWTH, Screened, Surrogate, one_thread, some_of

if TYPE_CHECKING:
    from nas.metrics import Constraint, Metric
    from nas.space import Arch, Space

Floats = NDArray[np.float64]

CONDITIONED = 200  # low evaluations that beliefs are conditioned on
EARLY = 2  # times the initial low evaluations are made before the first full one
FIRST = 4  # full evaluations before low values are linked to full ones
PART = 9  # a low evaluation goes so many times less far than a full one, unless told
SPARE = 2  # what low evaluations may cost more than all full ones so far, in full evaluations
TIES = 1e-6  # weight of the plain gain, where no low evaluation is worth its cost


class _Plan(NamedTuple):
    """What may be evaluated until something is told."""

    prospects: Prospects
    full: Mapping[str, Arch]
    """Archs for a full evaluation by key, those under way among them."""
    low: Mapping[str, Arch]
    """Archs for a low one, likewise."""
    known: Mapping[str, Known]
    """Objectives of those that were computed."""


class MultiFidelity(Surrogate):
    """Evaluates many archs a part of the way, and those all the way of which that promises most.

    In a study one of whose evaluators can stop early (`Evaluator.up_to`).  The first `initial` archs spread over the space, as
    many more have the largest expected gain by low values alone, and the best four of them by fronts are evaluated in full.
    From then on Gaussian processes say what an arch that has a low value would measure in full (`nas.search.linking`), and what
    a low evaluation of one that has none might show.  The expected gain in hypervolume of the best full evaluation is the bar: a
    low evaluation is made where it raises the gain of the next full one by more, on average, than its share of the cost (a step
    of Weitzman 1979, "Optimal Search for the Best Alternative"), and never so many that all of them cost more than the full
    ones, but for two.

    Objective values are those of full evaluations alone.  Objectives that do not depend on how far an evaluation goes, as
    parameters, are known from a low one.

    Args:
        low: how far a low evaluation goes, in the unit of the evaluator's fidelity, as epochs; unless given a ninth of all
            the way.
        initial: how many archs spread over the space.
        candidates: how many archs are compared whenever something was measured.
        exact: as `Surrogate`'s.
        seed: names the sequence of random numbers.

    Raises:
        AlgorithmError: an option is not what it must be.
    """

    name: ClassVar[str] = "multi-fidelity"

    @checked(AlgorithmError, called="name")
    def __init__(
        self, low: float | None = None, initial: int = 12, candidates: int = 300, exact: int = 32, seed: int = 0
    ) -> None:
        super().__init__(initial, candidates, exact, seed)
        self.low = None if low is None else number(self.name, "low", low, above=0.0)
        self.low_level = LowLevel(self)
        """Asks for low evaluations and is told of them; asked first, it has none where a full one is worth more."""
        self._varying: Sequence[str] = ()
        self._cost = nan  # of a low evaluation, in full ones
        self._measured = 0  # full trials that a link can learn from
        self._link_at = FIRST
        self._to_link: Callable[[], Seen] | None = None
        self._link: Link | None = None
        self._plan: _Plan | None = None
        self._early: Mapping[str, Arch] | None = None  # candidates before there is a plan

    def far(self, whole: float) -> float:
        """How far a low evaluation goes, where `whole` is all the way.

        Raises:
            AlgorithmError: it goes no less far than a full one.
        """
        if self.low is None:
            return float(max(1, round(whole / PART))) if whole > 1 and float(whole).is_integer() else whole / PART
        if self.low >= whole:
            raise AlgorithmError(
                f"{self.name} was given low={self.low:g}, and a full evaluation goes to {whole:g}; give less"
            )
        return self.low

    def inform(self, insight: Insight) -> None:
        """See `Algorithm.inform`."""
        if insight.fidelity is not None:
            self._varying, whole = tuple(insight.varying), insight.fidelity[1]
            self._cost = self.far(whole) / whole
        super().inform(replace(insight, fidelity=None))  # all full trials went all the way

    def bind(self, space: Space, objectives: Sequence[Metric], constraints: Sequence[Constraint] = ()) -> None:
        """See `Algorithm.bind`.

        Raises:
            AlgorithmError: no objective is known to depend on how far an evaluation goes.
        """
        super().bind(space, objectives, constraints)
        self.varying = tuple(at for at, metric in enumerate(objectives) if metric.name in self._varying)
        if not self.varying:
            raise AlgorithmError(
                f"{self.name} knows of no objective that depends on how far an evaluation goes; run it in a study one of whose "
                "evaluators has up_to, as nas.Trained, or search with another algorithm"
            )

    def changed(self) -> None:
        """Something was measured."""
        self._plan = self._early = None

    def low_archs(self, n: int) -> list[Arch]:
        """Up to `n` new archs for `low_level` to ask."""
        archs: list[Arch] = []
        with one_thread():
            while len(archs) < n and (arch := self._next_low()) is not None and self.low_level.take(arch):
                archs.append(arch)
        return archs

    def _tell(self, trials: Sequence[Finished]) -> None:
        super()._tell(trials)
        self.changed()

    def _add(self, trial: Kept) -> None:
        super()._add(trial)
        self._measured += trial.feasible and trial.values is not None
        if self._archive.told >= self._link_at:
            self._link_at = ceil(self._archive.told * GROWTH)
            self._to_link = self._archive.later(FITTED)

    def _ask(self, n: int) -> list[Arch]:
        if not self.low_level.known:
            return super()._ask(n)
        archs: list[Arch] = []
        with one_thread():
            while len(archs) < n and (arch := self._next_full()) is not None and self._take(arch):
                archs.append(arch)
        return archs if archs or self.pending or self.low_level.pending else super()._ask(n)

    # -- which arch, and how far

    def _next_low(self) -> Arch | None:
        low = self.low_level
        if low.known < self.initial:
            return self._spread()
        if self._measured < FIRST:
            if low.known < EARLY * self.initial and not self.known:
                return self._best_early() if low.known - low.pending >= self.initial else None
            waits = low.pending or self.pending or self._untried()
            return None if waits else self._spread()
        return self._best_low(self._planned())

    def _next_full(self) -> Arch | None:
        low = self.low_level
        if low.known - low.pending < EARLY * self.initial:
            return None
        if self._measured >= FIRST:
            return self._best_full(self._planned())[0]
        # Their low values are all that is known of them.
        untried = self._untried() if self._measured + self.pending < FIRST else []
        values = np.array([low.values[arch.key] for arch in untried])
        return untried[_first_by_front(values)] if untried else None

    def _untried(self) -> list[Arch]:
        """Archs with a low value that nobody evaluates in full, in the order in which they were told."""
        return [arch for key, arch in self.low_level.archs.items() if key not in self._seen]

    def _spread(self) -> Arch | None:
        """The largest, the smallest, then of a few random archs the one that is farthest from those before."""
        low = self.low_level
        extremes = (self.space.largest, self.space.smallest)[low.known :] if low.known < 2 else ()
        rng = random.Random(f"{self._stream}:low:{low.known}")
        self._knowledge.allow(FIRST_S / self.initial)
        before = [*low.seen(FITTED).archs, *low.under_way.values()]
        for arch in (*extremes[:1], *self._farthest(rng, before)):
            if not self._knows(arch) and not self._screening.violates(arch):
                return arch
        return next((arch for arch in self._screening.sample(rng) if not self._knows(arch)), None)

    def _planned(self) -> _Plan:
        if self._plan is None:
            self._plan = self._make_plan()
        return self._plan

    def _make_plan(self) -> _Plan:
        """What may be evaluated next; it depends on what was told, at both levels, and not on what is under way."""
        archive, low, knowledge = self._archive, self.low_level, self._knowledge
        seen = archive.seen(CAPACITY)
        knowledge.allow(FIRST_S)
        knowledge.finished(seen.archs)
        if self._to_link is not None:
            some = self._to_link()
            self._link = Link(self._encoding, self.varying, some, self._low_values(some.archs))
            self._to_link = None
        assert self._link is not None
        beliefs = low.models(self._encoding).condition(low.seen(CONDITIONED), low.front)
        known = self._low_values(seen.archs)
        prospects = Prospects(beliefs, self._link, seen, known, archive.front, low.table(low.archs))
        full = {key: arch for key, arch in low.archs.items() if key not in self._seen or key in self._under_way}
        bar = prospects.full(list(full.values()), low.table(full)).max(initial=0.0)
        by_worth = _ByWorth(prospects, float(bar))
        short = self._candidates(by_worth, f"{archive.told}:{low.known - low.pending}")
        short = {key: arch for key, arch in short.items() if not self._screening.violates(arch)}
        computed = (
            {key: knowledge.objectives(arch) for key, arch in short.items()} if knowledge.about_objectives else {}
        )
        return _Plan(prospects, full, short, computed)

    def _best_early(self) -> Arch | None:
        """The arch whose low evaluation gains the most at its own level, as long as nothing is known of the other."""
        low = self.low_level
        beliefs = low.models(self._encoding).condition(low.seen(CONDITIONED), low.front)
        if self._early is None:
            self._knowledge.allow(FIRST_S)
            short = self._candidates(beliefs, f"early:{low.known - low.pending}")
            self._early = {key: arch for key, arch in short.items() if not self._screening.violates(arch)}
        free = [arch for arch in self._early.values() if not self._knows(arch)]
        if not free:
            return self._spread()
        waiting = [low.under_way[key] for key in sorted(low.under_way)]
        view = beliefs.view(free)
        view.ask(waiting)
        return free[_first_best(view.gains())]

    def _best_full(self, plan: _Plan) -> tuple[Arch | None, float]:
        """The arch whose full evaluation gains the most, and its gain; None if none has a low value."""
        free = {key: arch for key, arch in plan.full.items() if key not in self._seen}
        if not free:
            return None, 0.0
        low, archs = self.low_level, list(free.values())
        waiting = {key: self._under_way[key] for key in sorted(self._under_way)}
        gains = plan.prospects.full(archs, low.table(free), list(waiting.values()), low.table(waiting))
        at = _first_best(gains)
        return archs[at], float(gains[at])

    def _best_low(self, plan: _Plan) -> Arch | None:
        """The arch whose low evaluation is worth the most; None if a full evaluation is worth more."""
        best, bar = self._best_full(plan)
        free = {key: arch for key, arch in plan.low.items() if not self._knows(arch)}
        if not free:
            return None
        low, archs = self.low_level, list(free.values())
        waiting = [low.under_way[key] for key in sorted(low.under_way)]
        (worth,) = plan.prospects.low(
            genes_of(archs, len(self.space.decisions)), [bar], waiting, [plan.known.get(key, {}) for key in free]
        )
        at = _first_best(worth)
        if best is not None and worth[at] <= self._cost * bar:
            return None
        spent = low.known * self._cost - self.known
        waits = best is not None or self.pending or low.pending
        return None if waits and spent > SPARE else archs[at]

    def _low_values(self, archs: Sequence[Arch]) -> Floats:
        return self.low_level.table([arch.key for arch in archs])[:, list(self.varying)]

    def _candidates(self, worth: Screened, when: str) -> dict[str, Arch]:
        """Candidates for a low evaluation, made of the fronts of both levels."""
        parents = [*(self._archive.parents if self.known else ()), *self.low_level.parents]
        rows = genes_of(parents, len(self.space.decisions))
        rng = random.Random(f"{self._stream}:{when}")
        return self._short_list(worth, Breeding(self.space, f"{self._stream}:{when}:rows"), some_of(rows, rng))

    def _new(self, archs: Sequence[Arch], pool: Mapping[str, Arch]) -> dict[str, Arch]:
        if not self.low_level.known:
            return super()._new(archs, pool)
        under_way = self.low_level.under_way
        return {a.key: a for a in archs if a.key not in pool and (a.key in under_way or not self._knows(a))}

    def _knows(self, arch: Arch) -> bool:
        return arch.key in self._seen or self.low_level.has(arch)


class LowLevel(Algorithm):
    """The low level of a `MultiFidelity`: an algorithm with trials of its own, whose values are those of low evaluations.

    Args:
        search: whose level it is.
    """

    name: ClassVar[str] = "multi-fidelity, low"

    def __init__(self, search: MultiFidelity) -> None:
        super().__init__(search.seed)
        self.search = search
        self.values: dict[str, tuple[float, ...]] = {}
        """Minimised objective values of low evaluations by arch key, in the order told."""
        self.archs: dict[str, Arch] = {}
        """Their archs."""
        self.under_way: dict[str, Arch] = {}
        self._fit_at = search.initial
        self._to_fit: Callable[[], Seen] | None = None
        self._models: Models | None = None

    def bind(self, space: Space, objectives: Sequence[Metric], constraints: Sequence[Constraint] = ()) -> None:
        """See `Algorithm.bind`."""
        super().bind(space, objectives, constraints)
        self._archive = Archive(len(objectives), CAPACITY)

    def take(self, arch: Arch) -> bool:
        """Whether `arch` is new here; if so it is under way from now on."""
        return self._take(arch)

    def has(self, arch: Arch) -> bool:
        """Whether `arch` was asked, told or reserved."""
        return arch.key in self._seen

    def seen(self, most: int) -> Seen:
        """The best `most` trials and a sample of the others."""
        return self._archive.seen(most)

    @property
    def front(self) -> Floats:
        """(k, m) points of the front of low values."""
        return self._archive.front

    @property
    def parents(self) -> list[Arch]:
        """The archs of that front."""
        return self._archive.parents

    def table(self, keys: Sequence[str] | Mapping[str, Arch]) -> Floats:
        """(n, m) low values of archs, NaN where there are none."""
        unknown = (nan,) * len(self.objectives)
        return np.array([self.values.get(key, unknown) for key in keys]).reshape(len(keys), len(self.objectives))

    def models(self, encoding: Encoding) -> Models:
        """Parameters of the processes of low values."""
        if self._to_fit is not None:
            self._models = Models(encoding, self._to_fit())
            self._to_fit = None
        assert self._models is not None, "the first low evaluations are told before any is planned"
        return self._models

    def _take(self, arch: Arch) -> bool:
        new = super()._take(arch)
        if new:
            self.under_way[arch.key] = arch
        return new

    def _ask(self, n: int) -> list[Arch]:
        return self.search.low_archs(n)

    def _tell(self, trials: Sequence[Finished]) -> None:
        for trial in trials:
            self.under_way.pop(trial.arch.key, None)
            kept = Kept.of(trial)
            self._archive.add(kept)
            if kept.feasible and trial.values is not None and all(map(isfinite, trial.values)):
                self.values[kept.key], self.archs[kept.key] = trial.values, trial.arch
            if self._archive.told >= self._fit_at:
                self._fit_at = ceil(self._archive.told * GROWTH)
                self._to_fit = self._archive.later(FITTED)
        self.search.changed()

    def restore(self, history: History) -> None:
        """See `Algorithm.restore`."""
        super().restore(history)
        self.search.changed()


class _ByWorth:
    """Candidates for a low evaluation, by what it is worth.

    Args:
        prospects: of both levels.
        bar: gain of the best full evaluation.
    """

    def __init__(self, prospects: Prospects, bar: float) -> None:
        self._prospects, self._bar = prospects, bar

    def screened(self, genes: Genes, /) -> Floats:
        """(n,) what a low evaluation of each row is worth."""
        above, whole = self._prospects.low(genes, [self._bar, 0.0])
        return np.asarray(above + TIES * whole)


def _first_best(gains: Floats) -> int:
    """Where the largest is; rounded, so that the order in which archs went under way decides nothing."""
    top = gains.max()
    return int(np.argmax(np.round(gains / top, 9))) if top > 0 else 0


def _first_by_front(values: Floats) -> int:
    """Which point is first by fronts, and inside the first front the loneliest."""
    rank, room = constrained_ranks(values, np.zeros(len(values)))
    return int(np.lexsort((-room, rank))[0])
