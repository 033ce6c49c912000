"""What is wrong is one sentence, and changes nothing."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from nas.store import open_store
from tests.web.served import SPACE, client, problem, told, toy

NEW: dict[str, Any] = {"name": "new", "space": SPACE, "objectives": ["max accuracy"], "trials": 3}


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("studies/nobody", 404, "there is no study 'nobody'"),
        ("studies/tyo/front", 404, "did you mean 'toy'"),
        ("studies/toy/trials/24", 404, "its trials are 0 to 23"),
        ("studies/toy/trials/-1", 404, "has no trial -1"),
        ("studies/toy/trials/x", 422, "number"),
        ("studies/toy/trials/99999999999999999999", 404, "has no trial"),
        ("studies/toy/trials?start=-1", 422, "start"),
        ("studies/toy/trials?count=0", 422, "count"),
        ("studies/toy/trials?count=1001", 422, "count"),
        ("studies/toy/trials?sort=accuray", 400, "did you mean 'accuracy'"),
        ("studies/toy/trials?where=accuracy+%3E", 400, "does not parse"),
        ("studies/toy/front?where=acuracy+%3E+1", 400, "no column 'acuracy'"),
        ("studies/toy/front?objectives=most+accuracy", 400, "most accuracy"),
        ("studies/toy/front?objectives=max+nothing", 400, "no column 'nothing'"),
        ("studies/toy/front?format=xls", 422, "format"),
        ("studies/toy/points?x=params", 422, "y"),
        ("studies/toy/points?x=params&y=nothing", 400, "no column 'nothing'"),
        ("studies/toy/points?x=params&y=accuracy&most=0", 422, "most"),
        ("studies/toy/importance?objective=nothing", 400, "was not measured"),
        ("studies/toy/latencies?device=nobody", 404, "no device"),
        ("compare?study=toy", 422, "study"),
        ("devices/nobody/measurements?fingerprint=x", 404, "no device"),
        ("jobs", 404, "start it with --jobs FOLDER"),
        ("files/" + "0" * 32, 404, "makes no files"),
        ("files/..%2f..%2fetc", 404, "there is nothing"),
        ("nothing", 404, "there is nothing at '/api/v1/nothing'"),
    ],
)
def test_reading_what_is_not_there_is_one_sentence(api: TestClient, path: str, status: int, said: str) -> None:
    assert said in problem(api.get(f"/api/v1/{path}"), status)


def test_a_filter_that_does_not_parse_marks_the_place(api: TestClient) -> None:
    for text, wrong in (
        ("params < 3 and (latency_ms", "("),
        ("params = 3", "="),
        ("foo(1) > 2", "foo(1)"),
        ("x is 3", "x is 3"),
    ):
        answer = api.get("/api/v1/studies/toy/trials", params={"where": text})
        first, last = answer.json()["place"]
        assert text[first:last] == wrong
    answer = api.get("/api/v1/studies/toy/trials", params={"where": "params < 3 and paramz > 2"})
    assert answer.json()["place"] == [15, 21]
    answer = api.get("/api/v1/studies/toy/trials", params={"where": "params <"})
    assert answer.json()["place"] == [8, 8]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"nul",
        b'{"worker": "w"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"worker": {"a": 1}}',
        b'{"worker": "w", "n": 1}',
    ],
)
def test_malformed_json_is_one_sentence(api: TestClient, body: bytes) -> None:
    answer = api.post("/api/v1/studies/toy/ask", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 415, 422)
    problem(answer, answer.status_code)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "toy"}, "already exists"),
        ({"name": "../up"}, "is not usable"),
        ({"name": "<script>"}, "is not usable"),
        ({"name": "x" * 300}, "name"),
        ({"objectives": []}, "objectives"),
        ({"objectives": ["accuracy"]}, "accuracy"),
        ({"objectives": ["max accuracy", "max accuracy"]}, "twice"),
        ({"constraints": ["params"]}, "params"),
        ({"trials": 0}, "trials"),
        ({"algorithm": "magic"}, "is not offered here; there are"),
        ({"algorithm": "transfer"}, "is not offered here"),
        ({"algorithm": {"name": "nsga2", "populaton": 3}}, "did you mean 'population'"),
        ({"algorithm": {"name": "nsga2", "population": [1]}}, "is a number, a text"),
        ({"algorithm": {"name": "nsga2", "population": 10**9}}, "at most 1,000,000"),
        ({"space": {"width": {"choice": list(range(1000))}}}, "1,000 candidates; one choice has at most 256"),
        ({"space": {"width": 3}}, "nothing is open"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_a_study_that_cannot_be_made_is_not_made(api: TestClient, change: dict[str, Any], said: str) -> None:
    answer = api.post("/api/v1/studies", json={**NEW, **change})
    assert answer.status_code in (409, 422)
    assert said in problem(answer, answer.status_code)
    assert [one["name"] for one in told(api.get("/api/v1/studies"))["studies"]] == ["toy"]


@pytest.mark.parametrize(
    "change",
    [
        {"worker": ""},
        {"worker": "a/b"},
        {"worker": "a\n"},
        {"worker": "x" * 200},
        {"count": 0},
        {"count": 100_000},
        {"lease_s": -1},
        {"lease_s": 1e9},
        {"holding": [-1]},
    ],
)
def test_an_ask_that_is_none_leases_nothing(api: TestClient, change: dict[str, Any]) -> None:
    problem(api.post("/api/v1/studies/toy/ask", json={"worker": "w", **change}), 422)
    assert told(api.get("/api/v1/studies/toy"))["leases"] == []


def test_the_space_of_a_job_that_is_elsewhere_is_not_known(api: TestClient) -> None:
    assert "known to its job alone" in problem(api.post("/api/v1/studies/toy/ask", json={"worker": "w"}), 409)
    answer = api.post("/api/v1/studies/toy/files", json={"trial": 0, "format": "extract"})
    assert answer.json()["command"].startswith("nas extract toy 0 -o ")
    assert "cannot be built here" in problem(api.get("/api/v1/studies/toy/trials/0/layers"), 409)


def test_telling_what_nobody_asked_is_refused(api: TestClient) -> None:
    for number in (0, 999):
        body = {"worker": "w", "results": [{"number": number, "attempt": 1, "measurements": {"accuracy": 1.0}}]}
        answer = api.post("/api/v1/studies/toy/tell", json=body)
        problem(answer, 409)
        assert answer.json()["results"] == [{"number": number, "status": 409, "detail": answer.json()["detail"]}]


def test_of_several_results_those_that_are_right_are_recorded(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    open_store(path).close()
    with client(path) as one:
        told(one.post("/api/v1/studies", json=NEW))
        first, second = told(one.post("/api/v1/studies/new/ask", json={"worker": "w", "count": 2}))["trials"]
        good = {"number": first["number"], "attempt": first["attempt"], "measurements": {"accuracy": 0.5}}
        late = {"number": second["number"], "attempt": 7, "measurements": {"accuracy": 0.5}}
        other = {**good, "measurements": {"accuracy": 0.6}}
        goes_on = {"number": second["number"], "attempt": 1, "steps": [{"step": 0, "measurements": {"accuracy": 0.1}}]}
        results = [late, good, other, goes_on, {**goes_on, "attempt": 7}]
        answer = one.post("/api/v1/studies/new/tell", json={"worker": "w", "results": results})
        assert [each["status"] for each in answer.json()["results"]] == [409, 200, 409, 200, 409]
        assert [each["number"] for each in answer.json()["results"]] == [1, 0, 0, 1, 1]
        problem(answer, 409)
        assert told(one.get("/api/v1/studies/new"))["counts"]["COMPLETED"] == 1


def test_a_finished_study_says_that_it_is_done(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    open_store(path).close()
    with client(path) as one:
        told(one.post("/api/v1/studies", json=NEW))
        trials = told(one.post("/api/v1/studies/new/ask", json={"worker": "w", "count": 9}))["trials"]
        assert len(trials) == 3
        waits = told(one.post("/api/v1/studies/new/ask", json={"worker": "other"}))
        assert (waits["trials"], waits["done"]) == ([], False)
        results = [{"number": t["number"], "attempt": 1, "measurements": {"accuracy": 0.1}} for t in trials]
        told(one.post("/api/v1/studies/new/tell", json={"worker": "w", "results": results}))
        done = told(one.post("/api/v1/studies/new/ask", json={"worker": "w"}))
        assert done == {"trials": [], "done": True, "why": "the study has its 3 trials"}


def test_a_database_that_goes_away_comes_back_or_is_another(tmp_path: Path) -> None:
    path = tmp_path / "toy.db"
    toy(path)
    with client(path) as one:
        assert told(one.get("/api/v1/studies"))["studies"][0]["total"] == 24
        moved = [file.rename(file.with_name(f"away-{file.name}")) for file in tmp_path.glob("toy.db*")]
        answer = one.get("/api/v1/studies/toy")
        assert "is gone; put it back" in problem(answer, 503)
        assert answer.headers["retry-after"]
        problem(one.get("/readyz"), 503)
        told(one.get("/healthz"))
        assert one.get("/metrics").status_code == 200
        for file in moved:
            file.rename(file.with_name(file.name.removeprefix("away-")))
        assert told(one.get("/api/v1/studies"))["studies"][0]["total"] == 24
        for file in tmp_path.glob("toy.db*"):
            file.unlink()
        toy(path, "another", trials=5)
        assert [each["name"] for each in told(one.get("/api/v1/studies"))["studies"]] == ["another"]


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.web.opened._LOOK_S", 0.0)
    path = tmp_path / "toy.db"
    toy(path, trials=3)
    with client(path) as one:
        told(one.get("/api/v1/studies"))
        with sqlite3.connect(path) as connection:
            connection.execute("update supernas_version set version_num = '9999'")
        connection.close()
        assert "written by a newer supernas" in problem(one.get("/api/v1/studies"), 503)


def test_a_locked_database_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.web.opened.PATIENCE_S", 0.2)
    monkeypatch.setattr(
        "nas.store.sqlite.BUSY_S", 0.2
    )  # the lock is held until the answer is there, however long that is
    path = tmp_path / "new.db"
    open_store(path).close()
    with client(path) as one:
        told(one.post("/api/v1/studies", json=NEW))
        connection = sqlite3.connect(path, timeout=0)
        connection.execute("begin exclusive")
        try:
            answer = one.post("/api/v1/studies/new/ask", json={"worker": "w"})
            assert "locked" in problem(answer, 503)
            step = {"number": 0, "attempt": 1, "steps": [{"step": 0, "measurements": {"accuracy": 0.1}}]}
            answer = one.post("/api/v1/studies/new/tell", json={"worker": "w", "results": [step]})
            assert "locked" in problem(answer, 503), "nobody took the worker's lease"
        finally:
            connection.rollback()
            connection.close()
        assert len(told(one.post("/api/v1/studies/new/ask", json={"worker": "w"}))["trials"]) == 1


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path) -> None:
    from tests.test_full_disk import room

    path = tmp_path / "new.db"
    open_store(path).close()
    with client(path) as one:
        told(one.post("/api/v1/studies", json={**NEW, "trials": 24}))
        trials = told(one.post("/api/v1/studies/new/ask", json={"worker": "w"}))["trials"]
        with room(1):
            answer = one.post("/api/v1/studies/new/ask", json={"worker": "v"})
            assert "database" in problem(answer, 503)
            result = {"number": 0, "attempt": 1, "measurements": {"accuracy": 0.5}}
            problem(one.post("/api/v1/studies/new/tell", json={"worker": "w", "results": [result]}), 503)
            assert told(one.get("/api/v1/studies/new"))["counts"]["RUNNING"] == 1, "it can be read"
        told(one.post("/api/v1/studies/new/tell", json={"worker": "w", "results": [result]}))
        assert [each["number"] for each in trials] == [0]
        assert told(one.get("/api/v1/studies/new"))["counts"]["COMPLETED"] == 1


def test_a_deleted_study_is_gone_and_another_of_its_name_is_another(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    open_store(path).close()
    with client(path) as one:
        told(one.post("/api/v1/studies", json=NEW))
        told(one.post("/api/v1/studies/new/ask", json={"worker": "w", "count": 3}))
        with open_store(path) as opened:
            opened.delete_study("new")
        problem(one.post("/api/v1/studies/new/ask", json={"worker": "w"}), 404)
        told(one.post("/api/v1/studies", json=NEW))
        trials = told(one.post("/api/v1/studies/new/ask", json={"worker": "w", "count": 3}))["trials"]
        assert [each["number"] for each in trials] == [0, 1, 2]


def test_a_damaged_declaration_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    open_store(path).close()
    with client(path) as one:
        told(one.post("/api/v1/studies", json=NEW))
    with sqlite3.connect(path) as connection:
        connection.execute("update studies set settings = replace(settings, '\"choice\"', '\"chance\"')")
    connection.close()
    with client(path) as one:
        assert "damaged declaration" in problem(one.post("/api/v1/studies/new/ask", json={"worker": "w"}), 503)
