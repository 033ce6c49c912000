from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from nas.errors import MetricError, suggest
from nas.metrics import Constraint, Metric, parse_constraint, parse_objective, unit_of


def test_objective_is_parsed_with_goal_and_unit() -> None:
    metric = parse_objective("min latency_ms")
    assert (metric.name, metric.goal, metric.unit, metric.sign) == ("latency_ms", "min", "ms", 1.0)
    assert metric.label == "latency_ms [ms]"
    assert parse_objective("max accuracy").sign == -1.0
    assert parse_objective(metric) is metric


@pytest.mark.parametrize("text", ["accuracy", "maximise accuracy", "max", "max a b", "", "max 2nd"])
def test_objective_that_does_not_parse_says_what_to_write(text: str) -> None:
    with pytest.raises(MetricError, match="max|identifier"):
        parse_objective(text)


def test_metric_refuses_a_goal_that_is_none() -> None:
    with pytest.raises(MetricError, match="goal='up'; it is one of 'min', 'max'"):
        Metric("accuracy", "up")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "value", "violation"),
    [
        ("params <= 100", 100, 0.0),
        ("params <= 100", 150, 0.5),
        ("accuracy >= 0.5", 0.25, 0.5),
        ("accuracy >= 0.5", 0.75, 0.0),
        ("params <= 50_000", 50_000, 0.0),
    ],
)
def test_violation_is_relative_to_the_bound(text: str, value: float, violation: float) -> None:
    assert parse_constraint(text).violation(value) == violation


def test_strict_bound_is_violated_by_equality_and_nan_always() -> None:
    assert parse_constraint("params < 100").violation(100) > 0
    assert Constraint("params", "<", 100.0).violation(99) == 0.0
    assert math.isinf(parse_constraint("params <= 100").violation(math.nan))


@pytest.mark.parametrize("text", ["params", "params == 3", "params <= many", "1 <= params", "params <= 1e", "a b <= 3"])
def test_constraint_that_does_not_parse_says_what_to_write(text: str) -> None:
    with pytest.raises(MetricError, match="NAME <= NUMBER"):
        parse_constraint(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("params <= 1_234_561", "params <= 1234561"),
        ("params <= 1234564.0", "params <= 1234564"),
        ("params < 9007199254740992", "params < 9007199254740992"),
        ("x >= 0.1234567890123", "x >= 0.1234567890123"),
        ("x >= -0.30000000000000004", "x >= -0.30000000000000004"),
        ("x > 1e-300", "x > 1e-300"),
        ("x <= 1e300", "x <= 1e+300"),
    ],
)
def test_a_constraint_is_shown_with_every_digit_and_read_again(text: str, shown: str) -> None:
    assert str(parse_constraint(text)) == shown
    assert parse_constraint(shown) == parse_constraint(text)


@pytest.mark.parametrize(
    ("bound", "sentence"),
    [
        (2**53 + 1, "lies between two 64-bit floats.*give 9007199254740992"),
        (float("nan"), "it is a finite number"),
        (float("inf"), "it is a finite number"),
        ("5", "it is a finite number"),
        (None, "it is a finite number"),
    ],
)
def test_a_bound_that_no_measurement_can_be_compared_with_is_refused(bound: Any, sentence: str) -> None:
    with pytest.raises(MetricError, match=sentence):
        Constraint("params", "<=", bound)


def test_bounds_of_text_are_refused_likewise() -> None:
    with pytest.raises(MetricError, match="lies between two 64-bit floats"):
        parse_constraint(f"params <= {2**53 + 1}")
    with pytest.raises(MetricError, match="finite"):
        parse_constraint("params <= 1e400")
    with pytest.raises(MetricError, match="it is one of '<=', '>=', '<', '>'"):
        Constraint("params", "==", 3)  # type: ignore[arg-type]


def test_a_bound_of_numpy_is_a_plain_float() -> None:
    assert Constraint("params", "<=", np.int64(5)).bound == 5.0
    assert type(Constraint("params", "<=", np.int64(5)).bound) is float


@pytest.mark.parametrize("name", ["reason", "duration_s", "état", "a b", ""])
def test_names_that_no_metric_can_have_are_refused(name: str) -> None:
    with pytest.raises(MetricError):
        Metric(name, "max")
    with pytest.raises(MetricError):
        Constraint(name, "<=", 3)


def test_suggestion_and_units() -> None:
    assert suggest("acuracy", ["accuracy", "params"]) == "; did you mean 'accuracy'?"
    assert suggest("zzz", ["accuracy"]) == ""
    assert [unit_of(name) for name in ("latency_ms", "memory_mib", "energy_mj", "macs")] == ["ms", "MiB", "mJ", ""]
