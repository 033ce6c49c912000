"""What the OpenAPI document promises holds for whatever is sent: no request is a defect of the server."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from nas.web import create_app
from tests.web.served import toy

# Deprecations inside the library are not ours.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    schemathesis = pytest.importorskip("schemathesis")
    from schemathesis.checks import not_a_server_error

ENDLESS = ("/api/v1/events", "/api/v1/studies/{study}/events")


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("web")
    toy(folder / "toy.db", trials=6)
    (folder / "jobs").mkdir()
    app = create_app(str(folder / "toy.db"), jobs=folder / "jobs")
    return schemathesis.openapi.from_asgi("/api/v1/openapi.json", app, headers={"Host": "localhost"})


def _operations() -> list[str]:
    """Methods and paths, known before the database of the test is there."""
    from fastapi.routing import APIRoute

    from nas.web import events, hardware, operating, pictures, reading, working

    routes = [one for each in (reading, pictures, hardware, events, working, operating) for one in each.api.routes]
    found = [
        f"{method} /api/v1{one.path}" for one in routes if isinstance(one, APIRoute) for method in sorted(one.methods)
    ]
    return [*found, "POST /api/v1/session", "DELETE /api/v1/session", "GET /api/v1/server"]


def _cases(documented: Any, operation: str, examples: int) -> None:
    method, path = operation.split()
    one = documented[path][method]

    @settings(
        max_examples=examples,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=True,
    )
    @_given(one)
    def holds(case: Any) -> None:
        if "study" in (case.path_parameters or {}) and len(case.path_parameters["study"]) % 2:
            case.path_parameters["study"] = "toy"  # one that is there, now and then
        answer = case.call(base_url="http://localhost")
        assert answer.status_code != 403, "it reaches the server"
        case.validate_response(answer, checks=[not_a_server_error])

    holds()


def _given(operation: Any) -> Any:
    from hypothesis import given

    return given(operation.as_strategy())


@pytest.mark.parametrize("operation", [one for one in _operations() if not one.endswith(ENDLESS)])
def test_nothing_that_is_sent_is_a_defect(documented: Any, operation: str) -> None:
    _cases(documented, operation, 8)


@pytest.mark.slow
@pytest.mark.parametrize("operation", [one for one in _operations() if not one.endswith(ENDLESS)])
def test_nothing_of_much_that_is_sent_is_a_defect(documented: Any, operation: str) -> None:
    _cases(documented, operation, 200)


def test_every_operation_is_documented(documented: Any) -> None:
    paths = documented.raw_schema["paths"]
    told = {f"{method.upper()} {path}" for path, each in paths.items() for method in each}
    assert told == set(_operations())
    for each in paths.values():
        for operation in each.values():
            assert operation["description"].endswith(".")
            assert "422" in operation["responses"]
