"""The learning rate as a function of the step: nothing to store, nothing to restore."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

from nas.checking import checked
from nas.errors import TrainError, suggest

Scheduler: TypeAlias = Callable[..., Any]  # an optimizer -> a scheduler of torch


@checked(TrainError)
@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a curve by name.

    "cosine" is half a cosine down to the floor (Loshchilov & Hutter 2017, without restarts) and "linear" a line; "constant"
    stays at `lr`; "step" multiplies by `gamma` (0.1) after each `step_size` steps (a third of those after the warm-up).
    "one-cycle" is torch's `OneCycleLR` with its options `pct_start` (0.3), `div_factor` (25) and `final_div_factor` (10,000),
    and has no other warm-up (Smith & Topin 2018); momentum stays what it is.

    Args:
        lr: the highest rate, reached at the end of the warm-up.
        steps: number of steps of the training.
        warmup: steps of the rise; the first of them has `lr / warmup`.
        floor: rate of the last step, as a fraction of `lr`, of "cosine" and "linear".
        kind: name of the curve.
        options: of "step" and "one-cycle".

    Raises:
        TrainError: numbers that make no schedule, or options that the curve does not have.
    """

    lr: float
    steps: int
    warmup: int = 0
    floor: float = 0.0
    kind: str = "cosine"
    options: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise TrainError(f"lr={self.lr} is not a positive number")
        if self.steps < 1:
            raise TrainError(f"steps={self.steps} is not a positive number of steps")
        if not 0 <= self.warmup < self.steps:
            raise TrainError(f"warmup={self.warmup} does not fit {self.steps} steps; choose 0 to {self.steps - 1}")
        if not 0.0 <= self.floor <= 1.0:
            raise TrainError(f"floor={self.floor} is not a fraction of lr between 0 and 1")
        if self.kind not in _CURVES:
            known = ", ".join(_CURVES)
            raise TrainError(
                f"schedule {self.kind!r} is not one of {known}{suggest(self.kind, _CURVES)}; or give a function that makes a "
                "scheduler of torch from an optimizer"
            )
        if self.floor and self.kind not in ("cosine", "linear"):
            raise TrainError(f"floor={self.floor} has no effect on schedule {self.kind!r}; leave it out")
        if self.warmup and self.kind == "one-cycle":
            raise TrainError(
                f"warmup={self.warmup} has no effect on schedule 'one-cycle', whose rise is pct_start; leave it out"
            )
        _check_options(self.kind, self.options)

    def __call__(self, step: int) -> float:
        """Rate of step 0, 1, …, steps − 1."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        return self.lr * _CURVES[self.kind](self, step - self.warmup, self.steps - self.warmup)


def _cosine(schedule: Schedule, step: int, steps: int) -> float:
    done = step / max(1, steps - 1)
    return schedule.floor + (1.0 - schedule.floor) * 0.5 * (1.0 + math.cos(math.pi * done))


def _linear(schedule: Schedule, step: int, steps: int) -> float:
    return schedule.floor + (1.0 - schedule.floor) * (1.0 - step / max(1, steps - 1))


def _constant(schedule: Schedule, step: int, steps: int) -> float:  # noqa: ARG001 (as the others)
    return 1.0


def _step(schedule: Schedule, step: int, steps: int) -> float:
    size = int(schedule.options.get("step_size", max(1, steps // 3)))
    return float(schedule.options.get("gamma", 0.1) ** (step // size))


def _one_cycle(schedule: Schedule, step: int, steps: int) -> float:
    """As torch's OneCycleLR: half a cosine up to `top`, another one down."""
    given = {**_OPTIONS["one-cycle"], **schedule.options}
    low = 1.0 / given["div_factor"]
    top, last = given["pct_start"] * steps - 1.0, steps - 1
    if step <= top:
        return _eased(low, 1.0, step / top if top > 0 else 1.0)
    return _eased(1.0, low / given["final_div_factor"], (step - max(top, 0.0)) / max(last - max(top, 0.0), 1e-9))


def _eased(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * min(done, 1.0)))


_CURVES: dict[str, Callable[[Schedule, int, int], float]] = {
    "cosine": _cosine, "linear": _linear, "step": _step, "constant": _constant, "one-cycle": _one_cycle,
}  # fmt: skip
_OPTIONS: dict[str, dict[str, float]] = {
    "step": {"step_size": 0, "gamma": 0.1},  # whose size depends on the number of steps
    "one-cycle": {"pct_start": 0.3, "div_factor": 25.0, "final_div_factor": 1e4},
}


