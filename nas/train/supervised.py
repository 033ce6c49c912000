"""A loss and metrics of one's own: what `nas.Task.of` makes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence  # noqa: F401 (annotations of the fields of DataTask are read here)
from dataclasses import KW_ONLY, dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from nas.checking import Count, Natural, checked  # noqa: F401 (as above)
from nas.errors import TrainError, suggest
from nas.measurements import name_fault
from nas.supernet.inputs import tensors_in
from nas.train import meters
from nas.train.divergences import KL, Binary, Divergence, MeanSquares
from nas.train.given import DataTask, check_least, in_range, type_of
from nas.train.synced import whole
from nas.train.task import Batch


@checked(TrainError)
@dataclass(frozen=True, eq=False)
class Supervised(DataTask):
    """Data, a loss and metrics of your own: what `nas.Task.of` makes.

    Args:
        loss_of: see `Task.of`.
        metrics_of: see `Task.of`.
        compares: see `Task.of`.
    """

    _: KW_ONLY
    loss_of: Any = "cross_entropy"
    metrics_of: Any = ()
    compares: Divergence | None = None

    def __post_init__(self) -> None:
        _loss_named(self.loss_of)
        names = list(self._metrics)
        if "loss" in names:
            raise TrainError("a metric is called 'loss', which is the name of the loss itself; give it another name")
        super().__post_init__()

    @property
    def metric_names(self) -> tuple[str, ...]:
        """In the order given, the loss last."""
        return (*self._metrics, "loss")

    @property
    def divergence(self) -> Divergence | None:
        """What was given, or what goes with the loss; None leaves it to the shapes of the first batch."""
        if self.compares is not None:
            return self.compares
        kind = self._kind
        return {"classes": KL(), "values": MeanSquares(), "labels": Binary()}.get(kind) if kind else None

    def logits(self, output: Any) -> Tensor:
        """Classes last, where cross entropy has them on the second axis: (n, classes, …) -> (n, …, classes)."""
        scores = super().logits(output)
        return scores.movedim(1, -1) if self._kind == "classes" and scores.ndim > 2 else scores

    def judged(self, output: Any) -> Any:
        """The logits of an output that has them by this name, else the output."""
        found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
        return found if isinstance(found, Tensor) else output

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Of the whole batch, which several processes share: any function of it is right."""
        scores, targets = self.judged(output), batch.targets
        if self._shared(scores, batch):
            scores, targets = whole(scores), _whole(targets)
        return self._value(scores, targets)

    def meter(self) -> meters.Meter:
        """Metrics by name or function, and the loss, a mean over batches that weigh their samples or counted targets."""
        metrics = [_metric(name, given, self._kind, self._ignore) for name, given in self._metrics.items()]
        return meters.Several(*metrics, meters.Mean("loss", self._value, self._weight))

    def _value(self, scores: Any, targets: Any) -> Tensor:
        function, kind = _loss_named(self.loss_of)
        if isinstance(scores, Tensor) and isinstance(targets, Tensor):
            _check_shapes(scores, targets, kind)
            if kind == "classes":
                self._check_range(scores.movedim(1, -1), targets, self._ignore)
            if kind == "values":
                scores = scores.reshape(targets.shape)
            if kind == "labels":
                targets = targets.to(scores.dtype)
        if isinstance(function, nn.Module) and isinstance(scores, Tensor):
            function.to(scores.device)  # weights of classes
        with in_range():
            value = function(scores, targets)
        if not isinstance(value, Tensor) or value.numel() != 1:
            said = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise TrainError(
                f"the loss gives {said} where one number is expected: its mean over the samples, as a tensor"
            )
        return value.reshape(())

    def _weight(self, targets: Any) -> float:
        """What a batch's loss weighs in a split's: cross entropy of torch is a mean over targets that count."""
        if self._kind == "classes" and isinstance(targets, Tensor) and not targets.is_floating_point():
            counted = targets[targets != self._ignore]
            weight = getattr(self.loss_of, "weight", None)
            return float(len(counted) if weight is None else weight.to(targets.device)[counted].sum())
        found = tensors_in(targets)
        return float(len(found[0])) if found and found[0].ndim else 1.0

    def _shared(self, scores: Any, batch: Batch) -> bool:
        """Whether rows are those of samples, so that those of other processes can be asked for; a named loss needs none."""
        if isinstance(self.loss_of, str) or not isinstance(scores, Tensor):
            return False
        size = self.samples(batch)
        targets = tensors_in(batch.targets)
        return bool(targets) and all(one.ndim > 0 and len(one) % size == 0 for one in (scores, *targets))

    def _as_targets(self, targets: Any) -> Any:
        if not isinstance(targets, Tensor):
            return targets
        if self._kind == "classes" and not targets.is_floating_point():
            return targets.long()
        return targets.float() if self._kind in ("values", "labels") else targets

    def _check(self, batch: Batch, whose: str) -> None:
        targets = batch.targets
        if self._kind == "classes" and isinstance(targets, Tensor) and targets.is_floating_point() and targets.ndim < 2:
            raise TrainError(
                f"{whose} has targets of type {type_of(targets)} and the loss is cross entropy, which takes whole numbers of "
                "classes; for numbers use loss='mse'"
            )
        if self._kind == "classes" and isinstance(targets, Tensor) and not targets.is_floating_point():
            check_least(targets, self._ignore, whose)

    @functools.cached_property
    def _metrics(self) -> dict[str, Any]:
        given = self.metrics_of
        if isinstance(given, Mapping):
            return dict(given)
        listed = [given] if isinstance(given, str) or callable(given) else list(given)
        found = {one if isinstance(one, str) else getattr(one, "__name__", type(one).__name__): one for one in listed}
        if len(found) < len(listed):
            raise TrainError("two metrics have one name; give a mapping of names to functions")
        for name, one in found.items():
            _check_metric(name, one)
        return found

    @property
    def _kind(self) -> str | None:
        return _loss_named(self.loss_of)[1]

    @property
    def _ignore(self) -> int | None:
        ignored = getattr(self.loss_of, "ignore_index", None)
        return ignored if ignored is not None else -100 if self._kind == "classes" else None


