"""Where a task's batches come from: tensors and arrays, data sets, loaders, functions that make an iterable.

Two kinds.  `Rows` are numbered, so that an epoch's order is a function of seed and epoch, and any batch can be read again;
`Stream`s are read from their beginning.  What a data set draws at random from the global generators of torch, NumPy and Python
(augmentation) is seeded by epoch and batch, so that it is drawn again when the batch is.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from nas.errors import TrainError
from nas.identity import IDENTITY
from nas.supernet.inputs import batch_size, tensors_in
from nas.train.pairs import Names, as_batch, check_finite, tensors
from nas.train.task import Batch, mixed, pieces

_DIGESTED = 64  # rows of a data set that are read for its digest
_LOOKED = 4  # batches of a stream that judges that are read for its description
_WHOLE = 1 << 26  # bytes of tensors that are digested whole; of larger ones evenly spread rows
_CHECKED = 1 << 30  # bytes of tensors that are searched for NaN whole


@dataclass(frozen=True)
class Reading:
    """How batches are made of what the user gave.

    Args:
        batch: samples a training batch.
        inputs: names of a mapping that the model is called with by place.
        target: name of a mapping's target.
        collate_fn: a list of samples to a batch; None is torch's.
        num_workers: processes that read.
        pin_memory: for faster copies to a GPU.
        even: batches that are not trained on are as large as those that are.
    """

    batch: int
    inputs: Names = None
    target: str | None = None
    collate_fn: Callable[[list[Any]], Any] | None = None
    num_workers: int = 0
    pin_memory: bool = False
    even: bool = False


class Data(ABC):
    """One split."""

    whose = "train"
    exact = True
    """Whether an epoch can be read again with the same batches."""

    @abstractmethod
    def steps(self) -> int:
        """Training batches of an epoch.

        Raises:
            TrainError: nobody knows, or there is none.
        """

    @abstractmethod
    def shuffled(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Training batches of an epoch."""

    @abstractmethod
    def in_order(self) -> Iterator[Batch]:
        """All samples once, the same at each call."""

    @abstractmethod
    def some(self, seed: int, count: int) -> Iterator[Batch]:
        """About `count` samples for statistics, the same at each call."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What tells two splits apart, without reading all of it."""

    @abstractmethod
    def first(self) -> Batch:
        """A few samples.

        Raises:
            TrainError: there is none, or they are no pairs.
        """

    def check_judges(self, first: Batch) -> None:
        """Whether the samples are the same at each reading, as those must be that networks are compared by.

        Args:
            first: what `first` gave.

        Raises:
            TrainError: they are not.
        """
        if _content(first) != _content(self.first()):
            raise TrainError(
                f"{self.whose} gives other samples each time that it is read, so that the same network would be judged otherwise "
                "each time; draw them with a fixed seed at each reading, or give a fixed set"
            )


class Rows(Data):
    """Numbered samples."""

    def __init__(self, whose: str, reading: Reading) -> None:
        self.whose, self.reading = whose, reading

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, parts: Sequence[Tensor], seed: int, *, here: bool = False) -> Iterator[Batch]:
        """A batch of each list of row numbers; `here` starts no processes for it."""

    def steps(self) -> int:
        """Whole batches: a ragged end has too few samples for normalisation layers."""
        if self.reading.batch > len(self):
            raise TrainError(
                f"batch={self.reading.batch} does not fit {len(self)} training samples; choose 1 to that many"
            )
        return len(self) // self.reading.batch

    def shuffled(self, seed: int, epoch: int) -> Iterator[Batch]:
        """Without replacement, in an order that depends on `(seed, epoch)`."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(mixed(seed, epoch)))
        size = self.reading.batch
        return self.take(torch.split(order[: self.steps() * size], size), mixed(seed, epoch, "augmentation"))

    def in_order(self) -> Iterator[Batch]:
        """A last batch of one sample is one with that before."""
        return self.take(pieces(torch.arange(len(self)), self.size), 0)

    @property
    def size(self) -> int:
        """Samples of a batch that is not trained on."""
        return self.reading.batch

    def some(self, seed: int, count: int) -> Iterator[Batch]:
        """The first of a fixed random order."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(mixed(seed, "calibration")))
        return self.take(pieces(order[:count], self.size), 0)

    def first(self) -> Batch:
        """The first rows."""
        if not len(self):
            raise TrainError(f"{self.whose} is empty; give one sample or more")
        return next(iter(self.take([torch.arange(min(len(self), 8))], 0, here=True)))

    def describe(self) -> dict[str, Any]:
        """Length, and a digest of evenly spread rows."""
        rows = torch.linspace(0, len(self) - 1, min(len(self), _DIGESTED)).round().long()
        found = hashlib.blake2b(digest_size=8)
        for batch in self.take([row[None] for row in rows], 0, here=True):
            for tensor in tensors_in((batch.inputs, batch.targets)):
                hash_tensor(found, tensor)
        return {"rows": len(self), "digest": found.hexdigest()}


