"""Importance scores: how much each unit (channel, neuron, head, block) of a trained network matters.

Scores are interchangeable: `nas.reorder` puts the units of a supernet in their order, `nas.order_depth` blocks.  Each takes one
pass over the calibration batches, in eval mode: none for weights, a forward each for activations, a forward and a backward each
for gradients.  By weights and gradients a unit is what reads it: with the columns of its readers at zero it is gone.

| name | score of a unit | source |
|---|---|---|
| "magnitude" | Σ\\|w\\| | Cai et al. 2020, "Once-for-All" |
| "mean_activation" | mean \\|activation\\| that layers write | |
| "activations" | L2 norm over samples of the mean \\|activation\\| over positions that layers read | Muralidharan et al. 2024 |
| "taylor" | mean over batches of (Σ g·w)², or of \\|Σ g·w\\| | Molchanov et al. 2019 |
| "fisher" | mean over batches of Σ (g·w)² | the diagonal of the empirical Fisher information |
| "group_fisher" | mean over samples of (Σ a·∂L/∂a)², of what layers read of a unit | Liu et al. 2021, "Group Fisher Pruning" |
| "hesso" | mean of five, each of norm 1 over the units of an axis | Chen et al. 2024, "HESSO" |
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, cast

import torch
from torch import Tensor

from nas.checking import checked
from nas.checking.scalars import shown
from nas.errors import SupernetError, suggest
from nas.supernet import activations, gates, passes, ranking
from nas.supernet.inputs import Inputs, convert
from nas.supernet.passes import Largest, Step, Units, largest_of
from nas.supernet.supernet import Supernet

Batches: TypeAlias = Any
"""An iterable of batches.  No annotation says so, since a tensor, which is one batch, would go for an iterable of its rows."""

SAMPLES = 1024
"""Training samples of a task that gradients are taken on, at most; Minitron uses as many."""


class Task(Protocol):
    """What is asked of a `nas.Task`."""

    def train_batches(self, epoch: int, /) -> Iterator[Any]:
        """Batches with `inputs`, which move by `to`."""

    def calibration_inputs(self) -> Iterator[Any]:
        """Inputs."""

    def loss(self, output: Any, batch: Any, /) -> Tensor:
        """Mean loss of a batch."""

    def samples(self, batch: Any, /) -> int:
        """Number of samples of a batch."""


def steps_of(task: Task, device: torch.device) -> Iterator[Step]:
    """The loss of a network on each of the first training batches of a task, of `SAMPLES` samples in all."""
    seen = 0
    for batch in task.train_batches(0):
        moved = batch.to(device)
        yield lambda network, moved=moved: task.loss(network(moved.inputs), moved)  # type: ignore[misc]
        seen += task.samples(batch)
        if seen >= SAMPLES:
            return


@dataclass(frozen=True)
class Data:
    """What a score is measured on; see `nas.reorder`."""

    batches: Batches | None = None
    loss: Callable[..., Any] | None = None
    task: Task | None = None

    def inputs(self, device: torch.device) -> Iterable[Inputs]:
        """Inputs for the model."""
        if self.task is None:
            return cast("Iterable[Inputs]", self.batches)
        return (convert(inputs, lambda tensor: tensor.to(device)) for inputs in self.task.calibration_inputs())

    def steps(self, device: torch.device) -> Iterable[Step]:
        """The loss of a network on each batch."""
        if self.task is not None:
            return steps_of(self.task, device)
        loss = self.loss
        assert loss is not None, "gradients were asked with a task or a loss"
        if self.batches is None:
            return [loss]
        return (lambda network, batch=batch: loss(network, batch) for batch in self.batches)  # type: ignore[misc]

    def check_batches(self) -> None:
        """Whether batches are several.

        Raises:
            SupernetError: they are one tensor or mapping, or no iterable.
        """
        one = isinstance(self.batches, (Tensor, Mapping, str)) or not isinstance(self.batches, Iterable)
        if self.batches is not None and one:
            raise SupernetError(
                f"batches={shown(self.batches)} is no collection of batches; give a list of them, as batches=[inputs]"
            )

    def check(self, score: Score) -> None:
        """Whether this is what `score` is measured on.

        Raises:
            SupernetError: it is not.
        """
        self.check_batches()
        given = {name for name in ("batches", "loss", "task") if getattr(self, name) is not None}
        if given not in _GIVEN[score.needs]:
            said = " and ".join(f"{name}=" for name in sorted(given)) or "no data"
            raise SupernetError(f"importance by {score.name!r} {_EXPECTED[score.needs]}; it got {said}")


Needs: TypeAlias = Literal["weights", "inputs", "gradients"]

_GIVEN: dict[Needs, tuple[set[str], ...]] = {
    "weights": (set(),),
    "inputs": ({"batches"}, {"task"}),
    "gradients": ({"task"}, {"loss"}, {"loss", "batches"}),
}
_EXPECTED: dict[Needs, str] = {
    "weights": "looks at weights alone and takes no data",
    "inputs": "takes either batches=, inputs of the model, or task=",
    "gradients": "takes task=, or loss= (a function of a network, or with batches= of a network and a batch)",
}


class Score(ABC):
    """An importance score of units: a measure of what is lost without them.

    Attributes:
        name: by which it is chosen.
        needs: what it is measured on.
        along_axes: whether it asks what layers give or read, so that units are along axes; others may be whole modules.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs]
    along_axes: ClassVar[bool] = False

    @abstractmethod
    def measure(self, largest: Largest, data: Data) -> dict[str, Tensor]:
        """(units,) score by atom, higher for units that matter more; atoms that it cannot measure are not there.

        Raises:
            SupernetError: the data do not fit, or a number is not finite.
        """


