"""The steps of a policy within a training, and what of them a checkpoint holds."""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nas.choosing.distribution import Distribution, Floats
from nas.errors import Infeasible, SpaceError, TrainError
from nas.supernet.calibration import own_statistics
from nas.supernet.inputs import Inputs, call, few_samples, like
from nas.supernet.mixtures import relaxed
from nas.supernet.ragged import enough
from nas.supernet.relaxation import Relaxation, Shares
from nas.train.estimators import Options, moved, spread
from nas.train.ranks import Ranks
from nas.train.task import Batch, mixed

if TYPE_CHECKING:
    from nas.space import Arch
    from nas.train.policy import Policy
    from nas.train.trainer import Training

COLUMNS = ("policy_reward", "policy_quality", "policy_cost", "policy_entropy")
"""Means since the last row of a training's history."""
_EPSILON = 1e-8  # of Adam
_LOOKS = 64  # random archs whose costs say whether a target is in reach


@dataclass
class Memory:
    """What a policy keeps from step to step; JSON-able, and exactly what was kept when it is read again."""

    values: list[float]
    """Logits of all decisions, one after the other."""
    first: list[float]
    second: list[float]
    """Adam's moments."""
    steps: int = 0
    """Steps of the policy that were made."""
    baseline: float | None = None
    entropy: float | None = None
    """Moving average of the entropies of draws."""
    sums: list[float] = field(default_factory=lambda: [0.0] * len(COLUMNS))
    seen: int = 0
    """Draws in `sums`."""
    costs: dict[str, float] = field(default_factory=dict)
    """By an arch's key, those that were measured as times: measured again they would be others."""
    ungated: dict[str, str] = field(default_factory=dict)
    """Decision name -> why it has no gates, of an estimator that asks for them."""


