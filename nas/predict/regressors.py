"""Regression on few samples, each method with a spread and a state of JSON and arrays.

All take features that are standardised and targets with a mean of one; `Learned` sees to both.  Errors count relative to
the target where the method can weigh samples: 1 ms matters more in 5 than in 50.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from nas.errors import PredictorError, suggest

Floats = NDArray[np.float64]
Arrays = Mapping[str, NDArray[Any]]
_FLOOR = 1e-6


class Regressor(ABC):
    """`fit` once, `predict` often; deterministic."""

    kind: ClassVar[str]

    @abstractmethod
    def fit(self, x: Floats, y: Floats) -> Self:
        """Learn from (n, d) features and (n,) targets, n of 2 or more."""

    @abstractmethod
    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """(m,) values and (m,) standard deviations, the latter positive."""

    def values(self, x: Floats) -> Floats:
        """(m,) values alone, where that is less work."""
        return self.predict(x)[0]

    @abstractmethod
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What `restore` needs."""

    @classmethod
    @abstractmethod
    def restore(cls, arrays: Arrays) -> Regressor:
        """The reverse of `arrays`."""


class Ridge(Regressor):
    """Linear with a penalty chosen by leaving one out, samples weighted by 1 / target².

    The left-one-out residuals are exact (Allen 1974, "The relationship between variable selection and data augmentation"):
    residual / (1 - leverage).  They also give the spread, relative to the value.
    """

    kind = "ridge"
    PENALTIES = tuple(10.0**exponent for exponent in np.arange(-4.0, 4.1, 0.5))

    def fit(self, x: Floats, y: Floats) -> Self:
        """As the interface says."""
        weights = 1.0 / np.maximum(np.abs(y), _FLOOR)
        share = weights**2 / (weights**2).sum()  # the constant is not penalised: its own leverage
        middle, level = share @ x, float(share @ y)
        a, b = (x - middle) * weights[:, None], (y - level) * weights
        best: tuple[float, Floats] | None = None
        u, s, vt = np.linalg.svd(a, full_matrices=False)
        projected = u.T @ b
        for penalty in self.PENALTIES:
            shrink = s**2 / (s**2 + penalty)
            leverage = np.minimum(((u**2) * shrink).sum(1) + share, 1.0 - 1e-9)
            error = float((((b - u @ (shrink * projected)) / (1.0 - leverage)) ** 2).mean())
            if best is None or error < best[0] * (1 - 1e-9):
                slopes = vt.T @ (s / (s**2 + penalty) * projected)
                best = (error, np.concatenate([[level - middle @ slopes], slopes]))
        assert best is not None
        self.spread, self.weights = float(np.sqrt(best[0])), best[1]
        return self

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """As the interface says."""
        value = self.weights[0] + x @ self.weights[1:]
        return value, np.maximum(self.spread * np.abs(value), _FLOOR)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As the interface says."""
        return {"weights": self.weights, "spread": np.array(self.spread)}

    @classmethod
    def restore(cls, arrays: Arrays) -> Ridge:
        """As the interface says."""
        one = cls()
        one.weights, one.spread = arrays["weights"], float(arrays["spread"])
        return one


class GaussianProcess(Regressor):
    """A linear kernel and a Matérn 5/2 kernel, with noise; hyperparameters by marginal likelihood.

    Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", chapters 2 and 5.  Costs n³: above 1,000 samples a
    random 1,000 are used.
    """

    kind = "gp"
    MOST = 1000

    def __init__(self, theta: Floats | None = None) -> None:
        self.theta = theta

    def fit(self, x: Floats, y: Floats) -> Self:
        """As the interface says."""
        if len(x) > self.MOST:
            keep = np.random.default_rng(0).permutation(len(x))[: self.MOST]
            x, y = x[keep], y[keep]
        self.x, self.y = x, y
        self._process = _process(x.shape[1], self.theta)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a hyperparameter at its bound is an answer, too
            self._process.fit(x, y)
        self.theta = np.asarray(self._process.kernel_.theta)
        return self

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """As the interface says."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value, spread = self._process.predict(x, return_std=True)
        return np.asarray(value), np.maximum(np.asarray(spread), _FLOOR)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As the interface says."""
        assert self.theta is not None
        return {"theta": self.theta, "x": self.x, "y": self.y}

    @classmethod
    def restore(cls, arrays: Arrays) -> GaussianProcess:
        """As the interface says."""
        return cls(arrays["theta"]).fit(arrays["x"], arrays["y"])


def _process(dimensions: int, theta: Floats | None) -> Any:
    """sklearn's process; a given theta is kept as it is."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

    scale = float(np.sqrt(dimensions))
    kernel = (
        ConstantKernel(0.1 / dimensions, (1e-8, 1e2)) * DotProduct(scale, (1e-2, 1e4))
        + ConstantKernel(0.1, (1e-6, 1e2)) * Matern(2 * scale, (0.1 * scale, 1e3 * scale), nu=2.5)
        + WhiteKernel(1e-3, (1e-7, 1.0))
    )
    if theta is None:
        return GaussianProcessRegressor(kernel, random_state=0)
    return GaussianProcessRegressor(kernel.clone_with_theta(theta), optimizer=None)