def averaged(function: Callable[[Any, Any], Any]) -> Averaged:
    """A metric of (output, targets) that is a mean over samples: averaged over batches, so that no outputs are kept.

    Without it a function of yours is computed once over all outputs of a split, which is right for any metric (F1, AUC, R²).
    """
    return Averaged(function)


@dataclass(frozen=True)
class Averaged:
    """See `averaged`."""

    function: Callable[[Any, Any], Any]

    @property
    def __name__(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def __call__(self, output: Any, targets: Any) -> Any:
        """The function's."""
        return self.function(output, targets)


_LOSSES: dict[str, tuple[Callable[..., Any], str]] = {
    "cross_entropy": (functional.cross_entropy, "classes"),
    "mse": (functional.mse_loss, "values"),
    "mae": (functional.l1_loss, "values"),
    "huber": (functional.huber_loss, "values"),
    "smooth_l1": (functional.smooth_l1_loss, "values"),
    "binary_cross_entropy": (functional.binary_cross_entropy_with_logits, "labels"),
}
_MODULES: dict[type[nn.Module], str] = {
    nn.CrossEntropyLoss: "classes",
    nn.MSELoss: "values",
    nn.L1Loss: "values",
    nn.HuberLoss: "values",
    nn.SmoothL1Loss: "values",
    nn.BCEWithLogitsLoss: "labels",
}
_ERRORS = ("mse", "rmse", "mae", "r2")
_CLASSES = ("accuracy", "f1", "mean_iou", "calibration_error")


def _loss_named(loss: Any) -> tuple[Callable[..., Any], str | None]:
    """A loss's function, and what outputs it takes: None where that is not known."""
    if isinstance(loss, str):
        if loss not in _LOSSES:
            raise TrainError(f"loss {loss!r} is not one of {', '.join(_LOSSES)}{suggest(loss, _LOSSES)}")
        return _LOSSES[loss]
    if not callable(loss):
        raise TrainError(f"loss={loss!r} is neither a name nor a function (output, targets); give one")
    if getattr(loss, "reduction", "mean") != "mean":
        raise TrainError(
            f"the loss has reduction={loss.reduction!r}; a training takes means, whatever the size of a batch"
        )
    return loss, _MODULES.get(type(loss))


def _check_metric(name: str, given: Any) -> None:
    fault = name_fault(name)
    if fault is not None:  # an objective of a study could not be called so
        raise TrainError(f"{fault}; give a mapping of names to functions, such as metrics={{'error': function}}")
    if isinstance(given, str) and given not in (*_ERRORS, *_CLASSES):
        known = (*_CLASSES, *_ERRORS)
        raise TrainError(
            f"metric {given!r} is not one of {', '.join(known)}{suggest(given, known)}; or give a function"
        )
    if not isinstance(given, str) and not callable(given):
        raise TrainError(f"metric {name!r} is a {type(given).__name__}; give a name or a function (output, targets)")


def _metric(name: str, given: Any, kind: str | None, ignore: int | None) -> meters.Meter:
    _check_metric(name, given)
    if isinstance(given, Averaged):
        return meters.Mean(name, given.function, lambda targets: float(len(tensors_in(targets)[0])))
    if not isinstance(given, str):
        return meters.Whole(name, given)
    if given in _ERRORS:
        return _Renamed(name, given, meters.Errors((given,)), lambda scores, targets: scores.reshape(targets.shape))
    meter = (
        meters.CalibrationError(ignore=ignore) if given == "calibration_error" else meters.Confusion((given,), ignore)
    )
    return _Renamed(name, given, meter, functools.partial(_classes_last, kind))


def _classes_last(kind: str | None, scores: Tensor, targets: Tensor) -> Tensor:
    scores = scores.movedim(1, -1) if scores.ndim > 2 and kind == "classes" else scores
    if not isinstance(targets, Tensor) or targets.is_floating_point() or scores.shape[:-1] != targets.shape:
        raise TrainError(
            f"the model gives {tuple(scores.shape)} for targets of {tuple(targets.shape)}; a metric of classes takes logits "
            "(n, classes) and whole numbers (n,)"
        )
    return scores


class _Renamed(meters.Meter):
    """A metric under a name of the user's."""

    def __init__(self, name: str, given: str, meter: meters.Meter, change: Callable[[Any, Any], Any]) -> None:
        self.name, self.given, self.meter, self.change = name, given, meter, change

    def add(self, scores: Any, targets: Any) -> None:
        self.meter.add(self.change(scores, targets), targets)

    def result(self) -> dict[str, float]:
        return {self.name: self.meter.result()[self.given]}


def _check_shapes(scores: Tensor, targets: Tensor, kind: str | None) -> None:
    if kind in ("values", "labels") and (scores.numel() != targets.numel() or len(scores) != len(targets)):
        raise TrainError(
            f"the model gives {tuple(scores.shape)} for targets of {tuple(targets.shape)}; the loss takes a number for each"
        )
    if kind == "classes" and not targets.is_floating_point():
        expected = (scores.shape[0], *scores.shape[2:])
        if scores.ndim < 2 or tuple(targets.shape) != expected:
            raise TrainError(
                f"the model gives {tuple(scores.shape)} for classes of {tuple(targets.shape)}; cross entropy takes logits "
                "(n, classes) with (n,), or (n, classes, …) with (n, …)"
            )


def _whole(targets: Any) -> Any:
    if isinstance(targets, Tensor):
        return whole(targets)
    if isinstance(targets, Mapping):
        return {name: _whole(item) for name, item in targets.items()}
    return tuple(map(_whole, targets)) if isinstance(targets, (tuple, list)) else targets
