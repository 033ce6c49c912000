"""How alike an untrained student and an untrained teacher are.

Dong et al. 2023, "DisWOT: Student Architecture Search for Distillation WithOut Training".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.errors import EvaluationError
from nas.proxies.probe import Probe, classified, feature_map, gradients, hooked, untouched
from nas.supernet.inputs import call


def diswot(probe: Probe) -> float:
    """−(relation distance + semantic distance) to the teacher: 0 for the teacher itself, less the more they differ.

    Relations: ‖Gₛ − Gₜ‖² / n, G the samples' Gram matrix of the features before pooling, its rows of length 1.  Semantics:
    the same of the classes' Gram matrix of the gradient of the classifier's weights: which classes a network would tell apart
    by the same channels.  Neither needs equal widths, and both are 0 to 4.

    Two things differ from the paper.  Each distance is divided by its rows, not by their square: with fewer classes than samples
    the semantic one would outweigh the other many times over.  And the gradient is that of a classifier whose weights are zero:
    with random ones it depends on them more than on the network, and repeats itself in no second initialisation.

    Raises:
        EvaluationError: there is no teacher, a network has no linear layer, or the classes differ in number.
    """
    if probe.teacher is None:
        raise EvaluationError("diswot compares with a teacher; give one")
    pairs = [_grams(probe, probe.module), _grams(probe, probe.teacher)]
    distance = 0.0
    for student, teacher in zip(*pairs, strict=True):
        if student.shape != teacher.shape:
            raise EvaluationError(
                f"student and teacher tell {len(student)} and {len(teacher)} classes apart; diswot needs equally many"
            )
        distance += float((student - teacher).square().sum()) / len(student)
    return 0.0 - distance


def _grams(probe: Probe, module: nn.Module) -> tuple[Tensor, Tensor]:
    """(n, n) of the samples and (classes, classes) of the classifier, rows of length 1."""
    inputs = probe.batch.inputs
    with untouched(module):
        with torch.no_grad():
            features = feature_map(module, inputs)
            classifier = classified(module, inputs)[2]
        blank = torch.zeros_like(classifier.weight, requires_grad=True)

        def ignorant(_: nn.Module, arguments: tuple[Tensor, ...], __: Tensor) -> Tensor:
            return functional.linear(arguments[0], blank)

        with hooked(module, lambda one: one is classifier, ignorant):
            loss = probe.task.loss(call(module, inputs), probe.batch)
        gradient = gradients(loss, [blank])[0]
    return _gram(features.flatten(1)), _gram(gradient)


def _gram(rows: Tensor) -> Tensor:
    rows = rows.detach().double()
    return functional.normalize(rows @ rows.T, dim=1)
