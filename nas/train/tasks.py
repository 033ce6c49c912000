"""One task for each kind of target: numbers, classes of pixels, labels, tokens, pairs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.checking import Count, Natural, Positive, checked  # noqa: F401 (annotations of the fields of DataTask are read here)
from nas.errors import TrainError
from nas.supernet.inputs import Example, Inputs, batch_size, tensors_in
from nas.supernet.inputs import some as some_of
from nas.train import meters
from nas.train.divergences import KL, Binary, Divergence, MeanSquares, Similarities
from nas.train.given import DataTask, check_least, in_range, type_of
from nas.train.sources import Data, Reading, Tensors, Windows
from nas.train.synced import whole
from nas.train.task import Batch


@checked(TrainError)
@dataclass(frozen=True, eq=False)
class Regression(DataTask):
    """One number a sample, or several: mean squared error; metrics in the units of the targets.

    Models learn standardised targets: (target − mean) / deviation of the training split, taken from all of it where it is in
    memory, else from `calibration` samples.  `rmse`, `mae` and `r2` are in the targets' own units, means over several outputs;
    `loss` is the squared error of standardised ones.  **A network alone gives standardised numbers**: `task.units(output)` turns
    them into units, and `task.in_units(module)` is a module that does.  A model that was trained elsewhere on targets in units
    needs standardise=False.

    Args:
        standardise: True, False, or (mean, deviation) of the targets, each a number or one for each output.
    """

    _: KW_ONLY
    standardise: bool | Sequence[Any] = True

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Root mean squared error first."""
        return ("rmse", "mae", "r2", "loss")

    @property
    def divergence(self) -> Divergence:
        """Of numbers."""
        return MeanSquares()

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Mean squared error of standardised targets."""
        return functional.mse_loss(self._fitted(output, batch.targets).float(), self._standardised(batch.targets))

    def meter(self) -> meters.Meter:
        """In units."""

        def squares(scores: Any, targets: Tensor) -> Tensor:
            return functional.mse_loss(self._fitted(scores, targets).float(), self._standardised(targets))

        return meters.Several(
            _InUnits(self, meters.Errors()), meters.Mean("loss", squares, lambda one: float(len(one)))
        )

    @property
    def note(self) -> str:
        """How outputs become units."""
        if self.standardise is False:
            return ""
        mean, deviation = (one.tolist() for one in self._scale)
        return f"outputs are standardised: output * {deviation} + {mean} is in the units of the targets"

    @property
    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the targets, float32: () or (outputs,)."""
        return self._scale

    def units(self, output: Any) -> Tensor:
        """What a network gives, in the units of the targets."""
        mean, deviation = (one.to(self.logits(output).device) for one in self._scale)
        return self.logits(output) * deviation + mean

    def in_units(self, module: nn.Module) -> nn.Module:
        """A module that gives what `module` gives, in the units of the targets."""
        return InUnits(module, *self._scale)

    def check_teacher(self, output: Any, batch: Batch) -> None:
        """A teacher gives standardised numbers too; one that is nearer to the targets in units does not."""
        scores, targets = self._fitted(output, batch.targets).double(), batch.targets.double()
        mean, deviation = (one.to(targets.device).double() for one in self._scale)
        near, far = (((scores - one) / deviation).square().mean() for one in (targets, (targets - mean) / deviation))
        if self.standardise is not False and float(near) < min(1.0, float(far)):
            raise TrainError(
                "the teacher gives numbers in the units of the targets, and networks of this task give standardised ones; give "
                "the task standardise=False, or a teacher that was trained on it"
            )

    def describe(self) -> dict[str, Any]:
        """As those of all data; what is computed from the data is no part."""
        given = self.standardise
        return {**super().describe(), "standardise": given if isinstance(given, bool) else np.asarray(given).tolist()}

    def __post_init__(self) -> None:
        super().__post_init__()
        mean, deviation = self._scale
        if not (bool(torch.isfinite(mean).all()) and bool((deviation > 0).all() & torch.isfinite(deviation).all())):
            raise TrainError(
                f"targets of train have mean {mean.tolist()} and deviation {deviation.tolist()}; deviations are positive, so "
                "leave constant outputs out or give standardise=False"
            )

    def _check(self, batch: Batch, whose: str) -> None:
        if not isinstance(batch.targets, Tensor):
            raise TrainError(
                f"{whose} has targets of type {type(batch.targets).__name__}; a regression takes one tensor of numbers"
            )

    def _as_targets(self, targets: Any) -> Any:
        return targets.float() if isinstance(targets, Tensor) else targets

    def _fitted(self, output: Any, targets: Tensor) -> Tensor:
        """Outputs of the targets' shape: (n, 1) and (n,) are one."""
        scores = self.logits(output)
        if scores.numel() != targets.numel() or len(scores) != len(targets):
            raise TrainError(
                f"the model gives {tuple(scores.shape)} for targets of {tuple(targets.shape)}; a regression's model gives a "
                "number for each"
            )
        return scores.reshape(targets.shape)

    def _standardised(self, targets: Tensor) -> Tensor:
        mean, deviation = (one.to(targets.device) for one in self._scale)
        return (targets.float() - mean) / deviation

    @functools.cached_property
    def _scale(self) -> tuple[Tensor, Tensor]:
        given: Any = self.standardise
        if given is False:
            return torch.zeros(()), torch.ones(())
        if given is not True:
            if len(given) != 2:
                raise TrainError(f"standardise={given!r} is not (mean, deviation)")
            return torch.as_tensor(given[0]).float(), torch.as_tensor(given[1]).float()
        split = self._splits["train"]
        if not split.exact:
            raise TrainError(
                "train is not the same each time that it is read, and neither are mean and deviation of its targets; give "
                "standardise=(mean, deviation), or False"
            )
        read = split.in_order() if isinstance(split, Tensors) else split.some(self.seed, max(2, self.calibration))
        targets = torch.cat([self._read(batch).targets.double() for batch in read])
        return targets.mean(0).float(), targets.std(0, correction=0).float()


