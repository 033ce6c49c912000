"""What every search algorithm promises: ask, tell, and being rebuilt from history."""

from __future__ import annotations

import hashlib
import inspect
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf, isnan
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from nas.checking import Count, checked
from nas.errors import AlgorithmError
from nas.search.keys import KeySet

if TYPE_CHECKING:
    from nas.metrics import Constraint, Metric
    from nas.search.insight import Insight
    from nas.space import Arch, Space

State = Literal["COMPLETED", "INFEASIBLE", "FAILED"]

STATES = ("COMPLETED", "INFEASIBLE", "FAILED")
TRIES = 32  # draws of an algorithm before it falls back to uniform samples, and of those before the whole space is looked at
LONG_TRIES = 2_000  # uniform samples in a space too large to look at as a whole
ENUMERABLE = 20_000  # archs of a space that is looked at as a whole, once, when its last unseen archs are wanted


class Exhausted(Exception):
    """Nothing is left to propose: every arch of the space is known, or no new one was found in a bounded number of tries.

    A signal, as StopIteration is, and not a mistake of the user.
    """


class Finished(NamedTuple):
    """The outcome of one trial, as an algorithm sees it."""

    number: int
    arch: Arch
    values: tuple[float, ...] | None
    """Minimised objective values (`value * metric.sign`); None where they were not measured."""
    violation: float = 0.0
    """How far the constraints are violated, summed: 0.0 when all are met, inf when it is not known how far."""
    state: State = "COMPLETED"


class LazyArchs(Sequence["Arch"]):
    """Archs of stored rows, built when they are looked at: reopening a study needs a population, not 100,000 archs.

    Args:
        space: space that the archs belong to.
        rows: one row of numbers an arch, as `Arch.row()` gave it.
        schema: schema of the space that they were stored with; None when it is `space` itself.
    """

    def __init__(
        self, space: Space, rows: Sequence[Sequence[float | None]], schema: dict[str, Any] | None = None
    ) -> None:
        self._space, self._rows, self._schema = space, rows, schema

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> Arch: ...
    @overload
    def __getitem__(self, at: slice) -> LazyArchs: ...
    def __getitem__(self, at: int | slice) -> Arch | LazyArchs:
        if isinstance(at, slice):
            return LazyArchs(self._space, self._rows[at], self._schema)
        return self._space.from_row(self._rows[at], self._schema)


@dataclass(frozen=True, eq=False)
class History:
    """All that a study knows, as columns: the finished trials in the order in which they finished, and those under way.

    Args:
        keys: `arch.key` of each finished trial, in the space that the algorithm is bound to.
        archs: its arch; a `LazyArchs` will do.
        numbers: (n,) its number.
        values: (n, m) its minimised objective values; NaN where they were not measured.
        violations: (n,) its violation; 0.0 when feasible.
        states: its state.
        pending: archs that were asked and have not finished.
    """

    keys: Sequence[str]
    archs: Sequence[Arch]
    numbers: NDArray[np.int64]
    values: NDArray[np.float64]
    violations: NDArray[np.float64]
    states: Sequence[State]
    pending: Sequence[Arch] = field(default=())

    def __post_init__(self) -> None:
        lengths = {
            name: len(getattr(self, name)) for name in ("keys", "archs", "numbers", "values", "violations", "states")
        }
        assert len(set(lengths.values())) == 1, f"columns of one history differ in length: {lengths}"

    @classmethod
    def of(cls, trials: Sequence[Finished], objectives: int, pending: Sequence[Arch] = ()) -> History:
        """Columns of `trials`, which are in the order in which they finished."""
        values = np.full((len(trials), objectives), np.nan)
        for row, trial in enumerate(trials):
            if trial.values is not None:
                values[row] = trial.values
        return cls(
            keys=[trial.arch.key for trial in trials],
            archs=[trial.arch for trial in trials],
            numbers=np.array([trial.number for trial in trials], dtype=np.int64),
            values=values,
            violations=np.array([trial.violation for trial in trials], dtype=np.float64),
            states=[trial.state for trial in trials],
            pending=pending,
        )

    def __len__(self) -> int:
        return len(self.keys)

    def trial(self, row: int) -> Finished:
        """One row, as `tell` would have had it."""
        values = self.values[row]
        measured = None if np.isnan(values).any() else tuple(values.tolist())
        return Finished(
            int(self.numbers[row]), self.archs[row], measured, float(self.violations[row]), self.states[row]
        )

    def first_rows(self) -> Sequence[int]:
        """Rows in order, without those whose arch had finished before."""
        if len(set(self.keys)) == len(self.keys):
            return range(len(self.keys))
        first: dict[str, int] = {}
        for row, key in enumerate(self.keys):
            first.setdefault(key, row)
        return list(first.values())


