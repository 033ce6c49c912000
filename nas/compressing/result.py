"""What a compression found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from nas.compressing.budgets import JOINT, Budget
from nas.compressing.family import Family
from nas.compressing.profiling import Profile
from nas.errors import StudyError
from nas.text import human

if TYPE_CHECKING:
    import pandas as pd

    from nas.space import Arch
    from nas.study import Study


LATENCY = "latency_ms"


@dataclass(frozen=True)
class Tuned:
    """A network that was tuned.

    Attributes:
        study: where it is a trial.
        number: of the trial.
        arch: what it is.
        measured: quality on the validation split, and costs.
    """

    study: Study
    number: int
    arch: Arch
    measured: Mapping[str, float]

    @property
    def model(self) -> nn.Module:
        """Of the original's class, in eval mode; what it measures is checked."""
        return self.study.extract(self.number)


@dataclass(frozen=True)
class Turns:
    """Latencies of networks that were measured in turns, in milliseconds.

    Attributes:
        original: of the original.
        found: of the network of the search.
        uniform: of uniform scaling; None where there is none.
    """

    original: float
    found: float
    uniform: float | None


@dataclass(frozen=True)
class Choice:
    """The network for one budget, beside uniform scaling.

    Attributes:
        budget: as it was asked.
        bound: the same in the metric's unit.
        found: the network of the search that won the race, tuned.
        uniform: uniform scaling, trained as long; None where no uniform network is within the budget.
        is_uniform: uniform scaling was the better one, and is the choice.
        is_original: the original is within the budget, and is what was found; nothing was trained.
        untuned: the found network before it was tuned; None where nothing was.
        is_untuned: that was the best one, and is the choice.
        turns: latencies beside the original's, where a device of this machine is given.
    """

    budget: Budget
    bound: float
    found: Tuned
    uniform: Tuned | None
    is_uniform: bool
    is_original: bool = False
    untuned: Tuned | None = None
    is_untuned: bool = False
    turns: Turns | None = None

    @property
    def is_same(self) -> bool:
        """Whether search and uniform scaling gave one arch: then only its trainings differ."""
        return self.uniform is not None and self.uniform.arch == self.found.arch

    @property
    def chosen(self) -> Tuned:
        """The best of them, on the validation split."""
        if self.is_untuned and self.untuned is not None:
            return self.untuned
        return self.uniform if self.is_uniform and self.uniform is not None else self.found

    @property
    def model(self) -> nn.Module:
        """The chosen network, of the original's class, in eval mode."""
        return self.chosen.model

    def cost(self, original: Mapping[str, float]) -> tuple[float, float]:
        """What the chosen network costs in the budget's metric, and the original: latencies as they were measured in turns."""
        if self.budget.metric == LATENCY and self.turns is not None:
            ours = self.turns.uniform if self.is_uniform else self.turns.found
            assert ours is not None
            return ours, self.turns.original
        return self.chosen.measured[self.budget.metric], original[self.budget.metric]

    def excess(self, original: Mapping[str, float]) -> str:
        """A sentence where the chosen network costs more than the budget by its last measurement, else nothing."""
        (cost, whole), metric = self.cost(original), self.budget.metric
        if self.is_original or cost <= (self.bound if self.budget.share is None else self.budget.share * whole):
            return ""
        how = "in turns with the original" if metric == LATENCY and self.turns is not None else "once more"
        limit = human(self.bound) if self.budget.share is None else f"{self.budget.share:.1%}"
        return (
            f"measured {how}, the chosen network has {metric} {human(cost)}, {cost / whole:.1%} of the original's "
            f"{human(whole)}, above the budget's {limit}"
        )


@dataclass(frozen=True)
class Compressed:
    """What `nas.compress` found.

    Attributes:
        profile: costs of the smallest, a middle and the original network.
        original: quality and costs of the original.
        choices: one for each budget.
        search: the study of networks before they were tuned.
        folder: with everything that was made.
        notes: what was decided, and why.
        family: the supernet of networks that were tuned together, where `tune="family"` asked for it.
        asked: options of the call that are not the defaults.
    """

    profile: Profile
    original: Mapping[str, float]
    choices: Sequence[Choice]
    search: Study
    folder: Path
    notes: Sequence[str] = field(default=())
    family: Family | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def front(self) -> pd.DataFrame:
        """Networks that nothing is better than: of the family, else of the search, measured before they were tuned."""
        return self.search.front() if self.family is None else self.family.front

    @property
    def model(self) -> nn.Module:
        """The chosen network of the one budget, in eval mode.

        Raises:
            StudyError: there are several budgets, each with a network of its own.
        """
        if len(self.choices) != 1:
            each = "; ".join(
                f"result.choices[{place}].model for {one.budget}" for place, one in enumerate(self.choices)
            )
            raise StudyError(f"there are {len(self.choices)} budgets, each with a network of its own: {each}; {JOINT}")
        return self.choices[0].model

    def __str__(self) -> str:
        return "\n".join(self.notes)
