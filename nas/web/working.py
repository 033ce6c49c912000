"""Taking part: studies made over HTTP, trials asked for, kept alive and told, with the leases of every other worker."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from nas.errors import DatabaseError, NasError, StudyExists, brief
from nas.store import Report
from nas.store.settle import study_name_fault
from nas.web import bodies, desk
from nas.web.asking import record_of, state_of
from nas.web.declared import study_of
from nas.web.problems import Problem, answer
from nas.web.rows import Json

api = APIRouter(default_response_class=Json)

StudyPath = Annotated[str, Path(max_length=200)]


@api.post("/studies", status_code=201)
def create(request: Request, body: bodies.NewStudy) -> Response:
    """A new study, from a space described in JSON; the server runs its algorithm."""
    state = state_of(request)
    store = state.opened.store
    if (fault := study_name_fault(body.name)) is not None:
        raise Problem(422, fault)
    try:
        study = study_of(body.model_dump(), store)
    except DatabaseError:
        raise
    except NasError as error:
        raise Problem(422, brief(error)) from None
    try:
        record = study.create()
    except StudyExists as error:  # another request was quicker
        raise Problem(409, str(error)) from None
    state.desks.keep(study)
    told = {"name": record.name, "decisions": record.schema["decisions"], "archs": min(study.space.size, 2**53)}
    return Json(told, 201)


@api.post("/studies/{study}/ask")
def ask(request: Request, study: StudyPath, body: bodies.Ask) -> Json:
    """Trials to evaluate, leased to a worker."""
    state = state_of(request)
    record = record_of(request, study)
    found = state.desks.of(record, state.opened.store).ask(body.worker, body.count, set(body.holding), body.lease_s)
    return Json({"trials": found.trials, "done": found.done, "why": found.why})


@api.post("/studies/{study}/heartbeat")
def heartbeat(request: Request, study: StudyPath, body: bodies.Heartbeat) -> Json:
    """A worker lives: its leases are extended."""
    record = record_of(request, study)
    held = record.heartbeat(desk.owner(body.worker), body.lease_s)
    numbers = [one.number for one in record.leases() if one.worker == desk.owner(body.worker)]
    return Json({"held": held, "numbers": numbers})


@api.post("/studies/{study}/tell")
def tell(request: Request, study: StudyPath, body: bodies.Tell) -> Response:
    """How trials ended, or how far they are; telling the same again changes nothing."""
    record = record_of(request, study)
    told = [
        desk.Told(
            one.number,
            one.attempt,
            [(step.step, name, value) for step in one.steps for name, value in step.measurements.items()],
            _end(body.worker, one),
        )
        for one in body.results
    ]
    answers: list[dict[str, Any]] = desk.tell(record, body.worker, told)
    refused = [one for one in answers if one["status"] != 200]
    if refused:
        return answer(Problem(409, str(refused[0]["detail"]), results=answers))
    return Json({"results": answers})


def _end(worker: str, one: bodies.Result) -> Report | None:
    """How a trial ended; None of one that goes on."""
    state = one.state or ("COMPLETED" if one.measurements else None)
    if state is None:
        return None
    started = None if one.duration_s is None else time.time() - one.duration_s
    return Report(
        one.number,
        desk.owner(worker),
        one.attempt,
        state,
        one.measurements,
        one.reason,
        duration_s=one.duration_s,
        started=started,
    )
