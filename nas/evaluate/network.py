"""A user's function of a network as an evaluator: it is handed the trained, calibrated subnet and nothing that it could spoil."""

from __future__ import annotations

import copy
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import nn

from nas.checking import checked
from nas.errors import EvaluationError, suggest
from nas.evaluate.base import Cost, Evaluator
from nas.evaluate.subnets import OfSubnets, Source, Weights
from nas.identity import IDENTITY, identity
from nas.supernet.inputs import Inputs
from nas.supernet.skeleton import statistics_of
from nas.train import Task, Training, rng
from nas.train.task import Batch, Split, mixed

if TYPE_CHECKING:
    from nas.space import Arch, Space

_TAKES = ("model", "arch", "batches")


class NetworkEvaluator(OfSubnets):
    """What `nas.evaluator` makes of a function; see there."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        metrics: tuple[str, ...] | None,
        cost: Cost,
        exclusive: bool,
        weights: Weights | None,
        task: Task | None,
        split: Split,
        calibrate: bool,
        device: str | None,
    ) -> None:
        self.function, self.takes = function, _taken(function)
        self.metrics, self.cost, self.exclusive = metrics, cost, exclusive
        self.weights, self.task, self.split = weights, task, split
        self.calibrate, self.device = calibrate, device
        self.has_networks = self.measures_modules = self.reads_network  # type: ignore[misc]
        self.__qualname__, self.__doc__ = self.name, function.__doc__

    @property
    def name(self) -> str:
        """The function's."""
        return str(getattr(self.function, "__qualname__", type(self.function).__qualname__))

    @property
    def reads_network(self) -> bool:
        """Whether the function takes one."""
        return "model" in self.takes

    @property
    def example(self) -> Inputs:
        """Inputs that every subnet takes.

        Raises:
            EvaluationError: neither the task nor the supernet has any.
        """
        found = self.task.example if self.task is not None else None
        if found is None and self.weights is not None and self.weights.loaded is not None:
            found = self.weights.loaded.example
        if found is None:
            raise self._error("knows no inputs of its networks", "give it task=, or the supernet an example=")
        return found

    def __call__(self, arch: Arch) -> dict[str, float]:
        """What the function gives, for a copy of the subnet that is its own."""
        return self._measured(self.extract(arch) if self.reads_network else None, arch)

    def measure_module(self, module: nn.Module) -> dict[str, float]:
        """What the function gives for an ordinary module, which stays as it is.

        Raises:
            EvaluationError: the function takes the arch, too.
        """
        if "arch" in self.takes:
            raise self._error("takes the arch", "use measure_again(module, arch)")
        return self._measured(copy.deepcopy(module), None)

    def measure_again(self, module: nn.Module, arch: Arch | None) -> dict[str, float]:
        """What the function gives for the module of `arch`, which stays as it is."""
        return self._measured(copy.deepcopy(module), arch)

    def extract(self, arch: Arch) -> nn.Module:
        """As `Accuracy.extract`.

        Raises:
            EvaluationError: there is no supernet, or no data to calibrate BatchNorm statistics with.
        """
        if self.weights is None:
            raise self._error(
                "has no supernet", "give Study(training=...), or the supernet with @nas.evaluator(source=...)"
            )
        module = super().extract(arch)
        if self.calibrate and self.task is None and statistics_of(module):
            raise self._error(
                "has no data to calibrate BatchNorm statistics with",
                "give Study(training=...) or @nas.evaluator(task=...), or calibrate=False to keep the supernet's",
            )
        return module

    def check(self, space: Space) -> None:
        """Whether what the function takes is there."""
        if "batches" in self.takes:
            next(self._batches())
        if not self.reads_network:
            return
        if self.device is not None:
            _check_device(self.device)
        if self.weights is None:
            self.extract(space.smallest)
        assert self.weights is not None
        self.weights.check(space)
        supernet = self.supernet(space)
        supernet.check_trained()
        if self.task is not None or supernet.example is not None:
            supernet.prove_once(self.example)

    def bound(self, source: Any, task: Any) -> Evaluator:
        """Itself with the study's supernet and data, where it was given none of its own."""
        if not self.takes.keys() & {"model", "batches"}:
            return self
        return self._like(self.weights or source, self.task or task)

    def describe(self) -> dict[str, Any]:
        """JSON-able name, function and what it reads; where it runs is no part."""
        found: dict[str, Any] = {"name": self.name, IDENTITY: identity(self.function)}
        if self.reads_network:
            found |= {"supernet": self.weights and self.weights.describe(), "calibrate": self.calibrate}
        if self.task is not None and ("batches" in self.takes or (self.reads_network and self.calibrate)):
            found["task"] = self.task.describe()
        if "batches" in self.takes:
            found["split"] = self.split
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: value for name, value in vars(self).items() if name not in ("function", "takes")}
        return _revived, (_Named.of(self) or self.function, state)

    def _like(self, weights: Weights | None, task: Task | None) -> NetworkEvaluator:
        made = copy.copy(self)
        made.weights, made.task = weights, task
        return made

    def _measured(self, module: nn.Module | None, arch: Arch | None) -> dict[str, float]:
        where = torch.device("cpu")
        if module is not None:
            module = module.to(self._where(module)).eval()
            where = self._where(module)
        key = arch.key if arch is not None else ""
        given = {"model": module, "arch": arch, "batches": self._batches(where)}
        # Seeded by the arch: the same numbers whichever worker draws them.
        with rng.forked(mixed("evaluator", self.name, key)), torch.no_grad():
            found = self.function(**{name: given[name] for name in self.takes})
        if not isinstance(found, Mapping) and found is not None:
            return {self.metrics[0] if self.metrics and len(self.metrics) == 1 else self.function.__name__: found}
        return found  # type: ignore[return-value]  # `nas.evaluate.checked` judges it

    def _where(self, module: nn.Module) -> torch.device:
        if self.device is not None:
            return torch.device(self.device)
        return next((one.device for one in module.parameters()), torch.device("cpu"))

    def _batches(self, where: torch.device | str = "cpu") -> Iterator[Batch]:
        if self.task is None:
            raise self._error("takes batches and has no task", "give Study(training=...) or @nas.evaluator(task=...)")
        batches = self.task.valid_batches() if self.split == "valid" else self.task.test_batches()
        empty = True
        for batch in batches:
            empty = False
            yield batch.to(where)
        if empty:
            raise self._error(f"finds no {self.split} data in its task", "give the task some, or another split=")

    def _error(self, what: str, remedy: str) -> EvaluationError:
        return EvaluationError(f"evaluator '{self.name}' {what}; {remedy}")


