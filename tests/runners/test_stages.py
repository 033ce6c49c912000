from __future__ import annotations

from typing import Any

import pytest

from nas.errors import Infeasible
from nas.runners import InlineRunner, LocalRunner, Runner, StagedRunner
from tests.conformance.runner import RowSpace, RunnerConformance, double, drain, tasks


def half(arch: Any) -> dict[str, float]:
    if arch[0] == 4:
        raise Infeasible("four is too much", {"half": 2.0})
    return {"half": arch[0] / 2}


def third(arch: Any) -> dict[str, float]:
    return {"third": arch[0] / 3}


def never(arch: Any) -> dict[str, float]:
    raise AssertionError("an arch that a stage before found infeasible came this far")


def always_infeasible(arch: Any) -> dict[str, float]:
    raise Infeasible("no arch is good enough", {"seen": arch[0]})


def inline(*evaluations: Any) -> StagedRunner:
    return StagedRunner([InlineRunner(RowSpace(), one) for one in evaluations])


class TestStaged(RunnerConformance):
    def make(self, evaluate: Any, **options: Any) -> Runner:
        return inline(evaluate, third)


def test_measurements_of_all_stages_come_together() -> None:
    with inline(double, half) as runner:
        assert runner.capacity == 2
        runner.submit(tasks(6))
        found = drain(runner, 6)
    assert found[3].measurements == {"twice": 6.0, "half": 1.5}
    assert found[4].state == "INFEASIBLE"
    assert found[4].measurements == {"twice": 8.0, "half": 2.0}


def test_an_infeasible_arch_goes_no_further() -> None:
    with inline(always_infeasible, never) as runner:
        runner.submit(tasks(3))
        assert {outcome.state for outcome in drain(runner, 3).values()} == {"INFEASIBLE"}


def test_two_stages_that_measure_the_same_are_a_failure() -> None:
    with inline(double, double) as runner:
        runner.submit(tasks(1))
        outcome = drain(runner, 1)[0]
    assert (outcome.state, outcome.reason) == ("FAILED", "two evaluators yield 'twice'; rename one")


def test_stages_are_pools_of_their_own() -> None:
    with StagedRunner([LocalRunner(RowSpace(), one, 1) for one in (double, half)]) as runner:
        assert len(set(runner.pids)) == 2
        runner.submit(tasks(10))
        found = drain(runner, 10)
    assert all(found[number].measurements["half"] == number / 2 for number in range(10))


@pytest.mark.parametrize("timeout", [0.0, 0.05])
def test_waiting_ends_when_nothing_comes(timeout: float) -> None:
    with inline(double, half) as runner:
        assert runner.wait(timeout) == []
