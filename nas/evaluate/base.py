"""What an evaluator is: a class with defaults for everything that a study may ask, and the one adapter for other callables.

Imports no torch: a worker that runs a user's own functions starts in a fraction of a second.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from nas.errors import EvaluationError, glimpse
from nas.identity import identity, jsonable
from nas.placement import Needs

if TYPE_CHECKING:
    from torch import nn

    from nas.space import Arch, Space

Cost: TypeAlias = Literal["cheap", "dear"]
EvaluatorLike: TypeAlias = Callable[["Arch"], Mapping[str, float]]
"""An `Evaluator`, or any function from an arch to named numbers."""

# Whether a class has one of the optional methods, as an attribute: found when the class is made.
_OPTIONAL = {
    "remembers": "known",
    "has_progress": "progress",
    "has_epochs": "each_epoch",
    "has_networks": "extract",
    "measures_modules": "measure_module",
    "has_levels": "up_to",
}


class Evaluator(ABC):
    """From an arch to measurements; subclass it, or give a study a plain function from an arch to a dict of numbers.

    Only `__call__` is needed.  An evaluator travels to workers by pickle and holds no tensors: weights are a path and a hash,
    data a recipe.  The same arch gives the same measurements in whatever order and process, except for times; the evaluator
    leaves random states, supernets and the archs as they are.  One evaluator is called by one thread at a time.

    Attributes:
        metrics: names of what it yields, all of which it must yield; None where it does not say.
        cost: "cheap" ones run first, and a search asks them for archs that it does not evaluate.
        exclusive: nothing else of ours runs on the machine meanwhile, as a latency needs it; its values are not compared again.
        needs: of a cluster's node; see `nas.needs`.
        fidelity: the metric that says how far a candidate went, and how far is all the way; ("epochs", 90.0).
        device: what it measures times on, a `nas.hardware.Target`; or where it runs, by torch's name.
        weights: where its supernet comes from, `nas.evaluate.Weights`; those of a study's other evaluators may use it too.
        task: the data that it measures on.
    """

    metrics: tuple[str, ...] | None = None
    cost: Cost = "dear"
    exclusive: bool = False
    needs: Needs | None = None
    fidelity: tuple[str, float] | None = None
    device: Any = None
    weights: Any = None
    task: Any = None

    remembers: ClassVar[bool] = False
    """Whether it has `known`."""
    has_progress: ClassVar[bool] = False
    """Whether it has `progress`."""
    has_epochs: ClassVar[bool] = False
    """Whether it has `each_epoch`."""
    has_networks: ClassVar[bool] = False
    """Whether it has `extract`, with `measure_module`, `difference` and `example`."""
    measures_modules: ClassVar[bool] = False
    """Whether it has `measure_module`."""
    has_levels: ClassVar[bool] = False
    """Whether it has `up_to`."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for flag, method in _OPTIONAL.items():
            if flag not in vars(cls):
                setattr(cls, flag, getattr(cls, method) is not getattr(Evaluator, method))

    @abstractmethod
    def __call__(self, arch: Arch, /) -> Mapping[str, float]:
        """The measurements of `arch`.

        Raises:
            Infeasible: the arch cannot be used.
        """

    def check(self, space: Space) -> None:  # noqa: B027 (most need nothing)
        """Raises what is missing to evaluate archs of `space`, before workers are started."""

    def describe(self) -> dict[str, Any] | None:
        """JSON-able: what its results depend on.  A study resumes with the same; None compares class and attributes."""
        return None

    def inner(self) -> Sequence[Evaluator]:
        """The evaluators that this one calls."""
        return ()

    def bound(self, source: Any, task: Any) -> Evaluator:
        """Itself for a study with the supernet of `source`, a `Weights`, and the data of `task`; either may be None.

        Raises:
            EvaluationError: it needs what is not there.
        """
        del source, task
        return self

    # -- what only some have

    def known(self, arch: Arch) -> Mapping[str, float]:
        """What is remembered of `arch`, without evaluating it; {} if nothing is."""
        del arch
        return {}

    def progress(self, arch: Arch) -> Sequence[Mapping[str, float]]:
        """Measurements after each epoch that has finished; any process may ask at any time.  The study keeps them as curves."""
        del arch
        return []

    def each_epoch(self, arch: Arch) -> Iterator[Mapping[str, float]]:  # noqa: ARG002
        """Measurements after each epoch as they are made: a scheduler may stop in between."""
        raise self._lacks("each_epoch")

    def up_to(self, arch: Arch, far: float) -> Mapping[str, float]:  # noqa: ARG002
        """The measurements when it has come so far, in the unit of `fidelity`; `__call__` goes on from there, or begins anew.

        The same metrics as those of `__call__`.  They are kept apart from its results (`nas.MultiFidelity`).
        """
        raise self._lacks("up_to")

    def extract(self, arch: Arch) -> nn.Module:  # noqa: ARG002
        """The network that was evaluated, as an ordinary module that shares nothing, in eval mode."""
        raise self._lacks("extract")

    def measure_module(self, module: nn.Module) -> Mapping[str, float]:  # noqa: ARG002
        """The measurements of an ordinary module."""
        raise self._lacks("measure_module")

    def measure_again(self, module: nn.Module, arch: Arch | None) -> Mapping[str, float]:
        """The measurements of an ordinary module, that of `arch`; as `measure_module` where the arch does not matter."""
        del arch
        return self.measure_module(module)

    def difference(self, module: nn.Module, arch: Arch) -> Any:  # noqa: ARG002
        """How far the outputs of `module` are from those that were evaluated, a `nas.supernet.rounding.Gap`."""
        raise self._lacks("difference")

    @property
    def example(self) -> Any:
        """Inputs that every network takes."""
        raise self._lacks("example")

    def _lacks(self, what: str) -> EvaluationError:
        return EvaluationError(f"evaluator '{name_of(self)}' has no {what}; define it in the class")