class Tensors(Rows):
    """Tensors and arrays in memory (or mapped into it), (n, …) each."""

    def __init__(self, whose: str, reading: Reading, given: Any) -> None:
        super().__init__(whose, reading)
        self.given = given
        lengths = {len(one) if one.ndim else 0 for one in _arrays(given)}
        if len(lengths) != 1:
            shapes = " and ".join(str(tuple(one.shape)) for one in _arrays(given)) or "nothing"
            raise TrainError(f"{whose} has arrays of {shapes}; each needs as many samples along its first axis")
        (self._length,) = lengths

    def __len__(self) -> int:
        return self._length

    @property
    def size(self) -> int:
        """Without gradients larger batches cost less."""
        return self.reading.batch if self.reading.even else max(self.reading.batch, 256)

    def take(self, parts: Sequence[Tensor], seed: int, *, here: bool = False) -> Iterator[Batch]:
        """Copied rows; views where they follow one another."""
        del seed, here  # nothing is random, and nobody else reads
        return (self._batch(rows) for rows in parts)

    def _batch(self, rows: Tensor) -> Batch:
        raw = _mapped(self.given, lambda one: _rows_of(one, rows))
        return as_batch(raw, self.reading.inputs, self.reading.target, self.whose)

    def check(self) -> None:
        """Refuses NaN anywhere; in what is larger than a gigabyte, in the first rows."""
        if sum(one.nbytes for one in _arrays(self.given)) <= _CHECKED:
            for batch in self.in_order():
                check_finite(batch, self.whose)

    def describe(self) -> dict[str, Any]:
        """Of all bytes, if they are not many."""
        if sum(one.nbytes for one in _arrays(self.given)) > _WHOLE:
            return super().describe()
        found = hashlib.blake2b(digest_size=8)
        for one in _arrays(self.given):
            hash_tensor(found, torch.as_tensor(np.array(one)) if isinstance(one, np.ndarray) else one)
        return {"rows": len(self), "digest": found.hexdigest()}


class Items(Rows):
    """A data set with a length and numbered samples, torch's or one of Hugging Face, read as it is needed."""

    def __init__(self, whose: str, reading: Reading, given: Any) -> None:
        super().__init__(whose, reading)
        self.given = given

    def __len__(self) -> int:
        return len(self.given)

    def take(self, parts: Sequence[Tensor], seed: int, *, here: bool = False) -> Iterator[Batch]:
        """By torch's loader, which has the workers; what the data set draws is a function of `seed` and the batch."""
        keys = [[mixed(seed, at), *rows.tolist()] for at, rows in enumerate(parts)]
        return self._read(keys, 0 if here else self.reading.num_workers)

    def _read(self, keys: list[list[int]], workers: int) -> Iterator[Batch]:
        reading = self.reading
        loader: Iterable[Any] = data.DataLoader(
            _Seeded(self.given, self.whose),
            batch_sampler=keys,
            num_workers=min(workers, len(keys)),
            collate_fn=_Collate(reading.collate_fn, self.whose),
            pin_memory=reading.pin_memory and torch.cuda.is_available(),
            generator=torch.Generator(),  # of the workers' seeds, which are not used: the global one stays as it is
        )
        try:
            for raw in loader:
                yield as_batch(raw, reading.inputs, reading.target, self.whose)
        except TrainError as error:  # of a worker it comes with the worker's traceback as its text
            raise TrainError(str(error).strip().rpartition("TrainError: ")[2]) from None


class Part(Rows):
    """Some of the samples of another split."""

    def __init__(self, whole: Rows, rows: Tensor, batch: int) -> None:
        super().__init__(whole.whose, replace(whole.reading, batch=batch))
        self.whole, self.rows = whole, rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def size(self) -> int:
        """As the whole's."""
        return self.whole.size

    def take(self, parts: Sequence[Tensor], seed: int, *, here: bool = False) -> Iterator[Batch]:
        """The whole's."""
        return self.whole.take([self.rows[part] for part in parts], seed, here=here)


