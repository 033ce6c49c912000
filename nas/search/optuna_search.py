"""Any Optuna sampler as an algorithm.

A sampler sees a *static* vector: a parameter for every decision, also those that a choice switches off.  Sampling only the
active ones ("define by run") leaves a genetic sampler the few decisions that every trial has: 6 of 96 in a nested space of
ours.  `Space.repair` makes an arch of a vector, and a sampler is told the vector *of the arch*, with noise that depends on the
arch alone where decisions are inactive: that, unlike the vector which the sampler drew, is known after a restart.

Optuna's samplers look at their whole history at every question: TPE takes 2.5 times as long at 3,000 trials as at 1,000, unless
`history` limits what it sees (`experiments/foreign_search`).  They are for evaluations that take longer than that.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.checking import checked
from nas.errors import AlgorithmError
from nas.search.base import Algorithm, Exhausted, Finished, is_feasible, violation
from nas.search.options import switch, whole
from nas.search.optuna_samplers import described_sampler, make_sampler, random_states
from nas.search.selection import survivors

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

    from nas.search.optuna_board import Board
    from nas.space import Arch
    from nas.space.compiling import Decision

SAMPLER_TRIES = (
    1  # a sampler that proposed something known tends to do so again, at the price of another look at all trials
)
MOST_CATCHING_UP = 64  # more such tries for a sampler that begins its sequence anew after a restart
_SEQUENCES = ("QMCSampler",)  # whose proposals do not depend on what is known
_KEPT = "cma"  # CMA-ES keeps its state on the trials that it proposed: these attributes must come back with them
_LARGEST = 1e100  # stands for infinite values: samplers multiply and subtract them


class OptunaSearch(Algorithm):
    """Proposes what an Optuna sampler proposes, without repeats: a known proposal is mutated until it is new.

    Infeasible trials are told with their violation as the constraint of the trial, which TPE, NSGA-II, NSGA-III and the Gaussian
    process heed; of the values that were not measured they get the worst seen.  Failed trials are told as failed.

    A rebuilt study proposes what the old one would have, except with samplers that keep more than random numbers to
    themselves: CMA-ES and QMC begin anew, and the Gaussian process fits from other starting values.

    Args:
        sampler: an Optuna sampler, of which the random state is replaced by `seed`; or a name: tpe (multivariate, grouped),
            nsga2, nsga3, gp, cmaes, qmc, random, bruteforce.
        options: of a sampler that is given by its name.
        history: the sampler sees at most this many finished trials, half of them the youngest, the others the best; None for all.
            Not for genetic samplers, which look at the last generation only.
        ordered: whether a decision between ascending numbers is an integer (its rank) to the sampler, not a category.
        seed: names the sequence of random numbers.

    Raises:
        AlgorithmError: an option is not what it must be.
    """

    name = "optuna"

    @checked(AlgorithmError, called="name")
    def __init__(
        self,
        sampler: BaseSampler | str = "tpe",
        options: Mapping[str, Any] | None = None,
        history: int | None = None,
        ordered: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.sampler = sampler
        self.options = dict(options or {})
        self._sampler = make_sampler(sampler, options)
        self.history = None if history is None else whole(self.name, "history", history, 2)
        self.ordered = switch(self.name, "ordered", ordered)
        if self.history is not None and self._generation_key is not None:
            raise AlgorithmError(
                f"{self.name} was given history={history}, but {type(self._sampler).__name__} looks at its last "
                "generation only; leave history out"
            )
        self._told: list[Finished] = []
        self._frozen: list[FrozenTrial] = []  # of `_told`, as far as they were needed
        self._constrained = False  # whether infeasible trials were told: then all of them carry a constraint
        self._worst: list[float] = []  # by objective, among the finite values
        self._furthest = 1.0  # the largest known violation
        self._bred = 0  # trials with values so far, which make the generations of a genetic sampler
        self._generations = 0  # of which the parents were chosen
        self._under_way: dict[str, FrozenTrial] = {}
        self._chosen: list[int] = []  # trials that are shown, where `history` limits them
        self._chosen_of = 0  # of how many
        self._drawn = 0
        self._left: dict[str, dict[str, Any]] = {}  # attributes that a sampler left on what it proposed

    def describe(self) -> dict[str, Any]:
        """Name and options, JSON-able; a sampler that was given itself is told by its class and is not made again."""
        return {
            "name": self.name,
            "sampler": described_sampler(self.sampler),
            "options": self.options,
            "history": self.history,
            "ordered": self.ordered,
            "seed": self.seed,
        }

    # -- proposals ---------------------------------------------------------------------------------------------------------

    def _ask(self, n: int) -> list[Arch]:
        archs: list[Arch] = []
        try:
            while len(archs) < n:
                archs.append(self._one())
        except Exhausted:
            if not archs:
                raise
        return archs

    def _one(self) -> Arch:
        """A new arch: the sampler's, else a mutant of what it drew, else as the base finds one."""
        draws: list[Iterator[Arch]] = []

        def draw(rng: random.Random) -> Arch:
            if not draws:
                draws.append(self._drawing(rng))
            return next(draws[0])

        arch = self._fresh(draw)
        self._under_way[arch.key] = self._running_trial(arch)
        return arch

    def _drawing(self, rng: random.Random) -> Iterator[Arch]:
        self._board.show(self._shown(), self._under_way.values(), len(self._told))
        self._breed()
        seed_of(self._sampler, rng.getrandbits(32))
        tries = SAMPLER_TRIES
        if type(self._sampler).__name__ in _SEQUENCES:
            tries += min(MOST_CATCHING_UP, max(0, len(self._seen) - self._drawn))
        arch = self.space.smallest
        for _ in range(tries):
            arch = self._sampled()
            yield arch
        while True:
            arch = self.space.mutate(arch, rng)
            yield arch

    def _sampled(self) -> Arch:
        """What the sampler wants, as an arch."""
        self._drawn += 1
        self._board.show(self._shown(), self._under_way.values(), len(self._told))
        with quiet():
            trial = self._study.ask(self._distributions)
        numbers = [self._gene(decision, trial.params[decision.name]) for decision in self.space.decisions]
        arch = self.space.repair(numbers)
        left = self._board.get_trial(trial.number).system_attrs
        left = {name: value for name, value in left.items() if name.startswith(_KEPT)}
        if left:
            self._left[arch.key] = left
        return arch

    def _breed(self) -> None:
        """Have a genetic sampler choose the parents of every generation so far, in order.

        It keeps them, and orders them differently the first time: left to itself, a rebuilt sampler would breed others.
        """
        if self._generation_key is None:
            return
        sampler: Any = self._sampler
        while self._generations < self._bred // self._population:
            self._generations += 1
            seed_of(sampler, (self._stream + self._generations) % 2**32)
            with quiet():
                # A new handle: the one that is used for asking may still have the trials of its last question in mind.
                sampler.get_parent_population(self._handle(), self._generations)

    @cached_property
    def _board(self) -> Board:
        from nas.search.optuna_board import Board

        return Board(len(self.objectives))

    @cached_property
    def _study(self) -> Any:
        with quiet():
            return self._handle()

    def _handle(self) -> Any:
        import optuna

        return optuna.study.Study("supernas", self._board, self._sampler)

    # -- decisions as parameters -------------------------------------------------------------------------------------------

    @cached_property
    def _distributions(self) -> dict[str, BaseDistribution]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        distributions: dict[str, BaseDistribution] = {}
        for decision in self.space.decisions:
            if (range_ := decision.point.range) is not None:
                distributions[decision.name] = FloatDistribution(range_.low, range_.high, log=range_.scale == "log")
            elif self._is_ordered(decision):
                distributions[decision.name] = IntDistribution(0, len(decision.labels) - 1)
            else:
                distributions[decision.name] = CategoricalDistribution(self._names[decision.index])
        return distributions

    @cached_property
    def _names(self) -> list[tuple[Any, ...]]:
        """For each decision what its different candidates are called: their labels, or texts where Python takes two for one."""
        names = []
        for decision in self.space.decisions:
            labels = tuple(decision.labels[c] for c in dict.fromkeys(decision.point.canonical))
            names.append(labels if len(set(labels)) == len(labels) else tuple(map(repr, labels)))
        return names

    @cached_property
    def _genes(self) -> list[dict[Any, int]]:
        """For each decision the gene of each name."""
        canonical = [list(dict.fromkeys(decision.point.canonical)) for decision in self.space.decisions]
        return [dict(zip(names, genes, strict=True)) for names, genes in zip(self._names, canonical, strict=True)]

    def _is_ordered(self, decision: Decision) -> bool:
        numbers = [label for label in decision.labels if isinstance(label, int | float) and not isinstance(label, bool)]
        return self.ordered and len(numbers) == len(decision.labels) and numbers == sorted(set(numbers))

    def _gene(self, decision: Decision, param: Any) -> Any:
        if decision.kind == "float" or self._is_ordered(decision):
            return param
        return self._genes[decision.index][param]

    def _params(self, arch: Arch) -> dict[str, Any]:
        """A value for every decision; for inactive ones noise that is always the same for the arch."""
        rng = random.Random(int(arch.key, 16))
        params: dict[str, Any] = {}
        for decision, gene in zip(self.space.decisions, arch.genome, strict=True):
            range_, noise = decision.point.range, rng.random()
            if range_ is not None:
                params[decision.name] = range_.low + noise * (range_.high - range_.low) if gene is None else gene
                continue
            names = self._names[decision.index]
            at = int(noise * len(names)) if gene is None else list(self._genes[decision.index].values()).index(gene)
            params[decision.name] = at if self._is_ordered(decision) else names[at]
        return params

    # -- trials as Optuna's ------------------------------------------------------------------------------------------------

    def _running_trial(self, arch: Arch) -> FrozenTrial:
        from optuna.trial import TrialState, create_trial

        return create_trial(
            state=TrialState.RUNNING,
            params=self._params(arch),
            distributions=dict(self._distributions),
            system_attrs=dict(self._left.get(arch.key, {})),
        )

    def reserve(self, archs: Any) -> None:
        """See `Algorithm.reserve`."""
        new = [arch for arch in archs if arch.key not in self._seen]
        super().reserve(new)
        self._under_way.update((arch.key, self._running_trial(arch)) for arch in new)

    def _tell(self, trials: Sequence[Finished]) -> None:
        for trial in trials:
            self._under_way.pop(trial.arch.key, None)
            self._told.append(trial)
            if trial.state == "INFEASIBLE" and not self._constrained:
                self._constrained, self._frozen = True, []  # all of them are made again, with the constraint

    def _shown(self) -> list[FrozenTrial]:
        """The finished trials that the sampler sees, by number."""
        if not self._frozen:
            self._worst, self._furthest, self._bred = [], 1.0, 0
        for trial in self._told[len(self._frozen) :]:
            self._frozen.append(self._freeze(trial, len(self._frozen)))
        if self.history is None or len(self._frozen) <= self.history:
            return self._frozen
        if self._chosen_of != len(self._told):
            self._chosen_of = len(self._told)
            self._chosen = chosen(self._told, len(self.objectives), self.history)
        return [self._frozen[at] for at in self._chosen]

    def _freeze(self, trial: Finished, number: int) -> FrozenTrial:
        from optuna.trial import TrialState, create_trial

        state, values, constraints, attributes = TrialState.FAIL, None, {}, dict(self._left.get(trial.arch.key, {}))
        if trial.state != "FAILED":
            state, values = TrialState.COMPLETE, self._values(trial)
            if self._constrained:
                constraints = {"violation": self._violation(trial)}
            if self._generation_key is not None:
                attributes[self._generation_key] = self._bred // self._population
                self._bred += 1
        params = self._params(trial.arch)
        frozen = create_trial(
            state=state,
            values=values,
            params=params,
            distributions=dict(self._distributions),
            constraints=constraints,
            system_attrs=attributes,
        )
        frozen.number = frozen._trial_id = number
        return frozen

    def _values(self, trial: Finished) -> list[float]:
        if trial.values is None:
            return self._worst or [0.0] * len(self.objectives)
        values = [min(max(float(value), -_LARGEST), _LARGEST) for value in trial.values]
        finite = [value if math.isfinite(given) else 0.0 for value, given in zip(values, trial.values, strict=True)]
        self._worst = [max(pair) for pair in zip(self._worst, finite, strict=True)] if self._worst else finite
        return values

    def _violation(self, trial: Finished) -> float:
        if is_feasible(trial):
            return 0.0
        amount = violation(trial)
        if math.isfinite(amount):
            self._furthest = max(self._furthest, amount)
            return amount
        return 2 * self._furthest  # it is not known how far: worse than any of which it is

    @cached_property
    def _population(self) -> int:
        return int(getattr(self._sampler, "population_size", 1))

    @cached_property
    def _generation_key(self) -> str | None:
        """Where a genetic sampler looks for the generation of a trial; None for the others."""
        key = getattr(self._sampler, "_get_generation_key", None)
        return str(key()) if key is not None else None


def chosen(told: Sequence[Finished], objectives: int, most: int) -> list[int]:
    """Which `most` trials a sampler is shown: the youngest half, and the best of the others; in order."""
    young = most // 2
    others = [at for at in range(len(told) - young) if told[at].state != "FAILED"]
    unmeasured = (np.nan,) * objectives
    values = np.array([told[at].values or unmeasured for at in others], dtype=np.float64).reshape(-1, objectives)
    violations = np.array([violation(told[at]) for at in others], dtype=np.float64)
    rows, _ = survivors(values, violations, most - young)
    return sorted(others[row] for row in rows.tolist()) + list(range(len(told) - young, len(told)))


def seed_of(sampler: Any, seed: int) -> None:
    """Give every random state inside a sampler, wherever it holds it, a seed of its own."""
    for place, state in enumerate(random_states(sampler)):
        state.seed((seed + place * 7919) % 2**32)


@contextmanager
def quiet() -> Iterator[None]:
    """What Optuna says of experimental options and of its studies is not news to who asked for them."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)
