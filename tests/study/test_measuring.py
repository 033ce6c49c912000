"""Measuring archs, fitting predictors to them, searching with predictions and measuring the front, by library and command."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import nas
from nas.cli.app import run
from nas.cli.hardware import measure_front, resolve
from nas.errors import DeviceError, EvaluationError, FilterError, PredictorError, StoreError, StudyError
from nas.evaluate import Predicted
from nas.hardware import Custom, Device
from nas.predict import FewShot, Learned, LookUp, scores
from nas.space import Arch
from nas.store import ArchMeasurement, Store, open_store
from nas.study.measuring import fit, known_devices, measure_archs, measured_front, plan, supernet_of
from nas.supernet import Supernet
from tests.conformance.predictor import EXAMPLE, archs, other, space, truth


def closed_form(module: nn.Module, _inputs: object) -> float:
    """What a board takes for a module: its operations and layers."""
    layers = [part for part in module.modules() if isinstance(part, nn.Linear)]
    return 0.2 + sum(0.001 * layer.in_features * layer.out_features + 0.05 for layer in layers)


BOARD = Custom("board", closed_form)


class Wrong:
    """Quality that grows with operations; no supernet."""

    metrics = ("quality",)

    def __call__(self, arch: Arch) -> dict[str, float]:
        return {"quality": truth(arch)}

    def describe(self) -> dict[str, str]:
        return {"name": "Wrong"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "nas.db") as opened:
        yield opened


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return nas.Supernet(space(), example=EXAMPLE)


def test_a_plan_is_the_same_each_time_and_goes_on_where_it_stopped(store: Store, supernet: Supernet) -> None:
    first = plan(space(), store.hardware, BOARD, 12)
    assert first == plan(space(), store.hardware, BOARD, 12)
    assert list(first.archs[:2]) == [space().smallest, space().largest]
    measure_archs(supernet, store.hardware, BOARD, first.archs[:5])
    rest = plan(space(), store.hardware, BOARD, 12)
    assert (rest.done, list(rest.archs)) == (5, list(first.archs[5:]))
    assert plan(space(), store.hardware, BOARD, 5).archs == []
    with pytest.raises(StudyError, match="226 archs cannot be measured; space 'toy' has 225"):
        plan(space(), store.hardware, BOARD, 226)


def test_latencies_that_do_not_say_what_was_fixed_are_not_used(store: Store, supernet: Supernet) -> None:
    done = measure_archs(supernet, store.hardware, BOARD, archs(3, 0))
    store.hardware.add_measurements("board", space().labels_fingerprint, done[:2])
    todo = plan(space(), store.hardware, BOARD, 5)
    assert (todo.unread, todo.done) == (2, 3)


def test_each_measurement_is_kept_before_the_next_begins(store: Store, supernet: Supernet) -> None:
    calls = 0

    def breaks(module: nn.Module, _inputs: object) -> float:
        nonlocal calls
        calls += 1
        if calls > 6:  # three calls a measurement
            raise ConnectionError("cable")
        return closed_form(module, None)

    with pytest.raises(DeviceError, match="device 'board': its function failed: ConnectionError: cable"):
        measure_archs(supernet, store.hardware, Custom("board", breaks), archs(5, 1))
    rows = store.hardware.measurements("board", space().fingerprint)
    assert [row.key for row in rows] == [arch.key for arch in archs(5, 1)[:2]]
    assert rows[0].details["p10_ms"] == pytest.approx(truth(archs(5, 1)[0]))
    assert "reference_ms" not in rows[0].details


@pytest.mark.parametrize(("kind", "expected"), [("ridge", Learned), ("gp", Learned), ("fewshot", FewShot)])
def test_a_predictor_is_kept_and_read_back(store: Store, supernet: Supernet, kind: str, expected: type) -> None:
    measure_archs(supernet, store.hardware, BOARD, archs(30, 1))
    one = fit(space(), store.hardware, BOARD, kind, supernet=supernet)  # type: ignore[arg-type]
    assert isinstance(one, expected)
    url = store._database.backend.path  # type: ignore[attr-defined]
    again = Predicted(str(url), BOARD)
    again.check(space())
    for arch in archs(5, 2):
        assert again(arch)["latency_ms"] == pytest.approx(one.predict([arch])[0][0], rel=1e-6)
        assert again(arch)["latency_sd_ms"] > 0
    assert store.hardware.predictors()[0].errors == pytest.approx(one.errors)


def test_a_table_of_parts_is_measured_on_this_machine(store: Store, supernet: Supernet) -> None:
    device = Device()
    some = archs(6, 1)
    measure_archs(supernet, store.hardware, device, some, budget_s=0.001, energy=True)
    rows = store.hardware.measurements(device.key, space().fingerprint)
    assert {"p10_ms", "spread_ms", "load", "runs", "reference_ms"} <= set(rows[0].details)
    assert all(value != 0 for name, value in rows[0].details.items() if name in ("energy_mj", "memory_mib"))
    assert {"torch", "python", "cpu"} <= set(rows[0].environment)
    one = fit(space(), store.hardware, device, "lookup", supernet=supernet, noisy=True)
    assert isinstance(one, LookUp)
    assert not one.missing(some)
    store.hardware.add_device("board", BOARD.describe())
    with pytest.raises(StudyError, match="parts cannot be measured on 'board' from here"):
        fit(space(), store.hardware, BOARD, "lookup", supernet=supernet)


def test_noisy_measurements_are_left_out_unless_asked_for(store: Store) -> None:
    store.hardware.add_device("board", BOARD.describe())
    rows = [
        ArchMeasurement(arch.key, arch.row(), truth(arch), noisy=place >= 20) for place, arch in enumerate(archs(30, 1))
    ]
    store.hardware.add_measurements("board", space().fingerprint, rows)
    assert fit(space(), store.hardware, BOARD, "ridge").errors["archs"] == 20
    assert fit(space(), store.hardware, BOARD, "ridge", noisy=True).errors["archs"] == 30


def test_too_few_quiet_measurements_say_what_to_do_and_noisy_ones_are_measured_again(store: Store) -> None:
    store.hardware.add_device("board", BOARD.describe())
    todo = plan(space(), store.hardware, BOARD, 10)
    rows = [
        ArchMeasurement(arch.key, arch.row(), truth(arch), noisy=place > 1) for place, arch in enumerate(todo.archs)
    ]
    store.hardware.add_measurements("board", space().fingerprint, rows)
    with pytest.raises(
        PredictorError, match=r"'board' has 2 measurements .* and 8 that are noisy; .* needs 5 .*\(--noisy\)"
    ):
        fit(space(), store.hardware, BOARD, "ridge")
    again = plan(space(), store.hardware, BOARD, 10)
    assert (again.done, again.archs) == (2, todo.archs[2:])


def test_few_shots_are_chosen_with_the_other_devices_of_the_store(store: Store, supernet: Supernet) -> None:
    for name, speed in (("a", 2.0), ("b", 0.5), ("c", 1.3)):
        store.hardware.add_device(name, {"name": name})
        rows = [ArchMeasurement(arch.key, arch.row(), truth(arch, speed)) for arch in archs(150, 3)]
        store.hardware.add_measurements(name, space().fingerprint, rows)
    assert [one.device for one in known_devices(space(), store.hardware, "b")] == ["a", "c"]
    todo = plan(space(), store.hardware, BOARD, 6, few=True)
    assert len(todo.archs) == 6
    measure_archs(supernet, store.hardware, BOARD, todo.archs)
    one = fit(space(), store.hardware, BOARD, "fewshot")
    unseen = archs(50, 5)
    assert scores(np.array([truth(arch) for arch in unseen]), one.predict(unseen)[0])["mape"] < 0.05


def test_contradicting_measurements_are_one_sentence_and_stay_in_the_store(store: Store) -> None:
    for name in ("a", "b", "c", "board"):
        store.hardware.add_device(name, {"name": name})
    rows = [ArchMeasurement(arch.key, arch.row(), truth(arch)) for arch in archs(60, 3)]
    for name in ("a", "b", "c"):
        store.hardware.add_measurements(name, space().fingerprint, rows)
    some = archs(10, 1)
    refused = 0
    for seed in range(6):
        mixed = np.random.default_rng(seed).permutation([truth(arch) for arch in some])
        rows = [ArchMeasurement(arch.key, arch.row(), ms) for arch, ms in zip(some, mixed, strict=True)]
        store.hardware.add_measurements("board", space().fingerprint, rows)
        try:
            fit(space(), store.hardware, BOARD, "fewshot")
        except PredictorError as error:
            refused += "the 10 measurements of device 'board' contradict each other" in str(error)
    assert refused >= 3
    assert len(store.hardware.measurements("board", space().fingerprint)) == 10


def test_a_known_device_with_too_few_archs_is_named(store: Store) -> None:
    """Of exact values nothing is to be measured again: what is missing is a known device."""
    apart = [
        space().arch({"width": 8, "layers": 1, "last": last}) for last in range(4, 13)
    ]  # none says much of another
    for name in ("a", "board"):
        store.hardware.add_device(name, {"name": name})
        rows = [ArchMeasurement(arch.key, arch.row(), truth(arch)) for arch in apart]
        store.hardware.add_measurements(name, space().fingerprint, rows)
    with pytest.raises(PredictorError) as refused:
        fit(space(), store.hardware, BOARD, "fewshot")
    said = str(refused.value)
    assert "measurements of device 'board' say too little about each other without a known device" in said
    assert "device 'a' has 9 archs of space 'toy' that are not noisy and is not learned from, which needs 20" in said
    assert "again" not in said
    assert "device 'a' has 9 archs" in plan(space(), store.hardware, BOARD, 12, few=True).notes[0]


def test_a_predictor_of_another_space_is_one_sentence(store: Store, tmp_path: Path) -> None:
    some = archs(30, 1)
    one = Learned(space(), "board", regressor="ridge").fit(some, [truth(arch) for arch in some])
    one.save(tmp_path / "p.npz")
    with pytest.raises(PredictorError, match="knows space 'toy' .* asked about space 'other'"):
        Predicted(tmp_path / "p.npz", BOARD).check(other())
    with pytest.raises(StoreError, match="has no device 'board'"):
        Predicted(str(tmp_path / "nas.db"), BOARD).check(space())
    with pytest.raises(EvaluationError, match="predictor=3; it is a nas.predict.Predictor or a path"):
        Predicted(3)  # type: ignore[arg-type]


def test_a_device_of_the_database_is_known_by_its_name(store: Store, supernet: Supernet, tmp_path: Path) -> None:
    database = str(tmp_path / "nas.db")
    with pytest.raises(DeviceError, match="device 'board' is not 'cpu', 'cuda' or 'cuda:N'"):
        Predicted(database, "board")
    measure_archs(supernet, store.hardware, BOARD, archs(12, 1))
    one = fit(space(), store.hardware, BOARD, "ridge", supernet=supernet)
    named = Predicted(database, "board")
    assert named.describe() == Predicted(database, BOARD).describe()
    for again in (named, pickle.loads(pickle.dumps(named))):
        assert again(archs(1, 2)[0])["latency_ms"] == pytest.approx(one.predict(archs(1, 2))[0][0])
    with pytest.raises(DeviceError, match="device 'board' is known by its figures alone; name how it is measured"):
        named.device.check()
    study = nas.Study("named", space=space(), objectives=["min latency_ms"], evaluators=[named], store=store)
    with pytest.raises(DeviceError, match="device 'board' is measured by a function"):
        resolve("board", None, study, store)


def test_predictions_travel_to_workers(tmp_path: Path) -> None:
    some = archs(30, 1)
    one = Learned(space(), "board", regressor="gp").fit(some, [truth(arch) for arch in some])
    ours = Predicted(one, "cpu,threads=2")
    again = pickle.loads(pickle.dumps(ours))
    assert again(some[0]) == pytest.approx(ours(some[0]))
    assert ours.describe()["device"].startswith("cpu,threads=2@")
    assert ours.describe() == Predicted(one, "cpu,threads=2").describe()


class Optimist(Learned):
    """Says that the widest networks take next to nothing."""

    kind = "optimist"

    def predict(self, archs: object) -> tuple[np.ndarray, np.ndarray]:
        value, spread = super().predict(archs)  # type: ignore[arg-type]
        wide = np.array([arch.choices["width"] == 24 for arch in archs])  # type: ignore[attr-defined]
        return np.where(wide, 0.01 * value, value), spread


def predicting(store: Store, supernet: Supernet, *constraints: str) -> nas.Study:
    some = archs(60, 1)
    one = Optimist(space(), "board", regressor="gp", features="ordinal").fit(some, [truth(arch) for arch in some])
    return nas.Study(
        "predicted",
        space=space(),
        objectives=["max quality", "min latency_ms"],
        evaluators=[Wrong(), nas.Costs(supernet), Predicted(one, BOARD)],
        constraints=constraints,
        algorithm=nas.RandomSearch(),
        store=store,
        trials=80,
    )


def test_a_budget_holds_for_what_was_measured(store: Store, supernet: Supernet) -> None:
    """The optimist's networks keep to the budget as predicted; those that do not as measured are not taken home."""
    whole = np.median([truth(arch) for arch in archs(60, 1)])
    study = predicting(store, supernet, f"latency_ms <= {whole}")
    study.run(workers=0, progress=False)
    assert max(truth(study.arch(int(number))) for number in study.front().index) > whole
    front = measured_front(study)
    assert len(front)
    assert (front["latency_ms"] <= whole).all()
    completed = study.trials("state == 'COMPLETED'")
    within = [number for number in completed.index if truth(study.arch(int(number))) <= whole]
    assert front["quality"].max() == completed.loc[within, "quality"].max()