class Windows(Rows):
    """A sequence of tokens, (length,), in windows that do not overlap: inputs, and the same one token further."""

    def __init__(self, whose: str, reading: Reading, tokens: Any, context: int) -> None:
        super().__init__(whose, reading)
        self.tokens, self.context = tokens, context
        whole = not tokens.is_floating_point() if isinstance(tokens, Tensor) else tokens.dtype.kind in "iu"
        if tokens.ndim != 1 or not whole:
            raise TrainError(
                f"{whose} is an array of {tokens.dtype} and shape {tuple(tokens.shape)}; a sequence of tokens is (length,), "
                "whole numbers, and windows are (inputs, targets)"
            )
        if len(tokens) <= context:
            raise TrainError(
                f"{whose} has {len(tokens)} tokens and context={context} needs {context + 1}; give more, or less context"
            )

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.context

    def take(self, parts: Sequence[Tensor], seed: int, *, here: bool = False) -> Iterator[Batch]:
        """(n, context) tokens twice."""
        del seed, here
        for rows in parts:
            places = rows[:, None] * self.context + torch.arange(self.context + 1)
            found = (
                self.tokens[places]
                if isinstance(self.tokens, Tensor)
                else torch.from_numpy(self.tokens[places.numpy()])
            )
            yield Batch(found[:, :-1].long().contiguous(), found[:, 1:].long().contiguous())


class Stream(Data):
    """Batches that come one after the other: a user's loader, an iterable data set, a function that makes an iterable.

    Args:
        whose: split.
        reading: names and samples.
        make: an epoch's number to an iterable of batches.
        steps: training batches of an epoch; None where nobody knows.
        exact: whether an epoch gives the same batches each time.
        rows: the samples behind it, for a digest.
    """

    def __init__(  # noqa: PLR0917
        self,
        whose: str,
        reading: Reading,
        make: Callable[[int], Iterable[Any]],
        steps: int | None,
        exact: bool,
        rows: Rows | None = None,
    ) -> None:
        self.whose, self.reading, self.make, self.exact, self.rows = whose, reading, make, exact, rows
        self._steps = steps

    def steps(self) -> int:
        """As the loader says."""
        if self._steps is None:
            raise TrainError(
                f"{self.whose} does not say how many batches it gives; give epoch_steps=, the number of training batches an epoch"
            )
        if self._steps < 1:
            raise TrainError(f"{self.whose} gives no batch; give more data or smaller batches")
        return self._steps

    def shuffled(self, seed: int, epoch: int) -> Iterator[Batch]:
        """As the loader shuffles, whose draws from the global generators are seeded."""
        count = 0
        for batch in self._batches(mixed(seed, epoch), epoch):
            count += 1
            yield batch
        if self._steps is not None and count < self._steps:
            raise TrainError(
                f"epoch {epoch} of {self.whose} gave {count} batches and {self._steps} are expected; a generator is used up "
                "after one pass, so give a function that makes a new one each time, or a smaller epoch_steps="
            )

    def in_order(self) -> Iterator[Batch]:
        """As it comes."""
        return self._batches(0, 0)

    def some(self, seed: int, count: int) -> Iterator[Batch]:
        """The first batches of an epoch."""
        seen = 0
        for batch in self._batches(mixed(seed, "calibration"), 0):
            if seen >= count:
                return
            seen += batch_size(batch.inputs)
            yield batch

    def first(self) -> Batch:
        """The first batch."""
        found = next(self._batches(0, 0), None)
        if found is None:
            raise TrainError(f"{self.whose} is empty; give one batch or more")
        return found

    def describe(self) -> dict[str, Any]:
        """Rows behind a loader; else shapes of the first batch, and what the first ones hold where that is the same each time.

        Contents are compared where both descriptions have them: those of earlier versions have shapes alone.
        """
        if self.rows is not None:
            return {"batches": self._steps, **self.rows.describe()}
        first = self.first()
        if self.exact:
            return {"batches": self._steps, "digest": _content(first)}
        found = hashlib.blake2b(digest_size=8)
        for tensor in tensors_in((first.inputs, first.targets)):
            found.update(f"{tuple(tensor.shape[1:])} {tensor.dtype}".encode())
        shapes = {"batches": self._steps, "digest": found.hexdigest()}
        if _content(first) != _content(self.first()):
            return shapes
        count = 1 if self.whose == "train" else _LOOKED
        held = [_content(batch) for batch in itertools.islice(self._batches(0, 0), count)]
        return {**shapes, IDENTITY: {"content": held}}

    def _batches(self, seed: int, epoch: int) -> Iterator[Batch]:
        for raw in _drawn(lambda: self.make(epoch), seed, self.whose):
            yield as_batch(raw, self.reading.inputs, self.reading.target, self.whose)


