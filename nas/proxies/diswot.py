"""How alike an untrained student and an untrained teacher are.

Dong et al. 2023, "DisWOT: Student Architecture Search for Distillation WithOut Training".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.errors import EvaluationError
from nas.proxies.probe import Probe, classified, feature_map, gradients, untouched


def diswot(probe: Probe) -> float:
    """−(relation distance + semantic distance) to the teacher: 0 for the teacher itself, less the more they differ.

    Relations: ‖Gₛ − Gₜ‖² / n², G the samples' Gram matrix of the features before pooling, its rows of length 1.  Semantics:
    the same of the classes' Gram matrix of the gradient of the classifier's weights, over classes²: which classes a
    network would tell apart by the same channels.  Neither needs equal widths.

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
        distance += float((student - teacher).square().sum()) / len(student) ** 2
    return 0.0 - distance


def _grams(probe: Probe, module: nn.Module) -> tuple[Tensor, Tensor]:
    """(n, n) of the samples and (classes, classes) of the classifier, rows of length 1."""
    with untouched(module):
        with torch.no_grad():
            features = feature_map(module, probe.batch.inputs)
        _, output, classifier = classified(module, probe.batch.inputs)
        gradient = gradients(probe.task.loss(output, probe.batch), [classifier.weight])[0]
    return _gram(features.flatten(1)), _gram(gradient)


def _gram(rows: Tensor) -> Tensor:
    rows = rows.detach().double()
    return functional.normalize(rows @ rows.T, dim=1)
