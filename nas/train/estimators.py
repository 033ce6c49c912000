"""How the gradient of the expected reward is estimated, with respect to the logits of a policy."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nas.checking import Count, Probability, checked, is_number
from nas.choosing.distribution import Distribution, Floats
from nas.errors import TrainError
from nas.identity import described

if TYPE_CHECKING:
    from nas.space import Arch


Options = Mapping[int, Mapping[int, float]]
"""Decision -> option -> a number."""


class Judge(Protocol):
    """What an estimator may ask at one step of a policy."""

    distribution: Distribution
    baseline: float | None
    """Moving average of the rewards; None before the first."""
    rng: random.Random
    """Random numbers of this step."""

    def rewards(self, archs: Sequence[Arch]) -> list[float]:
        """Reward of each arch on the batches of this step."""

    def usable(self, arch: Arch) -> bool:
        """Whether the arch can be built, and no rule of the space forbids it."""

    @property
    def progress(self) -> float:
        """Share of the policy's steps that were made."""

    def costs(self, archs: Sequence[Arch]) -> list[float]:
        """Cost of each arch; 0 where the policy has none."""

    def reward(self, quality: float, cost: float) -> float:
        """Of a quality, higher is better, and a cost."""

    def linear(self, archs: Sequence[Arch]) -> list[tuple[float, Options]]:
        """Loss of each arch as the relaxed network, and of each option of its active relaxed decisions a number.

        Their differences are those of the losses with other options, to first order in their shares.  Decisions that are not
        relaxed are not there.
        """

    def mixture(self) -> tuple[float, Options]:
        """Loss of the mixture of all options by their probabilities, and its derivative by the share of each."""


class Estimator(ABC):
    """Estimates ∇ E[reward] from archs that were drawn from the policy."""

    draws: int
    """Archs that are drawn for a step."""
    gates = False
    """Whether it asks `Judge.linear` or `Judge.mixture`, so that decisions are relaxed (`nas.supernet.relaxation`)."""
    exact = False
    """Whether all decisions must be."""
    mixes = False
    """Whether nothing is drawn, and the weights are trained on the mixture of all options."""

    @abstractmethod
    def gradient(self, judge: Judge, archs: Sequence[Arch], rewards: Sequence[float]) -> Floats:
        """(total,) ∇ E[reward] with respect to the logits of `judge.distribution`.

        Args:
            judge: gives more rewards.
            archs: independent draws, some of which may be equal.
            rewards: theirs.
        """

    def describe(self) -> dict[str, Any]:
        """JSON-able name and options."""
        return described(self)


@checked(TrainError)
@dataclass(frozen=True)
class ScoreFunction(Estimator):
    """(reward − moving average) · ∇ log p(arch): forward passes alone, of any space, for any reward, a measured time too.

    Williams 1992, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning".

    Args:
        draws: archs a step.
        baseline: decay of the moving average of rewards.
    """

    draws: Count = 4
    baseline: Probability = 0.95

    def gradient(self, judge: Judge, archs: Sequence[Arch], rewards: Sequence[float]) -> Floats:
        """Mean over the draws."""
        base = base_of(judge, rewards)
        slopes = [(reward - base) * judge.distribution.slope(arch) for arch, reward in zip(archs, rewards, strict=True)]
        found: Floats = np.mean(slopes, axis=0)
        remember(judge, rewards, self.baseline)
        return found


def base_of(judge: Judge, rewards: Sequence[float]) -> float:
    """The moving average of the rewards before; at the first step their own mean."""
    return float(np.mean(rewards)) if judge.baseline is None else judge.baseline


def remember(judge: Judge, rewards: Sequence[float], decay: float) -> None:
    """Moves the average."""
    judge.baseline = moved(judge.baseline, rewards, decay)


_DECAY = 0.95


def moved(average: float | None, values: Sequence[float], decay: float = _DECAY) -> float:
    """A moving average after these; without one before, their mean."""
    mean = float(np.mean(values))
    return mean if average is None else decay * average + (1 - decay) * mean


def spread(distribution: Distribution, archs: Sequence[Arch], base: float | None) -> tuple[list[float], Floats]:
    """Entropy of the active decisions of each draw, in nats, and the (total,) gradient of its expectation.

    Where options decide which decisions are active, archs differ in their entropy and it counts as a reward: the gradient is
    that of their own entropies and that of drawing them, by the score function.

    Args:
        distribution: from which the archs are independent draws.
        archs: those.
        base: mean entropy of draws before, which is taken off as a baseline; None takes that of `archs`.
    """
    each = [distribution.entropy(arch) for arch in archs]
    values = [value for value, _ in each]
    found: Floats = np.mean([slope for _, slope in each], axis=0)
    if not distribution.flat:
        base = float(np.mean(values)) if base is None else base
        found += np.mean(
            [(value - base) * distribution.slope(arch) for arch, value in zip(archs, values, strict=True)], axis=0
        )
    return values, found


