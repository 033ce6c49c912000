"""Metrics over a whole split, exact however it is cut into batches.

A meter makes one pass over a split.  What is a sum over samples is summed; what is none (R², F1, mean IoU) is computed from sums
that determine it; and what needs all outputs at once (average precision, recall of neighbours, a function of yours) keeps them on
the CPU until the pass is over.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nas.errors import EvaluationError, TrainError


class Meter(ABC):
    """One pass over a split."""

    @abstractmethod
    def add(self, scores: Any, targets: Any) -> None:
        """Takes a batch's outputs and targets."""

    @abstractmethod
    def result(self) -> dict[str, float]:
        """Metrics of all that was taken."""


class Mean(Meter):
    """Means, of which each batch gives its own and what it weighs."""

    def __init__(self, name: str, value: Callable[[Any, Any], Tensor], weight: Callable[[Any], float]) -> None:
        self.name, self.value, self.weight = name, value, weight
        self._total, self._weight = 0.0, 0.0

    def add(self, scores: Any, targets: Any) -> None:
        """Weighs the batch's mean."""
        weight = self.weight(targets)
        if weight:  # a batch without a target has no mean
            self._total += float(self.value(scores, targets)) * weight
            self._weight += weight

    def result(self) -> dict[str, float]:
        """Total by weight; NaN without any."""
        return {self.name: self._total / self._weight if self._weight else math.nan}


class Whole(Meter):
    """A function of all outputs and targets of the split, which are kept until then."""

    def __init__(self, name: str, function: Callable[[Any, Any], Any]) -> None:
        self.name, self.function = name, function
        self._kept: list[tuple[Any, Any]] = []

    def add(self, scores: Any, targets: Any) -> None:
        """Keeps them on the CPU."""
        self._kept.append((_kept(scores), _kept(targets)))

    def result(self) -> dict[str, float]:
        """The function's value, one number."""
        try:
            scores, targets = (_joined([pair[at] for pair in self._kept]) for at in (0, 1))
        except (RuntimeError, TypeError) as error:
            raise TrainError(
                f"metric {self.name!r} is computed over the whole split, and its batches' outputs cannot be joined ({error}); if "
                "it is a mean over samples, give nas.averaged(function)"
            ) from None
        return {self.name: float(self.function(scores, targets))}


class Errors(Meter):
    """Errors of numbers: `mse`, `rmse`, `mae`, `r2` of each output, averaged over outputs as scikit-learn does (uniform average).

    R² of constant targets is 1 where they are met and 0 where not, as in scikit-learn.
    """

    def __init__(self, names: tuple[str, ...] = ("rmse", "mae", "r2")) -> None:
        self.names = names
        self._count = 0
        self._sums: Tensor | None = None  # (4, outputs): |e|, e², mean of the targets, squares about it

    def add(self, scores: Any, targets: Any) -> None:
        """Sums in float64; squares of targets about their mean (Chan et al. 1979), so that nothing cancels."""
        truth = targets.detach().double().cpu().reshape(len(targets), -1)
        error = scores.detach().double().cpu().reshape(len(targets), -1) - truth
        count, mean = len(truth), truth.mean(0)
        squares = (truth - mean).square().sum(0)
        if self._sums is None:
            self._sums = torch.stack([error.abs().sum(0), error.square().sum(0), mean, squares])
        else:
            shift, total = mean - self._sums[2], self._count + count
            squares = squares + shift.square() * (self._count * count / total)
            self._sums += torch.stack([error.abs().sum(0), error.square().sum(0), shift * (count / total), squares])
        self._count += count

    def result(self) -> dict[str, float]:
        """Those that were asked for."""
        assert self._sums is not None
        absolute, square, _, spread = self._sums
        mse = square / self._count
        r2 = torch.where(spread > 0, 1 - square / spread, (square == 0).double())
        found = {"mse": mse, "rmse": mse.sqrt(), "mae": absolute / self._count, "r2": r2}
        return {name: float(found[name].mean()) for name in self.names}


