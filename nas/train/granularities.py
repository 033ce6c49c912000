"""Training nested models: which granularities a step trains, and what each is taught.

Any of the samplers goes with any loss.  Where the model is `Nested` (see `nas.train.trunk`) all granularities of a step share
one forward of the trunk; elsewhere (MatFormer, whose blocks differ inside) each arch is a forward of its own.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from nas.checking import checked
from nas.errors import TrainError, suggest
from nas.train import fitting
from nas.train.divergences import Divergence
from nas.train.losses import Loss, Step
from nas.train.samplers import Sampler
from nas.train.task import Batch, Task

if TYPE_CHECKING:
    from nas.space import Arch, Space


@checked(TrainError)
@dataclass(frozen=True)
class AllGranularities(Sampler):
    """Every combination of the candidates of some decisions, each step; everything else is as in the largest arch.

    With the embedding's length alone this is Matryoshka representation learning (Kusupati et al. 2022).

    Args:
        axes: names of the decisions.
        elastic: draw the other decisions anew for each step, for supernets that are elastic in them too.
    """

    axes: Sequence[str]
    elastic: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.axes, str) or not self.axes:
            raise TrainError(f"AllGranularities(axes={self.axes!r}) needs the names of decisions, e.g. ('dim',)")

    def archs(self, space: Space, step: int, rng: random.Random) -> list[Arch]:  # noqa: ARG002
        """The one with the largest candidates first."""
        base = space.sample(rng) if self.elastic else space.largest
        places = [_place(space, axis, "AllGranularities") for axis in self.axes]
        top = dict(zip(places, (space.largest.genome[place] for place in places), strict=True))
        ranges = [range(len(space.decisions[place].labels)) for place in places]
        combined = (dict(zip(places, genes, strict=True)) for genes in itertools.product(*ranges))
        return list(dict.fromkeys(_with(space, base, genes) for genes in itertools.chain([top], combined)))


@checked(TrainError)
@dataclass(frozen=True)
class FixedList(Sampler):
    """A list of archs, the same each step (Starbucks: Zhuang et al. 2024), or `n` of them at random (MatFormer's paper).

    Args:
        choices: of each arch.  What an entry leaves out is as in the largest arch.
        n: archs a step, drawn without replacement; None is all of them, in the order of the list.
    """

    choices: Sequence[Mapping[str, Any]]
    n: int | None = None

    def __post_init__(self) -> None:
        if not self.choices:
            raise TrainError("FixedList has no archs; give the choices of at least one")
        if self.n is not None and not 1 <= self.n <= len(self.choices):
            raise TrainError(f"FixedList(n={self.n}) does not fit its {len(self.choices)} archs; choose 1 to that many")

    def archs(self, space: Space, step: int, rng: random.Random) -> list[Arch]:  # noqa: ARG002
        """Each once.

        Raises:
            TrainError: an entry is outside the space.
        """
        chosen = self.choices if self.n is None else rng.sample(list(self.choices), self.n)
        return list(dict.fromkeys(from_partial(space, choices) for choices in chosen))

    def describe(self) -> dict[str, Any]:
        """JSON-able name and options."""
        return {"class": "FixedList", "choices": [dict(choices) for choices in self.choices], "n": self.n}


@checked(TrainError)
@dataclass(frozen=True)
class TwoDimensional(Sampler):
    """Every prefix of the full depth, and every prefix of one random shallower depth (2D Matryoshka: Li et al. 2024).

    Args:
        depth: name of the decision about depth.
        dim: name of the decision about the embedding's length.
    """

    depth: str = "depth"
    dim: str = "dim"

    def archs(self, space: Space, step: int, rng: random.Random) -> list[Arch]:  # noqa: ARG002
        """Full depth first, each with the largest prefix first.

        Raises:
            TrainError: the space has no such decision, or one depth only.
        """
        depth, dim = (_place(space, name, "TwoDimensional") for name in (self.depth, self.dim))
        deepest, longest = space.largest.genome[depth], space.largest.genome[dim]
        shallower = [gene for gene in range(len(space.decisions[depth].labels)) if gene != deepest]
        if not shallower:
            raise TrainError(f"TwoDimensional needs two depths, and {self.depth!r} of space {space.name!r} has one")
        dims = [longest, *(gene for gene in range(len(space.decisions[dim].labels)) if gene != longest)]
        depths = (deepest, rng.choice(shallower))
        pairs = itertools.product(depths, dims)
        return list(dict.fromkeys(_with(space, space.largest, {depth: d, dim: m}) for d, m in pairs))


@checked(TrainError)
@dataclass(frozen=True)
class Granular(Loss):
    """Labels for every granularity, and the full model's soft outputs: Σ_g c_g · [labels_g + w_kl · KL(full ‖ g)].

    With `kl=0` and all weights 1 this is the sum of Matryoshka representation learning (Kusupati et al. 2022); with `kl` it is
    that of Starbucks (Zhuang et al. 2024), whose default is 0 and whose recipe is 1; of embeddings, their KL between scores of
    texts is `divergence=SoftSimilarities()`.  The full model's outputs are detached.  Two deviations from the published code:
    the full model is taught once where it is itself in the list, and its KL is left out because it is zero.

    The multi-layer retrieval loss of ModularStarEncoder (Gurioli et al. 2025, "One Model to Train them All: Hierarchical
    Self-Distillation for Enhanced Early Layer Embeddings"), a contrastive loss at each exit with weights that grow with its
    depth, is `SortedExits()` with

        Granular(axis="depth", weights="proportional")

    on the task `nas.Embedding`, and a model with a projection of its own for each exit.

    Args:
        kl: weight of the distillation; a positive one adds the largest arch to the step, first.
        temperature: softens both distributions.  the comparison multiplies by T², the paper does not: the same at T = 1.
        axis: decision whose value the weights go by.
        weights: c_g of each value of `axis`; "proportional" is the value divided by the largest; None is 1 for each.
        divergence: how far a granularity is from the full model; None is the task's own: for classes the forward KL at
            `temperature`.
    """

    kl: float = 0.0
    temperature: float = 1.0
    axis: str = "dim"
    weights: Mapping[Hashable, float] | Literal["proportional"] | None = field(default=None, hash=False)
    divergence: Divergence | None = None

    def __post_init__(self) -> None:
        if self.kl < 0.0 or not self.temperature > 0.0:
            raise TrainError(
                f"Granular has kl={self.kl} and temperature={self.temperature}; the one is 0 or more, the other positive"
            )
        if self.temperature != 1.0 and not self.kl:
            raise TrainError(f"Granular(temperature={self.temperature}) has no effect with kl=0; give kl too")
        if self.axis != "dim" and self.weights is None:
            raise TrainError(f"Granular(axis={self.axis!r}) has no effect without weights; give weights too")
        if self.divergence is not None and (not self.kl or self.temperature != 1.0):
            raise TrainError(
                f"Granular(kl={self.kl}, temperature={self.temperature}) has a divergence, which needs a positive kl and has a "
                "temperature of its own; give kl= and leave temperature= out"
            )
        if isinstance(self.weights, Mapping) and not all(weight >= 0.0 for weight in self.weights.values()):
            raise TrainError(f"Granular has weights={dict(self.weights)}; each is 0 or more")

    def archs(self, archs: Sequence[Arch], space: Space) -> list[Arch]:
        """With distillation the largest first: it is added where the sampler did not choose it.

        Raises:
            TrainError: there is a weight for what is no granularity of the space, e.g. longer than the embedding; or weights
                are proportional to what are no numbers above 0.
        """
        if self.weights is not None:
            self._check_weights(space)
        if not self.kl:
            return list(archs)
        return [space.largest, *(arch for arch in archs if arch != space.largest)]

    def _check_weights(self, space: Space) -> None:
        labels = space.decisions[_place(space, self.axis, "Granular")].labels
        if self.weights == "proportional":
            if not all(isinstance(label, int | float) and label > 0 for label in labels):
                raise TrainError(
                    f"Granular has weights proportional to {self.axis!r} of space {space.name!r}, which is one of "
                    f"{', '.join(map(str, labels))} and no positive number; give a weight for each value"
                )
            return
        for value in self.weights or ():
            if value not in labels:
                raise TrainError(
                    f"Granular has a weight for {self.axis}={value!r}, which is no granularity of space {space.name!r}: "
                    f"{self.axis} is one of {', '.join(map(str, labels))}"
                )

    def check(self, task: Task) -> None:
        """Whether outputs of the task are compared so."""
        if self.kl:
            fitting.check("Granular", task, self.divergence, self.temperature)

    def __call__(self, output: Any, batch: Batch, step: Step) -> Tensor:
        """Labels, and distillation for all but the largest."""
        loss = step.task.loss(output, batch)
        if self.kl:
            scores = step.task.logits(output)
            if step.arch == step.space.largest:
                step.shared["full"] = scores.detach()
            else:
                compare = fitting.comparing(
                    "Granular", step.task, batch, scores, chosen=self.divergence, temperature=self.temperature
                )
                loss = loss + self.kl * compare(scores, step.shared["full"])
        return loss if self.weights is None else self._weight(step.arch) * loss

    def _weight(self, arch: Arch) -> float:
        assert self.weights is not None
        value: Any = arch.choices.get(self.axis)
        if self.weights == "proportional":
            largest: Any = arch.space.largest.choices[self.axis]
            return float(value) / float(largest)
        assert isinstance(self.weights, Mapping)
        if value not in self.weights:
            raise TrainError(
                f"Granular has weights for {sorted(map(str, self.weights))} and none for {self.axis}={value!r}; "
                f"give one for each value, or axis= one of {', '.join(arch.choices)}"
            )
        return self.weights[value]

    def describe(self) -> dict[str, Any]:
        """JSON-able name and options."""
        weights: Any = self.weights
        if isinstance(weights, Mapping):
            weights = [[value, weight] for value, weight in weights.items()]
        divergence = {} if self.divergence is None else {"divergence": self.divergence.describe()}
        return {
            "class": "Granular",
            "kl": self.kl,
            "temperature": self.temperature,
            "axis": self.axis,
            "weights": weights,
            **divergence,
        }


def from_partial(space: Space, choices: Mapping[str, Any]) -> Arch:
    """The arch with these choices and the largest candidate for the rest; choices that they switch off are dropped.

    Raises:
        TrainError: a name or a value is not there, e.g. a prefix longer than the embedding.
    """
    genes = {}
    for name, value in choices.items():
        place = _place(space, name, "FixedList")
        labels = list(space.decisions[place].labels)
        if value not in labels:
            raise TrainError(
                f"{name}={value!r} is not a granularity of space {space.name!r}: {name} is one of "
                f"{', '.join(map(str, labels))}"
            )
        genes[place] = labels.index(value)
    return _with(space, space.largest, genes)


def _place(space: Space, name: str, who: str) -> int:
    """Index of the categorical decision `name`."""
    if name not in space.names or space.decisions[space.names.index(name)].point.range is not None:
        names = [decision.name for decision in space.decisions if decision.point.range is None]
        raise TrainError(
            f"{who} is about {name!r}, which is no categorical decision of space {space.name!r}{suggest(name, names)}; "
            f"there are: {', '.join(names[:10])}"
        )
    return space.names.index(name)


def _with(space: Space, base: Arch, genes: Mapping[int, int]) -> Arch:
    """`base` with other genes; what they switch on is as in the largest arch, what they switch off is dropped."""
    numbers = [
        genes.get(place, gene if gene is not None else top)
        for place, (gene, top) in enumerate(zip(base.genome, space.largest.genome, strict=True))
    ]
    return space.repair([0 if number is None else number for number in numbers])
