"""Local search: steps to neighbours, restarts, and the contract."""

from __future__ import annotations

import pytest

from nas.errors import AlgorithmError
from nas.search import Algorithm, LocalSearch
from nas.search.local_search import _neighbours
from nas.space import Arch
from tests.conformance.algorithm import (
    ONE,
    TWO,
    LearnerConformance,
    completed,
    conditional,
    continuous,
    drive,
    error_only,
    flat,
    keys,
    small,
    trade_off,
)


class TestLocalSearch(LearnerConformance):
    rebuilt = 200  # one for each that entered the front

    def make(self, seed: int = 0) -> Algorithm:
        return LocalSearch(start=10, seed=seed)


def test_after_the_start_every_proposal_is_a_neighbour_of_the_best() -> None:
    algorithm = LocalSearch(start=6)
    algorithm.bind(flat(), ONE)
    best: Arch | None = None
    for number in range(60):
        arch = algorithm.ask(1)[0]
        if number >= 6:
            assert best is not None
            assert arch.key in {near.key for near in flat().neighbours(best)}
        algorithm.tell([completed(error_only)(number, arch)])
        if best is None or error_only(arch) < error_only(best):
            best = arch


def test_with_two_objectives_proposals_are_beside_the_front() -> None:
    algorithm = LocalSearch(start=6)
    algorithm.bind(flat(), TWO)
    run = drive(algorithm, completed(trade_off), 100)
    finished = [trial.arch for trial in run.finished]
    for at, arch in enumerate(run.asked[20:60], start=20):
        beside = {near.key for known in finished[:at] for near in flat().neighbours(known)}
        assert arch.key in beside


def test_starts_again_elsewhere_when_no_neighbour_is_better() -> None:
    # One valley at 000 and one at 333; a neighbour of either is worse.
    def valleys(arch: Arch) -> tuple[float, ...]:
        genes = [int(gene) for gene in arch.genome]
        return (float(min(sum(genes), 1 + sum(3 - gene for gene in genes))),)

    found = 0
    for seed in range(5):
        algorithm = LocalSearch(start=2, seed=seed)
        algorithm.bind(small(), ONE)
        run = drive(algorithm, completed(valleys), 60)
        values = [valleys(arch)[0] for arch in run.asked]
        assert 0.0 in values
        found += 1.0 in values and valleys(small().from_genome([3, 3, 3])) == (1.0,)
        assert algorithm._finished < 60  # counted from the last restart
    assert found == 5


def test_a_restart_forgets_the_front_and_not_what_is_known() -> None:
    algorithm = LocalSearch(start=1)
    algorithm.bind(small(), ONE)
    run = drive(
        algorithm, completed(lambda arch: (1.0,)), 40
    )  # the first stays; its nine neighbours follow, then a restart
    first = run.asked[0]
    assert set(keys(run.asked[1:10])) == {near.key for near in small().neighbours(first)}
    assert len(set(keys(run.asked))) == 40


def test_neighbours_of_floats_are_steps_within_the_bounds() -> None:
    arch = continuous().arch({"rate": 1e-4, "drop": 0.25, "depth": 2})
    near = list(_neighbours(continuous(), arch))
    assert len(near) == 2 + 2 + 4  # other depths, a rate at its bound goes up only, a drop all ways
    assert all(continuous().why_not(other.choices) is None for other in near)
    assert {round(float(other.choices["drop"]), 4) for other in near} == {0.2, 0.245, 0.25, 0.255, 0.3}
    plain = conditional().largest
    assert keys(list(_neighbours(conditional(), plain))) == keys(list(conditional().neighbours(plain)))


def test_wrong_options_get_one_sentence() -> None:
    with pytest.raises(AlgorithmError, match="local-search was given start=0; it is a whole number, 1 or more"):
        LocalSearch(start=0)
