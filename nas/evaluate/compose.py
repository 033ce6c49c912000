"""Several evaluators as one, and the checks of what they give.

Imports no torch: a worker that runs a user's own functions starts in a fraction of a second.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any, Protocol

from nas import checking
from nas.errors import EvaluationError, Infeasible, glimpse, suggest
from nas.failures import verdict
from nas.hardware import exclusive, shared
from nas.measurements import name_fault, number
from nas.metrics import Constraint, exact, parse_constraint
from nas.placement import Needs, needs_of

if TYPE_CHECKING:
    from nas.space import Arch, Space


class Evaluator(Protocol):
    """Anything that maps an arch to measurements; raises `Infeasible` for an arch that cannot be used."""

    def __call__(self, arch: Arch, /) -> Mapping[str, float]:
        """The measurements of `arch`."""


class Evaluation:
    """Several evaluators as one: cheap ones first, stopping at the first violated constraint.

    Args:
        evaluators: callables from an arch to measurements.
        constraints: `"params <= 50_000"`; checked as soon as the metric is known, so that an arch that is too large is never
            evaluated for accuracy.

    Raises:
        EvaluationError: there is no evaluator, one cannot be called, announces what cannot name a metric, or two yield the same.
        MetricError: a constraint is ill-formed.
    """

    @checking.checked(EvaluationError)
    def __init__(
        self, evaluators: Evaluator | Iterable[Evaluator], constraints: Iterable[str | Constraint] = ()
    ) -> None:
        given: list[Any] = [evaluators] if callable(evaluators) else list(evaluators)
        if not given:
            raise EvaluationError("there is nothing to evaluate; give at least one evaluator")
        for one in given:
            if not callable(one):
                raise EvaluationError(
                    f"evaluator {one!r} cannot be called; give a function from an arch to a dict of numbers"
                )
        self.evaluators: Sequence[Evaluator] = sorted(given, key=lambda one: getattr(one, "cost", "dear") != "cheap")
        self.constraints = tuple(parse_constraint(one) for one in constraints)
        self._check_names()

    @property
    def metrics(self) -> tuple[str, ...] | None:
        """What all evaluators together yield; None when one of them does not say."""
        declared = [getattr(one, "metrics", None) for one in self.evaluators]
        return None if None in declared else tuple(name for names in declared for name in names or ())

    def stages(self) -> list[tuple[Needs | None, Evaluation]]:
        """Itself in parts that need different places (`nas.needs`), one after the other; first what needs no place of its own."""
        parts: dict[Needs | None, list[Evaluator]] = {}
        for one in self.evaluators:
            parts.setdefault(needs_of(one), []).append(one)
        ordered = sorted(parts.items(), key=lambda one: one[0] is not None)
        return [(needs, Evaluation(part, self.constraints)) for needs, part in ordered]

    def check(self, space: Space) -> None:
        """Asks every evaluator whether what it needs to evaluate archs of `space` is there."""
        for one in self.evaluators:
            check: Callable[[Space], None] | None = getattr(one, "check", None)
            if check is not None:
                with contextlib.suppress(Infeasible):  # of the arch that it was tried on; others may be feasible
                    check(space)

    @property
    def has_progress(self) -> bool:
        """Whether an evaluator tells how far it is with an arch: `progress(arch)`, measurements after each finished epoch."""
        return any(hasattr(one, "progress") for one in self.evaluators)

    def progress(self, arch: Arch) -> list[dict[str, float]]:
        """Measurements after each epoch that has finished, of the first evaluator that tells; read by any process at any time."""
        told: Any = next((one for one in self.evaluators if hasattr(one, "progress")), None)
        return [] if told is None else list(told.progress(arch))

    def __call__(self, arch: Arch) -> dict[str, float]:
        """All measurements of `arch`.

        Raises:
            Infeasible: a constraint is violated, or an evaluator says so; with what was measured until then.
            EvaluationError: an evaluator gave something else than named finite numbers, or what another gave already.
        """
        measured: dict[str, float] = {}
        for evaluator in self.evaluators:
            try:
                with exclusive() if getattr(evaluator, "exclusive", False) else shared():
                    given = evaluator(arch)
            except Infeasible as reason:
                _, until_then, why = verdict(reason)
                raise Infeasible(why, measured | until_then) from reason
            found = checked(evaluator, given)
            for name in found:
                if name in measured:
                    raise EvaluationError(
                        f"evaluator '{_name(evaluator)}' yields {name!r}, which another gave already; rename one"
                    )
            measured |= found
            self._enforce(measured, found)
        return measured

    def _enforce(self, measured: Mapping[str, float], new: Mapping[str, float]) -> None:
        for constraint in self.constraints:
            if constraint.metric in new and constraint.violation(new[constraint.metric]) > 0:
                raise Infeasible(
                    f"{constraint.metric} is {exact(new[constraint.metric])}, not {constraint.op} {exact(constraint.bound)}",
                    dict(measured),
                )

    def _check_names(self) -> None:
        owners: dict[str, Evaluator] = {}
        for one in self.evaluators:
            announced = getattr(one, "metrics", None)
            if isinstance(announced, str) or not isinstance(announced, (Iterable, NoneType)):
                raise EvaluationError(
                    f"evaluator '{_name(one)}' announces metrics {glimpse(announced)}; give a tuple of names, as in ('accuracy',)"
                )
            for name in announced or ():
                fault = name_fault(name)
                if fault is not None:
                    raise EvaluationError(f"evaluator '{_name(one)}' announces what it cannot measure: {fault}")
                if name in owners:
                    raise EvaluationError(
                        f"evaluators '{_name(owners[name])}' and '{_name(one)}' both yield {name!r}; rename one"
                    )
                owners[name] = one


def checked(evaluator: Evaluator, given: Any) -> dict[str, float]:
    """What an evaluator gave, if it is measurements: its declared names, finite numbers.

    Raises:
        EvaluationError: it is not; with the metric's name and what came.
    """
    who = f"evaluator '{_name(evaluator)}'"
    if not isinstance(given, Mapping):
        raise EvaluationError(
            f"{who} returned {glimpse(given)}; it must return a dict of numbers, as in {{'accuracy': 0.9}}"
        )
    if not given:
        raise EvaluationError(
            f"{who} returned no measurement; it must return a dict of numbers, as in {{'accuracy': 0.9}}"
        )
    declared = getattr(evaluator, "metrics", None)
    if declared is not None:
        for name in declared:
            if name not in given:
                raise EvaluationError(
                    f"{who} returned no {name!r}; it gave {', '.join(map(str, given))}{suggest(name, given)}"
                )
        for name in given:
            if name not in declared:
                raise EvaluationError(
                    f"{who} returned {name!r}, which its metrics {tuple(declared)} do not announce; add it there"
                )
    found: dict[str, float] = {}
    for name, value in given.items():
        fault = name_fault(name)
        if fault is not None:
            raise EvaluationError(f"{who} gave what is no measurement: {fault}")
        try:
            found[name] = number(value)
        except ValueError as error:
            raise EvaluationError(f"metric {name!r} of {who} came back as {error}") from None
    return found


def _name(evaluator: Any) -> str:
    return str(getattr(evaluator, "__qualname__", type(evaluator).__qualname__))
