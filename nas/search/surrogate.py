"""Surrogate-assisted multi-objective search: the default where an evaluation costs more than a proposal."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from math import ceil
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from nas.checking import checked
from nas.errors import AlgorithmError
from nas.search.archive import Archive, Kept, Seen
from nas.search.base import Algorithm, Finished, History
from nas.search.beliefs import Models
from nas.search.breeding import Breeding, Genes, genes_of, unlike
from nas.search.duplicates import duplicates
from nas.search.encoding import Encoding
from nas.search.insight import Insight, Knowledge
from nas.search.options import whole
from nas.search.screening import BEST, SHORT_LIST, Screening
from nas.search.waves import WAITING, Wave

if TYPE_CHECKING:
    from nas.metrics import Constraint, Metric
    from nas.space import Arch, Space

Floats = NDArray[np.float64]

FITTED = 150  # trials that parameters are fitted to
GROWTH = 1.15  # parameters are fitted anew when so many times the trials are known
CAPACITY = 192  # trials that proposals are conditioned on
PARENTS = 100  # archs of the front that candidates are made of
ROUNDS, CHILDREN = 2, 4  # the best candidates have children, twice
# Processor time for looks: in a wave at least, as a share of the time between waves, and when first fitted.
LEAST_S, SHARE, FIRST_S = 0.02, 0.1, 1.0
USUAL = 64  # random archs that say how large features usually are
HALF = 600  # trials told when half of the proposals are front archs mutated, if the front does not move
MUTANTS = 64  # archs of the front mutated, for the share that the model does not choose


class Screened(Protocol):
    """Says what archs are worth."""

    def screened(self, genes: Genes, /) -> Floats:
        """(n,) of each row, about."""


class Surrogate(Algorithm):
    """Proposes the archs whose expected gain in hypervolume is largest, by a Gaussian process for each objective.

    The first `initial` archs spread over the space: its largest, its smallest, and those farthest from all before.  From then
    on candidates come from mutating and crossing the front and from anywhere in the space; the processes
    (`nas.search.gaussian`) say what each would measure and how sure they are, and the candidate with the largest expected
    gain is asked (Emmerich, Giannakoglou, Naujoks 2006, "Single- and Multiobjective Evolutionary Optimization Assisted by
    Gaussian Random Field Metamodels").  Archs under way count as measured at what is believed of them, so that a batch
    spreads.  Where trials were infeasible or failed, a further process learns where, and the gain is multiplied by the
    probability of being feasible.

    What a study knows without an evaluation is used (`inform`).  Of the best candidates, objectives and constraints that can
    be computed are computed, objectives of an arch that computes the same as another are taken from it, and what is known to
    gain nothing or to be infeasible is not proposed.  Other cheap metrics, as parameters and zero-cost proxies, and how many
    epochs a trial was trained are features: a second process that has them chooses among the best candidates of the first,
    for which alone they are computed, in a tenth of the time that passes between proposals.

    What a model cannot explain it never proposes, so a share of the proposals are archs of the front mutated.  It grows with the
    history, to a half at 600 trials, where the front stands still; as long as trials enter the front it is divided by one more
    than those of the last 32 that did.

    An ask costs the same at any size of history: proposals are conditioned on at most 192 trials, the best and a uniform
    sample, and parameters are fitted when the history has grown by 15 %.

    Args:
        initial: how many archs spread over the space before the first is proposed by the model.
        candidates: how many archs are compared before each wave of proposals.
        exact: for how many of the best of them that is computed which a study can compute without an evaluation; 0 uses none.
        seed: names the sequence of random numbers.

    Raises:
        AlgorithmError: an option is not what it must be.
    """

    name: ClassVar[str] = "surrogate"

    @checked(AlgorithmError, called="name")
    def __init__(self, initial: int = 6, candidates: int = 600, exact: int = 32, seed: int = 0) -> None:
        super().__init__(seed)
        self.initial = whole(self.name, "initial", initial, 2)
        self.candidates = whole(self.name, "candidates", candidates, 16)
        self.exact = whole(self.name, "exact", exact, 0)
        self._insight = Insight()
        self._fit_at = self.initial
        self._to_fit: Callable[[], Seen] | None = None  # trials at the last count at which parameters were due
        self._models: Models | None = None
        self._described: Models | None = None  # with features
        self._wave: Wave | None = None  # what is proposed until the next trial is told
        self._under_way: dict[str, Arch] = {}
        self._began = time.monotonic()  # the last wave

    def inform(self, insight: Insight) -> None:
        """See `Algorithm.inform`."""
        self._insight = insight if self.exact else Insight()

    def bind(self, space: Space, objectives: Sequence[Metric], constraints: Sequence[Constraint] = ()) -> None:
        """See `Algorithm.bind`."""
        super().bind(space, objectives, constraints)
        self._archive = Archive(len(objectives), CAPACITY)
        self._encoding = Encoding(space)
        self._knowledge = Knowledge(self._insight, objectives, constraints)
        self._screening = Screening(space, self._knowledge, self._archive, self.exact)

    def _tell(self, trials: Sequence[Finished]) -> None:
        for trial in trials:
            self._under_way.pop(trial.arch.key, None)
            self._add(Kept.of(trial))
        self._wave = None

    def _restore(self, history: History, rows: NDArray[np.int64]) -> None:
        for row in rows:
            self._add(Kept.row(history, int(row)))

    def _add(self, trial: Kept) -> None:
        """Takes one trial; one by one, so that a rebuilt search fits its parameters to the same trials."""
        self._archive.add(trial)
        if self._archive.told >= self._fit_at:
            self._fit_at = ceil(self._archive.told * GROWTH)
            self._to_fit = self._archive.later(FITTED)

    def _take(self, arch: Arch) -> bool:
        new = super()._take(arch)
        if new:
            self._under_way[arch.key] = arch
        return new

    def _ask(self, n: int) -> list[Arch]:
        with one_thread():
            return self._fill(n, self._draw)

    def _draw(self, rng: random.Random) -> Arch:
        if self._to_fit is None and self._models is None:
            return self._far(rng)
        if self._wave is None:
            self._wave = self._begin()
        told = self._archive.told
        mutant = rng.random() < told / (told + HALF) / (1 + self._archive.progress)
        while (arch := self._wave.next(mutant, len(self._under_way))) is not None:
            if not mutant or not self._screening.is_useless(arch):
                return arch
        # A wave ends when very many archs are asked before one is told, or when what it has is known to gain nothing.
        some = (self.space.sample(rng) for _ in range(MUTANTS))
        return next((arch for arch in some if not self._screening.is_useless(arch)), self.space.sample(rng))

    def _far(self, rng: random.Random) -> Arch:
        """The largest, the smallest, then of a few random archs the one that is farthest from those before.

        What can be known to be infeasible is none of them.
        """
        extreme = (self.space.largest, self.space.smallest)[self.known] if self.known < 2 else None
        if extreme is not None and not self._screening.violates(extreme):
            return extreme
        self._knowledge.allow(FIRST_S / self.initial)
        return self._farthest(rng, [*self._archive.seen(FITTED).archs, *list(self._under_way.values())[:FITTED]])[0]

    def _farthest(self, rng: random.Random, before: Sequence[Arch]) -> list[Arch]:
        """A few random archs, the one that is farthest from those before first."""
        some = self._screening.sample(rng)
        if not before:
            return some
        x, y = self._encoding(some).coordinates, self._encoding(before).coordinates
        apart = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2.0 * x @ y.T
        return [some[at] for at in np.argsort(-apart.min(1), kind="stable")]

    def _begin(self) -> Wave:
        """What the model proposes now.  It depends on what was told and on which archs are under way, not on their order."""
        archive, knowledge = self._archive, self._knowledge
        seen = archive.seen(CAPACITY)
        knowledge.finished(
            seen.archs
        )  # what is stored, before any is asked for: more than what parameters are fitted to
        if self._to_fit is not None:
            self._fit(self._to_fit())
            self._to_fit = None
        assert self._models is not None
        since, self._began = self._began, time.monotonic()
        knowledge.allow(max(LEAST_S, SHARE * (self._began - since)))
        knowledge.finished(seen.archs)
        equal = duplicates(seen)
        beliefs = self._models.condition(self._screening.with_refused(seen), archive.front, equal)
        rng = random.Random(f"{self._stream}:{archive.told}")
        breeding = Breeding(self.space, f"{self._stream}:{archive.told}:rows")
        parents = genes_of(archive.parents, len(self.space.decisions))
        short = self._short_list(beliefs, breeding, some_of(parents, rng))
        mutated = breeding.mutate(breeding.pick(parents, MUTANTS))
        if equal is not None:
            mutated = mutated[equal.chance(mutated) < 0.5]
        mutants = self._new(breeding.archs(mutated), short)
        waiting = {key: self._under_way[key] for key in sorted(self._under_way)[:WAITING]}
        known: dict[str, dict[int, float]] = {}
        if knowledge.about_objectives or knowledge.about_constraints or knowledge.has_features:
            informed = beliefs
            if self._described is not None or knowledge.about_constraints:
                knowledge.look(waiting.values())
                informed = (self._described or self._models).condition(
                    self._screening.undecided(seen), archive.front, equal
                )
            chosen, known = self._screening.look_closer(informed, short, self._new, rng)
            beliefs, short = (informed, chosen) if chosen else (beliefs, self._screening.unknown(short))
        return Wave(beliefs, short, mutants, waiting, known)

    def _fit(self, seen: Seen) -> None:
        self._knowledge.allow(FIRST_S)
        self._knowledge.finished(seen.archs)
        self._models = Models(self._encoding, self._screening.with_refused(seen))
        if self._knowledge.has_features:
            rng = random.Random(0)
            # Features are scaled by what they are of any archs, not of those that were found good.
            some = [self.space.sample(rng) for _ in range(USUAL)]
            self._knowledge.look(some, whole=True)
            encoding = self._encoding.described(self._knowledge.features, some)
            self._described = Models(encoding, self._screening.undecided(seen))

    def _short_list(self, beliefs: Screened, breeding: Breeding, parents: Genes) -> dict[str, Arch]:
        """The candidates of largest gain: from the front and from anywhere, then children of the best of them."""
        pool = self._seeds(breeding, parents)
        pool = pool[unlike(pool, parents[:0])]
        gains = beliefs.screened(pool)
        for _ in range(ROUNDS):
            best = self._best_of(pool, gains, BEST, breeding)
            if not best:
                break
            rows = genes_of(list(best.values()), pool.shape[1])
            children = breeding.mutate(np.repeat(rows, CHILDREN, 0))
            children = children[unlike(children, pool)]
            pool = np.concatenate([pool, children])
            gains = np.concatenate([gains, beliefs.screened(children)])
        return self._best_of(pool, gains, SHORT_LIST, breeding)

    def _best_of(self, pool: Genes, gains: Floats, most: int, breeding: Breeding) -> dict[str, Arch]:
        """The archs of largest gain that are not finished, by key, the best first."""
        found: dict[str, Arch] = {}
        order = np.argsort(-gains, kind="stable")
        for start in range(0, len(order), most):
            found |= self._new(breeding.archs(pool[order[start : start + most]]), found)
            if len(found) >= most:
                break
        return dict(islice(found.items(), most))

    def _seeds(self, breeding: Breeding, parents: Genes) -> Genes:
        """Candidates: half of them parents mutated once to three times, a quarter crossed, a quarter from anywhere."""
        quarter = self.candidates // 4
        mutated, parts = parents, [breeding.sample(quarter)]
        mutated = breeding.pick(parents, self.candidates // 2)
        for left in (3, 2, 1):
            share = len(mutated) // left
            mutated = breeding.mutate(mutated)
            parts.append(mutated[:share])
            mutated = mutated[share:]
        return np.concatenate(
            [*parts, breeding.cross(breeding.pick(parents, quarter), breeding.pick(parents, quarter))]
        )

    def _new(self, archs: Sequence[Arch], pool: Mapping[str, Arch]) -> dict[str, Arch]:
        """Those of `archs` that are neither finished nor in `pool`, by key.

        Archs under way are among them, so that the candidates do not depend on when the wave began.
        """
        found = {}
        for arch in archs:
            key = arch.key
            if key not in pool and (key in self._under_way or key not in self._seen):
                found[key] = arch
        return found


def some_of(parents: Genes, rng: random.Random) -> Genes:
    """The rows, or as many of them as candidates are made of."""
    return parents if len(parents) <= PARENTS else parents[sorted(rng.sample(range(len(parents)), PARENTS))]


def one_thread() -> AbstractContextManager[Any]:
    """The matrices are small: more threads gain nothing, and where workers hold the cores they wait for each other."""
    limited: AbstractContextManager[Any] = _threads().limit(limits=1, user_api="blas")
    return limited


@functools.cache
def _threads() -> ThreadpoolController:
    """The numerical libraries that are loaded; looked up once, since that takes milliseconds."""
    # Loaded by then: scipy has a BLAS of its own, whose threads nothing would limit if it came later.
    import scipy.linalg  # noqa: F401

    return ThreadpoolController()
