"""Predictors of what a device takes for an arch: fitted to some measurements, asked about archs that were not measured.

    predictor = Learned(space, device="cpu").fit(archs, ms)
    value, spread = predictor.predict(others)      # milliseconds, and one standard deviation of the prediction

- `Predictor`: the interface; `save` and `load` (JSON and arrays, nothing is unpickled), `pack` and `unpack` for the store.
- `Learned`: ridge, Gaussian process, boosted trees or a small perceptron on features of archs; "auto" takes the one that
  cross-validation prefers.
- `LookUp`: the sum of a model's parts from a table; a part that was never measured is an error that names the command.
- `FewShot`: a new device from ten measurements and every device that is known; `choose` says which archs to measure.
- `Encoding`: archs as numbers. `scores`: errors and rank correlation of predictions.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.predict.encoding import Encoding
    from nas.predict.learned import Learned
    from nas.predict.lookup import LookUp
    from nas.predict.pieces import Part, parts
    from nas.predict.predictor import Packed, Predictor
    from nas.predict.regressors import KINDS
    from nas.predict.scoring import held_out, scores
    from nas.predict.transfer import FewShot, Known, choose

__all__ = [
    "KINDS",
    "Encoding",
    "FewShot",
    "Known",
    "Learned",
    "LookUp",
    "Packed",
    "Part",
    "Predictor",
    "choose",
    "held_out",
    "parts",
    "scores",
]

_HOME = {
    "Encoding": "encoding",
    "Learned": "learned",
    "LookUp": "lookup",
    "Part": "pieces",
    "parts": "pieces",
    "Packed": "predictor",
    "Predictor": "predictor",
    "KINDS": "regressors",
    "held_out": "scoring",
    "scores": "scoring",
    "FewShot": "transfer",
    "Known": "transfer",
    "choose": "transfer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nas.predict' has no attribute {name!r}")
    return getattr(importlib.import_module(f"nas.predict.{_HOME[name]}"), name)
