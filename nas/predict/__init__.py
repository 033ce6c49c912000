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

from typing import TYPE_CHECKING

from nas import lazy

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
    "Encoding": "nas.predict.encoding",
    "Learned": "nas.predict.learned",
    "LookUp": "nas.predict.lookup",
    **dict.fromkeys(("Part", "parts"), "nas.predict.pieces"),
    **dict.fromkeys(("Packed", "Predictor"), "nas.predict.predictor"),
    "KINDS": "nas.predict.regressors",
    **dict.fromkeys(("held_out", "scores"), "nas.predict.scoring"),
    **dict.fromkeys(("FewShot", "Known", "choose"), "nas.predict.transfer"),
}

if not TYPE_CHECKING:
    __getattr__ = lazy.names(__name__, _HOME)