class BoostedTrees(Regressor):
    """Gradient-boosted trees on the logarithm: LightGBM where it is installed (extra `gbdt`), else scikit-learn's.

    Kept as its training data and fitted again when it is loaded, with the same seed; a database may thus be read with another
    version of the library.  The spread is that of five models on resampled data.
    """

    kind = "gbdt"
    MODELS = 5

    def fit(self, x: Floats, y: Floats) -> Self:
        """As the interface says."""
        self.x, self.y = x, y
        self._resampled: list[Any] = []
        self._model = _boosted(x, self._logs())
        self._noise = float((self._logs() - self._model.predict(x)).std())
        return self

    def _logs(self) -> Floats:
        return np.log(np.maximum(self.y, _FLOOR))

    def values(self, x: Floats) -> Floats:
        """As the interface says; cross-validation, which asks for no spread, fits one model for each part."""
        return np.asarray(np.exp(self._model.predict(x)))

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """As the interface says."""
        if not self._resampled:
            rng, n, target = np.random.default_rng(0), len(self.x), self._logs()
            samples = (rng.integers(0, n, n) for _ in range(self.MODELS - 1))
            self._resampled = [_boosted(self.x[rows], target[rows]) for rows in samples]
        logs = np.stack([np.asarray(model.predict(x)) for model in (self._model, *self._resampled)])
        value = np.exp(logs[0])
        return value, np.maximum(value * np.sqrt(logs.var(0) + self._noise**2), _FLOOR)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As the interface says."""
        return {"x": self.x, "y": self.y}

    @classmethod
    def restore(cls, arrays: Arrays) -> BoostedTrees:
        """As the interface says."""
        return cls().fit(arrays["x"], arrays["y"])


def _boosted(x: Floats, y: Floats) -> Any:
    """One fitted model; leaves of few samples, because samples are few."""
    leaf = int(np.clip(len(x) // 20, 1, 20))
    try:
        from lightgbm import LGBMRegressor
    except ImportError:
        from sklearn.ensemble import HistGradientBoostingRegressor

        return HistGradientBoostingRegressor(
            max_iter=200, learning_rate=0.08, min_samples_leaf=leaf, random_state=0
        ).fit(x, y)
    model = LGBMRegressor(
        n_estimators=200,
        learning_rate=0.08,
        min_child_samples=leaf,
        num_leaves=15,
        n_jobs=1,
        random_state=0,
        verbose=-1,
    )
    model.fit(x, y)
    return model.booster_  # its predict does not ask for feature names


class Perceptron(Regressor):
    """Five small networks (two hidden layers of 32) on the logarithm, averaged; their disagreement is the spread."""

    kind = "mlp"
    NETWORKS = 5

    def fit(self, x: Floats, y: Floats) -> Self:
        """As the interface says."""
        from sklearn.neural_network import MLPRegressor

        target = np.log(np.maximum(y, _FLOOR))
        self.layers: list[list[tuple[Floats, Floats]]] = []
        for seed in range(self.NETWORKS):
            network = MLPRegressor(
                hidden_layer_sizes=(32, 32), solver="lbfgs", alpha=0.1, max_iter=300, random_state=seed
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # stopping at max_iter is meant
                network.fit(x, target)
            self.layers.append(list(zip(network.coefs_, network.intercepts_, strict=True)))
        self.noise = float((target - self._logs(x).mean(0)).std())
        return self

    def _logs(self, x: Floats) -> Floats:
        """(networks, n) outputs."""
        outputs = []
        for layers in self.layers:
            h = x
            for place, (weight, bias) in enumerate(layers):
                h = h @ weight + bias
                h = np.maximum(h, 0.0) if place < len(layers) - 1 else h
            outputs.append(h[:, 0])
        return np.stack(outputs)

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """As the interface says."""
        logs = self._logs(x)
        value = np.exp(np.clip(logs.mean(0), -20.0, 20.0))
        return value, np.maximum(value * np.sqrt(logs.var(0) + self.noise**2), _FLOOR)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As the interface says."""
        found: dict[str, NDArray[Any]] = {"noise": np.array(self.noise)}
        for network, layers in enumerate(self.layers):
            for place, (weight, bias) in enumerate(layers):
                found[f"w{network}.{place}"], found[f"b{network}.{place}"] = weight, bias
        return found

    @classmethod
    def restore(cls, arrays: Arrays) -> Perceptron:
        """As the interface says."""
        one = cls()
        one.noise = float(arrays["noise"])
        depth = sum(name.startswith("w0.") for name in arrays)
        one.layers = [
            [(arrays[f"w{network}.{place}"], arrays[f"b{network}.{place}"]) for place in range(depth)]
            for network in range(cls.NETWORKS)
        ]
        return one


REGRESSORS: dict[str, type[Regressor]] = {one.kind: one for one in (Ridge, GaussianProcess, BoostedTrees, Perceptron)}
KINDS = ("auto", *REGRESSORS)


def regressor(kind: str) -> type[Regressor]:
    """The class of that name.

    Raises:
        PredictorError: there is none.
    """
    if kind not in REGRESSORS:
        raise PredictorError(f"regressor {kind!r} is not known{suggest(kind, KINDS)}; it is {', '.join(KINDS)}")
    return REGRESSORS[kind]
