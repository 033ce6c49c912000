"""Many candidates of a space at a time, as rows of genes: where decisions are plain, a proposal costs no loop over archs."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from nas.space import Arch, Space

Floats = NDArray[np.float64]
Genes = NDArray[np.float64]
"""(n, decisions): index of a candidate, or a float; NaN where a decision is inactive."""


def genes_of(archs: Sequence[Arch], decisions: int) -> Genes:
    """The rows of some archs."""
    return np.array([arch.genome for arch in archs], dtype=np.float64).reshape(len(archs), decisions)


class Breeding:
    """Draws, mutates and crosses rows as the space does archs.

    Args:
        space: what the rows are archs of.
        seed: names the sequence of random numbers.
    """

    def __init__(self, space: Space, seed: str) -> None:
        self._space, self._rng = space, random.Random(seed)
        self._draws = np.random.default_rng(self._rng.getrandbits(64))
        plain = space.plain
        self._plain = None if plain is None else np.array(plain, dtype=np.int64)
        self._movable = np.flatnonzero(self._plain > 1) if self._plain is not None else np.zeros(0, dtype=np.int64)

    def sample(self, count: int) -> Genes:
        """(count, d) from anywhere."""
        if self._plain is None:
            return self._rows(self._space.sample(self._rng) for _ in range(count))
        return np.floor(self._draws.random((count, len(self._plain))) * self._plain)

    def pick(self, genes: Genes, count: int) -> Genes:
        """(count, d) of the rows, any of them more than once."""
        return genes[self._draws.integers(len(genes), size=count)]

    def mutate(self, genes: Genes) -> Genes:
        """Each row with one of its active decisions changed."""
        if self._plain is None:
            return self._rows(self._space.mutate(arch, self._rng) for arch in self.archs(genes))
        changed = genes.copy()
        if len(self._movable):
            rows, at = np.arange(len(genes)), self._movable[self._draws.integers(len(self._movable), size=len(genes))]
            step = 1 + np.floor(self._draws.random(len(genes)) * (self._plain[at] - 1))
            changed[rows, at] = (changed[rows, at] + step) % self._plain[at]
        return changed

    def cross(self, left: Genes, right: Genes) -> Genes:
        """Each decision of a row from `left` or from `right`."""
        if self._plain is None:
            pairs = zip(self.archs(left), self.archs(right), strict=True)
            return self._rows(self._space.crossover(one, other, self._rng) for one, other in pairs)
        return np.where(self._draws.random(left.shape) < 0.5, left, right)

    def archs(self, genes: Genes) -> list[Arch]:
        """The archs of rows."""
        if self._plain is not None:
            return self._space.rows_to_archs(genes.astype(np.int64).tolist())
        real = [decision.point.range is not None for decision in self._space.decisions]
        rows = ([_gene(gene, here) for gene, here in zip(row, real, strict=True)] for row in genes.tolist())
        return self._space.rows_to_archs(rows)

    def _rows(self, archs: Iterable[Arch]) -> Genes:
        return genes_of(list(archs), len(self._space.decisions))


def unlike(genes: Genes, others: Genes) -> NDArray[np.intp]:
    """Which rows are neither in `others` nor equal to an earlier one, ascending."""
    rows = np.concatenate([others, genes])
    bits = np.ascontiguousarray(np.where(np.isnan(rows), -1.0, rows)).view(np.uint64)
    # A whole number that wraps around for each row: equal rows have equal ones wherever they stand.  Genes differ in their
    # highest bits, and multiplication carries upwards only.
    odd = np.random.default_rng(0).integers(2**63, size=rows.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    mixed = (bits ^ (bits >> np.uint64(32))) * odd
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
    first = np.unique(mixed.sum(1), return_index=True)[1]
    return np.sort(first[first >= len(others)]) - len(others)


def _gene(gene: float, real: bool) -> int | float | None:
    return None if math.isnan(gene) else gene if real else int(gene)
