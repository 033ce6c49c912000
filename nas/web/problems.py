"""Errors as problem details (RFC 9457): one sentence, and what a program can use of it."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from nas.errors import DatabaseError, FilterError, NasError, SpaceError, brief

log = logging.getLogger("nas.web")


class Problem(Exception):
    """An answer that is no success.

    Args:
        status: of HTTP.
        detail: one sentence: what was given, what was expected, what to do.
        headers: of the answer.
        more: further members, JSON-able.
    """

    def __init__(self, status: int, detail: str, *, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.more = status, detail, headers or {}, more


def answer(problem: Problem) -> Response:
    """The problem as `application/problem+json`."""
    told = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        **problem.more,
    }
    text = json.dumps(told, allow_nan=False)
    return Response(text, problem.status, headers=problem.headers, media_type="application/problem+json")


def of_error(error: NasError) -> Problem:
    """What an error of the library means over HTTP."""
    said = brief(error)
    if isinstance(error, FilterError):
        return Problem(400, said) if error.place is None else Problem(400, said, place=list(error.place))
    if isinstance(error, SpaceError):
        return Problem(422, said)
    if isinstance(error, DatabaseError):
        return Problem(503, said, headers={"Retry-After": "5"})
    return Problem(400, said)


def install(app: FastAPI) -> None:
    """Every error of the application becomes a problem."""

    @app.exception_handler(Problem)
    async def problem(_: Request, error: Problem) -> Response:
        return answer(error)

    @app.exception_handler(NasError)
    async def ours(_: Request, error: NasError) -> Response:
        return answer(of_error(error))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        detail = str(error.detail)
        if error.status_code == 404:
            detail = f"there is nothing at {brief(request.url.path, 200)!r}; /api/v1/openapi.json lists what there is"
        elif error.status_code == 405:
            detail = f"{request.method} is not possible at {brief(request.url.path, 200)!r}"
        return answer(Problem(error.status_code, detail, headers=dict(error.headers or {})))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        faults = [{"at": _spelled(one["loc"]), "what": brief(one["msg"], 200)} for one in error.errors()[:20]]
        first = faults[0] if faults else {"at": "the request", "what": "is not valid"}
        return answer(Problem(422, f"{first['at']}: {first['what']}", faults=faults))

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return answer(
            Problem(500, f"a defect of the server ({type(error).__name__}), which its log tells more of; report it")
        )


def _spelled(place: tuple[int | str, ...]) -> str:
    """`body.results[0].number` from its parts; a parameter of the path or the query by its name alone."""
    parts = [part for part in place if part not in ("query", "path")] or list(place)
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return brief(text, 200)
