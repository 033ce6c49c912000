"""Compose: its contract, what it composes, and where it leaves the search to the surrogate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyglove as pg
import pytest

import nas
from nas.errors import AlgorithmError
from nas.metrics import Metric
from nas.pareto import non_dominated
from nas.search import Algorithm, Compose, Finished
from nas.space import Arch, Space
from tests.conformance.algorithm import (
    ONE,
    TWO,
    Landscape,
    ModelConformance,
    completed,
    drive,
    flat,
    keys,
    small,
    trade_off,
)


class TestCompose(ModelConformance):
    share = 0.1
    rebuilt = 450  # as the surrogate

    def make(self, seed: int = 0) -> Algorithm:
        return Compose(candidates=32, seed=seed)

    @pytest.mark.parametrize(
        "objectives",
        [ONE, *(pytest.param(more, marks=pytest.mark.slow) for more in (TWO, (*TWO, Metric("third", "max"))))],
    )
    def test_survives_failed_infeasible_and_late_trials(self, objectives: tuple[Metric, ...]) -> None:
        """With several objectives the integer programs are larger."""
        super().test_survives_failed_infeasible_and_late_trials(objectives)


def table(seed: int, decisions: int, candidates: int) -> Landscape:
    """Two objectives that add up."""
    terms = np.random.default_rng(seed).random((2, decisions, candidates))

    def landscape(arch: Arch) -> tuple[float, ...]:
        one, other = terms[:, range(decisions), list(arch.genome)].sum(1).tolist()
        return one, other

    return landscape


def true_front(space: Space, landscape: Landscape) -> list[Arch]:
    """The archs that no other dominates."""
    everything = list(space.enumerate())
    best = non_dominated(np.array([landscape(arch) for arch in everything]))
    return [arch for arch, is_best in zip(everything, best, strict=True) if is_best]


@pytest.mark.parametrize("seed", range(3))
def test_where_decisions_add_up_nothing_but_the_front_follows_the_single_replacements(seed: int) -> None:
    landscape, algorithm = table(seed, 6, 4), Compose(seed=seed)
    algorithm.bind(flat(6), TWO)
    # The base, 18 alternatives, and after 8 and 16 of them a composition of those measured so far.
    begun = drive(algorithm, completed(landscape), 21)
    rest = drive(algorithm, completed(landscape), 36, run=begun).asked[21:]
    front = set(keys(true_front(flat(6), landscape)))
    left = front - set(keys(begun.asked[:21]))
    assert len(left) > 8
    assert set(keys(rest[: len(left)])) == left


def test_where_logarithms_add_up_too() -> None:
    sums, algorithm = table(0, 6, 4), Compose()

    def landscape(arch: Arch) -> tuple[float, ...]:
        one, other = sums(arch)
        return math.exp(2.0 * one), other

    algorithm.bind(flat(6), TWO)
    asked = drive(algorithm, completed(landscape), 30).asked
    assert set(keys(asked[21:])) < set(keys(true_front(flat(6), landscape)))


def test_first_come_the_base_and_what_differs_from_it_in_one_decision() -> None:
    algorithm = Compose({"d0": 1, "d1": 1, "d2": 1})
    algorithm.bind(small(), TWO)
    asked = algorithm.ask(10)
    assert asked[0].choices == {"d0": 1, "d1": 1, "d2": 1}
    assert [sum(gene != 1 for gene in arch.genome) for arch in asked[1:]] == [1] * 9


def test_single_replacements_stop_where_decisions_do_not_add_up() -> None:
    draws = np.random.default_rng(0).random((11, 4, 4, 4))

    def rugged(arch: Arch) -> tuple[float, ...]:
        genes = np.array(arch.genome)
        error = draws[range(11), np.roll(genes, 2), np.roll(genes, 1), genes].sum()
        return float(error), float(genes.sum())

    algorithm = Compose(candidates=32)
    algorithm.bind(flat(), TWO)
    asked = drive(algorithm, completed(rugged), 60).asked
    singles = [arch for arch in asked if sum(gene != 3 for gene in arch.genome) <= 1]
    assert len(singles) < 30  # of 34


def test_replacements_are_made_in_the_smallest_where_the_largest_cannot_be_measured() -> None:
    def outcome(number: int, arch: Arch) -> Finished:
        over = max(0.0, trade_off(arch)[1] - 8) / 8
        return Finished(number, arch, None if over else trade_off(arch), over, "INFEASIBLE" if over else "COMPLETED")

    algorithm = Compose(candidates=32)
    algorithm.bind(flat(), TWO)
    run = drive(algorithm, outcome, 20)
    assert run.asked[0] is flat().largest
    assert all(sum(gene != 0 for gene in arch.genome) <= 1 for arch in run.asked[1:9])


def test_composes_within_constraints_of_a_study(tmp_path: Path) -> None:
    """Nothing that it is built of is feasible, and all of it is measured."""
    space = Space(pg.Dict({f"d{at}": pg.oneof([1, 2, 3, 4]) for at in range(5)}), name="bounded")

    def measured(arch: Arch) -> dict[str, float]:
        sizes = np.array(list(arch.choices.values()), dtype=float)
        weights = np.arange(1, 6)
        return {"error": float((weights / sizes).sum()), "time_ms": float((weights[::-1] * sizes).sum())}

    study = nas.Study(
        "bounded",
        space=space,
        objectives=["min error"],
        constraints=["time_ms <= 25"],
        evaluators=[measured],
        algorithm=Compose(),
        store=tmp_path / "study.sqlite",
    )
    study.run(22, workers=0, progress=False)
    best = min(
        (measured(arch) for arch in space.enumerate() if measured(arch)["time_ms"] <= 25), key=lambda one: one["error"]
    )
    assert study.best("error")["error"] == pytest.approx(best["error"])


def test_asks_of_spread_values_of_a_decision_among_many_and_of_floats() -> None:
    space = Space(pg.Dict(width=pg.oneof(list(range(8, 808, 8))), rate=pg.floatv(0.1, 10.0, scale="log")), name="many")
    algorithm = Compose(alternatives=3)
    algorithm.bind(space, TWO)
    first = [arch.choices for arch in algorithm.ask(7)]
    assert sorted({one["width"] for one in first})[:3] == [8, 272, 536]
    assert sorted({one["rate"] for one in first})[:3] == pytest.approx([0.1, 10 ** (-1 / 3), 10 ** (1 / 3)])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"base": "best"}, "base='best'; it is 'largest', 'smallest' or a dict"),
        ({"alternatives": 0}, "alternatives=0; it is a whole number, 1 or more"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AlgorithmError, match=sentence):
        Compose(**options)


def test_a_base_of_another_space_is_refused() -> None:
    with pytest.raises(AlgorithmError, match=r"compose was given base=.*: arch .* is outside space 'flat-3'"):
        Compose({"d0": 9}).bind(small(), TWO)