class InUnits(nn.Module):
    """A module and what brings its outputs to units: output · deviation + mean."""

    def __init__(self, module: nn.Module, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.module = module
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", mean.clone())
        self.register_buffer("deviation", deviation.clone())

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """In units."""
        from nas.train.task import logits

        found: Tensor = logits(self.module(*args, **kwargs)) * self.deviation + self.mean
        return found


class _InUnits(meters.Meter):
    """Errors in units."""

    def __init__(self, task: Regression, meter: meters.Meter) -> None:
        self.task, self.meter = task, meter

    def add(self, scores: Any, targets: Any) -> None:
        self.meter.add(self.task.units(self.task._fitted(scores, targets)), targets)

    def result(self) -> dict[str, float]:
        return self.meter.result()


@checked(TrainError)
@dataclass(frozen=True, eq=False)
class Segmentation(DataTask):
    """A class for each pixel: logits (n, classes, h, w), targets (n, h, w).

    Losses with a teacher compare distributions over the classes of each pixel.  `mean_iou` is over the whole split, and over the
    classes that occur there; `pixel_accuracy` and `loss` are means over the pixels that count.

    Args:
        ignore_index: targets that do not count.
    """

    _: KW_ONLY
    ignore_index: int = 255

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Mean intersection over union first."""
        return ("mean_iou", "pixel_accuracy", "loss")

    @property
    def divergence(self) -> Divergence:
        """Of each pixel's distribution."""
        return KL()

    def logits(self, output: Any) -> Tensor:
        """Classes last: (n, h, w, classes); torchvision's models have them under "out"."""
        found = output.get("out") if isinstance(output, Mapping) else None
        scores = found if isinstance(found, Tensor) else super().logits(output)
        if scores.ndim < 3:
            raise TrainError(f"the model gives {tuple(scores.shape)}; a segmentation's gives logits (n, classes, h, w)")
        return scores.movedim(1, -1)

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Cross entropy, mean over the pixels of the batch that count."""
        return _mean_entropy(self._scores(self.logits(output), batch.targets), batch.targets, self.ignore_index)

    def meter(self) -> meters.Meter:
        """Confusion of the whole split."""
        weigh = functools.partial(_counted, ignore=self.ignore_index)
        return meters.Several(
            _Checked(self._scores, meters.Confusion(("mean_iou", "pixel_accuracy"), self.ignore_index)),
            meters.Mean("loss", lambda scores, targets: _mean_entropy(scores, targets, self.ignore_index), weigh),
        )

    def _scores(self, scores: Tensor, targets: Tensor) -> Tensor:
        if scores.shape[:-1] != targets.shape or scores.shape[-1] < 2:
            n, *size, classes = scores.shape
            raise TrainError(
                f"the model gives logits of {(n, classes, *size)} for targets of {tuple(targets.shape)}; expected are "
                "(n, classes, h, w) with two classes or more and (n, h, w)"
            )
        self._check_range(scores, targets, self.ignore_index)
        return scores

    def _as_targets(self, targets: Any) -> Any:
        return targets.long() if isinstance(targets, Tensor) and not targets.is_floating_point() else targets

    def _check(self, batch: Batch, whose: str) -> None:
        _check_whole(batch.targets, whose, "classes of pixels (n, h, w)", 2)
        check_least(batch.targets, self.ignore_index, whose)


@checked(TrainError)
@dataclass(frozen=True, eq=False)
class MultiLabel(DataTask):
    """Labels of which several may be true: logits (n, labels), targets (n, labels) of 0 and 1.

    Binary cross entropy, averaged over the labels; losses with a teacher compare each label's two probabilities.  `map` is the
    mean average precision over labels that occur in the split, `micro_f1` and `macro_f1` are at probability ½.
    """

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Mean average precision first."""
        return ("map", "micro_f1", "macro_f1", "loss")

    @property
    def divergence(self) -> Divergence:
        """Of each label by itself."""
        return Binary()

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Binary cross entropy."""
        return self._entropy(self.logits(output), batch.targets)

    def meter(self) -> meters.Meter:
        """Over the whole split."""
        return meters.Several(
            _Checked(self._scores, meters.Labels()), meters.Mean("loss", self._entropy, lambda one: float(len(one)))
        )

    def _entropy(self, scores: Tensor, targets: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(self._scores(scores, targets).float(), targets)

    def _scores(self, scores: Tensor, targets: Tensor) -> Tensor:
        if scores.shape != targets.shape:
            raise TrainError(
                f"the model gives {tuple(scores.shape)} for targets of {tuple(targets.shape)}; expected is a logit for each label"
            )
        return scores

    def _as_targets(self, targets: Any) -> Any:
        return targets.float() if isinstance(targets, Tensor) else targets

    def _check(self, batch: Batch, whose: str) -> None:
        targets = batch.targets
        if not isinstance(targets, Tensor) or targets.ndim != 2:
            said = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
            raise TrainError(f"{whose} has targets {said}; several labels a sample are (n, labels) of 0 and 1")
        if not bool(((targets == 0) | (targets == 1)).all()):
            raise TrainError(
                f"{whose} has targets that are neither 0 nor 1; several labels a sample are (n, labels) of 0 and 1"
            )


@checked(TrainError)
@dataclass(frozen=True, eq=False)
class LanguageModel(DataTask):
    """The next token: logits (n, length, vocabulary), targets (n, length).

    A split is a sequence of tokens (length,), cut into windows of `context` that do not overlap, or data as in all tasks.  Labels
    that are the inputs themselves, as Hugging Face has them, are shifted by one here.  `loss` is the mean cross entropy of a
    token in nats over the whole split, `perplexity` its exponential.

    Args:
        context: tokens a window, of splits that are sequences.
        ignore_index: targets that do not count, as padding.
    """

    _: KW_ONLY
    context: Count = 128
    ignore_index: int = -100

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Perplexity first."""
        return ("perplexity", "loss")

    @property
    def divergence(self) -> Divergence:
        """Of distributions over tokens."""
        return KL()

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Mean over the batch's tokens that count."""
        return _mean_entropy(self._scores(self.logits(output), batch.targets), batch.targets, self.ignore_index)

    def meter(self) -> meters.Meter:
        """Over all tokens."""
        return _Checked(self._scores, meters.Tokens(self.ignore_index))

    def _source(self, split: Any, whose: str, reading: Reading) -> Data:
        if isinstance(split, (Tensor, np.ndarray)):
            return Windows(whose, reading, split, self.context)
        return super()._source(split, whose, reading)

    def _read(self, raw: Batch, generator: torch.Generator | None = None) -> Batch:
        batch = super()._read(raw, generator)
        if self._unshifted(batch):
            ends = batch.targets[:, :1].new_full((len(batch.targets), 1), self.ignore_index)
            return Batch(batch.inputs, torch.cat([batch.targets[:, 1:], ends], 1))
        return batch

    def _unshifted(self, batch: Batch) -> bool:
        """Whether targets are the inputs' own tokens, which a model that sees them need not predict."""
        targets = batch.targets
        if not isinstance(targets, Tensor) or targets.ndim != 2:
            return False
        counted = targets != self.ignore_index
        return bool(counted.any()) and any(
            one.shape == targets.shape
            and not one.is_floating_point()
            and torch.equal(one[counted].long(), targets[counted])
            for one in tensors_in(batch.inputs)
        )

    def _scores(self, scores: Tensor, targets: Tensor) -> Tensor:
        if scores.ndim != 3 or scores.shape[:-1] != targets.shape:
            raise TrainError(
                f"the model gives {tuple(scores.shape)} for tokens of {tuple(targets.shape)}; expected is (n, length, vocabulary)"
            )
        self._check_range(scores, targets, self.ignore_index)
        return scores

    def _as_targets(self, targets: Any) -> Any:
        return targets.long() if isinstance(targets, Tensor) and not targets.is_floating_point() else targets

    def _check(self, batch: Batch, whose: str) -> None:
        _check_whole(batch.targets, whose, "tokens (n, length)", 2)
        check_least(batch.targets, self.ignore_index, whose)


@checked(TrainError)
@dataclass(frozen=True, eq=False)
class Embedding(DataTask):
    """Pairs that belong together: a split gives (one, other), and the model embeds both, (n, dim) each.

    Each half of a pair is to be nearer to its other half than to those of the batch, by cosine similarity (InfoNCE: van den Oord
    et al. 2018, "Representation Learning with Contrastive Predictive Coding", in both directions as CLIP).  The model is called
    with the halves of all pairs together, pair by pair: 2 n samples.  Losses with a teacher compare the similarities within the
    batch, so that embeddings of networks may differ in length.

    `recall_at_1` is how often the nearest of all other halves of the split is the own one, and `mrr` the mean of the reciprocal
    of the own one's rank.  Where the samples of valid and test have a score of their own, (one, other, score), the metric is
    `spearman`, of similarities with scores.

    Args:
        temperature: divides similarities in the loss.
        ranks: k of `recall_at_k`.
        output: name of the embeddings among what the model gives, such as "pooler_output"; "" is for a model that gives one
            tensor, or names one `sentence_embedding` or `embeddings`.
    """

    _: KW_ONLY
    temperature: Positive = 0.05
    ranks: tuple[int, ...] = (1,)
    output: str = ""

    _even = True  # the loss depends on the number of pairs that are compared
    _group = 2

    def __post_init__(self) -> None:
        if not self.ranks or any(
            isinstance(rank, bool) or not isinstance(rank, int) or rank < 1 for rank in self.ranks
        ):
            raise TrainError(f"ranks={self.ranks!r} are no ranks; give whole numbers from 1, such as (1, 5)")
        super().__post_init__()

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Recall first, or Spearman's correlation where there are scores."""
        return ("spearman",) if self._scored else (*(f"recall_at_{rank}" for rank in self.ranks), "mrr", "loss")

    @property
    def divergence(self) -> Divergence:
        """Of similarities within the batch."""
        return Similarities()

    @property
    def example(self) -> Inputs:
        """One half of the first pair."""
        found: Inputs = some_of(self._pair, slice(1))
        return found

    def logits(self, output: Any) -> Tensor:
        """The embeddings: the output, or the part of it that `output` names."""
        if isinstance(output, Tensor):
            return output
        for name in [self.output] if self.output else ["sentence_embedding", "embeddings"]:
            found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
            if isinstance(found, Tensor):
                return found
        there = list(output) if isinstance(output, Mapping) else []
        given = f"{there} and no {self.output!r}" if self.output else (there or f"a {type(output).__name__}")
        raise TrainError(
            f"the model gives {given}, of which none is known to be the embedding; say which is (output='pooler_output'), "
            "or give a model that returns it, such as the mean over tokens that a sentence encoder was trained with"
        )

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """InfoNCE over the pairs of the batch, of all processes."""
        del batch  # pairs are told by their places
        return self._entropy(whole(self._embedded(self.logits(output))), None)

    def meter(self) -> meters.Meter:
        """Over the pairs of the whole split; the loss is a mean over batches of `batch` pairs."""
        if self._scored:
            return _Checked(lambda scores, _: self._embedded(scores), meters.Ranks())
        return meters.Several(
            _Checked(lambda scores, _: self._embedded(scores), meters.Neighbours(self.ranks)),
            meters.Mean("loss", self._entropy, lambda one: float(len(one))),
        )

    def _entropy(self, scores: Tensor, _: Any) -> Tensor:
        rows = functional.normalize(scores.float(), dim=-1)
        similar = rows[0::2] @ rows[1::2].T / self.temperature
        own = torch.arange(len(similar), device=similar.device)
        return (functional.cross_entropy(similar, own) + functional.cross_entropy(similar.T, own)) / 2

    def _embedded(self, scores: Tensor) -> Tensor:
        if scores.ndim != 2 or len(scores) % 2:
            raise TrainError(
                f"the model gives {tuple(scores.shape)}; expected are embeddings (n, dim), two of each pair"
            )
        return scores

    def _read(self, raw: Batch, generator: torch.Generator | None = None) -> Batch:
        """Both halves as one batch, pair by pair; targets are the scores, or the numbers of pairs."""
        one, other, score = raw.inputs, raw.targets, None
        if isinstance(one, tuple) and len(one) == 2 and isinstance(other, Tensor) and other.ndim == 1:
            one, other, score = one[0], one[1], raw.targets
        if type(one) is not type(other):
            raise TrainError(
                f"a pair is a {type(one).__name__} and a {type(other).__name__}; both halves are inputs of one model"
            )
        inputs = _interleaved(one, other)
        count = batch_size(inputs) // 2
        targets = torch.arange(count) if score is None else score.float()
        return super()._read(Batch(inputs, targets.repeat_interleave(2)), generator)

    @functools.cached_property
    def _scored(self) -> bool:
        return self._has_score(self._splits["valid"].first())

    @functools.cached_property
    def _pair(self) -> Any:
        inputs: Any = self._read(self._splits["train"].first()).inputs
        return Example(inputs, self.batch_axis) if self.batch_axis != 0 else inputs

    def _has_score(self, raw: Batch) -> bool:
        return (
            isinstance(raw.inputs, tuple)
            and len(raw.inputs) == 2
            and isinstance(raw.targets, Tensor)
            and raw.targets.ndim == 1
        )

    def _check(self, batch: Batch, whose: str) -> None:
        del batch  # pairs are checked as they are read
        scored = self._has_score(self._splits[whose].first())
        if whose == "train" and scored:
            raise TrainError("train has scores; pairs to learn from belong together, and scores are for valid and test")
        if whose == "test" and scored != self._scored:
            raise TrainError("of valid and test one has scores and the other has not; give both of one kind")


# -- helpers


class _Checked(meters.Meter):
    """A meter of outputs whose shape is looked at first."""

    def __init__(self, check: Callable[[Any, Any], Any], meter: meters.Meter) -> None:
        self.check, self.meter = check, meter

    def add(self, scores: Any, targets: Any) -> None:
        with in_range():
            self.meter.add(self.check(scores, targets), targets)

    def result(self) -> dict[str, float]:
        return self.meter.result()


def _mean_entropy(scores: Tensor, targets: Tensor, ignore: int) -> Tensor:
    """Mean over the targets that count of the batch of all processes, which is no mean over samples."""
    with in_range():
        each = functional.cross_entropy(
            scores.float().flatten(0, -2), targets.flatten(), ignore_index=ignore, reduction="none"
        )
    sums = each.view(len(targets), -1).sum(1)
    counts = (targets != ignore).flatten(1).sum(1).float()
    return whole(sums).sum() / whole(counts).sum().clamp_min(1)


def _counted(targets: Tensor, ignore: int) -> float:
    return float((targets != ignore).sum())


def _interleaved(one: Any, other: Any) -> Any:
    """Rows of both, one after the other of each pair."""
    if isinstance(one, Tensor):
        if one.shape != other.shape:
            raise TrainError(f"halves of pairs are {tuple(one.shape)} and {tuple(other.shape)}; pad both to one size")
        return torch.stack([one, other], 1).flatten(0, 1)
    if isinstance(one, Mapping):
        return {name: _interleaved(item, other[name]) for name, item in one.items()}
    return tuple(_interleaved(*pair) for pair in zip(one, other, strict=True))


def _check_whole(targets: Any, whose: str, what: str, least: int) -> None:
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.ndim < least:
        said = (
            f"{type_of(targets)} of {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
        )
        raise TrainError(f"{whose} has targets of type {said}; expected are {what}, whole numbers")
