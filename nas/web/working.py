"""Taking part: studies made over HTTP, trials asked for, kept alive and told, with the leases of every other worker."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from nas.errors import DatabaseError, NasError, brief
from nas.store.settle import study_name_fault
from nas.web import bodies, desk
from nas.web.declared import study_of
from nas.web.problems import Problem, answer
from nas.web.reading import record_of, state_of
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
    if body.name in store.names():
        raise Problem(409, f"study {body.name!r} exists already; take another name")
    try:
        study = study_of(body.model_dump(), store)
    except DatabaseError:
        raise
    except NasError as error:
        raise Problem(422, brief(error)) from None
    record = study.record
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
    now = time.time()
    told = [
        desk.Told(
            one.number,
            one.attempt,
            one.state if one.state is not None else ("COMPLETED" if one.measurements else None),
            one.measurements,
            one.reason,
            one.duration_s,
            None if one.duration_s is None else now - one.duration_s,
            [(step.step, name, value) for step in one.steps for name, value in step.measurements.items()],
        )
        for one in body.results
    ]
    answers: list[dict[str, Any]] = desk.tell(record, body.worker, told)
    refused = [one for one in answers if one["status"] != 200]
    if refused:
        return answer(Problem(409, str(refused[0]["detail"]), results=answers))
    return Json({"results": answers})
