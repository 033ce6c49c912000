"""Several evaluators as one, and the checks of what they give.

Imports no torch: a worker that runs a user's own functions starts in a fraction of a second.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any

from nas import checking, reading
from nas.errors import EvaluationError, Infeasible, glimpse, suggest
from nas.evaluate.base import Evaluator, EvaluatorLike, adapted, name_of
from nas.evaluate.gated import Gated, with_conditions
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

    Conditions of `Gated` evaluators are constraints too, and what they are on is measured before.

    Args:
        evaluators: callables from an arch to measurements.
        constraints: `"params <= 50_000"`; checked as soon as the metric is known, so that an arch that is too large is never
            evaluated for accuracy.
        in_study: weights that were never trained are refused while it evaluates; a study says so.

    Raises:
        EvaluationError: there is no evaluator, one cannot be called, announces what cannot name a metric, two yield the same, or
            a condition is on what no evaluator before gives.
        MetricError: a constraint is ill-formed.
    """

    _in_study = False
    _waiting: Mapping[str, str] = {}  # which evaluators are not asked where a condition is missed, by the condition

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
        self.constraints = with_conditions([parse_constraint(one) for one in constraints], self.evaluators)
        if in_study:
            self._in_study = True
        self._check_names()
        self._check_order()
        if waiting := _not_asked(gate for one in self.evaluators for gate in _gates(one)):
            self._waiting = waiting

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
        gated = [at for at, one in enumerate(self.evaluators) if any(_gates(one))]
        places: dict[Needs | None, list[int]] = {}
        for at, one in enumerate(self.evaluators):
            if at not in gated:
                places.setdefault(one.needs, []).append(at)
        parts = sorted(places.items(), key=lambda one: one[0] is not None)
        for at in gated:
            needs, before = self.evaluators[at].needs, self._waits_for(at)
            first = max((place for place, (_, part) in enumerate(parts) if before.intersection(part)), default=0)
            if all(one != needs for one, _ in parts[first:]):
                parts.append((needs, []))
            next(part for one, part in parts[first:] if one == needs).append(at)
        return (
            [(needs, self._stage(sorted(part))) for needs, part in parts] if len(parts) > 1 else [(parts[0][0], self)]
        )

    def of(self, evaluators: Sequence[Evaluator]) -> Evaluation:
        """Some of its evaluators, with its constraints."""
        return type(self)(evaluators, self.constraints, in_study=self._in_study)

    def _stage(self, places: Sequence[int]) -> Evaluation:
        stage = _Stage([self.evaluators[at] for at in places], self.constraints, in_study=self._in_study)
        stage._waiting = self._waiting
        return stage

    def until(self, far: float) -> Evaluation:
        """The same where evaluators that can stop early go so far; constraints on what they yield judge full ones alone."""
        varying = {name for one in self.evaluators if one.has_levels for name in one.metrics or ()}
        parts = [Partial(one, far) if one.has_levels else one for one in self.evaluators]
        kept = [one for one in self.constraints if one.metric not in varying]
        return type(self)(parts, kept, in_study=self._in_study)

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
            self._check_measured(evaluator, measured)
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
                        f"evaluator '{_named(evaluator)}' yields {name!r}, which another gave already; rename one"
                    )
            measured |= found
            self._enforce(measured, found)
        return measured

    def _strictly(self) -> contextlib.AbstractContextManager[None]:
        return reading.in_study() if self._in_study else contextlib.nullcontext()

    def _enforce(self, measured: Mapping[str, float], new: Mapping[str, float]) -> None:
        for constraint in self.constraints:
            if constraint.metric in new and constraint.violation(new[constraint.metric]) > 0:
                so = f", so {them} not asked" if (them := self._waiting.get(str(constraint))) else ""
                raise Infeasible(
                    f"{constraint.metric} is {exact(new[constraint.metric])}, not {constraint.op} {exact(constraint.bound)}{so}",
                    dict(measured),
                )

    def _check_names(self) -> None:
        owners: dict[str, Evaluator] = {}
        for one in self.evaluators:
            announced: Any = one.metrics
            if isinstance(announced, str) or not isinstance(announced, (Iterable, NoneType)):
                raise EvaluationError(
                    f"evaluator '{_named(one)}' announces metrics {glimpse(announced)}; give a tuple of names, "
                    "as in ('accuracy',)"
                )
            for name in announced or ():
                fault = name_fault(name)
                if fault is not None:
                    raise EvaluationError(f"evaluator '{_named(one)}' announces what it cannot measure: {fault}")
                if name in owners:
                    raise EvaluationError(
                        f"evaluators '{_named(owners[name])}' and '{_named(one)}' both yield {name!r}; rename one"
                    )
                owners[name] = one

    def _check_order(self) -> None:
        """Whether every condition is on what is measured before; it may be where an evaluator before does not say."""
        for at, evaluator in enumerate(self.evaluators):
            for gate in _gates(evaluator):
                for condition in gate.where:
                    self._check_before(self.evaluators[:at], condition, gate)

    def _check_before(self, before: Sequence[Evaluator], condition: Constraint, gate: Gated) -> None:
        given = [name for one in before for name in one.metrics or ()]
        if condition.metric in given:
            return
        who = f"evaluator '{_named(gate)}' is asked only where {condition}, and"
        owner = next((one for one in self.evaluators if condition.metric in (one.metrics or ())), None)
        if owner is not None:
            itself = any(one is gate for one in _gates(owner))
            what = (
                "it gives that itself; give a condition on what is measured before"
                if itself
                else f"'{_named(owner)}', which gives that, comes after it; give '{_named(owner)}' first"
            )
            raise EvaluationError(f"{who} {what}")
        if all(one.metrics is not None for one in before):
            have = f"they give {', '.join(given)}" if given else "it is the first"
            raise EvaluationError(
                f"{who} none before it gives {condition.metric!r}; {have}{suggest(condition.metric, given)}"
            )

    def _check_measured(self, evaluator: Evaluator, measured: Mapping[str, float]) -> None:
        """Whether the conditions of an evaluator are known to be met: no violated one has let it come so far."""
        for gate in _gates(evaluator):
            for condition in gate.where:
                if condition.metric not in measured:
                    raise EvaluationError(
                        f"evaluator '{_named(gate)}' is asked only where {condition}, and {condition.metric!r} was not "
                        f"measured before it; there is {', '.join(measured) or 'nothing'}{suggest(condition.metric, measured)}"
                    )

    def _waits_for(self, at: int) -> set[int]:
        """Where the evaluators are that may give what conditions of the one at `at` are on."""
        wanted = {condition.metric for gate in _gates(self.evaluators[at]) for condition in gate.where}
        before = enumerate(self.evaluators[:at])
        return {place for place, one in before if one.metrics is None or not wanted.isdisjoint(one.metrics)}


