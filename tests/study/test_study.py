from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyglove as pg
import pytest
import torch

import nas
from nas.errors import EvaluationError, FilterError, MetricError, StudyError
from nas.metrics import Metric
from tests.study.landscapes import Counting, broken, grid, study, trade_off, wrong


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "nas.db"


def test_exhaustive_search_finds_exactly_the_true_front(store: Path) -> None:
    search = study(store, algorithm=nas.Exhaustive(), trials=64)
    summary = search.run(workers=0, progress=False)
    assert summary.counts["COMPLETED"] == 64
    front = search.front()
    assert sorted(front["quality"]) == list(range(8))
    assert all(row["cost"] == row["quality"] ** 2 for _, row in front.iterrows())
    assert search.best()["quality"] == 7
    assert search.best("cost")["cost"] == 0


def test_front_of_a_filter_is_the_front_of_what_satisfies_it(store: Path) -> None:
    search = study(store, algorithm=nas.Exhaustive(), trials=64)
    search.run(workers=0, progress=False)
    assert sorted(search.front("cost <= 9 and quality > 0")["quality"]) == [1, 2, 3]
    # Dominated trials come to the front when those that dominate them are filtered out.
    assert len(search.front("x1 == 3")) == 8
    with pytest.raises(FilterError, match="did you mean 'quality'"):
        search.front("qualty > 0")


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_answers_do_not_depend_on_the_number_of_workers(store: Path, workers: int) -> None:
    algorithm = nas.NSGA2(population=10, seed=3, synchronous=True)
    search = study(store, algorithm=algorithm, trials=40, space=grid(8, 4))
    search.run(workers=workers, progress=False)
    found = search.trials()[["quality", "cost"]].sort_index().to_numpy().tolist()
    again = study(store, "again", algorithm=algorithm, trials=40, space=grid(8, 4))
    again.run(workers=0, progress=False)
    assert found == again.trials()[["quality", "cost"]].sort_index().to_numpy().tolist()


