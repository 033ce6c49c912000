"""Evaluators: from an arch to measurements.

An evaluator is an `Evaluator`, which declares what a study may ask it, or any callable that maps an arch to named numbers:
`lambda arch: {"params": 10}` is one.  A callable may have the same attributes and methods as the class; one adapter reads them
(`nas.evaluate.base`), everything else reads an `Evaluator`.  `evaluator` makes one of a function of a network.

Evaluators travel to workers by pickle and hold no tensors: weights are a path and a hash, data a recipe.

Composing:  Evaluator, Evaluation, checked
Choosing:   Gated (asked only where earlier measurements are good enough)
Sharing:    Once (one evaluation for all archs that compute the same), Function (names what an arch computes; imports torch)
Predicted:  Predicted (latency from a fitted predictor: cheap)
Networks:   evaluator (a function of the trained, calibrated subnet; imports torch)
Trained:    Trained (candidates trained by themselves or distilled, epoch by epoch; imports torch)
Subnets:    Accuracy, Costs, Latency, Weights, one_sample (these import torch, when they are first used)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas import lazy
from nas.evaluate.base import Evaluator
from nas.evaluate.compose import Evaluation, checked
from nas.evaluate.gated import Gated
from nas.evaluate.once import Once

if TYPE_CHECKING:
    from nas.evaluate.functional import Function
    from nas.evaluate.network import evaluator
    from nas.evaluate.predicted import Predicted
    from nas.evaluate.subnets import Accuracy, Costs, Latency, Weights, one_sample
    from nas.evaluate.trained import Trained

__all__ = [
    "Accuracy",
    "Costs",
    "Evaluation",
    "Evaluator",
    "Function",
    "Gated",
    "Latency",
    "Once",
    "Predicted",
    "Trained",
    "Weights",
    "checked",
    "evaluator",
    "one_sample",
]

_HOME = {
    "Function": "nas.evaluate.functional",
    "Predicted": "nas.evaluate.predicted",
    "evaluator": "nas.evaluate.network",
    "Trained": "nas.evaluate.trained",
    **dict.fromkeys(("Accuracy", "Costs", "Latency", "Weights", "one_sample"), "nas.evaluate.subnets"),
}

if not TYPE_CHECKING:
    __getattr__ = lazy.names(__name__, _HOME)
