"""What a frozen teacher gave for each batch, kept in a folder: it runs once for all networks, runs, workers and processes.

An entry is found by the content of the inputs themselves and by a fingerprint of the teacher, so that other data, another order,
another augmentation or another teacher is another entry and never a wrong one.  Batches are functions of seed and epoch, so that
all networks of a task meet the same ones, augmented or not.  An entry is a batch and no sample: what a teacher gives for a sample
is rounded otherwise in another batch, and some teachers relate samples.

Reinforced data sets store such outputs per sample and augmentation (Faghri et al. 2023, "Reinforce Data, Multiply Impact").
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from nas import files
from nas.checking import Count, Positive, checked
from nas.errors import TrainError
from nas.identity import behaviour
from nas.supernet.effects import varies
from nas.supernet.inputs import call, tensors_in
from nas.supernet.skeleton import quiet
from nas.train.sources import hash_tensor
from nas.train.task import Batch, to_device

if TYPE_CHECKING:
    from nas.train.trainer import Training

GIB = 2**30
DIGEST = 16  # bytes in front of each entry, of the rest
CLOSE = 2e-2
"""How far a stored output may be from the same teacher's now, relative to the largest: other processors round otherwise."""


@dataclass(frozen=True)
class Taught:
    """What a teacher gave for a batch.

    Attributes:
        logits: (…, classes), or whatever the task compares; of the `top` classes alone: (…, top + 1), the last the logarithm
            of what the rest sums up to.
        indices: (…, top) of those classes; None where all are there.
    """

    logits: Tensor
    indices: Tensor | None = None

    def of(self, student: Tensor) -> Tensor:
        """A student's logits in the same form, with their graph."""
        return student if self.indices is None else _folded(student, self.indices)

    @classmethod
    def top(cls, logits: Tensor, count: int) -> Taught:
        """Those of the most probable classes, and the rest as one more class."""
        indices = logits.topk(count, -1).indices
        return cls(_folded(logits, indices), indices)


