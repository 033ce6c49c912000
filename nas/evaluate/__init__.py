"""Evaluators: from an arch to measurements.

An evaluator is any callable that maps an arch to named numbers: `lambda arch: {"params": 10}` is one.  It may say more
about itself with attributes: `metrics` (the names it yields), `cost` ("cheap" runs before "dear", the default),
`exclusive` (True: nothing else of ours runs on the machine meanwhile), `check(space)` (raises what is missing before
workers are started), `describe()` (JSON-able: a study is resumed with the same), `progress(arch)` (measurements after each
epoch that has finished: the study keeps them as curves) and `each_epoch(arch)` (the same, one after the other as they are
made: a scheduler may stop in between).  `Evaluation` makes one of several.

Evaluators travel to workers by pickle and hold no tensors: weights are a path and a hash, data a recipe.

Composing:  Evaluator, Evaluation, checked
Sharing:    Once (one evaluation for all archs that compute the same), Function (names what an arch computes; imports torch)
Predicted:  Predicted (latency from a fitted predictor: cheap)
Trained:    Trained (candidates trained by themselves or distilled, epoch by epoch; imports torch)
Subnets:    Accuracy, Costs, Latency, Weights, one_sample (these import torch, when they are first used)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas import lazy
from nas.evaluate.compose import Evaluation, Evaluator, checked
from nas.evaluate.once import Once

if TYPE_CHECKING:
    from nas.evaluate.functional import Function
    from nas.evaluate.predicted import Predicted
    from nas.evaluate.subnets import Accuracy, Costs, Latency, Weights, one_sample
    from nas.evaluate.trained import Trained

__all__ = [
    "Accuracy",
    "Costs",
    "Evaluation",
    "Evaluator",
    "Function",
    "Latency",
    "Once",
    "Predicted",
    "Trained",
    "Weights",
    "checked",
    "one_sample",
]

_HOME = {
    "Function": "nas.evaluate.functional",
    "Predicted": "nas.evaluate.predicted",
    "Trained": "nas.evaluate.trained",
    **dict.fromkeys(("Accuracy", "Costs", "Latency", "Weights", "one_sample"), "nas.evaluate.subnets"),
}

if not TYPE_CHECKING:
    __getattr__ = lazy.names(__name__, _HOME)
