"""The surrogate: its contract, and what it finds by evaluating alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyglove as pg
import pytest

import nas
from nas import pareto
from nas.errors import AlgorithmError
from nas.metrics import Metric
from nas.search import Algorithm, Finished, Surrogate
from nas.search.archive import Seen
from nas.search.beliefs import Models
from nas.search.encoding import Encoding
from nas.search.waves import Wave
from tests.conformance.algorithm import (
    TWO,
    ModelConformance,
    archs,
)


class TestSurrogate(ModelConformance):
    share = 0.25
    rebuilt = 450  # the model learns from as many; 100,000 would make no more

    def make(self, seed: int = 0) -> Algorithm:
        return Surrogate(initial=8, candidates=32, seed=seed)


def test_finds_an_additive_front_in_a_fifth_of_what_random_search_needs() -> None:
    space = nas.Space(pg.List([pg.oneof(list(range(5))) for _ in range(6)]), name="additive")
    cost = np.random.default_rng(0).random((2, 6, 5))

    def measure(arch: nas.Arch) -> tuple[float, float]:
        genes = [int(gene) for gene in arch.genome]
        one, two = cost[:, range(6), genes].sum(1)
        return float(one), float(two)

    everything = np.array([measure(arch) for arch in space.enumerate()])
    front = everything[pareto.non_dominated(everything)]
    reference = front.max(0) + 0.1 * np.ptp(front, 0)
    goal = 0.95 * pareto.hypervolume(front, reference)

    def needed(algorithm: Algorithm) -> int:
        algorithm.bind(space, [Metric("a", "min"), Metric("b", "min")])
        found: list[tuple[float, float]] = []
        while pareto.hypervolume(np.array(found or [(9.0, 9.0)]), reference) < goal:
            for arch in algorithm.ask(4):
                found.append(measure(arch))
                algorithm.tell([Finished(len(found), arch, found[-1])])
        return len(found)

    assert needed(Surrogate(seed=0)) * 5 <= needed(nas.RandomSearch(seed=0))


def test_learns_where_trials_are_infeasible() -> None:
    space = nas.Space(pg.List([pg.oneof(["ok", "bad", "fine"]) for _ in range(6)]), name="halves")
    some = archs(space, 120)
    bad = np.array([arch.choices["[2]"] == "bad" for arch in some])
    values = np.array([[float(index % 7)] for index in range(120)])
    values[bad] = np.nan
    seen = Seen(some[:60], values[:60], np.where(bad, 1.0, 0.0)[:60])
    beliefs = Models(Encoding(space), seen).condition(seen, np.array([[0.0]]))
    chance = beliefs.view(some[60:]).feasible
    assert chance[bad[60:]].max() < 0.2
    assert chance[~bad[60:]].min() > 0.8


def test_mutants_are_few_while_the_front_moves() -> None:
    space = nas.Space(pg.List([pg.oneof([0, 1, 2, 3]) for _ in range(8)]), name="eight")

    def mutants(values: Callable[[int], tuple[float, float]]) -> int:
        """Of 200 proposals after 300 trials."""
        algorithm = Surrogate(seed=0)
        algorithm.bind(space, TWO)
        algorithm.tell([Finished(at, arch, values(at)) for at, arch in enumerate(archs(space, 300))])
        taken: list[bool] = []
        proposed = Wave.next
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Wave, "next", lambda wave, mutant, n: [taken.append(mutant), proposed(wave, mutant, n)][1])
            for _ in range(200):
                algorithm.ask(1)
        return sum(taken[:200])

    still, moving = mutants(lambda at: (float(at), float(at))), mutants(lambda at: (float(at), float(-at)))
    assert 45 < still < 90  # a third
    assert moving < 10


@pytest.mark.parametrize(("option", "value"), [("initial", 1), ("candidates", 3.5), ("seed", "x")])
def test_a_wrong_option_is_refused(option: str, value: object) -> None:
    with pytest.raises(AlgorithmError, match=f"{option}={value!r}"):
        Surrogate(**{option: value})  # type: ignore[arg-type]
