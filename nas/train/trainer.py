"""Trains one supernet for every arch of its space: any sampler with any loss."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import time
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import nn

from nas import reading, signals
from nas.checking import Count, NonNegative, Positive, checked
from nas.errors import DeviceError, NasError, TrainError, suggest
from nas.identity import IDENTITY, differing, jsonable, same, told
from nas.pace import duration
from nas.text import facts
from nas.train import compiling, optimizers, rng, state
from nas.train.best import watching
from nas.train.log import Reporter, of_metric
from nas.train.loop import Run
from nas.train.losses import InPlace, Loss
from nas.train.optimizers import Maker
from nas.train.policy import Policy
from nas.train.ranks import Ranks
from nas.train.samplers import Sampler, Sandwich
from nas.train.schedule import Scheduler, schedule_of
from nas.train.task import Task

if TYPE_CHECKING:
    import pandas as pd

    from nas.space import Space
    from nas.supernet import Supernet

Precision: TypeAlias = Literal["auto", "float32", "bf16", "fp16"]


@dataclass(frozen=True)
class TrainResult:
    """What a training gave."""

    supernet: Supernet
    history: pd.DataFrame
    """One row every ten steps: step, epoch, lr, loss, seconds; now and then the metrics of the watched subnets."""
    steps: int
    seconds: float
    best_step: int | None = None
    """After which the weights were those that a training with `best` ends with."""
    asked: int | None = None
    """Steps that were asked for; early stopping makes fewer."""
    metric: str = "loss"
    """The first of the task's."""

    def __str__(self) -> str:
        """One line: how far it came, and the watched subnets with the weights that it ended with."""
        stopped = "" if self.asked in (None, self.steps) else f" of {self.asked}"
        told, rows = f"trained {self.steps}{stopped} steps in {duration(self.seconds)}", self.history
        if self.best_step not in (None, self.steps):
            told, rows = f"{told}, with the weights of step {self.best_step}", rows[rows["step"] == self.best_step]
        last = rows.iloc[-1] if len(rows) else {}
        watched = [f"{label}_{self.metric} {value:.4g}" for label, value in of_metric(last, self.metric).items()]
        return f"{told}: {', '.join(watched)}" if watched else told


