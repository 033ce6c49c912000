"""REINFORCE: controllers that learn a distribution over every decision from a reward.

Williams 1992, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning"; Cai, Zhu, Han 2019,
"ProxylessNAS" (its REINFORCE variant: one distribution a decision); Tan et al. 2019, "MnasNet: Platform-Aware Neural
Architecture Search for Mobile" (the reward accuracy x (latency / target)^w).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas.checking import checked
from nas.choosing.steps import Choices, Steps
from nas.errors import AlgorithmError
from nas.search.base import Algorithm, Finished, is_feasible
from nas.search.options import fraction, number, whole
from nas.search.steps import beside, weights

if TYPE_CHECKING:
    import random

    from nas.metrics import Constraint, Metric
    from nas.space import Arch, Space

Floats = NDArray[np.float64]
CONTROLLERS, EXPONENT = 8, -0.07  # unless told; the exponent is MnasNet's and ProxylessNAS's
_CLIP = 3.0  # standard deviations beyond which a reward counts no more


class REINFORCE(Algorithm):
    """Draws every decision from a softmax of its own; a step along the policy gradient for every `batch` finished trials.

    With a `target`, as published: one controller, whose reward is q (c / target)^exponent for quality q (the first objective,
    maximised) and each cost c.  Without, `controllers` of them, each with a weighted sum of all objectives as its reward and
    weights of its own, evenly from the first objective alone to the last; a proposal is drawn from any of them, and each learns
    from all trials with importance weights p(arch) / (mean of all p(arch)), at most 1 (ours).  Rewards are measured in
    standard deviations of those seen so far, and against a moving average.  Infeasible
    trials have rewards from -3 down to -9, by their violations in the same measure, and failed ones -9.  An arch that is known
    already is replaced by one beside it.

    Args:
        rate: length of a step.
        batch: finished trials of a step.
        baseline: decay of the moving average.
        controllers: how many trade-offs are learnt; None for 8, with one objective or a target 1.
        target: cost that is aimed at, in the unit of the costs; None to learn trade-offs.
        exponent: w of the reward with a target; None for -0.07.
        bins: equal parts that a continuous decision is cut into.
        seed: names the sequence of random numbers.

    Raises:
        AlgorithmError: an option is not what it must be, or without effect.
    """

    name = "reinforce"

    @checked(AlgorithmError, called="name")
    def __init__(
        self,
        rate: float = 0.5,
        batch: int = 4,
        baseline: float = 0.95,
        *,
        controllers: int | None = None,
        target: float | None = None,
        exponent: float | None = None,
        bins: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.rate = number(self.name, "rate", rate, above=0.0)
        self.batch = whole(self.name, "batch", batch, 1)
        self.baseline = fraction(self.name, "baseline", baseline)
        self.controllers = None if controllers is None else whole(self.name, "controllers", controllers, 1)
        self.target = None if target is None else number(self.name, "target", target, above=0.0)
        self.exponent = None if exponent is None else number(self.name, "exponent", exponent)
        self.bins = whole(self.name, "bins", bins, 1)
        if target is None and exponent is not None:
            raise AlgorithmError(f"reinforce was given exponent={exponent!r} without a target; give both or neither")
        if target is not None and controllers is not None:
            raise AlgorithmError(
                f"reinforce was given controllers={controllers!r} and a target; with a target there is one"
            )
        self._arrivals: list[Finished] = []  # finished since the last step, fewer than `batch`

    def bind(self, space: Space, objectives: Sequence[Metric], constraints: Sequence[Constraint] = ()) -> None:
        """As every algorithm's; all options of a decision are equally likely then.

        Raises:
            AlgorithmError: as every algorithm's; or the objectives do not go with `target` or `controllers`.
        """
        if self.target is not None and [metric.goal for metric in objectives[:2]] != ["max", "min"]:
            names = ", ".join(f"{metric.goal} {metric.name}" for metric in objectives)
            raise AlgorithmError(
                f"reinforce was given a target and the objectives {names}; "
                "expected a quality first, as in 'max accuracy', and costs"
            )
        if self.controllers is not None and len(objectives) == 1:
            raise AlgorithmError(
                f"reinforce was given controllers={self.controllers} and one objective, which has no trade-offs; leave it out"
            )
        super().bind(space, objectives, constraints)
        self._steps = Steps(space, self.bins)
        self._trade_offs = self._weights(len(objectives))
        self._policy = _Policy(self._steps, len(self._trade_offs))
        self._scale = _Scale(1 if self.target else len(objectives))
        self._over = _Scale(1)  # of violations
        self._average = np.zeros(len(self._trade_offs))  # moving average of each controller's reward

    def _weights(self, objectives: int) -> Floats:
        """(k, m) weights of the objectives for each controller."""
        if objectives == 1 or self.target:
            return np.ones((1, 1))
        count = CONTROLLERS if self.controllers is None else self.controllers
        if objectives == 2:
            share = np.linspace(0, 1, count) if count > 1 else np.array([0.5])
            return np.stack([1 - share, share], axis=1)
        rng = self._rng
        rng.seed(self._stream)
        drawn = [weights(objectives, rng) for _ in range(count)]
        return np.array([*np.eye(objectives)[:count].tolist(), *drawn][:count])

    # -- proposals ---------------------------------------------------------------------------------------------------------

    def _ask(self, n: int) -> list[Arch]:
        return self._fill(n, self._draw)

    def _draw(self, rng: random.Random) -> Arch:
        which = int(rng.random() * len(self._trade_offs))
        arch = self._steps.arch(self._policy.draw(which, rng), rng)
        return beside(arch, self._seen, rng)

    # -- learning ----------------------------------------------------------------------------------------------------------

    def _tell(self, trials: Sequence[Finished]) -> None:
        for trial in trials:
            self._arrivals.append(trial)
            if len(self._arrivals) == self.batch:
                self._learn()

    def _learn(self) -> None:
        """A step by the trials that have arrived."""
        trials, self._arrivals = self._arrivals, []
        rewards = self._rewards(trials)
        advantages = rewards - self._average
        self._average = self.baseline * self._average + (1 - self.baseline) * rewards.mean(axis=0)
        self._policy.step([self._steps.choices(trial.arch) for trial in trials], advantages, self.rate)

    def _rewards(self, trials: Sequence[Finished]) -> Floats:
        """(n, k) rewards of each trial for each controller."""
        values = np.full((len(trials), self._scale.columns), np.nan)
        for row, trial in enumerate(trials):
            if is_feasible(trial):
                values[row] = self._product(trial) if self.target else trial.values
        rewards: Floats = -self._scale(values) @ self._trade_offs.T
        bad = np.isnan(values).any(axis=1)
        over = [trial.violation if trial.state == "INFEASIBLE" and trial.violation > 0 else np.inf for trial in trials]
        rewards[bad] = -2 * _CLIP - self._over(np.array(over)[bad, None])
        return rewards

    def _product(self, trial: Finished) -> float:
        """The published reward, negated as all that is minimised; a quality below 0 counts as 0."""
        assert trial.values is not None
        assert self.target is not None
        costs = np.maximum(np.array(trial.values[1:]) / self.target, 1e-9)
        exponent = EXPONENT if self.exponent is None else self.exponent
        return -max(-trial.values[0], 0.0) * float(np.prod(costs**exponent))


class _Scale:
    """Values in standard deviations from the mean of all those seen so far (Chan, Golub, LeVeque 1979)."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self._count = np.zeros(columns)
        self._mean = np.zeros(columns)
        self._squares = np.zeros(columns)

    def __call__(self, values: Floats) -> Floats:
        """(n, m) scaled `values`, within -3 and 3, after they were taken into the sums; NaN rows give 0."""
        seen = np.isfinite(values)
        count = seen.sum(axis=0)
        mean = np.where(seen, values, 0.0).sum(axis=0) / np.maximum(count, 1)
        squares = np.where(seen, values - mean, 0.0)
        away, total = mean - self._mean, self._count + count
        self._squares = self._squares + (squares**2).sum(axis=0) + away**2 * self._count * count / np.maximum(total, 1)
        self._mean = self._mean + away * count / np.maximum(total, 1)
        self._count = total
        deviation = np.sqrt(self._squares / np.maximum(self._count, 1))
        scaled = (values - self._mean) / np.where(deviation > 0, deviation, 1.0)
        return np.clip(np.nan_to_num(scaled, nan=0.0, posinf=_CLIP, neginf=-_CLIP), -_CLIP, _CLIP)