def _check_options(kind: str, options: Mapping[str, float]) -> None:
    known = _OPTIONS.get(kind, {})
    for name, value in options.items():
        if name not in known:
            takes = f"takes {', '.join(known)}" if known else "takes none"
            raise TrainError(f"options of schedule {kind!r} have no {name!r}; it {takes}{suggest(name, known)}")
        if not value > 0 or (name == "step_size" and value != int(value)) or (name == "pct_start" and value > 1):
            kinds = {"step_size": "a whole number of steps", "pct_start": "a fraction of the steps"}
            raise TrainError(f"schedule {kind!r} has {name}={value}; it is {kinds.get(name, 'a number')} above 0")


class TorchSchedule:
    """The rates of a scheduler of torch, one step after the other: replayed on an optimizer of its own, so that nothing is kept.

    Args:
        lr: rate of the optimizer that the factory is handed: `SGD` with momentum, over one parameter.
        steps: number of steps of the training.
        factory: makes the scheduler; its `step()` follows each optimizer step, not each epoch.

    Raises:
        TrainError: it makes none, or one that does more than set the rate, or that needs what only a loss tells.
    """

    warmup, floor = 0, 0.0

    def __init__(self, lr: float, steps: int, factory: Scheduler) -> None:
        self.lr, self.steps, self.factory = lr, steps, factory
        self._rates: list[float] = []
        self._scheduler: Any = None
        Schedule(lr, steps)
        self(0)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_rates": [], "_scheduler": None}  # torch's has functions inside that no pickle takes

    def __call__(self, step: int) -> float:
        """Rate of step 0, 1, …, steps − 1."""
        if self._scheduler is None:
            self._scheduler = self._made()
        while len(self._rates) <= step:
            optimizer = self._scheduler.optimizer
            self._rates.append(float(optimizer.param_groups[0]["lr"]))
            if len(self._rates) < self.steps:  # one that is made for so many steps refuses more
                optimizer.step()
                self._advance()
        return self._rates[step]

    def _made(self) -> Any:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=self.lr, momentum=0.9)
        before = _rest(optimizer)
        try:
            made = self.factory(optimizer)
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            raise TrainError(f"the schedule's function does not make a scheduler from an optimizer: {error}") from error
        if isinstance(made, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise TrainError(
                "ReduceLROnPlateau depends on a loss, not on the step; give a scheduler of steps, and patience= to stop early"
            )
        if not isinstance(made, torch.optim.lr_scheduler.LRScheduler) or made.optimizer is not optimizer:
            raise TrainError(
                f"the schedule's function gives a {type(made).__name__}; it is handed an optimizer and gives a scheduler of "
                "torch for it"
            )
        if _rest(optimizer) != before:
            raise TrainError(f"{type(made).__name__} changes momentum too; make it with cycle_momentum=False")
        return made

    def _advance(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some say that they are stepped by hand
            try:
                self._scheduler.step()
            except (TypeError, ValueError) as error:
                raise TrainError(
                    f"{type(self._scheduler).__name__} stops after {len(self._rates)} of {self.steps} steps: {error}"
                ) from error


def _rest(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    names = ("momentum", "dampening", "weight_decay")
    return {name: optimizer.param_groups[0].get(name) for name in names}


def schedule_of(
    kind: str | Scheduler, lr: float, steps: int, *, warmup: int | None, floor: float, options: Mapping[str, Any]
) -> Schedule | TorchSchedule:
    """What a training's arguments ask for.

    Args:
        kind: a name, or a function that makes a scheduler of torch.
        lr: as in `Schedule`, and so are the others.
        steps: of the training.
        warmup: None is a twentieth of the steps, and none for "one-cycle".
        floor: of "cosine" and "linear".
        options: of the curve.
    """
    if isinstance(kind, str):
        rise = 0 if kind == "one-cycle" else min(steps - 1, steps // 20)
        return Schedule(lr, steps, rise if warmup is None else warmup, floor, kind, options)
    for name, given in (("warmup", warmup), ("floor", floor), ("schedule_options", options)):
        if given:
            raise TrainError(f"{name}={given} has no effect on a scheduler of torch; put it into the function instead")
    return TorchSchedule(lr, steps, kind)
