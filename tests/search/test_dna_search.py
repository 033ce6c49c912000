"""PyGlove's generators through `DNASearch`: rewards, marks, rebuilding, mistakes."""

from __future__ import annotations

import json
import random
from typing import Any

import pyglove as pg
import pytest

from nas.errors import AlgorithmError
from nas.metrics import Metric
from nas.search.base import Exhausted, Finished, History
from nas.search.dna_search import DNASearch
from tests.conformance.algorithm import ONE, TWO, completed, drive, error_only, flat, keys, small, trade_off


def evolution(**options: Any) -> pg.DNAGenerator:
    return pg.evolution.regularized_evolution(population_size=10, tournament_size=4, **options)


def bound(generator: Any, objectives: tuple[Metric, ...] = ONE, space: Any = None, **options: Any) -> DNASearch:
    search = DNASearch(generator, **options)
    search.bind(space or flat(4), objectives)
    return search


class Recorder(pg.DNAGenerator):
    """Says what it was fed."""

    def _setup(self) -> None:
        self.fed: list[tuple[pg.DNA, Any]] = []

    def _propose(self) -> pg.DNA:
        return pg.random_dna(self.dna_spec).set_metadata("mark", self.num_proposals)

    def _feedback(self, dna: pg.DNA, reward: Any) -> None:
        self.fed.append((dna, reward))


class Recorders(Recorder):
    @property
    def multi_objective(self) -> bool:
        return True


def test_the_very_dna_that_was_proposed_is_fed_back_with_a_reward_to_maximise() -> None:
    search = bound(Recorder())
    archs = search.ask(3)
    proposed = [search.proposal(arch) for arch in archs]
    search.tell([Finished(number, archs[number], (float(number),)) for number in (2, 0)])
    assert [(dna is proposed[at], reward) for at, (dna, reward) in zip((2, 0), search._running.fed, strict=True)] == [
        (True, -2.0),
        (True, 0.0),
    ]


def test_a_foreign_arch_is_fed_back_with_marks() -> None:
    search = bound(Recorder())
    adopted, unknown = random.Random(0), random.Random(1)
    archs = [search.space.sample(rng) for rng in (adopted, unknown)]
    search.adopt(archs[0], {"mark": 77})
    search.tell([Finished(number, arch, (1.0,)) for number, arch in enumerate(archs)])
    fed = [dna for dna, _ in search._running.fed]
    assert [dna.metadata["mark"] for dna in fed] == [77, 0]
    assert [search.space.from_dna(dna) for dna in fed] == archs


@pytest.mark.parametrize("penalty", [None, 100.0])
def test_failed_trials_are_not_fed_back_and_infeasible_ones_with_a_penalty_only(penalty: float | None) -> None:
    search = bound(Recorders(), TWO, penalty=penalty)
    archs = search.ask(4)
    outcomes: Any = [(None, 0.0, "FAILED"), (None, 0.5, "INFEASIBLE"), ((1.0, 2.0), 0.0, "COMPLETED")]
    search.tell([Finished(i, archs[i], *outcome) for i, outcome in enumerate(outcomes)])
    rewards = [reward for _, reward in search._running.fed]
    assert rewards == ([] if penalty is None else [(-150.0, -150.0)]) + [(-1.0, -2.0)]


def test_evolution_beats_random_search() -> None:
    def best(generator: Any, seed: int) -> float:
        run = drive(bound(generator, space=flat(6), seed=seed), completed(error_only), 50, workers=2)
        return min(trial.values[0] for trial in run.finished if trial.values)

    wins = sum(best(evolution(), seed) < best(pg.geno.Random(), seed) for seed in range(4))
    assert wins >= 3


def test_evolution_rebuilds_from_history_to_the_same_proposals() -> None:
    live = bound(evolution())
    run = drive(live, completed(error_only), 30, workers=4)
    restored = bound(evolution())
    restored.restore(History.of(run.finished, 1, [arch for _, arch in run.running]))
    assert restored.known == live.known == 30
    assert keys(restored.ask(5)) == keys(live.ask(5))


