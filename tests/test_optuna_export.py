"""What Optuna reads of an exported study is what our database has."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest

from nas.cli.app import run
from nas.errors import StoreError
from nas.metrics import Metric, parse_constraint
from nas.optuna import export_study
from nas.store import NewTrial, Report, StudyRecord, open_store

SCHEMA: dict[str, Any] = {
    "name": "toy",
    "version": 1,
    "fingerprint": "one",
    "decisions": [
        {"name": "width", "kind": "categorical", "candidates": [8, 16]},
        {"name": "op", "kind": "categorical", "candidates": ["conv", "skip", None]},
        {"name": "op=conv.kernel", "kind": "categorical", "candidates": [1, True]},
        {"name": "rate", "kind": "float", "min": 1e-4, "max": 1.0, "scale": "log"},
    ],
}
LATER = {
    **SCHEMA,
    "version": 2,
    "fingerprint": "two",
    "decisions": [
        {"name": "width", "kind": "categorical", "candidates": [4, 8, 16]},
        *SCHEMA["decisions"][1:3],
        {"name": "rate", "kind": "float", "min": 1e-3, "max": 2.0, "scale": "log"},
    ],
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A database with a study that has a trial of every kind, of two versions of its space."""
    path = tmp_path / "nas.db"
    with open_store(path) as opened:
        record = opened.create_study(
            "toy",
            space_schema=SCHEMA,
            objectives=[Metric("accuracy", "max"), Metric("latency_ms", "min")],
            constraints=[parse_constraint("params <= 100")],
        )
        rows: list[list[float | None]] = [
            [0, 0, 0, 0.1],
            [1, 0, 1, 0.2],
            [1, 1, None, 0.3],
            [0, 2, None, 0.4],
            [1, 2, None, 0.5],
        ]
        record.add([NewTrial(f"key-{i}", row, seed=i) for i, row in enumerate(rows)], worker="w")
        record.measure(0, "accuracy", 0.25, 1)
        record.measure(0, "accuracy", 0.5, 7)
        record.report(
            [
                Report(0, "w", 1, "COMPLETED", {"accuracy": 0.9, "latency_ms": 2.0, "params": 90}, duration_s=1.5),
                Report(1, "w", 1, "COMPLETED", {"accuracy": 0.8, "latency_ms": 1.0, "params": 150}),
                Report(2, "w", 1, "INFEASIBLE", {"params": 300}, "too large"),
                Report(3, "w", 1, "FAILED", {}, "out of memory"),
            ]
        )
        record.update_space(LATER)
        record.add([NewTrial("key-5", [0, 1, None, 1.5])])
    return path


@pytest.fixture
def record(store: Path) -> Iterator[StudyRecord]:
    with open_store(store) as opened:
        yield opened.open_study("toy")


def loaded(path: Path, name: str = "toy") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{path}")


def test_optuna_reads_what_the_database_has(record: StudyRecord, tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []
    done = export_study(record, str(tmp_path / "optuna.db"), progress=lambda *counts: said.append(counts))
    assert str(done) == f"wrote 6 trials to study 'toy' in sqlite:///{tmp_path}/optuna.db"
    assert said == [(number, 6) for number in range(1, 7)]
    study = loaded(tmp_path / "optuna.db")
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["accuracy", "latency_ms [ms]"]
    assert study.user_attrs["supernas:constraints"] == ["params <= 100"]
    for number, trial in enumerate(study.trials):
        stored = record.trial(number)
        assert trial.number == number
        assert set(trial.params) == set(stored.choices)
        assert {name: trial.params[name] for name in ("width", "op", "rate")} == {
            name: stored.choices[name] for name in ("width", "op", "rate")
        }
        assert trial.user_attrs["arch"] == stored.key
        assert trial.user_attrs["seed"] == number if number < 5 else "seed" not in trial.user_attrs
        assert trial.datetime_complete == (stored.finished and datetime.fromtimestamp(stored.finished))
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "COMPLETE", "FAIL", "FAIL", "RUNNING", "WAITING"]
    assert [trial.values for trial in study.trials[:3]] == [[0.9, 2.0], [0.8, 1.0], None]


def test_what_else_is_known_is_not_lost(record: StudyRecord, tmp_path: Path) -> None:
    export_study(record, str(tmp_path / "optuna.db"))
    fine, infeasible, large, failed, running, waiting = loaded(tmp_path / "optuna.db").trials
    assert fine.intermediate_values == {1: 0.25, 7: 0.5}
    assert (fine.user_attrs["params"], fine.user_attrs["duration_s"]) == (90, 1.5)
    assert fine.constraints == {"params <= 100": 0.0}
    assert infeasible.constraints == {"params <= 100": 0.5}
    assert (large.user_attrs["state"], large.user_attrs["reason"]) == ("INFEASIBLE", "too large")
    assert failed.user_attrs["reason"] == "out of memory"
    assert running.user_attrs["worker"] == "w"
    assert waiting.datetime_start is None
    # The two versions of the space have one distribution; labels that are equal in Python have names of their own.
    assert fine.distributions["width"] == optuna.distributions.CategoricalDistribution((8, 16, 4))
    assert fine.distributions["rate"] == optuna.distributions.FloatDistribution(1e-4, 2.0, log=True)
    assert (fine.params["op=conv.kernel"], infeasible.params["op=conv.kernel"]) == ("1", "True")
    assert "op=conv.kernel" not in large.params


