"""A predictor learned from whole archs: features, and a regressor that cross-validation prefers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.checking import checked
from nas.errors import PredictorError
from nas.predict.encoding import Encoding
from nas.predict.predictor import Floats, Predictor
from nas.predict.regressors import REGRESSORS, Regressor, regressor
from nas.predict.scoring import held_out, scores

if TYPE_CHECKING:
    from nas.space import Arch, Space
    from nas.supernet.inputs import Inputs


class Learned(Predictor):
    """Regression on features of archs.

    `errors` are of cross-validation with five parts: of archs that the model which predicted them had not seen.  With "auto"
    the regressor was chosen by them, so that they flatter a little.

    Args:
        space: of the archs.
        device: name, for messages and the store.
        regressor: "ridge", "gp", "gbdt", "mlp", or "auto": the one with the smallest held-out error.
        features: kinds of `Encoding`, "onehot+structure".
        example: inputs that the models take, for features of kind "structure".

    Raises:
        PredictorError: an argument is not usable.
    """

    kind = "learned"
    least = 5

    @checked(PredictorError)
    def __init__(
        self,
        space: Space,
        device: str = "",
        *,
        regressor: str = "auto",
        features: str = "onehot",
        example: Inputs | None = None,
    ) -> None:
        super().__init__(space, device)
        if regressor != "auto":
            _class(regressor)
        self.wanted = regressor
        self.encoding = Encoding(space, features, example=example)
        self.inputs = self.encoding.inputs
        self.tried: dict[str, float] = {}
        """Held-out error (MAPE) of each regressor that was tried."""

    @property
    def regressor(self) -> str:
        """The regressor in use, once it is fitted."""
        return self._model.kind

    def _fit(self, archs: Sequence[Arch], ms: Floats) -> None:
        x = self.encoding(archs)
        kinds = list(REGRESSORS) if self.wanted == "auto" else [self.wanted]
        trials = {kind: held_out(len(ms), partial(_predict_part, kind, x, ms)) for kind in kinds}
        found = {kind: scores(ms, predicted) for kind, predicted in trials.items()}
        self.tried = {kind: each["mape"] for kind, each in found.items()}
        best = min(self.tried, key=lambda kind: self.tried[kind])
        self.errors = {**found[best], "archs": float(len(ms))}
        self._scale, self._shift, self._width = _scales(x, ms)
        self._model = _class(best)().fit((x - self._shift) / self._width, ms / self._scale)
        self._least_ms = float(ms.min()) / 10

    def _predict(self, archs: Sequence[Arch]) -> tuple[Floats, Floats]:
        x = (self.encoding(archs) - self._shift) / self._width
        value, spread = self._model.predict(x)
        return np.maximum(value * self._scale, self._least_ms), spread * self._scale

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        state = {
            "regressor": self._model.kind,
            "tried": self.tried,
            "encoding": self.encoding.state(),
            "scale": self._scale,
            "least_ms": self._least_ms,
        }
        arrays = {f"model.{name}": array for name, array in self._model.arrays().items()}
        return state, {**arrays, "shift": self._shift, "width": self._width}

    @classmethod
    def _restore(
        cls, space: Space, device: str, state: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Learned:
        one = cls(space, device, regressor=state["regressor"])
        one.encoding = Encoding.restore(space, state["encoding"])
        one.tried, one._scale, one._least_ms = dict(state["tried"]), state["scale"], state["least_ms"]
        one._shift, one._width = arrays["shift"], arrays["width"]
        own = {name.removeprefix("model."): array for name, array in arrays.items() if name.startswith("model.")}
        one._model = _class(state["regressor"]).restore(own)
        return one


def _class(kind: str) -> type[Regressor]:
    return regressor(kind)


def _scales(x: Floats, ms: Floats) -> tuple[float, Floats, Floats]:
    """Mean latency, and mean and spread of the features; a constant feature is divided by one."""
    width = x.std(0)
    return float(ms.mean()), x.mean(0), np.where(width > 1e-12 * np.abs(x).max(0, initial=1.0), width, 1.0)


def _predict_part(kind: str, x: Floats, ms: Floats, train: NDArray[np.intp], test: NDArray[np.intp]) -> Floats:
    """Predictions of `test` by a model fitted to `train` alone, scales included."""
    if len(train) < 2:
        raise PredictorError("a predictor needs two measurements beside those held out")
    scale, shift, width = _scales(x[train], ms[train])
    model = _class(kind)().fit((x[train] - shift) / width, ms[train] / scale)
    return np.maximum(model.values((x[test] - shift) / width) * scale, float(ms[train].min()) / 10)
