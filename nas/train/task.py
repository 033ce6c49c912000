"""A task: the data, what is right about an output, and how good a model is."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, SupportsIndex, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nas.checking import checked
from nas.errors import TrainError, suggest
from nas.identity import added, described, identity
from nas.supernet.inputs import Example, Inputs, batch_size, convert, like
from nas.text import facts
from nas.train.showing import parts

if TYPE_CHECKING:
    from nas.train.divergences import Divergence

Forward: TypeAlias = Callable[[Any], Any]
Split: TypeAlias = Literal["valid", "test"]
P = ParamSpec("P")
T = TypeVar("T")


def to_device(value: Any, device: torch.device | str) -> Any:
    """`value` with every tensor in it on `device`: tensors, tuples, lists and mappings of such; the rest as it is."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=torch.device(device).type == "cuda")  # which matters for pinned memory
    if isinstance(value, Example):
        return convert(value, lambda tensor: tensor.to(device))
    if isinstance(value, Mapping):
        return {name: to_device(item, device) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(to_device(item, device) for item in value)
    return value


def logits(output: Any) -> Tensor:
    """The tensor that a model's output is about: itself, or its `logits`."""
    if isinstance(output, Tensor):
        return output
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(found, Tensor):
        return found
    if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
        return output[0]
    raise TrainError(
        f"a model's output is a {type(output).__name__} without 'logits', by which networks learn from a teacher or the largest; "
        "override Task.logits to say where they are, or train by labels alone: Training(…, loss=nas.Labels())"
    )


def mixed(*parts: object) -> int:
    """A 63-bit seed that depends on every part, the same in every process."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs for the model, and what the task needs to judge its output."""

    inputs: Inputs
    targets: Any

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        return Batch(to_device(self.inputs, device), to_device(self.targets, device))

    def __len__(self) -> int:
        """Number of samples: the leading size of the inputs, or what they say as an `Example`; else see `Task.samples`."""
        return batch_size(self.inputs)


class Task(ABC):
    """What a model is trained for.

    The contract: batches are a function of the task's own seed and of the epoch alone, so that a training that was
    killed goes on with the very batches it would have seen; nothing here holds state between calls; batches are on the CPU.
    A task travels to worker processes by pickle: see `recipe`.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__repr__" not in vars(cls):  # a dataclass would make one that prints all of the data
            cls.__repr__ = Task.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in parts(self).items())})"

    def _repr_html_(self) -> str:
        return facts(type(self).__name__, {**parts(self), "metrics": ", ".join(self.metric_names)})

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Number of batches that `train_batches` gives."""

    @property
    @abstractmethod
    def example(self) -> Inputs:
        """Inputs of one sample, with a leading batch size of 1.

        Where the batch is not the first axis of all batches, an `Example` says here which it is: once for everything that
        counts, cuts or repeats samples.
        """

    @abstractmethod
    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch: the same for the same epoch, whenever it is asked."""

    @abstractmethod
    def valid_batches(self) -> Iterator[Batch]:
        """The batches that a search may look at."""

    @abstractmethod
    def test_batches(self) -> Iterator[Batch]:
        """The batches that nobody decides anything by."""

    @abstractmethod
    def calibration_inputs(self) -> Iterator[Inputs]:
        """Training inputs for BatchNorm statistics: the same at each call, not augmented."""

    @abstractmethod
    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Mean loss of the batch's samples: a scalar.  One that is no mean over samples asks `nas.train.whole` for them all."""

    @abstractmethod
    def metrics(self, output: Any, batch: Batch) -> Mapping[str, Tensor]:
        """Mean of each metric over the batch; `metric_names` lists them."""

    def samples(self, batch: Batch) -> int:
        """Number of samples of a batch, along the axis that the example says; 1 for a whole graph."""
        return batch_size(like(batch.inputs, self.example))

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of what `evaluate` gives, the one to watch first."""
        return ("accuracy", "loss")

    def logits(self, output: Any) -> Tensor:
        """The part of an output that losses with a teacher compare; logits of classes have these last: (..., classes)."""
        return logits(output)

    @property
    def divergence(self) -> Divergence | None:
        """How far the outputs of two networks are apart, for the losses that compare them (`InPlace`, `Teacher`, …).

        `nas.KL()` for classes, `nas.MeanSquares()` for numbers, `nas.Binary()` for labels of which several may be true,
        `nas.Similarities()` for embeddings.  None leaves it to the shapes of the first batch: integers of the shape of all but
        the last axis are classes, floats of the outputs' shape are numbers, and anything else is refused.
        """
        return None

    @property
    def labelled(self) -> bool:
        """Whether training batches have what `loss` needs; without it a loss that learns from labels is refused."""
        return True

    @property
    def note(self) -> str:
        """What whoever gets a network alone must know of its outputs: `nas extract` prints it and `load.py` says it."""
        return ""

    @property
    def repeatable(self) -> bool:
        """Whether an epoch's batches can be asked again; several processes can share only such."""
        return True

    def divided(self, share: float, batch: int | None = None) -> tuple[Task, Task]:  # noqa: ARG002
        """This task without some of its training samples, and those as the training split of another one; the rest is equal.

        Which samples is a function of the task's seed.

        Args:
            share: of the training samples, for the second.
            batch: samples a training batch of the second; None is as many as now.

        Raises:
            TrainError: it cannot divide its data, or there are fewer samples than a batch on one side.
        """
        raise TrainError(
            f"a {type(self).__name__} cannot hold out a part of its training split; make a task of samples that the weights are "
            "not trained on, and give it as Policy(task=…)"
        )

    def batches_of(self, split: Split) -> Iterator[Batch]:
        """The batches of a split that is not trained on.

        Raises:
            TrainError: there is no such split.
        """
        batches = {"valid": self.valid_batches, "test": self.test_batches}
        if split not in batches:
            raise TrainError(f"split {split!r} is not one of 'valid', 'test'{suggest(split, batches)}")
        return batches[split]()

    @staticmethod
    def of(
        train: Any,
        valid: Any,
        *,
        loss: Any,
        metrics: Any = (),
        test: Any = None,
        divergence: Divergence | None = None,
        **options: Any,
    ) -> Task:
        """A task of your own data, loss and metrics.

        >>> task = nas.Task.of((x, y), (u, v), loss="mse", metrics="mae")  # doctest: +SKIP

        Args:
            train: tensors or arrays (inputs, targets), a `Dataset`, a `DataLoader`, a function that makes an iterable of batches;
                see `nas.train.DataTask` for all forms and for how each resumes.
            valid: the same, of other samples.
            loss: "cross_entropy", "mse", "mae", "huber", "smooth_l1", "binary_cross_entropy" (of logits); a loss of torch with
                means; or a function (output, targets) -> mean over the batch.
            metrics: names ("accuracy", macro "f1", "mean_iou", "calibration_error", "mse", "rmse", "mae", "r2") and functions
                (output, targets) -> a number: one, several, or name -> either.  A function is called once with all outputs and
                targets of a split, on the CPU, which is right for any metric; `nas.averaged(function)` averages one that is a
                mean over samples batch by batch.  The loss is a metric too, the last.  The first is the one to watch.
            test: the same as `valid`, for the end.
            divergence: how far outputs of two networks are apart, where a loss of your own does not tell: see `Task.divergence`.
            options: others of `nas.train.DataTask`: batch, seed, name, collate_fn, num_workers, …

        Raises:
            TrainError: see `nas.train.DataTask`; or the loss takes other targets.
        """
        from nas.train.supervised import Supervised  # which needs tasks itself

        return Supervised(train, valid, test, loss_of=loss, metrics_of=metrics, compares=divergence, **options)

    def check_teacher(self, output: Any, batch: Batch) -> None:  # noqa: B027 (most take what any network gives)
        """Whether a module from elsewhere gives what networks of this task do; asked once a training, of a first batch.

        Raises:
            TrainError: its outputs have another scale.
        """

    def describe(self) -> dict[str, Any]:
        """JSON-able facts that tell two tasks apart; a training refuses to resume with a different one."""
        return described(self)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        """As the call that made it, if that was a `recipe`."""
        made_by = getattr(self, "_recipe", None)
        if made_by is None:
            return super().__reduce_ex__(protocol)
        build, args, kwargs = made_by
        return functools.partial(build, *args, **kwargs), ()

    @torch.no_grad()
    def evaluate(
        self, forward: Forward, split: Split = "valid", *, device: torch.device | str = "cpu"
    ) -> dict[str, float]:
        """Mean metrics of `forward` over a split, each sample weighing the same.

        Args:
            forward: maps inputs to an output; given batches on `device`.
            split: "valid" or "test".

        Raises:
            TrainError: there is no such split, or it is empty.
        """
        totals: dict[str, Tensor] = {}
        count = 0
        for batch in self.batches_of(split):
            moved, size = batch.to(device), self.samples(batch)
            count += size
            for name, value in self.metrics(forward(moved.inputs), moved).items():
                totals[name] = totals.get(name, torch.zeros((), device=device)) + value.float() * size
        if not count:
            raise TrainError(f"the task has no {split} data to evaluate on")
        return {name: float(total) / count for name, total in totals.items()}


Data: TypeAlias = tuple[Tensor, Tensor]
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32)


