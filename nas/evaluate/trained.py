"""A candidate trained by itself: from scratch, from a supernet's weights, or taught by one; epoch by epoch, resumable.

Every epoch ends with a checkpoint that holds its measurements.  A process may be killed at any moment: whoever evaluates the
arch again goes on behind the last finished epoch, and ends with the same weights.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from nas.checking import Count, Positive, checked
from nas.errors import EvaluationError, SpaceError
from nas.evaluate.base import Evaluator
from nas.evaluate.subnets import Accuracy, OfSubnets, Source
from nas.identity import told
from nas.space import Space, model
from nas.supernet import Supernet
from nas.supernet.inputs import Inputs
from nas.supernet.layouts import Corner
from nas.supernet.rounding import Gap
from nas.train import (
    Features,
    Labels,
    Loss,
    Relative,
    Task,
    Teacher,
    TeacherOutputs,
    Training,
    Uniform,
    as_supernet,
    rng,
    state,
)
from nas.train.best import Best, judged, watching
from nas.train.features import alike
from nas.train.losses import digest
from nas.train.task import mixed
from nas.train.trainer import check_options

if TYPE_CHECKING:
    from nas.space import Arch

# Options of `Training` that this evaluator decides itself.
_OURS = {
    "supernet",
    "task",
    "path",
    "sampler",
    "loss",
    "steps",
    "epochs",
    "device",
    "policy",
    "seed",
    "checkpoint_every",
    "validate_every",
}


class Trained(Evaluator):
    """Quality of an arch that is trained by itself for `epochs` epochs, measured after each.

    `each_epoch(arch)` gives the measurements one epoch after the other, so that a scheduler can stop what does not deserve the
    rest (`nas.tune.run`); calling the evaluator takes the last.  `progress(arch)` reads what has finished so far.

    Args:
        task: data, loss and metrics.
        path: folder of the checkpoints, one folder in it for each arch and setting; workers on several machines must share it.
        epochs: of each training.
        start: a supernet, a training or a checkpoint's folder: candidates begin with its weights; or an evaluator of networks
            that it makes itself (`nas.Blocks`), as which they begin; None is from scratch.
        teacher: likewise: its largest arch teaches the candidates (Hinton et al. 2015), with BatchNorm statistics of the
            calibration data; or a module, which teaches as it is.
        weight: of the teacher; the rest is the labels'.  0.5 unless given.
        temperature: softens teacher and student.  1.0 unless given.
        hidden: weight of how far layers' outputs are from the teacher's (mean of `nas.train.Relative`), beside the loss; layers
            of the same name and shape, as a candidate has whose stream is whole.  The teacher is none without them.
        outputs: what the teacher gave is stored there, so that it runs once for all candidates; None runs it for each.
        loss: what candidates are taught, instead of labels or a teacher.
        device: where to train.
        seed: of the weights from scratch, and of dropout.
        options: others of `nas.Training`: lr, weight_decay, warmup, schedule, optimizer, accumulate, precision, …; with
            best="max accuracy" measurements and weights are those of the best epoch so far, and patience= stops early.

    Raises:
        EvaluationError: an option is unknown, has no effect beside another, or is not what it must be.
    """

    task: Task
    device: str

    @checked(EvaluationError)
    def __init__(
        self,
        task: Task,
        path: str | Path,
        *,
        epochs: Count,
        start: Source | OfSubnets | None = None,
        teacher: Source | nn.Module | None = None,
        weight: float | None = None,
        temperature: float | None = None,
        hidden: Positive | None = None,
        outputs: TeacherOutputs | None = None,
        loss: Loss | None = None,
        device: str = "cpu",
        seed: int = 0,
        **options: Any,
    ) -> None:
        check_options(options, _OURS, "Trained", EvaluationError)
        if teacher is not None and loss is not None:
            raise EvaluationError("teacher and loss both say what candidates are taught; give one of them")
        if teacher is None and (weight is not None or temperature is not None):
            raise EvaluationError(
                f"weight={weight} and temperature={temperature} have no effect without a teacher; give teacher="
            )
        if teacher is None and hidden is not None:
            raise EvaluationError(f"hidden={hidden:g} has no effect without a teacher; give teacher=")
        if teacher is None and outputs is not None:
            raise EvaluationError(f"outputs={outputs!r} has no effect without a teacher; give teacher=")
        self.task, self.path, self.epochs = task, Path(path), epochs
        if isinstance(start, OfSubnets) and start.weights is None:
            raise EvaluationError(f"start={start!r} has no supernet to begin with; give one, or nas.Blocks")
        self._start = start if start is None or isinstance(start, OfSubnets) else Accuracy(start, task)
        self._teacher: _Teaching | None = None if teacher is None else _Teaching.of(teacher, task)
        self._weight = 0.5 if weight is None else weight
        self._temperature = 1.0 if temperature is None else temperature
        self._outputs, self._hidden = outputs, hidden
        self._loss, self.device, self.seed, self.options = loss, device, seed, options
        self.metrics = (*task.metric_names, "epochs")  # how many epochs the others are of
        self.fidelity = ("epochs", float(epochs))

    @property
    def example(self) -> Inputs:
        """Inputs that every candidate takes."""
        return self.task.example

    def __call__(self, arch: Arch) -> dict[str, float]:
        """Measurements after the last epoch; epochs that finished in an earlier, killed evaluation are not repeated."""
        return deque(self.each_epoch(arch), maxlen=1)[0]

    def each_epoch(self, arch: Arch) -> Iterator[dict[str, float]]:
        """Measurements after each epoch: those that have finished already at once, the others as they are trained.

        Between two epochs nothing is held: the next may be made by another process.

        Raises:
            TrainError: the training cannot go on (it diverged, or another process is at it).
        """
        done = self.progress(arch)
        yield from done
        if len(done) == self.epochs or self._finished(arch):
            return
        training = self.training(arch)
        for epoch in range(len(done), self.epochs):
            self._train(training, epoch + 1)
            yield self.progress(arch)[epoch]
            if self._finished(arch):  # early
                return

    def up_to(self, arch: Arch, far: float) -> dict[str, float]:
        """Measurements after `far` epochs of the whole training, which calls of the evaluator go on with.

        Raises:
            EvaluationError: `far` is no whole number of epochs from 1 to all of them.
            TrainError: the training cannot go on.
        """
        if not (1 <= far <= self.epochs and float(far).is_integer()):
            raise EvaluationError(
                f"a training of {self.epochs} epochs cannot stop after {far:g}; give a whole number from 1"
            )
        return deque(islice(self.each_epoch(arch), int(far)), maxlen=1)[0]

    def progress(self, arch: Arch) -> list[dict[str, float]]:
        """Measurements of the epochs that have finished, read from the checkpoint; any process may ask at any time.

        With `best=` those of the best epoch so far, whose weights are the ones that are kept.
        """
        found = state.read(self.folder(arch))
        rows = [] if found is None else [row for row in found.history if row["step"] % self.steps_per_epoch == 0]
        watch = watching(self.options.get("best"), None, 0.0, self.task.metric_names)
        measured: list[dict[str, float]] = []
        best: Best | None = None
        for number, row in enumerate(rows, 1):
            now = {name: row[f"largest_{name}"] for name in self.task.metric_names}
            if watch is not None:
                best = judged(watch, best, number, watch.value({"largest": now}))
            kept = now if best is None or best.step == number else measured[-1]
            measured.append({**kept, "epochs": number})
        return measured

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch."""
        return -(-self.task.steps_per_epoch // int(self.options.get("accumulate", 1)))

    def _finished(self, arch: Arch) -> bool:
        found = state.read(self.folder(arch))
        return found is not None and found.finished

    def folder(self, arch: Arch) -> Path:
        """Where the training of `arch` with these settings is kept; other settings have other folders."""
        return self.path / f"{arch.key}-{hashlib.blake2b(str(self._settings).encode(), digest_size=4).hexdigest()}"

    def training(self, arch: Arch) -> Training:
        """The training of `arch`: of a supernet that has this arch alone.

        Raises:
            EvaluationError: what the arch builds is no module.
            SupernetError: its constructor keeps something in plain attributes that it draws at random.
        """
        per_epoch = self.steps_per_epoch
        module = self._module(arch)
        loss = (self._loss or Labels()) if self._teacher is None else self._teaching(self._teacher, arch, module)
        if self._start is None:
            self._check_constructor(arch, module)
        return Training(
            as_supernet(module, example=self.example, name=arch.key),
            self.task,
            path=self.folder(arch),
            sampler=Uniform(1),
            loss=loss,
            steps=self.epochs * per_epoch,
            device=self.device,
            seed=self.seed,
            checkpoint_every=per_epoch,
            validate_every=per_epoch,
            **self.options,
        )

    def _teaching(self, teacher: _Teaching, arch: Arch, student: nn.Module) -> Loss:
        """What the teacher's outputs, and its layers where they are wanted and there are alike ones, teach a candidate."""
        module = teacher.module_for(arch.space)
        options: dict[str, Any] = {"weight": self._weight, "temperature": self._temperature}
        layers = alike(student, module, self.example) if self._hidden is not None else []
        if not layers or self._hidden is None:
            return Teacher(module, outputs=self._outputs, **options)
        loss = Teacher(module, **options)  # it runs for its layers anyway
        return Features(layers, Relative(), loss, self._hidden / len(layers), module)

    def extract(self, arch: Arch) -> nn.Module:
        """The candidate as it was after its last finished epoch, in eval mode."""
        quality = self._quality(arch)
        return quality.extract(_only(quality))

    def measure_module(self, module: nn.Module) -> dict[str, float]:
        """Metrics of an ordinary module on the validation split."""
        return self._measuring(module).measure_module(module)

    def difference(self, module: nn.Module, arch: Arch) -> Gap:
        """How far the outputs of `module` are from those of the candidate on the example."""
        quality = self._quality(arch)
        return quality.difference(module, _only(quality))

    def check(self, space: Space) -> None:
        """Whether the start and the teacher are there, the settings make a training, and the folder can be written."""
        for one in (self._start, None if self._teacher is None else self._teacher.source):
            if one is not None:
                one.check(space)
        self.training(space.smallest)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EvaluationError(
                f"'{self.path}' is no folder that can be written ({error.strerror}); choose another path"
            ) from error

    def describe(self) -> dict[str, Any]:
        """JSON-able name, task and options; where the checkpoints are and on which device they are made is no part."""
        return {
            "name": "Trained",
            "task": self.task.describe(),
            "epochs": self.epochs,
            "start": None if self._start is None else _started(self._start),
            "teacher": None if self._teacher is None else self._taught(self._teacher),
            "loss": None if self._loss is None else self._loss.describe(),
            "seed": self.seed,
            "options": {
                name: told(value) if callable(value) else value for name, value in sorted(self.options.items())
            },
        }

    @functools.cached_property
    def _settings(self) -> str:
        return json.dumps(self.describe(), sort_keys=True)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_settings": self._settings}  # of this process's objects, as all workers' folders are

    def _taught(self, teacher: _Teaching) -> dict[str, Any]:
        options = {"weight": self._weight, "temperature": self._temperature}
        hidden = {} if self._hidden is None else {"hidden": self._hidden}
        return {
            "weights": teacher.describe(),
            **options,
            **hidden,
            **(self._outputs.describe() if self._outputs else {}),
        }

    def _train(self, training: Training, epoch: int) -> None:
        """Makes epoch 1, 2, … and commits it."""
        training.run(progress=False, until=epoch * self.steps_per_epoch)

    def _module(self, arch: Arch) -> nn.Module:
        if self._start is not None:
            return self._start.extract(arch)
        with rng.forked(mixed(self.seed, arch.key)):  # weights are a function of the seed and the arch
            module = arch.space.build(arch)
        if not isinstance(module, nn.Module):
            raise SpaceError(
                f"an arch of space {arch.space.name!r} is a {type(module).__name__} and cannot be trained; "
                "decorate the function that builds the module with @nas.model"
            )
        return module

    def _check_constructor(self, arch: Arch, module: nn.Module) -> None:
        """Refuse a network that a process which goes on would build otherwise: its buffers are kept, plain attributes are not."""
        one = Space(model(lambda: arch.space.build(arch))(), name=arch.space.name)
        buffers = {glob.escape(name): Corner() for name, _ in module.named_buffers(remove_duplicate=False)}
        Supernet(one, layouts=buffers, example=self.example)

    def _quality(self, arch: Arch) -> Accuracy:
        folder = self.folder(arch)
        found = state.read(folder)
        if found is None:
            raise EvaluationError(f"no epoch of arch {arch.choices} has finished in '{folder}'; train it first")
        net = as_supernet(self._module(arch), example=self.example, name=arch.key)
        return Accuracy(state.load_best(folder, found, Supernet, net.space), self.task)

    def _measuring(self, module: nn.Module) -> Accuracy:
        return Accuracy(as_supernet(module, example=self.example), self.task)


def _started(start: OfSubnets) -> Any:
    """JSON-able: the weights, or how networks are made of them."""
    return start.weights.describe() if isinstance(start, Accuracy) else start.describe()


@dataclass(frozen=True)
class _Teaching:
    """Where the teacher comes from: a supernet's largest network, calibrated, or a module as it is."""

    source: Accuracy | None = None
    module: nn.Module | None = None

    @classmethod
    def of(cls, given: Source | nn.Module, task: Task) -> _Teaching:
        if isinstance(given, nn.Module) and not isinstance(given, Supernet):
            return cls(module=given)
        return cls(source=Accuracy(given, task))

    def module_for(self, space: Space) -> nn.Module:
        if self.source is None:
            assert self.module is not None
            return self.module
        return self.source.extract(self.source.weights.get(space).space.largest)

    def describe(self) -> Any:
        if self.source is None:
            assert self.module is not None
            return digest(self.module)
        return self.source.weights.describe()


def _only(quality: Accuracy) -> Arch:
    assert isinstance(quality.weights.source, Supernet)
    return quality.weights.source.space.largest
