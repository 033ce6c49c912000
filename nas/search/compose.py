"""Compose: measure single replacements, add them up, and compose the best archs by integer programming."""

from __future__ import annotations

import random
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nas.checking import checked
from nas.errors import AlgorithmError, SpaceError
from nas.search.addition import Addition, Trials
from nas.search.archive import Kept
from nas.search.breeding import Breeding, Genes
from nas.search.options import whole
from nas.search.past import spread
from nas.search.replacements import Replacements
from nas.search.surrogate import Screened, Surrogate, one_thread
from nas.search.waves import WAITING

if TYPE_CHECKING:
    from nas.metrics import Constraint, Metric
    from nas.space import Arch, Space

LATER = 256  # trials beside the single replacements that the model is fitted to
CHECK_AT = 8  # single replacements before the first composition; twice as many before each further one
CHECKS = 2  # later trials that say whether decisions add up
USEFUL = 0.1  # error of the model, in parts of how far later trials are from the base, up to which replacements go on
EXACT, ABOUT = 0.02, 0.4  # the same in parts of the front's spread, up to which it proposes alone, and takes part
CANDIDATES = 1  # compositions that the surrogate chooses among others, each of several integer programs


class Compose(Surrogate):
    """Adds up what single replacements do, composes the best archs exactly, and leaves what does not add up to `Surrogate`.

    First come the base and the archs that differ from it in one decision.  A model adds up, for every objective and every
    constrained metric, what those replacements do, in linear or logarithmic values, with effects of pairs where later trials
    support them (`nas.search.sums`); integer programs compose the archs that should add most to the hypervolume, within the
    constraints (`nas.search.composing`).  This is how Puzzle builds networks of scored blocks (Bercovich et al. 2024, "Puzzle:
    Distillation-Based NAS for Inference-Optimized LLMs"), for a whole front and with a model that its own proposals correct.

    After 8, 16, 32 ... single replacements one composition of those measured so far is asked: it shows whether decisions add
    up.  How far they do is the model's error on trials with several replacements, each predicted without itself.  Beyond a
    tenth of how far those trials are from the base, replacements that are not measured yet are not asked any more.  Up to 0.02
    of the front's spread all proposals are compositions, as long as one should enter the front.  Beyond, proposals are those
    of `Surrogate`, with compositions among the candidates that its processes choose from; beyond 0.4 without.

    Where the largest arch could not be measured (it violates a constraint on what can be computed, or fails), replacements are
    made in the smallest.  Of a decision between more than `alternatives` numbers, or a float, that many spread values are
    tried and those between are interpolated; of other decisions the rest is used when some trial has shown it.

    Args:
        base: what replacements are made in: "largest", "smallest", or the choices of an arch, as of the best one known.
        alternatives: most single replacements of one decision.
        candidates: see `Surrogate`.
        exact: see `Surrogate`.
        seed: names the sequence of random numbers.

    Raises:
        AlgorithmError: an option is not what it must be.
    """

    name: ClassVar[str] = "compose"

    @checked(AlgorithmError, called="name")
    def __init__(
        self,
        base: str | Mapping[str, Any] = "largest",
        alternatives: int = 8,
        candidates: int = 600,
        exact: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__(candidates=candidates, exact=exact, seed=seed)
        if isinstance(base, str) and base not in ("largest", "smallest"):
            raise AlgorithmError(
                f"{self.name} was given base={base!r}; it is 'largest', 'smallest' or a dict of an arch's choices"
            )
        self.base = base if isinstance(base, str) else dict(base)
        self.alternatives = whole(self.name, "alternatives", alternatives, 1)
        self._finished: dict[str, Kept] = {}
        self._plan: _Plan | None = None
        self._model: Addition | None = None
        self._metrics: dict[str, list[float]] = {}  # what finished archs measured, by key

    def bind(self, space: Space, objectives: Sequence[Metric], constraints: Sequence[Constraint] = ()) -> None:
        """See `Algorithm.bind`."""
        bases = [self._base_in(space)]
        if self.base == "largest":
            bases.append(space.smallest)
        super().bind(space, objectives, constraints)
        self._bases = bases

    def _base_in(self, space: Space) -> Arch:
        if self.base == "largest":
            return space.largest
        if self.base == "smallest":
            return space.smallest
        assert not isinstance(self.base, str)
        try:
            return space.arch(self.base)
        except SpaceError as error:
            raise AlgorithmError(f"{self.name} was given base={self.base!r}: {error}") from None

    def _add(self, trial: Kept) -> None:
        super()._add(trial)
        self._finished[trial.key] = trial
        self._model = None

    def _draw(self, rng: random.Random) -> Arch:
        plan = self._planned()
        single = plan.next(self._seen)
        if single is not None:
            told = plan.known(self._finished)
            model = self._added_up(plan) if len(self._finished) >= told + CHECKS else None
            others, checks = self.known - plan.known(self._seen), (told // CHECK_AT).bit_length()
            # When more was asked than checks, the surrogate is at work: more replacements must be worth an interruption.
            if model is None or not model.surprise > (USEFUL if others <= checks else EXACT):
                return (self._composed(self._added_up(plan)) if others < checks else None) or single
        model = self._added_up(plan)
        if not model.later or (model.error <= EXACT and model.seems_feasible):
            found = self._composed(model)
            if found is not None:
                return found
        return super()._draw(rng)

    def _short_list(self, beliefs: Screened, breeding: Breeding, parents: Genes) -> dict[str, Arch]:
        """The candidates of the surrogate, with the best compositions."""
        model = self._added_up(self._planned())
        short = super()._short_list(beliefs, breeding, parents)
        if not model.error <= ABOUT:
            return short
        best = [one.arch for one in map(model.composition, range(CANDIDATES)) if one is not None]
        return self._new([*best, *model.supported()], {}) | short

    def _composed(self, model: Addition) -> Arch | None:
        """The best composition that is not under way; None if no other should enter the front."""
        for at in range(WAITING):
            found = model.composition(at)
            if found is None:
                return None
            if found.arch.key not in self._seen:
                return found.arch
        return None

    def _planned(self) -> _Plan:
        """Single replacements in the first base that was measured, or may be."""
        at = 0
        while at < len(self._bases) - 1 and self._is_lost(self._bases[at]):
            at += 1
        if self._plan is None or self._plan.replacements.base is not self._bases[at]:
            self._plan, self._model = _Plan(self.space, self._bases[at], self.alternatives, self._stream), None
        return self._plan

    def _is_lost(self, base: Arch) -> bool:
        found = self._finished.get(base.key)
        return found is not None and bool(np.isnan(self._measured(found)[: len(self.objectives)]).any())

    def _added_up(self, plan: _Plan) -> Addition:
        """What all that has finished adds up to."""
        if self._model is None:
            kept = list(self._finished.values())
            single = [trial.key in plan.keys for trial in kept]
            later = [at for at, one in enumerate(single) if not one]
            rows = sorted(
                [at for at, one in enumerate(single) if one] + [later[at] for at in spread(len(later), LATER)]
            )
            columns = len(self.objectives) + len(self.constraints)
            trials = Trials(
                [kept[row].arch() for row in rows],
                np.array([self._measured(kept[row]) for row in rows]).reshape(len(rows), columns),
                np.array([single[row] for row in rows], dtype=bool),
                np.array([kept[row].feasible for row in rows], dtype=bool),
            )
            with one_thread():
                self._model = Addition(
                    self.space,
                    plan.replacements,
                    trials,
                    self._archive.front,
                    self.constraints,
                    frozenset(self._finished),
                )
        return self._model

    def _measured(self, trial: Kept) -> list[float]:
        """Minimised objectives and constrained metrics of a trial, NaN where they are not known."""
        found = self._metrics.get(trial.key)
        if found is None:
            names = [metric.name for metric in self.objectives]
            known: dict[str, float] = {}
            if self._insight.stored is not None and (trial.values is None or self.constraints):
                known = {name: float(value) for name, value in self._insight.stored(trial.arch()).items()}
            if trial.values is not None:
                known |= {one.name: value * one.sign for one, value in zip(self.objectives, trial.values, strict=True)}
            signs = [metric.sign for metric in self.objectives] + [1.0] * len(self.constraints)
            names += [constraint.metric for constraint in self.constraints]
            found = [sign * known.get(name, np.nan) for name, sign in zip(names, signs, strict=True)]
            self._metrics[trial.key] = found
        return found


class _Plan:
    """The single replacements in one base."""

    def __init__(self, space: Space, base: Arch, most: int, first: int) -> None:
        self.replacements = Replacements(space, base, most)
        self._archs = {arch.key: arch for arch in self.replacements.singles(first)}
        self.keys = frozenset(self._archs)

    def next(self, seen: Container[str]) -> Arch | None:
        """The first that nobody has seen."""
        return next((arch for key, arch in self._archs.items() if key not in seen), None)

    def known(self, keys: Container[str]) -> int:
        """How many of them are among some keys."""
        return sum(key in keys for key in self._archs)