def test_a_budget_that_only_predictions_keep_to_is_said(
    store: Store, supernet: Supernet, capsys: pytest.CaptureFixture[str]
) -> None:
    study = predicting(store, supernet, "latency_ms <= 0.1")
    study.run(workers=0, progress=False)
    assert len(study.front())
    measure_front(study, quiet=True)
    told = capsys.readouterr().out
    assert "no trial is within latency_ms <= 0.1 when measured; lower the bound" in told


def test_a_filter_holds_for_what_was_measured(store: Store, supernet: Supernet) -> None:
    study = predicting(store, supernet)
    study.run(workers=0, progress=False)
    whole = float(np.median([truth(arch) for arch in archs(60, 1)]))
    front = measured_front(study, f"latency_ms <= {whole} and width in (16, 24) and params > 0")
    assert len(front)
    assert (front["latency_ms"] <= whole).all()
    assert {study.arch(int(number)).choices["width"] for number in front.index} <= {16, 24}
    assert measured_front(study, "latency_ms < 0").empty
    narrow = measured_front(study, "width == 8 or width == 12")  # latency is none of its business
    assert {study.arch(int(number)).choices["width"] for number in narrow.index} <= {8, 12}
    assert len(narrow)
    with pytest.raises(FilterError, match="there is no column 'latency'; did you mean"):
        measured_front(study, "latency <= 2")