class Learner:
    """A policy that is trained within a run of a training.

    Its draws are a function of the training's seed, the step and the logits; the logits of the rewards, which the ranks share
    out among them, so that all have the same.

    Args:
        training: with a policy.
        ranks: the processes that share it.
        found: what a checkpoint held, {} to start.
    """

    def __init__(self, training: Training, ranks: Ranks, found: dict[str, Any]) -> None:
        assert training.policy is not None
        self.training, self.ranks = training, ranks
        self.policy: Policy = training.policy
        self.supernet = training.supernet
        self.task = training.task
        self.own = training.held_out
        self.metric = self.policy.judged_by(training.task)
        self.distribution = Distribution(self.supernet.space, bins=self.policy.bins)
        zeros = self.distribution.values.tolist()
        self.memory = Memory(**found) if found else Memory(zeros, list(zeros), list(zeros))
        self.distribution.values = np.array(self.memory.values)
        if found:
            self.policy.take(self.supernet.space, found)
        self.begins = math.ceil(self.policy.warmup * training.steps)
        self.rng = random.Random()
        self._costs = dict(self.memory.costs)
        self._at = -1  # which batch `_stream` gives next
        self._stream: Iterator[Batch] = iter(())
        self._batches: list[Batch] = []
        self._seen: dict[str, tuple[float, float]] = {}
        self._mixture: tuple[float, Options] = (0.0, {})
        self.relaxation = self._relaxation() if self.policy.estimator.gates else None
        per_epoch = self.own.steps_per_epoch
        if per_epoch < 1:
            raise TrainError("the policy's task has no training batches; give it more data or a smaller batch")
        if not found and ranks.first:
            self._check_reach()

    # -- what the training asks --------------------------------------------------------------------------------------------

    def follows(self, number: int) -> bool:
        """Whether the weights of step `number` are trained on draws of the policy."""
        return number >= self.begins and self.policy.follow > 0

    def mixes(self, number: int) -> bool:
        """Whether they are trained on the mixture of all options instead."""
        return self.policy.estimator.mixes and self.follows(number)

    def mixed(self, inputs: Inputs) -> Any:
        """Output of the mixture, whose gradients reach the supernet's weights."""
        assert self.relaxation is not None
        whole = self.supernet.space.largest
        return self.relaxation.output(whole, inputs, self._probabilities(), learning=True)

    def drawn(self, number: int) -> list[Arch]:
        """The archs of the policy's draws at step `number`, some of which may be equal."""
        rng = random.Random(mixed(self.training.seed, "policy", number))
        self.distribution.space = self.supernet.space  # which may have learnt what cannot be built
        try:
            return [self.distribution.draw(rng, self.supernet.has) for _ in range(self.policy.estimator.draws)]
        except SpaceError as error:
            raise TrainError(f"the policy finds no arch for step {number + 1}: {error}") from None

    def step(self, number: int) -> None:
        """Called after each step of the weights: a step of the policy, where it is time for one."""
        if number < self.begins or (number - self.begins) % self.policy.every:
            return
        memory, policy = self.memory, self.policy
        archs = (
            []
            if policy.estimator.mixes
            else self.ranks.archs(functools.partial(self.drawn, number), self.supernet.space)
        )
        self._batches = self._next()
        self._seen.clear()
        self.rng.seed(mixed(self.training.seed, "policy step", number))
        rewards = self.rewards(archs)
        gradient = policy.estimator.gradient(self, archs, rewards)
        entropies, spread = self._entropies(archs)
        if policy.entropy:
            gradient = gradient + policy.entropy * spread
        self._ascend(gradient)
        seen = [(*self._seen[arch.key], reward) for arch, reward in zip(archs, rewards, strict=True)]
        self._note(seen or [(-self._mixture[0], 0.0, -self._mixture[0])], entropies)
        memory.steps += 1

    def row(self) -> dict[str, float]:
        """Means over the draws since the last row, and those are forgotten."""
        memory = self.memory
        if not memory.seen:
            return {}
        found = dict(zip(COLUMNS, (total / memory.seen for total in memory.sums), strict=True))
        memory.sums, memory.seen = [0.0] * len(COLUMNS), 0
        if self.policy.cost is None:
            del found["policy_cost"]
        return found

    def record(self) -> dict[str, Any]:
        """For the checkpoint."""
        self.memory.values = self.distribution.values.tolist()
        return asdict(self.memory)

    # -- what the estimator asks -------------------------------------------------------------------------------------------

    @property
    def baseline(self) -> float | None:
        """Moving average of the rewards."""
        return self.memory.baseline

    @baseline.setter
    def baseline(self, value: float | None) -> None:
        self.memory.baseline = value

    def usable(self, arch: Arch) -> bool:
        """Whether the arch can be built, and no rule of the space forbids it."""
        return self.supernet.space.allows(arch) and self.supernet.has(arch)

    def rewards(self, archs: Sequence[Arch]) -> list[float]:
        """Reward of each arch on the batches of this step; those that are new are shared out among the ranks."""
        new = [arch for arch in dict.fromkeys(archs) if arch.key not in self._seen]
        qualities = self.shared(new, lambda arch: [self._quality(arch)], 1)
        for arch, (quality,), cost in zip(new, qualities, self.costs(new), strict=True):
            if not math.isfinite(quality):
                raise TrainError(f"the policy's {self.metric.name} of an arch is {quality}; lower the training's lr=")
            self._seen[arch.key] = quality, cost
        return [self.reward(*self._seen[arch.key]) for arch in archs]

    def reward(self, quality: float, cost: float) -> float:
        """Of a quality and a cost."""
        reward, target = self.policy.reward, self.policy.target
        return quality if reward is None or target is None else reward(quality, cost / target)

    def costs(self, archs: Sequence[Arch]) -> list[float]:
        """Cost of each arch, 0 where the policy has none; asked once, by the first rank."""
        if self.policy.cost is None:
            return [0.0] * len(archs)
        found: list[float] = self.ranks.told([self._cost(arch) for arch in archs] if self.ranks.first else [])
        return found

    @property
    def progress(self) -> float:
        """Share of the policy's steps that were made: 0 at the first, 1 at the last."""
        whole = -(-(self.training.steps - self.begins) // self.policy.every)
        return self.memory.steps / max(1, whole - 1)

    def linear(self, archs: Sequence[Arch]) -> list[tuple[float, Options]]:
        """Loss of each arch as the relaxed network, and a number for each option of active relaxed decisions; see `Judge`."""
        assert self.relaxation is not None
        sharp = [self.relaxation.sharp(arch) for arch in archs]
        rows = self.shared(archs, self._linear, 1 + len(self.distribution.values))
        return [
            (
                loss,
                {p: self._options(p, options, numbers) for p, options, _ in self.distribution.active(arch) if p in own},
            )
            for arch, own, (loss, *numbers) in zip(archs, sharp, rows, strict=True)
        ]

    def mixture(self) -> tuple[float, Options]:
        """Loss of the mixture over the batches of this step, and its derivative by the share of each option."""
        largest = self.supernet.space.largest
        ((loss, *numbers),) = self.shared(
            [largest], lambda arch: self._slopes(arch, self._probabilities()), 1 + len(self.distribution.values)
        )
        if not math.isfinite(loss):
            raise TrainError(f"the loss of the policy's mixture is {loss}; lower the training's lr=")
        active = self.distribution.active(largest)
        self._mixture = loss, {p: self._options(p, options, numbers) for p, options, _ in active}
        return self._mixture

    def _options(self, p: int, options: Sequence[int], numbers: Sequence[float]) -> dict[int, float]:
        return {option: numbers[self.distribution.of(p).start + option] for option in options}

    def shared(self, archs: Sequence[Arch], of: Callable[[Arch], Sequence[float]], width: int) -> list[list[float]]:
        """`width` numbers of each arch, which one of the ranks computes."""
        ours = {at: of(arch) for at, arch in enumerate(archs) if at % self.ranks.size == self.ranks.rank}
        return self.ranks.gathered(ours, len(archs), width)

    def _entropies(self, archs: Sequence[Arch]) -> tuple[list[float], Floats]:
        """Of the active decisions of each draw, and the gradient of their mean; of the largest arch where nothing is drawn."""
        if not archs:
            value, slope = self.distribution.entropy(self.supernet.space.largest)
            return [value], slope
        values, slope = spread(self.distribution, archs, self.memory.entropy)
        self.memory.entropy = moved(self.memory.entropy, values)
        return values, slope

    # -- its own -----------------------------------------------------------------------------------------------------------

    def _cost(self, arch: Arch) -> float:
        """Asked once; times are kept in checkpoints."""
        if arch.key in self._costs:
            return self._costs[arch.key]
        try:
            cost = self.policy.cost_of(arch)
        except Infeasible as error:
            raise TrainError(
                f"the policy's cost refuses arch {arch.choices}: {error}; forbid such archs by a rule of the space"
            ) from None
        self._costs[arch.key] = cost
        if getattr(self.policy.cost, "exclusive", False):
            self.memory.costs[arch.key] = cost
        return cost

    @torch.no_grad()
    def _quality(self, arch: Arch) -> float:
        """The task's metric over the batches of this step; higher is better."""
        binding = self.supernet.bind(arch)
        total, samples = 0.0, 0
        for batch in self._batches:
            with (
                own_statistics(binding),
                self.training.autocast(),
                enough(TrainError, "a batch of the policy is too small"),
            ):
                output = call(binding.module, like(batch.inputs, self.task.example))
            size = self.own.samples(batch)
            total += float(self.task.metrics(output, batch)[self.metric.name]) * size
            samples += size
        return -self.metric.sign * total / samples

    def _relaxation(self) -> Relaxation:
        """Gates of decisions, and which have none.

        Raises:
            TrainError: none has, or one has not and the estimator needs all.
        """
        example = few_samples(
            like(next(iter(self.own.train_batches(0))).to(self.training.device).inputs, self.task.example), 4
        )
        found = relaxed(self.supernet, example, self.training.seed)
        self.memory.ungated = found.unfit
        if found.unfit and (self.policy.estimator.exact or not found.relaxed):
            name, why = next(iter(found.unfit.items()))
            more = f" and {len(found.unfit) - 1} others" if len(found.unfit) > 1 else ""
            every = "every decision" if self.policy.estimator.exact else "a decision"
            raise TrainError(
                f"{type(self.policy.estimator).__name__} needs {found.called} to equal the subnets in {every}, and in "
                f"{name!r}{more} it does not: {why}; use nas.Flip() or nas.ScoreFunction()"
            )
        return found

    @property
    def told(self) -> str:
        """A sentence for who waits: which decisions have no gates; "" where all have."""
        if self.relaxation is None or not self.relaxation.unfit:
            return ""
        unfit, estimator = self.relaxation.unfit, self.policy.estimator
        others = getattr(estimator, "others", None)
        name, why = next(iter(unfit.items()))
        more = f" and {len(unfit) - 1} more" if len(unfit) > 1 else ""
        return (
            f"{type(estimator).__name__}: {len(self.relaxation.relaxed)} decisions by gates, and {name!r}{more} by "
            f"{'ScoreFunction' if others is None else type(others).__name__}, since of {name!r} {why}"
        )

    def _probabilities(self) -> Shares:
        """Of all options of what is active in the largest arch."""
        found = {}
        for p, options, _ in self.distribution.active(self.supernet.space.largest):
            share = torch.zeros(self.distribution.steps.widths[p], dtype=torch.float64)
            share[list(options)] = torch.from_numpy(self.distribution.probabilities(p, options))
            found[p] = share
        return found

    def _linear(self, arch: Arch) -> list[float]:
        """The loss, and its derivatives by the shares of the options of the active relaxed decisions."""
        assert self.relaxation is not None
        return self._slopes(self.relaxation.whole(arch), self.relaxation.sharp(arch))

    def _slopes(self, whole: Arch, shares: Shares) -> list[float]:
        """Loss of a relaxed network over the batches of this step, and its derivatives by the shares; 0 where there are none."""
        found = np.zeros(1 + len(self.distribution.values))
        leaves = {p: share.double().requires_grad_() for p, share in shares.items()}
        if leaves:
            with torch.enable_grad(), enough(TrainError, "a batch of the policy is too small"):
                loss = self._loss(whole, leaves)
                slopes = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
            found[0] = float(loss.detach())
            for p, slope in zip(leaves, slopes, strict=True):
                at = self.distribution.of(p)
                found[1 + at.start : 1 + at.stop] = 0.0 if slope is None else slope.numpy()
        numbers: list[float] = found.tolist()
        return numbers

    def _loss(self, whole: Arch, shares: Shares) -> Tensor:
        """Of a relaxed network over the batches of this step."""
        assert self.relaxation is not None
        total, samples = torch.zeros((), device=self.training.device), 0
        for batch in self._batches:
            with self.training.autocast():
                output = self.relaxation.output(whole, like(batch.inputs, self.task.example), shares)
                loss = self.task.loss(output, batch)
            size = self.own.samples(batch)
            total, samples = total + loss * size, samples + size
        return total / samples

    def _next(self) -> list[Batch]:
        """The batches of this step of the policy: a function of how many there were before."""
        count, per_epoch = self.policy.batches, self.own.steps_per_epoch
        found = []
        for at in range(self.memory.steps * count, (self.memory.steps + 1) * count):
            epoch, place = divmod(at, per_epoch)
            if at != self._at or place == 0:
                self._stream = itertools.islice(self.own.train_batches(epoch), place, None)
            found.append(next(self._stream).to(self.training.device))
            self._at = at + 1
        return found

    def _ascend(self, gradient: Floats) -> None:
        """A step of Adam (Kingma & Ba 2015) up the gradient."""
        memory, (beta1, beta2) = self.memory, self.policy.betas
        rate = self.policy.lr * self.policy.growth**self.progress
        values = self.distribution.values
        gradient = gradient - self.policy.weight_decay * values
        first = beta1 * np.array(memory.first) + (1 - beta1) * gradient
        second = beta2 * np.array(memory.second) + (1 - beta2) * gradient**2
        count = memory.steps + 1
        scaled = np.sqrt(second / (1 - beta2**count)) + _EPSILON
        self.distribution.values = values + rate * (first / (1 - beta1**count)) / scaled
        memory.first, memory.second = first.tolist(), second.tolist()

    def _note(self, seen: Sequence[tuple[float, float, float]], entropies: Sequence[float]) -> None:
        """Adds up quality, cost and reward of draws, or of the mixture."""
        for (quality, cost, reward), entropy in zip(seen, entropies, strict=True):
            of = (reward, -self.metric.sign * quality, cost, entropy)
            self.memory.sums = [total + one for total, one in zip(self.memory.sums, of, strict=True)]
        self.memory.seen += len(seen)

    def _check_reach(self) -> None:
        """Whether some arch costs as much as the target: costs between the least and the most that is found count as reached.

        The space's extremes say so nearly always; others are looked at where they do not, except for times, which take long.
        """
        target, space = self.policy.target, self.supernet.space
        if target is None:
            return
        costs = self._costs_of(space.smallest, space.largest)
        if not _within(target, costs) and not getattr(self.policy.cost, "exclusive", False):
            draw = random.Random(mixed(self.training.seed, "reach"))
            costs |= self._costs_of(*(space.sample(draw) for _ in range(_LOOKS)))
            if costs and not _within(target, costs):  # nobody drew the extremes themselves
                sign = 1.0 if target < min(costs.values()) else -1.0
                arch = min(costs, key=lambda one: sign * costs[one])
                costs |= self._walked(arch, costs[arch], sign)
        if costs and not _within(target, costs):
            raise TrainError(
                f"the policy's target={target:g} is out of reach: archs of space {space.name!r} cost {min(costs.values()):g} to "
                f"{max(costs.values()):g}; give a target between"
            )

    def _costs_of(self, *archs: Arch) -> dict[Arch, float]:
        return {arch: self._cost(arch) for arch in dict.fromkeys(archs) if self.supernet.has(arch)}

    def _walked(self, arch: Arch, cost: float, sign: float) -> dict[Arch, float]:
        """The arch of which no single decision lowers (or, with sign −1, raises) the cost any more."""
        better = True
        while better:
            better = False
            for near in self.supernet.space.neighbours(arch):
                if self.supernet.has(near) and sign * (found := self._cost(near)) < sign * cost:
                    arch, cost, better = near, found, True
                    break
        return {arch: cost}


def _within(target: float, costs: Mapping[Arch, float]) -> bool:
    return bool(costs) and min(costs.values()) <= target <= max(costs.values())
