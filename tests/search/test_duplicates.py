"""Archs that measure the same: what is learnt from equal values, and what is not."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import numpy as np
import pyglove as pg
import pytest

from nas.metrics import Metric
from nas.search import Finished, Surrogate
from nas.search.archive import Seen
from nas.search.duplicates import Duplicates, discount, duplicates
from nas.space import Arch, Space
from tests.conformance.algorithm import TWO, drive, flat, trade_off

Values = Callable[[tuple[int, ...]], tuple[float, ...]]

SPACE = flat(6)
ALL = list(itertools.product(range(4), repeat=6))


def number(genes: tuple[int, ...]) -> float:
    """Another for each row of genes."""
    return float(np.dot(np.sin(np.arange(1, 25).reshape(6, 4))[np.arange(6), list(genes)], np.arange(1.0, 7.0)))


def switched(genes: tuple[int, ...]) -> tuple[float, ...]:
    """Decisions 1 and 2 matter only where decision 0 is not 0."""
    return (number((0, 0, 0, *genes[3:]) if genes[0] == 0 else genes),)


def symmetric(genes: tuple[int, ...]) -> tuple[float, ...]:
    """Decisions 1 and 2 can be exchanged where decision 0 is 0."""
    return (number((0, *sorted(genes[1:3]), *genes[3:]) if genes[0] == 0 else genes),)


def learnt(values: Values, count: int, seed: int = 0) -> tuple[Duplicates | None, list[tuple[int, ...]]]:
    """What trials of `count` archs say, half of which are mutants of the others."""
    draw = random.Random(seed)
    rows = draw.sample(ALL, count // 2)
    for genes in list(rows):
        other = list(genes)
        other[draw.choice((1, 2, 5))] = draw.randrange(4)
        rows.append(tuple(other))
        rows.append((genes[0], genes[2], genes[1], *genes[3:]))
    rows = list(dict.fromkeys(rows))
    archs = [SPACE.from_row(list(genes)) for genes in rows]
    return duplicates(Seen(archs, np.array([values(genes) for genes in rows]), np.zeros(len(rows)))), rows


def judged(values: Values, found: Duplicates, known: list[tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """How likely what was not measured is to be equal to what was, and whether it is."""
    measured = {values(genes) for genes in known}
    rest = sorted(set(ALL) - set(known))
    return found.chance(np.array(rest, dtype=float)), np.array([values(genes) in measured for genes in rest])


def test_without_equal_values_nothing_is_learnt() -> None:
    found, _ = learnt(lambda genes: (number(genes), 1.0), 60)
    assert found is None, "one objective in which all are equal says nothing"


def test_trials_without_values_are_no_evidence() -> None:
    archs = [SPACE.from_row(list(genes)) for genes in ALL[:3]]
    assert duplicates(Seen(archs, np.full((3, 2), np.nan), np.zeros(3))) is None


def test_equal_values_of_unlike_violations_are_not_the_same() -> None:
    archs = [SPACE.from_row(list(genes)) for genes in ALL[:2]]
    assert duplicates(Seen(archs, np.ones((2, 2)), np.array([0.0, 1.0]))) is None


def test_dead_decisions_are_found_in_their_context() -> None:
    found, known = learnt(switched, 80)
    assert found is not None
    chance, equal = judged(switched, found, known)
    assert (chance[equal] > 0.5).mean() > 0.8
    assert (chance[~equal] > 0.5).mean() < 0.05


def test_decisions_that_can_be_exchanged_are_found_in_their_context() -> None:
    found, known = learnt(symmetric, 120)
    assert found is not None
    chance, equal = judged(symmetric, found, known)
    assert (chance[equal] > 0.5).mean() > 0.8
    assert (chance[~equal] > 0.5).mean() < 0.05


def test_values_that_are_equal_by_coincidence_discount_little() -> None:
    """A third of all archs measure 0.0, whatever they are."""

    def coincident(genes: tuple[int, ...]) -> tuple[float, ...]:
        value = number(genes)
        return (0.0 if int(abs(value) * 1e6) % 3 == 0 else value,)

    found, known = learnt(coincident, 80)
    assert found is not None
    chance, _ = judged(coincident, found, known)
    assert discount(chance).mean() > 0.8


def test_chance_depends_on_the_archs_that_are_asked_about() -> None:
    found, _ = learnt(switched, 80)
    assert found is not None
    row = np.array([[0.0, 1.0, 2.0, 3.0, 3.0, 3.0]])
    alike, unlike = row.copy(), row.copy()
    alike[0, 1:3], unlike[0, 3:] = (3.0, 0.0), (0.0, 1.0, 2.0)
    assert found.chance(row, alike)[0] > 0.8
    assert found.chance(row, unlike)[0] == 0.0


def stages() -> Space:
    """Four stages of one to three blocks, whose kinds matter only where the stage is deep enough."""
    block = pg.oneof([3, 5, 7])
    stage = pg.Dict(depth=pg.oneof([1, 2, 3]), blocks=pg.List([block.clone() for _ in range(3)]))
    return Space(pg.Dict({f"stage{at}": stage.clone() for at in range(4)}), name="stages")


def by_stage(arch: Arch) -> tuple[float, float]:
    error = cost = 0.0
    for at, stage in enumerate(np.array(arch.genome).reshape(4, 4)):
        for place, kind in enumerate(stage[1 : 2 + int(stage[0])].tolist()):
            error -= np.sqrt(kind + 1.0 + at / 7.0) * (1.0 + place / 3.0)
            cost += (kind + 1.0) * (1.0 + at / 3.0 + place / 5.0)
    return float(error), float(cost)


def repeats(trials: list[Finished]) -> float:
    return 1.0 - len({trial.values for trial in trials}) / len(trials)


def test_few_evaluations_repeat_known_values_with_workers_too() -> None:
    for workers in (1, 4):
        algorithm = Surrogate(seed=1)
        algorithm.bind(stages(), TWO)
        run = drive(algorithm, lambda at, arch: Finished(at, arch, by_stage(arch)), 80, workers=workers)
        assert repeats(run.finished) < 0.15


def test_a_search_without_equal_values_proposes_as_if_nothing_were_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    """No two trials of these measure the same in both objectives, though many do in one."""
    asked = []
    for _ in range(2):
        algorithm = Surrogate(seed=3)
        algorithm.bind(flat(), (*TWO, Metric("other", "min")))
        run = drive(algorithm, lambda at, arch: Finished(at, arch, (*trade_off(arch), float(at))), 30)
        asked.append([arch.key for arch in run.asked])
        monkeypatch.setattr("nas.search.surrogate.duplicates", lambda seen: None)
    assert asked[0] == asked[1]
