"""What subnets of a supernet measure: accuracy, exact counts, latency."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor, nn

from nas import reading
from nas.checking import checked
from nas.errors import EvaluationError, NasError
from nas.evaluate.base import Cost, Evaluator
from nas.hardware import Device, Target, exclusive, measure, target_of
from nas.identity import IDENTITY, inputs_described, weights_described
from nas.supernet import Supernet, checkpoint
from nas.supernet.effects import varies
from nas.supernet.inputs import Inputs, batch_size, call, sample_text, some
from nas.supernet.rounding import Gap, gap
from nas.train import Task, Training, state, subnet_metrics
from nas.train.task import Split, to_device
from nas.train.validate import calibrated, device_of, evaluating

if TYPE_CHECKING:
    from nas.space import Arch, Space

Source: TypeAlias = Supernet | Training | Path | str


class Weights:
    """Where an evaluator's supernet comes from: itself, the training that makes it, or the folder it was saved to.

    A training or a folder is read when the first arch comes, memory-mapped.  In a pickle all three are a path and a hash.

    Args:
        source: one of the three.
        described: what `describe` gives, if it is not to be found out: a pickle of a training carries its configuration.
    """

    def __init__(self, source: Source, described: Any = None) -> None:
        if not isinstance(source, (Supernet, Training, str, Path)):
            raise EvaluationError(
                f"a {type(source).__name__} holds no supernet; give a Supernet, a Training or a folder"
            )
        self.source, self._described = source, described
        self._loaded: Supernet | None = source if isinstance(source, Supernet) else None

    @property
    def loaded(self) -> Supernet | None:
        """The supernet, if it is there already."""
        return self._loaded

    @property
    def inputs(self) -> str:
        """One sample of the example (`sample_text`), which operations, latency and memory belong to; "" while it is not known."""
        if self._loaded is not None:
            example = self._loaded.example
        elif isinstance(self.source, Training):
            example = self.source.supernet.example
        else:
            assert isinstance(self.source, (str, Path))
            example = checkpoint.example_in(Path(self.source))
        return "" if example is None else sample_text(example)

    def get(self, space: Space) -> Supernet:
        """The supernet of `space`.

        Raises:
            TrainError: the training has not finished.
            CheckpointError: the folder holds no supernet of this space.
        """
        if self._loaded is None:
            self._loaded = (
                Supernet.load(self.source, space) if isinstance(self.source, (str, Path)) else self._trained()
            )
        return self._loaded

    def check(self, space: Space) -> None:
        """Raises what `get` would raise: before workers are started rather than in each of them."""
        if isinstance(self.source, (str, Path)) and not Path(self.source).is_dir():
            raise EvaluationError(f"there is no supernet in '{self.source}'; train one and save it there")
        self.get(space)

    def describe(self) -> Any:
        """JSON-able: what the weights are (their hash), or how they are made, and their hash once they are."""
        if self._described is not None:
            return self._described
        if isinstance(self.source, Training):
            return {**self.source.config, **_finished(self.source)}
        if isinstance(self.source, Supernet):
            return weights_described(self.source.digest, self.source.keeps)
        digest, keeps = checkpoint.held(Path(self.source))
        return {"folder": str(self.source), "sha256": None} if digest is None else weights_described(digest, keeps)

    def __reduce__(self) -> tuple[type[Weights], tuple[Source, Any]]:
        """As the supernet, once it is known: a checkpoint that changes in between is then noticed."""
        if self._loaded is None and isinstance(self.source, Training):
            self._loaded = self._trained()
        return Weights, (self.source if self._loaded is None else self._loaded, self.describe())

    def _trained(self) -> Supernet:
        assert isinstance(self.source, Training)
        return self.source.supernet if self.source.path is None else self.source.load()


def _finished(training: Training) -> dict[str, Any]:
    """The hash of a finished training's weights: those that it began with, or who else trained it, are not in its settings."""
    try:
        found = training.found()
    except NasError:  # `check` says so
        return {}
    digest = None if found is None or not found.finished else found.hashes.get(state.SUPERNET)
    return {} if digest is None else {IDENTITY: {"weights": digest}}


class OfSubnets(Evaluator):
    """An evaluator of subnets of a supernet, with BatchNorm statistics of their own."""

    weights: Weights | None = None
    task: Task | None = None
    calibrate: bool = True

    @property
    def example(self) -> Inputs:
        """Inputs that every subnet takes."""
        assert self.task is not None
        return self.task.example

    def supernet(self, space: Space) -> Supernet:
        """Whose subnets are evaluated."""
        assert self.weights is not None
        return self.weights.get(space)

    def extract(self, arch: Arch) -> nn.Module:
        """The evaluated subnet as an ordinary module that shares nothing with the supernet, calibrated, in eval mode."""
        supernet = self.supernet(arch.space)
        return supernet.extract(arch, self._buffers(supernet, arch))

    def difference(self, module: nn.Module, arch: Arch) -> Gap:
        """How far the outputs of `module` are from those of the supernet's subnet on the example."""
        supernet = self.supernet(arch.space)
        with evaluating(supernet), evaluating(module):
            buffers = self._buffers(supernet, arch)
            return gap(
                module,
                lambda inputs: supernet(to_device(inputs, device_of(supernet)), arch, buffers),
                to_device(self.example, device_of(module)),
            )

    def check(self, space: Space) -> None:
        """Whether the weights are there and trained, and subnets made of the units that they claim; warns of random outputs."""
        assert self.weights is not None
        self.weights.check(space)
        supernet = self.supernet(space)
        supernet.check_trained()
        supernet.prove_once(self.example)
        inputs = to_device(self.example, device_of(supernet))
        with evaluating(supernet):
            if varies(lambda: supernet(inputs, space.largest)):
                warnings.warn(
                    f"networks of space {space.name!r} give other outputs at each call in eval mode for the same inputs, so that "
                    "the same arch measures something else each time; draw at random (dropout, noise) and change buffers only "
                    "under `if self.training:`",
                    stacklevel=2,
                )

    def _buffers(self, supernet: Supernet, arch: Arch) -> dict[str, Tensor] | None:
        return calibrated(supernet, arch, self.task) if self.calibrate and self.task is not None else None


