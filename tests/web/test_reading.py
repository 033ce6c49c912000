"""What the API reads is what the library reads."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from starlette.testclient import TestClient

import nas
from nas.store import open_store
from tests.web.served import add, client, told, toy


def get(api: TestClient, path: str, **query: Any) -> Any:
    return told(api.get(f"/api/v1/{path}", params=query))


def test_studies_are_listed_with_their_counts_and_best_values(api: TestClient) -> None:
    (one,) = get(api, "studies")["studies"]
    assert one["counts"] == {"WAITING": 0, "RUNNING": 0, "COMPLETED": 20, "INFEASIBLE": 2, "FAILED": 2}
    assert one["best"] == {"accuracy": 1 - 1 / 128, "params": 128.0}
    assert one["workers"] == []
    assert one["last_activity"] > one["created"]


def test_a_study_tells_its_declaration(api: TestClient) -> None:
    one = get(api, "studies/toy")
    assert [str(metric["name"]) for metric in one["objectives"]] == ["accuracy", "params"]
    assert one["constraints"] == ["params <= 9000"]
    assert [decision["name"] for decision in one["decisions"]] == ["width", "depth", "act"]
    assert {"name": "latency_ms", "unit": "ms"} in one["metrics"]
    assert one["settings"]["algorithm"]["name"] == "random"
    assert one["total"] == 24


@pytest.mark.parametrize(
    ("where", "objectives"),
    [
        (None, None),
        ("latency_ms <= 2", None),
        (None, "max accuracy, min latency_ms"),
        ("act == 'gelu'", "min latency_ms"),
    ],
)
def test_the_front_is_that_of_the_library(
    api: TestClient, store: Path, where: str | None, objectives: str | None
) -> None:
    from nas.metrics import parse_objectives

    query = {name: value for name, value in (("where", where), ("objectives", objectives)) if value}
    found = get(api, "studies/toy/front", **query)["trials"]
    with open_store(store, create=False, read_only=True) as opened:
        chosen = None if objectives is None else parse_objectives(objectives)
        expected = opened.open_study("toy").front(where, chosen)
    assert [one["number"] for one in found] == list(expected.index)
    assert [one["measurements"]["latency_ms"] for one in found] == list(expected["latency_ms"])
    assert all(one["spread"] == {"latency_ms": 0.025} for one in found)


def test_the_front_is_written_as_csv_and_parquet(api: TestClient, store: Path) -> None:
    expected = [one["number"] for one in get(api, "studies/toy/front")["trials"]]
    text = api.get("/api/v1/studies/toy/front", params={"format": "csv"})
    assert list(pd.read_csv(io.StringIO(text.text))["trial"]) == expected
    assert text.headers["content-disposition"] == 'attachment; filename="toy-front.csv"'
    table = api.get("/api/v1/studies/toy/front", params={"format": "parquet"})
    assert list(pd.read_parquet(io.BytesIO(table.content)).index) == expected


def test_trials_come_by_page_sorted_and_filtered(api: TestClient) -> None:
    first = get(api, "studies/toy/trials", count=10)
    second = get(api, "studies/toy/trials", start=10, count=100)
    assert first["total"] == second["total"] == 24
    assert [one["number"] for one in first["trials"] + second["trials"]] == list(range(24))
    best = get(api, "studies/toy/trials", sort="accuracy", descending=True)["trials"]
    values = [one["measurements"].get("accuracy") for one in best]
    known = [value for value in values if value is not None]
    assert known == sorted(known, reverse=True)
    assert values[-2:] == [None, None], "those without a value come last"
    some = get(api, "studies/toy/trials", where="act == 'gelu' and width >= 32", sort="act")
    assert some["total"] == 6
    assert {one["choices"]["act"] for one in some["trials"]} == {"gelu"}
    texts = [one["choices"]["act"] for one in get(api, "studies/toy/trials", sort="act", descending=True)["trials"]]
    assert texts == ["relu"] * 12 + ["gelu"] * 12


def test_one_trial_is_told_whole(api: TestClient) -> None:
    failed = get(api, "studies/toy/trials", where="state == 'FAILED'")["trials"][0]
    one = get(api, f"studies/toy/trials/{failed['number']}")
    assert "the board is <b>gone</b>" in one["reason"]
    assert one["measurements"] == {}
    assert not one["on_front"]
    best = get(api, "studies/toy/front")["trials"][0]["number"]
    assert get(api, f"studies/toy/trials/{best}")["on_front"]
    assert get(api, f"studies/toy/trials/{best}")["commands"]["extract"].startswith(f"nas extract toy {best} -o ")


def test_a_trial_tells_its_curves_notes_and_who_evaluated_it(tmp_path: Path) -> None:
    from nas.store import NewTrial, Report
    from tests.web.served import measured

    path = tmp_path / "toy.db"
    toy(path, trials=2)
    with open_store(path, create=False) as opened:
        record = opened.open_study("toy")
        record.add([NewTrial("c" * 32, [0, 1, 0])], worker="bench")
        for step in range(3):
            record.measure(2, "loss", 1.0 / (step + 1), step)
        record.annotate({"link": "<b>x</b>", "tries": [{"reason": "lost"}]}, 2)
        values = measured({"width": 8, "depth": 2})
        record.report([Report(2, "bench", 1, "COMPLETED", values, duration_s=2.5)])
    with client(path) as api:
        one = get(api, "studies/toy/trials/2")
        assert (one["worker"], one["duration_s"], one["attempt"]) == ("bench", 2.5, 1)
        assert one["curves"] == {"loss": [[0, 1.0], [1, 0.5], [2, 1 / 3]]}
        assert (one["notes"], one["tries"]) == ({"link": "<b>x</b>"}, [{"reason": "lost"}])
        assert one["spread"] == {"latency_ms": 0.025}
        assert one["choices"] == {"width": 8, "depth": 2, "act": "relu"}


def test_points_are_sampled_evenly_and_say_so(api: TestClient) -> None:
    every = get(api, "studies/toy/points", x="params", y="accuracy", colour="act")
    assert (every["total"], every["sampled"], every["numbers"]) == (24, 24, list(range(24)))
    assert set(every["colours"]) == {"relu", "gelu"}
    some = get(api, "studies/toy/points", x="params", y="accuracy", most=4)
    assert (some["total"], some["sampled"], some["numbers"]) == (24, 4, [0, 7, 15, 23])
    assert some["xs"] == [every["xs"][at] for at in some["numbers"]]


def test_parallel_coordinates_never_leave_out_the_front(api: TestClient) -> None:
    found = get(api, "studies/toy/parallel", most=1)
    front = {one["number"] for one in get(api, "studies/toy/front")["trials"]}
    assert front <= set(found["numbers"])
    assert [axis["name"] for axis in found["axes"]] == ["width", "depth", "act", "accuracy", "params"]
    assert {n for n, on in zip(found["numbers"], found["front"], strict=True) if on} == front


def test_hypervolume_grows_to_one_and_is_that_of_the_front(api: TestClient, store: Path) -> None:
    from nas.pareto import hypervolume

    found = get(api, "studies/toy/hypervolume")
    assert found["share"] == sorted(found["share"])
    assert found["share"][-1] == 1.0
    with open_store(store, create=False, read_only=True) as opened:
        record = opened.open_study("toy")
        front, trials = record.front(), record.trials("state == 'COMPLETED'")
    points = front[["accuracy", "params"]].to_numpy(float) * [-1, 1]
    worst = [-trials["accuracy"].min(), trials["params"].max()]
    assert found["volume"] == pytest.approx(hypervolume(points, worst))


def test_importance_finds_what_matters(api: TestClient) -> None:
    found = get(api, "studies/toy/importance", objective="params")
    assert found["decisions"][0]["name"] == "width"
    by_name = {one["name"]: one for one in found["decisions"]}
    assert by_name["width"]["importance"] > 3 * by_name["act"]["importance"] + 0.1
    assert all(one["deviation"] >= 0 for one in found["decisions"])


def test_failures_are_grouped_by_their_reason(api: TestClient) -> None:
    found = {(one["state"], one["count"]): one for one in get(api, "studies/toy/failures")["reasons"]}
    assert "the board is <b>gone</b>" in found["FAILED", 2]["reason"]
    assert sum(count for state, count in found if state == "INFEASIBLE") == 2


def test_studies_are_compared_over_each_other(tmp_path: Path) -> None:
    path = tmp_path / "two.db"
    toy(path)
    toy(path, "other", trials=12)
    with client(path) as api:
        found = get(api, "compare", study=["toy", "other"])
        assert [one["name"] for one in found["studies"]] == ["toy", "other"]
        assert found["studies"][0]["hypervolume"] >= found["studies"][1]["hypervolume"]
        assert found["studies"][1]["curve"][-1][0] == 12
        assert api.get("/api/v1/compare", params={"study": ["toy", "toy"]}).status_code == 422


def test_a_device_is_told_with_what_was_predicted_and_measured(tmp_path: Path) -> None:
    from nas.store import ArchMeasurement

    path = tmp_path / "toy.db"
    toy(path)
    with open_store(path, create=False) as opened:
        record = opened.open_study("toy")
        hardware = opened.hardware
        hardware.add_device("phone", {"cores": 8})
        done = record.trials("state == 'COMPLETED'")
        rows = []
        for number in list(done.index)[:6]:
            trial = record.trial(int(number))
            rows.append(
                ArchMeasurement(trial.key, trial.row, trial.measurements["latency_ms"] * 1.1, inputs="(8) float32")
            )
        hardware.add_measurements("phone", record.schema["fingerprint"], rows)
    with client(path) as api:
        (device,) = get(api, "devices")["devices"]
        assert (device["name"], list(device["measured"].values())) == ("phone", [6])
        assert list(device["spaces"].values()) == ["toy"]
        found = get(api, "studies/toy/latencies", device="phone")
        assert len(found["pairs"]) == 6
        assert found["mape"] == pytest.approx(100 * (1 - 1 / 1.1))
        assert found["spearman"] == pytest.approx(1.0)
        mark = next(iter(device["measured"]))
        measured = get(api, "devices/phone/measurements", fingerprint=mark)["measurements"]
        assert [one["inputs"] for one in measured] == ["(8) float32"] * 6


def test_what_another_process_adds_is_read(tmp_path: Path) -> None:
    path = tmp_path / "toy.db"
    toy(path)
    with client(path) as api:
        before = get(api, "studies/toy")
        assert before["hypervolume"] is not None
        add(path, 3)
        after = get(api, "studies/toy")
        assert after["total"] == before["total"] + 3
        assert after["position"] != before["position"]
        assert after["rate_per_s"] is not None


def test_the_server_is_alive_ready_and_counted(api: TestClient, store: Path) -> None:
    assert told(api.get("/healthz")) == {"status": "alive"}
    assert told(api.get("/readyz")) == {"status": "ready"}
    text = api.get("/metrics").text
    assert 'nas_trials{state="COMPLETED",study="toy"} 20.0' in text
    assert 'nas_requests_total{method="GET",status="200"}' in text
    told_of = {"version": nas.__version__, "read_only": False, "jobs": False, "token": False, "database": str(store)}
    assert get(api, "server") == told_of
