"""A study goes on with the evaluators and the algorithm that it began with, or says what is another."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pyglove as pg
import pytest
import torch
from torch import Tensor, nn

import nas
from nas.errors import StoreError, StudyError
from nas.identity import IDENTITY
from nas.store import open_store
from tests.study import landscapes
from tests.study.landscapes import grid


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "nas.db"


def quality(arch: nas.Arch, scale: float = 1.0) -> dict[str, float]:
    return {"quality": scale * arch.choices["x0"]}


class Scaled:
    def __init__(self, scale: float, pool: Any = None) -> None:
        self.scale, self.pool, self.calls = scale, pool, 0

    def __call__(self, arch: nas.Arch) -> dict[str, float]:
        self.calls += 1
        return quality(arch, self.scale)


class Saying(Scaled):
    def describe(self) -> dict[str, Any]:
        return {"name": "Saying"}


def made(store: Path, evaluator: Any, **changes: Any) -> nas.Study:
    declared: dict[str, Any] = {
        "space": grid(4, 2),
        "objectives": ["max quality"],
        "algorithm": "exhaustive",
        "trials": 3,
    }
    return nas.Study("one", **{**declared, "store": store, "evaluators": [evaluator], **changes})


def run(store: Path, evaluator: Any, trials: int, **changes: Any) -> nas.Study:
    study = made(store, evaluator, **changes)
    study.run(trials, workers=0, progress=False)
    return study


WAYS: dict[str, Callable[[float], Any]] = {
    "partial": lambda scale: functools.partial(quality, scale=scale),
    "object": Scaled,
    "closure": lambda scale: lambda arch: quality(arch, scale),
    "method": lambda scale: Scaled(scale).__call__,
    "composed": lambda scale: nas.Evaluation([Scaled(scale)]),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_an_evaluator_with_other_parameters_is_refused_by_name(store: Path, way: Callable[[float], Any]) -> None:
    run(store, way(1), 2).close()
    with pytest.raises(StudyError, match=r"begun with evaluator '.*' otherwise: .*scale 1 → 100; restore it, .*--name"):
        run(store, way(100), 3)
    assert run(store, way(1), 3).record.counts()["COMPLETED"] == 3


@pytest.mark.parametrize("pair", [(0.1, 0.10000001), (1_234_561, 1_234_564), (2**53, 2**53 + 1)])
def test_no_digit_is_rounded_away(store: Path, pair: tuple[float, float]) -> None:
    run(store, Scaled(pair[0]), 1).close()
    with pytest.raises(StudyError, match=f"scale {pair[0]} → {pair[1]}"):
        run(store, Scaled(pair[1]), 2)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("params <= 1234561", "params <= 1234564"),
        ("params <= 0.3", "params <= 0.30000000000000004"),
        ("params <= 3", "params < 3"),
    ],
)
def test_a_bound_that_differs_in_its_last_digit_is_another(store: Path, old: str, new: str) -> None:
    def counts(arch: nas.Arch) -> dict[str, float]:
        return {**quality(arch), "params": 0.0}

    run(store, counts, 1, constraints=[old]).close()
    with pytest.raises(StudyError, match=r"begun with constraints .*"):
        run(store, counts, 2, constraints=[new])
    assert str(run(store, counts, 2, constraints=[old]).record.constraints[0]) == old


def test_what_an_evaluator_counts_is_no_other_parameter(store: Path) -> None:
    evaluator = Scaled(1)
    study = run(store, evaluator, 2)
    study.close()
    study.run(3, workers=0, progress=False)
    assert run(store, evaluator, 4).record.counts()["COMPLETED"] == 4
    evaluator.scale = 2
    with pytest.raises(StudyError, match="scale 1 → 2"):
        run(store, evaluator, 5)


def test_an_evaluator_that_describes_itself_has_the_word(store: Path) -> None:
    run(store, Saying(1), 2).close()
    assert run(store, Saying(2), 3).record.counts()["COMPLETED"] == 3


def test_edited_code_and_what_cannot_be_compared_are_said(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ev(source: str) -> Any:
        scope: dict[str, Any] = {}
        exec(f"def ev(arch):\n    return {{'quality': {source}}}", scope)
        return scope["ev"]

    made(store, ev("1.0")).run(1, workers=0)
    assert "other code" not in capsys.readouterr().err
    made(store, ev("2.0")).run(2, workers=0)
    assert "evaluator 'ev' of study 'one' has other code than before (ev)" in capsys.readouterr().err
    made(store, ev("2.0")).run(3, workers=0)
    assert "other code" not in capsys.readouterr().err
    first = nas.Study(
        "two", space=grid(4, 2), objectives=["max quality"], evaluators=[Scaled(1, iter([]))], store=store
    )
    first.run(1, workers=0)
    assert "cannot be compared" not in capsys.readouterr().err
    again = nas.Study(
        "two", space=grid(4, 2), objectives=["max quality"], evaluators=[Scaled(1, iter([]))], store=store
    )
    again.run(2, workers=0)
    again.run(3, workers=0)
    sentence = "evaluator 'Scaled' of study 'two' cannot be compared with what it was in pool (list_iterator)"
    assert capsys.readouterr().err.count(sentence) == 1


def test_a_study_of_an_earlier_version_is_taken_as_it_is_and_noted(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(store, Scaled(1), 2).close()
    with sqlite3.connect(store) as connection:
        connection.execute("DELETE FROM notes")
    made(store, Scaled(2)).run(3, workers=0)
    assert "was begun by an earlier version, which kept no parameters of evaluators" in capsys.readouterr().err
    with pytest.raises(StudyError, match="scale 2 → 1"):
        run(store, Scaled(1), 4)


def test_a_sampler_of_optuna_with_other_options_is_another(store: Path) -> None:
    def sampler(trials: int) -> Any:
        return nas.OptunaSearch(optuna.samplers.TPESampler(n_startup_trials=trials, seed=1))

    run(store, quality, 2, algorithm=sampler(3)).close()
    assert run(store, quality, 3, algorithm=sampler(3)).record.counts()["COMPLETED"] == 3
    with pytest.raises(
        StudyError, match=r"begun with algorithm of other settings: sampler\.settings\.n_startup_trials: 3 → 4;"
    ):
        run(store, quality, 4, algorithm=sampler(4))


def test_the_note_is_json_of_bounded_size(store: Path) -> None:
    study = run(store, Scaled(1, [list(range(1000)) for _ in range(1000)]), 1)
    assert study.record.notes()[IDENTITY]["evaluators"][0]["name"] == "Scaled"
    assert len(str(study.record.notes())) < 100_000


@pytest.mark.parametrize("function", [functools.partial(max, 2.0), lambda module, inputs: 2.0])
def test_a_device_whose_function_changed_is_another(store: Path, function: Any) -> None:
    with open_store(store) as opened:
        device = nas.Custom("board", functools.partial(lambda module, inputs, k: k, k=1.0))
        opened.hardware.add_device(device.key, device.describe())
        opened.hardware.add_device(device.key, device.describe())
        other = nas.Custom("board", functools.partial(lambda module, inputs, k: k, k=2.0))
        with pytest.raises(
            StoreError, match=r"device 'board' is described otherwise in database .*: k 1.0 → 2.0; figures"
        ):
            opened.hardware.add_device(other.key, other.describe())
        old = {name: value for name, value in nas.Custom("old", function).describe().items() if name != IDENTITY}
        opened.hardware.add_device("old", old)
        opened.hardware.add_device("old", nas.Custom("old", function).describe())
        assert IDENTITY in next(one for one in opened.hardware.devices() if one.name == "old").description


@pytest.mark.parametrize("constraint", ["quality >= 2", "cost <= 12"])
@pytest.mark.parametrize("name", landscapes.BY_NAME)
def test_a_search_under_a_measured_budget_resumes_as_if_it_had_not_stopped(
    tmp_path: Path, name: str, constraint: str
) -> None:
    """It learns from all that infeasible trials measured, and from how far each keeps to the budget, the last one too."""
    cuts = (4, 9, 12, 16) if name in ("surrogate", "optuna") else (25, 40, 48)

    def declared(study: str) -> nas.Study:
        return landscapes.study(tmp_path / "nas.db", study, space=grid(6, 3), constraints=[constraint], algorithm=name)

    whole = declared("whole")
    whole.run(cuts[-1], workers=0, progress=False)
    for trials in cuts:
        parts = declared("parts")
        parts.run(trials, workers=0, progress=False)
        parts.close()
    assert parts.trials()["choices"].tolist() == whole.trials()["choices"].tolist()


NET = """
import nas, torch
from torch import nn
ACT, SETTINGS = nn.ReLU, {{"slope": 1}}
class Head(nn.Module):
    def forward(self, x):
        return {head}(x)
