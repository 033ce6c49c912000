from __future__ import annotations

import doctest

import numpy as np
import pytest

from nas import retrieval
from nas.errors import EvaluationError
from nas.retrieval import Found, Index, nearest_accuracy, recall


def table(rows: int, seed: int = 0, dim: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


def slow(items: np.ndarray, query: np.ndarray, k: int, dim: int) -> list[int]:
    """Cosine similarities one by one, sorted."""

    def cosine(item: np.ndarray) -> float:
        a, b = item[:dim].astype(np.float64), query[:dim].astype(np.float64)
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    return sorted(range(len(items)), key=lambda row: -cosine(items[row]))[:k]


@pytest.mark.parametrize("dim", [2, 3, 8])
def test_search_equals_its_definition(dim: int) -> None:
    items, queries = table(50), table(300, 1)
    found = Index(items).search(queries, 5, dim=dim)
    assert found.items.shape == (len(queries), 5)
    assert [list(row) for row in found.items] == [slow(items, query, 5, dim) for query in queries]
    assert (np.diff(found.scores, axis=1) <= 0).all()


def test_a_shortlist_ranks_again_what_the_prefix_left() -> None:
    items, queries = table(60), table(20, 1)
    found = Index(items).search(queries, 3, shortlists=[(2, 20), (4, 10)])
    for query, answer in zip(queries, found.items, strict=True):
        first = slow(items, query, 20, 2)
        second = [first[row] for row in slow(items[first], query, 10, 4)]
        assert list(answer) == [second[row] for row in slow(items[second], query, 3, 8)]


def test_the_cost_is_what_each_stage_scores() -> None:
    index, queries = Index(table(60)), table(2, 1)
    assert index.search(queries, 3).macs == 60 * 8
    assert index.search(queries, 3, dim=4).macs == 60 * 4
    assert index.search(queries, 3, shortlists=[(2, 20), (4, 10)]).macs == 60 * 2 + 20 * 4 + 10 * 8


def test_a_shortlist_of_everything_finds_what_the_whole_search_finds() -> None:
    index, queries = Index(table(60)), table(20, 1)
    whole = index.search(queries, 5)
    assert recall(index.search(queries, 5, shortlists=[(2, 60)]), whole) == 1.0
    assert recall(index.search(queries, 5, dim=2), whole) < 1.0
    assert recall(Found(np.array([[1, 2]]), whole.scores, 0), Found(np.array([[2, 3]]), whole.scores, 0)) == 0.5


def test_equal_items_are_found_in_order_and_zeros_do_no_harm() -> None:
    items = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    found = Index(items).search([[3.0, 0.0], [0.0, 0.0]], 4)
    assert list(found.items[0][:2]) == [0, 1]
    assert np.isfinite(found.scores).all()


def test_nearest_accuracy_counts_the_right_labels() -> None:
    items, queries = [[1.0, 0.0, 5.0], [0.0, 1.0, -5.0]], [[2.0, 0.1, -9.0], [0.1, 2.0, -9.0], [1.0, 0.0, 1.0]]
    assert nearest_accuracy(items, [0, 1], queries, [0, 1, 1], dim=2) == pytest.approx(2 / 3)
    assert nearest_accuracy(items, [0, 1], queries, [0, 1, 1]) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda i: i.search(table(1), dim=9), "a prefix of 9 does not fit an embedding of 8; choose 1 to 8"),
        (lambda i: i.search(table(1), 61), "61 items are wanted of 60; choose 1 to 60"),
        (lambda i: i.search(table(1), 5, shortlists=[(2, 4)]), "5 items are wanted of 4"),
        (lambda i: i.search(table(1), 5, dim=2, shortlists=[(4, 9)]), "a stage of prefix 2 comes after one of 4"),
        (lambda i: i.search(table(1, dim=4)), "queries have 4 numbers and the indexed embeddings 8"),
        (lambda _: Index([1.0, 2.0]), r"embeddings of shape \(2,\) are no table"),
        (lambda _: Index([[float("nan")]]), "no table of finite numbers"),
        (lambda _: Index(table(0)), "embeddings hold no item"),
        (lambda _: nearest_accuracy(table(3), [0, 1], table(2), [0, 1]), "2 labels do not fit 3 items"),
        (lambda i: recall(i.search(table(1)), i.search(table(2))), "1 answers are compared with 2"),
        (lambda i: recall(i.search(table(0)), i.search(table(0))), "no query"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(act: object, sentence: str) -> None:
    with pytest.raises(EvaluationError, match=sentence):
        act(Index(table(60)))  # type: ignore[operator]


def test_examples_in_the_docstrings() -> None:
    failed, tried = doctest.testmod(retrieval)
    assert tried
    assert not failed
