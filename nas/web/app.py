"""The ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import generate_latest
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

import nas
from nas.errors import NasError
from nas.web import bodies, events, hardware, operating, pictures, problems, reading, working
from nas.web.guarding import COOKIE, SESSION_S, Guard, Token
from nas.web.problems import Problem
from nas.web.rows import Json
from nas.web.state import State

STATIC = Path(__file__).parent / "static"
_REFUSALS: tuple[int | str, ...] = (400, 401, 403, 404, 409, 413, 414, 415, 422, 503)
_PROBLEM: dict[str, Any] = {
    "description": "What is wrong",
    "content": {"application/problem+json": {"schema": {"type": "object"}}},
}


def create_app(
    store: str,
    *,
    jobs: Path | None = None,
    folder: Path | None = None,
    token: str | None = None,
    read_only: bool = False,
    prefix: str = "",
) -> Guard:
    """The application that `nas serve` serves.

    Args:
        store: database URL or path.
        jobs: folder whose job files may be run.
        folder: for what they print and the files of networks; `.serve` in the jobs folder unless given.
        token: that every request must show; None where only this machine reaches the server.
        read_only: refuse every write.
        prefix: of the path, where a proxy does not take it away.

    Raises:
        StoreError: the database cannot be opened.
        JobError: the jobs folder cannot be used.
    """
    state = State(store, jobs, folder, read_only=read_only)
    _ = _opened(state)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        state.close()

    app = FastAPI(
        title="supernas",
        version=nas.__version__,
        summary="Studies of a results database: read, taken part in, run.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=life,
        responses=dict.fromkeys(_REFUSALS, _PROBLEM),
    )
    app.state.nas = state
    problems.install(app)
    known = Token(token) if token is not None else None
    for router in (reading.api, pictures.api, hardware.api, events.api, working.api, operating.api):
        app.include_router(router, prefix="/api/v1")
    _add_session(app, known)
    _add_operation(app, state, known is not None)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/", include_in_schema=False)
    def index() -> Response:
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    return Guard(app, state, known, prefix.rstrip("/"))


def _opened(state: State) -> Any:
    """The database, or its own error: a server does not start without one."""
    try:
        return state.opened.store
    except Problem as problem:
        from nas.errors import StoreError

        raise StoreError(problem.detail) from None


def _add_session(app: FastAPI, token: Token | None) -> None:
    @app.post("/api/v1/session", status_code=204)
    def log_in(request: Request, body: bodies.Login) -> Response:
        """Show the token once; a cookie is worth it for a week."""
        if token is None:
            return Response(status_code=204)
        if not token.fits(body.token):
            raise Problem(401, "that is not the token of this server", headers={"WWW-Authenticate": "Bearer"})
        answer = Response(status_code=204)
        answer.set_cookie(
            COOKIE,
            token.cookie(),
            max_age=SESSION_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    @app.delete("/api/v1/session", status_code=204)
    def log_out() -> Response:
        """Forget the token in this browser."""
        answer = Response(status_code=204)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer


def _add_operation(app: FastAPI, state: State, token: bool) -> None:
    @app.get("/api/v1/server")
    def server() -> Json:
        """What this server is and may do."""
        return Json(
            {
                "version": nas.__version__,
                "read_only": state.read_only,
                "jobs": state.jobs is not None,
                "token": token,
                "database": state.opened.shown,
            }
        )

    @app.get("/healthz", include_in_schema=False)
    def alive() -> Json:
        return Json({"status": "alive"})

    @app.get("/readyz", include_in_schema=False)
    def ready() -> Json:
        state.opened.store.names()
        return Json({"status": "ready"})

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        state.trials.clear()
        state.leases.clear()
        try:
            for one in state.opened.store.studies():
                for what, count in one.counts.items():
                    state.trials.labels(one.name, what).set(count)
                state.leases.labels(one.name).set(one.counts["RUNNING"])
        except (Problem, NasError):
            pass  # the server is up, and its database is not
        state.watching.set(state.watchers)
        return Response(generate_latest(state.registry), media_type="text/plain; version=0.0.4; charset=utf-8")