@checked(TrainError)
@dataclass(frozen=True, eq=False)
class Classification(Task):
    """Labelled samples in memory, one class each.

    Training batches are drawn without replacement, in an order that depends on `(seed, epoch)`; the ragged last batch
    is left out, because BatchNorm on a few samples is noise.  Elsewhere a last batch of one sample is one with that before.

    Args:
        train: inputs (n, …) and classes (n,), whole numbers; tensors or NumPy arrays.  Of data sets, loaders or several inputs
            `Task.of(train, valid, loss="cross_entropy", metrics="accuracy")` is the same.
        valid: the same, for the search.
        test: the same, for the end; None if there is none.
        batch: samples a training batch.
        smoothing: label smoothing of the training loss (Szegedy et al. 2016).
        seed: of the order and the augmentation.
        augment: maps a batch of training inputs and a generator to augmented inputs.
        calibration: training samples for BatchNorm statistics (at most).
        batch_axis: of the inputs that the model is given, where the samples come: 1 for (time, batch, …).  Data stay (n, …).

    Raises:
        TrainError: sizes that do not fit.
    """

    train: Any
    valid: Any
    test: Any = None
    batch: int = 64
    smoothing: float = 0.0
    seed: int = 0
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None
    calibration: int = 1024
    batch_axis: int = 0

    def __post_init__(self) -> None:
        for name in ("train", "valid", "test"):
            object.__setattr__(self, name, _in_memory(name, getattr(self, name)))
        for name, data in (("train", self.train), ("valid", self.valid), ("test", self.test)):
            if data is not None and not (data[0].ndim and data[1].ndim):
                raise TrainError(f"{name} has a tensor without dimensions; give (n, …) inputs and (n,) classes")
            if data is not None and len(data[0]) != len(data[1]):
                raise TrainError(
                    f"{name} has {len(data[0])} inputs and {len(data[1])} classes; give one class an input"
                )
            if data is not None:
                _check_classes(name, data[1])
        if not 1 <= self.batch <= len(self.train[0]):
            raise TrainError(
                f"batch={self.batch} does not fit {len(self.train[0])} training samples; choose 1 to that many"
            )
        if not 0.0 <= self.smoothing < 1.0:
            raise TrainError(f"smoothing={self.smoothing} is not in [0, 1)")
        if self.calibration < 0:
            raise TrainError(f"calibration={self.calibration} is no number of samples; give 2 or more")
        if not 0 <= self.batch_axis < self.train[0].ndim:
            raise TrainError(
                f"batch_axis={self.batch_axis} is no axis of inputs with {self.train[0].ndim}; give 0 to {self.train[0].ndim - 1}"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of the training data."""
        return len(self.train[0]) // self.batch

    @property
    def example(self) -> Inputs:
        """First training input: (1, …)."""
        inputs = self._placed(self.train[0][:1])
        return Example(inputs, self.batch_axis) if self.batch_axis else inputs

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """Shuffled, augmented batches of one epoch."""
        generator = torch.Generator().manual_seed(mixed(self.seed, epoch))
        order = torch.randperm(len(self.train[0]), generator=generator)
        for start in range(0, self.steps_per_epoch * self.batch, self.batch):
            rows = order[start : start + self.batch]
            inputs = self.train[0][rows]
            inputs = self.augment(inputs, generator) if self.augment else inputs
            yield Batch(self._placed(inputs), self.train[1][rows])

    def valid_batches(self) -> Iterator[Batch]:
        """The validation split in order."""
        return self._in_order(self.valid)

    def test_batches(self) -> Iterator[Batch]:
        """The test split in order."""
        return self._in_order(self.test) if self.test is not None else iter(())

    def calibration_inputs(self) -> Iterator[Tensor]:
        """The first training inputs of a fixed random order, as they are."""
        order = torch.randperm(
            len(self.train[0]), generator=torch.Generator().manual_seed(mixed(self.seed, "calibration"))
        )
        for rows in pieces(order[: self.calibration], max(self.batch, 256)):
            yield self._placed(self.train[0][rows])

    def divided(self, share: float, batch: int | None = None) -> tuple[Task, Task]:
        """By rows of the training split."""
        size = self.batch if batch is None else batch
        first, second = parted(len(self.train[0]), share, self.batch, size, self.seed)
        kept, held = (tuple(one[rows] for one in self.train) for rows in (first, second))
        return dataclasses.replace(self, train=kept), dataclasses.replace(self, train=held, batch=size)

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Cross entropy with label smoothing."""
        return functional.cross_entropy(self._scores(output, batch), batch.targets, label_smoothing=self.smoothing)

    def metrics(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """Fraction that is right, and the cross entropy without smoothing."""
        scores = self._scores(output, batch).float()
        right = (scores.argmax(-1) == batch.targets).float().mean()
        return {"accuracy": right, "loss": functional.cross_entropy(scores, batch.targets)}

    @property
    def divergence(self) -> Divergence:
        """Of distributions over classes."""
        from nas.train.divergences import KL  # which needs tasks itself

        return KL()

    def describe(self) -> dict[str, Any]:
        """Sizes, options and a digest of the data."""
        return {
            "class": type(self).__qualname__,
            "samples": [len(self.train[0]), len(self.valid[0])],
            "shape": list(self.train[0].shape[1:]),
            "batch": self.batch,
            "smoothing": self.smoothing,
            "seed": self.seed,
            "augment": repr(self.augment) if " at 0x" not in repr(self.augment) else identity(self.augment),
            "data": self._digest,
            **({"batch_axis": self.batch_axis} if self.batch_axis else {}),
            **added(self),
        }

    @functools.cached_property
    def _digest(self) -> str:
        digest = hashlib.blake2b(digest_size=8)
        for tensor in (*self.train, *self.valid):
            digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _scores(self, output: Any, batch: Batch) -> Tensor:
        """(n, classes) logits.

        Raises:
            TrainError: they have another shape, or fewer classes than the data.
        """
        scores = self.logits(output)
        if scores.ndim != 2 or len(scores) != len(batch.targets):
            other = "; nas.Segmentation takes classes of pixels, (n, classes, h, w)" if scores.ndim > 2 else ""
            raise TrainError(
                f"the model gives logits of shape {tuple(scores.shape)} for {len(batch.targets)} samples with one class each; "
                f"expected are (n, classes){other}"
            )
        if scores.shape[1] < self._classes:
            raise TrainError(
                f"the data have class {self._classes - 1} and the model gives logits of {scores.shape[1]} classes; classes are "
                "numbered from 0, and the model needs one output for each"
            )
        return scores

    @functools.cached_property
    def _classes(self) -> int:
        """Number of classes of the data."""
        splits = [data[1] for data in (self.train, self.valid, self.test) if data is not None and len(data[1])]
        return 1 + max(int(classes.max()) for classes in splits)

    def _in_order(self, data: Data) -> Iterator[Batch]:
        size = max(self.batch, 256)  # without gradients larger batches cost less
        for rows in pieces(torch.arange(len(data[0])), size):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            yield Batch(self._placed(data[0][part]), data[1][part])

    def _placed(self, inputs: Tensor) -> Tensor:
        """(n, …) with the samples on the axis of the model's batch."""
        return inputs.movedim(0, self.batch_axis).contiguous() if self.batch_axis else inputs


def _in_memory(name: str, given: Any) -> Any:
    """(inputs, classes) as tensors, those of NumPy with torch's types; None for no test split.

    Raises:
        TrainError: it is something else.
    """
    from nas.train.pairs import tensors  # which needs tasks itself

    if given is None and name == "test":
        return None
    if (
        isinstance(given, (tuple, list))
        and len(given) == 2
        and all(isinstance(one, (Tensor, np.ndarray)) for one in given)
    ):
        inputs, classes = (tensors(one, name) for one in given)
        return inputs, classes.long() if classes.dtype in _WHOLE else classes
    raise TrainError(
        f"{name} is a {type(given).__name__}; nas.Classification takes (inputs, classes), two tensors or NumPy arrays. Of data "
        "sets, loaders, mappings or several inputs nas.Task.of(train, valid, loss='cross_entropy', metrics='accuracy') makes the "
        "same task"
    )


def _check_classes(name: str, classes: Tensor) -> None:
    if classes.ndim != 1 or classes.is_floating_point() or classes.dtype != torch.int64:
        raise TrainError(
            f"{name} has classes of type {str(classes.dtype).removeprefix('torch.')} and shape {tuple(classes.shape)}; give (n,) "
            "whole numbers, or use nas.Regression for numbers and nas.MultiLabel for several labels a sample"
        )
    if len(classes) and int(classes.min()) < 0:
        raise TrainError(
            f"{name} has class {int(classes.min())}; classes are numbered from 0, so leave such samples out"
        )


def pieces(rows: Tensor, size: int) -> list[Tensor]:
    """`rows` in pieces of `size`; the rest is a smaller one, or one row more for the last."""
    found = [piece for piece in torch.split(rows, size) if len(piece)]
    if len(found) > 1 and len(found[-1]) == 1:
        found[-2:] = [torch.cat(found[-2:])]
    return found


def parted(count: int, share: float, batch: int, other: int, seed: int) -> tuple[Tensor, Tensor]:
    """Numbers of the training samples that stay, and of those that are held out, each in order.

    Args:
        count: training samples.
        share: held out.
        batch: samples a batch of those that stay.
        other: the same of those that are held out.
        seed: of the choice.

    Raises:
        TrainError: one side has less than a batch.
    """
    held = round(share * count)
    if count - held < batch or held < other:
        raise TrainError(
            f"share={share:g} of {count} training samples leaves {count - held} for batches of {batch}, and {held} for the "
            f"policy's of {other}; choose another share or smaller batches"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(mixed(seed, "held out")))
    return order[held:].sort().values, order[:held].sort().values


def recipe(build: Callable[P, T]) -> Callable[P, T]:
    """Decorator of an importable function that makes a task: what it returns pickles as the call, not as the data.

    >>> @nas.train.recipe
    ... def flowers(folder: str) -> Task: ...
    """

    @functools.wraps(build)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        made = build(*args, **kwargs)
        object.__setattr__(made, "_recipe", (wrapper, args, kwargs))
        return made

    return wrapper
