from __future__ import annotations

import sys

import numpy as np
import pytest

from nas.errors import PredictorError
from nas.predict import KINDS, Encoding, Learned, Predictor
from nas.predict.encoding import label_counts
from nas.predict.regressors import BoostedTrees, GaussianProcess, Ridge
from tests.conformance.predictor import EXAMPLE, PredictorConformance, archs, space, truth


class TestRidge(PredictorConformance):
    def make(self) -> Predictor:
        return Learned(space(), "toy-cpu", regressor="ridge", features="onehot+structure", example=EXAMPLE)


class TestGaussianProcess(PredictorConformance):
    good = 0.02

    def make(self) -> Predictor:
        return Learned(space(), "toy-cpu", regressor="gp", features="structure", example=EXAMPLE)


class TestTrees(PredictorConformance):
    def make(self) -> Predictor:
        return Learned(space(), "toy-cpu", regressor="gbdt", features="ordinal")


class TestPerceptron(PredictorConformance):
    good = 0.1

    def make(self) -> Predictor:
        return Learned(space(), "toy-cpu", regressor="mlp", features="ordinal")


def test_auto_takes_the_smallest_held_out_error() -> None:
    some = archs(40, 1)
    one = Learned(space(), features="structure", example=EXAMPLE).fit(some, [truth(arch) for arch in some])
    assert set(one.tried) == set(KINDS) - {"auto"}
    assert one.regressor == min(one.tried, key=lambda kind: one.tried[kind])
    assert one.errors["mape"] == one.tried[one.regressor]


def test_ridge_leaves_one_out_exactly() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 3)), 1.0 + rng.random(12)

    def error(penalty: float) -> float:
        """The slow way: fit twelve times."""
        residuals = []
        for left in range(12):
            keep = np.arange(12) != left
            a = np.concatenate([np.ones((12, 1)), x], axis=1) / y[:, None]
            weights = np.linalg.solve(
                a[keep].T @ a[keep] + penalty * np.diag([0.0, 1.0, 1.0, 1.0]), a[keep].T @ np.ones(11)
            )
            residuals.append(1.0 - a[left] @ weights)
        return float(np.mean(np.square(residuals)))

    assert Ridge().fit(x, y).spread ** 2 == pytest.approx(min(map(error, Ridge.PENALTIES)), rel=1e-6)


def test_ridge_with_more_features_than_samples_falls_back_to_the_mean() -> None:
    rng = np.random.default_rng(0)
    one = Ridge().fit(rng.normal(size=(6, 60)), 1.0 + 0.01 * rng.random(6))
    assert one.predict(rng.normal(size=(50, 60)))[0] == pytest.approx(np.ones(50), abs=0.1)


def test_a_process_is_certain_where_it_measured() -> None:
    x = np.linspace(0, 1, 12)[:, None]
    one = GaussianProcess().fit(x, 1.0 + x[:, 0])
    value, spread = one.predict(np.array([[0.5], [6.0]]))
    assert value[0] == pytest.approx(1.5, rel=0.01)
    assert spread[1] > 2 * spread[0]


def test_trees_need_no_lightgbm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)  # importing it fails
    x = np.arange(60.0)[:, None]
    one = BoostedTrees().fit(x, 1.0 + x[:, 0])
    assert type(one._model).__name__ == "HistGradientBoostingRegressor"
    assert one.predict(x)[0][10:] == pytest.approx(1.0 + x[10:, 0], rel=0.2)


def test_counts_add_decisions_of_equal_candidates_and_their_products() -> None:
    some = archs(5, 1)
    sums = label_counts(space(), some)
    assert (sums == space().features(some, "onehot")).all()  # no two decisions of this space have equal candidates
    assert Encoding(space(), "counts")(some).shape == (5, 19 + 19 * 20 // 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"regressor": "gpp"}, "regressor 'gpp' is not known; did you mean 'gp'"),
        ({"features": "onehott"}, "features of kind 'onehott' are not known; did you mean 'onehot'"),
        ({"features": "structure"}, "need inputs to run the models with; give example="),
    ],
)
def test_a_wrong_option_is_one_sentence(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(PredictorError, match=message):
        Learned(space(), **arguments)  # type: ignore[arg-type]


def test_a_kernel_that_was_never_measured_is_no_silent_zero() -> None:
    encoding = Encoding(space(), "structure", example=EXAMPLE, columns=("conv2d k3",))
    with pytest.raises(
        PredictorError, match=r"parts of kind 'linear', which no measured arch has \(they have conv2d k3\)"
    ):
        encoding(archs(1, 1))
