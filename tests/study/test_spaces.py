"""A study that is resumed with a changed space: old trials are its history where that is true of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyglove as pg
import pytest

import nas
from nas.errors import SpaceError, StudyError
from nas.search import ALGORITHMS

ASKED = ("exhaustive", "random", "surrogate", "nsga2", "local-search", "regularized-evolution")


class Conv(pg.Object):
    """A candidate whose label does not tell its argument."""

    kernel: Any


def value_of(choice: Any) -> float:
    return {"Conv": 100.0, "skip": 0.0}.get(choice, choice)


class Calls:
    """An evaluator that remembers what it was asked."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def __call__(self, arch: Any) -> dict[str, float]:
        self.seen.append(dict(arch.choices))
        return {"acc": float(sum(value_of(choice) for choice in arch.choices.values()))}

    def describe(self) -> dict[str, str]:
        return {"name": "Calls"}


def study(db: Path, space: Any, algorithm: str = "exhaustive", trials: int = 20, **options: Any) -> tuple[Any, Calls]:
    calls = Calls()
    made = space if isinstance(space, nas.Space) else nas.Space(space, name="s")
    given = {"space": made, "objectives": ["max acc"], "evaluators": [calls], "store": db}
    return nas.Study("s", algorithm=algorithm, trials=trials, **given, **options), calls


def run(db: Path, space: Any, *args: Any, **options: Any) -> tuple[Any, Calls, str]:
    made, calls = study(db, space, *args, **options)
    return made, calls, made.run(workers=0, progress=False).message


@pytest.mark.parametrize("algorithm", ASKED)
@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        ([16, 32], [8, 16, 32], [8]),
        ([16, 32], [32, 16], []),
        ([16, 32, 64], [16, 32, 128], [128]),
        ([16, 32, 64], [16, 32], []),
        ([16, 32], [16, 32, 16.0, True], [16.0, True]),
        ([Conv(3), 16], [16, Conv(5)], ["Conv"]),
    ],
    ids=["inserted", "reversed", "replaced", "narrowed", "other types", "equal labels"],
)
def test_what_is_new_is_evaluated_and_nothing_else(
    algorithm: str, before: list[Any], after: list[Any], new: list[Any], tmp_path: Path
) -> None:
    assert algorithm in ALGORITHMS
    run(tmp_path / "a.db", {"w": pg.oneof(before)}, algorithm)
    resumed, calls, _ = run(tmp_path / "a.db", {"w": pg.oneof(after)}, algorithm)
    assert sorted(repr(one["w"]) for one in calls.seen) == sorted(map(repr, new))
    for number in range(len(resumed.trials())):
        trial = resumed.record.trial(number)
        assert trial.measurements == {"acc": float(sum(value_of(choice) for choice in trial.choices.values()))}


def test_exchanged_decisions_are_the_same_archs(tmp_path: Path) -> None:
    run(tmp_path / "a.db", {"a": pg.oneof([1, 2]), "b": pg.oneof([1, 2])}, trials=2)
    resumed, calls, _ = run(tmp_path / "a.db", {"b": pg.oneof([1, 2]), "a": pg.oneof([1, 2])})
    assert len(calls.seen) == 2
    found = [resumed.record.trial(n).choices for n in range(4)]
    assert sorted((one["a"], one["b"]) for one in found) == [(1, 1), (1, 2), (2, 1), (2, 2)]


def deep(deepest: int) -> nas.Space:
    value = {"d": pg.oneof(list(range(1, deepest + 1))), "k": [pg.oneof([3, 5]) for _ in range(deepest)]}
    depths = {f"k[{block}]": ("d", range(block + 1, deepest + 1)) for block in range(1, deepest)}
    return nas.Space(value, name="s", active_when=depths)


def test_a_deeper_space_has_the_trials_of_a_shallower_one(tmp_path: Path) -> None:
    run(tmp_path / "a.db", deep(2), trials=6)
    resumed, calls, _ = run(tmp_path / "a.db", deep(3), trials=14)
    assert len(resumed.trials()) == 14
    assert sorted(one["d"] for one in calls.seen) == [3] * 8


def test_a_waiting_trial_of_a_dropped_candidate_waits_for_its_space(tmp_path: Path) -> None:
    first, _ = study(tmp_path / "a.db", {"w": pg.oneof([16, 32, 64])}, trials=3)
    first.ask(3)
    first._driver.release()
    first.close()
    second, calls, message = run(tmp_path / "a.db", {"w": pg.oneof([16, 32, 128])}, trials=3)
    assert message == "3 trials"
    assert sorted(one["w"] for one in calls.seen) == [16, 32, 128]
    waiting = second.record.trial(2)
    assert (waiting.state, waiting.choices, waiting.measurements) == ("WAITING", {"w": 64}, {})
    second.close()
    third, calls, _ = run(tmp_path / "a.db", {"w": pg.oneof([16, 32, 64, 128])}, trials=4)
    assert calls.seen == [{"w": 64}]
    assert third.record.trial(2).measurements == {"acc": 64.0}


