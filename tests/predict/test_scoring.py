from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from nas.errors import PredictorError
from nas.predict import held_out, scores
from nas.predict.scoring import spearman


def test_scores_of_a_small_example() -> None:
    found = scores(np.array([1.0, 2.0, 4.0]), np.array([1.1, 2.0, 2.0]))
    assert found["mape"] == pytest.approx((0.1 + 0.0 + 0.5) / 3)
    assert found["within10"] == pytest.approx(2 / 3)
    assert found["spearman"] == pytest.approx(0.8660254)  # ranks 1, 2.5, 2.5 against 1, 2, 3


def test_spearman_is_scipys_with_ties() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 6, (2, 30)).astype(float)
        assert spearman(a, b) == pytest.approx(spearmanr(a, b)[0])
    assert spearman(np.ones(4), np.arange(4.0)) == 0.0


def test_nobody_predicts_what_he_was_fitted_to() -> None:
    seen: list[int] = []

    def predict(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        assert not set(train) & set(test)
        assert len(train) + len(test) == 13
        seen.extend(test)
        return test.astype(float)

    assert (held_out(13, predict) == np.arange(13)).all()
    assert sorted(seen) == list(range(13))


@pytest.mark.parametrize(
    ("measured", "predicted", "message"),
    [
        ([1.0], [1.0], "give two or more"),
        ([1.0, 2.0], [1.0], "as many of both"),
        ([1.0, 0.0], [1.0, 1.0], "must be positive"),
        ([1.0, 2.0], [1.0, float("nan")], "finite"),
    ],
)
def test_unusable_numbers_are_one_sentence(measured: list[float], predicted: list[float], message: str) -> None:
    with pytest.raises(PredictorError, match=message):
        scores(np.array(measured), np.array(predicted))
