"""Archs as replacements of what one arch has: columns for a model that adds up what single replacements do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas.search.breeding import genes_of

if TYPE_CHECKING:
    from nas.space import Arch, Space
    from nas.space.compiling import Decision

Floats = NDArray[np.float64]
Gene = int | float


class Replacements:
    """What archs have where a base has something else, and the archs that differ from the base in one decision.

    A decision has a column for each other candidate, 1.0 where an arch has it.  One between more than `most` numbers, and a
    float, has columns for at most `most` spread values; what lies between two of them is interpolated.  A decision that the
    base does not have is compared with what an arch has there by default; one that is inactive has zeros.

    Args:
        space: of the archs.
        base: what is replaced.
        most: alternatives of one decision that are tried.
    """

    def __init__(self, space: Space, base: Arch, most: int) -> None:
        self._space, self.base = space, base
        self._columns = [_Columns(decision, base, space, most) for decision in space.decisions]
        self.starts = np.cumsum([0, *(one.width for one in self._columns)])
        self.width = int(self.starts[-1])
        self.genes = [one.genes for one in self._columns]
        """What each decision may be in a composition."""
        self.tables = [one.codes(np.array(one.genes, dtype=np.float64)) for one in self._columns]
        """(candidates, columns) of each decision."""
        self.decision_of = np.repeat(np.arange(len(self._columns)), [one.width for one in self._columns])

    def __call__(self, archs: Sequence[Arch]) -> Floats:
        """(n, width) columns of some archs."""
        genes = genes_of(archs, len(self._columns))
        parts = [one.codes(column) for one, column in zip(self._columns, genes.T, strict=True)]
        return np.concatenate([np.zeros((len(archs), 0)), *parts], 1)

    def singles(self, first: int) -> Iterator[Arch]:
        """The base, then archs that differ from it in one decision, one alternative of each decision after the other.

        `first` says which decision is the first, so that drivers of one study need not ask for the same.

        To have an alternative of a decision that the base does not have, what controls it is replaced, too.  What no rule
        allows is left out.
        """
        yield self.base
        count = len(self._columns)
        order = [(first + at) % count for at in range(count)]
        for alternatives in zip_longest(*(self._columns[at].alternatives for at in order)):
            for at, gene in zip(order, alternatives, strict=True):
                found = None if gene is None else self._space.replaced(self.base, at, gene)
                if found is not None:
                    yield found


class _Columns:
    """Columns of one decision."""

    def __init__(self, decision: Decision, base: Arch, space: Space, most: int) -> None:
        range_ = decision.point.range
        usual = base.genome[decision.index]
        default = space.default(decision.index) if usual is None else usual
        if range_ is not None:
            self._unit: Callable[[float], float] | None = range_.unit
            places = sorted({*np.linspace(0.0, 1.0, most + 1)[: most + 1].tolist(), range_.unit(default)})
            chosen = _spread(places, places.index(range_.unit(default)), most)
            self._knots: Floats | None = np.array(sorted([places[at] for at in chosen] + [range_.unit(default)]))
            own = {range_.unit(default): default}
            self.genes: list[Gene] = [own.get(place, range_.value(place)) for place in self._knots.tolist()]
            self._base = int(np.searchsorted(self._knots, range_.unit(default)))
            self.alternatives: list[Gene] = [range_.value(places[at]) for at in chosen]
            self.width = len(self._knots) - 1
            return
        found = list(decision.point.distinct_candidates)
        numeric = all(
            isinstance(one, int | float) and not isinstance(one, bool)
            for one in (decision.candidates[c] for c in found)
        )
        if numeric:
            found.sort(key=lambda c: float(decision.candidates[c]))
        self.genes = list(found)
        chosen = _spread(found, found.index(default), most)
        self.alternatives = [found[at] for at in chosen]
        self._unit = None
        self._rank = np.zeros(len(decision.point.canonical))
        self._rank[found] = np.arange(len(found))
        place = found.index(default)
        self._knots = None
        if numeric and len(found) - 1 > most:
            self._knots = np.array(sorted([*chosen, place]), dtype=np.float64)
            place = int(np.searchsorted(self._knots, place))
        self._base = place
        self.width = len(found if self._knots is None else self._knots) - 1

    def codes(self, genes: Floats) -> Floats:
        """(n, width) of genes, NaN where inactive."""
        inactive = np.isnan(genes)
        if self._unit is not None:
            places = np.array(
                [0.0 if off else self._unit(gene) for gene, off in zip(genes.tolist(), inactive, strict=True)]
            )
        else:
            places = self._rank[np.where(inactive, 0, genes).astype(np.intp)]
        if self._knots is None:
            table = np.eye(self.width + 1)[places.astype(np.intp)]
        else:
            hats = np.eye(len(self._knots))
            table = np.stack([np.interp(places, self._knots, hat) for hat in hats], 1)
        table[inactive] = 0.0
        return np.delete(table, self._base, 1)


def _spread(places: Sequence[float] | Sequence[int], start: int, most: int) -> list[int]:
    """Indices of at most `most` places but `start`, evenly spread; each the farthest from `start` and from those before."""
    others = [at for at in range(len(places)) if at != start]
    if len(others) > most:
        others = [round(at) for at in np.linspace(0, len(places) - 1, most + 1).tolist()]
        others.remove(min(others, key=lambda at: abs(at - start)))
    chosen: list[int] = []
    while others:
        chosen.append(max(others, key=lambda at: min(abs(at - other) for other in [start, *chosen])))
        others.remove(chosen[-1])
    return chosen
