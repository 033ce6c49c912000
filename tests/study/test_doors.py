"""One judge: whatever an evaluation gives, a dry run, a run and `tell` say the same of it."""

from __future__ import annotations

import decimal
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nas
from nas.errors import EvaluationError, MetricError, NasError
from tests.study.landscapes import grid


def made(store: Path, **changes: Any) -> nas.Study:
    declared: dict[str, Any] = {
        "space": grid(2, 2),
        "objectives": ["max quality"],
        "algorithm": "random",
        "store": store,
    }
    return nas.Study("doors", **{**declared, "trials": 1, **changes})


def rehearsed(store: Path, measurements: Any, **changes: Any) -> str:
    try:
        return str(made(store, evaluators=[lambda _: measurements], **changes).rehearse()["state"])
    except NasError:
        assert not store.exists()
        return "FAILED"


def ran(store: Path, measurements: Any, **changes: Any) -> str:
    study = made(store, evaluators=[lambda _: measurements], **changes)
    study.run(workers=0, progress=False)
    trial = study.record.trial(0)
    if trial.state == "FAILED":
        assert trial.reason
    return trial.state


def told(store: Path, measurements: Any, **changes: Any) -> str:
    study = made(store, **changes)
    [asked] = study.ask()
    try:
        study.tell(asked.number, measurements)
    except NasError:
        assert study.record.trial(0).state == "RUNNING"
        study.tell(asked.number, {"quality": 0.25})
        return "FAILED" if study.record.trial(0).measurements == {"quality": 0.25} else "told twice"
    return study.record.trial(0).state


DOORS: list[Callable[..., str]] = [rehearsed, ran, told]

GOOD: list[Any] = [
    {"quality": 1},
    {"quality": True},
    {"quality": np.float16(0.5), "extra": np.int8(3)},
    {"quality": np.array([0.5])},
    {"quality": torch.tensor(0.5, requires_grad=True)},
    {"quality": torch.tensor([2])},
    {"quality": decimal.Decimal("0.5")},
]
BAD: list[Any] = [
    {"quality": "0.5"},
    {"quality": None},
    {"quality": float("nan")},
    {"quality": float("inf")},
    {"quality": np.float32("-inf")},
    {"quality": torch.tensor(float("inf"))},
    {"quality": 10**400},
    {"quality": 1j},
    {"quality": torch.zeros(2)},
    {"quality": np.ma.masked},
    {"quality": 1.0, "extra": "fast"},
    {"quality": 1.0, "extra": float("inf")},
    {"quality": 1.0, "état": 1.0},
    {"quality": 1.0, "reason": 1.0},
    {"quality": 1.0, "duration_s": 1.0},
    {"quality": 1.0, "key": 1.0},
    {"quality": 1.0, "val/acc": 1.0},
    {"quality": 1.0, 3: 1.0},
    {"quality": 1.0, None: 1.0},
    {"other": 1.0},
    {},
    0.5,
    [("quality", 0.5)],
]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("measurements", GOOD, ids=repr)
def test_a_number_of_any_kind_is_taken_at_every_door(
    tmp_path: Path, door: Callable[..., str], measurements: Any
) -> None:
    assert door(tmp_path / "nas.db", measurements) == "COMPLETED"


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("measurements", BAD, ids=repr)
def test_what_is_no_measurement_is_refused_at_every_door(
    tmp_path: Path, door: Callable[..., str], measurements: Any
) -> None:
    assert door(tmp_path / "nas.db", measurements) == "FAILED"


@pytest.mark.parametrize("door", DOORS)
def test_a_violated_constraint_says_enough(tmp_path: Path, door: Callable[..., str]) -> None:
    bounded = {"constraints": ["params <= 100"]}
    assert door(tmp_path / "nas.db", {"params": 101.0}, **bounded) == "INFEASIBLE"


def test_values_arrive_as_they_were(tmp_path: Path) -> None:
    study = made(tmp_path / "nas.db", trials=2)
    first, second = study.ask(2)
    study.tell(first.number, {"quality": torch.tensor(0.1), "count": np.int64(2**53)})
    study.tell(second.number, {"quality": np.float32(0.2), "count": True})
    narrow = float(np.float32(0.1))
    assert study.record.trial(0).measurements == {"quality": narrow, "count": float(2**53)}
    assert study.front()["quality"].tolist() == [float(np.float32(0.2))]
    json.dumps(study.front().drop(columns="choices").to_dict("records"), allow_nan=False)


@pytest.mark.parametrize("door", [made, lambda store, **changes: nas.Evaluation(changes["evaluators"])])
@pytest.mark.parametrize(
    ("announced", "sentence"),
    [
        (("quality", "reason"), "'reason' is reserved"),
        (("quality", "état"), "'état' is not an identifier"),
        (("quality", 3), "is not an identifier"),
        ("quality", "give a tuple of names"),
        (7, "give a tuple of names"),
    ],
)
def test_announced_names_are_checked_before_anything_is_evaluated(
    tmp_path: Path, door: Callable[..., Any], announced: Any, sentence: str
) -> None:
    class Announcing:
        metrics = announced

        def __call__(self, arch: nas.Arch) -> Mapping[str, float]:
            raise AssertionError("nothing is evaluated")

    with pytest.raises(EvaluationError, match=sentence):
        door(tmp_path / "nas.db", evaluators=[Announcing(), lambda arch: {}])


@pytest.mark.parametrize("name", ["reason", "duration_s", "key", "état"])
def test_no_objective_and_no_constraint_is_called_as_a_column(tmp_path: Path, name: str) -> None:
    with pytest.raises(MetricError):
        made(tmp_path / "nas.db", objectives=[f"max {name}"])
    with pytest.raises(MetricError):
        made(tmp_path / "nas.db", constraints=[f"{name} <= 3"])


def test_a_dry_run_says_what_its_trial_would_be(tmp_path: Path) -> None:
    def refuses(arch: nas.Arch) -> dict[str, float]:
        raise nas.Infeasible(MemoryError("does not fit"), {"params": np.int64(3)})

    found = made(tmp_path / "nas.db", evaluators=[refuses]).rehearse()
    assert (found["state"], found["reason"], found["measurements"]) == (
        "INFEASIBLE",
        "MemoryError: does not fit",
        {"params": 3},
    )
    json.dumps(found, allow_nan=False)
