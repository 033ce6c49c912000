"""Sequential model-based optimisation: the best of many samples, as a regression predicts them.

Negrinho, Gordon 2017, "DeepArchitect: Automatically Designing and Training Deep Architectures" (ridge regression; samples
at random or by a tree search on the predictions); Knowles 2006, "ParEGO" (several objectives by weights that are drawn anew
each time).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas.checking import checked
from nas.choosing.steps import Steps
from nas.errors import AlgorithmError
from nas.search.base import Algorithm, Finished, History, State
from nas.search.forecast import Forecast, finite, measured
from nas.search.grid import fit_grid
from nas.search.mcts import Tree
from nas.search.options import fraction, number, switch, whole
from nas.search.past import Past
from nas.search.steps import weights

if TYPE_CHECKING:
    import random

    from nas.space import Arch, Space

Floats = NDArray[np.float64]
_BOUND = 0.1  # of the tree search on predictions
_AUGMENTED = 0.05  # ParEGO's share of the sum beside the largest weighted objective


class SMBO(Algorithm):
    """Proposes the best of `samples` archs by a ridge regression on one-hot features, now and then one at random.

    The regression is fitted anew for every `interval` finished trials.  Of several objectives each proposal draws weights, and
    the best is that of the smallest augmented Chebyshev distance from the best values known (ParEGO); archs that are predicted
    to be infeasible come last, by violation.

    Args:
        samples: archs that are compared for a proposal; with `tree`, for an interval.
        exploration: probability that a proposal is random.
        interval: finished trials from one fit to the next.
        tree: whether samples come from a tree search on the predictions instead of at random (MCTS, built anew with each fit).
        bisect: whether that tree halves the range of numbers; see `MCTS`.
        bound: weight of the confidence bound in that tree, 1 in the paper.  The more, the less alike samples are: better with
            many decisions below others (`experiments/published_search`), worse where a sum says all.
        penalty: of the ridge regression.
        history: trials that it is trained on at most: the youngest half, and as many evenly over those before.
        seed: names the sequence of random numbers.

    Raises:
        AlgorithmError: an option is not what it must be.
    """

    name = "smbo"

    @checked(AlgorithmError, called="name")
    def __init__(
        self,
        samples: int = 256,
        exploration: float = 0.1,
        interval: int = 8,
        *,
        tree: bool = False,
        bisect: bool = False,
        bound: float = _BOUND,
        penalty: float = 1.0,
        history: int = 1_000,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.samples = whole(self.name, "samples", samples, 1)
        self.exploration = fraction(self.name, "exploration", exploration)
        self.interval = whole(self.name, "interval", interval, 1)
        self.tree = switch(self.name, "tree", tree)
        self.bisect = switch(self.name, "bisect", bisect)
        self.bound = number(self.name, "bound", bound, least=0.0)
        for option, given in (("bisect", bisect), ("bound", bound != _BOUND)):
            if given and not tree:
                raise AlgorithmError(f"{self.name} was given {option}=, which is about the tree; give tree=True too")
        self.penalty = number(self.name, "penalty", penalty, above=0.0)
        self.history = whole(self.name, "history", history, 2)
        self._past = Past()
        self._fitted = 0  # trials that were finished when the model was fitted
        self._model: _Model | None = None

    def _ask(self, n: int) -> list[Arch]:
        self._refit()
        return self._fill(n, self._draw)

    def _draw(self, rng: random.Random) -> Arch:
        model = self._model
        if model is None or rng.random() < self.exploration:
            return self.space.sample(rng)
        if not model.samples:
            archs = [self.space.sample(rng) for _ in range(self.samples)]
            return self._best(archs, *model.forecast(archs), rng)
        return self._best(model.samples, model.values, model.violations, rng)

    def _best(self, archs: Sequence[Arch], values: Floats, violations: Floats, rng: random.Random) -> Arch:
        """The best unknown one of `archs`; any arch if all are known."""
        assert self._model is not None
        weight = np.array(weights(values.shape[1], rng))
        scaled = weight * (values - self._model.best) / self._model.reach
        distance = scaled.max(axis=1) + _AUGMENTED * scaled.sum(axis=1)
        order = np.lexsort((distance, violations)).tolist()
        unknown = (archs[row] for row in order if archs[row].key not in self._seen)
        return next(unknown, None) or self.space.sample(rng)

    def _tell(self, trials: Sequence[Finished]) -> None:
        for trial in trials:
            self._past.append(trial)

    def _restore(self, history: History, rows: NDArray[np.int64]) -> None:
        self._past.begin(history, rows)

    def _refit(self) -> None:
        """Fits the model of the last whole interval, if that is another one."""
        end = len(self._past) - len(self._past) % self.interval
        if end == self._fitted:
            return
        self._fitted = end
        trials = self._past.training(end, self.history)
        if not trials:
            self._model = None
            return
        self._model = _Model(self.space, trials, len(self.objectives), self.penalty)
        if self.tree:
            rng = self._rng
            rng.seed(self._stream ^ end)
            steps = Steps(self.space)
            tree = Tree(steps, len(self.objectives), self.bound, bisect=self.bisect)
            self._model.climb(steps, tree, self.samples, rng)


class _Model:
    """A regression an objective, the range of what was measured, and the samples of the tree search, if there is one."""

    def __init__(self, space: Space, trials: Sequence[Finished], objectives: int, penalty: float) -> None:
        columns = range(objectives)
        self.forecast = Forecast(space, trials, columns, partial(fit_grid, alphas=(penalty,), costs=()))
        known = measured(trials, columns)
        known = finite(known[~np.isnan(known).any(axis=1)])
        self.best: Floats = known.min(axis=0, initial=np.inf) if len(known) else np.zeros(objectives)
        reach = known.max(axis=0, initial=-np.inf) - self.best if len(known) else np.ones(objectives)
        self.reach: Floats = np.where(reach > 0, reach, 1.0)
        self.samples: list[Arch] = []
        self.values: Floats = np.zeros((0, objectives))
        self.violations: Floats = np.zeros(0)

    def climb(self, steps: Steps, tree: Tree, samples: int, rng: random.Random) -> None:
        """Samples by a tree search whose rewards are predictions."""
        for _ in range(samples):
            chosen = tree.walk([], rng)
            arch = steps.arch(chosen, rng)
            values, violations = self.forecast([arch])
            state: State = "INFEASIBLE" if violations[0] else "COMPLETED"
            tree.learn(chosen, Finished(0, arch, tuple(values[0].tolist()), float(violations[0]), state))
            self.samples.append(arch)
        self.values, self.violations = self.forecast(self.samples)