class Adapted(Evaluator):
    """A callable that is no `Evaluator` as one: the one place that looks for the attributes that it may have.

    They are read when they are asked for, so that what is noted on a function later counts (`nas.needs`).
    """

    identified_by = "function"  # see `nas.identity`

    def __init__(self, function: Any) -> None:
        self.function = function
        for flag, method in _OPTIONAL.items():
            vars(self)[flag] = hasattr(function, method)

    def __call__(self, arch: Arch, /) -> Mapping[str, float]:
        """What the callable gives."""
        found: Mapping[str, float] = self.function(arch)
        return found

    def check(self, space: Space) -> None:
        """Asks the callable, if it has a `check`."""
        if hasattr(self.function, "check"):
            self.function.check(space)

    def describe(self) -> dict[str, Any] | None:
        """What the callable says."""
        return self.function.describe() if hasattr(self.function, "describe") else None


def _read(name: str, *default: Any) -> property:
    def get(self: Adapted) -> Any:
        return getattr(self.function, name, *default)

    def put(self: Adapted, value: Any) -> None:
        setattr(self.function, name, value)

    return property(get, put)


for _name in ("metrics", "cost", "exclusive", "needs", "fidelity", "device", "weights", "task"):
    setattr(Adapted, _name, _read(_name, getattr(Evaluator, _name)))
for _name in (*_OPTIONAL.values(), "difference", "example"):
    setattr(Adapted, _name, _read(_name))


def adapted(one: Any) -> Evaluator:
    """`one` as an evaluator.

    Raises:
        EvaluationError: it cannot be called.
    """
    if isinstance(one, Evaluator):
        return one
    if not callable(one) or isinstance(one, type):
        raise EvaluationError(
            f"evaluator {glimpse(one)} cannot be called; give a function from an arch to a dict of numbers"
        )
    return Adapted(one)


def every(evaluators: Iterable[Evaluator]) -> Iterator[Evaluator]:
    """The evaluators, each followed by those that it calls."""
    for one in evaluators:
        yield one
        yield from every(one.inner())


def subject(one: Any) -> Any:
    """What an evaluator was made of: the user's own callable, or itself."""
    return one.function if isinstance(one, Adapted) else one


def name_of(one: Any) -> str:
    """Of the function or the class."""
    one = subject(one)
    return str(getattr(one, "__qualname__", type(one).__qualname__))


def settings_of(one: Evaluator) -> dict[str, Any]:
    """What a study notes of an evaluator: what it says of itself, or its name."""
    described = one.describe()
    return {"name": name_of(one)} if described is None else described


def identity_of(one: Any) -> Any:
    """JSON that is equal for evaluators with the same results: what it says of itself, or class, attributes and code."""
    one = adapted(one) if callable(one) else one
    described = one.describe() if isinstance(one, Evaluator) else None
    return identity(subject(one)) if described is None else jsonable(described)
