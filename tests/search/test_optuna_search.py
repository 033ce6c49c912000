"""Optuna's samplers through `OptunaSearch`: what they are shown, what becomes of what they say, mistakes."""

from __future__ import annotations

import json
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from nas.errors import AlgorithmError
from nas.metrics import Metric
from nas.search.base import Finished, History
from nas.search.optuna_search import OptunaSearch, chosen
from nas.search.simple import RandomSearch
from tests.conformance.algorithm import (
    ONE,
    TWO,
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


def bound(
    sampler: Any = "random", objectives: tuple[Metric, ...] = TWO, space: Any = None, **options: Any
) -> OptunaSearch:
    search = OptunaSearch(sampler, **options)
    search.bind(space or flat(4), objectives)
    return search


def shown(search: OptunaSearch) -> list[optuna.trial.FrozenTrial]:
    """What a sampler would see now."""
    search._board.show(search._shown(), search._under_way.values(), len(search._told))
    trials: list[optuna.trial.FrozenTrial] = search._study.get_trials(deepcopy=False)
    return trials


SAMPLERS: list[Any] = [
    "random",
    "tpe",
    "nsga2",
    "nsga3",
    "qmc",
    "bruteforce",
    optuna.samplers.RandomSampler(),
    optuna.samplers.TPESampler(n_startup_trials=5),
]


@pytest.mark.parametrize(
    "sampler", SAMPLERS, ids=lambda sampler: sampler if isinstance(sampler, str) else type(sampler).__name__
)
def test_any_sampler_searches_and_repeats_itself(sampler: Any) -> None:
    runs = []
    for seed in (1, 1, 2):
        runs.append(keys(drive(bound(sampler, seed=seed), completed(trade_off), 25, workers=3).asked))
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 25
    assert runs[0] != runs[2] or sampler == "qmc"  # without scrambling, a sequence has no seed


@pytest.mark.parametrize("sampler", ["gp", "cmaes"])
def test_dear_samplers_search(sampler: str) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    search = bound(sampler, ONE, continuous(), ordered=True)
    assert len(set(keys(drive(search, completed(lambda arch: (arch.genome[1],)), 14).asked))) == 14


def test_cma_es_goes_on_from_generation_to_generation() -> None:
    pytest.importorskip("cmaes")

    def distance(arch: Any) -> tuple[float, ...]:
        return ((arch.genome[1] - 0.4) ** 2,)

    search = bound("cmaes", ONE, continuous(), options={"popsize": 5})
    finished = drive(search, completed(distance), 60).finished
    values = [trial.values[0] for trial in finished if trial.values]
    assert sum(values[-20:]) < sum(values[:20]) / 4


def test_cma_es_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AlgorithmError, match="needs the package cmaes"):
        OptunaSearch("cmaes")


def test_tpe_beats_random_search() -> None:
    def best(search: Any, seed: int) -> float:
        search.bind(flat(8), ONE, ())
        return min(trial.values[0] for trial in drive(search, completed(error_only), 60).finished if trial.values)

    assert sum(best(OptunaSearch(seed=seed), seed) < best(RandomSearch(seed=seed), seed) for seed in range(4)) >= 3


def test_a_sampler_sees_every_decision_and_each_arch_always_as_the_same_vector() -> None:
    search = bound(space=conditional())
    run = drive(search, completed(trade_off), 30, workers=3)
    trials = shown(search)
    assert len(trials) == 30
    names = set(conditional().names)
    for trial, finished in zip(trials, [f.arch for f in run.finished], strict=False):
        assert set(trial.params) == names
        assert {name: trial.params[name] for name in finished.choices} == finished.choices
    restored = bound(space=conditional())
    restored.restore(History.of(run.finished, 2, [arch for _, arch in run.running]))
    assert [trial.params for trial in shown(restored)] == [trial.params for trial in trials]


def test_inactive_decisions_are_shown_as_noise() -> None:
    search, space = bound(space=conditional()), conditional()
    skips = [arch for arch in space.enumerate() if arch.choices["block"] == "skip"]
    kernels = [
        search._params(arch)["block={kind: conv, kernel: oneof(3, 5, 7), ratio: oneof(1, 2, 4)}.kernel"]
        for arch in skips
    ]
    assert {kernels.count(kernel) / len(kernels) > 0.2 for kernel in (3, 5, 7)} == {True}


