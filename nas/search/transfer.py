"""A search that begins where similar searches ended.

After Cao, You, Leskovec 2023, "AutoTransfer: AutoML with Knowledge Transfer": the best designs of the most similar tasks seed
the sampler.  Here the similarity of two tasks is measured on the new task's own first trials, so that no task embedding has to
be trained and a source that misleads is found out.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nas.checking import checked, shown
from nas.errors import AlgorithmError
from nas.search.base import Algorithm, Finished, History, is_feasible
from nas.search.encoding import Encoding
from nas.search.inner import inner, restored
from nas.search.insight import Insight
from nas.search.options import whole
from nas.search.sources import Expert, Source

if TYPE_CHECKING:
    from nas.metrics import Constraint, Metric
    from nas.space import Arch, Space

Floats = NDArray[np.float64]

BELIEF, STRENGTH = 0.5, 3  # similarity expected before anything was measured, and how many trials that belief is worth
IGNORED, TRUSTED = 0.2, 0.8  # similarities at which a source is not asked at all, and is asked at every turn
BREEDERS = 16  # best archs of a source that designs are drawn from
DRAWS = 24  # designs drawn at each turn
MUTATED = 0.5  # of them


class Transfer(Algorithm):
    """Lets earlier studies make some of the first proposals, and `algorithm` all the others.

    A source's turn comes at random, with a probability that falls from how similar the most similar source is to nothing at
    `horizon` archs.  Sources then propose, each as often as it is similar, the arch that by their own measurements, or what
    they let one expect, adds most hypervolume to what was asked here: one of their best, or a design whose every decision
    comes from one of these.  One that expects no gain from anything passes its turn on.  The inner algorithm is told all
    of it, so its population, or its model, starts from these.

    Similarity of a source is the rank correlation between the objectives measured here and those it measured, or a Gaussian
    process on its trials expects, for the same archs; of several objectives the worst.  It starts at one half, is believed
    the more the more trials there are, and below 0.2 a source is not asked any more: a reversed one is dropped after some
    five trials.

    Args:
        algorithm: proposes whatever the sources do not: an algorithm, its name, or what it describes itself as.
        from_: names of studies in the same database, or `Source`s; None for every study there that measured the same metrics on
            archs of this space, of which a `Study` takes the eight youngest.  A study keeps the trials it began with:
            it resumes with the same whatever becomes of its sources.  Outside of a study None is nobody.
        horizon: so many archs are asked before the sources are silent.
        seed: names the sequence of random numbers, also of an inner algorithm that is given by its name.

    Raises:
        AlgorithmError: an option is not what it must be.
    """

    name: ClassVar[str] = "transfer"

    @checked(AlgorithmError, called="name")
    def __init__(
        self,
        algorithm: str | Algorithm | Mapping[str, Any] = "surrogate",
        from_: Sequence[str | Source | Mapping[str, Any]] | None = None,
        horizon: int = 60,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.algorithm = inner(algorithm, seed, self)
        self.from_ = None if from_ is None else _listed(from_)
        self.horizon = whole(self.name, "horizon", horizon, 1)
        self._experts: list[Expert] = []
        self._first: list[Finished] = []  # the first trials with values, which similarity is measured on
        self._under_way: dict[str, Arch] = {}
        self._weights: list[float] | None = None  # similarity of each expert, until the next trial is told

    # -- sources -------------------------------------------------------------------------------------------------------------

    @property
    def sources(self) -> list[Source]:
        """The trials that it was given."""
        return [one for one in self.from_ or () if isinstance(one, Source)]

    @property
    def unresolved(self) -> list[str] | None:
        """Names of studies whose trials it was not given; None where it is to take all that there are."""
        return None if self.from_ is None else [one for one in self.from_ if isinstance(one, str)]

    def given(self, sources: Sequence[Source]) -> Transfer:
        """The same with these sources, not bound yet."""
        return Transfer(copy.deepcopy(self.algorithm), sources, self.horizon, self.seed)

    def similarities(self) -> dict[str, float]:
        """How similar each source is now, by name: from -1, reversed, to 1; at first one half."""
        return dict(zip([expert.study for expert in self._experts], self._similarities(), strict=True))

    # -- the contract --------------------------------------------------------------------------------------------------------

    def inform(self, insight: Insight) -> None:
        """See `Algorithm.inform`: the algorithm inside is told."""
        self.algorithm.inform(insight)

    def bind(self, space: Space, objectives: Sequence[Metric], constraints: Sequence[Constraint] = ()) -> None:
        """See `Algorithm.bind`.

        Raises:
            AlgorithmError: also where a source is only a name, measured something else, or is of another space.
        """
        if self.unresolved != []:
            names = self.unresolved
            knows = f"knows studies {', '.join(map(repr, names))} by name only" if names else "was given no trials"
            raise AlgorithmError(f"transfer {knows}; use it in a nas.Study, which reads them, or give Sources")
        super().bind(space, objectives, constraints)
        wanted = tuple(f"{metric.goal} {metric.name}" for metric in objectives)
        for source in self.sources:
            if source.objectives != wanted:
                raise AlgorithmError(
                    f"source {source.study!r} measured {', '.join(source.objectives)}; this study has {', '.join(wanted)}"
                )
        self.algorithm.bind(space, objectives, constraints)
        if self.sources and space.decisions:
            encoding = Encoding(space)
            self._experts = [Expert(source, space, encoding) for source in self.sources]

    def reserve(self, archs: Iterable[Arch]) -> None:
        """See `Algorithm.reserve`."""
        archs = list(archs)
        super().reserve(archs)
        self.algorithm.reserve(archs)

    def describe(self) -> dict[str, Any]:
        """See `Algorithm.describe`; sources that were given are part of it."""
        from_ = None if self.from_ is None else [one if isinstance(one, str) else one.to_json() for one in self.from_]
        options = {"algorithm": self.algorithm.describe(), "from_": from_, "horizon": self.horizon, "seed": self.seed}
        return {"name": self.name, **options}

    def __repr__(self) -> str:
        from_ = None if self.from_ is None else [one if isinstance(one, str) else one.study for one in self.from_]
        return f"Transfer(algorithm={self.algorithm!r}, from_={from_}, horizon={self.horizon}, seed={self.seed})"

    def _tell(self, trials: Sequence[Finished]) -> None:
        self.algorithm.tell(trials)
        for trial in trials:
            self._under_way.pop(trial.arch.key, None)
        room = self.horizon - len(self._first)
        self._first += [trial for trial in trials if trial.values is not None and trial.state != "FAILED"][:room]
        self._weights = None

    def _restore(self, history: History, rows: NDArray[np.int64]) -> None:
        restored(self.algorithm, history)
        if len(rows) < self.horizon:  # else the sources have nothing to say any more
            trials = [history.trial(int(row)) for row in rows]
            self._first = [trial for trial in trials if trial.values is not None and trial.state != "FAILED"]

    def _ask(self, n: int) -> list[Arch]:
        archs: list[Arch] = []
        while len(archs) < n and self._experts and self.known < self.horizon:
            arch = self._from_sources()
            if arch is not None:
                self.algorithm.reserve([arch])
                archs.append(arch)
                continue
            found = self._ask_inside(self.algorithm, 1, archs)
            if not found:
                return archs
            archs += found
        return [*archs, *self._ask_inside(self.algorithm, n - len(archs), archs)] if len(archs) < n else archs

    # -- proposals of the sources --------------------------------------------------------------------------------------------

    def _from_sources(self) -> Arch | None:
        """What a source proposes, if it is a source's turn and it expects a gain from something."""
        rng = random.Random(f"{self._stream}:{self.known}")
        turns = [_turn(similarity) for similarity in self._similarities()]
        if rng.random() >= max(turns) * (1 - self.known / self.horizon):
            return None
        expert = rng.choices(self._experts, turns)[0]
        ideas = {arch.key: arch for arch in [*expert.best, *self._designs(turns, rng)] if arch.key not in self._seen}
        archs = [arch for arch in ideas.values() if self.space.allows(arch)]
        here = [trial.arch for trial in self._first if is_feasible(trial)] + list(self._under_way.values())
        # Rounded, so that the order of the archs under way, which moves the last digits, decides nothing.
        gains = np.round(expert.gains(archs, here), 9)
        if not (gains > 0).any():
            return None
        arch = archs[int(gains.argmax())]
        self._take(arch)
        return arch

    def _designs(self, turns: Sequence[float], rng: random.Random) -> list[Arch]:
        """Archs whose every decision comes from one of the best archs of the sources, some of them mutated."""

        def parent() -> Arch:
            return rng.choice(rng.choices(self._experts, turns)[0].best[:BREEDERS])

        space = self.space
        crossed = [space.crossover(space.crossover(parent(), parent(), rng), parent(), rng) for _ in range(DRAWS)]
        return [space.mutate(arch, rng) if rng.random() < MUTATED else arch for arch in crossed]

    def _take(self, arch: Arch) -> bool:
        new = super()._take(arch)
        if new and self._experts and self.known <= self.horizon:
            self._under_way[arch.key] = arch
        return new

    def _similarities(self) -> list[float]:
        if self._weights is None:
            archs = [trial.arch for trial in self._first]
            values = np.array([trial.values for trial in self._first], dtype=np.float64)
            values = values.reshape(-1, len(self.objectives))
            known = len(archs) if len(archs) >= 3 else 0
            self._weights = [
                (STRENGTH * BELIEF + known * expert.likeness(archs, values)) / (STRENGTH + known)
                for expert in self._experts
            ]
        return self._weights


def _turn(similarity: float) -> float:
    """Probability that a source of this similarity is asked, at the beginning."""
    return min(1.0, max(0.0, (similarity - IGNORED) / (TRUSTED - IGNORED)))


def _listed(from_: object) -> list[str | Source]:
    if isinstance(from_, str | bytes) or not isinstance(from_, Sequence):
        raise AlgorithmError(f"transfer was given from_={shown(from_)}; it is a list of study names, or None for all")
    listed = [Source.from_json(one) if isinstance(one, Mapping) else one for one in from_]
    for one in listed:
        if not isinstance(one, str | Source):
            raise AlgorithmError(
                f"transfer was given {shown(one)} in from_; it is a list of study names, or None for all"
            )
    names = [one if isinstance(one, str) else one.study for one in listed]
    if len(set(names)) < len(names):
        raise AlgorithmError(f"transfer was given a study twice in from_: {', '.join(names)}")
    return listed
