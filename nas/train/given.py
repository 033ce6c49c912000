"""A user's own data as a task: what the tasks for each kind of target have in common.

Data are what a training script has: tensors or NumPy arrays, torch's data sets (numbered or iterable), those of Hugging Face,
loaders, functions that make an iterable of batches; see `nas.train.sources`.  What is held in memory is a batch, besides what the
user holds.  What can be wrong is said before anything is trained.
"""

from __future__ import annotations

import functools
import pickle
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from nas.checking import Count, Natural, checked
from nas.errors import TrainError
from nas.identity import added, identity
from nas.supernet.inputs import Example, Inputs
from nas.supernet.inputs import some as some_of
from nas.train import meters
from nas.train.divergences import Divergence
from nas.train.pairs import check_finite, placed
from nas.train.sources import Data, Part, Reading, Rows, Tensors, source
from nas.train.task import Batch, Forward, Split, Task, mixed, parted

_DEFAULTS: dict[str, Any] = {
    "inputs": None, "target": None, "batch_axis": 0, "augment": None, "calibration": 1024, "collate_fn": None,
    "epoch_steps": None, "exact": None,
}  # fmt: skip


@checked(TrainError)
@dataclass(frozen=True, eq=False)
class DataTask(Task):
    """What the tasks of a user's data have in common.

    A split is
    - a tuple (inputs, targets) or a mapping of tensors or NumPy arrays, (n, …) each; inputs may be a tuple or mapping of them;
    - a `torch.utils.data.Dataset`, numbered or iterable, or a split of Hugging Face's `datasets`;
    - a `DataLoader`;
    - a function that makes an iterable of batches, of the epoch's number if it takes one argument.

    A sample or batch is (inputs, target), a tuple with the target last, or a mapping with the target under "labels", "label" or
    "target"; a model is called with a mapping's other parts by name, or with those that `inputs` names by place.

    Training batches of arrays and numbered data sets are drawn without replacement in an order that depends on `(seed, epoch)`,
    without the ragged last one, and what a data set draws from the global generators depends on seed, epoch and batch: a training
    that was killed meets the very batches that it would have met.  So it is with a `DataLoader` that shuffles by the global
    generator.  A loader with a sampler or generator of its own, an iterable data set or a function cannot be asked again: a
    warning says so once, and a resumed training goes on in the same epoch with the batches that come.

    Args:
        train: to learn from.
        valid: for the search; other samples than those of `train`.
        test: for the end; None if there is none.
        batch: samples a training batch, of what comes unbatched.
        seed: of the order and the augmentation.
        name: tells this data from other data, instead of a digest of some rows: a study or a training resumes with the same.
        inputs: names of a mapping's parts that the model is called with by place.
        target: name of a mapping's target.
        batch_axis: of the inputs that the model is given, where the samples come: see `nas.Example`.  Samples are put together
            along the first axis and moved there; a loader's batches come as they are.
        augment: maps the inputs of a training batch and a generator to augmented inputs.
        calibration: training samples for BatchNorm statistics (at most); a data set that augments is read as it is.
        collate_fn: a list of samples to a batch, for data sets; None is torch's.
        num_workers: processes that read data sets.
        pin_memory: for faster copies to a GPU.
        epoch_steps: training batches an epoch, of data that do not tell.
        exact: True says that an epoch of a loader or function has the same batches whenever it is read; needed to share its
            batches among several processes.  False says the opposite of a loader.  None finds out.

    Raises:
        TrainError: a split is empty or gives no pairs; there is NaN in arrays, or in the first samples of what is no array;
            targets are of another type than the loss takes; two splits are the same object or share samples; an option is not
            what it must be.
    """

    train: Any
    valid: Any
    test: Any = None
    _: KW_ONLY
    batch: Count = 64
    seed: int = 0
    name: str | None = None
    inputs: str | Sequence[str] | None = None
    target: str | None = None
    batch_axis: Any = 0
    augment: Callable[..., Any] | None = None
    calibration: Natural = 1024
    collate_fn: Callable[..., Any] | None = None
    num_workers: Natural = 0
    pin_memory: bool = False
    epoch_steps: Count | None = None
    exact: bool | None = None

    def __post_init__(self) -> None:
        for whose in ("train", "valid"):
            if getattr(self, whose) is None:
                raise TrainError(f"{whose} is missing; give its inputs and targets")
        _check_apart({"train": self.train, "valid": self.valid, "test": self.test})
        for whose, split in self._splits.items():
            raw = split.first()
            if whose != "train":
                split.check_judges(raw)
            first = self._read(raw)
            check_finite(first, whose)
            self._check(first, whose)
        _check_different(self._splits)
        self._splits["train"].steps()
        if not self.repeatable:
            warnings.warn(
                f"train, a {type(self.train).__name__}, has an order of its own that cannot be asked again: a training that is "
                "resumed goes on in the same epoch with other batches; exact=True says that an epoch is the same each time",
                UserWarning,
                stacklevel=4,
            )

    @functools.cached_property
    def _splits(self) -> dict[str, Data]:
        reading = Reading(
            self.batch, self.inputs, self.target, self.collate_fn, self.num_workers, self.pin_memory, self._even
        )
        given = {"train": self.train, "valid": self.valid, "test": self.test}
        return {whose: self._source(split, whose, reading) for whose, split in given.items() if split is not None}

    def _source(self, split: Any, whose: str, reading: Reading) -> Data:
        return source(split, whose, reading, self.epoch_steps if whose == "train" else None, self.exact)

    @property
    def repeatable(self) -> bool:
        """Whether an epoch's batches can be asked again."""
        return self._splits["train"].exact

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of the training data, or those of the loader."""
        return self._splits["train"].steps()

    @functools.cached_property
    def example(self) -> Inputs:
        """The first training sample's inputs: (1, …)."""
        inputs: Any = self._read(self._splits["train"].first()).inputs
        found: Inputs = some_of(
            Example(inputs, self.batch_axis) if self.batch_axis != 0 else inputs, slice(self._group)
        )
        return found

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """Batches of one epoch, shuffled and augmented."""
        generator = torch.Generator().manual_seed(mixed(self.seed, epoch, "augment"))
        for raw in self._splits["train"].shuffled(self.seed, epoch):
            yield self._read(raw, generator)

    def divided(self, share: float, batch: int | None = None) -> tuple[Task, Task]:
        """By rows of arrays and of numbered data sets; what was computed from all of them (a scale) stays.

        Raises:
            TrainError: batches come from a loader, an iterable or a function; or see `Task.divided`.
        """
        whole = self._splits["train"]
        if not isinstance(whole, Rows):
            return super().divided(share, batch)
        size = self.batch if batch is None else batch
        rows = parted(len(whole), share, self.batch, size, self.seed)
        return self._on(Part(whole, rows[0], self.batch), self.batch), self._on(Part(whole, rows[1], size), size)

    def _on(self, part: Part, batch: int) -> Task:
        """This task with another training split, as data: what made it knows the whole."""
        made = object.__new__(type(self))
        vars(made).update({name: value for name, value in vars(self).items() if name != "_recipe"})
        vars(made).update(batch=batch, _splits={**self._splits, "train": part})
        return made

    def valid_batches(self) -> Iterator[Batch]:
        """The validation split in order."""
        return map(self._read, self._splits["valid"].in_order())

    def test_batches(self) -> Iterator[Batch]:
        """The test split in order."""
        return map(self._read, self._splits["test"].in_order()) if self.test is not None else iter(())

    def calibration_inputs(self) -> Iterator[Inputs]:
        """Training inputs, not augmented here."""
        return (self._read(raw).inputs for raw in self._splits["train"].some(self.seed, self.calibration))

    def _read(self, raw: Batch, generator: torch.Generator | None = None) -> Batch:
        """A batch as the model and the loss take it."""
        inputs = raw.inputs
        if generator is not None and self.augment is not None:
            inputs = self.augment(inputs, generator)
        if isinstance(self._splits["train"], Rows):
            inputs = placed(inputs, self.batch_axis)
        return Batch(inputs, self._as_targets(raw.targets))

    # -- what a task says

    _even = False  # whether batches that are not trained on are as large as those that are
    _group = 1  # rows of the inputs that belong together

    def _as_targets(self, targets: Any) -> Any:
        """Targets of the type that the loss takes."""
        return targets

    def _check(self, batch: Batch, whose: str) -> None:
        """Whether the first samples of a split have the right targets."""

    @abstractmethod
    def meter(self) -> meters.Meter:
        """A new pass over a split."""

    def _check_range(self, scores: Tensor, targets: Any, ignore: int | None) -> None:
        """Whether every class of the first batch has a logit; on a CPU torch says it of each later batch, on a GPU it aborts."""
        if "_ranged" in vars(self) or not isinstance(targets, Tensor) or targets.is_floating_point():
            return
        counted = targets if ignore is None else targets[targets != ignore]
        if len(counted) and int(counted.max()) >= scores.shape[-1]:
            raise TrainError(
                f"a target is class {int(counted.max())} and the model gives logits of {scores.shape[-1]} classes; classes are "
                "numbered from 0, and the model needs one output for each"
            )
        object.__setattr__(self, "_ranged", True)

    def judged(self, output: Any) -> Any:
        """What of an output the metrics take."""
        return self.logits(output)

    def metrics(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """Of this batch alone; `evaluate` computes those of a whole split, which are no means of these."""
        meter = self.meter()
        meter.add(self.judged(output), batch.targets)
        return {name: torch.tensor(value) for name, value in meter.result().items()}

    @torch.no_grad()
    def evaluate(
        self, forward: Forward, split: Split = "valid", *, device: torch.device | str = "cpu"
    ) -> dict[str, float]:
        """Metrics over a split; see `Task.evaluate`."""
        meter, empty = self.meter(), True
        for batch in self.batches_of(split):
            moved, empty = batch.to(device), False
            meter.add(self.judged(forward(moved.inputs)), moved.targets)
        if empty:
            raise TrainError(f"the task has no {split} data to evaluate on")
        found = meter.result()
        return {name: found[name] for name in self.metric_names}

    def describe(self) -> dict[str, Any]:
        """Options, and the data's name, or length and a digest of some rows."""
        own = {one.name for one in fields(self)} - {one.name for one in fields(DataTask)}
        changed = {name: getattr(self, name) for name in _DEFAULTS if getattr(self, name) != _DEFAULTS[name]}
        return {
            "class": type(self).__qualname__,
            "data": self.name if self.name is not None else self._digest,
            "batch": self.batch,
            "seed": self.seed,
            **{name: value if _plain(value) else identity(value) for name, value in changed.items()},
            **{name: _described(getattr(self, name)) for name in sorted(own)},
            **added(self),
        }

    @functools.cached_property
    def _digest(self) -> dict[str, Any]:
        return {whose: self._splits[whose].describe() for whose in ("train", "valid")}

    def __getstate__(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self)}  # not what was made of it

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        """As the call of a `recipe`, or as the data."""
        if getattr(self, "_recipe", None) is None:
            for one in fields(self):
                _check_pickles(one.name, getattr(self, one.name))
        return super().__reduce_ex__(protocol)