@nas.model
def net(width):
    {comment}
    return nn.Sequential(nn.Linear(3, width), ACT(), Head(), nn.Linear(width, SETTINGS["slope"]))
"""


def space_of(head: str = "torch.relu", *, comment: str = "", change: tuple[str, str] = ("", "")) -> nas.Space:
    scope: dict[str, Any] = {"__name__": __name__}
    exec(NET.format(head=head, comment=comment or "pass").replace(*change), scope)
    return nas.Space(scope["net"](pg.oneof([4, 8, 16])), name="net")


def width(arch: nas.Arch) -> dict[str, float]:
    return {"quality": float(arch.choices["width"])}


OTHER_CODE: dict[str, dict[str, Any]] = {
    "a class that it builds": {"head": "torch.tanh"},
    "a class that it reads": {"change": ("ACT, SETTINGS = nn.ReLU", "ACT, SETTINGS = nn.Tanh")},
    "a constant that it reads": {"change": ('{"slope": 1}', '{"slope": 2}')},
    "its own code": {"change": ("nn.Linear(3, width)", "nn.Linear(3, width, False)")},
}


@pytest.mark.parametrize("other", OTHER_CODE.values(), ids=OTHER_CODE)
def test_other_code_of_a_model_function_is_said_once(
    store: Path, capsys: pytest.CaptureFixture[str], other: dict[str, Any]
) -> None:
    assert space_of().fingerprint == space_of(**other).fingerprint
    run(store, width, 1, space=space_of())
    run(store, width, 2, space=space_of(comment="# another comment\n    pass"))
    assert "other code" not in capsys.readouterr().err
    said = (
        "net of the space of study 'one' has other code than before: its trials are kept, and may be of other networks"
    )
    study = made(store, width, space=space_of(**other))
    study.run(3, workers=0)
    assert said in capsys.readouterr().err
    made(store, width, space=space_of(**other)).run(3, workers=0)
    assert "other code" not in capsys.readouterr().err


class Converted(nn.Module):
    def __init__(self, act: str = "relu") -> None:
        super().__init__()
        self.first, self.second, self.act = nn.Linear(8, 24), nn.Linear(24, 3), act

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.second(getattr(torch, self.act)(self.first(x)))
        return found


def test_a_converted_model_that_computes_something_else_is_said(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def params(arch: nas.Arch) -> dict[str, float]:
        return {"quality": float(len(arch.choices))}

    run(store, params, 1, space=nas.elastic(Converted(), torch.zeros(2, 8)))
    run(store, params, 1, space=nas.elastic(Converted(), torch.zeros(2, 8)))
    assert "other code" not in capsys.readouterr().err
    made(store, params, space=nas.elastic(Converted("tanh"), torch.zeros(2, 8))).run(2, workers=0)
    assert "Converted" in (said := capsys.readouterr().err)
    assert "of the space of study 'one' has other code than before" in said


def test_a_checkpoint_of_other_code_is_said(tmp_path: Path) -> None:
    net = nas.Supernet(space_of(), example=torch.zeros(2, 3))
    net.save(tmp_path / "net")
    nas.Supernet.load(tmp_path / "net", space_of(comment="# another comment\n    pass"))
    with pytest.warns(UserWarning, match="was saved with other code of .*net: its weights may be of other networks"):
        nas.Supernet.load(tmp_path / "net", space_of("torch.tanh"))