@checked(TrainError)
@dataclass(frozen=True)
class Flip(Estimator):
    """Rewards of the other options of a decision, everything else as it was drawn: exact in that decision.

    Σ_j p_j (δ_ij − p_i) reward(j), "local expectation gradients" (Titsias & Lázaro-Gredilla 2015): of any space, for any
    reward, with less variance than the score function, for a forward pass of each other option.  What an option activates is
    drawn.  Options that cannot be built or that a rule forbids have no reward and lose probability.

    Args:
        draws: archs a step.
        flips: active decisions of each draw whose options are compared, drawn without replacement; None is all of them.
    """

    draws: Count = 1
    flips: Count | None = None

    def gradient(self, judge: Judge, archs: Sequence[Arch], rewards: Sequence[float]) -> Floats:
        """Mean over the draws."""
        others: list[Arch] = []
        # Weight, decision, its open options, those that are possible, and where their rewards are.
        plans: list[tuple[float, int, Sequence[int], list[int], list[int]]] = []
        for place, arch in enumerate(archs):
            active = judge.distribution.active(arch)
            count = len(active) if self.flips is None else min(self.flips, len(active))
            for p, options, at in judge.rng.sample(active, count):
                kept, where = [], []
                for at_option, option in enumerate(options):
                    near = arch if at_option == at else judge.distribution.flipped(arch, p, option, judge.rng)
                    if near is arch:
                        where.append(place)
                    elif judge.usable(near):
                        where.append(len(archs) + len(others))
                        others.append(near)
                    else:
                        continue
                    kept.append(at_option)
                plans.append((len(active) / count / len(archs), p, options, kept, where))
        known = np.array([*rewards, *judge.rewards(others)])
        above = known - base_of(judge, rewards)
        found: Floats = np.zeros_like(judge.distribution.values)
        for weight, p, options, kept, where in plans:
            probability = judge.distribution.probabilities(p, options)
            found[judge.distribution.of(p).start + np.asarray(options)] += weight * local(
                probability, kept, above[where]
            )
        remember(judge, rewards, _DECAY)
        return found


def local(probability: Floats, kept: Sequence[int], above: Floats) -> Floats:
    """(options,) Σ_j q_j above_j ∇ log p_j with respect to the logits: q is p given that the option is one of those `kept`.

    With all of them it is the gradient of Σ_j p_j above_j, whatever all rewards are taken against.  Where options are
    impossible, archs are drawn until one is possible, and rewards count against their mean: else p would be thought to be q, and
    an option that is often impossible would seem as likely as it is drawn.

    Args:
        probability: (options,) p.
        kept: places of the options that are possible.
        above: (kept,) their rewards, less the mean of all.
    """
    q = probability[kept] / probability[kept].sum()
    found: Floats = -probability * (q @ above)
    found[kept] += q * above
    return found


@checked(TrainError)
@dataclass(frozen=True)
class MaskGates(Estimator):
    """Losses of all options of all decisions to first order, by one forward and backward of a network that has them all.

    An arch is the largest one with its weights W times a mask m, and so ⟨∂loss/∂(W m) W, m′ − m⟩ is about what another option's
    mask m′ changes.  That is the gradient of ProxylessNAS's binary gates (Cai et al. 2019) without a change to the model; a model
    that is `nas.train.Mixable` has gates on the outputs of its candidates, as theirs.  With a `temperature` it is GDAS's
    (Dong & Yang 2019): the gradient of a softmax of the logits and the Gumbel noise with which the arch was drawn, at a
    temperature that goes linearly from the first to the second number.

    Growing a unit is often promised several times as much as it brings: a gradient to steer by, not a prediction.  Costs are
    asked for every other option, so give a predictor or exact counts.

    Whether a decision has gates, i.e. whether gates of one option alone compute what its subnet does, is tried for each
    (`nas.supernet.relaxation`).  Those that have none are estimated by `others` from the same draws, and the training says which
    (`Policy.ungated`).

    Args:
        draws: archs a step.
        temperature: None for binary gates.
        exact: refuse a space in which a decision has no gates.
        others: estimator for the decisions without gates, of as many draws; `ScoreFunction(draws)` unless given.
    """

    draws: Count = 1
    temperature: Sequence[float] | None = None
    exact: bool = False
    others: Estimator | None = None
    gates = True

    def __post_init__(self) -> None:
        if self.exact and self.others is not None:
            raise TrainError(
                f"MaskGates has others={self.others!r}, which has no effect with exact=True; leave one out"
            )
        if self.others is not None and (self.others.gates or self.others.draws != self.draws):
            raise TrainError(
                f"MaskGates has draws={self.draws} and others={self.others!r}; give one without gates, of as many draws"
            )
        heat = self.temperature
        if heat is not None and not (len(heat) == 2 and all(is_number(one) and one > 0 for one in heat)):
            raise TrainError(f"MaskGates has temperature={heat!r}; give the first and the last, as in (10.0, 0.1)")

    def gradient(self, judge: Judge, archs: Sequence[Arch], rewards: Sequence[float]) -> Floats:
        """Mean over the draws."""
        felt = judge.linear(archs)
        active = [{p for p, _, _ in judge.distribution.active(arch)} for arch in archs]
        rest = {p for own, (_, slopes) in zip(active, felt, strict=True) for p in own if p not in slopes}
        found = self._gated(judge, archs, felt, rest, base_of(judge, rewards)) / len(archs)
        if not rest:
            remember(judge, rewards, _DECAY)
            return found
        others = self.others or ScoreFunction(self.draws)
        return found + others.gradient(_Counting(judge, rest), archs, rewards)

    def _gated(
        self, judge: Judge, archs: Sequence[Arch], felt: Sequence[tuple[float, Options]], rest: Set[int], base: float
    ) -> Floats:
        """Sum over the draws, of all decisions but those of `rest`."""
        found: Floats = np.zeros_like(judge.distribution.values)
        for arch, (loss, slopes) in zip(archs, felt, strict=True):
            for p, options, at in judge.distribution.active(arch):
                if p in rest:
                    continue
                near = [
                    arch if option == options[at] else judge.distribution.flipped(arch, p, option, judge.rng)
                    for option in options
                ]
                kept = [place for place, one in enumerate(near) if one is arch or judge.usable(one)]
                costs = judge.costs([near[place] for place in kept])
                taken = slopes[p][options[at]]
                expected = [
                    judge.reward(-(loss + slopes[p][options[place]] - taken), cost)
                    for place, cost in zip(kept, costs, strict=True)
                ]
                probability, heat = judge.distribution.probabilities(p, options), 1.0
                if self.temperature is not None:
                    first, last = self.temperature
                    heat = first + (last - first) * judge.progress
                    probability = warmed(probability, at, heat, judge.rng)
                here = local(probability, kept, np.array(expected) - base) / heat
                found[judge.distribution.of(p).start + np.asarray(options)] += here
        return found