@overload
def evaluator(function: Callable[..., Any], /) -> NetworkEvaluator: ...


@overload
def evaluator(
    *,
    metrics: str | Iterable[str] | None = None,
    cost: Cost = "dear",
    exclusive: bool = False,
    source: Source | None = None,
    task: Task | None = None,
    split: Split = "valid",
    calibrate: bool = True,
    device: str | None = None,
) -> Callable[[Callable[..., Any]], NetworkEvaluator]: ...


@checked(EvaluationError)
def evaluator(
    function: Callable[..., Any] | None = None,
    /,
    *,
    metrics: str | Iterable[str] | None = None,
    cost: Cost = "dear",
    exclusive: bool = False,
    source: Source | None = None,
    task: Task | None = None,
    split: Split = "valid",
    calibrate: bool = True,
    device: str | None = None,
) -> Any:
    """A decorator: a function of a network as an evaluator of a study.

    >>> @nas.evaluator
    ... def p90(model, batches):  # doctest: +SKIP
    ...     errors = torch.cat([(model(batch.inputs) - batch.targets).abs() for batch in batches])
    ...     return {"p90": errors.quantile(0.9)}

    The function takes what it names: `model`, the trained subnet as an ordinary module of its own class, with calibrated
    BatchNorm statistics, on the device, in eval mode and without gradients; `arch`; `batches` of the task, on the device.  Other
    parameters need a default.  It returns a dict of numbers, or one number, which is called as the function is (or `metrics`).
    The module is a copy: what is done to it changes neither the supernet nor another trial.  Random numbers are drawn from a seed
    of the arch.  What it raises fails the trial, with the reason.

    Args:
        function: what is decorated.
        metrics: names of what it yields; without them a study knows them from the first result.
        cost: "cheap" runs before others, and for archs that are only proposed.
        exclusive: nothing else of ours runs meanwhile, for times.
        source: a supernet, a training or a checkpoint's folder; the study's (`training=`, or that of its other evaluators) unless
            given.
        task: data; the study's unless given.
        split: which `batches`: "valid" or "test".
        calibrate: False keeps the supernet's BatchNorm statistics.
        device: where the network runs; where the supernet's weights are unless given.

    Returns:
        An `Evaluator`; the function itself is its `function`.

    Raises:
        EvaluationError: the function takes something else, or an option has no effect on it.
    """
    names = None if metrics is None else (metrics,) if isinstance(metrics, str) else tuple(metrics)
    weights = None if source is None else Weights(source)
    if task is None and isinstance(source, Training):
        task = source.task

    def decorate(function: Callable[..., Any]) -> NetworkEvaluator:
        takes = _taken(function)
        given = {"source": source is not None, "calibrate": not calibrate, "device": device is not None}
        for option, is_given in given.items():
            if is_given and not takes.keys() & ({"model", "batches"} if option == "device" else {"model"}):
                raise EvaluationError(
                    f"{option}= has no effect on evaluator '{_label(function)}', which takes no model; leave it out"
                )
        if split != "valid" and "batches" not in takes:
            raise EvaluationError(
                f"split= has no effect on evaluator '{_label(function)}', which takes no batches; leave it out"
            )
        return NetworkEvaluator(
            function,
            metrics=names,
            cost=cost,
            exclusive=exclusive,
            weights=weights,
            task=task,
            split=split,
            calibrate=calibrate,
            device=device,
        )

    return decorate if function is None else decorate(function)