def test_a_front_of_predictions_is_measured_before_it_is_called_the_front(store: Store, supernet: Supernet) -> None:
    study = predicting(store, supernet)
    study.run(workers=0, progress=False)
    guessed = study.front()
    assert (guessed["latency_ms"] < 0.1).all()  # all of it is what the optimist likes
    front = measured_front(study)
    for number, row in front.iterrows():
        assert row["latency_ms"] == pytest.approx(truth(study.arch(number)))
    assert {"quality", "latency_ms", "latency_ms_predicted", "params", "choices"} <= set(front.columns)
    assert set(front.index) - set(guessed.index)  # hidden by false promises, and forward now
    again = measured_front(study)
    assert again.equals(front)


def test_without_predictions_there_is_nothing_to_measure(store: Store) -> None:
    study = nas.Study("plain", space=space(), objectives=["max quality"], evaluators=[Wrong()], store=store)
    with pytest.raises(StudyError, match="predicts no latency: its front is measured already"):
        measured_front(study)
    with pytest.raises(StudyError, match="no evaluator of study 'plain' has a supernet to measure"):
        supernet_of(study)


JOB = """
import nas
from tests.conformance.predictor import EXAMPLE, space
from tests.study.test_measuring import BOARD, Wrong

study = nas.Study(
    "grid", space=space(), objectives=["max quality", "min latency_ms"], trials=20, store="nas.db", algorithm=nas.RandomSearch(),
    evaluators=[Wrong(), nas.Costs(nas.Supernet(space(), example=EXAMPLE)), nas.Predicted("nas.db", BOARD)],
)
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NAS_STORE", raising=False)
    (tmp_path / "job.py").write_text(JOB)
    return "job.py"


def test_the_commands_measure_fit_search_and_measure_again(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    def nas_(*arguments: str) -> str:
        code = run([*arguments])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    planned = json.loads(nas_("measure", job, "--device", "board", "--archs", "20", "--dry-run"))
    assert planned == {"device": "board", "archs": 20, "measured": 0, "to measure": 20}
    assert "measured 8 archs; it has 8" in nas_("measure", job, "--device", "board", "--archs", "8", "--quiet")
    assert "measured 12 archs; it has 20" in nas_("measure", job, "--device", "board", "--archs", "20", "--quiet")
    assert "measured 0 archs; it has 20" in nas_("measure", job, "--device", "board", "--archs", "20", "--quiet")
    assert "gp, on 20 archs; held out: error" in nas_(
        "predictor", "fit", job, "--device", "board", "--kind", "gp", "--quiet"
    )
    shown = json.loads(nas_("predictor", "show", "--format", "json"))
    assert (shown[0]["device"], shown[0]["kind"], shown[0]["archs"]) == ("board", "gp", 20.0)
    assert "board" in nas_("predictor", "show")
    assert "board" in nas_("devices")
    listed = {row["device"]: row for row in json.loads(nas_("devices", "--format", "json"))}
    assert listed["board"]["archs measured"] == 20
    assert listed["board"]["here"] is None
    assert any(row["here"] == "cpu" for row in listed.values())
    ended = nas_("run", job, "--workers", "0", "--quiet")
    assert "measured the front: " in ended
    assert "see it with: nas front grid --measure" in ended
    front = json.loads(nas_("front", "grid", "--measure", "--format", "json"))
    assert all(row["latency_ms_predicted"] > 0 and row["latency_ms"] > 0 for row in front)
    assert run(["front", "grid"]) == 0
    assert (
        "these latencies are predictions; measure the front with: nas front grid --measure" in capsys.readouterr().err
    )
    elsewhere = Path("nas.db").resolve()
    assert run(["front", "grid", "--store", str(elsewhere)]) == 0
    assert f"nas front grid --measure --store {elsewhere}" in capsys.readouterr().err


def test_a_budget_that_nothing_keeps_to_is_said(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    tight = JOB.replace("trials=20", 'trials=20, constraints=["latency_ms <= 0.01"]')
    Path(job).write_text(tight.replace("algorithm=nas.RandomSearch(),", ""))
    for command in (
        ["measure", job, "--device", "board", "--archs", "20"],
        ["predictor", "fit", job, "--device", "board"],
    ):
        assert run([*command, "--quiet"]) == 0
    assert run(["run", job, "--workers", "0", "--quiet"]) == 0
    ended = capsys.readouterr().out
    assert "none of 20 archs met latency_ms <= 0.01; closest was trial" in ended
    assert "see what became of them with: nas show grid" in ended
    assert run(["front", "grid"]) == 0
    told = capsys.readouterr()
    assert "no feasible trial (20 INFEASIBLE)" in told.out
    assert "predictions" not in told.err


def test_a_front_whose_device_is_out_of_reach_is_said_to_be_predicted(
    job: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["measure", job, "--device", "board", "--archs", "20", "--quiet"]) == 0
    assert run(["predictor", "fit", job, "--device", "board", "--kind", "gp", "--quiet"]) == 0

    def gone(_self: object) -> None:
        raise DeviceError("device 'board' does not answer")

    monkeypatch.setattr(type(BOARD), "check", gone)
    capsys.readouterr()
    assert run(["run", job, "--workers", "0", "--quiet"]) == 0
    assert "the front's latencies are predictions still: device 'board' does not answer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["measure", "job.py", "--device", "bord"], "device 'bord' is not known; did you mean 'board'"),
        (["measure", "job.py", "--device", "cpu,threads=999"], "threads=999 on a machine with"),
        (
            ["measure", "job.py", "--device", "phone", "--command", "no-such-program"],
            "program 'no-such-program' is not there",
        ),
        (["measure", "job.py", "--archs", "1000"], "1000 archs cannot be measured; space 'toy' has 225"),
        (["predictor", "fit", "job.py", "--device", "board"], "has no device 'board'"),
        (["run", "job.py", "--workers", "0"], "has no device 'board'"),
    ],
)
def test_mistakes_are_one_sentence(
    job: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    open_store("nas.db").close()
    assert run(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_a_command_measures_and_is_remembered(job: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "bench.py").write_text("import os, sys\nprint(os.path.getsize(sys.argv[1]) / 1000)")
    line = f"{sys.executable} {tmp_path / 'bench.py'}"
    assert run(["measure", job, "--device", "phone", "--command", line, "--archs", "1", "--quiet"]) == 0
    assert run(["measure", job, "--device", "phone", "--archs", "1", "--quiet"]) == 0
    assert "measured 0 archs; it has 1" in capsys.readouterr().out
    (tmp_path / "bench.py").write_text("print('no device attached')")
    assert run(["measure", job, "--device", "phone", "--archs", "2", "--quiet"]) == 2
    assert "printed no line of milliseconds but 'no device attached'" in capsys.readouterr().err
    with open_store("nas.db") as store:
        assert len(store.hardware.measurements("phone", space().fingerprint)) == 1