def test_failed_and_infeasible_trials_as_optuna_knows_them() -> None:
    search = bound()
    archs = search.ask(5)
    outcomes: Any = [
        ((3.0, 4.0), 0.0, "COMPLETED"),
        (None, 0.0, "FAILED"),
        (None, 0.25, "INFEASIBLE"),
        (None, float("inf"), "INFEASIBLE"),
    ]
    search.tell([Finished(i, archs[i], *outcome) for i, outcome in enumerate(outcomes)])
    trials = shown(search)
    assert [trial.state for trial in trials] == [
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.COMPLETE,
        TrialState.COMPLETE,
        TrialState.RUNNING,
    ]
    assert [trial.constraints for trial in trials] == [
        {"violation": 0.0},
        {},
        {"violation": 0.25},
        {"violation": 2.0},
        {},
    ]
    assert [trial.values for trial in trials[2:4]] == [[3.0, 4.0]] * 2


def test_without_infeasible_trials_there_is_no_constraint() -> None:
    search = bound()
    drive(search, completed(trade_off), 5)
    assert not any(trial.constraints for trial in shown(search))


def test_a_capped_history_has_the_youngest_and_the_best() -> None:
    told = [Finished(i, arch, (float(abs(i - 30)),)) for i, arch in enumerate(list(flat(4).enumerate())[:100])]
    assert chosen(told, 1, 10) == [28, 29, 30, 31, 32, 95, 96, 97, 98, 99]
    search = bound("tpe", ONE, history=10)
    search.tell(told)
    assert [trial.number for trial in shown(search)] == chosen(told, 1, 10)
    assert len(search.ask(3)) == 3


def test_ascending_numbers_are_integers_on_demand() -> None:
    plain, ordered = bound(space=conditional()), bound(space=conditional(), ordered=True)
    integer = optuna.distributions.IntDistribution
    assert not any(isinstance(d, integer) for d in plain._distributions.values())
    assert ordered._distributions["width"] == integer(0, 1)
    assert not isinstance(ordered._distributions["block"], integer)
    assert len(set(keys(drive(ordered, completed(trade_off), 30).asked))) == 30


def test_candidates_that_python_takes_for_one_have_names_of_their_own() -> None:
    import pyglove as pg

    from nas.space import Space

    space = Space(pg.Dict(flag=pg.oneof([1, True, 1.0, 2])), name="flags")
    assert len(set(keys(drive(bound(space=space), completed(trade_off), 4).asked))) == 4


def test_the_last_archs_of_a_small_space_are_found() -> None:
    run = drive(bound("tpe", space=small()), completed(trade_off), 64, workers=4)
    assert len(set(keys(run.asked))) == 64


def test_optunas_own_settings_stay_as_they_are() -> None:
    level = optuna.logging.get_verbosity()
    bound("tpe").ask(2)
    assert optuna.logging.get_verbosity() == level


def test_descriptions_are_json() -> None:
    given = OptunaSearch(optuna.samplers.NSGAIISampler(population_size=7)).describe()
    assert json.loads(json.dumps(given))["sampler"]["settings"]["population_size"] == 7
    named = OptunaSearch("tpe", {"n_startup_trials": 3}, history=50, seed=4)
    again = OptunaSearch(**{key: value for key, value in named.describe().items() if key != "name"})
    assert again.describe() == named.describe()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: OptunaSearch("tpee"), "sampler='tpee'; it is an Optuna sampler or one of tpe, .*; did you mean 'tpe'"),
        (lambda: OptunaSearch(3), "sampler=3; it is a optuna.BaseSampler or a string"),  # type: ignore[arg-type]
        (
            lambda: OptunaSearch("nsga2", {"population": 3}),
            "has no option 'population' here.*did you mean 'population_size'",
        ),
        (lambda: OptunaSearch("nsga2", {"population_size": 1}), "NSGAIISampler cannot be made with"),
        (lambda: OptunaSearch("tpe", {"seed": 1}), "has no option 'seed' here"),
        (lambda: OptunaSearch("nsga2", history=50), "looks at its last generation only; leave history out"),
        (lambda: OptunaSearch("tpe", history=1), "history=1; it is a whole number, 2 or more"),
        (lambda: OptunaSearch(optuna.samplers.RandomSampler(), {"seed": 1}), "give them to the sampler"),
        (lambda: OptunaSearch("tpe", ordered=1), "ordered=1; it is True or False"),  # type: ignore[arg-type]
    ],
)
def test_mistakes_get_one_sentence(make: Any, sentence: str) -> None:
    with pytest.raises(AlgorithmError, match=sentence):
        make()