class CalibrationError(Meter):
    """Expected calibration error: how far the probability of the predicted class is from how often it is right.

    Guo et al. 2017, "On Calibration of Modern Neural Networks": Σ_b (n_b / n) |accuracy_b − mean probability_b| over bins of
    equal width of the highest probability.  0 is calibrated; the sums determine it, however the split is cut.

    Args:
        bins: their number.
        ignore: targets that do not count.

    Raises:
        TrainError: a target has no output, there is one output alone, or the outputs of the split are probabilities.
    """

    def __init__(self, bins: int = 15, ignore: int | None = None) -> None:
        self.ignore = ignore
        self._logits = _Logits("calibration_error")
        self._sums = torch.zeros(3, bins, dtype=torch.float64)  # samples, those that are right, probability

    def add(self, scores: Any, targets: Any) -> None:
        """(…, classes) logits and (…,) classes."""
        rows, truth = scores.detach().flatten(0, -2), targets.flatten()
        if self.ignore is not None:
            counted = truth != self.ignore
            rows, truth = rows[counted], truth[counted]
        _check_classes(rows, truth)
        self._logits.look(rows)
        sure, predicted = torch.softmax(rows.double(), -1).max(-1)
        bins = self._sums.shape[1]
        # A bin has its upper end: (0, 1/bins], …, as the paper's.
        place = ((sure * bins).ceil().long() - 1).clamp(0, bins - 1)
        each = torch.stack([torch.ones_like(sure), (predicted == truth).double(), sure])
        self._sums.index_add_(1, place.cpu(), each.cpu())

    def result(self) -> dict[str, float]:
        """A fraction; NaN where no target counts."""
        self._logits.check()
        count, right, sure = self._sums
        total = float(count.sum())
        return {"calibration_error": float((right - sure).abs().sum()) / total if total else math.nan}


class Confusion(Meter):
    """How often each class was taken for each: `mean_iou`, `accuracy`, macro `f1`.

    Means over classes are over those that occur, in the targets or in what was predicted.

    Args:
        names: of the metrics; the one that is called "pixel_accuracy" is the accuracy.
        ignore: targets that do not count.

    Raises:
        TrainError: a target has no output, or there is one output alone.
    """

    def __init__(self, names: tuple[str, ...], ignore: int | None = None) -> None:
        self.names, self.ignore = names, ignore
        self._matrix: Tensor | None = None

    def add(self, scores: Any, targets: Any) -> None:
        """(…, classes) logits and (…,) classes."""
        classes = scores.shape[-1]
        predicted, truth = scores.detach().argmax(-1).flatten(), targets.flatten()
        if self.ignore is not None:
            counted = truth != self.ignore
            predicted, truth = predicted[counted], truth[counted]
        _check_classes(scores, truth)
        pairs = torch.bincount(truth.long() * classes + predicted, minlength=classes * classes).cpu()
        self._matrix = pairs if self._matrix is None else self._matrix + pairs

    def result(self) -> dict[str, float]:
        """Those that were asked for; NaN where no target counts."""
        assert self._matrix is not None
        size = math.isqrt(len(self._matrix))
        matrix = self._matrix.view(size, size).double()
        hits, truth, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
        there = truth + predicted > 0
        iou = (hits / (truth + predicted - hits))[there].mean()
        f1 = (2 * hits / (truth + predicted))[there].mean()
        right = hits.sum() / truth.sum()
        found = {"mean_iou": iou, "f1": f1, "accuracy": right, "pixel_accuracy": right}
        return {name: float(found[name]) for name in self.names}


def _check_classes(scores: Tensor, truth: Tensor) -> None:
    """Refuse (…, classes) logits that are not of the classes of the targets."""
    classes = scores.shape[-1]
    if classes < 2:
        raise TrainError(
            "the model gives one output a sample, and a metric of classes takes one of each class; give the model two, or a "
            "function as the metric"
        )
    if len(truth) and not 0 <= int(truth.min()) <= int(truth.max()) < classes:
        raise TrainError(
            f"targets have classes from {int(truth.min())} to {int(truth.max())} and the model gives logits of {classes}; "
            "classes are numbered from 0, and the model needs one output for each"
        )