class TeacherOutputs:
    """Outputs of frozen teachers over the training data, stored so that a teacher runs once for each batch.

    >>> nas.Teacher(model, outputs=nas.TeacherOutputs("outputs"))  # doctest: +SKIP

    A training with it is the same as one with a running teacher, to the bit where the machine and its threads are the same;
    `top` alone changes what is learnt.  Entries are written whole or not at all, are checked when they are read, and several
    processes share a folder.  Where the disk is full or the limit is reached, the teacher runs for the rest; a warning says so
    once.

    Args:
        folder: of the entries, made when it is needed; on a file system that all workers see.
        limit_gib: the most that the folder may take; about, where several processes write.
        top: keep the so many most probable classes and the sum of the rest, for many classes: the loss is then the divergence
            of these `top + 1`, at temperature 1.  None keeps all.
    """

    @checked(TrainError)
    def __init__(self, folder: str | Path, *, limit_gib: Positive = 4.0, top: Count | None = None) -> None:
        self.folder, self.limit_gib, self.top = Path(folder), limit_gib, top
        self._forget()

    def _forget(self) -> None:
        self._known: weakref.WeakKeyDictionary[nn.Module, _Known] = weakref.WeakKeyDictionary()
        self._size: int | None = None  # of the folder, as it was listed last and grew since
        self._grown = 0
        self._closed = False  # nothing more is stored

    def __repr__(self) -> str:
        return f"TeacherOutputs({str(self.folder)!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "limit_gib": self.limit_gib, "top": self.top}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept)
        self._forget()

    def describe(self) -> dict[str, Any]:
        """JSON-able options that change what is learnt: none but `top`."""
        return {} if self.top is None else {"top": self.top}

    def ready(self, module: nn.Module, training: Training) -> None:
        """Called before each training: whether outputs of this teacher, as it is now, can be stored.

        Raises:
            TrainError: batches of the task cannot be asked again; the content of its inputs cannot be told; the teacher draws
                at random or keeps something of earlier calls; there are not more classes than `top`; or the folder cannot be
                written.
        """
        task = training.task
        if not task.repeatable:
            raise TrainError(
                f"{type(task).__name__} has training data with an order of their own, so that stored outputs of a teacher would "
                "never be found again; leave outputs= out, or give a data set"
            )
        example = to_device(task.example, training.device)
        if _content(example) is None:
            raise TrainError(
                f"inputs of {type(task).__name__} hold what is no tensor, array, number or text, so that stored outputs of a "
                "teacher cannot be found by them; leave outputs= out"
            )
        with torch.no_grad(), quiet():
            logits = task.logits(call(module, example))
        name, known = _fingerprint(module, task, logits), self._known.get(module)
        if known is None or known.name != name:
            self._check(module, example, logits)
        self._known[module] = _Known(name, _versions(module))

    def _check(self, module: nn.Module, example: Any, logits: Tensor) -> None:
        """Raises what `ready` says of the teacher, of which nothing is known yet, and of the folder."""
        who = f"the teacher, a {type(module).__name__},"
        if varies(lambda: call(module, example)) or _draws(module, example):
            raise TrainError(
                f"{who} gives other outputs at each call in eval mode or draws random numbers, so that stored ones are not what "
                "it would give; leave outputs= out"
            )
        if self.top is not None and (logits.ndim < 2 or logits.shape[-1] <= self.top):
            raise TrainError(
                f"{who} gives {logits.shape[-1] if logits.ndim else 1} classes and top={self.top} keeps some of them; give a "
                "smaller top=, or leave it out"
            )
        with files.explained(self.folder, TrainError):
            self.folder.mkdir(parents=True, exist_ok=True)

    def ask(self, module: nn.Module, batch: Batch, run: Callable[[], Tensor]) -> Taught:
        """What the teacher gives for a batch: read, or computed and stored.

        Args:
            module: the teacher, `ready`.
            batch: on the training's device.
            run: gives its logits.

        Raises:
            TrainError: its weights have changed since, or what is stored is not what it gives.
        """
        known = self._known[module]
        if known.versions != _versions(module):
            raise TrainError(
                f"the weights of the teacher, a {type(module).__name__}, change while a network learns from it, so that stored "
                "outputs are not what it gives; give it weights of its own, or leave outputs= out"
            )
        content = _content(batch.inputs)
        if content is None:
            return self._made(run())
        path = self.folder / known.name / f"{self._key(batch.inputs, content)}.out"
        found = _read(path, _device(batch.inputs))
        if found is None:
            found = self._made(run())
            self._store(path, found)
        elif not known.compared:
            self._compare(found, self._made(run()), path)
            known.compared = True
        return found

    def _made(self, logits: Tensor) -> Taught:
        return Taught(logits) if self.top is None else Taught.top(logits, self.top)

    def _key(self, inputs: Any, content: bytes) -> str:
        kind = _device(inputs).type
        cast = str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else "plain"
        return hashlib.blake2b(
            content + f"{kind} {cast} {'all' if self.top is None else self.top}".encode(), digest_size=16
        ).hexdigest()

    def _compare(self, stored: Taught, now: Taught, path: Path) -> None:
        """The first entry that a training reads is compared: something outside of a teacher may decide what it gives."""
        ours, theirs = stored.logits.double(), now.logits.double()
        if ours.shape == theirs.shape and (ours - theirs).abs().max() <= CLOSE * theirs.abs().max():
            return
        raise TrainError(
            f"'{path.parent}' holds other outputs than the teacher gives now for the same batch, though its weights are the "
            "same; something else decides what it gives: remove that folder, or leave outputs= out"
        )

    def _store(self, path: Path, found: Taught) -> None:
        if self._closed:
            return
        parts = {"logits": found.logits.detach().cpu().contiguous()}
        if found.indices is not None:
            parts["indices"] = found.indices.to(torch.int32).cpu().contiguous()
        body = save(parts)
        if self._held() + len(body) > self.limit_gib * GIB:
            self._close(f"take {self.limit_gib:g} GiB, which is limit_gib")
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write(path, hashlib.blake2b(body, digest_size=DIGEST).digest() + body)
        except OSError as error:
            self._close(f"cannot be written ({error.strerror or error})")
            return
        self._grown += len(body)

    def _held(self) -> int:
        """Bytes of the folder; listed again when a twentieth of the limit was written, because others write too."""
        if self._size is None or self._grown > 0.05 * self.limit_gib * GIB:
            self._size, self._grown = sum(map(_bytes, _entries(self.folder))), 0
        return self._size + self._grown

    def _close(self, why: str) -> None:
        self._closed = True
        warnings.warn(
            f"outputs of the teacher in '{self.folder}' {why}; it runs for the rest of the batches, and nothing is lost",
            UserWarning,
            stacklevel=2,
        )


