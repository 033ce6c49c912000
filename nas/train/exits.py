"""Training all exits of a deep model: which ones a step trains, and what each is taught.

An exit is an arch of a smaller depth.  Where the model is `Nested` (see `nas.train.trunk`; `searchspaces.sorted_lm` is) the
exits of a step share one forward of the trunk.  SortedNet itself (Valipour et al. 2023) trains one sub-model a step, drawn
from the list, on its labels: `Uniform(1)` with `Labels()`.  All exits each step is Sorted fine-tuning: `SortedExits()` with
`ExitMean()`.

Multi-exit self-distillation (Zhang et al. 2019, "Be Your Own Teacher": for each exit (1 − α) · labels + α · KL from the deepest
+ λ · the difference of its last features from the deepest's; labels alone for the deepest; summed) is `SortedExits()` with

    Features("norm", Hint("none"), InPlace(temperature=3.0, labels=0.7), weight=0.03)

for α = 0.3 and λ = 0.03, where "norm" is the layer that every exit's head reads from.  The paper sums squared differences of
features, and brings shallow ones to size by a bottleneck of each exit; here they are averaged, and have one size already.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nas.checking import checked
from nas.errors import TrainError, suggest
from nas.train import fitting
from nas.train.losses import Loss, Step
from nas.train.samplers import Sampler
from nas.train.task import Batch, Task

if TYPE_CHECKING:
    from nas.space import Arch, Space


@checked(TrainError)
@dataclass(frozen=True)
class SortedExits(Sampler):
    """The full depth and shallower exits of one model, each step (SoFT: Kavehzadeh et al. 2024, "Sorted LLaMA").

    Args:
        exits: depths to train besides the full one; None is all that the space has.
        n: exits a step besides the full depth, drawn without replacement; None is all.
        elastic: draw the other decisions anew for each step, for supernets that are nested in them too; else they are as
            in the largest arch.
        decision: name of the depth.
    """

    exits: tuple[int, ...] | None = None
    n: int | None = None
    elastic: bool = False
    decision: str = "depth"

    def __post_init__(self) -> None:
        if self.exits is not None and not self.exits:
            raise TrainError("SortedExits(exits=()) has no exit; give depths, or None for all")
        if self.n is not None and self.n < 1:
            raise TrainError(f"SortedExits(n={self.n}) draws no exit; choose 1 or more, or None for all")

    def archs(self, space: Space, step: int, rng: random.Random) -> list[Arch]:  # noqa: ARG002
        """The deepest first.

        Raises:
            TrainError: the space has no such decision, or an exit is none of its depths.
        """
        depths = self._depths(space)
        chosen = (
            depths[1:] if self.n is None else sorted(rng.sample(depths[1:], min(self.n, len(depths) - 1)), reverse=True)
        )
        base = space.sample(rng) if self.elastic else space.largest
        return [self._with(space, base, depth) for depth in (depths[0], *chosen)]

    def _depths(self, space: Space) -> list[Any]:
        """Full depth, then the exits, deepest first."""
        if self.decision not in space.names:
            raise TrainError(
                f"SortedExits is about {self.decision!r}, which is no decision of space {space.name!r}"
                f"{suggest(self.decision, space.names)}; there are: {', '.join(space.names[:10])}"
            )
        there: list[Any] = sorted(space.decisions[space.names.index(self.decision)].labels, key=float, reverse=True)
        deepest: Any = space.largest.choices[self.decision]
        for depth in self.exits or ():
            if depth not in there:
                deeper = " is deeper than the model and" if depth > deepest else ""
                raise TrainError(
                    f"exit {depth}{deeper} is not one of the depths of space {space.name!r}: {', '.join(map(str, there[::-1]))}"
                )
        return [deepest, *(depth for depth in there if depth < deepest and depth in (self.exits or there))]

    def _with(self, space: Space, base: Arch, depth: Any) -> Arch:
        """`base` at another depth; what that switches on is as in the largest arch, what it switches off is dropped."""
        place = space.names.index(self.decision)
        tops = zip(base.genome, space.largest.genome, strict=True)
        genes = [gene if gene is not None else top for gene, top in tops]
        genes[place] = list(space.decisions[place].labels).index(depth)
        return space.repair([0 if gene is None else gene for gene in genes])


@checked(TrainError)
@dataclass(frozen=True)
class ExitMean(Loss):
    """Labels for every arch of a step, averaged over them: (1/|B|) Σ L_n (Kavehzadeh et al. 2024).

    With `distill` the archs after the first learn from the first one's detached outputs too, which is the deepest where
    `SortedExits` chose them: multi-exit self-distillation (Phuong & Lampert 2019, "Distillation-Based Training for Multi-Exit
    Architectures", with the weight constant and the temperature fixed).

    Args:
        distill: weight of the distillation; that of the labels is the rest.
        temperature: softens both distributions.
    """

    distill: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.distill <= 1.0:
            raise TrainError(f"ExitMean has distill={self.distill}; it is a fraction between 0 and 1")
        if not self.temperature > 0.0:
            raise TrainError(f"ExitMean has temperature={self.temperature}; it is a positive number")
        if self.temperature != 1.0 and not self.distill:
            raise TrainError(f"ExitMean(temperature={self.temperature}) has no effect with distill=0; give distill too")

    def check(self, task: Task) -> None:
        """Whether outputs of the task are compared so."""
        if self.distill:
            fitting.check("ExitMean", task, None, self.temperature)

    def __call__(self, output: Any, batch: Batch, step: Step) -> Tensor:
        """This arch's part of the mean."""
        loss = step.task.loss(output, batch)
        if self.distill:
            scores = step.task.logits(output)
            if step.arch == step.archs[0]:
                step.shared["first"] = scores.detach()
            else:
                compare = fitting.comparing("ExitMean", step.task, batch, scores, temperature=self.temperature)
                soft = compare(scores, step.shared["first"])
                loss = (1.0 - self.distill) * loss + self.distill * soft
        return loss / len(step.archs)
