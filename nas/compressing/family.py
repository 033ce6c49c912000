"""The networks of a search tuned together, as one supernet: a family of sizes with one set of weights."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.checking import checked
from nas.errors import TrainError
from nas.supernet import Supernet
from nas.train import Sampler
from nas.train.task import mixed

if TYPE_CHECKING:
    import pandas as pd

    from nas.space import Arch, Space
    from nas.study import Study

MOST = 8
"""Networks of a family beside the best within each budget: each further one takes steps from the others."""


class Members(Sampler):
    """One of some archs a step, each once in as many steps as there are, in an order drawn anew each time.

    A trained start needs no sandwich: at equal passes one network a step ended higher than the largest, the smallest and two
    random ones together.

    Args:
        archs: one or more.
    """

    @checked(TrainError)
    def __init__(self, archs: Sequence[Arch]) -> None:
        if not archs:
            raise TrainError("Members has no archs; give one or more")
        self.members = list(archs)

    def archs(self, space: Space, step: int, rng: random.Random) -> list[Arch]:  # noqa: ARG002
        """The one whose turn it is."""
        turn, place = divmod(step, len(self.members))
        order = list(range(len(self.members)))
        random.Random(mixed("members", turn)).shuffle(order)
        return [self.members[order[place]]]

    def describe(self) -> dict[str, Any]:
        """JSON-able name and archs."""
        return {"class": "Members", "archs": [arch.key for arch in self.members]}


@dataclass(frozen=True)
class Family:
    """Networks that were tuned together.

    Attributes:
        folder: of the supernet, as `nas.Supernet.load(folder, space)` reads it.
        supernet: the same; `nas.ElasticModel(supernet, front, …)` switches between its networks.
        study: of its networks: quality on the validation split, with BatchNorm statistics of each, and costs.
    """

    folder: Path
    supernet: Supernet
    study: Study

    @property
    def front(self) -> pd.DataFrame:
        """Networks of the family that nothing is better than."""
        return self.study.front()


def members_of(search: Study, first: Sequence[Arch], metric: str, most: int = MOST) -> list[Arch]:
    """The best within each budget, and networks of the search's front, spread over their costs.

    Args:
        search: of networks of all sizes.
        first: the best within each budget.
        metric: by which the front is spread.
        most: of the front.
    """
    rows = search.front().sort_values(metric, kind="stable")
    numbers = list(rows.index)
    if len(numbers) > most:
        numbers = [numbers[round(at * (len(numbers) - 1) / (most - 1))] for at in range(most)]
    return list(dict.fromkeys([*first, *(search.arch(int(number)) for number in numbers)]))
