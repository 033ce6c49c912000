"""What networks cost, and which budgets can be met, before anything is trained."""

from __future__ import annotations

import pytest

import nas
from nas.errors import EvaluationError, MetricError
from tests.compressing.nets import supernet, task, trained


def test_it_measures_the_smallest_a_middle_and_the_largest_network() -> None:
    found = nas.profile(supernet(), ["macs <= 50%", "params <= 1"])
    original = sum(one.numel() for one in trained().parameters())
    assert found.original["params"] == original
    assert found.original["weights_mib"] == pytest.approx(4 * original / 2**20)
    for metric in ("params", "macs", "weights_mib"):
        assert found.measured["smallest"][metric] < found.measured["middle"][metric] < found.original[metric]
    half, one = found.verdicts
    assert half.met
    assert half.constraint.bound == pytest.approx(found.original["macs"] / 2)
    assert not one.met
    assert list(found.table.columns) == ["params", "macs", "weights_mib"]


def test_its_text_says_what_can_be_met_and_what_is_tied() -> None:
    said = str(nas.profile(supernet(), ["macs <= 50%", "params <= 1"]))
    assert "macs <= 0.5 * original (" in said
    assert "can be met" in said
    assert "params <= 1 (1) cannot be met: the smallest network has" in said
    assert "widths that more than three modules share: width (6)" in said


def test_latency_is_measured_where_a_device_is_given() -> None:
    found = nas.profile(supernet(), "latency_ms <= 90%", device="cpu")
    assert found.original["latency_ms"] > 0
    assert found.verdicts[0].original == found.original["latency_ms"]


def test_a_budget_below_the_smallest_network_is_refused_with_what_that_has() -> None:
    found = nas.profile(supernet(), "params <= 1")
    with pytest.raises(MetricError, match=r"below the smallest network of space 'Net', which has params \d+"):
        found.check()


def test_a_metric_that_nothing_measures_is_refused_before_any_work() -> None:
    with pytest.raises(MetricError, match=r"nothing measures here; there are params, macs, weights_mib.*device="):
        nas.profile(supernet(), "latency_ms <= 1")
    with pytest.raises(MetricError, match="'parms', which nothing measures here.*params"):
        nas.profile(supernet(), "parms <= 1")


def test_operations_are_counted_where_there_is_an_example() -> None:
    space = nas.elastic(trained(), task().example)
    counted = nas.profile(space, example=task().example).measured
    assert counted == nas.profile(supernet()).measured
    assert set(nas.profile(space).original) == {"params", "weights_mib"}
    with pytest.raises(MetricError, match="not measured of the original, which has params, weights_mib"):
        nas.profile(space, "macs <= 50%")
    with pytest.raises(MetricError, match="not measured of the smallest network, which has params, weights_mib"):
        nas.profile(space, "macs <= 1000")
    with pytest.raises(EvaluationError, match="example="):
        nas.profile(trained())
