"""Metrics, objectives and constraints: named and signed once, here.

A metric's name carries its unit (`latency_ms`, `memory_mib`, `energy_mj`); `params` and `macs` are exact counts.
Everything inside the search is minimised: `value * metric.sign`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nas.checking import checked
from nas.errors import MetricError
from nas.measurements import name_fault, number

Goal = Literal["min", "max"]

_OBJECTIVE = re.compile(r"\s*(\S+)\s+(\S+)\s*\Z")
_CONSTRAINT = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*(<=|>=|<|>)\s*([-+0-9._eE]+)\s*\Z")
_UNITS = {"_ms": "ms", "_mib": "MiB", "_mj": "mJ", "_s": "s"}


def unit_of(name: str) -> str:
    """Unit that a metric's name carries; `""` for counts and fractions.

    >>> unit_of("latency_ms"), unit_of("params")
    ('ms', '')
    """
    return next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")


def check_name(name: str, *, stored: bool = False) -> str:
    """`name`, if it can name a metric (or one that is `stored`): a Python identifier that no column of trials has.

    Raises:
        MetricError: it cannot.
    """
    fault = name_fault(name, stored=stored)
    if fault is not None:
        raise MetricError(fault)
    return name


@checked(MetricError)
@dataclass(frozen=True)
class Metric:
    """A quantity that is measured, and which way is better."""

    name: str
    goal: Goal
    unit: str = ""

    def __post_init__(self) -> None:
        check_name(self.name, stored=True)
        if not self.unit:
            object.__setattr__(self, "unit", unit_of(self.name))

    @property
    def sign(self) -> float:
        """+1.0 for a metric to minimise, -1.0 for one to maximise: `value * sign` is minimised."""
        return 1.0 if self.goal == "min" else -1.0

    def __str__(self) -> str:
        return f"{self.goal} {self.name}"

    @property
    def label(self) -> str:
        """Name with unit, for a table or an axis: `latency_ms [ms]`."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name


def parse_objective(objective: str | Metric) -> Metric:
    """A metric from `"max accuracy"` or `"min latency_ms"`.

    Raises:
        MetricError: it is not of that form.
    """
    if isinstance(objective, Metric):
        return objective
    match = _OBJECTIVE.match(objective) if isinstance(objective, str) else None
    if match and match[1] == "max":
        return Metric(check_name(match[2]), "max")
    if match and match[1] == "min":
        return Metric(check_name(match[2]), "min")
    raise MetricError(
        f"objective {objective!r} is not understood; write 'max NAME' or 'min NAME', as in 'max accuracy'"
    )


def parse_objectives(objectives: str | Sequence[str | Metric]) -> tuple[Metric, ...]:
    """Metrics from `"max accuracy, min params"`, or from a list of such.

    Raises:
        MetricError: one is not of that form, there is none, or one is named twice.
    """
    given = objectives.split(",") if isinstance(objectives, str) else objectives
    found = tuple(parse_objective(one) for one in given)
    names = [metric.name for metric in found]
    if not found:
        raise MetricError("there is no objective; give one or more, as in 'max accuracy, min params'")
    for name in names:
        if names.count(name) > 1:
            raise MetricError(f"objective {name!r} is given twice")
    return found


@checked(MetricError)
@dataclass(frozen=True)
class Constraint:
    """A bound that an arch must meet to count: `params <= 50_000`."""

    metric: str
    op: Literal["<=", ">=", "<", ">"]
    bound: float

    def __post_init__(self) -> None:
        check_name(self.metric, stored=True)
        if self.op not in ("<=", ">=", "<", ">"):
            raise MetricError(f"constraint on {self.metric!r} has operator {self.op!r}; it is one of <=, >=, <, >")
        try:
            given = number(self.bound)
        except ValueError as error:
            raise MetricError(f"the bound of the constraint on {self.metric!r} is {error}") from None
        if float(given) != given:
            raise MetricError(
                f"bound {given} of the constraint on {self.metric!r} lies between two 64-bit floats, which measurements are; "
                f"give {exact(float(given))}"
            )
        object.__setattr__(self, "bound", float(given))

    def excess(self, value: float) -> float:
        """How far `value` is beyond the bound, relative to it; negative within, inf for NaN.

        >>> parse_constraint("params <= 100").excess(50)
        -0.5
        """
        if math.isnan(value):
            return math.inf
        excess = value - self.bound if self.op in ("<=", "<") else self.bound - value
        return excess / max(abs(self.bound), 1e-12)

    def violation(self, value: float) -> float:
        """How far `value` is beyond the bound, relative to it; 0.0 when the constraint is met, inf for NaN.

        >>> parse_constraint("params <= 100").violation(150)
        0.5
        """
        excess = self.excess(value)
        if excess < 0 or (excess == 0 and self.op in ("<=", ">=")):
            return 0.0
        # A strict bound that is met with equality is violated, if by nothing: the smallest positive amount says so.
        return max(excess, math.ulp(0.0))

    def __str__(self) -> str:
        return f"{self.metric} {self.op} {exact(self.bound)}"


def parse_constraint(constraint: str | Constraint) -> Constraint:
    """A constraint from `"latency_ms <= 2"`; `<=`, `>=`, `<`, `>`; underscores in numbers as in Python.

    Raises:
        MetricError: it is not of that form, or the bound is no number that a measurement can be compared with.
    """
    if isinstance(constraint, Constraint):
        return constraint
    match = _CONSTRAINT.match(constraint) if isinstance(constraint, str) else None
    bound = None if match is None else _number(match[3])
    if match is not None and bound is not None:
        return Constraint(check_name(match[1]), match[2], bound)  # type: ignore[arg-type]
    raise MetricError(
        f"constraint {constraint!r} is not understood; write 'NAME <= NUMBER' (or >=, <, >), as in 'params <= 50_000'"
    )


def exact(value: float) -> str:
    """A number as text that is read as the same number: no digit is rounded away.

    >>> exact(1_234_561.0), exact(0.1), exact(1e300)
    ('1234561', '0.1', '1e+300')
    """
    return str(int(value)) if math.isfinite(value) and value == int(value) and abs(value) < 1e16 else repr(value)


def _number(text: str) -> float | None:
    """A number as Python writes it, whole ones exactly; None if it is none."""
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return None