def test_the_best_trials_are_the_front(record: StudyRecord, tmp_path: Path) -> None:
    export_study(record, str(tmp_path / "optuna.db"))
    best = loaded(tmp_path / "optuna.db").best_trials
    assert sorted(trial.number for trial in best) == sorted(record.front().index)


def test_a_study_is_never_overwritten(record: StudyRecord, tmp_path: Path) -> None:
    path = tmp_path / "optuna.db"
    export_study(record, f"sqlite:///{path}")
    with pytest.raises(StoreError, match="has a study 'toy' already; choose another name with --name"):
        export_study(record, f"sqlite:///{path}")
    export_study(record, f"sqlite:///{path}", "again")
    assert {len(loaded(path, name).trials) for name in ("toy", "again")} == {6}


def test_an_export_that_was_cut_off_is_made_again(record: StudyRecord, tmp_path: Path) -> None:
    path = tmp_path / "optuna.db"

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_study(record, str(path), progress=stop)
    assert len(loaded(path).trials) == 3
    export_study(record, str(path))
    assert len(loaded(path).trials) == 6


def test_an_evaluators_own_verdict_and_large_values_are_kept(tmp_path: Path) -> None:
    with open_store(tmp_path / "one.db") as opened:
        record = opened.create_study("one", space_schema=SCHEMA, objectives=[Metric("loss", "min")])
        record.add([NewTrial("a", [0, 1, None, 0.1]), NewTrial("b", [1, 1, None, 0.1])], worker="w")
        record.report(
            [
                Report(0, "w", 1, "INFEASIBLE", {"loss": 1.0}, "no"),
                Report(1, "w", 1, "COMPLETED", {"loss": 1e300, "arch": 3.0}),
            ]
        )
        export_study(record, str(tmp_path / "optuna.db"))
    refused, endless = loaded(tmp_path / "optuna.db", "one").trials
    assert refused.constraints == {"infeasible": 1.0}
    assert endless.value == 1e300
    assert (endless.user_attrs["arch"], endless.user_attrs["metric:arch"]) == ("b", 3.0)


def test_a_decision_that_changed_its_kind_is_refused(record: StudyRecord, tmp_path: Path) -> None:
    changed = [{"name": "width", "kind": "float", "min": 1, "max": 9, "scale": None}, *SCHEMA["decisions"][1:]]
    record.update_space({**SCHEMA, "fingerprint": "three", "decisions": changed})
    with pytest.raises(
        StoreError, match="decision 'width' is a float in one version of the space and a choice in another"
    ):
        export_study(record, str(tmp_path / "optuna.db"))


def test_the_command_writes_it_and_says_how_to_see_it(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "optuna.db"
    command = ["export-optuna", "toy", str(path), "--store", str(store)]
    assert run(command) == 0
    assert f"see it with: optuna-dashboard sqlite:///{path}" in capsys.readouterr().out
    assert run(command) == 2
    assert "choose another name with --name" in capsys.readouterr().err
    assert run([*command, "--name", "other", "--quiet"]) == 0
    assert run(["export-optuna", "toy", str(tmp_path / "no" / "optuna.db"), "--store", str(store)]) == 2
    said = capsys.readouterr().err
    assert "cannot be written as a database of Optuna's: unable to open database file" in said
    assert "Traceback" not in said


def test_no_password_is_shown(record: StudyRecord) -> None:
    with pytest.raises(StoreError, match=r"me:\*\*\*@localhost") as caught:
        export_study(record, "postgresql+psycopg://me:secret@localhost:1/none")
    assert "secret" not in str(caught.value)


def test_the_dashboard_opens_it(record: StudyRecord, tmp_path: Path) -> None:
    """Runs where `SUPERNAS_DASHBOARD_PYTHON` names an interpreter that has optuna-dashboard, which is no dependency."""
    python = os.environ.get("SUPERNAS_DASHBOARD_PYTHON")
    if not python:
        pytest.skip("set SUPERNAS_DASHBOARD_PYTHON to an interpreter with optuna-dashboard")
    export_study(record, str(tmp_path / "optuna.db"))
    program = """
import json, sys
from optuna.storages import RDBStorage
from optuna_dashboard import wsgi
from bottle import tob
storage = RDBStorage(sys.argv[1])
app = wsgi(storage)
def get(path):
    status = []
    import io
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": "", "SERVER_NAME": "x", "SERVER_PORT": "1",
               "wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr, "wsgi.url_scheme": "http", "SERVER_PROTOCOL": "HTTP/1.1"}
    body = b"".join(app(environ, lambda s, h, e=None: status.append(s)))
    assert status[0].startswith("200"), (path, status, body)
    return body
studies = json.loads(get("/api/studies"))["study_summaries"]
study = json.loads(get(f"/api/studies/{studies[0]['study_id']}"))
print(json.dumps([studies[0]["study_name"], len(study["trials"]), study["objective_names"]]))
"""
    url = f"sqlite:///{tmp_path}/optuna.db"
    done = subprocess.run([python, "-c", program, url], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == '["toy", 6, ["accuracy", "latency_ms [ms]"]]'
