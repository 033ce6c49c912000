"""Operations, latencies and memory belong to the inputs that archs are run with: those of other inputs are not mixed in."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyglove as pg
import pytest
import torch
from torch import nn

import nas
from nas.cli.app import run
from nas.errors import PredictorError, StudyError
from nas.evaluate import Evaluator, Predicted
from nas.hardware import Custom
from nas.predict import Learned, Predictor
from nas.store import Store, open_store
from nas.study.measuring import fit, known_devices, measure_archs, measured_front, plan

SMALL, LARGE = "(3, 8, 8) float32", "(3, 32, 32) float32"


@nas.model
def net(width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2))


SPACE = nas.Space(net(width=pg.oneof(list(range(4, 60, 2)))), name="nets")  # 28 archs
ARCHS = [SPACE.arch({"width": width}) for width in range(4, 60, 2)]


def supernet(pixels: int, batch: int = 1, dtype: torch.dtype = torch.float32) -> nas.Supernet:
    found = nas.Supernet(SPACE, example=torch.zeros(batch, 3, pixels, pixels, dtype=dtype))
    found.trained = True
    return found


def board_ms(module: nn.Module, inputs: torch.Tensor) -> float:
    """What a board takes: operations of the convolution, nearly."""
    return 0.1 + 1e-5 * inputs.numel() * module[0].out_channels  # type: ignore[operator,index]


BOARD = Custom("board", board_ms)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "nas.db") as opened:
        yield opened


def measured(store: Store, *evaluators: Evaluator, name: str = "study", trials: int = 2) -> nas.Study:
    found = nas.Study(
        name,
        space=SPACE,
        objectives=["max params", "min macs"],
        evaluators=evaluators,
        store=store,
        algorithm=nas.Exhaustive(),
    )
    found.run(trials, workers=0, progress=False)
    return found


@pytest.mark.parametrize("make", [nas.Costs, lambda of: nas.Latency(of, BOARD)])
def test_a_study_has_figures_of_one_resolution_and_dtype(
    store: Store, make: Callable[[nas.Supernet], Evaluator], tmp_path: Path
) -> None:
    def go_on(of: nas.Supernet | Path, trials: int = 4) -> nas.Study:
        evaluators = [make(of)] if make is nas.Costs else [nas.Costs(supernet(8)), make(of)]  # type: ignore[arg-type]
        return measured(store, *evaluators, trials=trials)

    go_on(supernet(8), 2)
    assert len(go_on(supernet(8, batch=4)).trials()) == 4  # a sample is what it was
    supernet(8).save(tmp_path / "same")
    go_on(tmp_path / "same")
    supernet(32).save(tmp_path / "larger")
    for of in (supernet(32), tmp_path / "larger", supernet(8, dtype=torch.float64)):
        with pytest.raises(StudyError, match=r"was begun with evaluators .*inputs \"\(3, 8, 8\) float32\" → \"\(3, "):
            go_on(of)


def test_a_study_of_an_earlier_version_goes_on_and_is_compared_from_then_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr("nas.evaluate.subnets.inputs_described", lambda inputs: {})
        measured(store, nas.Costs(supernet(8)))
    assert len(measured(store, nas.Costs(supernet(8)), trials=4).trials()) == 4
    with pytest.raises(StudyError, match=r"evaluator 'Costs' otherwise: .*\(3, 8, 8\) float32.*\(3, 32, 32\) float32"):
        measured(store, nas.Costs(supernet(32)))


def test_memory_is_of_the_inputs_where_a_cache_is_counted_with_them() -> None:
    assert nas.Memory(supernet(8)).describe() == nas.Memory(supernet(32)).describe() == {"name": "Memory"}
    cached = [nas.Memory(supernet(pixels), batch=1, length=4).describe() for pixels in (8, 32)]
    assert cached[0] != cached[1]


def test_measurements_of_other_inputs_are_not_used_and_said(store: Store) -> None:
    hardware = store.hardware
    measure_archs(supernet(8), hardware, BOARD, ARCHS[:16])
    assert plan(SPACE, hardware, BOARD, 16, inputs=SMALL).done == 16
    todo = plan(SPACE, hardware, BOARD, 16, inputs=LARGE)
    assert (todo.done, len(todo.archs)) == (0, 16)
    assert todo.notes == [
        f"on device 'board', 16 archs were measured with inputs {SMALL}, these are {LARGE}: those figures are not used"
    ]
    with pytest.raises(
        PredictorError, match=r"has 0 measurements .*; .*16 archs were measured with inputs \(3, 8, 8\)"
    ):
        fit(SPACE, hardware, BOARD, "ridge", supernet=supernet(32))
    measure_archs(supernet(32), hardware, BOARD, ARCHS[:12])
    for pixels, count in ((8, 16), (32, 12)):
        one = fit(SPACE, hardware, BOARD, "ridge", supernet=supernet(pixels))
        assert one.errors["archs"] == count
        assert one.predict(ARCHS[-1:])[0] == pytest.approx(0.1 + 1e-5 * 3 * pixels**2 * 58, rel=0.1)
    with pytest.raises(PredictorError, match=r"with inputs \(3, 32, 32\) float32 and \(3, 8, 8\) float32, and the"):
        fit(SPACE, hardware, BOARD, "ridge")  # no supernet says which


def test_other_devices_are_known_by_figures_of_the_same_inputs(store: Store) -> None:
    measure_archs(supernet(8), store.hardware, Custom("other", board_ms), ARCHS[:24])
    assert [one.device for one in known_devices(SPACE, store.hardware, "board", SMALL)] == ["other"]
    assert known_devices(SPACE, store.hardware, "board", LARGE) == []


def test_measurements_of_an_earlier_version_stay_usable_and_are_said(store: Store) -> None:
    hardware = store.hardware
    rows = measure_archs(supernet(8), hardware, Custom("elsewhere", board_ms), ARCHS[:6])
    hardware.add_device("board", BOARD.describe())
    hardware.add_measurements("board", SPACE.fingerprint, [replace(row, inputs="") for row in rows])
    todo = plan(SPACE, hardware, BOARD, 6, inputs=LARGE)
    assert todo.done == 6
    assert "6 archs were measured by a version that did not record the inputs" in todo.notes[0]
    assert fit(SPACE, hardware, BOARD, "ridge", supernet=supernet(32)).errors["archs"] == 6


@pytest.mark.parametrize("where", ["here", "file", "store"])
@pytest.mark.parametrize("kind", ["ridge", "gp"])
def test_a_predictor_of_other_inputs_is_refused(store: Store, tmp_path: Path, where: str, kind: str) -> None:
    measure_archs(supernet(8), store.hardware, BOARD, ARCHS[:24])
    fitted = fit(SPACE, store.hardware, BOARD, kind, supernet=supernet(8))  # type: ignore[arg-type]
    fitted.save(tmp_path / "p.npz")
    source = {"here": fitted, "file": tmp_path / "p.npz", "store": str(tmp_path / "nas.db")}[where]
    measured(store, nas.Costs(supernet(8, batch=2)), Predicted(source, BOARD), name="small")
    message = r"device 'board' was fitted to latencies with inputs \(3, 8, 8\) float32, these are \(3, 32, 32\) float32"
    with pytest.raises(PredictorError, match=message):
        measured(store, nas.Costs(supernet(32)), Predicted(source, BOARD), name="large")
    study = nas.Study(
        "bound",
        space=SPACE,
        objectives=["min latency_ms"],
        evaluators=[nas.Costs(supernet(32)), Predicted(source, BOARD)],
        store=store,
    )
    with pytest.raises(PredictorError, match=message):  # a worker that was not told to check
        pickle.loads(pickle.dumps(study.evaluators[1]))(ARCHS[0])


def test_a_predictor_that_says_no_inputs_is_used(store: Store) -> None:
    one = Learned(SPACE, "board", regressor="ridge").fit(ARCHS, np.linspace(1, 2, len(ARCHS)))
    assert Predictor.unpack(one.pack(), SPACE).inputs == ""
    measured(store, nas.Costs(supernet(32)), Predicted(one, BOARD))


def test_a_front_is_measured_with_the_inputs_of_the_study(store: Store) -> None:
    measure_archs(supernet(8), store.hardware, BOARD, ARCHS)
    one = Learned(SPACE, "board", regressor="ridge").fit(ARCHS, np.linspace(1, 2, len(ARCHS)))  # of no known inputs
    study = nas.Study(
        "front",
        space=SPACE,
        objectives=["max params", "min latency_ms"],
        evaluators=[nas.Costs(supernet(32)), Predicted(one, BOARD)],
        store=store,
        algorithm=nas.Exhaustive(),
    )
    study.run(4, workers=0, progress=False)
    for number, row in measured_front(study).iterrows():
        width = study.arch(int(number)).choices["width"]  # type: ignore[call-overload]
        assert row["latency_ms"] == pytest.approx(0.1 + 1e-5 * 3 * 32**2 * width)


JOB = """
import nas
from tests.study.test_inputs import BOARD, SPACE, supernet
evaluators = [nas.Costs(supernet(PIXELS)), nas.Predicted("nas.db", BOARD)]
study = nas.Study("job", space=SPACE, objectives=["max params"], evaluators=evaluators, store="nas.db")
"""


def test_the_commands_say_what_they_do_not_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NAS_STORE", raising=False)
    for pixels in ("8", "32"):
        Path(f"of{pixels}.py").write_text(JOB.replace("PIXELS", pixels))
        assert run(["measure", f"of{pixels}.py", "--device", "board", "--archs", "10", "--quiet"]) == 0
        found = capsys.readouterr()
        assert "measured 10 archs; it has 10 of space 'nets'" in found.out
    sentence = (
        f"on device 'board', 10 archs were measured with inputs {SMALL}, these are {LARGE}: those figures are not used"
    )
    assert sentence in found.err
    assert run(["predictor", "fit", "of32.py", "--device", "board", "--kind", "ridge", "--quiet"]) == 0
    found = capsys.readouterr()
    assert "on 10 archs" in found.out
    assert sentence in found.err
    assert run(["predictor", "show", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["inputs"] == LARGE
