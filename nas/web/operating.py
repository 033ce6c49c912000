"""Jobs of the operator's folder, and files of networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.responses import FileResponse

from nas.web import bodies
from nas.web.asking import one_trial, record_of, state_of
from nas.web.problems import Problem
from nas.web.rows import Json

if TYPE_CHECKING:
    from nas.web.jobs import Jobs
    from nas.web.making import Making

api = APIRouter(default_response_class=Json)

JobPath = Annotated[str, Path(max_length=200)]
FilePath = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]


def _jobs(request: Request) -> Jobs:
    found = state_of(request).jobs
    if found is None:
        raise Problem(404, "this server has no jobs; start it with --jobs FOLDER")
    return found


def _making(request: Request) -> Making:
    found = state_of(request).making
    if found is None:
        raise Problem(404, "this server makes no files; start it with --jobs FOLDER")
    return found


@api.get("/jobs")
def jobs(request: Request) -> Json:
    """The jobs of the operator's folder."""
    return Json({"jobs": [vars(one) for one in _jobs(request).all()]})


@api.get("/jobs/{job}")
def job(request: Request, job: JobPath) -> Json:
    """One job."""
    return Json(vars(_jobs(request).get(job)))


@api.post("/jobs/{job}/start", status_code=202)
def start(request: Request, job: JobPath, body: bodies.StartJob) -> Response:
    """Start a job, or go on with it."""
    return Json(vars(_jobs(request).start(job, body.model_dump())), 202)


@api.post("/jobs/{job}/stop", status_code=202)
def stop(request: Request, job: JobPath) -> Response:
    """Stop a job: it gives back what it had begun."""
    return Json(vars(_jobs(request).stop(job)), 202)


@api.get("/jobs/{job}/log")
def log(request: Request, job: JobPath, after: Annotated[int, Query(ge=-(2**40), le=2**40)] = 0) -> Json:
    """A part of a job's log."""
    text, following, size = _jobs(request).log(job, after)
    return Json({"text": text, "next": following, "size": size})


@api.post("/studies/{study}/files", status_code=202)
def make(request: Request, study: str, body: bodies.MakeFile) -> Response:
    """Make the file of a network, or of a whole front."""
    record = record_of(request, study)
    making = state_of(request).making
    if body.trial is not None:
        one_trial(record, body.trial)
    if making is None:
        commands = state_of(request).commands(record, body.trial or 0)
        raise Problem(
            409,
            f"this server has no jobs folder, so that it cannot build networks; run: {commands['extract']}",
            command=commands["extract"],
        )
    found = making.make(record, body.trial, body.format)
    return Json(found.told(), 202, headers={"Location": f"../../files/{found.id}"})


@api.get("/files/{file}")
def file(request: Request, file: FilePath) -> Json:
    """A file that was asked for."""
    return Json(_making(request).get(file).told())


@api.get("/files/{file}/content", response_class=FileResponse)
def content(request: Request, file: FilePath) -> Response:
    """Its content."""
    making = _making(request)
    made: Any = making.get(file)
    path = making.content(file)
    headers = {"ETag": f'"{made.sha256}"', "X-Content-SHA256": made.sha256}
    return FileResponse(path, filename=made.name, media_type="application/octet-stream", headers=headers)