def test_running_again_does_nothing_again(store: Path, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    study(store, evaluators=[Counting(str(calls))]).run(workers=2, progress=False)
    summary = study(store, evaluators=[Counting(str(calls))]).run(workers=2, progress=False)
    assert summary.evaluated == 0
    more = study(store, evaluators=[Counting(str(calls))]).run(45, workers=2, progress=False)
    assert more.evaluated == 15
    counted = Counter(calls.read_text().split())
    assert len(counted) == 45
    assert set(counted.values()) == {1}


@pytest.mark.parametrize("algorithm", [nas.NSGA2(population=8), nas.RandomSearch(), nas.RegularizedEvolution(8, 4)])
def test_a_resumed_search_proposes_what_an_uninterrupted_one_does(store: Path, algorithm: Any) -> None:
    whole = study(store, "whole", algorithm=algorithm, space=grid(8, 4), trials=40)
    whole.run(workers=0, progress=False)
    for trials in (7, 8, 23, 40):
        study(store, "parts", algorithm=algorithm, space=grid(8, 4)).run(trials, workers=0, progress=False)
    parts = study(store, "parts", algorithm=algorithm, space=grid(8, 4))
    assert parts.trials()["choices"].to_list() == whole.trials()["choices"].to_list()


def test_ask_and_tell_by_hand(store: Path) -> None:
    search = study(store, evaluators=())
    asked = search.ask(5)
    assert len({trial.arch for trial in asked}) == 5
    for trial in asked[:3]:
        search.tell(trial.number, trade_off(trial.arch))
    search.tell(asked[3].number, None, "it exploded")
    assert search.record.counts()["COMPLETED"] == 3
    assert search.record.trial(asked[3].number).reason == "it exploded"
    with pytest.raises(StudyError, match="told already"):
        search.tell(asked[0].number, trade_off(asked[0].arch))
    with pytest.raises(EvaluationError, match="trial 4 cannot be told: objective 'quality' was not measured"):
        search.tell(asked[4].number, {"cost": 1.0})
    assert search.record.trial(asked[4].number).state == "RUNNING"
    search.tell(asked[4].number, trade_off(asked[4].arch))
    assert search.record.counts()["COMPLETED"] == 4


def test_a_space_that_is_exhausted_ends_the_search(store: Path) -> None:
    summary = study(store, trials=1000).run(workers=2, progress=False)
    assert summary.counts["COMPLETED"] == 64
    assert "every arch" in summary.message


def test_wrong_results_fail_their_trial_with_the_reason_and_the_study_goes_on(store: Path) -> None:
    search = study(store, evaluators=[wrong], algorithm=nas.Exhaustive(), trials=64, max_failures=30)
    summary = search.run(workers=1, progress=False)
    assert summary.counts["FAILED"] == 24
    assert summary.counts["COMPLETED"] == 40
    reasons = " ".join(search.trials("state == 'FAILED'")["reason"])
    for text in ("nan", "'quality'", "high"):
        assert text in reasons


def test_too_many_failures_in_a_row_stop_the_search_with_a_summary(store: Path) -> None:
    search = study(store, evaluators=[broken], max_failures=5)
    with pytest.raises(StudyError, match=r"evaluations in a row failed.*RuntimeError: out of cheese"):
        search.run(workers=2, progress=False)
    assert 5 <= search.record.counts()["FAILED"] < 30
    assert search.record.counts().get("RUNNING", 0) == 0


def test_constraints_that_no_arch_meets_end_with_a_sentence(store: Path) -> None:
    search = study(store, constraints=["cost <= -1"], trials=20)
    summary = search.run(workers=2, progress=False)
    assert summary.counts["INFEASIBLE"] == 20
    assert "none of 20 archs met cost <= -1; closest was trial" in str(summary)
    assert search.front().empty
    with pytest.raises(StudyError, match=r"no feasible trial \(20 INFEASIBLE\)"):
        search.best()


def test_a_study_whose_trials_all_failed_says_so_with_the_first_reason(store: Path) -> None:
    search = study(store, evaluators=[broken], trials=4)
    with pytest.raises(StudyError, match=r"has no feasible trial \(no trials yet; run it first\)"):
        search.best()
    search.run(workers=0, progress=False)
    assert search.front().empty
    with pytest.raises(
        StudyError, match=r"no trial of study .* succeeded: 4 FAILED; the first, trial 0, .*out of cheese"
    ):
        search.best("cost", where="cost <= 3")


def test_infeasible_trials_are_never_on_the_front(store: Path) -> None:
    search = study(store, constraints=["cost <= 20"], algorithm=nas.Exhaustive(), trials=64)
    search.run(workers=0, progress=False)
    assert search.front()["cost"].max() == 16
    assert search.record.counts()["INFEASIBLE"] == 64 - int((search.trials()["cost"] <= 20).sum())


def test_a_study_that_is_declared_differently_is_not_resumed(store: Path) -> None:
    study(store).run(5, workers=0, progress=False)
    for changes, what in [
        ({"objectives": ["max quality"]}, "objectives"),
        ({"constraints": ["cost <= 3"]}, "constraints"),
        ({"algorithm": nas.RandomSearch(seed=2)}, "algorithm"),
        ({"evaluators": [broken]}, "evaluators"),
    ]:
        with pytest.raises(StudyError, match=f"was begun with {what}.*--name"):
            study(store, **changes).run(6, workers=0, progress=False)


def test_a_space_that_grew_keeps_its_trials(store: Path) -> None:
    study(store, algorithm=nas.Exhaustive(), trials=64).run(workers=0, progress=False)
    grown = study(store, algorithm=nas.Exhaustive(), trials=81, space=grid(9))
    summary = grown.run(workers=0, progress=False)
    assert summary.evaluated == 17
    assert grown.best()["quality"] == 8


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"objectives": []}, StudyError, "no objectives"),
        ({"objectives": "max quality"}, StudyError, "it is a list, each item a string or a nas.Metric"),
        ({"objectives": ["max quality", "min quality"]}, StudyError, "twice"),
        ({"trials": 0}, StudyError, "trials=0; it is a whole number, 1 or more"),
        ({"algorithm": "nsga3"}, nas.NasError, "did you mean 'nsga2'"),
        ({"evaluators": [Counting("")], "objectives": ["max qualty"]}, MetricError, "did you mean 'quality'"),
        ({"evaluators": [Counting("")], "constraints": ["latency <= 1"]}, MetricError, "yields 'latency'"),
    ],
)
def test_bad_declarations_are_refused_before_any_file_is_touched(
    store: Path, changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        study(store, **changes)
    assert not store.exists()


@pytest.mark.parametrize("name", ["", " x", "a/b", "x" * 300, "new\nline"])
def test_names_that_cannot_be_typed_are_refused(store: Path, name: str) -> None:
    with pytest.raises(StudyError, match="not usable"):
        study(store, name)


def test_nothing_to_evaluate_with(store: Path) -> None:
    with pytest.raises(StudyError, match="no evaluators"):
        study(store, evaluators=()).run(progress=False)


def test_rehearsal_evaluates_one_arch_and_writes_nothing(store: Path) -> None:
    found = study(store).rehearse()
    assert found["measurements"] == {"quality": 0.0, "cost": 0.0}
    assert found["space"]["archs"] == 64
    assert not store.exists()
    with pytest.raises(MetricError, match="'speed' was not measured; the evaluation gave quality, cost"):
        study(store, objectives=["max quality", Metric("speed", "max")]).rehearse()


class Costs:
    """Cheap, and counts whom it was asked for."""

    cost, metrics = "cheap", ("params",)

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, arch: nas.Arch) -> dict[str, float]:
        self.asked.append(arch.key)
        return {"params": float(sum(int(gene) for gene in arch.genome))}

    def describe(self) -> dict[str, Any]:
        return {"class": "Costs"}


