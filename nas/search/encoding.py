"""Archs as points whose squared distances a Gaussian process can weigh, decision by decision."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy  # a part of it, as scipy.linalg, is imported when it is first used
from numpy.typing import NDArray

from nas.search.breeding import Genes, genes_of

if TYPE_CHECKING:
    from nas.space import Arch, Space

Floats = NDArray[np.float64]


PAIRED = 2048  # columns of neighbouring decisions at most: each costs as much as one of the coordinates


class Points(NamedTuple):
    """n archs: what each decision is, and how often each candidate was chosen."""

    coordinates: Floats
    """(n, p): squared distance within the columns of one decision lies between 0 and 1."""
    counts: Floats
    """(n, q): how often each candidate is chosen among decisions that offer the same ones, centred and scaled; then features."""
    pairs: Floats
    """(n, r): what each two neighbouring decisions are together, centred in either; all of them have a squared length of 1."""

    def rows(self, at: Sequence[int] | NDArray[np.int64] | slice) -> Points:
        """Some of the points."""
        return Points(self.coordinates[at], self.counts[at], self.pairs[at])

    def astype(self, precision: type[np.floating[Any]]) -> Points:
        """The points in another precision."""
        return Points(*(columns.astype(precision) for columns in self))


class Encoding:
    """Makes points of archs of one space; its tables are made once.

    A decision between numbers is coded as a thermometer, so that the squared distance of candidates i and j of K is
    |i - j| / (K - 1); any other is one-hot over √2, so that it is 1 where they differ.  An inactive decision is the origin.
    Decisions with the same candidates (the kernel of every block, the operation of every edge) also share a histogram: what
    a network costs, and much of what it is worth, depends on how often something was chosen more than on where.  Two
    decisions between candidates that follow each other have columns of what they are together, one-hot also where they are
    numbers: layers that follow each other interact more than others do.

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
        self._pairs = _Pairs([len(table) for table in tables])
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
    def pair_columns(self) -> int:
        """How many columns neighbouring decisions have together."""
        return self._pairs.width

    @property
    def decisions(self) -> int:
        """How many decisions there are, which is the largest squared distance."""
        return len(self._tables)

    def __call__(self, archs: Sequence[Arch]) -> Points:
        """The points of `archs`."""
        points = self.plain(genes_of(archs, len(self._tables)))
        if self._features is None:
            return points
        return points._replace(counts=np.concatenate([points.counts, self._features(archs)], 1))

    def plain(self, genes: Genes) -> Points:
        """The points of archs given by their rows, without features."""
        n = len(genes)
        active = ~np.isnan(genes)
        index = np.where(active, genes, 0).astype(np.intp)
        coordinates = np.zeros((n, self.width))
        for members, offered, tables, columns in self._alike:
            codes = tables.take(index[:, members] + np.arange(len(members)) * offered, 0)
            if not active.all():
                codes *= active[:, members, None]
            coordinates[:, columns] = codes.reshape(n, len(columns))
        for at, column, unit in self._floats:
            coordinates[:, column] = [
                unit(gene) if here else 0.5 for gene, here in zip(genes[:, at].tolist(), active[:, at], strict=True)
            ]
        return Points(coordinates, self._counts(index, active), self._pairs(index, active))

    def _by_shape(self, starts: Sequence[int]) -> list[tuple[list[int], int, Floats, NDArray[np.intp]]]:
        """Categorical decisions with tables of one shape: which they are, their candidates, their tables joined, and columns."""
        shapes: dict[tuple[int, int], list[int]] = {}
        real = {at for at, _, _ in self._floats}
        for at, table in enumerate(self._tables):
            if at not in real:
                shapes.setdefault((table.shape[0], table.shape[1]), []).append(at)
        columns = [np.arange(start, start + table.shape[1]) for start, table in zip(starts, self._tables, strict=True)]
        return [
            (
                members,
                offered,
                np.concatenate([self._tables[at] for at in members]),
                np.concatenate([columns[at] for at in members]),
            )
            for (offered, _), members in shapes.items()
        ]

    def _counts(self, index: NDArray[np.intp], active: NDArray[np.bool_]) -> Floats:
        parts = [np.zeros((len(index), 0))]
        for members, candidates in zip(self.groups, self.offered, strict=True):
            chosen, here = index[:, members], active[:, members]
            counts = np.stack([((chosen == one) & here).sum(1) for one in range(candidates)], 1)
            parts.append((counts - len(members) / candidates) / np.sqrt(len(members)))
        return np.concatenate(parts, 1)


class _Pairs:
    """Columns of what decisions that follow each other are together: products of their centred one-hot codes.

    Centred, so that they tell nothing that a sum over decisions could.  A space that would need more than `PAIRED` columns has
    none.

    Args:
        offered: how many candidates each decision has; one without a choice, or of any number, is passed over.
    """

    def __init__(self, offered: Sequence[int]) -> None:
        at = [index for index, count in enumerate(offered) if count > 1]
        neighbours = list(itertools.pairwise(at))
        self.width = sum((offered[one] - 1) * (offered[other] - 1) for one, other in neighbours)
        if self.width > PAIRED:
            neighbours, self.width = [], 0
        shapes: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for one, other in neighbours:
            shapes.setdefault((offered[one], offered[other]), []).append((one, other))
        # Pairs of as many candidates have one table.
        self._alike = [
            (np.array(members).T.copy(), second, np.kron(_simplex(first), _simplex(second)) / np.sqrt(len(neighbours)))
            for (first, second), members in shapes.items()
        ]

    def __call__(self, index: NDArray[np.intp], active: NDArray[np.bool_]) -> Floats:
        """(n, width) columns; zeros where either is inactive."""
        parts: list[Floats] = []
        for (ones, others), second, table in self._alike:
            codes = table.take(index[:, ones] * second + index[:, others], 0)
            if not active.all():
                codes *= (active[:, ones] & active[:, others])[:, :, None]
            parts.append(codes.reshape(len(index), codes.shape[1] * codes.shape[2]))
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([np.zeros((len(index), 0)), *parts], 1)


def _simplex(count: int) -> Floats:
    """(K, K - 1) corners of a regular simplex: centred one-hot codes of length 1."""
    corners: Floats = scipy.linalg.helmert(count).T * np.sqrt(count / (count - 1))
    return corners


def _codes(candidates: Sequence[object]) -> Floats:
    """(K, columns) codes of the candidates of one decision."""
    count = len(candidates)
    if count > 1 and all(isinstance(one, int | float) and not isinstance(one, bool) for one in candidates):
        order = np.argsort(np.argsort([float(str(one)) for one in candidates], kind="stable"))
        steps: Floats = (order[:, None] > np.arange(count - 1)[None]) / np.sqrt(count - 1)
        return steps
    onehot: Floats = np.eye(count) / np.sqrt(2)
    return onehot
