"""Archs as points whose squared distances a Gaussian process can weigh, decision by decision."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nas.search.breeding import Genes, genes_of

if TYPE_CHECKING:
    from nas.space import Arch, Space

Floats = NDArray[np.float64]


class Points(NamedTuple):
    """n archs: what each decision is, and how often each candidate was chosen."""

    coordinates: Floats
    """(n, p): squared distance within the columns of one decision lies between 0 and 1."""
    counts: Floats
    """(n, q): how often each candidate is chosen among decisions that offer the same ones, centred and scaled; then features."""

    def rows(self, at: Sequence[int] | NDArray[np.int64] | slice) -> Points:
        """Some of the points."""
        return Points(self.coordinates[at], self.counts[at])

    def astype(self, precision: type[np.floating[Any]]) -> Points:
        """The points in another precision."""
        return Points(self.coordinates.astype(precision), self.counts.astype(precision))


class Encoding:
    """Makes points of archs of one space; its tables are made once.

    A decision between numbers is coded as a thermometer, so that the squared distance of candidates i and j of K is
    |i - j| / (K - 1); any other is one-hot over √2, so that it is 1 where they differ.  An inactive decision is the origin.
    Decisions with the same candidates (the kernel of every block, the operation of every edge) also share a histogram: what
    a network costs, and much of what it is worth, depends on how often something was chosen more than on where.

    Args:
        space: what the archs belong to.
    """

    def __init__(self, space: Space) -> None:
        tables: list[Floats] = []
        self._floats: list[tuple[int, int, Callable[[float], float]]] = []  # decision, its column, value -> [0, 1]
        starts, column = [], 0
        groups: dict[tuple[object, ...], list[int]] = {}
        for decision in space.decisions:
            starts.append(column)
            if decision.point.range is not None:
                self._floats.append((decision.index, column, decision.point.range.unit))
                tables.append(np.zeros((1, 1)))
                column += 1
                continue
            tables.append(_codes(decision.candidates))
            column += tables[-1].shape[1]
            if len(decision.candidates) > 1:
                groups.setdefault(tuple(map(str, decision.labels)), []).append(decision.index)
        self.blocks = np.repeat(np.arange(len(tables)), [table.shape[1] for table in tables])
        self._tables, self.width = tables, column
        self._alike = self._by_shape(starts)
        self.groups = [tuple(members) for members in groups.values() if len(members) > 1]
        self.offered = [len(tables[members[0]]) for members in self.groups]
        self.count_columns = sum(self.offered)
        # Two random histograms over K candidates are 2 · (1 − 1/K) apart, squared, as they are scaled.
        self.counts_apart = sum(2.0 * (1.0 - 1.0 / offered) for offered in self.offered)
        """Squared distance of the counts of two random archs, about."""
        self._features: Callable[[Sequence[Arch]], Floats] | None = None

    def described(self, features: Callable[[Sequence[Arch]], Floats], archs: Sequence[Arch]) -> Encoding:
        """The same with features after the counts, centred and scaled by what they are of `archs`.

        Features may have any distribution: proxies of one space span nine orders of magnitude, and mark what they cannot score
        by -1e8.  So they are measured from their median in quartile distances, and what is far is compressed logarithmically.

        Args:
            features: archs -> (n, f), NaN where nobody knows; those count as the median.
            archs: a few at least.
        """
        table = features(archs)
        known = np.where(np.isnan(table).all(0), 0.0, table)
        low, middle, high = np.nanquantile(known, [0.25, 0.5, 0.75], axis=0)
        width = np.where(high > low, high - low, 1.0)
        columns = table.shape[1]

        def standard(some: Sequence[Arch]) -> Floats:
            values = np.clip(np.arcsinh((features(some) - middle) / width), -4.0, 4.0) / np.sqrt(columns)
            return np.where(np.isnan(values), 0.0, values)

        other = self.widened(columns)
        other._features = standard
        return other

    def widened(self, columns: int) -> Encoding:
        """The same for points with so many more columns of about unit spread after the counts, which the caller appends."""
        other = copy.copy(self)
        other.count_columns = self.count_columns + columns
        other.counts_apart = self.counts_apart + 2.0
        return other

    @property
    def decisions(self) -> int:
        """How many decisions there are, which is the largest squared distance."""
        return len(self._tables)

    def __call__(self, archs: Sequence[Arch]) -> Points:
        """The points of `archs`."""
        points = self.plain(genes_of(archs, len(self._tables)))
        if self._features is None:
            return points
        return Points(points.coordinates, np.concatenate([points.counts, self._features(archs)], 1))

    def plain(self, genes: Genes) -> Points:
        """The points of archs given by their rows, without features."""
        n = len(genes)
        active = ~np.isnan(genes)
        index = np.where(active, genes, 0).astype(np.intp)
        coordinates = np.zeros((n, self.width))
        for members, tables, columns in self._alike:
            codes = tables[np.arange(len(members)), index[:, members]]
            codes *= active[:, members, None]
            coordinates[:, columns] = codes.reshape(n, len(columns))
        for at, column, unit in self._floats:
            coordinates[:, column] = [
                unit(gene) if here else 0.5 for gene, here in zip(genes[:, at].tolist(), active[:, at], strict=True)
            ]
        return Points(coordinates, self._counts(index, active))

    def _by_shape(self, starts: Sequence[int]) -> list[tuple[list[int], Floats, NDArray[np.intp]]]:
        """Categorical decisions whose tables have one shape: which they are, their tables, and their columns."""
        shapes: dict[tuple[int, ...], list[int]] = {}
        real = {at for at, _, _ in self._floats}
        for at, table in enumerate(self._tables):
            if at not in real:
                shapes.setdefault(table.shape, []).append(at)
        columns = [np.arange(start, start + table.shape[1]) for start, table in zip(starts, self._tables, strict=True)]
        return [
            (members, np.stack([self._tables[at] for at in members]), np.concatenate([columns[at] for at in members]))
            for members in shapes.values()
        ]

    def _counts(self, index: NDArray[np.intp], active: NDArray[np.bool_]) -> Floats:
        parts = [np.zeros((len(index), 0))]
        for members, candidates in zip(self.groups, self.offered, strict=True):
            chosen, here = index[:, members], active[:, members]
            counts = np.stack([((chosen == one) & here).sum(1) for one in range(candidates)], 1)
            parts.append((counts - len(members) / candidates) / np.sqrt(len(members)))
        return np.concatenate(parts, 1)


def _codes(candidates: Sequence[object]) -> Floats:
    """(K, columns) codes of the candidates of one decision."""
    count = len(candidates)
    if count > 1 and all(isinstance(one, int | float) and not isinstance(one, bool) for one in candidates):
        order = np.argsort(np.argsort([float(str(one)) for one in candidates], kind="stable"))
        steps: Floats = (order[:, None] > np.arange(count - 1)[None]) / np.sqrt(count - 1)
        return steps
    onehot: Floats = np.eye(count) / np.sqrt(2)
    return onehot