def _content(batch: Batch) -> str:
    """A digest of all that a batch holds."""
    found = hashlib.blake2b(digest_size=8)
    for tensor in tensors_in((batch.inputs, batch.targets)):
        hash_tensor(found, tensor)
    return found.hexdigest()


def source(given: Any, whose: str, reading: Reading, steps: int | None, exact: bool | None) -> Data:
    """What `given` is.

    Args:
        given: see `nas.Task.of`.
        whose: split, for sentences.
        reading: how batches are made.
        steps: training batches of an epoch, for what does not tell.
        exact: what the user says of a stream.

    Raises:
        TrainError: it is nothing that gives samples.
    """
    if isinstance(given, data.DataLoader):
        return _loader(given, whose, reading, steps, exact)
    if isinstance(given, data.IterableDataset):
        return _iterable(given, whose, reading, steps, exact)
    if isinstance(given, (tuple, Mapping)):
        return _tensors(given, whose, reading)
    if hasattr(given, "__getitem__") and hasattr(given, "__len__") and not isinstance(given, (Tensor, np.ndarray, str)):
        return Items(whose, reading, given)
    if callable(given):
        return Stream(whose, reading, _maker(given), steps, bool(exact))
    if isinstance(given, Iterator):
        raise TrainError(
            f"{whose} is a {type(given).__name__}, which can be read once; give a function that makes a new one each epoch"
        )
    raise TrainError(
        f"{whose} is a {type(given).__name__} and gives no samples; give (inputs, targets) as arrays or tensors, a Dataset, a "
        "DataLoader, or a function that makes an iterable of batches"
    )


def _tensors(given: Any, whose: str, reading: Reading) -> Tensors:
    try:
        held = _mapped(given, lambda one: one)
    except TypeError as error:
        raise TrainError(
            f"{whose} holds {error} beside arrays; give tensors or NumPy arrays, a data set's split by itself"
        ) from None
    found = Tensors(whose, reading, held)
    if not len(found):
        raise TrainError(f"{whose} is empty; give one sample or more")
    found.check()
    return found


def _loader(given: data.DataLoader[Any], whose: str, reading: Reading, steps: int | None, exact: bool | None) -> Stream:
    for name in ("collate_fn", "num_workers", "pin_memory"):
        if getattr(reading, name):
            raise TrainError(f"{name} is the DataLoader's own for {whose}; give it to the DataLoader")
    samples: Any = given.dataset
    streamed = isinstance(samples, data.IterableDataset)
    if whose != "train" and given.drop_last and (streamed or len(samples) % (given.batch_size or 1)):
        raise TrainError(
            f"the DataLoader of {whose} has drop_last=True, so that some samples are not judged; make it with drop_last=False"
        )
    if steps is None:
        try:
            steps = len(given)
        except TypeError:
            steps = None
    rows = None if streamed else Items(whose, reading, given.dataset)
    return Stream(whose, reading, lambda _: given, steps, _repeats(given) if exact is None else exact, rows)


def _repeats(loader: data.DataLoader[Any]) -> bool:
    """Whether an epoch is a function of the global generators' seeds: the loader keeps no state of its own."""
    sampler: Any = loader.sampler
    known = type(sampler) is data.SequentialSampler or (
        type(sampler) is data.RandomSampler and getattr(sampler, "generator", None) is None
    )
    return (
        known
        and type(loader.batch_sampler) is data.BatchSampler
        and loader.generator is None
        and not (loader.num_workers and loader.persistent_workers)
        and not isinstance(loader.dataset, data.IterableDataset)
    )


def _iterable(
    given: data.IterableDataset[Any], whose: str, reading: Reading, steps: int | None, exact: bool | None
) -> Stream:
    if steps is None and hasattr(given, "__len__"):
        steps = len(given) // reading.batch

    def make(epoch: int) -> Iterable[Any]:
        if hasattr(given, "set_epoch"):
            given.set_epoch(epoch)
        return data.DataLoader(
            given,
            batch_size=reading.batch,
            num_workers=reading.num_workers,
            collate_fn=_Collate(reading.collate_fn, whose),
            pin_memory=reading.pin_memory and torch.cuda.is_available(),
            drop_last=whose == "train",
        )

    return Stream(whose, reading, make, steps, bool(exact))


