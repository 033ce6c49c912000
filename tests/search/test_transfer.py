"""Transfer: its contract with and without sources, what similar sources save and what misleading ones cost."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path

import numpy as np
import pyglove as pg
import pytest
from scipy.stats import spearmanr

import nas
from nas.errors import AlgorithmError, StoreError, StudyError
from nas.metrics import Metric
from nas.pareto import hypervolume
from nas.search import NSGA2, Algorithm, Exhausted, Finished, RandomSearch, Source, Surrogate, Transfer, make
from nas.search.encoding import Encoding
from nas.search.sources import Expert, chosen, correlation
from nas.space import Arch, Space
from nas.store import StudyRecord
from tests.conformance.algorithm import (
    ONE,
    TWO,
    AlgorithmConformance,
    Landscape,
    LearnerConformance,
    area,
    completed,
    conditional,
    continuous,
    drive,
    flat,
    small,
    trade_off,
)

REFERENCE = (27.0, 34.0)


def reversed_(arch: Arch) -> tuple[float, float]:
    error, cost = trade_off(arch)
    return -error, -cost


@cache
def source(space: Space, landscape: Landscape = trade_off, trials: int = 100, objectives: int = 2) -> Source:
    """What an evolution on `landscape` has measured."""
    algorithm = NSGA2(population=20, seed=99)
    algorithm.bind(space, TWO)
    tried = drive(algorithm, completed(landscape), min(trials, 1_000 if space.floats else space.size // 2 + 1)).finished
    values = np.array([trial.values for trial in tried])[:, :objectives]
    kept = chosen(values, np.zeros(len(tried)))
    names = tuple(f"{metric.goal} {metric.name}" for metric in TWO[:objectives])
    return Source(
        "earlier", names, space.schema(), [tried[at].arch.row() for at in kept], values[kept], np.zeros(len(kept))
    )


class TestWithoutSources(AlgorithmConformance):
    def make(self, seed: int = 0) -> Algorithm:
        return Transfer(NSGA2(population=20, seed=seed), [], seed=seed)


class WithSources:
    """An instance gets a source of the space that it is bound to, as a study would give it."""

    kind = "nsga2"
    landscape = staticmethod(trade_off)

    def make(self, seed: int = 0) -> Algorithm:
        return Transfer(self.inner(seed), [source(flat(), self.landscape)], seed=seed)

    def inner(self, seed: int) -> Algorithm:
        return NSGA2(population=20, seed=seed)

    def bound(self, space: Space, objectives: tuple[Metric, ...] = TWO, seed: int = 0) -> Algorithm:
        sources = [source(space, self.landscape, objectives=len(objectives))] if len(objectives) < 3 else []
        algorithm = Transfer(self.inner(seed), sources, seed=seed)
        algorithm.bind(space, objectives, ())
        return algorithm


class TestSimilarSource(WithSources, LearnerConformance):
    test_beats_random_search_on_one_objective = None  # `make` gives a source of two


class TestReversedSource(WithSources, AlgorithmConformance):
    landscape = staticmethod(reversed_)


class TestSynchronousInside(WithSources, AlgorithmConformance):
    def inner(self, seed: int) -> Algorithm:
        return NSGA2(population=20, seed=seed, synchronous=True)


# -- what it wins and what it costs ------------------------------------------------------------------------------------------


def found(algorithm: Algorithm, trials: int = 15) -> float:
    algorithm.bind(flat(), TWO)
    return area(drive(algorithm, completed(trade_off), trials, workers=3).finished, REFERENCE)


@pytest.mark.parametrize("inner", [NSGA2, Surrogate])
def test_a_similar_study_saves_evaluations(inner: type[Algorithm]) -> None:
    seeds = range(5)
    cold = [found(inner(seed=seed)) for seed in seeds]
    warm = [found(Transfer(inner(seed=seed), [source(flat())], seed=seed)) for seed in seeds]
    assert all(w > c for w, c in zip(warm, cold, strict=True))


def test_a_reversed_study_costs_little_and_is_dropped() -> None:
    cold = np.mean([found(NSGA2(seed=seed)) for seed in range(12)])
    algorithms = [Transfer(NSGA2(seed=seed), [source(flat(), reversed_)], seed=seed) for seed in range(12)]
    misled = np.mean([found(algorithm) for algorithm in algorithms])
    assert misled > 0.9 * cold
    assert all(algorithm.similarities()["earlier"] < 0.0 for algorithm in algorithms)


def test_the_similar_of_two_sources_is_asked() -> None:
    other = source(flat(), reversed_)
    other = Source("reversed", other.objectives, other.schema, other.rows, other.values, other.violations)
    algorithm = Transfer(RandomSearch(), [other, source(flat())])
    algorithm.bind(flat(), TWO)
    run = drive(algorithm, completed(trade_off), 40)
    likeness = algorithm.similarities()
    assert likeness["earlier"] > 0.8
    assert likeness["reversed"] < 0.0
    misled = Transfer(RandomSearch(), [other])
    misled.bind(flat(), TWO)
    without = drive(misled, completed(trade_off), 40)
    assert area(run.finished, REFERENCE) > 1.1 * area(without.finished, REFERENCE)


def test_sources_are_silent_after_the_horizon() -> None:
    algorithm, alone = Transfer(NSGA2(population=20), [source(flat())], horizon=30), NSGA2(population=20)
    for each in (algorithm, alone):
        each.bind(flat(), TWO)
    run = drive(algorithm, completed(trade_off), 30)
    alone.tell(run.finished)
    alone.reserve(arch for _, arch in run.running)
    assert [arch.key for arch in algorithm.ask(20)] == [arch.key for arch in alone.ask(20)]


def test_sources_propose_what_they_know_and_what_they_expect_to_be_better() -> None:
    given = source(flat(), trials=50)
    algorithm = Transfer(RandomSearch(), [given], horizon=200)
    algorithm.bind(flat(), TWO)
    known = {flat().from_row(row).key for row in given.rows}
    run = drive(algorithm, completed(trade_off), 100)
    assert 0 < sum(arch.key in known for arch in run.asked) < 50
    points = np.array([trial.values for trial in run.finished])
    assert hypervolume(points, np.array(REFERENCE)) > 1.1 * hypervolume(given.values, np.array(REFERENCE))


def test_a_source_that_expects_no_gain_passes_its_turn_on() -> None:
    space = flat(1)
    archs = list(space.enumerate())
    values = np.array([[3.0], [2.0], [1.0], [0.0]])
    given = Source("s", ("min error",), space.schema(), [arch.row() for arch in archs], values, np.zeros(4))
    expert = Expert(given, space, Encoding(space))
    assert np.argsort(-expert.gains(archs, []), kind="stable").tolist() == [3, 2, 1, 0]
    gains = expert.gains(archs, [archs[2]])
    assert gains[3] > 0
    np.testing.assert_allclose(gains[:3], 0.0, atol=1e-12)
    assert not (expert.gains(archs, [archs[3]]) > 1e-12).any()
    assert expert.gains([], archs).shape == (0,)


# -- its parts ---------------------------------------------------------------------------------------------------------------


def test_correlation_is_scipys() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.integers(0, 6, (2, 15)).astype(float)
        assert correlation(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert correlation(np.ones(5), np.arange(5.0)) == 0.0


@pytest.mark.parametrize("space", [small(), flat(), conditional(), continuous()], ids=lambda space: space.name)
def test_an_expert_knows_what_it_measured_and_expects_the_rest(space: Space) -> None:
    expert = Expert(source(space), space, Encoding(space))
    archs = [space.from_row(row) for row in source(space).rows]
    values = source(space).values
    assert expert.likeness(archs, values) == pytest.approx(1.0)
    assert expert.likeness(archs, -values) == pytest.approx(-1.0)
    assert expert.likeness(archs[:2], values[:2]) == 0.0
    rng = random.Random(0)
    unseen = [space.sample(rng) for _ in range(60)]
    assert expert.likeness(unseen, np.array([trade_off(arch) for arch in unseen])) > 0.7


def test_the_best_and_some_of_the_rest_are_kept() -> None:
    values = np.arange(100.0)[::-1, None].copy()
    kept = chosen(values, np.zeros(100), most=10)
    assert len(kept) == 10
    assert kept[-5:] == [95, 96, 97, 98, 99]
    assert kept[0] == 0
    assert max(np.diff(kept)) <= 25
    violations = np.r_[np.zeros(50), np.ones(50)]
    assert sum(at < 50 for at in chosen(values, violations, most=10)) >= 5 + 2
    assert chosen(values[:3], np.zeros(3)) == [0, 1, 2]


def test_a_changed_space_is_matched_by_names() -> None:
    old = Space(pg.Dict(a=pg.oneof(["x", "y"]), b=pg.oneof([1, 2, 3])), name="old")
    new = Space(pg.Dict(b=pg.oneof([3, 2]), a=pg.oneof(["z", "y", "x"])), name="new")
    archs = list(old.enumerate())
    values = np.arange(6.0)[:, None]
    given = Source("s", ("min error",), old.schema(), [arch.row() for arch in archs], values, np.zeros(6))
    for at, arch in given.archs(new):
        assert arch.choices == archs[at].choices
    assert len(given.archs(new)) == 4  # candidate 1 of b is gone


def test_a_source_is_json() -> None:
    given = source(conditional())
    again = Source.from_json(json.loads(json.dumps(given.to_json())))
    assert again.to_json() == given.to_json()


def test_an_inner_algorithm_by_name_has_its_seed() -> None:
    algorithm = Transfer("nsga2", seed=5)
    assert isinstance(algorithm.algorithm, NSGA2)
    assert algorithm.algorithm.seed == 5
    assert make("transfer", algorithm="exhaustive", from_=["a"]).describe()["from_"] == ["a"]
    assert isinstance(Transfer().algorithm, Surrogate)


def test_mistakes_get_one_sentence() -> None:
    given = source(flat())
    for options, sentence in [
        ({"algorithm": 3}, "algorithm=3; it is a string, a nas.search.Algorithm or a mapping"),
        ({"algorithm": Transfer()}, "it is an algorithm other than itself"),
        ({"algorithm": "nsga"}, "did you mean 'nsga2'"),
        ({"from_": "a"}, "from_='a'; it is a list, each item a string"),
        ({"from_": [3]}, r"from_\[0\]=3; it is"),
        ({"from_": ["a", "a"]}, "a study twice in from_: a, a"),
        ({"from_": [{"study": "a"}]}, "a source has study; it has study, objectives"),
        ({"horizon": 0}, "horizon=0; it is a whole number, 1 or more"),
    ]:
        with pytest.raises(AlgorithmError, match=sentence):
            Transfer(**options)  # type: ignore[arg-type]
    with pytest.raises(AlgorithmError, match="knows studies 'a' by name only; use it in a nas.Study"):
        Transfer(from_=["a"]).bind(flat(), TWO)
    with pytest.raises(AlgorithmError, match="'earlier' measured min error, min cost; this study has min error"):
        Transfer(from_=[given]).bind(flat(), ONE)
    with pytest.raises(AlgorithmError, match="no trial of source 'earlier' is an arch of space 'conditional'"):
        Transfer(from_=[given]).bind(conditional(), TWO)
    for rows, values, sentence in [
        ([[0.0]], np.zeros((2, 2)), "has 1 rows, values of shape"),
        ([[0.0]], np.full((1, 2), np.nan), "values that are not finite"),
    ]:
        with pytest.raises(AlgorithmError, match=sentence):
            Source("s", given.objectives, given.schema, rows, values, np.zeros(1))


def test_an_exhausted_inner_algorithm_ends_the_wave() -> None:
    algorithm = Transfer("exhaustive", [source(small())])
    algorithm.bind(small(), TWO)
    assert len(algorithm.ask(100)) == 64
    with pytest.raises(Exhausted):
        algorithm.ask()


# -- in a study --------------------------------------------------------------------------------------------------------------


def measured(arch: Arch) -> dict[str, float]:
    error, cost = trade_off(arch)
    return {"quality": -error, "cost": cost, "extra": error + cost}


def study(name: str, store: Path, algorithm: Algorithm, **options: object) -> nas.Study:
    settings: dict[str, object] = {"objectives": ["max quality", "min cost"], "evaluators": [measured], **options}
    return nas.Study(name, space=flat(), algorithm=algorithm, store=store, **settings)  # type: ignore[arg-type]


def begin(one: nas.Study) -> StudyRecord:
    """Creates it in its store."""
    return one.record


def asked(one: nas.Study) -> list[str]:
    """Keys of the trials in the order in which they were asked."""
    stored = one.record.history()
    return [stored.keys[at] for at in np.argsort(stored.numbers)]


def test_a_study_learns_from_those_in_its_store_and_resumes_without_them(tmp_path: Path) -> None:
    stores = [tmp_path / "one.db", tmp_path / "two.db"]
    for store in stores:
        study("old", store, NSGA2(population=20)).run(120, workers=0, progress=False)
        study("short", store, RandomSearch()).run(5, workers=0, progress=False)
        study("other", store, RandomSearch(seed=2), objectives=["max quality"]).run(20, workers=0, progress=False)
    at_once = study("new", stores[0], Transfer("nsga2"))
    at_once.run(40, workers=0, progress=False)
    kept = at_once.record.settings["sources"]
    assert [one["study"] for one in kept] == ["other", "old"]  # cost was measured by both; five trials are too few
    assert at_once.record.settings["algorithm"]["from_"] is None
    old = {flat().from_row(row).key for row in kept[1]["rows"]}
    assert len(old & set(asked(at_once))) > 10
    in_parts = study("new", stores[1], Transfer("nsga2"))
    in_parts.run(15, workers=0, progress=False)
    study("old", stores[1], NSGA2(population=20)).run(150, workers=0, progress=False)
    in_parts.store.delete_study("old")
    again = study("new", stores[1], Transfer("nsga2"))
    again.run(40, workers=0, progress=False)
    assert asked(again) == asked(at_once)


def test_constraints_of_the_new_study_judge_the_old_trials(tmp_path: Path) -> None:
    store = tmp_path / "nas.db"
    study("old", store, NSGA2(population=20)).run(80, workers=0, progress=False)
    new = study("new", store, Transfer("nsga2", ["old"]), constraints=["extra <= 26", "unheard <= 3"])
    (kept,) = new.record.settings["sources"]
    extra = np.array(kept["values"]).sum(1)
    assert 0 < sum(extra > 26) < len(extra)
    np.testing.assert_array_equal(np.array(kept["violations"]) > 0, extra > 26)


def test_sources_that_cannot_be_used_get_one_sentence(tmp_path: Path) -> None:
    store = tmp_path / "nas.db"
    study("old", store, RandomSearch()).run(12, workers=0, progress=False)
    begin(nas.Study("alien", space=small(), objectives=["max quality", "min cost"], store=store))
    with pytest.raises(StoreError, match="has no study 'odl'; did you mean 'old'"):
        begin(study("new", store, Transfer(from_=["odl"])))
    with pytest.raises(StudyError, match="study 'new' cannot learn from itself"):
        begin(study("new", store, Transfer(from_=["new"])))
    with pytest.raises(StudyError, match="cannot learn from study 'alien': it measured no|none of its trials"):
        begin(study("new", store, Transfer(from_=["alien"])))
    with pytest.raises(StudyError, match="cannot learn from study 'old': it measured no speed"):
        begin(study("new", store, Transfer(from_=["old"]), objectives=["max quality", "min speed"]))
    assert study("new", store, Transfer()).record.settings["sources"][0]["study"] == "old"
    with pytest.raises(StudyError, match="study 'new' was begun with algorithm"):
        begin(study("new", store, Transfer(from_=["old"])))


def test_a_finished_trial_of_a_source_is_not_told_but_asked() -> None:
    algorithm = Transfer("nsga2", [source(flat())])
    algorithm.bind(flat(), TWO)
    assert algorithm.known == 0
    first = algorithm.ask(10)
    algorithm.tell(Finished(at, arch, trade_off(arch)) for at, arch in enumerate(first))
    assert algorithm.known == algorithm.algorithm.known == 10
