"""Sums are found from single replacements, in the values that add up, with the pairs that trials support."""

from __future__ import annotations

import numpy as np
import pytest

from nas.search.sums import fit_sum

GROUP = np.repeat(np.arange(10), 2)  # ten decisions of three candidates


def archs(later: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(n, 20) columns of the base, of all single replacements and of random archs; (n,) whether they are single."""
    genes = np.random.default_rng(seed).integers(0, 3, (later, 10))
    rows = np.concatenate([(genes[:, :, None] == [1, 2]).reshape(later, 20)])
    columns = np.vstack([np.zeros(20), np.eye(20), rows])
    return columns, np.arange(len(columns)) <= 20


def effects(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=20)


@pytest.mark.parametrize("later", [0, 1, 30])
def test_what_adds_up_is_exact(later: int) -> None:
    columns, single = archs(later)
    found = fit_sum(columns, 20.0 + columns @ effects(), single, GROUP)
    new, _ = archs(50, seed=1)
    assert not found.logarithmic
    assert found(new) == pytest.approx(20.0 + new @ effects())
    assert np.isnan(found.error) if not later else found.error < 1e-9


@pytest.mark.parametrize("later", [1, 30])
def test_logarithms_add_up_where_later_trials_say_so(later: int) -> None:
    columns, single = archs(later)
    found = fit_sum(columns, np.exp(columns @ effects()), single, GROUP)
    assert found.logarithmic
    assert found(columns) == pytest.approx(np.exp(columns @ effects()))


def test_before_there_are_later_trials_logarithms_add_up_where_sums_would_fall_to_zero() -> None:
    columns, single = archs(0)
    assert not fit_sum(columns, 10.0 - 0.9 * columns.sum(1), single, GROUP).logarithmic
    assert fit_sum(columns, 10.0 - 1.1 * columns.sum(1), single, GROUP).logarithmic
    assert not fit_sum(columns, 0.0 - 1.1 * columns.sum(1), single, GROUP).logarithmic


def test_pairs_are_found_where_later_trials_support_them_and_not_in_noise() -> None:
    columns, single = archs(120)
    noise = 0.05 * np.random.default_rng(3).normal(size=len(columns)) * ~single
    values = columns @ effects() + noise
    assert not fit_sum(columns, values, single, GROUP).pairs
    together = values + 2.0 * columns[:, 1] * columns[:, 4] - 2.0 * columns[:, 0] * columns[:, 19]
    found = fit_sum(columns, together, single, GROUP)
    assert sorted(found.pairs) == [(0, 19), (1, 4)]
    assert found.error < 0.1


def test_later_trials_correct_single_replacements_that_were_wrong() -> None:
    columns, single = archs(60)
    values = columns @ effects()
    values[1] += 3.0  # the first of them
    found = fit_sum(columns, values, single, GROUP)
    assert found.effects[0] == pytest.approx(effects()[0], abs=0.3)


def test_without_a_base_effects_are_those_of_a_ridge_regression() -> None:
    columns, single = archs(100)
    values = 5.0 + columns @ effects()
    found = fit_sum(columns[~single], values[~single], single[~single], GROUP)
    assert found(columns) == pytest.approx(values, abs=0.1)
