"""Which figures are noisy, and what that leaves open on a front."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from nas.metrics import Metric
from nas.noise import beside, close_neighbours, half_spread, is_noisy, noisy_name, noisy_trials

OBJECTIVES = (Metric("accuracy", "max"), Metric("latency_ms", "min"))


def front(**columns: list[float]) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index([41, 17, 9], name="number"))


def test_columns_that_tell_noise_are_named_after_the_metric() -> None:
    assert (beside("latency_ms", "spread"), noisy_name("latency_ms")) == ("latency_spread_ms", "latency_noisy")
    assert (beside("accuracy", "spread"), noisy_name("accuracy")) == ("accuracy_spread", "accuracy_noisy")


@pytest.mark.parametrize("missing", [{}, {"latency_spread_ms": math.nan, "latency_noisy": math.nan}])
def test_a_measurement_without_a_spread_is_not_noisy(missing: dict[str, float]) -> None:
    assert half_spread(missing, "latency_ms") is None
    assert not is_noisy(missing, "latency_ms")


def test_neighbours_that_differ_by_less_than_their_noise_are_named() -> None:
    found = front(
        accuracy=[0.9, 0.8, 0.7],
        latency_ms=[2.0, 1.0, 0.98],
        latency_spread_ms=[0.1, 0.02, 0.04],
        latency_noisy=[0.0, 1.0, math.nan],
    )
    (close,) = close_neighbours(found, OBJECTIVES)
    assert close.pairs == [(9, 17)]
    assert str(close) == (
        "latency_ms of 1 of 2 neighbours on the front differs by less than its noise (trials 9 and 17): which of them is better "
        "is open"
    )
    assert noisy_trials(found, "latency_ms") == [17]
    assert close_neighbours(found.assign(latency_spread_ms=0.01), OBJECTIVES) == []
    assert close_neighbours(found.drop(columns="latency_spread_ms"), OBJECTIVES) == []