class _Counting:
    """A judge for some decisions alone."""

    def __init__(self, judge: Judge, decisions: Set[int]) -> None:
        self._judge = judge
        self.distribution = judge.distribution.counting(decisions)
        self.rng = judge.rng
        self.rewards, self.usable, self.costs, self.reward = judge.rewards, judge.usable, judge.costs, judge.reward
        self.linear, self.mixture = judge.linear, judge.mixture

    @property
    def baseline(self) -> float | None:
        return self._judge.baseline

    @baseline.setter
    def baseline(self, value: float | None) -> None:
        self._judge.baseline = value

    @property
    def progress(self) -> float:
        return self._judge.progress


@checked(TrainError)
@dataclass(frozen=True)
class Mixture(Estimator):
    """First-order DARTS (Liu, Simonyan & Yang 2019): the gradient of the loss of the mixture of all options by their softmax.

    Nothing is drawn: after the warm-up the weights are trained on the mixture, too (unless the policy has follow=0), and one
    forward and backward of it on held-out batches gives the gradient of all logits.  A model that is `nas.train.Mixable` mixes
    the outputs of its candidates, as DARTS; in others masked weights of the largest arch are mixed, as in "Weight-Entanglement
    Meets Gradient-Based Neural Architecture Search" (Sukthanker et al. 2024), which costs a pass of the largest arch.  Refused
    where a decision cannot be mixed, with a cost, and with losses other than `Labels`.

    The mixture is no arch: what the likeliest one does by itself is not what was trained, and DARTS is known to end in skip
    connections, which help the mixture's other options to train.
    """

    gates = True
    exact = True
    mixes = True
    draws: int = field(default=1, init=False)  # as many as the weights may follow

    def gradient(self, judge: Judge, archs: Sequence[Arch], rewards: Sequence[float]) -> Floats:  # noqa: ARG002
        """Exact; `archs` and `rewards` are not looked at."""
        found: Floats = np.zeros_like(judge.distribution.values)
        _, slopes = judge.mixture()
        for p, of in slopes.items():
            options = list(of)
            probability = judge.distribution.probabilities(p, options)
            better = -np.array(list(of.values()))
            found[judge.distribution.of(p).start + np.asarray(options)] += local(probability, range(len(of)), better)
        return found


def warmed(probability: Floats, taken: int, temperature: float, rng: random.Random) -> Floats:
    """Softmax of (log p + noise) / temperature, with Gumbel noise under which option `taken` is the largest.

    The largest of all is Gumbel-distributed itself, and the others are truncated there (Maddison et al. 2014, "A* Sampling").
    """
    noise = np.array([-np.log(rng.expovariate(1.0)) for _ in probability])
    logs = np.log(np.maximum(probability, 1e-300))
    top = noise[taken]
    noisy: Floats = -np.log(np.exp(-top) + np.exp(-(logs + noise)))
    noisy[taken] = top
    likely = np.exp((noisy - top) / temperature)
    found: Floats = likely / likely.sum()
    return found
