"""PyGlove programs on the store: what a program sees in one process."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyglove as pg
import pytest
import torch

from nas.errors import AlgorithmError, EvaluationError, NasError, SpaceError, StoreError, StudyError
from nas.pyglove import NasBackend, space_of
from nas.store import open_store
from tests.pyglove_backend.programs import algorithm, score, space


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "nas.db")


def sample(store: str, trials: int | None = None, name: str = "toy", **options: Any) -> Any:
    generator = options.pop("algorithm", None) or algorithm()
    return pg.sample(
        options.pop("space", None) or space(), generator, trials, name=name, backend="nas", store=store, **options
    )


def poll(store: str, name: str = "toy") -> Any:
    return pg.tuning.poll_result(name, backend="nas", store=store)


def test_the_same_program_runs_on_both_backends(store: str) -> None:
    for backend, options in (("in-memory", {}), ("nas", {"store": store})):
        seen = []
        for example, feedback in pg.sample(space(), algorithm(), 20, name="same", backend=backend, **options):
            assert isinstance(feedback, pg.tuning.Feedback)
            assert pg.eq(pg.template(space()).decode(feedback.dna), example)
            feedback(score(example), metrics={"size": float(example.d0)}, metadata={"note": [1, 2]})
            seen.append((feedback.id, score(example)))
        result = pg.tuning.poll_result("same", backend=backend, **options)
        assert [trial.id for trial in result.trials] == list(range(1, 21)) == [number for number, _ in seen]
        assert [trial.final_measurement.reward for trial in result.trials] == [reward for _, reward in seen]
        assert result.best_trial.final_measurement.reward == max(reward for _, reward in seen)
        trial = result.trials[4]
        assert (trial.status, trial.infeasible, trial.metadata.note) == ("COMPLETED", False, [1, 2])
        assert set(trial.final_measurement.metrics) == {"size"}
        assert result.is_active
        assert "same" in str(result)


def test_an_arch_is_evaluated_once(store: str) -> None:
    small = pg.Dict(a=pg.oneof([1, 2]), b=pg.oneof([1, 2]))
    seen = [(ex.a, ex.b) for ex, feedback in sample(store, 50, space=small) if feedback(1.0) is None]
    assert sorted(seen) == [(1, 1), (1, 2), (2, 1), (2, 2)]


@pytest.mark.parametrize(
    "generator",
    [
        pg.evolution.hill_climb(pg.evolution.mutators.Uniform(seed=1)),
        pg.evolution.regularized_evolution(pg.evolution.mutators.Uniform(seed=1), 4, 2, seed=1),
        pg.evolution.nsga2(pg.evolution.mutators.Uniform(seed=1), 4, seed=1),
        pg.geno.Random(seed=1),
    ],
    ids=["hill_climb", "regularized_evolution", "nsga2", "random"],
)
def test_a_space_is_searched_to_its_end_when_a_generator_repeats_itself(store: str, generator: Any) -> None:
    small = pg.Dict({f"a{at}": pg.oneof([0, 1]) for at in range(5)})
    several = ("one", "other") if generator.multi_objective else None
    seen = []
    for part in range(2):  # the second goes on from the database, with a new generator
        loop = sample(
            store,
            None if part else 20,
            space=small,
            algorithm=generator.clone(deep=True),
            metrics_to_optimize=several or ["reward"],
        )
        for example, feedback in loop:
            values = tuple(example.values())
            seen.append(values)
            feedback(metrics={"one": float(sum(values)), "other": float(values[0])}) if several else feedback(
                float(sum(values))
            )
    assert len(set(seen)) == len(seen) == 32
    best = poll(store).best_trial
    assert several or best.final_measurement.reward == 5.0


def test_measurements_links_and_notes_of_a_trial_are_in_the_database(store: str) -> None:
    ((_, feedback),) = [next(sample(store, 1))]
    feedback.add_measurement(0.25, step=1, checkpoint_path="/ckpt/1", elapse_secs=3.0)
    feedback.add_measurement(0.5, step=5, metrics={"loss": 1.5})
    feedback.add_link("board", "http://host/1")
    feedback.set_metadata("object", pg.Dict(x=1))
    feedback.set_metadata("all", 7, per_trial=False)
    assert feedback.status == "PENDING"
    assert feedback.get_metadata("object") == pg.Dict(x=1)
    assert feedback.get_metadata("all", per_trial=False) == 7
    assert feedback.get_metadata("nothing") is None
    assert feedback.checkpoint_to_warm_start_from == "/ckpt/1"
    feedback.done(related_links={"log": "http://host/2"})
    result = poll(store)
    (trial,) = result.trials
    assert [(m.step, m.reward, dict(m.metrics)) for m in trial.measurements] == [(1, 0.25, {}), (5, 0.5, {"loss": 1.5})]
    assert (trial.measurements[0].checkpoint_path, trial.measurements[0].elapse_secs) == ("/ckpt/1", 3.0)
    assert trial.final_measurement.reward == 0.5
    assert dict(trial.related_links) == {"board": "http://host/1", "log": "http://host/2"}
    assert dict(result.metadata) == {"all": 7}
    assert trial.dna.to_numbers() == feedback.dna.to_numbers()
    assert result.last_updated is not None


def test_the_last_step_counts_whatever_the_order(store: str) -> None:
    ((_, feedback),) = [next(sample(store, 1))]
    feedback.add_measurement(0.9, step=9)
    feedback.add_measurement(0.3, step=3)
    feedback.done()
    assert poll(store).best_trial.final_measurement.reward == 0.9


def test_skipped_and_diverged_trials_are_infeasible_and_not_fed_back(store: str) -> None:
    for _, feedback in sample(store, 3):
        if feedback.id == 1:
            with feedback.skip_on_exceptions((ValueError,)):
                raise ValueError("does not build")
        else:
            feedback(math.nan if feedback.id == 2 else 1.0)
    skipped, diverged, fine = poll(store).trials
    assert (skipped.status, skipped.infeasible) == ("COMPLETED", True)
    assert "does not build" in skipped.description
    assert (diverged.infeasible, fine.infeasible) == (True, False)
    states = open_store(store).open_study("toy").counts()
    assert (states["COMPLETED"], states["INFEASIBLE"], states["FAILED"]) == (1, 1, 1)


@pytest.mark.parametrize(
    "reward", [math.inf, -math.inf, np.float32("inf"), torch.tensor(math.inf), torch.tensor(math.nan)]
)
def test_a_reward_that_is_not_finite_fails_its_trial(store: str, reward: Any) -> None:
    for _, feedback in sample(store, 2):
        feedback(reward if feedback.id == 1 else torch.tensor(0.5))
    failed, fine = poll(store).trials
    assert (failed.infeasible, fine.final_measurement.reward) == (True, 0.5)
    assert "must be one finite number" in failed.description
    assert poll(store).best_trial.id == 2


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("0.5",), "metric 'reward' is '0.5'"),
        ((np.array(["0.5"]),), "metric 'reward' is"),
        ((np.array([0.5, 0.6]),), "metric 'reward' is a ndarray of shape"),
        ((0.5, {"reason": 1.0}), "'reason' is reserved"),
        ((0.5, {"état": 1.0}), "is not an identifier"),
        ((0.5, {"size": "3"}), "metric 'size' is '3'"),
        ((0.5, {"size": None}), "metric 'size' is None"),
    ],
    ids=repr,
)
def test_what_is_no_number_is_refused_and_the_trial_goes_on(store: str, given: Any, sentence: str) -> None:
    ((_, feedback),) = [next(sample(store, 1))]
    with pytest.raises(EvaluationError, match=sentence):
        feedback.add_measurement(*given)
    assert feedback.get_trial().measurements == []
    feedback(0.5, metrics={"size": np.int64(3)})
    assert poll(store).best_trial.final_measurement.metrics == {"size": 3.0}


def test_rewards_of_several_metrics_are_judged_each(store: str) -> None:
    several = {"algorithm": pg.geno.Sweeping(), "metrics_to_optimize": ["quality", "cost"]}
    ((_, feedback),) = [next(sample(store, 1, **several))]
    with pytest.raises(EvaluationError, match="'high'"):
        feedback((1.0, "high"))
    with pytest.raises(ValueError, match="does not match"):
        feedback((1.0, 2.0, 3.0))
    feedback((1.0, torch.tensor([2.0])))
    assert open_store(store).open_study("toy").trial(0).measurements == {"quality": 1.0, "cost": 2.0}


def test_an_unfinished_trial_is_given_again_and_finished_ones_are_not_touched(store: str) -> None:
    (first, one), (again, two) = next(sample(store)), next(sample(store))
    assert pg.eq(first, again)
    assert one.id == two.id
    two(1.0)
    two.done()  # a second end of the same trial is no news
    with pytest.raises(pg.tuning.RaceConditionError, match="is COMPLETED"):
        one.add_measurement(3.0)
    one.skip()
    assert poll(store).best_trial.final_measurement.reward == 1.0
    assert next(sample(store))[1].id == 2


def test_a_trial_that_a_co_worker_ends_just_before_a_measurement_is_a_race(store: str) -> None:
    (_, one), (_, two) = next(sample(store)), next(sample(store))
    check = one._check_mine

    def check_then_lose() -> None:
        check()
        two(1.0)

    one._check_mine = check_then_lose
    with pytest.raises(pg.tuning.RaceConditionError, match="is COMPLETED"):
        one.add_measurement(3.0)
    assert poll(store).best_trial.final_measurement.reward == 1.0


def test_groups_share_trials_and_others_do_not(store: str) -> None:
    ids = {group: next(sample(store, group=group))[1].id for group in ("a", "b", 1)}
    assert ids == {"a": 1, "b": 2, 1: 3}
    assert next(sample(store, group="b"))[1].id == 2
    assert next(sample(store))[1].id == 4


def test_threads_without_a_group_have_trials_of_their_own(store: str) -> None:
    next(sample(store))
    found: list[int] = []
    together = threading.Barrier(3)  # the identity of a thread that has ended is given to the next one

    def work() -> None:
        found.append(next(sample(store))[1].id)
        together.wait()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [2, 3, 4]


def test_the_loop_ends_for_everybody(store: str) -> None:
    count = 0
    for _, feedback in sample(store):
        feedback(1.0)
        count += 1
        if count == 3:
            feedback.end_loop()
    assert count == 3
    assert not poll(store).is_active
    assert list(sample(store)) == []


def test_goes_on_by_name_and_knows_what_was_found(store: str) -> None:
    first = [feedback.dna.to_numbers() for example, feedback in sample(store, 12) if feedback(score(example)) is None]
    more = [feedback.dna.to_numbers() for example, feedback in sample(store, 30) if feedback(score(example)) is None]
    assert len(more) == 18
    assert not [numbers for numbers in more if numbers in first]
    # Evolution went on from the population of the first run: it is not random any more (0.5 on average).
    assert sum(map(sum, more)) / len(more) > sum(map(sum, first)) / len(first) + 0.5


@pytest.mark.parametrize("generator", [pg.geno.Random(), pg.geno.Random(seed=1), pg.geno.Sweeping()])
def test_generators_without_feedback_go_on_where_they_were(store: str, generator: Any) -> None:
    dna = [fb.dna.to_numbers() for _, fb in sample(store, 10, algorithm=generator) if fb(0.0) is None]
    dna += [fb.dna.to_numbers() for _, fb in sample(store, 20, algorithm=generator) if fb(0.0) is None]
    whole = [fb.dna.to_numbers() for _, fb in sample(store, 20, "whole", algorithm=generator) if fb(0.0) is None]
    assert dna == whole
    assert len(set(map(tuple, dna))) == 20


def test_several_metrics_are_all_maximised(store: str) -> None:
    metrics = ["quality", "speed"]
    for example, feedback in sample(
        store, 40, algorithm=pg.evolution.nsga2(population_size=8), metrics_to_optimize=metrics
    ):
        if feedback.id % 2:
            feedback((score(example), -float(example.d0)))
        else:
            feedback(metrics={"quality": score(example), "speed": -float(example.d0)})
    front = poll(store).front()
    assert list(front.columns[:2]) == metrics
    assert front["quality"].max() == max(trial.final_measurement.metrics.quality for trial in poll(store).trials)
    assert front["speed"].max() == 0.0


def test_one_metric_of_another_name(store: str) -> None:
    for example, feedback in sample(store, 5, metrics_to_optimize=["accuracy"]):
        feedback(metrics={"accuracy": score(example)})
    best = poll(store).best_trial.final_measurement
    assert best.reward == best.metrics.accuracy


def test_early_stopping_ranks_among_all_trials_of_the_sampling(store: str) -> None:
    policy = pg.early_stopping.early_stop_by_rank([(1, 0.5, 4)])
    stopped = {}
    for trials in (6, 12):  # the second program's policy begins with what the first measured
        for _, feedback in sample(store, trials, early_stopping_policy=policy()):
            assert not feedback.should_stop_early()
            value = [5.0, 4.0, 3.0, 2.0, 1.0, 6.0][(feedback.id - 1) % 6]
            feedback.add_measurement(value, step=1)
            stopped[feedback.id] = feedback.should_stop_early()
            feedback.skip("stopped early") if stopped[feedback.id] else feedback.done()
    # From the fifth on there are four before it, the median of which is 4 or 3; the seventh begins the second program.
    assert [number for number, stop in stopped.items() if stop] == [5, 9, 10, 11]


def test_nested_searches(store: str) -> None:
    whole = pg.Dict(
        arch=pg.oneof(["wide", "deep"], hints="outer"),
        rate=pg.oneof([1, 2, 3], hints="inner"),
        seed=pg.oneof([1, 2], hints="inner"),
    )
    found = {}
    for outer, feedback in sample(
        store, 2, "outer", space=whole, algorithm=pg.geno.Sweeping(), where=lambda hyper: hyper.hints == "outer"
    ):
        best = -1.0
        for inner, reply in sample(store, 6, f"inner-{feedback.id}", space=outer, algorithm=pg.geno.Sweeping()):
            reply(float(inner.rate * inner.seed + len(inner.arch)))
            best = max(best, float(inner.rate * inner.seed + len(inner.arch)))
        found[outer.arch] = best
        feedback(best)
    assert found == {"wide": 10.0, "deep": 10.0}
    assert {study.name: study.counts["COMPLETED"] for study in open_store(store).studies()} == {
        "outer": 2,
        "inner-1": 6,
        "inner-2": 6,
    }


def test_traced_programs_and_bare_specifications(store: str) -> None:
    def program() -> float:
        return pg.oneof([lambda: pg.oneof([1, 2]), 5], name="first") + sum(pg.manyof(2, [1, 2, 3], name="rest"))

    rewards = []
    for example, feedback in sample(store, 8, "traced", space=pg.hyper.trace(program)):
        with example():
            rewards.append(float(program()))
        feedback(rewards[-1])
    assert len(rewards) == 8
    assert max(rewards) <= 10
    spec = pg.dna_spec(space())
    for dna, feedback in sample(store, 4, "bare", space=spec):
        assert isinstance(dna, pg.DNA)
        feedback(float(sum(dna.to_numbers())))
    assert poll(store, "bare").best_trial is not None


def test_a_sampling_without_a_name_is_kept_but_not_shared(store: str) -> None:
    for _ in range(2):
        for _, feedback in sample(store, 2, None):
            feedback(1.0)
    assert len([study for study in open_store(store).studies() if study.name.startswith("unnamed-")]) == 2


def test_decisions_are_called_by_where_they_are() -> None:
    class Conv(pg.Object):
        kernel: int

    value = pg.Dict(
        layers=[pg.oneof([Conv(pg.oneof([3, 5])), "skip"]), pg.oneof([Conv(pg.oneof([3, 5])), None])],
        heads=pg.manyof(2, [1, 2, 4], sorted=True),
        rate=pg.floatv(1e-4, 1.0, scale="log", name="lr"),
    )
    made = space_of(pg.dna_spec(value), "named")
    assert made.names == (
        "layers[0]",
        "layers[0]={is: Conv, kernel: oneof(3, 5)}.kernel",
        "layers[1]",
        "layers[1]={is: Conv, kernel: oneof(3, 5)}.kernel",
        "heads[0]",
        "heads[1]",
        "lr",
    )
    arch = made.from_dna(pg.random_dna(pg.dna_spec(value)))
    assert pg.eq(pg.template(value).decode(made.to_dna(arch)), pg.template(value).decode(made.to_dna(arch)))


def test_mistakes_get_one_sentence(store: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no option 'stroe'; it has store, penalty, seed; did you mean 'store'"):
        next(pg.sample(space(), algorithm(), name="x", backend="nas", stroe="a"))
    with pytest.raises(AlgorithmError, match="takes one objective, the study has 2"):
        next(sample(store, metrics_to_optimize=["a", "b"]))
    with pytest.raises(NasError, match="metric name 'val/acc' is not an identifier"):
        next(sample(store, metrics_to_optimize=["val/acc"]))
    with pytest.raises(StoreError, match="does not exist"):
        pg.tuning.poll_result("x", backend="nas", store=str(tmp_path / "other.db"))
    next(sample(store, 1, "begun"))
    with pytest.raises(StoreError, match="no study 'begum'; did you mean 'begun'|no study 'begum'"):
        poll(store, "begum")
    with pytest.raises(StudyError, match="begun with another space .*decision other is new"):
        next(sample(store, 1, "begun", space=pg.Dict(other=pg.oneof([1, 2]))))
    with pytest.raises(StudyError, match="begun with algorithm"):
        next(sample(store, 1, "begun", algorithm=pg.geno.Random()))
    with pytest.raises(StudyError, match=r"begun with metrics \['reward'\], this program has \['a'\]"):
        next(sample(store, 1, "begun", metrics_to_optimize=["a"]))
    ((_, feedback),) = [next(sample(store, 1, "more"))]
    with pytest.raises(ValueError, match="trial 1 has no measurement; call add_measurement before done"):
        feedback.done()
    with pytest.raises(StoreError, match="could only be stored as executable code"):
        feedback.set_metadata("code", lambda: 1)


@pytest.mark.parametrize(
    "json",
    [
        {"_type": "function", "name": "intruder.run"},
        {"_type": "type", "name": "intruder.Thing"},
        {"_type": "method", "name": "intruder.Thing.run"},
        {"_type": "intruder.Thing", "x": 1},
        [{"deep": {"_type": "intruder.Thing"}}],
        {"_type": "function", "name": "xml.intruder.run"},
        {"_type": "pyglove.core.symbolic.dict.Dict", "x": {"_type": "function", "name": 5}},
    ],
)
def test_a_note_of_the_database_imports_nothing(
    store: str, json: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "intruder.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef run(): ...\nclass Thing: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    ((_, feedback),) = [next(sample(store, 1))]
    with open_store(store) as opened:
        opened.open_study("toy").annotate({"metadata:key": json}, 0)
    with pytest.raises(StoreError, match="in the database"):
        feedback.get_metadata("key")
    assert not (tmp_path / "ran").exists()


def test_choices_that_are_not_known_beforehand_are_refused(store: str) -> None:
    open_ended = pg.Dict(a=pg.evolve(pg.Dict(x=1), lambda value, location, parent: value))
    with pytest.raises(SpaceError, match="values are not known beforehand"):
        next(sample(store, space=open_ended, algorithm=pg.geno.Random()))


def test_the_backend_is_registered_under_its_name() -> None:
    assert pg.tuning.backend.get_backend_cls("nas") is NasBackend
