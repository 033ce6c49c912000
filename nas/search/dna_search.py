"""Any PyGlove `DNAGenerator` as an algorithm.

PyGlove's generators keep state that no history restores: random numbers, proposals not yet made, marks on the DNA that they
proposed.  Three things make them keep most of our contract:

- Python's global random state is set before every call to a function of (seed, archs known) and put back after it, so that a
  generator without seeds of its own repeats itself, also when it is rebuilt;
- the very DNA that was proposed is fed back, and one that was proposed elsewhere, or drawn where the generator proposes only
  what is known, gets the marks of another proposal (evolution raises KeyError without them);
- what a generator proposes again is passed over, so that a rebuilt one that starts from its beginning (sweeping, a seeded
  random walk) catches up with what is known.

This is a slow path: PyGlove makes a symbolic object for each decision of each DNA, 10-100 ms for a proposal of 40 decisions
and again for each trial of a rebuild.  `nas.NSGA2` and `nas.RegularizedEvolution` do the same in microseconds.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from nas.checking import checked
from nas.errors import AlgorithmError
from nas.search.base import TRIES, Algorithm, Exhausted, Finished, is_feasible, violation
from nas.search.dna_json import generator_from, generator_text

if TYPE_CHECKING:
    import pyglove as pg

    from nas.metrics import Constraint, Metric
    from nas.space import Arch, Space

_FEEDBACKS = 1 << 90  # random streams of feedback lie beyond those of proposals
_WORST_VIOLATION = 1e6  # an unknown violation is inf, which a fitness had better not be


class DNASearch(Algorithm):
    """Proposes what a PyGlove generator proposes, without repeats.

    Rewards are maximised objectives: `-value` of a metric to minimise.  A generator for several objectives gets a tuple of
    them, a generator for one is refused in a study of several, unless it wants no feedback.  Failed trials are not fed back,
    and infeasible ones only with a `penalty`, since PyGlove knows no constraints.

    A rebuilt generator proposes what the old one would have if it draws all its random numbers from Python's global
    generator (`pg.geno.Random()`, `pg.evolution.regularized_evolution()` without `seed=`) or has no memory but its
    proposals (`pg.geno.Sweeping()`).  One with seeds of its own, or a cursor as `pg.evolution.nsga2` has, goes on from the
    same population with other proposals.

    Args:
        generator: a `pg.DNAGenerator`, or the JSON of one as `describe()` gives it; a copy of it is used.
            `pg.geno.Random()` unless given.
        penalty: reward of an infeasible trial is `-penalty * (1 + violation)` in each objective; None to keep them from it.
        seed: names the sequence of random numbers.

    Raises:
        AlgorithmError: an option is not what it must be.
    """

    name = "pyglove"

    @checked(AlgorithmError, called="name")
    def __init__(
        self, generator: pg.DNAGenerator | Mapping[str, Any] | None = None, penalty: float | None = None, seed: int = 0
    ) -> None:
        super().__init__(seed)
        self.generator = generator_from(generator)
        if penalty is not None and not (isinstance(penalty, int | float) and penalty >= 0):
            raise AlgorithmError(f"{self.name} was given penalty={penalty!r}; it is a number, 0 or more, or None")
        self.penalty = None if penalty is None else float(penalty)
        self._running: Any = None  # the generator that is searching
        self._proposed = 0  # proposals that it has made
        self._fed = 0
        self._dna: dict[str, pg.DNA] = {}  # as proposed, of archs that have not finished
        self._marks: dict[str, Mapping[str, Any]] = {}  # of archs that were proposed elsewhere
        self._last_marks: Mapping[str, Any] = {}  # of its last proposal

    def bind(self, space: Space, objectives: Sequence[Metric], constraints: Sequence[Constraint] = ()) -> None:
        """See `Algorithm.bind`.

        Raises:
            AlgorithmError: also when the generator takes one objective and the study has several.
        """
        if len(objectives) > 1 and self.generator.needs_feedback and not self.generator.multi_objective:
            raise AlgorithmError(
                f"{type(self.generator).__name__} takes one objective, the study has {len(objectives)} "
                f"({', '.join(metric.name for metric in objectives)}); use pg.evolution.nsga2, or one objective"
            )
        super().bind(space, objectives, constraints)
        self._running = self.generator.clone(deep=True)
        self._running.setup(space.dna_spec)

    def describe(self) -> dict[str, Any]:
        """Name and options, JSON-able; functions without a name are told by where they are defined, and are not made again."""
        return {
            "name": self.name,
            "generator": generator_text(self.generator),
            "penalty": self.penalty,
            "seed": self.seed,
        }

    def __repr__(self) -> str:
        return f"DNASearch({type(self.generator).__name__}, penalty={self.penalty!r}, seed={self.seed!r})"

    # -- for those who exchange DNA ----------------------------------------------------------------------------------------

    def proposal(self, arch: Arch) -> pg.DNA:
        """The DNA that was proposed for an arch under way, with its marks."""
        return self._dna.get(arch.key) or self._marked(arch, self._marks.get(arch.key, {}))

    def adopt(self, arch: Arch, marks: Mapping[str, Any]) -> None:
        """Says which marks (metadata) the DNA of an arch had that was proposed elsewhere; before it is told."""
        if arch.key not in self._dna:
            self._marks[arch.key] = marks

    @property
    def wants_marks(self) -> bool:
        """Whether marks are of use: the generator learns from feedback."""
        return bool(self.generator.needs_feedback)

    # -- the algorithm -----------------------------------------------------------------------------------------------------

    def _ask(self, n: int) -> list[Arch]:
        archs: list[Arch] = []
        try:
            while len(archs) < n and (arch := self._next()) is not None:
                archs.append(arch)
        except Exhausted:
            if not archs:
                raise
        return archs

    def _next(self) -> Arch | None:
        """One new arch; None when results must come first."""
        if len(self._seen) >= self._size:
            raise Exhausted(f"all {self._size} archs of space {self.space.name!r} are known")
        # A generator that was rebuilt may go through all that is known before it proposes something new.
        tries = max(0, len(self._seen) - self._proposed) + TRIES
        with _global_random(self._stream + len(self._seen)):
            for _ in range(tries):
                dna = self._propose()
                if dna is None:
                    return None
                arch = self.space.from_dna(dna)
                if self._take(arch):
                    self._dna[arch.key] = dna
                    return arch
        arch = self._fresh(self.space.sample)
        self._dna[arch.key] = self._marked(arch, self._last_marks)
        return arch

    def _propose(self) -> pg.DNA | None:
        """What the generator proposes; None when it has nothing to breed from yet."""
        try:
            dna = self._running.propose()
        except StopIteration:
            raise Exhausted(f"{type(self._running).__name__} proposes no more") from None
        except ValueError as error:
            if self._pending:  # evolution whose initial population has not come back
                return None
            raise AlgorithmError(f"{type(self._running).__name__} proposes nothing: {error}") from error
        self._proposed += 1
        self._last_marks = dict(dna.metadata)
        return dna

    def _tell(self, trials: Sequence[Finished]) -> None:
        for trial in trials:
            key = trial.arch.key
            dna, marks = self._dna.pop(key, None), self._marks.pop(key, None)
            reward = self._reward(trial)
            if reward is None or not self._running.needs_feedback:
                continue
            with _global_random(self._stream + _FEEDBACKS + self._fed):
                if dna is None:
                    dna = self._marked(trial.arch, marks or self._fresh_marks())
                self._running.feedback(dna, reward)
            self._fed += 1

    def _reward(self, trial: Finished) -> float | tuple[float, ...] | None:
        if is_feasible(trial) and trial.values is not None:
            rewards = tuple(-float(value) for value in trial.values)
        elif trial.state == "FAILED" or self.penalty is None:
            return None
        else:
            rewards = (-self.penalty * (1 + min(violation(trial), _WORST_VIOLATION)),) * len(self.objectives)
        return rewards if self._running.multi_objective else rewards[0]

    def _fresh_marks(self) -> Mapping[str, Any]:
        """The marks that the generator now puts on its proposals, or put on its last; the proposal itself is thrown away."""
        with suppress(Exhausted, AlgorithmError):
            self._propose()
        return self._last_marks

    def _marked(self, arch: Arch, marks: Mapping[str, Any]) -> pg.DNA:
        """The DNA of an arch with these marks."""
        dna = self.space.to_dna(arch)
        for name, value in marks.items():
            if name == "dedup_key":  # a hash of another arch, or of another process
                dna.set_metadata(name, self._running.hash_fn(dna))
            elif name != "reward":  # a reward of its own (an automatic one) is not this arch's
                dna.set_metadata(name, value)
        return dna


@contextmanager
def _global_random(seed: int) -> Iterator[None]:
    """Python's global random numbers as a function of `seed`, and then as they were."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