def _label(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _taken(function: Callable[..., Any]) -> dict[str, None]:
    """The parameters that are filled in, in order."""
    found: dict[str, None] = {}
    for one in inspect.signature(function).parameters.values():
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            continue
        if one.name in _TAKES and one.kind is not one.POSITIONAL_ONLY:
            found[one.name] = None
        elif one.default is one.empty:
            raise EvaluationError(
                f"evaluator '{_label(function)}' takes {one.name!r}, which nothing is known to fill; it may take "
                f"{', '.join(_TAKES)}, and others with a default{suggest(one.name, _TAKES)}"
            )
    if not found:
        raise EvaluationError(f"evaluator '{_label(function)}' takes neither model nor arch; name one of them")
    return found


def _check_device(name: str) -> None:
    from nas.train.trainer import device_named

    device_named(name)


class _Named:
    """A decorated function by the name under which its module has the evaluator."""

    def __init__(self, module: str, qualname: str) -> None:
        self.module, self.qualname = module, qualname

    @classmethod
    def of(cls, one: NetworkEvaluator) -> _Named | None:
        """None where the function is not found by a name: it then pickles as functions do."""
        module, qualname = one.function.__module__, one.name
        if module == "__main__" and getattr(sys.modules[module], "__file__", None) is None:
            return None  # typed at a prompt: no other process has that module
        named = cls(module, qualname)
        found = named.find() if module in sys.modules else None
        return named if isinstance(found, NetworkEvaluator) and found.function is one.function else None

    def find(self) -> Any:
        """What has the name now."""
        found: Any = importlib.import_module(self.module)
        for part in self.qualname.split("."):
            found = getattr(found, part, None)
        return found


def _revived(function: Any, state: dict[str, Any]) -> NetworkEvaluator:
    made = NetworkEvaluator.__new__(NetworkEvaluator)
    function = function.find().function if isinstance(function, _Named) else function
    vars(made).update(state, function=function, takes=_taken(function))
    return made