class Magnitude(Score):
    """Σ|w| over the weights that read a unit."""

    name = "magnitude"
    needs = "weights"

    def measure(self, largest: Largest, data: Data) -> dict[str, Tensor]:  # noqa: ARG002
        """See `Score`."""
        owned = {name: owns for name, owns in largest.units.owned.items() if name in largest.parameters}
        return ranking.by_magnitude(owned, largest.units.whole, largest.parameters.__getitem__)


class MeanActivation(Score):
    """Mean |activation| that the layers of known types write to a unit, in one forward a batch."""

    name = "mean_activation"
    needs = "inputs"
    along_axes = True

    def measure(self, largest: Largest, data: Data) -> dict[str, Tensor]:
        """See `Score`."""
        return activations.written(largest, data.inputs(_device(largest)))


class Activations(Score):
    """What layers read of a unit: L2 norm over samples of the mean magnitude over positions, in one forward a batch.

    Muralidharan et al. 2024, "Compact Language Models via Pruning and Knowledge Distillation" (Minitron), with the aggregation
    that they found best.  A neuron counts by what the layer behind its activation function reads, a head by the norm of what
    the output projection reads of it, a channel of a residual stream by what is read after each of its norms; several readers
    add up.  Does not depend on how samples are batched.
    """

    name = "activations"
    needs = "inputs"
    along_axes = True

    def measure(self, largest: Largest, data: Data) -> dict[str, Tensor]:
        """See `Score`."""
        return activations.read(largest, data.inputs(_device(largest)))


class Gradients(Score):
    """A score by weights and their gradients, in one forward and backward a batch; it depends on how samples are batched.

    Frozen weights count as others, and nobody's gradients are touched.
    """

    needs = "gradients"

    @abstractmethod
    def moments(self, weight: Tensor, gradient: Tensor) -> Sequence[Tensor]:
        """(n,) sums along the second dimension of both, (n, m): whatever the score is computed from."""

    @abstractmethod
    def of_batch(self, sums: Tensor) -> Tensor:
        """(j, units) numbers of a batch that are averaged over batches.

        Args:
            sums: (k, units) `moments` over all numbers of each unit.
        """

    def total(self, means: Tensor) -> Tensor:
        """(units,) scores of the (j, units) means over batches."""
        return means.sum(0)

    def measure(self, largest: Largest, data: Data) -> dict[str, Tensor]:
        """See `Score`."""
        found: dict[str, Tensor] = {}
        count = 0
        for sums in passes.backward(largest, self.moments, data.steps(_device(largest))):
            count += 1
            for atom, each in sums.items():
                ranking.add(found, atom, self.of_batch(each))
        return {atom: self.total(each / count) for atom, each in found.items()}


@checked(SupernetError)
@dataclass(frozen=True)
class Taylor(Gradients):
    """Mean over batches of (Σ g·w)², the squared first-order change of the loss without the unit.

    Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning".

    Args:
        absolute: |Σ g·w| in place of the square, by which one batch of large gradients counts less.
    """

    absolute: bool = False
    name = "taylor"

    def moments(self, weight: Tensor, gradient: Tensor) -> Sequence[Tensor]:
        """Σ g·w."""
        return [(weight * gradient).sum(1)]

    def of_batch(self, sums: Tensor) -> Tensor:
        """The square."""
        return sums.abs() if self.absolute else sums.square()


class Fisher(Gradients):
    """Mean over batches of Σ (g·w)²: the second-order change of the loss by the diagonal of the empirical Fisher information.

    The gradient is that of a batch's mean loss; batches of one sample give the information itself.
    """

    name = "fisher"

    def moments(self, weight: Tensor, gradient: Tensor) -> Sequence[Tensor]:
        """Σ (g·w)²."""
        return [(weight * gradient).square().sum(1)]

    def of_batch(self, sums: Tensor) -> Tensor:
        """The same."""
        return sums


