"""Several evaluators as one, and the checks of what they give.

Imports no torch: a worker that runs a user's own functions starts in a fraction of a second.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any

from nas import checking, reading
from nas.errors import EvaluationError, Infeasible, glimpse, suggest
from nas.evaluate.base import Evaluator, EvaluatorLike, adapted, name_of
from nas.evaluate.partial import Partial
from nas.failures import verdict
from nas.hardware import exclusive, shared
from nas.measurements import name_fault, number
from nas.metrics import Constraint, exact, parse_constraint
from nas.placement import Needs

if TYPE_CHECKING:
    from nas.space import Arch, Space


class Evaluation(Evaluator):
    """Several evaluators as one: cheap ones first, stopping at the first violated constraint.

    Args:
        evaluators: callables from an arch to measurements.
        constraints: `"params <= 50_000"`; checked as soon as the metric is known, so that an arch that is too large is never
            evaluated for accuracy.
        in_study: weights that were never trained are refused while it evaluates; a study says so.

    Raises:
        EvaluationError: there is no evaluator, one cannot be called, announces what cannot name a metric, or two yield the same.
        MetricError: a constraint is ill-formed.
    """

    _in_study = False

    @checking.checked(EvaluationError)
    def __init__(
        self,
        evaluators: EvaluatorLike | Iterable[EvaluatorLike],
        constraints: Iterable[str | Constraint] = (),
        *,
        in_study: bool = False,
    ) -> None:
        given: list[Any] = [evaluators] if callable(evaluators) else list(evaluators)
        if not given:
            raise EvaluationError("there is nothing to evaluate; give at least one evaluator")
        self.evaluators: Sequence[Evaluator] = sorted(map(adapted, given), key=lambda one: one.cost != "cheap")
        self.constraints = tuple(parse_constraint(one) for one in constraints)
        if in_study:
            self._in_study = True
        self._check_names()

    # Computed, since what an object is compared by are its attributes.
    @property
    def metrics(self) -> tuple[str, ...] | None:  # type: ignore[override]
        """What all evaluators together yield; None when one of them does not say."""
        told = [one.metrics for one in self.evaluators if one.metrics is not None]
        return tuple(name for names in told for name in names) if len(told) == len(self.evaluators) else None

    @property
    def has_progress(self) -> bool:  # type: ignore[override]
        """Whether an evaluator tells how far it is with an arch."""
        return any(one.has_progress for one in self.evaluators)

    def stages(self) -> list[tuple[Needs | None, Evaluation]]:
        """Itself in parts that need different places (`nas.needs`), one after the other; first what needs no place of its own."""
        parts: dict[Needs | None, list[Evaluator]] = {}
        for one in self.evaluators:
            parts.setdefault(one.needs, []).append(one)
        ordered = sorted(parts.items(), key=lambda one: one[0] is not None)
        return [(needs, self.of(part)) for needs, part in ordered]

    def of(self, evaluators: Sequence[Evaluator]) -> Evaluation:
        """Some of its evaluators, with its constraints."""
        return Evaluation(evaluators, self.constraints, in_study=self._in_study)

    def until(self, far: float) -> Evaluation:
        """The same where evaluators that can stop early go so far; constraints on what they yield judge full ones alone."""
        varying = {name for one in self.evaluators if one.has_levels for name in one.metrics or ()}
        parts = [Partial(one, far) if one.has_levels else one for one in self.evaluators]
        kept = [one for one in self.constraints if one.metric not in varying]
        return Evaluation(parts, kept, in_study=self._in_study)

    def inner(self) -> Sequence[Evaluator]:
        """Its evaluators."""
        return self.evaluators

    def bound(self, source: Any, task: Any) -> Evaluation:
        """As those of its evaluators are."""
        return self.of([one.bound(source, task) for one in self.evaluators])

    def describe(self) -> dict[str, Any] | None:
        """None, as long as all of its evaluators are compared by class and attributes."""
        return None

    def check(self, space: Space) -> None:
        """Asks every evaluator whether what it needs to evaluate archs of `space` is there."""
        with self._strictly():
            for one in self.evaluators:
                with contextlib.suppress(Infeasible):  # of the arch that it was tried on; others may be feasible
                    one.check(space)

    def progress(self, arch: Arch) -> list[Mapping[str, float]]:
        """Measurements after each epoch that has finished, of the first evaluator that tells; read by any process at any time."""
        told = next((one for one in self.evaluators if one.has_progress), None)
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
                with exclusive() if evaluator.exclusive else shared(), self._strictly():
                    given = evaluator(arch)
            except Infeasible as reason:
                _, until_then, why = verdict(reason)
                raise Infeasible(why, measured | until_then) from reason
            found = checked(evaluator, given)
            for name in found:
                if name in measured:
                    raise EvaluationError(
                        f"evaluator '{name_of(evaluator)}' yields {name!r}, which another gave already; rename one"
                    )
            measured |= found
            self._enforce(measured, found)
        return measured

    def _strictly(self) -> contextlib.AbstractContextManager[None]:
        return reading.in_study() if self._in_study else contextlib.nullcontext()

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
            announced: Any = one.metrics
            if isinstance(announced, str) or not isinstance(announced, (Iterable, NoneType)):
                raise EvaluationError(
                    f"evaluator '{name_of(one)}' announces metrics {glimpse(announced)}; give a tuple of names, "
                    "as in ('accuracy',)"
                )
            for name in announced or ():
                fault = name_fault(name)
                if fault is not None:
                    raise EvaluationError(f"evaluator '{name_of(one)}' announces what it cannot measure: {fault}")
                if name in owners:
                    raise EvaluationError(
                        f"evaluators '{name_of(owners[name])}' and '{name_of(one)}' both yield {name!r}; rename one"
                    )
                owners[name] = one


def checked(evaluator: EvaluatorLike, given: Any) -> dict[str, float]:
    """What an evaluator gave, if it is measurements: its declared names, finite numbers.

    Raises:
        EvaluationError: it is not; with the metric's name and what came.
    """
    who = f"evaluator '{name_of(evaluator)}'"
    if not isinstance(given, Mapping):
        raise EvaluationError(
            f"{who} returned {glimpse(given)}; it must return a dict of numbers, as in {{'accuracy': 0.9}}"
        )
    if not given:
        raise EvaluationError(
            f"{who} returned no measurement; it must return a dict of numbers, as in {{'accuracy': 0.9}}"
        )
    declared = adapted(evaluator).metrics
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
