"""A policy: a distribution over the archs of a space that is trained between the steps of the weights.

ProxylessNAS (Cai et al. 2019), DARTS (Liu et al. 2019), ENAS (Pham et al. 2018) and TuNAS (Bender et al. 2020) are settings of
it: a softmax for every decision, an estimator of the gradient of the expected reward (`nas.train.estimators`), a reward
(`nas.train.rewards`), and when which step is made.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.checking import Count, Natural, NonNegative, Positive, Probability, checked, is_number
from nas.choosing.distribution import TRIES, Distribution
from nas.errors import MetricError, TrainError, suggest
from nas.identity import IDENTITY, identity
from nas.metrics import Metric, parse_objective
from nas.train.estimators import Estimator, ScoreFunction
from nas.train.losses import Labels, Loss
from nas.train.rewards import AbsoluteReward, Reward
from nas.train.task import Task, mixed

if TYPE_CHECKING:
    from nas.space import Arch, Space

Cost = Callable[["Arch"], Any]
"""An evaluator, or a function from an arch to a number or to named ones."""


class Policy:
    """Logits for every decision of a space, trained between the steps of a training's weights: `Training(…, policy=Policy(…))`.

    >>> nas.Policy(nas.Costs(supernet), 2e6, metric="macs")  # doctest: +SKIP

    After `warmup` of the training, every `every` steps of the weights archs are drawn from the policy, judged on batches of its
    own, each with the batch's own BatchNorm statistics, and Adam makes a step up the estimated gradient of the expected
    reward.  Those batches are of training samples that the weights are not trained on: `share` of the training split, or the
    training split of `task`; the validation split stays for whoever judges the result.  From then on the weights are trained on
    `follow` archs of the same draws.

    Rewards are of shared weights and a batch: they say where to look, not how good an arch is.  So the training ends with a
    proposal (`archs`, `likeliest`, `nas.PolicySearch`) that a study measures as it measures all.

    Args:
        cost: of an arch: an evaluator (`nas.Costs`, `nas.Latency`, `nas.Predicted`, …) or a function; None rewards quality alone.
            Times that are measured are kept in checkpoints, so that a resumed training is rewarded by the same ones.
        target: cost that is aimed at, in the unit of the cost.
        metric: which of the numbers that `cost` gives.
        reward: of quality and cost; `AbsoluteReward()` unless given.
        quality: metric of the task, as "max accuracy", on the policy's batches; None is "max accuracy" where the task has that
            and "min loss" elsewhere, and for gates, which follow the gradient of the task's loss.
        estimator: of the gradient; `ScoreFunction()` unless given.
        task: gives the policy's batches by its training split, which shares no samples with that of the weights.
        share: of the training split, held out for the policy, where there is no `task`.
        batch: samples of a batch of what is held out; None is as many as those of the weights.
        batches: of a step of the policy.
        warmup: of the training, without steps of the policy.
        every: steps of the weights for each of the policy.
        follow: archs of a step of the weights that are drawn from the policy after the warm-up, instead of the sampler's;
            at most the estimator's draws; 0 leaves the weights to the sampler.  `nas.Mixture` trains them on itself instead.
        lr: of Adam.
        betas: of Adam.
        weight_decay: of the logits, added to the gradient.
        growth: the rate is multiplied by this, exponentially, from the first to the last step of the policy.
        entropy: weight of the entropy of an arch's active decisions, in nats, which is added to its reward.  `nas.Mixture`, which
            draws no archs, has that of the decisions that are active in the largest one.
        bins: equal parts of a continuous decision.

    Raises:
        TrainError: an argument is not what it must be, or has no effect.
    """

    @checked(TrainError)
    def __init__(
        self,
        cost: Cost | None = None,
        target: Positive | None = None,
        *,
        metric: str | None = None,
        reward: Reward | None = None,
        quality: str | None = None,
        estimator: Estimator | None = None,
        task: Task | None = None,
        share: Probability | None = None,
        batch: Count | None = None,
        batches: Count = 1,
        warmup: Probability = 0.25,
        every: Count = 1,
        follow: Natural = 1,
        lr: Positive = 1e-2,
        betas: Sequence[float] = (0.0, 0.999),
        weight_decay: NonNegative = 0.0,
        growth: Positive = 1.0,
        entropy: NonNegative = 0.0,
        bins: Count = 10,
    ) -> None:
        self.cost, self.target, self.metric = cost, target, metric
        self.reward = (reward or AbsoluteReward()) if cost is not None else None
        self.estimator = estimator or ScoreFunction()
        self.task, self.share, self.batch, self.batches = task, share, batch, batches
        self.quality, self.warmup, self.every, self.follow = quality, warmup, every, follow
        self.lr, self.betas, self.weight_decay = lr, tuple(betas), weight_decay
        self.growth, self.entropy, self.bins = growth, entropy, bins
        self._learnt: Distribution | None = None
        self._ungated: dict[str, str] = {}
        self._check(reward)
        if len(self.betas) != 2 or not all(is_number(beta) and 0 <= beta < 1 for beta in self.betas):
            raise TrainError(f"Policy has betas={self.betas}; give two numbers from 0 to below 1, as Adam takes them")

    def _check(self, reward: Reward | None) -> None:
        if (self.cost is None) != (self.target is None):
            given, lacking = ("a cost", "target") if self.target is None else (f"target={self.target:g}", "cost")
            raise TrainError(
                f"Policy was given {given} and no {lacking}; give both, or neither to reward quality alone"
            )
        for name, value in (("metric", self.metric), ("reward", reward)):
            if value is not None and self.cost is None:
                raise TrainError(f"Policy was given {name}={value!r}, which has no effect without a cost; leave it out")
        for name, size in (("share", self.share), ("batch", self.batch)):
            if size is not None and self.task is not None:
                raise TrainError(
                    f"Policy was given {name}={size}, which has no effect beside task=, whose batches it takes; leave it out"
                )
        if self.estimator.mixes and self.cost is not None:
            raise TrainError(
                f"{type(self.estimator).__name__} follows the loss of a mixture, which has no cost, and Policy was given one; "
                "leave it out, or use another estimator"
            )
        if self.warmup >= 1:
            raise TrainError(f"Policy has warmup={self.warmup:g}, which leaves it no step; give less than 1")
        if self.follow > self.estimator.draws:
            raise TrainError(
                f"Policy has follow={self.follow} and an estimator of {self.estimator.draws} draws, of which the weights' archs "
                "are; give more draws, or a smaller follow"
            )

    # -- what it learnt ----------------------------------------------------------------------------------------------------

    @property
    def learnt(self) -> Distribution:
        """The distribution that a training ended with.

        Raises:
            TrainError: no training with this policy has run.
        """
        if self._learnt is None:
            raise TrainError(
                "this policy was not trained; run Training(…, policy=policy), or that of a finished folder"
            )
        return self._learnt

    @property
    def logits(self) -> dict[str, list[float]]:
        """Decision name -> its logits, for `nas.PolicySearch`."""
        return self.learnt.logits

    @property
    def ungated(self) -> dict[str, str]:
        """Decision name -> why it has no gates, of the decisions whose gradient `MaskGates` left to its `others`."""
        self.learnt  # noqa: B018 (says so where there was no training)
        return dict(self._ungated)

    @property
    def likeliest(self) -> Arch:
        """The arch of the likeliest option of every decision."""
        return self.learnt.likeliest()

    @checked(TrainError)
    def archs(self, n: Count, seed: int = 0) -> list[Arch]:
        """`n` different archs that are drawn from what was learnt; fewer where 1,000 draws in a row give no other."""
        found: dict[Arch, None] = {}
        rng, learnt, missed = random.Random(mixed(seed, "policy archs")), self.learnt, 0
        while len(found) < n and missed < TRIES:
            arch = learnt.draw(rng)
            missed = missed + 1 if arch in found else 0
            found[arch] = None
        return list(found)

    def take(self, space: Space, recorded: Mapping[str, Any]) -> None:
        """Have what a training recorded in its checkpoint."""
        self._learnt = Distribution(space, bins=self.bins)
        self._learnt.values = np.array(recorded["values"])
        self._ungated = dict(recorded.get("ungated", {}))

    # -- for the training --------------------------------------------------------------------------------------------------

    def divided(self, task: Task) -> tuple[Task, Task]:
        """What the weights are trained on, and the policy.

        Raises:
            TrainError: the task cannot hold out a part, or the policy's has no batch.
        """
        if self.task is not None:
            return task, self.task
        return task.divided(0.2 if self.share is None else self.share, self.batch)

    def judged_by(self, task: Task) -> Metric:
        """The metric that is the quality.

        Raises:
            TrainError: the task has no such metric, or it may be negative and the reward multiplies it.
        """
        names = task.metric_names
        usual = "max accuracy" if "accuracy" in names and not self.estimator.gates else "min loss"
        given = self.quality or usual
        try:
            metric = parse_objective(given)
        except MetricError as error:
            raise TrainError(f"Policy has quality={given!r}: {error}") from None
        if metric.name not in names:
            raise TrainError(
                f"Policy has quality={given!r}, and the task measures {', '.join(names)}{suggest(metric.name, names)}"
            )
        if self.estimator.gates and given != "min loss":
            raise TrainError(
                f"{type(self.estimator).__name__} follows the loss's gradient, and Policy has quality={given!r}; leave it out"
            )
        if self.reward is not None and self.reward.positive and metric.goal == "min":
            raise TrainError(
                f"{type(self.reward).__name__} multiplies the quality, and {given!r} is better when smaller; give one that is "
                "maximised, or AbsoluteReward"
            )
        return metric

    def check_loss(self, loss: Loss, *, compiled: bool) -> None:
        """Whether the weights can be trained as the estimator wants.

        Raises:
            TrainError: on a mixture, and the loss teaches archs or the training compiles them.
        """
        if not self.estimator.mixes or not self.follow:
            return
        name = type(self.estimator).__name__
        if not isinstance(loss, Labels):
            raise TrainError(
                f"{name} trains the weights on a mixture of archs, and {type(loss).__name__} teaches each; give loss=nas.Labels()"
            )
        if compiled:
            raise TrainError(f"{name} trains the weights on a mixture, which compile= does not compile; leave it out")

    def cost_of(self, arch: Arch) -> float:
        """The one number of the cost that counts.

        Raises:
            TrainError: there are several, none of that name, or it is not finite.
        """
        assert self.cost is not None
        found = self.cost(arch)
        if isinstance(found, Mapping):
            if self.metric is None and len(found) != 1:
                raise TrainError(
                    f"the policy's cost gives {', '.join(found)}; say which counts, as metric={next(iter(found))!r}"
                )
            name = next(iter(found)) if self.metric is None else self.metric
            if name not in found:
                raise TrainError(
                    f"the policy has metric={name!r}, and its cost gives {', '.join(found)}{suggest(name, found)}"
                )
            found = found[name]
        elif self.metric is not None:
            raise TrainError(f"the policy has metric={self.metric!r}, and its cost gives one number; leave metric= out")
        try:
            value = float(found)
        except (TypeError, ValueError):
            raise TrainError(f"the policy's cost of an arch is {found!r}; give a number, or a dict of them") from None
        if not 0 <= value < float("inf"):
            raise TrainError(f"the policy's cost of an arch is {value}; costs are finite numbers from 0")
        return value

    def describe(self) -> dict[str, Any]:
        """JSON-able: what decides the logits and, through `follow`, the weights."""
        options = (
            "target", "metric", "quality", "share", "batch", "batches", "warmup", "every", "follow", "lr", "weight_decay",
            "growth", "entropy", "bins",
        )  # fmt: skip
        found: dict[str, Any] = {name: getattr(self, name) for name in options}
        found |= {"betas": list(self.betas), "estimator": self.estimator.describe()}
        if self.reward is not None:
            found["reward"] = self.reward.describe()
        if self.cost is not None:
            told = self.cost.describe() if hasattr(self.cost, "describe") else None
            found["cost"] = {
                "name": str(getattr(self.cost, "__qualname__", type(self.cost).__qualname__)),
                IDENTITY: identity(self.cost) if told is None else told,
            }
        if self.task is not None:
            found["task"] = self.task.describe()
        return found

    def __repr__(self) -> str:
        aim = "" if self.target is None else f"target={self.target:g}, "
        return f"Policy({aim}estimator={self.estimator!r}, {'trained' if self._learnt is not None else 'not trained'})"