class _Logits:
    """Whether what a metric takes for logits are probabilities: all rows of a split, and more than a few, sum to 1."""

    FEW = 4

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self._rows, self._sure = 0, True

    def look(self, scores: Tensor) -> None:
        """(…, classes)."""
        rows = scores.detach().flatten(0, -2)
        self._rows += len(rows)
        if self._sure and len(rows):
            near = 1e-3 if torch.finfo(rows.dtype).eps < 1e-6 else 2e-2
            low, high, off = rows.min(), rows.max(), (rows.double().sum(-1) - 1).abs().max()
            self._sure = bool((low >= 0) & (high <= 1) & (off <= near))

    def check(self) -> None:
        """Raises TrainError if so."""
        if self._sure and self._rows > self.FEW:
            raise TrainError(
                f"{self.metric} takes logits, and all {self._rows} outputs of the model are probabilities (from 0 to 1, and "
                "their sum is 1); give their logarithms, or leave out the model's softmax"
            )


class Labels(Meter):
    """Labels that exclude no other: `map`, `micro_f1`, `macro_f1`.

    `map` is the mean average precision (area under the steps of precision over recall, as scikit-learn's
    `average_precision_score`) over the labels that occur in the split; F1 is at probability ½, and of a label that neither occurs
    nor is predicted it is 0, as scikit-learn's.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, Tensor]] = []

    def add(self, scores: Any, targets: Any) -> None:
        """(n, labels) of both; kept, since a ranking needs them all."""
        self._kept.append((scores.detach().float().cpu(), targets.detach().cpu() > 0.5))

    def result(self) -> dict[str, float]:
        """All three."""
        scores, truth = (torch.cat([pair[at] for pair in self._kept]) for at in (0, 1))
        predicted = scores > 0
        hits = (predicted & truth).sum(0).double()
        marks = (predicted.sum(0) + truth.sum(0)).double()
        f1 = torch.where(marks > 0, 2 * hits / marks.clamp_min(1), torch.zeros(()).double())
        precise = [average_precision(scores[:, at], truth[:, at]) for at in range(truth.shape[1]) if truth[:, at].any()]
        return {
            "map": sum(precise) / len(precise) if precise else math.nan,
            "micro_f1": float(2 * hits.sum() / marks.sum()) if marks.sum() else 0.0,
            "macro_f1": float(f1.mean()),
        }


def average_precision(scores: Tensor, truth: Tensor) -> float:
    """Σ (recallₙ − recallₙ₋₁) · precisionₙ over the thresholds, equal scores being one of them; at least one is true.

    Args:
        scores: (n,).
        truth: (n,) bool.
    """
    order = torch.sort(scores, descending=True, stable=True)
    found = truth[order.indices].double().cumsum(0)
    last = torch.cat([order.values[1:] != order.values[:-1], torch.ones(1, dtype=torch.bool)])  # of each threshold
    hits, taken = found[last], torch.arange(1, len(scores) + 1)[last]
    gained = torch.diff(hits, prepend=torch.zeros(1).double()) / hits[-1]
    return float((gained * hits / taken).sum())


class Tokens(Meter):
    """Cross entropy of a token in nats over all tokens of a split, and its exponential: `perplexity`, `loss`.

    Raises:
        TrainError: the outputs of the split are probabilities.
    """

    def __init__(self, ignore: int) -> None:
        self.ignore = ignore
        self._logits = _Logits("perplexity")
        self._total, self._count = 0.0, 0

    def add(self, scores: Any, targets: Any) -> None:
        """(…, vocabulary) logits and (…,) tokens."""
        self._logits.look(scores)
        each = functional.cross_entropy(
            scores.detach().float().flatten(0, -2), targets.flatten(), ignore_index=self.ignore, reduction="none"
        )
        self._total += float(each.double().sum())
        self._count += int((targets != self.ignore).sum())

    def result(self) -> dict[str, float]:
        """Both; NaN without a token."""
        self._logits.check()
        mean = self._total / self._count if self._count else math.nan
        return {"perplexity": math.exp(mean) if mean < 700 else math.inf, "loss": mean}


class Neighbours(Meter):
    """Whether the nearest of all second halves of pairs is the own one, by cosine similarity: `recall_at_1`, `recall_at_5`, …;
    and `mrr`, the mean of 1 / the own one's place.

    Equal similarities count as wrong: embeddings that are all the same find nothing.
    """

    def __init__(self, ranks: tuple[int, ...]) -> None:
        self.ranks = ranks
        self._kept: list[tuple[Tensor, Tensor]] = []

    def add(self, scores: Any, targets: Any) -> None:
        """(2 n, dim): a pair is two rows."""
        del targets  # pairs are told by their places
        ours = functional.normalize(scores.detach().float(), dim=-1).cpu()
        self._kept.append((ours[0::2], ours[1::2]))

    def result(self) -> dict[str, float]:
        """Over all pairs of the split."""
        queries, items = (torch.cat([pair[at] for pair in self._kept]) for at in (0, 1))
        places = [
            (part @ items.T >= (part * items[at : at + len(part)]).sum(-1, keepdim=True) - 1e-6).sum(1)
            for at, part in zip(range(0, len(queries), 256), torch.split(queries, 256), strict=True)
        ]
        place = torch.cat(places)  # 1 is the nearest
        recall = {f"recall_at_{rank}": float((place <= rank).double().mean()) for rank in self.ranks}
        return {**recall, "mrr": float((1.0 / place.double()).mean())}


class Ranks(Meter):
    """Spearman's rank correlation of cosine similarities of pairs with the scores that people gave: `spearman`."""

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, Tensor]] = []

    def add(self, scores: Any, targets: Any) -> None:
        """(2 n, dim), and (2 n,): the score of a pair at each of its rows."""
        similar = functional.cosine_similarity(scores[0::2].detach().float(), scores[1::2].detach().float())
        self._kept.append((similar.cpu(), targets[0::2].cpu()))

    def result(self) -> dict[str, float]:
        """Pearson's correlation of ranks, equal values having their mean rank."""
        ours, theirs = (_ranks(torch.cat([pair[at] for pair in self._kept]).double().numpy()) for at in (0, 1))
        ours, theirs = ours - ours.mean(), theirs - theirs.mean()
        size = math.sqrt(float((ours**2).sum()) * float((theirs**2).sum()))
        if not size:
            raise EvaluationError("Spearman's correlation needs similarities and scores that are not all the same")
        return {"spearman": float((ours * theirs).sum()) / size}


class Several(Meter):
    """Some meters, in order."""

    def __init__(self, *meters: Meter) -> None:
        self.meters = meters

    def add(self, scores: Any, targets: Any) -> None:
        """To each."""
        for meter in self.meters:
            meter.add(scores, targets)

    def result(self) -> dict[str, float]:
        """Of each."""
        return {name: value for meter in self.meters for name, value in meter.result().items()}


def _ranks(values: np.ndarray) -> np.ndarray:
    """1 for the smallest; the mean for equal ones."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + 1 + ends) / 2)[inverse]


def _kept(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {name: _kept(item) for name, item in value.items()}
    return tuple(map(_kept, value)) if isinstance(value, (tuple, list)) else value


def _joined(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)
    if isinstance(first, Mapping):
        return {name: _joined([part[name] for part in parts]) for name in first}
    if isinstance(first, tuple):
        return tuple(_joined(list(some)) for some in zip(*parts, strict=True))
    raise TypeError(f"outputs are {type(first).__name__}")