@dataclass
class _Known:
    """A teacher in a training: its fingerprint, the versions of its tensors then, and whether an entry was compared since."""

    name: str
    versions: tuple[int, ...]
    compared: bool = False


def _folded(logits: Tensor, indices: Tensor) -> Tensor:
    """(…, top + 1): those of `indices`, and the logarithm of the sum of the others' exponentials."""
    wide, rows = logits.float(), indices.long()
    rest = wide.scatter(-1, rows, float("-inf")).logsumexp(-1, keepdim=True)
    return torch.cat([wide.gather(-1, rows), rest], -1)


def _fingerprint(module: nn.Module, task: Any, logits: Tensor) -> str:
    """Of all that tells two teachers apart: every bit of the weights, what else it computes with, and what one sample gives."""
    told = f"{type(module).__qualname__} {type(task).__qualname__} {module} {json.dumps(behaviour(module))}"
    found = hashlib.blake2b(told.encode(), digest_size=8)
    buffers = [(name, one) for name, one in module.named_buffers() if name not in module.state_dict()]
    for name, tensor in [*module.state_dict().items(), *buffers, ("", logits)]:
        found.update(name.encode())
        if isinstance(tensor, Tensor):
            hash_tensor(found, tensor)
    return found.hexdigest()


def _versions(module: nn.Module) -> tuple[int, ...]:
    """How often each tensor was changed in place."""
    tensors = (*module.parameters(), *module.buffers())
    return tuple(0 if one.is_inference() else one._version for one in tensors)


def _draws(module: nn.Module, example: Any) -> bool:
    """Whether a call changes the random states of torch, from which a student's dropout is drawn."""
    with quiet(), torch.no_grad():
        before = torch.get_rng_state()
        call(module, example)
        return not torch.equal(before, torch.get_rng_state())


def _content(value: Any) -> bytes | None:
    """A digest of inputs; None where they hold what cannot be told apart."""
    found = hashlib.blake2b(digest_size=16)
    try:
        _walk(value, found)
    except TypeError:
        return None
    return found.digest()


def _walk(value: Any, found: Any) -> None:
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_nested:
            raise TypeError
        hash_tensor(found, value)
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        hash_tensor(found, torch.as_tensor(np.array(value)))
    elif value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        found.update(f"{type(value).__name__} {value!r}".encode())
    elif isinstance(value, Mapping):
        found.update(f"mapping {len(value)}".encode())
        for name, one in value.items():
            _walk(name, found)
            _walk(one, found)
    elif isinstance(value, (tuple, list)):
        found.update(f"{type(value).__name__} {len(value)}".encode())
        for one in value:
            _walk(one, found)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _walk({field.name: getattr(value, field.name) for field in dataclasses.fields(value)}, found)
    else:
        raise TypeError


def _device(inputs: Any) -> torch.device:
    return next((one.device for one in tensors_in(inputs)), torch.device("cpu"))


def _read(path: Path, device: torch.device) -> Taught | None:
    """An entry; None where there is none, or a damaged one."""
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    if hashlib.blake2b(raw[DIGEST:], digest_size=DIGEST).digest() != raw[:DIGEST]:
        return None
    parts = {name: one.to(device) for name, one in load(raw[DIGEST:]).items()}
    return Taught(parts["logits"], parts.get("indices"))


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # somebody has removed it
        return 0


def _entries(folder: Path) -> Iterator[Path]:
    return folder.glob("*/*.out")
