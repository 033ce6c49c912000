"""Jobs of the operator's folder are run by name, outlive the server, and give networks as files."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

import nas
from nas.errors import JobError
from nas.store import open_store
from nas.web.jobs import Jobs
from tests.web.served import client, told, until

JOB = """
import pathlib
import time

import pyglove as pg

import nas

HERE = pathlib.Path(__file__).parent


def evaluate(arch):
    while (HERE / "hold").exists():
        time.sleep(0.01)
    print("evaluating", arch.choices["width"])
    return {"accuracy": 1 - 1 / arch.choices["width"], "params": float(arch.choices["width"])}


study = nas.Study(
    "waiting",
    space=nas.Space(pg.Dict(width=pg.oneof(list(range(1, 9))))),
    objectives=["max accuracy", "min params"],
    evaluators=[evaluate],
    algorithm="random",
    trials=8,
)
"""

NETWORKS = """
import pyglove as pg
import torch
from torch import nn

import nas


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a = nn.Linear(4, width)
        self.b = nn.Linear(width, 3)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


@nas.model
def net(width):
    return Net(width)


torch.manual_seed(0)
space = nas.Space(net(width=pg.oneof([4, 8])))
supernet = nas.Supernet(space, example=torch.zeros(2, 4))
supernet.trained = True  # these weights are meant


@nas.evaluator(source=supernet, metrics=["accuracy"])
def accuracy(model):
    return {"accuracy": float(sum(p.abs().sum() for p in model.parameters()))}


study = nas.Study(
    "networks",
    space=space,
    objectives=["max accuracy"],
    evaluators=[accuracy],
    algorithm="exhaustive",
    trials=2,
)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "jobs"
    found.mkdir()
    (found / "waiting.py").write_text(JOB)
    (found / "_helper.py").write_text("")
    (found / "notes.txt").write_text("")
    (tmp_path / "outside.py").write_text("raise SystemExit(3)")
    (found / "link.py").symlink_to(tmp_path / "outside.py")
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "all.db"
    open_store(found).close()
    return found


@pytest.fixture
def api(path: Path, folder: Path) -> Iterator[TestClient]:
    with client(path, jobs=folder) as one:
        yield one


def state(api: TestClient, job: str = "waiting") -> dict[str, Any]:
    found: dict[str, Any] = told(api.get(f"/api/v1/jobs/{job}"))
    return found


def test_only_files_of_the_folder_are_jobs(api: TestClient, folder: Path) -> None:
    assert [one["name"] for one in told(api.get("/api/v1/jobs"))["jobs"]] == ["waiting"]
    for name in (
        "outside",
        "link",
        "_helper",
        "notes",
        "..%2Foutside",
        "waiting.py",
        ".serve",
        "waiting%00",
        "%2Fetc%2Fpasswd",
    ):
        answer = api.post(f"/api/v1/jobs/{name}/start", json={})
        assert answer.status_code == 404, name
    assert not list((folder / ".serve").glob("*.log"))


def test_a_job_runs_to_its_end_and_its_log_is_followed(api: TestClient, path: Path) -> None:
    assert state(api)["state"] == "idle"
    begun = api.post("/api/v1/jobs/waiting/start", json={"trials": 4, "workers": 0})
    assert begun.status_code == 202
    until(lambda: state(api)["state"] == "ended")
    assert state(api)["code"] == 0
    first = told(api.get("/api/v1/jobs/waiting/log", params={"after": 0}))
    assert "evaluating" in first["text"]
    assert first["next"] == first["size"] == state(api)["log_bytes"]
    assert told(api.get("/api/v1/jobs/waiting/log", params={"after": first["next"]}))["text"] == ""
    assert told(api.get("/api/v1/jobs/waiting/log", params={"after": -10}))["text"] == first["text"][-10:]
    assert told(api.get("/api/v1/studies/waiting"))["counts"]["COMPLETED"] == 4
    assert told(api.get("/api/v1/studies/waiting"))["job"] == "waiting"
    api.post("/api/v1/jobs/waiting/start", json={"workers": 0})
    until(lambda: state(api)["state"] == "ended")
    assert told(api.get("/api/v1/studies/waiting"))["counts"]["COMPLETED"] == 8
    assert told(api.get("/api/v1/jobs/waiting/log"))["text"].count("# ") == 2


