"""Nearest neighbours by prefixes of embeddings: the whole, a prefix, or a short prefix first and a longer one for what is left.

A Matryoshka embedding is searched cheaply by its first numbers, and the few best are ranked again by more of them (Kusupati et
al. 2022, "adaptive retrieval"; several stages are their "funnel").  What a search costs is counted, not timed:
multiply-accumulates a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nas.errors import EvaluationError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
CHUNK = 256
"""Queries at a time."""


@dataclass(frozen=True)
class Found:
    """The answer to a search: for each query the items found, best first."""

    items: Ints
    """(queries, k) rows of the index."""
    scores: Floats
    """(queries, k) cosine similarities by the last prefix used."""
    macs: int
    """Multiply-accumulates of one query: n · m for a prefix of m numbers against n items; norms are known beforehand."""


class Index:
    """Embeddings to be searched by cosine similarity; ties go to the earlier item.

    Args:
        embeddings: (n, d) numbers; the whole and each prefix are normalised by their own length.

    Raises:
        EvaluationError: they are no table of finite numbers.
    """

    def __init__(self, embeddings: ArrayLike) -> None:
        self._items = _table(embeddings, "embeddings")
        if not len(self._items):
            raise EvaluationError("embeddings hold no item; give at least one row")
        self._squares = np.cumsum(np.square(self._items, dtype=np.float64), axis=1)

    @property
    def dim(self) -> int:
        """Length of the embeddings."""
        return int(self._items.shape[1])

    def __len__(self) -> int:
        """Number of items."""
        return len(self._items)

    def search(
        self, queries: ArrayLike, k: int = 1, *, dim: int | None = None, shortlists: Sequence[tuple[int, int]] = ()
    ) -> Found:
        """The `k` nearest items of each query.

        >>> Index([[1.0, 0.0], [0.6, 0.8]]).search([[0.5, 0.5]], dim=2, shortlists=[(1, 2)]).macs
        6

        Two items are scored by one number, and the two that stay by two: 2 · 1 + 2 · 2.

        Args:
            queries: (q, d) embeddings.
            k: items wanted.
            dim: prefix that ranks them in the end; None is the whole embedding.
            shortlists: (prefix, items that stay) of the stages before; lengths grow and items shrink.

        Raises:
            EvaluationError: a prefix is longer than the embedding, more items are wanted than there are, or a later stage is
                not finer than the one before.
        """
        asked = _table(queries, "queries")
        stages = [*shortlists, (self.dim if dim is None else dim, k)]
        self._check(asked, stages)
        kept = [self._rank(asked[start : start + CHUNK], stages) for start in range(0, len(asked), CHUNK)]
        items = np.concatenate([part for part, _ in kept]) if kept else np.empty((0, k), np.int64)
        scores = np.concatenate([part for _, part in kept]) if kept else np.empty((0, k), np.float32)
        candidates = [len(self), *(count for _, count in stages)]
        macs = sum(among * length for among, (length, _) in zip(candidates, stages, strict=False))
        return Found(items, scores, macs)

    def _check(self, asked: Floats, stages: Sequence[tuple[int, int]]) -> None:
        if asked.shape[1] != self.dim:
            raise EvaluationError(
                f"queries have {asked.shape[1]} numbers and the indexed embeddings {self.dim}; embed both with one model"
            )
        length, count = 0, len(self)
        for dim, keep in stages:
            if not 1 <= dim <= self.dim:
                raise EvaluationError(
                    f"a prefix of {dim} does not fit an embedding of {self.dim}; choose 1 to {self.dim}"
                )
            if not 1 <= keep <= count:
                raise EvaluationError(f"{keep} items are wanted of {count}; choose 1 to {count}")
            if dim < length:
                raise EvaluationError(f"a stage of prefix {dim} comes after one of {length}; put the shorter first")
            length, count = dim, keep

    def _rank(self, queries: Floats, stages: Sequence[tuple[int, int]]) -> tuple[Ints, Floats]:
        """Items and scores of a few queries, through all stages."""
        dim, keep = stages[0]
        scores = queries[:, :dim] @ self._items[:, :dim].T  # (q, n)
        kept, best = _best(self._cosine(scores, queries, dim), None, keep)
        for dim, keep in stages[1:]:
            scores = np.einsum("qd,qcd->qc", queries[:, :dim], self._items[kept, :dim])
            kept, best = _best(self._cosine(scores, queries, dim, kept), kept, keep)
        return kept, best

    def _cosine(self, products: Floats, queries: Floats, dim: int, kept: Ints | None = None) -> Floats:
        lengths = np.sqrt(self._squares[:, dim - 1])  # (n,)
        ours = lengths if kept is None else lengths[kept]
        theirs = np.sqrt(np.square(queries[:, :dim], dtype=np.float64).sum(1, keepdims=True))
        cosine: Floats = (products / np.maximum(ours * theirs, 1e-12)).astype(np.float32)
        return cosine


def nearest_accuracy(
    items: ArrayLike, item_labels: ArrayLike, queries: ArrayLike, query_labels: ArrayLike, *, dim: int | None = None
) -> float:
    """Fraction of the queries whose nearest item (cosine, by the first `dim` numbers) has their label.

    Raises:
        EvaluationError: as `Index.search`, or labels and embeddings differ in number.
    """
    index, asked = Index(items), _table(queries, "queries")
    theirs, ours = np.asarray(item_labels), np.asarray(query_labels)
    if len(theirs) != len(index) or len(ours) != len(asked):
        raise EvaluationError(
            f"{len(theirs)} labels do not fit {len(index)} items, or {len(ours)} labels {len(asked)} queries; give one each"
        )
    nearest = index.search(asked, dim=dim).items[:, 0]
    return float((theirs[nearest] == ours).mean())


def recall(found: Found, truth: Found) -> float:
    """Mean fraction of the items in `truth` that `found` has too.

    Raises:
        EvaluationError: they answer different numbers of queries.
    """
    if len(found.items) != len(truth.items):
        raise EvaluationError(
            f"{len(found.items)} answers are compared with {len(truth.items)}; search for the same queries"
        )
    if not truth.items.size:
        raise EvaluationError("there is no query to take the recall of")
    same = found.items[:, :, None] == truth.items[:, None, :]  # (q, found, truth)
    return float(same.any(1).mean())


def _best(scores: Floats, names: Ints | None, keep: int) -> tuple[Ints, Floats]:
    """The `keep` highest of each row, best first, and of equal ones the first."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :keep]
    best = np.take_along_axis(scores, order, 1)
    return (order if names is None else np.take_along_axis(names, order, 1)), best


def _table(values: ArrayLike, what: str) -> Floats:
    table = np.asarray(values, dtype=np.float32)
    if table.ndim != 2 or not table.shape[1] or not np.isfinite(table).all():
        raise EvaluationError(f"{what} of shape {table.shape} are no table of finite numbers; give one row an item")
    return table