def test_seeds_of_our_own_name_the_random_numbers_and_leave_python_s_alone() -> None:
    random.seed(5)
    state = random.getstate()
    first, again, other = (keys(bound(evolution(), seed=seed).ask(8)) for seed in (1, 1, 2))
    assert first == again != other
    assert random.getstate() == state


def test_several_objectives() -> None:
    search = bound(pg.evolution.nsga2(population_size=5), TWO)
    run = drive(search, completed(trade_off), 40, workers=3)
    restored = bound(pg.evolution.nsga2(population_size=5), TWO)
    restored.restore(History.of(run.finished, 2, [arch for _, arch in run.running]))
    assert not set(keys(restored.ask(5))) & set(keys(run.asked))


@pytest.mark.parametrize("generator", [pg.geno.Sweeping(), pg.geno.Random(seed=3), pg.geno.Deduping(pg.geno.Random())])
def test_every_arch_is_proposed_once(generator: Any) -> None:
    search = bound(generator, TWO, small())
    assert len(set(keys(drive(search, completed(trade_off), 64, workers=3).asked))) == 64
    with pytest.raises(Exhausted):
        search.ask(1)


def test_a_walk_with_a_seed_of_its_own_catches_up_after_a_restart() -> None:
    live = bound(pg.geno.Random(seed=3))
    run = drive(live, completed(error_only), 20)
    restored = bound(pg.geno.Random(seed=3))
    restored.restore(History.of(run.finished, 1, [arch for _, arch in run.running]))
    assert keys(restored.ask(4)) == keys(live.ask(4))


def test_a_generator_that_ends_ends_the_search() -> None:
    @pg.geno.dna_generator
    def three(spec: pg.DNASpec) -> Any:
        yield from (pg.DNA.from_numbers([0, 0, 0, number], spec) for number in range(3))

    search = bound(three(), TWO)
    assert [arch.genome[-1] for arch in search.ask(9)] == [0, 1, 2]
    with pytest.raises(Exhausted, match="proposes no more"):
        search.ask(1)


def test_evolution_waits_for_its_first_population() -> None:
    generator = pg.evolution.Evolution(
        pg.evolution.mutators.Uniform(), population_init=first_two(), population_update=None
    )
    search = bound(generator)
    first = search.ask(5)
    assert len(first) == 2
    assert search.ask(3) == []
    search.tell([Finished(0, first[0], (1.0,))])
    assert len(search.ask(3)) == 3


def first_two() -> pg.DNAGenerator:
    @pg.geno.dna_generator
    def two(spec: pg.DNASpec) -> Any:
        yield from (pg.DNA.from_numbers([0, 0, 0, number], spec) for number in range(2))

    generator: pg.DNAGenerator = two()
    return generator


def test_descriptions_hold_no_code_and_no_machine() -> None:
    described = json.dumps(DNASearch(pg.evolution.nsga2(population_size=5)).describe())
    assert "code" in described
    assert "site-packages" not in described
    assert json.loads(described)["generator"]["population_update"]["predicate"]["code"] is None
    again = DNASearch(json.loads(json.dumps(DNASearch(evolution()).describe()["generator"])))
    assert pg.eq(again.generator, evolution())


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: DNASearch(3), "generator=3; it is a pyglove.DNAGenerator, a mapping or None"),  # type: ignore[arg-type]
        (lambda: DNASearch("random"), "generator='random'"),
        (lambda: DNASearch(pg.geno.Random(), penalty=-1.0), "penalty=-1.0; it is a number, 0 or more"),
        (lambda: DNASearch({"_type": "nowhere.Thing"}), "the generator's JSON is not understood"),
        (
            lambda: DNASearch(DNASearch(pg.evolution.nsga2()).describe()["generator"]),
            "holds functions that are not stored; give the generator itself",
        ),
        (lambda: DNASearch(pg.geno.Deduping(pg.geno.Random(), max_duplicates=3)), "no arch is evaluated twice"),
        (lambda: bound(evolution(), TWO), r"takes one objective, the study has 2 \(error, cost\)"),
    ],
)
def test_mistakes_get_one_sentence(make: Any, sentence: str) -> None:
    with pytest.raises(AlgorithmError, match=sentence):
        make()
