"""A database with a study, and clients of its server."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyglove as pg
import uvicorn
from starlette.testclient import TestClient

import nas
from nas.store import NewTrial, Report, open_store
from nas.web import create_app

SPACE = {
    "width": {"choice": [8, 16, 32, 64]},
    "depth": {"int": [1, 3]},
    "act": {"choice": ["relu", "gelu"]},
}


def space() -> nas.Space:
    return nas.Space(
        pg.Dict(width=pg.oneof([8, 16, 32, 64]), depth=pg.oneof([1, 2, 3]), act=pg.oneof(["relu", "gelu"])), name="toy"
    )


def measured(choices: Any) -> dict[str, float]:
    return {
        "accuracy": 1.0 - 1.0 / (choices["width"] * choices["depth"]),
        "params": float(choices["width"] ** 2 * choices["depth"]),
        "latency_ms": choices["width"] * 0.1,
        "latency_spread_ms": 0.05,
    }


def evaluated(arch: nas.Arch) -> dict[str, float]:
    if arch.choices["width"] == 8 and arch.choices["depth"] == 1:
        raise RuntimeError("the board is <b>gone</b>")
    return measured(arch.choices)


def toy(store: Path, name: str = "toy", trials: int = 24) -> nas.Study:
    """Every arch of the space is evaluated: COMPLETED, INFEASIBLE and FAILED ones."""
    study = nas.Study(
        name,
        space=space(),
        objectives=["max accuracy", "min params"],
        constraints=["params <= 9000"],
        evaluators=[evaluated],
        algorithm="random",
        store=store,
        trials=trials,
    )
    study.run(workers=0, progress=False)
    study.close()
    return study


def client(store: Path, **options: Any) -> TestClient:
    """Of an application without a socket."""
    return TestClient(create_app(str(store), **options), base_url="http://localhost", raise_server_exceptions=False)


@contextlib.contextmanager
def running(store: Path, port: int = 0, **options: Any) -> Iterator[str]:
    """The address of a server with a socket, in a thread of this process."""
    from nas.web.serving import bound

    listening = bound("127.0.0.1", port)
    app = create_app(str(store), **options)
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1, http="h11", loop="asyncio")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def until(condition: Any, what: str = "it never came") -> None:
    """Wait, however long a busy machine takes."""
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def add(store: Path, count: int, study: str = "toy", worker: str = "w") -> None:
    """More finished trials, as another process adds them."""
    with open_store(store, create=False) as opened:
        record = opened.open_study(study)
        begun = record.position().added
        rows = [NewTrial(f"{begun + i:032x}", [0, 0, 0]) for i in range(count)]
        added = record.add(rows, worker=worker)
        record.report([Report(one.number, worker, 1, "COMPLETED", measured({"width": 8, "depth": 2})) for one in added])


def told(answer: Any) -> Any:
    """The JSON of an answer that is a success."""
    assert answer.status_code < 300, answer.text
    return json.loads(answer.content)


def problem(answer: Any, status: int) -> str:
    """The sentence of an answer that is a refusal."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found["status"] == status
    assert "\n" not in found["detail"]
    assert "Traceback" not in found["detail"]
    return str(found["detail"])
