"""What NSGA-II does beyond the contract."""

from __future__ import annotations

import random
from typing import Any

import pytest

from nas.errors import AlgorithmError
from nas.search import NSGA2, Finished
from nas.search.nsga2 import _Parent
from nas.space import Arch
from tests.conformance.algorithm import TWO, Run, completed, drive, flat, keys, trade_off, troubled


def bound(**options: Any) -> NSGA2:
    algorithm = NSGA2(**options)
    algorithm.bind(flat(), TWO)
    return algorithm


def distance(a: Arch, b: Arch) -> int:
    return sum(x != y for x, y in zip(a.genome, b.genome, strict=True))


@pytest.mark.parametrize("workers", [2, 7, 40])
def test_synchronous_answers_do_not_depend_on_the_workers(workers: int) -> None:
    alone = drive(bound(population=20, synchronous=True), troubled(trade_off), 210)
    many = drive(bound(population=20, synchronous=True), troubled(trade_off), 210, workers=workers, seed=workers)
    assert keys(alone.asked) == keys(many.asked)


def test_synchronous_waits_for_the_last_of_a_generation() -> None:
    algorithm = bound(population=20, synchronous=True)
    archs = algorithm.ask(50)
    assert len(archs) == 20
    assert algorithm.ask(1) == []
    trials = [completed(trade_off)(number, arch) for number, arch in enumerate(archs)]
    algorithm.tell(trials[:0:-1])
    assert algorithm.ask(1) == []
    algorithm.tell(trials[:1])
    assert len(algorithm.ask(50)) == 20


def test_asynchronous_never_waits() -> None:
    assert len(bound(population=20).ask(500)) == 500


def test_survivors_are_chosen_once_for_each_population_of_finished_trials() -> None:
    algorithm = bound(population=20)
    for size, generations in ((19, 0), (1, 1), (39, 2), (1, 3)):
        algorithm.tell(completed(trade_off)(number, arch) for number, arch in enumerate(algorithm.ask(size)))
        assert algorithm._generations == generations
    assert len(algorithm._parents) == 20


def only_one_lives(kind: Any) -> Any:
    def outcome(number: int, arch: Arch) -> Finished:
        if number == 7:
            return Finished(number, arch, (1.0, 1.0))
        return Finished(number, arch, None, 1.0 if kind == "INFEASIBLE" else 0.0, kind)

    return outcome


def test_failed_archs_are_never_parents() -> None:
    algorithm = bound(population=20)
    run = drive(algorithm, only_one_lives("FAILED"), 20)
    algorithm.tell([only_one_lives("FAILED")(*task) for task in run.running])
    parent = run.asked[7]
    assert [each.arch for each in algorithm._parents] == [parent]
    # One decision of 11 mutates on average; a random arch differs in 8.
    assert sum(distance(parent, child) for child in algorithm.ask(20)) / 20 < 3


def test_a_feasible_parent_beats_infeasible_ones() -> None:
    def parent(violation: float, values: tuple[float, float] = (1.0, 1.0), room: float = 0.0) -> _Parent:
        return _Parent(flat().sample(random.Random(0)), values, violation, room)

    nan = (float("nan"), float("nan"))
    assert parent(0.0, (9.0, 9.0)).beats(parent(0.1, nan))
    assert not parent(0.1, nan).beats(parent(0.0, (9.0, 9.0)))
    assert parent(0.1, nan).beats(parent(float("inf"), nan))
    assert parent(0.0, (1.0, 1.0)).beats(parent(0.0, (1.0, 2.0), room=9.0))
    assert not parent(0.0, (1.0, 2.0), room=9.0).beats(parent(0.0, (1.0, 1.0)))
    assert parent(0.0, (1.0, 2.0), room=2.0).beats(parent(0.0, (2.0, 1.0), room=1.0))
    assert not parent(0.0, (1.0, 2.0), room=1.0).beats(parent(0.0, (2.0, 1.0), room=2.0))
    assert parent(0.0).beats(parent(0.0))


def test_without_crossover_and_with_full_mutation_options_take_effect() -> None:
    def changes(**options: Any) -> float:
        algorithm = bound(population=20, **options)
        run = drive(algorithm, only_one_lives("FAILED"), 20)
        algorithm.tell([only_one_lives("FAILED")(*task) for task in run.running])
        return sum(distance(run.asked[7], child) for child in algorithm.ask(40)) / 40

    assert changes(mutation=1.0) == 11
    assert 1 <= changes(mutation=0.05) < 2
    clones, mixed = (drive(bound(population=20, crossover=rate), completed(trade_off), 60) for rate in (0.0, 1.0))
    assert keys(clones.asked[:20]) == keys(mixed.asked[:20])

    def nearest(run: Run) -> float:
        return sum(min(distance(child, old) for old in run.asked[:20]) for child in run.asked[21:40]) / 19

    assert nearest(clones) < 2 < nearest(mixed)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"population": 1}, "nsga2 was given population=1; it is a whole number, 2 or more"),
        ({"population": "many"}, "population='many'; it is a whole number"),
        ({"crossover": 1.5}, "crossover=1.5; it is a number, 0 or more and at most 1"),
        ({"crossover": float("nan")}, "crossover=nan"),
        ({"mutation": 0}, "mutation=0; it is a number, above 0 and at most 1"),
        ({"mutation": True}, "mutation=True"),
        ({"synchronous": 1}, "synchronous=1; it is True or False"),
        ({"seed": "x"}, "seed='x'; it is a whole number"),
    ],
)
def test_wrong_options_get_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AlgorithmError, match=sentence):
        NSGA2(**options)
