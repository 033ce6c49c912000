"""What is remembered, and what a predictor learns from."""

from __future__ import annotations

import random

import numpy as np
import pytest

from nas.search import Finished, History
from nas.search.forecast import Forecast, finite
from nas.search.grid import fit_grid
from nas.search.past import Past, spread
from tests.conformance.algorithm import TWO, completed, drive, flat, make, trade_off, troubled


@pytest.mark.parametrize("cap", [2, 3, 4, 5, 10, 99])
@pytest.mark.parametrize("end", [0, 1, 2, 5, 10, 11, 100, 1000])
def test_a_training_set_is_bounded_young_and_spread(end: int, cap: int) -> None:
    rows = spread(end, cap)
    assert len(rows) == min(end, cap)
    assert rows == sorted(set(rows))
    assert all(0 <= row < end for row in rows)
    if end > cap:
        young = (cap + 1) // 2
        assert rows[-young:] == list(range(end - young, end))
        if cap >= 10:
            old = np.diff([row for row in rows if row < end - young])
            assert old.max() - old.min() <= 1  # evenly


def test_stored_and_live_trials_are_one_past() -> None:
    algorithm = make("random")
    algorithm.bind(flat(), TWO)
    trials = drive(algorithm, troubled(trade_off), 50).finished
    stored, live = Past(), Past()
    history = History.of(trials[:30], 2)
    stored.begin(history, np.asarray(history.first_rows()))
    for trial in trials:
        live.append(trial)
    for trial in trials[30:]:
        stored.append(trial)
    assert len(stored) == len(live) == len(trials)
    assert [stored[at] for at in range(len(trials))] == [live[at] for at in range(len(trials))] == trials
    for end in (0, 10, 30, 40):
        assert stored.keys(end) == live.keys(end) == {trial.arch.key for trial in trials[:end]}
    kept = stored.training(40, 12)
    assert {trial.state for trial in kept} <= {"COMPLETED", "INFEASIBLE"}
    assert kept == [trials[at] for at in spread(40, 12) if trials[at].state != "FAILED"]


def test_infinities_lie_one_range_beyond_what_is_finite() -> None:
    values = np.array([[1.0, np.inf], [3.0, np.inf], [np.inf, -np.inf], [-np.inf, np.inf]])
    assert finite(values)[:, 0].tolist() == [1.0, 3.0, 5.0, -1.0]
    assert finite(values)[:, 1].tolist() == [1.0, 1.0, -1.0, 1.0]
    assert finite(values[:1, :1]) is not None
    assert finite(np.array([[2.0], [2.0], [np.inf]])).ravel().tolist() == [2.0, 2.0, 4.0]


def test_a_forecast_of_an_additive_landscape_is_right_and_knows_the_feasible() -> None:
    rng = random.Random(1)
    archs = list({arch.key: arch for arch in (flat().sample(rng) for _ in range(400))}.values())

    def outcome(number: int) -> Finished:
        arch = archs[number]
        error, cost = trade_off(arch)
        over = max(0.0, cost - 17.0)
        return Finished(number, arch, None if over else (error, cost), over, "INFEASIBLE" if over else "COMPLETED")

    trials = [outcome(number) for number in range(300)]
    forecast = Forecast(flat(), trials, [1, 0], lambda x, y: fit_grid(x, y, [1e-3], ()))
    values, violations = forecast(archs[300:])
    truth = np.array([trade_off(arch)[::-1] for arch in archs[300:]])
    assert np.abs(values - truth).max() < 0.05
    assert np.mean((violations > 0) == (truth[:, 0] > 17)) > 0.85


def test_a_forecast_from_nothing_feasible_still_tells_near_from_far() -> None:
    rng = random.Random(2)
    archs = [flat().sample(rng) for _ in range(200)]
    trials = [Finished(i, arch, None, 1.0 + trade_off(arch)[1], "INFEASIBLE") for i, arch in enumerate(archs[:150])]
    values, violations = Forecast(flat(), trials, [0, 1], lambda x, y: fit_grid(x, y, [1e-3], ()))(archs[150:])
    cost = [trade_off(arch)[1] for arch in archs[150:]]
    assert not values.any()
    assert np.corrcoef(violations, cost)[0, 1] > 0.99
    assert completed(trade_off)(0, archs[0]).violation == 0