@pytest.mark.parametrize("by", ["run", "silent run", "hand"])
def test_archs_that_are_gone_stay_on_record_and_are_told(
    by: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "a.db", {"w": pg.oneof([16, 32, 64])})
    resumed, _ = study(tmp_path / "a.db", {"w": pg.oneof([16, 32, 128])})
    capsys.readouterr()
    if by == "hand":
        (asked,) = resumed.ask(1)
        resumed.tell(asked.number, {"acc": 1.0})
    else:
        resumed.run(workers=0, progress=by == "run")
    told = "the space changed (w lost 64 and gained 128): 2 of 3 trials are of archs of it and its history, 1 of archs that"
    assert capsys.readouterr().err.count(told) == 1, "not silenced with the progress"
    assert len(resumed.trials()) == 4
    assert resumed.arch(3).choices == {"w": 128}
    with pytest.raises(
        SpaceError, match="trial 2 of study 's' has no arch here: .*w was 64, which is no candidate here"
    ):
        resumed.arch(2)


@pytest.mark.parametrize(
    "after",
    [{"w": pg.oneof([64, 128])}, {"v": pg.oneof([16, 32])}, {"w": pg.oneof([16, 32]), "classes": 10}],
    ids=["other candidates", "another name", "another fixed part"],
)
def test_a_space_with_none_of_the_trials_is_refused(after: dict[str, Any], tmp_path: Path) -> None:
    run(tmp_path / "a.db", {"w": pg.oneof([16, 32])})
    refused, calls = study(tmp_path / "a.db", after)
    with pytest.raises(StudyError, match=r"study 's' was begun with another space \(.+\), and none of its 2 trials"):
        refused.run(workers=0, progress=False)
    assert not calls.seen
    assert run(tmp_path / "a.db", {"w": pg.oneof([16, 32])})[1].seen == []


def test_a_fixed_argument_that_is_opened_keeps_its_trials(tmp_path: Path) -> None:
    run(tmp_path / "a.db", {"w": pg.oneof([16, 32]), "d": 2})
    _, calls, _ = run(tmp_path / "a.db", {"w": pg.oneof([16, 32]), "d": pg.oneof([1, 2])})
    assert calls.seen == [{"w": 16, "d": 1}, {"w": 32, "d": 1}]


def test_a_database_of_version_0_1_is_taken_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its keys were of positions, and its schema had labels alone."""
    import hashlib
    import json
    import sqlite3

    value = {"w": pg.oneof([16, 32, 64])}
    space = nas.Space(value, name="s")
    first, _ = study(tmp_path / "a.db", space, trials=2)
    first.run(workers=0, progress=False)
    first.close()
    old = {key: space.schema()[key] for key in ("name", "version", "decisions")}
    old["fingerprint"] = space.labels_fingerprint
    with sqlite3.connect(tmp_path / "a.db") as sql:
        sql.execute("UPDATE spaces SET fingerprint = ?, schema = ?", (old["fingerprint"], json.dumps(old)))
        for number, text in sql.execute("SELECT number, arch FROM trials").fetchall():
            key = hashlib.blake2b(repr(tuple(json.loads(text))).encode(), digest_size=16).hexdigest()
            sql.execute("UPDATE trials SET key = ? WHERE number = ?", (key, number))
    sql.close()
    resumed, calls = study(tmp_path / "a.db", space)
    resumed.run(workers=0)
    assert "did not record what is fixed in a space" in capsys.readouterr().err
    assert calls.seen == [{"w": 64}]
    assert resumed.record.lookup(space.arch({"w": 32}).key).choices == {"w": 32}
    assert resumed.front()["acc"].tolist() == [64.0]
    resumed.close()
    again, calls = study(tmp_path / "a.db", space)
    again.run(workers=0)
    assert capsys.readouterr().err.count("did not record") == 0


def test_once_does_not_answer_by_a_label_that_means_something_else_now(tmp_path: Path) -> None:
    def by_label(arch: Any) -> str:
        return str(arch.choices)

    def kernel(arch: Any) -> dict[str, float]:
        return {"acc": float(arch.value.op.kernel)}

    once = nas.Once(kernel, by_label, tmp_path)
    spaces = [nas.Space({"op": pg.oneof([Conv(k), "skip"])}, name="s") for k in (3, 5)]
    assert [once(space.arch({"op": "Conv"}))["acc"] for space in spaces] == [3.0, 5.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: nas.OptunaSearch("tpe", seed=1),
        lambda: nas.DNASearch(pg.evolution.regularized_evolution(population_size=2, tournament_size=2)),
    ],
    ids=["optuna", "pyglove"],
)
def test_foreign_algorithms_are_told_what_the_trials_are(make: Any, tmp_path: Path) -> None:
    run(tmp_path / "a.db", {"w": pg.oneof([16, 32])}, make())
    _, calls, _ = run(tmp_path / "a.db", {"w": pg.oneof([8, 32, 16])}, make())
    assert calls.seen == [{"w": 8}]


def test_transfer_takes_no_trial_of_another_candidate_with_the_same_label(tmp_path: Path) -> None:
    from nas.search import Source

    source = nas.Space({"op": pg.oneof([Conv(3), "skip", "none"])}, name="s")
    trials = [source.arch({"op": label}) for label in ("Conv", "skip")]
    values = np.array([[1.0], [2.0]])
    stored = Source("old", ("max acc",), source.schema(), [arch.row() for arch in trials], values, np.zeros(2))
    now = nas.Space({"op": pg.oneof(["none", "skip", Conv(5)])}, name="s")
    assert [(at, arch.choices) for at, arch in stored.archs(now)] == [(1, {"op": "skip"})]
