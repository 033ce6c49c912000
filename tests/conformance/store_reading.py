"""What every results database must give back: fronts, tables, histories, studies."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from nas.errors import FilterError, StoreError
from nas.metrics import Metric, parse_constraint
from nas.store import ImportedTrial, NewTrial, Report, Store, StudyRecord, open_store
from nas.store.database import VERSION_TABLE
from tests.conformance.store_tools import (
    OBJECTIVES,
    audit,
    completed,
    engine,
    make_study,
    new_trial,
    schema,
)


class ReadingConformance:
    """The reading half of `StoreConformance`."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        with open_store(url) as store:
            yield store

    @pytest.fixture
    def study(self, store: Store) -> StudyRecord:
        return make_study(store)

    # -- reading -----------------------------------------------------------------------------------------------------

    def test_front_is_sorted_and_has_units_of_the_report(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        study.add([new_trial(rng) for _ in range(4)], worker="w")
        study.report(
            [completed(0, 0.5, 1.0, params=5), completed(1, 0.9, 2.0), completed(2, 0.4, 3.0), completed(3, 0.7, 1.5)]
        )
        front = study.front()
        assert list(front.columns) == ["accuracy", "latency_ms", "params", "choices"]
        assert front.index.tolist() == [1, 3, 0]
        assert front["accuracy"].tolist() == [0.9, 0.7, 0.5]
        assert front["params"].isna().tolist() == [True, True, False]
        assert list(front["choices"][1]) == [d["name"] for d in study.schema["decisions"]]
        assert study.front(where="latency_ms < 2").index.tolist() == [3, 0]
        assert study.front(objectives=[Metric("latency_ms", "max")]).index.tolist() == [2]
        assert study.front(objectives=[Metric("params", "min"), *OBJECTIVES]).index.tolist() == [0]

    def test_fronts_of_an_older_revision_come_to_carry_what_they_show(self, store: Store, url: str) -> None:
        studies = [make_study(store, name) for name in ("one", "two", "empty")]
        for seed, study in enumerate(studies[:2]):
            rng = random.Random(seed)
            study.add([new_trial(rng) for _ in range(3)], worker="w")
            study.report([completed(0, 0.5, 1.0, params=5), completed(1, 0.9, 1e300), completed(2, 0.4, 2.0)])
        before = [study.front() for study in studies]
        with engine(url).begin() as connection:
            numbers = connection.execute(sa.text("SELECT study_id, number FROM front")).all()
            connection.execute(sa.text("DROP TABLE front"))
            connection.execute(
                sa.text("CREATE TABLE front (study_id INTEGER, number INTEGER, PRIMARY KEY (study_id, number))")
            )
            for study, number in numbers:
                connection.execute(sa.text("INSERT INTO front VALUES (:s, :n)"), {"s": study, "n": number})
            connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '0003'"))
        with open_store(url, any_revision=True) as older:
            older.upgrade()
        with open_store(url) as upgraded:
            for front, study in zip(before, studies, strict=True):
                again = upgraded.open_study(study.name).front()
                pd.testing.assert_frame_equal(front.drop(columns="choices"), again.drop(columns="choices"))
                assert [dict(choices) for choices in front["choices"]] == [
                    dict(choices) for choices in again["choices"]
                ]
            # Writers keep the front from there on.
            study = upgraded.open_study("one")
            study.add([new_trial(random.Random(9))], worker="w")
            assert study.report([completed(3, 0.6, 0.5)])[0].entered_front
            assert study.front().index.tolist() == [1, 3]

    def test_empty_study_reads_as_empty(self, study: StudyRecord) -> None:
        assert len(study.history()) == len(study.front()) == len(study.trials()) == len(study.curve()) == 0
        assert study.history().values.shape == (0, 2)
        assert list(study.front().columns) == ["accuracy", "latency_ms", "choices"]
        assert study.front(objectives=OBJECTIVES[:1]).empty
        assert study.front(where="latency_ms <= 2 and layers[0].kernel == 3").empty
        assert study.counts() == {"WAITING": 0, "RUNNING": 0, "COMPLETED": 0, "INFEASIBLE": 0, "FAILED": 0}

    def test_front_by_a_metric_that_nobody_measured_is_one_sentence(self, study: StudyRecord) -> None:
        study.add([new_trial(random.Random(0))], worker="w")
        study.report([completed(0, 0.9, 2.0)])
        with pytest.raises(
            StoreError, match="metric 'latency' was not measured in this study; did you mean 'latency_ms'"
        ):
            study.front(objectives=[Metric("latency", "min")])
        with pytest.raises(StoreError, match="a front needs an objective"):
            study.front(objectives=[])

    def test_trials_are_filtered_by_metrics_columns_and_decisions(self, study: StudyRecord) -> None:
        rows = [[0, 0, 0, 0.1], [1, 0, 0, 0.2], [2, None, 0, 0.3], [2, 1, 1, 0.4]]
        study.add([NewTrial(f"k{i}", row) for i, row in enumerate(rows)], worker="w")
        study.report([completed(0, 0.5, 1.0), completed(1, 0.6, 2.0), Report(2, "w", 1, "FAILED", reason="boom")])
        for where, expected in {
            "accuracy > 0.5": [1],
            "not accuracy > 0.5": [0],
            "layers[0].kernel == 7": [2, 3],
            "layers[0].kernel in (5, 7) and layers[1].kernel == 3": [1],
            "not layers[1].kernel == 3": [3],
            'choices["layers[0].kernel"] < 7': [0, 1],
            "0.15 <= rate < 0.4": [1, 2],
            "state == 'FAILED' or number == 0": [0, 2],
            "reason == 'boom'": [2],
            "worker == 'w'": [0, 1, 2, 3],
        }.items():
            assert study.trials(where=where).index.tolist() == expected, where
        table = study.trials(columns=["layers[0].kernel", "accuracy", "choices", "state"], limit=3)
        assert list(table.columns) == ["layers[0].kernel", "accuracy", "choices", "state"]
        assert table["layers[0].kernel"].tolist() == [3.0, 5.0, 7.0]
        assert table["choices"][2] == {"layers[0].kernel": 7, "layers[2].kernel": 3, "rate": 0.3}
        for where, sentence in {
            "acuracy > 0.5": "no column 'acuracy'; did you mean 'accuracy'",
            "layers[9].kernel == 3": "no column 'layers.9..kernel'",
            "state > 3": "compares text with a number",
        }.items():
            with pytest.raises(FilterError, match=sentence):
                study.trials(where=where)
        with pytest.raises(FilterError, match="no column 'acuracy'; did you mean 'accuracy'"):
            study.trials(columns=["acuracy"])

    def test_history_continues_where_it_stopped(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        study.add([new_trial(rng) for _ in range(4)], worker="w")
        study.report([completed(3, 0.5, 1.0), completed(1, 0.6, 2.0)])
        first = study.history()
        study.report([completed(0, 0.7, 3.0)])
        rest = study.history(after=first.last)
        assert first.numbers.tolist() == [3, 1]
        assert rest.numbers.tolist() == [0]
        assert rest.values.tolist() == [[0.7, 3.0]]
        assert study.history(after=rest.last).last == rest.last
        curve = study.curve()
        assert (curve.index.tolist(), curve["number"].tolist()) == ([1, 2, 3], [3, 1, 0])
        assert curve["accuracy"].tolist() == [0.5, 0.6, 0.7]

    def test_trials_of_a_changed_space_keep_their_names(self, store: Store, study: StudyRecord) -> None:
        study.add([NewTrial("old", [0, 1, 2, 0.5])], worker="w")
        changed = schema(labels=(3, 5, 9, "skip"), decisions=2)
        study.update_space(changed)
        study.add([NewTrial("new", [2, 3, 0.5])], worker="w")
        study.report([completed(0, 0.5, 1.0), completed(1, 0.6, 2.0)])
        assert study.trial(0).choices == {
            "layers[0].kernel": 3,
            "layers[1].kernel": 5,
            "layers[2].kernel": 7,
            "rate": 0.5,
        }
        assert study.trial(1).choices == {"layers[0].kernel": 9, "layers[1].kernel": "skip", "rate": 0.5}
        history = study.history()
        assert [len(history.schemas[space]["decisions"]) for space in history.space_ids.tolist()] == [4, 3]
        assert study.trials(where="layers[2].kernel == 7").index.tolist() == [0]
        assert study.trials(where="layers[1].kernel == 'skip'").index.tolist() == [1]
        assert study.trials(where="layers[1].kernel != 'skip'").index.tolist() == [0]
        assert store.open_study("toy").schema == changed
        assert study.front()["choices"][1]["layers[0].kernel"] == 9

    def test_imported_trials_are_finished_trials(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        trials = [
            ImportedTrial(new.key, new.row, {"accuracy": rng.randrange(8) / 8, "latency_ms": rng.randrange(1, 9)})
            for new in (new_trial(rng) for _ in range(50))
        ]
        trials.append(ImportedTrial("failed", [0, 0, 0, 0.5], {}, state="FAILED", reason="boom", duration_s=3.0))
        added = study.import_trials(trials)
        assert [a.number for a in added] == list(range(51))
        assert study.import_trials(trials[:3]) == [type(a)(a.number, a.key, True, a.state) for a in added[:3]]
        assert (study.trial(50).reason, study.trial(50).duration_s) == ("boom", 3.0)
        audit(study)
        study.add([new_trial(rng)], worker="w")
        assert study.report([completed(51, 1.0, 0.5)])[0].entered_front
        assert study.front().index.tolist() == [51]

    # -- studies -----------------------------------------------------------------------------------------------------

    def test_reopened_study_is_as_it_was_created(self, url: str, store: Store) -> None:
        study = make_study(store, constraints=["params <= 50_000"])
        with open_store(url, create=False) as other:
            again = other.open_study("toy")
            assert (again.objectives, again.constraints) == (OBJECTIVES, (parse_constraint("params <= 50000"),))
            assert (again.schema, again.settings) == (schema(), {"seed": 1})
            assert (again.id, again.name) == (study.id, "toy")

    def test_study_names_are_unique_and_unknown_ones_are_listed(self, store: Store, study: StudyRecord) -> None:
        with pytest.raises(StoreError, match="study 'toy' already exists"):
            make_study(store)
        with pytest.raises(StoreError, match="no study 'toi'; did you mean 'toy'.; it holds toy"):
            store.open_study("toi")
        with pytest.raises(StoreError, match="no study 'zzz'; it holds toy"):
            store.delete_study("zzz")

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"name": " "}, "is empty"),
            ({"objectives": ()}, "has no objective"),
            ({"objectives": (OBJECTIVES[0], OBJECTIVES[0])}, "'accuracy' is given twice"),
            ({"settings": {"seed": object()}}, "settings of a study must be JSON"),
            ({"space_schema": {"name": "x"}}, "space schema cannot be stored .KeyError: 'fingerprint'"),
        ],
    )
    def test_study_that_cannot_be_created_is_one_sentence(
        self, store: Store, change: dict[str, Any], sentence: str
    ) -> None:
        good: dict[str, Any] = {"name": "new", "space_schema": schema(), "objectives": OBJECTIVES}
        given = good | change
        with pytest.raises(StoreError, match=sentence):
            store.create_study(given.pop("name"), **given)
        assert store.studies() == []

    def test_studies_are_summarised(self, store: Store, study: StudyRecord) -> None:
        rng = random.Random(0)
        make_study(store, "empty")
        study.add([new_trial(rng) for _ in range(4)], worker="w")
        study.add([new_trial(rng)])
        study.report([completed(0, 0.5, 1.0), completed(1, 0.6, 2.0), Report(2, "w", 1, "FAILED", reason="boom")])
        first, second = store.studies()
        assert (first.name, first.space, first.objectives, first.front_size) == ("toy", "toy", OBJECTIVES, 2)
        assert first.best == {"accuracy": 0.6, "latency_ms": 1.0}
        assert first.counts == {"WAITING": 1, "RUNNING": 1, "COMPLETED": 2, "INFEASIBLE": 0, "FAILED": 1}
        assert (second.name, second.front_size, second.best) == ("empty", 0, {})

    def test_candidates_of_every_kind_are_found_and_written(self, store: Store, tmp_path: Path) -> None:
        labels = {
            "rate": [0.1, 0.1 + 0.2],
            "flag": [True, False],
            "any": [True, 1, "Conv(k=3)", None],
            "some": [None, 8],
        }
        decisions = [{"name": name, "kind": "categorical", "candidates": known} for name, known in labels.items()]
        space = {"name": "kinds", "version": 1, "fingerprint": "kinds", "decisions": decisions}
        record = store.create_study("kinds", space_schema=space, objectives=OBJECTIVES)
        rows = [[1, 0, 0, 0], [0, 1, 1, 1], [1, 0, 2, None], [0, None, 3, 0]]
        record.import_trials(
            [ImportedTrial(f"{n}", row, {"accuracy": float(n), "latency_ms": float(n)}) for n, row in enumerate(rows)]
        )
        for where, found in [
            ("rate == 0.3", [0, 2]),
            ("rate <= 0.3", [0, 1, 2, 3]),
            ("flag == True", [0, 2]),
            ("flag == 1", []),
            ("any == True", [0]),
            ("any == 1", [1]),
            ("any == None", [3]),
            ("some == None", [0, 3]),
            ("some != None", [1]),
        ]:
            assert record.trials(where).index.tolist() == found, where
            assert sorted(record.front(where).index) == found, where
        assert record.trials(columns=["flag", "some"]).to_dict("list") == {
            "flag": [True, False, True, None],
            "some": [None, 8.0, None, None],
        }
        expected = [
            {name: labels[name][at] for name, at in zip(labels, row, strict=True) if at is not None} for row in rows
        ]
        for frame in (record.front(), record.front("rate == 0.3"), record.trials(), record.front().head(1)):
            numbers = [int(number) for number in frame.index]
            assert [frame["choices"][number] for number in numbers] == [expected[number] for number in numbers]
            assert all(type(choices) is dict for choices in frame["choices"])
            told = json.loads(frame.to_json(orient="index"))
            shown = {n: {**expected[n], "rate": round(expected[n]["rate"], 10)} for n in numbers}  # as pandas writes
            assert {int(number): row["choices"] for number, row in told.items()} == shown
            frame.to_parquet(tmp_path / "frame.parquet")
            back = pd.read_parquet(tmp_path / "frame.parquet")
            assert back.index.tolist() == numbers
            for number in numbers:
                read = back["choices"][number]
                mixed = len({type(frame["choices"][other]["any"]) for other in numbers}) > 1
                assert (json.loads(read["any"]) if mixed and read["any"] is not None else read["any"]) == expected[
                    number
                ]["any"]
                assert read["rate"] == expected[number]["rate"]
                assert read.get("flag") == expected[number].get("flag")
        assert json.loads(record.front().iloc[0].to_json())["choices"] == expected[3] | {"rate": 0.1}

    def test_a_renamed_study_is_the_same_one(self, store: Store, study: StudyRecord) -> None:
        rng = random.Random(0)
        other = make_study(store, "other")
        study.add([new_trial(rng) for _ in range(2)], worker="w")
        study.annotate({"note": 1}, 0)
        with pytest.raises(StoreError, match="study 'toy' is running: worker 'w' holds trial 0"):
            store.rename_study("toy", "new")
        study.report([completed(0, 0.5, 1.0), completed(1, 0.6, 2.0)])
        for new, sentence in (("other", "has a study 'other' already"), ("a/b", "'a/b' is not usable"), ("", "is not")):
            with pytest.raises(StoreError, match=sentence):
                store.rename_study("toy", new)
        with pytest.raises(StoreError, match="no study 'zzz'"):
            store.rename_study("zzz", "new")
        before = study.trials().to_dict()
        store.rename_study("toy", "new")
        assert store.names() == ["new", "other"]
        again = store.open_study("new")
        assert again.trials().to_dict() == before
        assert (again.id, again.notes(0), list(again.front().index)) == (study.id, {"note": 1}, [1, 0])
        study.add([new_trial(rng)])  # a handle of before goes on
        assert len(again.trials()) == 3
        audit(again)
        audit(other)

    def test_other_objectives_take_the_front_anew(self, store: Store, study: StudyRecord) -> None:
        rng = random.Random(0)
        study.add([new_trial(rng) for _ in range(3)], worker="w")
        study.report([completed(n, 0.5 + n / 10, 1.0 + n, params=100.0 - n, part=1.0) for n in range(2)])
        params = (Metric("params", "min"), OBJECTIVES[0])
        with pytest.raises(StoreError, match="holds trial 2"):
            store.change_objectives("toy", params)
        study.report([completed(2, 0.1, 9.0, params=1.0)])
        with pytest.raises(StoreError, match="'part' cannot be an objective .* 1 of 3 COMPLETED trials .* is trial 2"):
            store.change_objectives("toy", [Metric("part", "min")])
        with pytest.raises(StoreError, match="'para' was not measured in study 'toy'; did you mean 'params'"):
            store.change_objectives("toy", [Metric("para", "min")])
        changed = store.change_objectives("toy", params)
        assert changed.objectives == store.open_study("toy").objectives == params
        assert changed.front().index.tolist() == [2, 1] == changed.front(objectives=params).index.tolist()
        assert changed.front()["params"].tolist() == [1.0, 99.0]
        assert store.studies()[0].front_size == 2
        added = changed.add([new_trial(rng)], worker="w")[0].number
        receipt = changed.report([completed(added, 0.0, 9.0, params=0.5)])
        assert receipt[0].entered_front
        assert changed.front().index.tolist() == [added, 2, 1]

    def test_a_study_that_runs_is_not_deleted_where_that_is_asked(self, store: Store, study: StudyRecord) -> None:
        study.add([new_trial(random.Random(0))], worker="w")
        with pytest.raises(StoreError, match="study 'toy' is running: worker 'w' holds trial 0"):
            store.delete_study("toy", dead=lambda worker: worker != "w")
        assert store.names() == ["toy"]
        store.delete_study("toy", dead=lambda worker: worker == "w")
        assert store.names() == []

    def test_who_learnt_from_a_study_is_known(self, store: Store, study: StudyRecord) -> None:
        declared = {"algorithm": {"name": "transfer", "from_": ["toy"]}}
        for name, settings in (("heir", {"sources": [{"study": "toy"}]}), ("declared", declared), ("other", {})):
            store.create_study(name, space_schema=schema(), objectives=OBJECTIVES, settings=settings)
        assert store.heirs("toy") == ["declared", "heir"]
        assert store.heirs("other") == []

    def test_low_evaluations_are_renamed_changed_and_deleted_with_their_study(self, store: Store) -> None:
        def make(name: str, seed: int = 0, *evaluators: dict[str, Any]) -> StudyRecord:
            algorithm = {"name": "multi-fidelity", "seed": seed}
            settings = {"algorithm": algorithm, "evaluators": list(evaluators)}
            return store.create_study(name, space_schema=schema(), objectives=OBJECTIVES, settings=settings)

        def low(far: float) -> dict[str, Any]:
            return {"name": "Partial", "far": far, "evaluator": {"name": "Trained"}}

        make("a", 0, {"name": "Trained"})
        level = make("a@3", 0, low(3.0))
        # Called alike: another distance, whole evaluators, another algorithm's, and one whose study is gone.
        others = [make("a@2", 0, low(3.0)), make("a@1", 0, {"name": "Trained"}), make("b@3", 0, low(3.0))]
        others.append(make("a@0.5", 1, low(0.5)))
        kept = sorted(other.name for other in others)
        assert (store.levels("a"), store.level_of("a@3"), store.level_of("a")) == (["a@3"], "a", None)
        assert [summary.level_of for summary in store.studies()] == [None, "a", None, None, None, None]
        level.add([new_trial(random.Random(0))], worker="w")
        for change in (
            lambda: store.rename_study("a", "c"),
            lambda: store.delete_study("a", dead=lambda _: False),
            lambda: store.change_objectives("a", OBJECTIVES[:1]),
        ):
            with pytest.raises(StoreError, match="study 'a@3' is running: worker 'w' holds trial 0"):
                change()
        level.report([completed(0, 0.5, 1.0)])
        with pytest.raises(
            StoreError, match="'a@3' holds the low evaluations of study 'a' and is renamed with it; name"
        ):
            store.rename_study("a@3", "c")
        with pytest.raises(StoreError, match="'a@3' holds the low evaluations of study 'a' and is deleted with it"):
            store.delete_study("a@3")
        with pytest.raises(StoreError, match="'a@3' holds the low evaluations of study 'a' and has its objectives"):
            store.change_objectives("a@3", OBJECTIVES[:1])
        with pytest.raises(StoreError, match="a study 'b@3' already, which the low evaluations of 'a' would be called"):
            store.rename_study("a", "b")
        with pytest.raises(StoreError, match="is not usable; use up to 200"):
            store.rename_study("a", "c" * 199)
        assert store.names() == sorted(["a", "a@3", *kept])
        store.rename_study("a", "c@d")
        assert store.names() == sorted(["c@d", "c@d@3", *kept])
        assert (store.levels("c@d"), len(store.open_study("c@d@3").trials())) == (["c@d@3"], 1)
        store.change_objectives("c@d@3".rpartition("@")[0], OBJECTIVES[:1])
        assert store.open_study("c@d@3").objectives == store.open_study("c@d").objectives == OBJECTIVES[:1]
        store.rename_study("a@2", "own")
        store.delete_study("c@d")
        assert store.names() == sorted({*kept, "own"} - {"a@2"})
        store.delete_study("b@3")

    def test_deleted_study_leaves_nothing_and_its_handles_refuse(self, store: Store, study: StudyRecord) -> None:
        rng = random.Random(0)
        other = make_study(store, "other")
        for each in (study, other):
            each.add([new_trial(rng) for _ in range(3)], worker="w")
            each.report([completed(0, 0.5, 1.0), completed(1, 0.6, 2.0)])
        store.delete_study("toy")
        assert [summary.name for summary in store.studies()] == ["other"]
        audit(other)
        again = make_study(store)
        assert len(again.trials()) == 0
        for write in (lambda: study.add([new_trial(rng)]), lambda: study.claim("w", 1), lambda: study.heartbeat("w")):
            with pytest.raises(StoreError, match="study 'toy' was deleted"):
                write()
        assert len(again.trials()) == 0

    def test_studies_do_not_see_each_other(self, store: Store, study: StudyRecord) -> None:
        other = make_study(store, "other")
        new = new_trial(random.Random(0))
        for each in (study, other):
            assert not each.add([new], worker="w")[0].existing
        study.report([completed(0, 0.5, 1.0, params=3.0)])
        assert other.counts()["RUNNING"] == 1
        assert other.front().empty
        assert "params" not in other.trials().columns
        audit(other)

    def test_a_long_history_is_that_of_its_trials(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        new = [new_trial(rng) for _ in range(2_100)]  # more than are read row by row
        study.add(new, worker="w")
        order = rng.sample(range(2_050), 2_050)
        reports = [completed(number, rng.random(), rng.random()) for number in order]
        reports[7] = Report(order[7], "w", 1, "FAILED", reason="boom")
        reports[9] = Report(order[9], "w", 1, "INFEASIBLE", violation=0.5)
        study.report(reports)
        whole, rest = study.history(), study.history(after=1_000)
        assert whole.numbers.tolist() == order
        assert whole.keys == [new[number].key for number in order]
        assert list(whole.rows) == [list(new[number].row) for number in order]
        assert whole.rows[3] == list(new[order[3]].row)
        assert (whole.states[7], whole.states[9], set(whole.states[10:])) == ("FAILED", "INFEASIBLE", {"COMPLETED"})
        assert (np.isnan(whole.violations[7]), whole.violations[9], whole.violations[10]) == (True, 0.5, 0.0)
        assert (whole.last, len(whole.pending)) == (2_050, 50)
        assert rest.keys == whole.keys[1_000:]
        np.testing.assert_array_equal(rest.values, whole.values[1_000:])
        np.testing.assert_array_equal(rest.space_ids, whole.space_ids[1_000:])

    # -- looking -----------------------------------------------------------------------------------------------------

    def test_a_position_changes_with_all_that_happens(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        seen = [study.position()]
        study.add([new_trial(rng) for _ in range(2)], worker="w")
        seen.append(study.position())
        study.report([completed(0, 0.5, 1.0)])
        seen.append(study.position())
        study.report([Report(1, "w", 1, "FAILED", {}, "no")])
        seen.append(study.position())
        assert [(one.finished, one.added, one.front_version) for one in seen] == [
            (0, 0, 0),
            (0, 2, 0),
            (1, 2, 1),
            (2, 2, 1),
        ]
        assert seen[-1].counts == study.counts()

    def test_what_ended_since_is_told_in_the_order_of_finishing(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        study.add([new_trial(rng) for _ in range(4)], worker="w")
        study.report([completed(2, 0.5, 1.0)])
        study.report([Report(0, "w", 1, "FAILED", {}, "no"), completed(3, 0.6, 1.0)])
        told = [(one.place, one.number, one.state) for one in study.ended(0)]
        assert told == [(1, 2, "COMPLETED"), (2, 0, "FAILED"), (3, 3, "COMPLETED")]
        assert [one.number for one in study.ended(1, most=1)] == [0]
        assert study.ended(3) == []
        assert len(study.recent_times()) == 3

    def test_leases_say_who_works_on_what(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        study.add([new_trial(rng) for _ in range(2)], worker="a", lease_s=100)
        study.add([new_trial(rng)])
        study.claim("b", 1, lease_s=100)
        assert [(one.number, one.worker) for one in study.leases()] == [(0, "a"), (1, "a"), (2, "b")]
        assert all(one.until - one.started > 90 for one in study.leases())

    def test_reasons_are_counted_the_most_frequent_first(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        study.add([new_trial(rng) for _ in range(6)], worker="w")
        study.report([Report(n, "w", 1, "FAILED", {}, "out of memory") for n in (1, 3, 4)])
        study.report([Report(0, "w", 1, "FAILED", {}, "é" * 1000), Report(2, "w", 1, "INFEASIBLE", {}, "too wide")])
        study.report([completed(5, 0.5, 1.0)])
        found = study.reasons()
        assert (found[0].state, found[0].reason, found[0].count, found[0].first) == ("FAILED", "out of memory", 3, 1)
        assert {one.reason for one in found[1:]} == {"é" * 300, "too wide"}
        assert study.reasons(most=1) == found[:1]

    def test_reasons_that_differ_in_numbers_alone_are_one(self, study: StudyRecord) -> None:
        rng = random.Random(0)
        study.add([new_trial(rng) for _ in range(5)], worker="w")
        texts = [
            "params is 12288, not <= 9000",
            "params is 1.5e+06, not <= 9000",
            "macs is 3, not <= 2",
            "gpu0 is lost",
            "gpu1 is lost",
        ]
        study.report([Report(n, "w", 1, "INFEASIBLE", {}, text) for n, text in enumerate(texts)])
        found = {one.reason: (one.count, one.first) for one in study.reasons()}
        assert found["params is …, not <= …"] == (2, 0)
        assert found["macs is 3, not <= 2"] == (1, 2)
        assert found["gpu0 is lost"] == (1, 3)

    def test_a_page_is_a_part_of_the_sorted_table(self, study: StudyRecord) -> None:
        rng = random.Random(1)
        study.add([new_trial(rng) for _ in range(40)], worker="w")
        study.report([completed(n, rng.choice([0.1, 0.5, 0.9]), rng.random()) for n in range(30)])
        whole = study.trials()
        assert study.page().frame.index.tolist() == list(range(40))
        assert study.page(descending=True, start=5, count=3).frame.index.tolist() == [34, 33, 32]
        for descending in (False, True):
            expected = whole.sort_values("accuracy", ascending=not descending, kind="stable", na_position="last")
            page = study.page(by="accuracy", descending=descending, start=7, count=30)
            assert page.frame.index.tolist() == expected.index.tolist()[7:37]
            assert page.total == 40
        found = study.page("latency_ms < 0.5", by="latency_ms", count=1000)
        assert found.total == int((whole["latency_ms"] < 0.5).sum()) == len(found.frame)
        assert found.frame["latency_ms"].is_monotonic_increasing
        by_state = study.page(by="state", descending=True, count=40).frame["state"].tolist()
        assert by_state == ["RUNNING"] * 10 + ["COMPLETED"] * 30
        name = study.schema["decisions"][0]["name"]
        labels = [choices[name] for choices in study.page(by=name, count=40).frame["choices"]]
        assert labels == sorted(labels)
        with pytest.raises(FilterError, match="cannot be sorted by 'acuracy'; did you mean 'accuracy'"):
            study.page(by="acuracy")

    def test_a_sample_is_even_and_says_of_how_many(self, study: StudyRecord) -> None:
        rng = random.Random(1)
        study.add([new_trial(rng) for _ in range(30)], worker="w")
        study.report([completed(n, n / 100, 1.0) for n in range(30)])
        some = study.sample(["accuracy", "choices"], most=4)
        assert (some.frame.index.tolist(), some.total) == ([0, 9, 19, 29], 30)
        assert some.frame["accuracy"].tolist() == [0.0, 0.09, 0.19, 0.29]
        every = study.sample(["accuracy"], "accuracy >= 0.2", most=100)
        assert (every.frame.index.tolist(), every.total) == (list(range(20, 30)), 10)

    def test_intermediate_values_may_ask_for_the_lease(self, study: StudyRecord) -> None:
        study.add([new_trial(random.Random(0))], worker="w")
        study.measure(0, "loss", 1.0, 0, ("w", 1))
        for other in (("v", 1), ("w", 2)):
            with pytest.raises(StoreError, match="holds no lease on it"):
                study.measure(0, "loss", 2.0, 1, other)
        assert study.trial(0).curves == {"loss": [(0, 1.0)]}
