from __future__ import annotations

import math

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
    with pytest.raises(MetricError, match="'min' or 'max'"):
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


def test_suggestion_and_units() -> None:
    assert suggest("acuracy", ["accuracy", "params"]) == "; did you mean 'accuracy'?"
    assert suggest("zzz", ["accuracy"]) == ""
    assert [unit_of(name) for name in ("latency_ms", "memory_mib", "energy_mj", "macs")] == ["ms", "MiB", "mJ", ""]