class Algorithm(ABC):
    """Proposes archs (`ask`) and learns from what became of them (`tell`).  A cache of a study's history, never its owner.

    The contract, which `tests/conformance/algorithm.py` checks:

    - `ask(n)` returns at most n archs of the space, none of which was asked or told before.  It raises `Exhausted` when there
      is nothing new to propose, and returns `[]` only when it must wait for trials that are under way.
    - `tell(trials)` takes trials in the order in which they finished, whatever order they were asked in.  Trials that were
      never asked here (another driver's, an earlier run's) are welcome.  Failed and infeasible trials are told like
      others: a failed arch is never a parent, an infeasible one loses to every feasible one.
    - Objective values are minimised and finite or infinite, never NaN.
    - Proposals are a function of the options, the set of archs known and the order of the finished trials, nothing else:
      no clock, no random state that lives on.  So a new instance that is given the history by `restore` (or by `tell` and
      `reserve`) proposes what the old one would have proposed, and asking 4 at once is asking 1 four times.
    - One owner: an instance is not shared between threads, and belongs to one study (`bind` is called once).

    Subclasses fill `_ask`, `_tell` and, where a rebuild by columns is faster, `_restore`; options are attributes of the same
    name as the arguments of `__init__`.

    Args:
        seed: names the sequence of random numbers.  Drivers that share a study take different seeds.

    Raises:
        AlgorithmError: an option is not what it must be.
    """

    name: ClassVar[str]

    @checked(AlgorithmError, called="name")
    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        digest = hashlib.blake2b(str(seed).encode(), digest_size=12).digest()
        self._stream = int.from_bytes(digest, "little")
        self._rng = random.Random()
        self._space: Space | None = None
        self._seen = KeySet()  # keys of all archs that were asked, told or reserved
        self._pending: set[str] = set()  # those of them that have not finished
        self._unseen: list[Arch] = []  # the last archs of a small space, in the order of the enumeration
        self._unseen_at = -1  # how many archs were known when `_unseen` was right

    # -- what a study calls ----------------------------------------------------------------------------------------------

    def bind(self, space: Space, objectives: Sequence[Metric], constraints: Sequence[Constraint] = ()) -> None:
        """Says what is searched, once, before the first `ask`.

        Raises:
            AlgorithmError: bound already, no objective, or the algorithm cannot search this space.
        """
        if self._space is not None:
            raise AlgorithmError(
                f"this {self.name} is bound to space {self.space.name!r} already; make one for each study"
            )
        if not objectives:
            raise AlgorithmError(f"{self.name} was given no objective; give at least one, as in 'max accuracy'")
        self._check(space)
        self._space = space
        self.objectives = tuple(objectives)
        self.constraints = tuple(constraints)
        self._size = inf if space.floats else space.size

    def inform(self, insight: Insight) -> None:  # noqa: B027 (most learn from trials alone)
        """Says what can be known of archs without an evaluation, before `bind`; an algorithm may use it or not."""

    @checked(AlgorithmError)
    def ask(self, n: Count = 1) -> list[Arch]:
        """Up to `n` new archs to evaluate; `[]` means: wait for results.

        Raises:
            Exhausted: there is nothing new to propose.
            AlgorithmError: not bound yet, or `n` is not a positive whole number.
        """
        self._check_bound()
        return self._ask(n)

    def tell(self, trials: Iterable[Finished]) -> None:
        """Takes finished trials, in the order in which they finished.  An arch that has finished before is passed over.

        Raises:
            AlgorithmError: not bound yet; an arch of another space; values that do not fit the objectives, or are NaN.
        """
        self._check_bound()
        trials = list(trials)
        for trial in trials:  # all before the first is taken, so that a refused call leaves nothing behind
            self._accept(trial)
        seen, pending, new = self._seen, self._pending, []
        for trial in trials:
            key = trial.arch.key
            if key in pending:
                pending.remove(key)
            elif not seen.add(key):
                continue
            new.append(trial)
        if new:
            self._tell(new)

    def reserve(self, archs: Iterable[Arch]) -> None:
        """Marks archs as under way elsewhere (another driver's, those of before a restart): they are not proposed.

        Raises:
            AlgorithmError: not bound yet.
        """
        self._check_bound()
        for arch in archs:
            self._take(arch)

    def restore(self, history: History) -> None:
        """Takes the whole history of a study at once, instead of `tell` and `reserve`; the next proposals are the same.

        Raises:
            AlgorithmError: not bound yet, or something was asked or told before.
        """
        self._check_bound()
        if self._seen:
            raise AlgorithmError(
                f"this {self.name} knows {len(self._seen)} archs already and cannot be restored; restore before ask and tell"
            )
        if history.values.shape[1:] != (len(self.objectives),):
            raise AlgorithmError(
                f"history has values of shape {history.values.shape}; expected {len(self.objectives)} columns, "
                f"one for each of {', '.join(metric.name for metric in self.objectives)}"
            )
        self._seen.update(history.keys)
        if len(history):
            self._restore(history, np.asarray(history.first_rows(), dtype=np.int64))
        self.reserve(history.pending)

    def describe(self) -> dict[str, Any]:
        """Name and options, JSON-able: `make(**algorithm.describe())` makes an equal one.

        An option that came later is no attribute where it has its default: studies begun without it are compared as before.
        """
        options = [option for option in inspect.signature(type(self)).parameters if hasattr(self, option)]
        return {"name": self.name, **{option: getattr(self, option) for option in options}}

    @property
    def space(self) -> Space:
        """The space that is searched.

        Raises:
            AlgorithmError: not bound yet.
        """
        self._check_bound()
        assert self._space is not None
        return self._space

    @property
    def known(self) -> int:
        """How many different archs were asked, told or reserved."""
        return len(self._seen)

    @property
    def pending(self) -> int:
        """How many of the known archs have not finished."""
        return len(self._pending)

    def __repr__(self) -> str:
        options = self.describe()
        del options["name"]
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in options.items())})"

    # -- what subclasses fill ----------------------------------------------------------------------------------------------

    def _check(self, space: Space) -> None:  # noqa: B027 (most algorithms search any space)
        """Raises AlgorithmError if `space` cannot be searched."""

    @abstractmethod
    def _ask(self, n: int) -> list[Arch]:
        """`ask` with a valid `n`; each arch returned went through `_take`."""

    @abstractmethod
    def _tell(self, trials: Sequence[Finished]) -> None:
        """`tell` with valid trials, whose archs finish for the first time."""

    def _restore(self, history: History, rows: NDArray[np.int64]) -> None:
        """`_tell` of `rows` of `history`."""
        self._tell([history.trial(int(row)) for row in rows])

    # -- what subclasses use -----------------------------------------------------------------------------------------------

    def _take(self, arch: Arch) -> bool:
        """Whether `arch` is new, and no rule of the space forbids it; if so it is under way from now on."""
        if not self.space.allows(arch):
            return False
        key = arch.key
        if not self._seen.add(key):
            return False
        self._pending.add(key)
        return True

    def _ask_inside(self, inner: Algorithm, n: int, before: Sequence[Arch]) -> list[Arch]:
        """Up to `n` archs of an algorithm inside this one; exhausted only when there are none `before` either."""
        try:
            archs = inner.ask(n)
        except Exhausted:
            if before:
                return []
            raise
        for arch in archs:
            self._take(arch)
        return archs

    def _fill(self, n: int, draw: Callable[[random.Random], Arch]) -> list[Arch]:
        """Up to `n` new archs from `draw`; raises Exhausted if there is not even one."""
        archs: list[Arch] = []
        try:
            while len(archs) < n:
                archs.append(self._fresh(draw))
        except Exhausted:
            if not archs:
                raise
        return archs

    def _fresh(self, draw: Callable[[random.Random], Arch]) -> Arch:
        """One new arch, from `draw` if it finds one, else from anywhere in the space.

        The random numbers depend on the seed and on how many archs are known, so that there is no state to store.
        """
        if len(self._seen) >= self._size:
            raise Exhausted(f"all {self._size} archs of space {self.space.name!r} are known")
        rng = self._rng
        rng.seed(self._stream + len(self._seen))
        for _ in range(TRIES):
            arch = draw(rng)
            if self._take(arch):
                return arch
        small = self._size <= ENUMERABLE
        for _ in range(TRIES if small else LONG_TRIES):
            arch = self.space.sample(rng)
            if self._take(arch):
                return arch
        if small:
            return self._leftover(rng)
        raise Exhausted(f"no new arch of space {self.space.name!r} was found in {LONG_TRIES} tries")

    def _leftover(self, rng: random.Random) -> Arch:
        """One of the last unseen archs of a small space."""
        if self._unseen_at != len(self._seen):
            left = self._unseen or self.space.enumerate()
            self._unseen = [arch for arch in left if arch.key not in self._seen]
        if not self._unseen:
            raise Exhausted(f"every arch of space {self.space.name!r} is known")
        arch = self._unseen.pop(rng.randrange(len(self._unseen)))
        self._take(arch)
        self._unseen_at = len(self._seen)
        return arch

    def _check_bound(self) -> None:
        """Raises AlgorithmError if `bind` was not called."""
        if self._space is None:
            raise AlgorithmError(f"this {self.name} is not bound to a space yet; call bind(space, objectives) first")

    def _accept(self, trial: Finished) -> None:
        """Raises AlgorithmError if `trial` cannot be told."""
        space, values = self.space, trial.values
        if trial.arch.space is not space and trial.arch.space.fingerprint != space.fingerprint:
            raise AlgorithmError(
                f"trial {trial.number} is of space {trial.arch.space.name!r}; this {self.name} searches {space.name!r}"
            )
        if trial.state not in STATES:
            raise AlgorithmError(f"trial {trial.number} is {trial.state!r}; only {', '.join(STATES)} trials are told")
        if values is None:
            if trial.state == "COMPLETED":
                raise AlgorithmError(f"trial {trial.number} is COMPLETED without values; give one for each objective")
        elif len(values) != len(self.objectives) or any(map(isnan, values)):
            raise AlgorithmError(
                f"trial {trial.number} has values {values}; expected {len(self.objectives)} numbers, "
                f"for {', '.join(metric.name for metric in self.objectives)}"
            )


def is_feasible(trial: Finished) -> bool:
    """Whether a trial completed and meets the constraints."""
    return trial.state == "COMPLETED" and trial.violation <= 0


def violation(trial: Finished) -> float:
    """How far from feasible, for comparison: 0.0 only for a feasible trial; inf for one that says infeasible but not how far."""
    if is_feasible(trial):
        return 0.0
    return trial.violation if trial.violation > 0 else inf