def error(arch: nas.Arch) -> dict[str, float]:
    return {"error": -float(sum(int(gene) ** 2 for gene in arch.genome))}


error.metrics = ("error",)  # type: ignore[attr-defined]


def test_a_reopened_study_reads_the_features_of_its_trials_from_the_store(store: Path) -> None:
    def run(trials: int) -> tuple[Costs, nas.Study]:
        costs = Costs()
        study = nas.Study(
            name="features", space=grid(), objectives=["min error"], evaluators=[error, costs], store=store
        )
        study.run(trials=trials, workers=0, progress=False)
        return costs, study

    first, _ = run(10)
    second, study = run(14)
    assert len(set(first.asked)) > 10  # of candidates too
    before = {study.record.trial(number).key for number in range(10)}
    evaluated = {study.record.trial(number).key for number in range(10, 14)}
    assert evaluated <= set(second.asked)
    assert not before & set(second.asked)


def test_the_algorithm_is_told_which_objectives_are_cheap(store: Path) -> None:
    costs = Costs()
    both = nas.Study(
        name="both", space=grid(), objectives=["min error", "min params"], evaluators=[error, costs], store=store
    )
    both.run(trials=16, workers=0, progress=False)
    assert len(set(costs.asked)) > 16  # of candidates too
    alone = Costs()
    nas.Study(name="alone", space=grid(), objectives=["min params"], evaluators=[alone], store=store).run(
        trials=16, workers=0, progress=False
    )
    assert len(alone.asked) == 16  # where everything is cheap, asking is evaluating


@pytest.mark.parametrize("integer", [np.int64, np.int32, np.array, torch.tensor])
def test_numbers_as_numpy_and_pandas_give_them_are_trials_and_counts(store: Path, integer: Any) -> None:
    space = nas.Space(pg.Dict(w=pg.oneof(np.arange(1, 4))))
    study = nas.Study("n", space=space, objectives=["max quality"], store=store, algorithm="random", trials=integer(3))
    told = study.ask(integer(2))
    for asked in told:
        study.tell(integer(asked.number), {"quality": float(asked.arch.choices["w"])})
    assert study.record.counts()["COMPLETED"] == 2
    assert study.arch(study.best().name) == study.arch(integer(study.best().name))
    assert [study.arch(number).choices for number in study.front().index] == [study.best()["choices"]]
    assert study.record.trial(integer(0)).choices == told[0].arch.choices
    assert len(study.record.trials(limit=integer(1))) == 1


def test_a_study_resumes_when_a_list_of_candidates_becomes_an_array(store: Path) -> None:
    def study(candidates: Any) -> nas.Study:
        space = nas.Space(pg.Dict(w=pg.oneof(candidates)))
        return nas.Study("n", space=space, objectives=["max quality"], store=store, algorithm="exhaustive")

    first = study([8, 16, 24])
    for asked in first.ask(2):
        first.tell(asked.number, {"quality": 1.0})
    first.close()
    second = study(np.arange(8, 25, 8))
    (asked,) = second.ask(5)
    assert asked.arch.choices == {"w": 24}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"space": pg.Dict(w=pg.oneof([1, 2]))}, "Study was given space=.*; it is a nas.Space"),
        ({"space": nas.Space}, "space=the class Space; it is a nas.Space; make one, as Space"),
        ({"algorithm": nas.NSGA2}, "algorithm=the class NSGA2; .*; make one, as NSGA2"),
        ({"store": None}, "store=None; it is a path or a nas.Store"),
        ({"store": ""}, "store=''; it is a path"),
        ({"trials": 1e1}, "trials=10.0; it is a whole number, 1 or more"),
        ({"trials": True}, "trials=True; it is a whole number"),
        ({"trials": 2**70}, r"at most 2\*\*63 - 1"),
        ({"evaluators": Counting("")}, "evaluators=a Counting; it is a list, each item a function"),
        ({"evaluators": [3]}, r"evaluators\[0\]=3; it is a function"),
        ({"trails": 3}, "Study has no argument 'trails'; did you mean 'trials'"),
        ({"name": "\udcff"}, "name='.*'; it is a string in Unicode"),
        ({"training": 3}, "training=3; it is a nas.Training or None"),
    ],
)
def test_wrong_types_are_refused_by_name(
    changes: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = {"name": "n", "space": nas.Space(pg.Dict(w=pg.oneof([1, 2]))), "objectives": ["max quality"]}
    with pytest.raises(StudyError, match=sentence):
        nas.Study(**(arguments | changes))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_needs_no_random_arch_where_hardly_any_is_allowed(tmp_path: Path) -> None:
    value = pg.Dict({f"d{i}": pg.oneof([0, 1]) for i in range(20)})
    space = nas.Space(value, name="lone", where=lambda choices: not any(choices.values()))
    study = nas.Study(
        "s", space=space, objectives=["max acc"], evaluators=[lambda _: {"acc": 1.0}], store=tmp_path / "nas.db"
    )
    assert study.rehearse()["measurements"] == {"acc": 1.0}