def test_what_runs_is_found_again_by_the_next_server_and_stopped(path: Path, folder: Path) -> None:
    (folder / "hold").touch()
    with client(path, jobs=folder) as api:
        told(api.post("/api/v1/jobs/waiting/start", json={"workers": 0}))
        answer = api.post("/api/v1/jobs/waiting/start", json={})
        assert answer.status_code == 409
        assert "runs already, since" in answer.json()["detail"]
        until(lambda: open_counts(path) == 1)
    with client(path, jobs=folder) as api:
        assert state(api)["state"] == "running"
        assert api.post("/api/v1/jobs/waiting/start", json={}).status_code == 409
        assert told(api.post("/api/v1/jobs/waiting/stop"))["state"] in ("stopping", "stopped")
        until(lambda: state(api)["state"] == "stopped")
        assert told(api.get("/api/v1/studies/waiting"))["leases"] == []
        assert api.post("/api/v1/jobs/waiting/stop").status_code == 409
        (folder / "hold").unlink()
        told(api.post("/api/v1/jobs/waiting/start", json={"workers": 0}))
        until(lambda: state(api)["state"] == "ended")
        assert told(api.get("/api/v1/studies/waiting"))["counts"]["COMPLETED"] == 8


def open_counts(path: Path) -> int:
    with open_store(path, create=False) as store:
        return store.open_study("waiting").counts()["RUNNING"] if "waiting" in store.names() else 0


def test_a_run_that_was_killed_has_failed(api: TestClient, folder: Path, path: Path) -> None:
    (folder / "hold").touch()
    told(api.post("/api/v1/jobs/waiting/start", json={"workers": 0}))
    until(lambda: open_counts(path) == 1)
    kept = json.loads((folder / ".serve" / "waiting.json").read_text())
    os.kill(int(kept["process"].partition("/")[0]), signal.SIGKILL)
    until(lambda: state(api)["state"] == "failed")
    assert state(api)["code"] is None


def test_a_job_that_does_not_import_has_failed_and_its_log_says_why(api: TestClient, folder: Path) -> None:
    (folder / "broken.py").write_text("import nothing_of_that_name")
    told(api.post("/api/v1/jobs/broken/start", json={}))
    until(lambda: state(api, "broken")["state"] == "failed")
    assert state(api, "broken")["code"] == 2
    assert "nothing_of_that_name" in told(api.get("/api/v1/jobs/broken/log"))["text"]


@pytest.mark.parametrize(
    "body",
    [
        {"trials": 0},
        {"workers": -1},
        {"address": "x; rm -rf"},
        {"address": "host"},
        {"command": "ls"},
        {"time_limit_s": 0},
    ],
)
def test_options_that_are_none_start_nothing(api: TestClient, body: dict[str, Any]) -> None:
    assert api.post("/api/v1/jobs/waiting/start", json=body).status_code == 422
    assert state(api)["state"] == "idle"


def test_a_folder_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="is none; give a folder with job files"):
        Jobs(tmp_path / "nothing", "x.db")


def test_a_worker_over_http_evaluates_for_a_job_of_the_folder(api: TestClient, folder: Path, path: Path) -> None:
    told(api.post("/api/v1/jobs/waiting/start", json={"trials": 1, "workers": 0}))
    until(lambda: state(api)["state"] == "ended")
    trials = told(api.post("/api/v1/studies/waiting/ask", json={"worker": "phone", "count": 3}))["trials"]
    assert [one["number"] for one in trials] == [1, 2, 3]
    assert all(set(one["choices"]) == {"width"} and "value" not in one for one in trials)
    results = [
        {"number": one["number"], "attempt": one["attempt"], "measurements": {"accuracy": 0.5, "params": 1.0}}
        for one in trials
    ]
    told(api.post("/api/v1/studies/waiting/tell", json={"worker": "phone", "results": results}))
    assert told(api.get("/api/v1/studies/waiting"))["counts"]["COMPLETED"] == 4