class Training:
    """A training of a supernet, with everything that decides its outcome.

    The same arguments give the same weights (bit for bit on one CPU), killed and resumed or not: batches, archs and learning rate
    are functions of the seed and the step; the rest is in the checkpoint.

    Args:
        supernet: is trained in place.
        task: data and loss.
        path: folder of the checkpoints and logs; None keeps nothing.
        sampler: which archs a step trains; `Sandwich(2)` unless given.
        loss: what each is taught; `InPlace()` unless given.  With as many passes, four steps for one, `Uniform(1)` and
            `Labels()` make better fronts, above all from trained weights and with few passes; the sandwich and `InPlace()` make
            better smallest networks (experiments/recipes).
        steps: optimizer steps; 1,000 unless given.
        epochs: of the training data, instead of `steps`.
        accumulate: batches of a step, whose gradients are averaged by their samples: as one large batch, except for BatchNorm and
            losses that compare samples.  The last step of an epoch takes the batches that are left.
        best: metric of the task, as "max accuracy": the training ends with the weights of the measurement at which the mean over
            the watched subnets was best; "max largest_accuracy" takes the largest alone, "min smallest_loss" the smallest.
        patience: stop after so many measurements in a row without an improvement of `best`.
        min_delta: what an improvement must exceed, for `patience`.
        lr: highest learning rate, which `schedule` follows.
        weight_decay: decoupled for AdamW, in the gradient for others, as torch has it; not on norms and biases (parameters with
            less than two dimensions).
        warmup: steps of the linear warm-up; None is a twentieth of `steps`.
        floor: last learning rate as a fraction of `lr`, of "cosine" and "linear".
        schedule: what follows the warm-up: "cosine", "linear", "step", "constant", "one-cycle" (see `nas.train.Schedule`); or a
            function that makes a scheduler of torch from an optimizer, stepped after each optimizer step: its learning rate
            is taken, for all parameters.
        schedule_options: step_size and gamma of "step"; pct_start, div_factor and final_div_factor of "one-cycle".
        clip: largest norm of the gradient, which is summed over the archs of a step; None does not clip.
        optimizer: one of torch's by name in small letters: "adamw", "sgd" (Nesterov, momentum 0.9 unless said otherwise), "adam",
            "rmsprop", …; or a function that makes one from parameter groups and `lr=`, as a class or
            `functools.partial(Lion, betas=(0.9, 0.99))`: numbers and tensors in its state are a part of checkpoints.
        optimizer_options: of an optimizer by name: {"betas": (0.9, 0.95)}.
        device: where to train: "cpu", "cuda", "cuda:1".
        precision: "auto" is bf16 autocast on CUDA and float32 on a CPU; "fp16" scales the loss and needs CUDA.
        compile: train through `torch.compile`, by its "inductor" or the backend named: each arch is compiled when it is first
            met, so that it pays for few archs and many steps. In one process; the outcome differs by rounding.
        policy: a distribution over the archs that is trained between the steps of the weights, and says afterwards which archs
            to look at; it holds out a part of the training split.  None trains weights alone.
        checkpoint_every: steps between checkpoints; None is a tenth of `steps`, or an epoch where `epochs` is given.
        validate_every: steps between measurements of the watched subnets; None as above.
        divergence: stop when the loss of the last 50 steps is this many times that of the first 50.
        seed: of the archs, and of dropout.

    Raises:
        TrainError: an argument is not what it must be.
        DeviceError: the device is not there.
    """

    @checked(TrainError)
    def __init__(
        self,
        supernet: Supernet,
        task: Task,
        *,
        path: str | Path | None = None,
        sampler: Sampler | None = None,
        loss: Loss | None = None,
        steps: int | None = None,
        epochs: Count | None = None,
        accumulate: Count = 1,
        best: str | None = None,
        patience: Count | None = None,
        min_delta: NonNegative = 0.0,
        lr: float = 2e-3,
        weight_decay: NonNegative = 0.01,
        warmup: int | None = None,
        floor: float = 0.0,
        schedule: str | Scheduler = "cosine",
        schedule_options: Mapping[str, float] | None = None,
        clip: Positive | None = 1.0,
        optimizer: str | Maker = "adamw",
        optimizer_options: Mapping[str, Any] | None = None,
        device: str = "cpu",
        precision: Precision = "auto",
        compile: bool | str = False,
        policy: Policy | None = None,
        checkpoint_every: int | None = None,
        validate_every: int | None = None,
        divergence: float = 10.0,
        seed: int = 0,
    ) -> None:
        self.supernet, self.task, self.seed = supernet, task, seed
        self.path = Path(path) if path is not None else None
        self.sampler, self.loss = sampler or Sandwich(2), loss or InPlace()
        for one in self.loss.within():
            one.check(task)
        if self.loss.labels_needed and not task.labelled:
            raise TrainError(
                f"training data of {type(task).__name__} have no labels, and {type(self.loss).__name__} learns from them; teach "
                "with nas.Teacher(module, weight=1.0)"
            )
        self.policy = policy
        if policy is not None:
            policy.judged_by(task)
            policy.check_loss(self.loss, compiled=compile is not False)
        self.accumulate = accumulate
        self.steps = self._steps(steps, epochs)
        self.watch = watching(best, patience, min_delta, task.metric_names)
        self.schedule_name, self.schedule_options = schedule, dict(schedule_options or {})
        self.schedule = schedule_of(schedule, lr, self.steps, warmup=warmup, floor=floor, options=self.schedule_options)
        self.weight_decay, self.clip, self.divergence = weight_decay, clip, divergence
        period = max(1, self.steps // 10) if epochs is None else self.steps_per_epoch
        self.checkpoint_every = _period("checkpoint_every", checkpoint_every, period)
        self.validate_every = _period("validate_every", validate_every, period)
        self.optimizer, self.optimizer_options = optimizer, dict(optimizer_options or {})
        optimizers.check(optimizer, self.optimizer_options)
        self.device = device_named(device)
        self.precision = _precision(precision, self.device)
        self.compile = compiling.backend_of(compile)
        if self.compile is not None:
            compiling.check(self)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch."""
        return -(-self.data.steps_per_epoch // self.accumulate)

    @property
    def data(self) -> Task:
        """What the weights are trained on: the task, without what is held out for a policy."""
        return self._divided[0]

    @property
    def held_out(self) -> Task:
        """What a policy is trained on; the task itself where there is none."""
        return self._divided[1]

    @functools.cached_property
    def _divided(self) -> tuple[Task, Task]:
        return (self.task, self.task) if self.policy is None else self.policy.divided(self.task)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_divided"}  # the task may be a recipe

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision that networks are called in."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def reporter(self, done: int, *, show: bool) -> Reporter:
        """What tells a person how far a run is that begins after `done` steps."""
        return Reporter(self.steps, show=show, done=done, per_epoch=self.steps_per_epoch)

    def _steps(self, steps: int | None, epochs: int | None) -> int:
        if epochs is None:
            return 1000 if steps is None else steps
        if steps is not None:
            raise TrainError(f"steps={steps} and epochs={epochs} both say how long to train; give one of them")
        return epochs * max(1, self.steps_per_epoch)  # a task without batches says so itself

    def __repr__(self) -> str:
        return f"Training({', '.join(f'{name}={value}' for name, value in self._facts().items())})"

    def _repr_html_(self) -> str:
        return facts("Training", self._facts())

    def _facts(self) -> dict[str, str]:
        """What a person asks first."""
        return {
            "space": repr(self.supernet.space.name),
            "task": type(self.task).__name__,
            "steps": str(self.steps),
            "lr": f"{self.schedule.lr:g}",
            "sampler": type(self.sampler).__name__,
            "loss": type(self.loss).__name__,
            "device": str(self.device),
            "precision": str(self.precision),
            "path": repr(None if self.path is None else str(self.path)),
        }

    @property
    def config(self) -> dict[str, Any]:
        """What decides the weights, JSON-able; the device and the periods of checkpoints and logs do not.

        The weights that the supernet starts from are not a part: a resumed training has its own.
        """
        space = self.supernet.space
        config = {
            "space": {"name": space.name, "version": space.version, "fingerprint": space.fingerprint},
            "task": self.task.describe(),
            "sampler": self.sampler.describe(),
            "loss": self.loss.describe(),
            "steps": self.steps,
            "lr": self.schedule.lr,
            "warmup": self.schedule.warmup,
            "floor": self.schedule.floor,
            "weight_decay": self.weight_decay,
            "clip": self.clip,
            "optimizer": told(self.optimizer),
            "precision": self.precision,
            "seed": self.seed,
            **self._more(),
        }
        return dict(json.loads(json.dumps(config)))  # as it reads back: lists for tuples

    def _more(self) -> dict[str, Any]:
        """Settings that earlier versions did not have, where they differ from what those did."""
        more = {
            "schedule_options": self.schedule_options,
            "optimizer_options": {name: jsonable(value) for name, value in self.optimizer_options.items()},
        }
        found: dict[str, Any] = {name: value for name, value in more.items() if value}
        if self.accumulate != 1:
            found["accumulate"] = self.accumulate
        if self.compile is not None:
            found["compile"] = self.compile
        if self.policy is not None:
            found["policy"] = self.policy.describe()
        if self.watch is not None:  # by when it measures, too
            found |= {"best": str(self.watch.metric), "validate_every": self.validate_every}
            found |= {} if self.watch.patience is None else {"patience": self.watch.patience}
            found |= {"min_delta": self.watch.min_delta} if self.watch.min_delta else {}
        return found if self.schedule_name == "cosine" else {"schedule": told(self.schedule_name), **found}

    @property
    def trained(self) -> bool:
        """True when `path` holds the finished supernet of this very configuration.

        Raises:
            TrainError: it holds one of another configuration.
        """
        found = self.found()
        return found is not None and found.finished

    def load(self) -> Supernet:
        """The trained supernet, memory-mapped from `path`.

        Raises:
            TrainError: there is none yet.
        """
        if self.path is None or not self.trained:
            where = f"in '{self.path}'" if self.path else "because the training has no path"
            raise TrainError(
                f"no trained supernet is found {where}; train it first: 'nas train JOB', or run() with a path"
            )
        found = self.found()
        assert found is not None
        if self.policy is not None:
            self.policy.take(self.supernet.space, found.policy)
        return state.load_supernet(self.path, found, type(self.supernet), self.supernet.space)

    @signals.exiting()
    def run(
        self, progress: bool = True, resume: bool = True, until: int | None = None, *, ranks: Ranks | None = None
    ) -> TrainResult:
        """Trains to the end; with a path it goes on from the last checkpoint, and a finished training is only loaded.

        Ctrl-C ends the step that is being made, leaves a checkpoint and raises KeyboardInterrupt; a second one, a second later
        or more, is immediate.  SIGTERM and SIGHUP do the same and raise SystemExit(128 + number).
        The process's random states are afterwards what they were before.

        Args:
            progress: show a bar on a terminal, else a line every few seconds (on stderr).
            resume: False deletes what an earlier training left in `path`.
            until: stop with a checkpoint after this many steps, to go on later; None makes them all.
            ranks: the processes that share the training, each of which calls this; `nas.distributed.run` starts them.

        Raises:
            TrainError: the loss is not finite or has diverged (the last checkpoint stays); the path holds another
                training, or belongs to a running one; `until` is given and no path.
            CheckpointError: the checkpoint cannot be read.
        """
        import pandas as pd

        if until is not None and (self.path is None or until < 1):
            raise TrainError(f"until={until} needs a path to go on from later, and 1 step or more; give both")
        ranks = ranks or Ranks()
        with contextlib.ExitStack() as stack:
            if self.path is not None and ranks.first:
                stack.enter_context(state.locked(self.path, ranks.patience_s))
                if not resume:
                    state.clear(self.path)
            stack.enter_context(rng.forked(self.seed))
            pressed = stack.enter_context(signals.noting())
            run = Run(self, self._found_by(ranks), ranks)
            last = self.steps if until is None else min(until, self.steps)
            with reading.any_weights():
                run.finish(progress, lambda: pressed() or ranks.asked(), last)
        self.supernet.trained = True
        history = pd.DataFrame(run.state.history)
        return TrainResult(
            self.supernet,
            history,
            run.state.step,
            run.state.seconds,
            run.best.step if run.best else None,
            self.steps,
            self.task.metric_names[0],
        )

    def found(self) -> state.State | None:
        """The checkpoint in `path`, None where there is none.

        Raises:
            TrainError: it is of another training.
        """
        found = state.read(self.path) if self.path is not None else None
        if found is not None and not same(self._as_now(found.config), self.config):
            raise TrainError(
                f"'{self.path}' holds a training {_difference(found.config, self.config)}; use that, or another path"
            )
        return found

    def _found_by(self, ranks: Ranks) -> state.State | None:
        """What the first rank finds; the others wait until they see the same, as a network's file systems take a while."""
        found = self.found() if ranks.first else None
        step = ranks.told(found.step if found else None)
        deadline = time.monotonic() + ranks.patience_s
        while not ranks.first:
            found = self.found()
            if (found.step if found else None) == step:
                break
            if time.monotonic() > deadline:
                raise TrainError(
                    f"process {ranks.rank} sees step {found.step if found else 0} in '{self.path}' and the first one "
                    f"{step or 0}; the folder must be one that all processes share"
                )
            time.sleep(0.1)
        return found

    def _as_now(self, config: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint's settings with this space's fingerprint where it was recorded otherwise."""
        return dict(self.supernet.space.restated(config))

    def grow(self, larger: Space | Supernet, path: str | Path, **options: Any) -> Training:
        """This training, which was stopped on its way (`run(until=…)`), as one that goes on in a larger space.

        Its supernet is that of the last checkpoint, grown with `nas.grow`: old archs have their weights.  What the optimizer
        keeps is padded, or starts anew where it cannot be (`nas.grow`); steps, schedule, history and random states go on, and
        what was best so far counts no more.  The sampler and the losses are the same.

        Args:
            larger: as in `nas.grow`.
            path: folder of the new training; where it has begun there, it goes on from there.
            options: of `nas.grow`.

        Returns:
            The training to run.

        Raises:
            TrainError: there is no checkpoint on the way, `path` holds another training, or a loss keeps what follows from the
                space.
            SupernetError: as `nas.grow`.
        """
        from nas.train.growing import continued

        return continued(self, self.found(), larger, Path(path), options)

    def parameter_groups(self, kept: nn.Module | None = None) -> list[dict[str, Any]]:
        """Matrices and kernels decay; norms and biases do not.  `kept` is what the losses train besides the supernet."""
        learnt = [one for one in kept.parameters() if one.requires_grad] if kept is not None else []
        parameters = [*self.supernet.parameters(), *learnt]
        decayed = [one for one in parameters if one.ndim >= 2]
        free = [one for one in parameters if one.ndim < 2]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": free, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]

    def make_optimizer(self, kept: nn.Module | None = None) -> torch.optim.Optimizer:
        """A fresh optimizer over the supernet's parameters, where they are now, and over those that the losses keep."""
        return optimizers.make(self.optimizer, self.optimizer_options, self.parameter_groups(kept), self.schedule(0))


@checked(TrainError)
def train(supernet: Supernet, task: Task, *, progress: bool = True, resume: bool = True, **options: Any) -> TrainResult:
    """`Training(supernet, task, **options).run(progress, resume)`."""
    return Training(supernet, task, **options).run(progress, resume)


def check_options(options: Iterable[str], decided: Container[str], who: str, error: type[NasError]) -> None:
    """Refuse options that no training takes, or that somebody else decides.

    Args:
        options: names of what a training is to be made with.
        decided: names of what is not for the user to give.
        who: decides that.
        error: raised with the sentence.
    """
    known = [name for name in inspect.signature(Training).parameters if name not in decided]
    for name in options:
        if name in decided:
            raise error(f"{who} decides {name} of its trainings itself; leave it out")
        if name not in known:
            raise error(
                f"{who} has no option {name!r}; for its trainings it takes {', '.join(known)}{suggest(name, known)}"
            )


def _period(name: str, given: int | None, usual: int) -> int:
    period = usual if given is None else given
    if period < 1:
        raise TrainError(f"{name}={given} is not a positive number of steps")
    return period


def device_named(name: str) -> torch.device:
    """Where to train or evaluate.

    Raises:
        DeviceError: it is not there.
    """
    there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if name not in (*there, *["cuda"][: len(there) - 1]):
        raise DeviceError(f"device {name!r} is not there; there are: {', '.join(there)}{suggest(name, there)}")
    return torch.device(name)


def _precision(name: str, device: torch.device) -> Precision:
    if name == "auto":
        return "bf16" if device.type == "cuda" else "float32"
    known: dict[str, Precision] = {"float32": "float32", "bf16": "bf16", "fp16": "fp16"}
    if name not in known:
        raise TrainError(f"precision {name!r} is not one of auto, {', '.join(known)}{suggest(name, known)}")
    if name == "fp16" and device.type != "cuda":
        raise TrainError("precision 'fp16' needs a CUDA device; a CPU trains in 'float32' or 'bf16'")
    return known[name]


def _difference(stored: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """ "with lr=0.1, not lr=0.2": the settings that differ, at most three."""
    parts: list[tuple[str, str, str]] = []
    for name in dict.fromkeys([*stored, *given]):
        old, new = stored.get(name), given.get(name)
        if same(old, new):
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping) and old.keys() ^ new.keys() <= {IDENTITY}:
            told = [key for key in old if key != IDENTITY and not same(old[key], new[key])]
            parts += [(f"{name}.{key}", repr(old[key]), repr(new[key])) for key in told]
            inside = differing(old.get(IDENTITY), new.get(IDENTITY)) if IDENTITY in old and IDENTITY in new else []
            parts += [(f"{name}.{path}", before, after) for path, before, after in inside]
        else:
            parts.append((name, _short(old), _short(new)))
    before = ", ".join(f"{name}={old}" for name, old, _ in parts[:3])
    after = ", ".join(f"{name}={new}" for name, _, new in parts[:3])
    computed = " (data that are computed are rounded otherwise on another machine: save them once, and load them)"
    return f"with {before}, not {after}{computed if any(name == 'task.data' for name, *_ in parts) else ''}"


def _short(value: Any) -> str:
    return str(value["function"]) if isinstance(value, Mapping) and "function" in value else repr(value)