class GroupFisher(Score):
    """Mean over samples of (Σ a·∂L/∂a)² over positions, indices of the unit, and layers that read it.

    Liu et al. 2021, "Group Fisher Pruning for Practical Network Compression": the Fisher information of a gate on the unit; it is
    `Taylor` with batches of one sample, from batches of any size.  Does not depend on how samples are batched where the loss is
    their mean.
    """

    name = "group_fisher"
    needs = "gradients"
    along_axes = True

    def measure(self, largest: Largest, data: Data) -> dict[str, Tensor]:
        """See `Score`."""
        found: dict[str, Tensor] = {}
        samples: dict[str, int] = {}
        for calls in gates.gradients(largest, data.steps(_device(largest))):
            for atom, each in calls.items():
                for of_call in each:
                    ranking.add(found, atom, of_call.square().sum(0))
                    samples[atom] = samples.get(atom, 0) + len(of_call)
        return {atom: total / samples[atom] for atom, total in found.items()}


class HESSO(Gradients):
    """Five scores in equal parts: ‖w‖, ‖w‖ by the number of weights, 1 + cosine of w and g, |w·g|, and (w·g)²/2.

    Chen et al. 2024, "HESSO: Towards Automatic Efficient and User Friendly Any Neural Network Training and
    Pruning", which uses the gradient of one batch; here each is its mean over batches, and is divided by its norm over the units
    of an axis.
    """

    name = "hesso"

    def moments(self, weight: Tensor, gradient: Tensor) -> Sequence[Tensor]:
        """Σ w², Σ g², Σ g·w, and how many they are."""
        count = weight.new_full((len(weight),), weight.shape[1])
        return [weight.square().sum(1), gradient.square().sum(1), (weight * gradient).sum(1), count]

    def of_batch(self, sums: Tensor) -> Tensor:
        """(5, units)."""
        squares, gradients, product, count = sums
        norm = squares.sqrt()
        cosine = product / (norm * gradients.sqrt()).clamp_min(TINY)
        return torch.stack([norm, norm / count.clamp_min(1), 1 + cosine, product.abs(), product.square() / 2])

    def total(self, means: Tensor) -> Tensor:
        """Mean of the five at norm 1."""
        norms: Tensor = means.norm(dim=1, keepdim=True)
        return (means / norms.clamp_min(TINY)).mean(0)


TINY = 1e-300
"""In place of a zero that is divided by."""

SCORES: dict[str, type[Score]] = {
    score.name: score for score in (Magnitude, MeanActivation, Activations, Taylor, Fisher, GroupFisher, HESSO)
}


def chosen(by: str | Score | None, data: Data) -> Score:
    """The score that is meant by its name, or by None: the magnitude, or with batches the mean activation.

    Raises:
        SupernetError: there is none of this name, or it is not measured on `data`.
    """
    if by is None:
        by = "" if data.loss is not None or data.task is not None else "magnitude"
        by = "mean_activation" if by and data.batches is not None else by
    if isinstance(by, str):
        if by not in SCORES:
            told = f"by={by!r} is no importance score{suggest(by, SCORES)}" if by else "loss= and task= need by="
            raise SupernetError(f"{told.removesuffix('?')}; there are {', '.join(SCORES)}")
        by = SCORES[by]()
    data.check(by)
    return by


def measured(supernet: Supernet, units: Units, by: Score, data: Data) -> dict[str, Tensor]:
    """(units,) score of every atom: the magnitude of those that `by` cannot measure, which a warning says.

    Raises:
        SupernetError: the data do not fit, or a number is not finite.
    """
    largest = largest_of(supernet, units)
    found = by.measure(largest, data)
    missing = [atom for atom in units.whole if atom not in found]
    if missing:
        _tell(by, missing, len(units.whole))
        found = {**Magnitude().measure(largest, Data()), **found}
    found |= {atom: torch.zeros(size, dtype=torch.float64) for atom, size in units.whole.items() if atom not in found}
    for atom, scores in found.items():
        if not bool(scores.isfinite().all()):
            raise SupernetError(f"importance by {by.name!r} is not finite along {atom!r}; look for NaN in the weights")
    return found


def _tell(by: Score, missing: Sequence[str], of: int) -> None:
    """Say which units are in another order than was asked.

    Raises:
        SupernetError: all of them.
    """
    because = "no layer of a known type reads or writes them" if by.along_axes else "no gradient came to their weights"
    what = f"{missing[0]!r}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
    if len(missing) == of and by.needs == "gradients":
        raise SupernetError(f"importance by {by.name!r} knows nothing of {what}: {because}")
    warnings.warn(
        f"importance by {by.name!r} knows nothing of {what}: {because}; they count by their magnitude",
        UserWarning,
        stacklevel=6,
    )


def _device(largest: Largest) -> torch.device:
    return next((parameter.device for parameter in largest.parameters.values()), torch.device("cpu"))
