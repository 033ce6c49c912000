"""Budgets as a person writes them."""

from __future__ import annotations

import pytest

from nas.compressing import Budget, parse_budget, parse_budgets
from nas.errors import MetricError


@pytest.mark.parametrize(
    ("text", "metric", "bound", "share"),
    [
        ("params <= 50_000", "params", 50_000.0, None),
        ("latency_ms < 2.5", "latency_ms", 2.5, None),
        ("latency_ms <= 0.6 * original", "latency_ms", None, 0.6),
        ("latency_ms<=0.6*original", "latency_ms", None, 0.6),
        ("macs <= 60%", "macs", None, 0.6),
        ("macs <= 60% of original", "macs", None, 0.6),
        ("50%", "latency_ms", None, 0.5),
        (" 12.5 % ", "latency_ms", None, 0.125),
        (0.5, "latency_ms", None, 0.5),
        (Budget("params", share=0.5), "params", None, 0.5),
    ],
)
def test_every_spelling_means_a_bound_or_a_share(
    text: str | float | Budget, metric: str, bound: float | None, share: float | None
) -> None:
    assert parse_budget(text, "latency_ms") == Budget(metric, bound=bound, share=share)


def test_shares_are_of_what_the_original_measures() -> None:
    budget = parse_budget("macs <= 60%")
    assert budget.constraint({"macs": 200.0, "params": 3.0}).bound == pytest.approx(120.0)
    with pytest.raises(MetricError, match="not measured of the original, which has params"):
        budget.constraint({"params": 3.0})


def test_several_are_given_in_a_list_or_with_commas() -> None:
    assert parse_budgets("50%, params <= 100") == (Budget("macs", share=0.5), Budget("params", bound=100.0))
    assert parse_budgets([0.5, "params <= 100"]) == parse_budgets("50%, params <= 100")
    assert [budget.share for budget in parse_budgets(0.5)] == [0.5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not understood; write 'latency_ms <= 5'"),
        ("small", "not understood"),
        ("150%", "above 0 and below 1"),
        ("0%", "above 0 and below 1"),
        ("macs <= -1 * original", "above 0 and below 1"),
        ("macs <= 1.0 * original", "above 0 and below 1"),
        ("macs <= 1.2.3 * original", "not understood"),
        ("accuracy >= 0.9", "a budget is the most: accuracy <= …"),
        ([], "there is no budget"),
    ],
)
def test_what_is_no_budget_is_refused_in_a_sentence(text: object, said: str) -> None:
    with pytest.raises(MetricError, match=said):
        parse_budgets(text)  # type: ignore[arg-type]