class _Policy:
    """Logits of every option of every decision, for each controller."""

    def __init__(self, steps: Steps, controllers: int) -> None:
        self._steps = steps
        width = max(steps.widths, default=1)
        self._logits = np.zeros((controllers, steps.count, width))
        self._weights: list[list[list[float]]] | None = None  # exp(logits), as lists for the draws
        self._always = np.zeros((steps.count, width), dtype=bool)  # options that no other decision can close
        self._sometimes = [p for p in steps.order if not steps.is_free(p)]
        for p in range(steps.count):
            if steps.is_free(p):
                self._always[p, list(steps.options(p, ()))] = True

    def draw(self, which: int, rng: random.Random) -> Choices:
        """Choices from one controller; where not all options are open, from what is left of its distribution."""
        if self._weights is None:
            top = self._logits.max(axis=2, keepdims=True)
            self._weights = np.exp(self._logits - top).tolist()
        steps, likely = self._steps, self._weights[which]
        chosen: Choices = [None] * steps.count
        for p in steps.order:
            options = steps.options(p, chosen)
            if options:
                chosen[p] = rng.choices(options, [likely[p][option] + 1e-12 for option in options])[0]
        return chosen

    def step(self, paths: Sequence[Choices], advantages: Floats, rate: float) -> None:
        """Gradient ascent on the mean of advantage x log p over `paths`, for each controller with its importance weights.

        Args:
            paths: (n) choices.
            advantages: (n, k) of each path for each controller.
            rate: length of the step.
        """
        is_open, taken = self._masks(paths)  # (n, d, o)
        logits = np.where(is_open[:, None], self._logits, -np.inf)  # (n, k, d, o)
        top = logits.max(axis=3, keepdims=True, initial=-1e30)
        likely = np.exp(logits - top)
        total = likely.sum(axis=3, keepdims=True)
        probability = likely / np.where(total > 0, total, 1.0)
        log_p = np.log(np.where(taken[:, None], probability, 1.0)).sum(axis=(2, 3))  # (n, k)
        mean = np.logaddexp.reduce(log_p, axis=1, keepdims=True) - np.log(log_p.shape[1])
        importance = np.exp(np.minimum(log_p - mean, 0.0))
        gradient = (taken[:, None] - probability) * (importance * advantages)[:, :, None, None]
        self._logits = self._logits + rate * gradient.mean(axis=0)
        self._weights = None

    def _masks(self, paths: Sequence[Choices]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(n, d, o) which options were open on each path, and which were taken."""
        steps = self._steps
        options = np.array([[-1 if option is None else option for option in path] for path in paths])
        taken = options[:, :, None] == np.arange(self._logits.shape[2])
        is_open = np.repeat(self._always[None], len(paths), axis=0)
        for row, path in enumerate(paths):
            for p in self._sometimes:
                is_open[row, p, list(steps.options(p, path))] = True
        return is_open, taken