def _check_apart(splits: Mapping[str, Any]) -> None:
    """Refuses two splits that are one object or share samples."""
    given = [(whose, split) for whose, split in splits.items() if split is not None]
    for at, (whose, split) in enumerate(given):
        for other, another in given[at + 1 :]:
            first, second = (
                getattr(one, "dataset", one) if isinstance(one, data.DataLoader) else one for one in (split, another)
            )
            shared = first is second
            if isinstance(first, data.Subset) and isinstance(second, data.Subset) and first.dataset is second.dataset:
                shared = bool(set(map(int, first.indices)) & set(map(int, second.indices)))
            if shared:
                raise TrainError(
                    f"{whose} and {other} have the same samples; a network would be judged by what it has seen, so split the data"
                )


def _check_different(splits: Mapping[str, Data]) -> None:
    """Refuses two splits of equal tensors."""
    seen: dict[str, str] = {}
    for whose, split in splits.items():
        if isinstance(split, Tensors):
            digest = str(split.describe())
            if digest in seen:
                raise TrainError(
                    f"{seen[digest]} and {whose} have the same samples; a network would be judged by what it has seen, so split "
                    "the data"
                )
            seen[digest] = whose


class _Nowhere:
    def write(self, _: Any) -> int:
        return 0


def _check_pickles(name: str, value: Any) -> None:
    """Says which part cannot go to a worker, before a long sentence of pickle's does."""
    if isinstance(value, (Tensor, np.ndarray)) or _plain(value):
        return
    try:
        pickle.Pickler(_Nowhere(), pickle.HIGHEST_PROTOCOL).dump(value)
    except Exception as error:  # of whatever a user's object does when it is pickled
        raise TrainError(
            f"the task's {name} cannot be sent to another process ({error}); make the task in an importable function and "
            "decorate that with @nas.train.recipe, so that workers make it themselves"
        ) from error


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _described(value: Any) -> Any:
    """JSON of an option."""
    return (
        value.describe()
        if isinstance(value, Divergence)
        else list(value)
        if isinstance(value, tuple)
        else value
        if _plain(value)
        else identity(value)
    )


def check_least(targets: Tensor, ignore: int | None, whose: str) -> None:
    """Refuses negative classes, but for the one that does not count."""
    counted = targets if ignore is None else targets[targets != ignore]
    if len(counted) and int(counted.min()) < 0:
        raise TrainError(
            f"{whose} has class {int(counted.min())}; classes are numbered from 0, and what does not count is {ignore}"
        )


def type_of(tensor: Tensor) -> str:
    """Its type's short name."""
    return str(tensor.dtype).removeprefix("torch.")


class in_range:
    """Says in a sentence what torch says of a class that has no logit."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, IndexError) and "out of bounds" in str(error):
            raise TrainError(
                f"a target is no class of the model ({next(iter(str(error).splitlines()))}); classes are numbered from 0, and "
                "the model needs one output for each"
            ) from error
