"""From what was reported to what is true of a trial: the one place that decides COMPLETED, INFEASIBLE or FAILED."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas.errors import StoreError
from nas.measurements import usable
from nas.metrics import Constraint, Metric, exact
from nas.store.records import FINISHED, ImportedTrial, Report, State

_LONGEST = 4_000
_STUDY_NAME = re.compile(r"[\w][\w .:+@-]{0,199}\Z")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trial ended.  `note` says why this is not what was reported, or is empty."""

    state: State
    measurements: dict[str, float]
    violation: float | None
    reason: str | None
    note: str = ""


def study_name_fault(name: object) -> str | None:
    """Why `name` cannot name a study that is run or renamed; None if it can."""
    if isinstance(name, str) and _STUDY_NAME.match(name):
        return None
    return f"study name {name!r} is not usable; use up to 200 letters, digits, spaces and _ . : + @ -"


def settle(result: Report | ImportedTrial, objectives: Sequence[Metric], constraints: Sequence[Constraint]) -> Outcome:
    """Judge a result: a COMPLETED trial has a number for every metric, all objectives, and meets all constraints.

    A trial reported COMPLETED is FAILED when a measurement is none (`nas.measurements`), INFEASIBLE when a constraint that was
    measured is violated, and FAILED when an objective or a constraint's metric is missing.  Of INFEASIBLE and FAILED trials the
    measurements that are numbers are kept.

    Raises:
        StoreError: the state is not one in which a trial ends.
    """
    state, violation = result.state, result.violation
    reason = _storable(result.reason)
    if state not in FINISHED:
        raise StoreError(f"a trial cannot be reported as {state!r}; it ends as one of {', '.join(FINISHED)}")
    found, fault = usable(result.measurements)
    values = {name: float(value) for name, value in found.items()}
    if state != "COMPLETED":
        if violation is None and state == "INFEASIBLE":
            violation = _violation(values, constraints)
        return Outcome(state, values, violation, reason)
    if fault:
        return Outcome("FAILED", values, None, fault, fault)
    beyond = max(_violation(values, constraints) or 0.0, violation or 0.0)
    if beyond > 0.0:
        broken = reason or _broken(values, constraints)
        return Outcome("INFEASIBLE", values, beyond, broken, broken)
    fault = missing(values, objectives, constraints)
    if fault:
        return Outcome("FAILED", values, None, fault, fault)
    return Outcome(state, values, 0.0, reason)


def _storable(reason: str | None) -> str | None:
    """Text of an error as any database holds it: valid Unicode without NUL, of bounded length."""
    if reason is None:
        return None
    return reason[:_LONGEST].replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def missing(values: Mapping[str, float], objectives: Sequence[Metric], constraints: Sequence[Constraint]) -> str | None:
    """What a trial that meets all constraints would still have to measure; None if nothing."""
    for metric in objectives:
        if metric.name not in values:
            return f"objective {metric.name!r} was not measured"
    for constraint in constraints:
        if constraint.metric not in values:
            return f"metric {constraint.metric!r} of the constraint '{constraint}' was not measured"
    return None


def _violation(values: Mapping[str, float], constraints: Sequence[Constraint]) -> float | None:
    """Sum over the constraints whose metric was measured; None when there is none."""
    known = [c.violation(values[c.metric]) for c in constraints if c.metric in values]
    return math.fsum(known) if known else None


def _broken(values: Mapping[str, float], constraints: Sequence[Constraint]) -> str:
    for constraint in constraints:
        if constraint.metric in values and constraint.violation(values[constraint.metric]) > 0.0:
            return f"{constraint.metric} = {exact(values[constraint.metric])} violates '{constraint}'"
    return "a constraint is violated"