class _Stage(Evaluation):
    """Evaluators of an evaluation that others come before, elsewhere: what those measured has met all conditions."""

    def _check_order(self) -> None:
        pass

    def _check_measured(self, evaluator: Evaluator, measured: Mapping[str, float]) -> None:
        pass


def _named(one: Any) -> str:
    """What a message calls an evaluator."""
    return name_of(one.evaluator if isinstance(one, Gated) else one)


def _gates(one: Evaluator) -> Iterator[Gated]:
    """What in an evaluator is asked only where; an `Evaluation` inside sees to its own."""
    if isinstance(one, Gated):
        yield one
    if not isinstance(one, Evaluation):
        for each in one.inner():
            yield from _gates(each)


def _not_asked(gates: Iterable[Gated]) -> dict[str, str]:
    """By condition, as in "'Latency' is"."""
    names: dict[str, list[str]] = {}
    for gate in gates:
        for condition in gate.where:
            names.setdefault(str(condition), []).append(f"'{_named(gate)}'")
    return {on: f"{' and '.join(who)} {'are' if len(who) > 1 else 'is'}" for on, who in names.items()}


def checked(evaluator: EvaluatorLike, given: Any) -> dict[str, float]:
    """What an evaluator gave, if it is measurements: its declared names, finite numbers.

    Raises:
        EvaluationError: it is not; with the metric's name and what came.
    """
    who = f"evaluator '{_named(evaluator)}'"
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
