"""What all algorithms share: history as columns, archs that are made when looked at, random numbers without a state."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.search import NSGA2, Algorithm, Exhausted, Finished, History, LazyArchs, RandomSearch, RegularizedEvolution
from tests.conformance.algorithm import TWO, completed, conditional, drive, flat, keys, small, trade_off, troubled


def test_lazy_archs_are_a_sequence_of_the_stored_archs() -> None:
    rng = random.Random(0)
    archs = [conditional().sample(rng) for _ in range(6)]
    lazy = LazyArchs(conditional(), [arch.row() for arch in archs])
    assert len(lazy) == 6
    assert list(lazy) == archs
    assert lazy[-1] == archs[-1]
    assert list(lazy[1:5:2]) == archs[1:5:2]
    assert archs[3] in lazy
    with pytest.raises(IndexError):
        lazy[6]


def test_history_columns_and_trials_are_the_same_thing() -> None:
    archs = [small().sample(random.Random(seed)) for seed in range(3)]
    trials = [
        Finished(4, archs[0], (1.0, -2.0)),
        Finished(2, archs[1], None, 0.25, "INFEASIBLE"),
        Finished(9, archs[2], None, 0.0, "FAILED"),
    ]
    history = History.of(trials, 2)
    assert [history.trial(row) for row in range(len(history))] == trials
    assert np.isnan(history.values[1:]).all()
    with pytest.raises(AssertionError, match="differ in length"):
        History(**{**vars(history), "keys": history.keys[:2]})


def test_of_an_arch_that_finished_twice_the_first_row_counts() -> None:
    arch, other = (small().arch({"d0": 0, "d1": 0, "d2": last}) for last in (0, 1))
    trials = [Finished(number, each, (1.0,)) for number, each in enumerate([arch, other, arch, other, arch])]
    assert list(History.of(trials, 1).first_rows()) == [0, 1]
    assert list(History.of(trials[:2], 1).first_rows()) == [0, 1]


KINDS: list[tuple[type[Algorithm], dict[str, Any]]] = [
    (NSGA2, {"population": 7}),
    (NSGA2, {"population": 7, "synchronous": True}),
    (RegularizedEvolution, {"population": 7, "sample": 3}),
    (RandomSearch, {}),
]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 64), st.integers(1, 12), st.integers(0, 10**6))
def test_rebuilds_at_any_moment(kind: Any, trials: int, workers: int, seed: int) -> None:
    make, options = kind
    archs = {arch.key: arch for arch in small().enumerate()}
    live, again = (make(**options, seed=seed) for _ in range(2))
    for algorithm in (live, again):
        algorithm.bind(small(), TWO)
    run = drive(live, troubled(trade_off), trials, workers=workers, seed=seed)
    again.restore(History.of(run.finished, 2, [arch for _, arch in run.running]))
    for number in range(100, 170):
        proposals = []
        for algorithm in (live, again):
            try:
                proposals.append(keys(algorithm.ask(2)))
            except Exhausted:
                proposals.append(["exhausted"])
        assert proposals[0] == proposals[1]
        if proposals[0] == ["exhausted"]:
            break
        finished = run.running.pop() if run.running else None
        for algorithm in (live, again):
            if finished:
                algorithm.tell([troubled(trade_off)(*finished)])
            for key in proposals[0]:
                algorithm.tell([completed(trade_off)(number, archs[key])])


def test_reserved_archs_are_not_proposed_and_may_be_told() -> None:
    algorithm = RandomSearch()
    algorithm.bind(small(), TWO)
    reserved = list(small().enumerate())[:60]
    algorithm.reserve(reserved)
    algorithm.reserve(reserved)
    assert (algorithm.known, algorithm.pending) == (60, 60)
    assert not set(keys(algorithm.ask(9))) & set(keys(reserved))
    algorithm.tell([completed(trade_off)(0, reserved[0])])
    assert (algorithm.known, algorithm.pending) == (64, 63)


def test_a_partial_answer_comes_before_exhaustion() -> None:
    algorithm = NSGA2(population=4)
    algorithm.bind(small(), TWO)
    assert len(algorithm.ask(60)) == 60
    assert len(algorithm.ask(60)) == 4
    with pytest.raises(Exhausted, match="all 64 archs of space 'flat-3' are known"):
        algorithm.ask(60)


def test_a_stuck_draw_gives_up_on_a_large_space(monkeypatch: pytest.MonkeyPatch) -> None:
    # A space too large to be listed, whose sampling has one arch to offer.
    algorithm = RandomSearch()
    algorithm.bind(flat(), TWO)
    only = flat().smallest
    monkeypatch.setattr(type(flat()), "sample", lambda self, rng: only)
    assert algorithm.ask(3) == [only]
    with pytest.raises(Exhausted, match="no new arch of space 'flat-11' was found in 2000 tries"):
        algorithm.ask(1)