def _maker(given: Callable[..., Any]) -> Callable[[int], Iterable[Any]]:
    """A function that makes an iterable, given the epoch if it takes one."""
    try:
        takes = [one for one in inspect.signature(given).parameters.values() if one.default is one.empty]
    except (TypeError, ValueError):
        takes = []
    return (lambda epoch: given(epoch)) if takes else (lambda _: given())


# -- random numbers


@contextmanager
def _drawing(state: list[Any]) -> Iterator[None]:
    """The global generators have the states of `state` inside, which go on there; outside they are what they were."""
    before = [torch.get_rng_state(), np.random.get_state(), random.getstate()]
    try:
        if len(state) == 1:
            seed = state[0]
            torch.default_generator.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
        else:
            _set(state)
        yield
    finally:
        state[:] = [torch.get_rng_state(), np.random.get_state(), random.getstate()]
        _set(before)


def _set(state: Sequence[Any]) -> None:
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])
    random.setstate(state[2])


def _drawn(make: Callable[[], Any], seed: int, whose: str) -> Iterator[Any]:
    """What an iterable gives, with random numbers of its own."""
    state: list[Any] = [seed]
    with _drawing(state):
        made = make()
        if not isinstance(made, Iterable):
            raise TrainError(
                f"{whose} is a function that gives a {type(made).__name__}; it makes an iterable of batches, new at each call"
            )
        iterator = iter(made)
    while True:
        with _drawing(state):
            try:
                found = next(iterator)
            except StopIteration:
                return
        yield found


class _Seeded(data.Dataset[Any]):
    """A data set that is asked for a seed and rows, and draws its random numbers from that seed."""

    def __init__(self, given: Any, whose: str) -> None:
        self.given, self.whose = given, whose

    def __getitem__(self, row: int) -> Any:
        return self.given[row]

    def __getitems__(self, key: list[int]) -> list[Any]:
        seed, *rows = key
        with _drawing([seed]):
            if hasattr(self.given, "__getitems__"):
                found = list(self.given.__getitems__(rows))
            else:
                found = [self.given[row] for row in rows]
        return found


class _Collate:
    """A user's `collate_fn`, or torch's with a sentence for what it cannot put together."""

    def __init__(self, own: Callable[[list[Any]], Any] | None, whose: str) -> None:
        self.own, self.whose = own, whose

    def __call__(self, samples: list[Any]) -> Any:
        if self.own is not None:
            return self.own(samples)
        first = samples[0]
        if not isinstance(first, (tuple, list, Mapping)) or (isinstance(first, (tuple, list)) and len(first) < 2):
            as_batch(first, None, None, self.whose)  # says what is expected
        made = [tensors(sample, f"a sample of {self.whose}") for sample in samples]
        try:
            return data.default_collate(made)
        except (RuntimeError, TypeError, KeyError) as error:
            said = next(iter(str(error).splitlines()), "")
            raise TrainError(
                f"samples of {self.whose} do not make a batch ({said}); give them one size, or a collate_fn= that pads them"
            ) from None


# -- arrays


def _arrays(given: Any) -> list[Any]:
    """The tensors and arrays in it."""
    if isinstance(given, (Tensor, np.ndarray)):
        return [given]
    parts = given.values() if isinstance(given, Mapping) else given
    return [one for part in parts for one in _arrays(part)]


def _mapped(given: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(given, (Tensor, np.ndarray)):
        return change(given)
    if isinstance(given, Mapping):
        return {name: _mapped(item, change) for name, item in given.items()}
    if isinstance(given, (tuple, list)) and not (given and isinstance(given[0], (bool, int, float, str))):
        return tuple(_mapped(item, change) for item in given)
    raise TypeError(f"a {type(given).__name__}")


def _rows_of(one: Any, rows: Tensor) -> Any:
    start, stop = int(rows[0]), int(rows[-1]) + 1
    if stop - start == len(rows) and torch.equal(rows, torch.arange(start, stop)):
        return one[start:stop] if isinstance(one, Tensor) else np.array(one[start:stop])
    return one[rows] if isinstance(one, Tensor) else one[rows.numpy()]


def hash_tensor(found: Any, tensor: Tensor) -> None:
    """Add a tensor's shape, type and bytes to a digest."""
    found.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