@pytest.fixture
def networks(folder: Path, path: Path) -> None:
    """A study that a job of the folder ran."""
    from nas.study.job import load_job

    (folder / "networks.py").write_text(NETWORKS)
    study = load_job(str(folder.resolve() / "networks.py"))
    study.rename(study.name, store=path)
    study.run(workers=0, progress=False)
    study.close()


@pytest.mark.usefixtures("networks")
def test_a_network_is_made_checked_and_handed_out(api: TestClient) -> None:
    found = told(api.get("/api/v1/studies/networks/trials/0/layers"))
    first = found["layers"][0]
    assert (first["name"], first["type"], first["shape"]) == ("a", "Linear", [1, 4])
    assert (found["parameters"], found["macs"]) == (4 * 4 + 4 + 4 * 3 + 3, 4 * 4 + 4 * 3)
    _is_safetensors(made(api, "safetensors"))
    assert api.post("/api/v1/studies/networks/files", json={"format": "onnx"}).status_code == 422
    assert api.post("/api/v1/studies/networks/files", json={"trial": 0, "format": "exe"}).status_code == 422
    assert api.post("/api/v1/studies/networks/files", json={"trial": 99, "format": "onnx"}).status_code == 404
    assert api.get("/api/v1/files/" + "0" * 32).status_code == 404


@pytest.mark.slow
@pytest.mark.usefixtures("networks")
@pytest.mark.parametrize("format", ["extract", "onnx", "pt2", "elastic"])
def test_a_network_or_the_whole_front_is_handed_out_in_every_format(
    api: TestClient, format: str, folder: Path, tmp_path: Path
) -> None:
    content = made(api, format)
    file = tmp_path / f"network.{format}"
    file.write_bytes(content)
    inputs = torch.zeros(1, 4)
    if format == "extract":
        _is_extracted(content)
    elif format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file))
        assert session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0].shape == (1, 3)
    elif format == "pt2":
        assert torch.export.load(file).module()(inputs).shape == (1, 3)
    else:
        with zipfile.ZipFile(file) as archive:
            archive.extractall(tmp_path / "front")
        from nas.study.job import load_job

        space = load_job(str(folder.resolve() / "networks.py")).space
        assert len(nas.ElasticModel.load(tmp_path / "front", space).points) >= 1


@pytest.mark.slow
def test_a_job_is_run_on_the_cluster_of_an_address(api: TestClient) -> None:
    told(api.post("/api/v1/jobs/waiting/start", json={"workers": 1, "address": "127.0.0.1:1"}))
    assert "--workers 1 --address 127.0.0.1:1" in told(api.get("/api/v1/jobs/waiting/log"))["text"]
    api.post("/api/v1/jobs/waiting/stop")
    until(lambda: state(api)["state"] in ("stopped", "failed"))


def made(api: TestClient, format: str) -> bytes:
    """The file, whose hash is what was told; asked for again it is there at once."""
    which = {} if format == "elastic" else {"trial": 0}
    begun = told(api.post("/api/v1/studies/networks/files", json={**which, "format": format}))
    until(lambda: told(api.get(f"/api/v1/files/{begun['id']}"))["state"] != "making")
    done = told(api.get(f"/api/v1/files/{begun['id']}"))
    assert done["state"] == "done", done
    answer = api.get(f"/api/v1/files/{begun['id']}/content")
    assert hashlib.sha256(answer.content).hexdigest() == done["sha256"] == answer.headers["etag"].strip('"')
    assert len(answer.content) == done["size"]
    again = told(api.post("/api/v1/studies/networks/files", json={**which, "format": format}))
    assert (again["id"], again["state"]) == (begun["id"], "done")
    return answer.content


def _is_safetensors(content: bytes) -> None:
    from safetensors.torch import load

    assert set(load(content)) == {"a.weight", "a.bias", "b.weight", "b.bias"}


def _is_extracted(content: bytes) -> None:
    names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    assert {"model.safetensors", "arch.json", "load.py"} <= set(names)
