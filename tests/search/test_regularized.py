"""What regularised evolution does beyond the contract."""

from __future__ import annotations

from typing import Any

import pytest

from nas.errors import AlgorithmError
from nas.search import NSGA2, Finished, QualityDiversity, RegularizedEvolution, make
from nas.space import Arch
from tests.conformance.algorithm import ONE, TWO, completed, drive, error_only, flat


def distance(a: Arch, b: Arch) -> int:
    return sum(x != y for x, y in zip(a.genome, b.genome, strict=True))


def bound(objectives: Any = ONE, **options: Any) -> RegularizedEvolution:
    algorithm = RegularizedEvolution(**options)
    algorithm.bind(flat(), objectives)
    return algorithm


def test_children_are_one_mutation_from_the_best_of_a_sample_of_everybody() -> None:
    algorithm = bound(population=10, sample=400)  # misses one of 10 with probability 1e-18
    archs = algorithm.ask(10)
    algorithm.tell(completed(error_only)(number, arch) for number, arch in enumerate(archs))
    best = min(archs, key=error_only)
    assert {distance(best, child) for child in algorithm.ask(8)} == {1}


def test_the_oldest_leaves_even_if_it_is_the_best() -> None:
    algorithm = bound(population=10, sample=400)
    first, *others = algorithm.ask(10)
    algorithm.tell([Finished(0, first, (-100.0,)), *(Finished(1 + i, arch, (1.0,)) for i, arch in enumerate(others))])
    child = algorithm.ask(1)[0]
    assert distance(first, child) == 1
    algorithm.tell([Finished(10, child, (2.0,))])
    assert all(arch is not first for _, _, arch in algorithm._queue)
    assert len(algorithm._queue) == 10


def test_feasible_archs_win_then_small_violations() -> None:
    algorithm = bound(population=4, sample=200)
    good, near, far, failed = algorithm.ask(4)
    algorithm.tell(
        [
            Finished(0, far, None, 2.0, "INFEASIBLE"),
            Finished(1, near, (-9.0,), 1.0, "INFEASIBLE"),
            Finished(2, failed, None, 0.0, "FAILED"),
        ]
    )
    assert {distance(near, child) for child in algorithm.ask(5)} == {1}
    algorithm.tell([Finished(3, good, (50.0,))])
    assert {distance(good, child) for child in algorithm.ask(5)} == {1}
    assert all(arch is not failed for _, _, arch in algorithm._queue)


def test_with_several_objectives_parents_are_on_the_front_of_the_sample() -> None:
    algorithm = bound(TWO, population=4, sample=200)
    archs = algorithm.ask(4)
    points = [(0.0, 3.0), (3.0, 0.0), (3.0, 3.0), (2.0, 4.0)]
    algorithm.tell(Finished(i, arch, point) for i, (arch, point) in enumerate(zip(archs, points, strict=True)))
    children = algorithm.ask(40)
    assert all(min(distance(parent, child) for parent in archs[:2]) == 1 for child in children)


def test_without_enough_trials_archs_are_random() -> None:
    algorithm = bound(population=50, sample=10)
    run = drive(algorithm, completed(error_only), 50, workers=3)
    best = min(run.asked[:40], key=error_only)
    assert sum(distance(best, arch) for arch in run.asked[40:]) / 10 > 5


def test_regrowing_is_described_only_where_it_is_asked_for() -> None:
    assert "regrow" not in RegularizedEvolution().describe()
    described = RegularizedEvolution(regrow=0.5).describe()
    assert described["regrow"] == 0.5
    assert make(**described).describe() == described


@pytest.mark.parametrize("kind", [RegularizedEvolution, NSGA2, QualityDiversity])
@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_a_wrong_probability_of_regrowing_gets_one_sentence(kind: Any, value: Any) -> None:
    with pytest.raises(
        AlgorithmError, match=f"{kind.name} was given regrow=.*; it is a number, 0 or more and at most 1"
    ):
        kind(regrow=value)


@pytest.mark.parametrize("option", ["population", "sample"])
@pytest.mark.parametrize("value", [0, -1, 2.5, None, True])
def test_wrong_options_get_one_sentence(option: str, value: Any) -> None:
    with pytest.raises(AlgorithmError, match=f"regularized-evolution was given {option}=.*; it is a whole number"):
        RegularizedEvolution(**{option: value})