class Accuracy(OfSubnets):
    """Quality of the subnet of an arch, with BatchNorm statistics of its own: what the task's `evaluate` gives.

    Args:
        source: a supernet, a training or a checkpoint's folder.
        task: gives data and metrics.
        split: "valid" for a search; "test" for its end.
        calibrate: False keeps the supernet's BatchNorm statistics, to see what recalibration is worth.
    """

    weights: Weights
    task: Task

    @checked(EvaluationError)
    def __init__(self, source: Source, task: Task, *, split: Split = "valid", calibrate: bool = True) -> None:
        self.weights, self.task, self.split, self.calibrate = Weights(source), task, split, calibrate
        self.metrics = tuple(task.metric_names)

    def __call__(self, arch: Arch) -> dict[str, float]:
        """Measurements on the split; the same for the same arch, whatever was evaluated before."""
        return subnet_metrics(self.weights.get(arch.space), arch, self.task, self.split, calibrate=self.calibrate)

    def measure_module(self, module: nn.Module) -> dict[str, float]:
        """Metrics of an ordinary module on the same split."""
        with evaluating(module):
            return self.task.evaluate(lambda inputs: call(module, inputs), self.split, device=device_of(module))

    def describe(self) -> dict[str, Any]:
        """JSON-able name, weights and options."""
        options = {"split": self.split, "calibrate": self.calibrate}
        return {"name": "Accuracy", "supernet": self.weights.describe(), "task": self.task.describe(), **options}


class Costs(Evaluator):
    """Exact counts: parameters (ties once) and multiply-accumulates of one sample."""

    weights: Weights
    cost: Cost = "cheap"
    metrics = ("params", "macs")

    @checked(EvaluationError)
    def __init__(self, source: Source) -> None:
        self.weights = Weights(source)

    def __call__(self, arch: Arch) -> dict[str, float]:
        """Counts, as numbers."""
        supernet = self.weights.get(arch.space)
        return {"params": supernet.params(arch), "macs": supernet.macs(arch)}

    def check(self, space: Space) -> None:
        """Whether the supernet is there."""
        self.weights.check(space)

    def describe(self) -> dict[str, Any]:
        """JSON-able name, and the inputs that operations are counted with."""
        return {"name": "Costs", **inputs_described(self.weights.inputs)}


class Latency(Evaluator):
    """Time of one call of the extracted subnet on a device, alone on the machine.

    Args:
        source: a supernet, a training or a checkpoint's folder; gives the example input, which is repeated to the device's batch.
        device: default: one sample on one thread of the CPU; "cpu,threads=2", a `Device`, a `Command` or a
            `Custom`.
        repeats: timed runs; None is as many as fit the budget.
        budget_s: time for the timed runs.
    """

    weights: Weights
    device: Target
    exclusive = True
    metrics: tuple[str, ...] = ("latency_ms", "latency_p10_ms", "latency_spread_ms", "latency_noisy", "load")

    @checked(EvaluationError)
    def __init__(
        self, source: Source, device: Target | str | None = None, *, repeats: int | None = None, budget_s: float = 0.08
    ) -> None:
        self.weights = Weights(source)
        self.device = target_of(device)
        self.repeats, self.budget_s = repeats, budget_s

    def __call__(self, arch: Arch) -> dict[str, float]:
        """Median, 10th percentile and interquartile range in ms, 1.0 if they are not to be trusted, and the machine's load."""
        supernet = self.weights.get(arch.space)
        if supernet.example is None:
            raise EvaluationError("latency needs inputs to measure with; give the supernet an example=")
        with reading.any_weights():
            module = supernet.extract(arch)
        with exclusive():
            found = measure(
                module, sample_for(supernet, arch), self.device, repeats=self.repeats, budget_s=self.budget_s
            )
        return {
            "latency_ms": found.median_ms,
            "latency_p10_ms": found.p10_ms,
            "latency_spread_ms": found.spread_ms,
            "latency_noisy": float(found.noisy),
            "load": found.load,
        }

    def check(self, space: Space) -> None:
        """Whether the supernet and the device are there."""
        self.weights.check(space)
        self.device.check()

    def describe(self) -> dict[str, Any]:
        """JSON-able name, device, and the inputs that are timed."""
        return {
            "name": "Latency",
            # Not the processor: a study may go on on another machine.
            "device": vars(self.device).copy() if isinstance(self.device, Device) else self.device.describe(),
            "repeats": self.repeats,
            "budget_s": self.budget_s,
            **inputs_described(self.weights.inputs),
        }


def one_sample(inputs: Inputs) -> Inputs:
    """The first sample of a batch of inputs, along the axis of the batch; all of it where there is no batch."""
    found: Inputs = some(inputs, slice(1))
    return found


def sample_for(supernet: Supernet, arch: Arch) -> Inputs:
    """One sample of the example of a supernet, which has one.

    Raises:
        SupernetError: the first axis of the example is no batch.
    """
    assert supernet.example is not None
    if batch_size(supernet.example) > 1:
        supernet.macs(arch)  # which looks whether the axis is the batch's
    return one_sample(supernet.example)
