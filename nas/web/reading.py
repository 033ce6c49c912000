"""What can be read of studies: what they are, their fronts, their trials, why trials failed."""

from __future__ import annotations

import dataclasses
import io
import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from nas.metrics import parse_objectives, unit_of
from nas.store import frames, further
from nas.store.notes import TRIES
from nas.web.asking import NameQuery, ObjectivesQuery, WhereQuery, one_trial, record_of, state_of
from nas.web.commands import file_name
from nas.web.rows import Json, metric, of_record, rows

if TYPE_CHECKING:
    import pandas as pd

    from nas.store import StudyRecord
    from nas.store.looking import Position

api = APIRouter(default_response_class=Json)

MOST_ROWS = 1000
_SMALL = 20_000  # trials up to which a list of studies computes a hypervolume


@api.get("/studies")
def studies(request: Request) -> Json:
    """Every study: counts by state, best values, who works on it."""
    state = state_of(request)
    store = state.opened.store
    found = []
    for summary in store.studies():
        record = store.open_study(summary.name)
        found.append(
            {
                "name": summary.name,
                "space": summary.space,
                "created": summary.created,
                "objectives": [metric(one) for one in summary.objectives],
                "counts": summary.counts,
                "total": sum(summary.counts.values()),
                "front": summary.front_size,
                "best": summary.best,
                "level_of": summary.level_of,
                **activity(record),
                "hypervolume": state.kept.volume(record, most=_SMALL),
            }
        )
    return Json({"studies": found})


def activity(record: StudyRecord) -> dict[str, Any]:
    """When something was last finished, who works now on how many trials, and how fast."""
    times = record.recent_times()
    workers = Counter(lease.worker for lease in record.leases())
    return {
        "last_activity": times[-1] if times else None,
        "workers": [{"worker": worker, "trials": count} for worker, count in sorted(workers.items())],
        "rate_per_s": rate(times),
    }


def rate(times: list[float]) -> float | None:
    """Trials a second at present; None when nothing was finished lately."""
    now = time.time()
    recent = [one for one in times if now - one < 600]
    if len(recent) < 3:
        return None
    return (len(recent) - 1) / max(now - recent[0], 1e-3)


@api.get("/studies/{study}")
def study(request: Request, study: str) -> Json:
    """One study: its declaration, its columns, and how far it is."""
    state, record = state_of(request), record_of(request, study)
    store = state.opened.store
    position = record.position()
    front = record.front()
    names = record.metric_names()
    best = {one.name: float((front[one.name] * one.sign).min() * one.sign) for one in record.objectives if len(front)}
    declared = record.settings.get("declared")
    job = state.jobs.file_of(record) if state.jobs is not None else None
    devices = [one.name for one in store.hardware.devices() if record.schema["fingerprint"] in one.measured]
    settings = {name: record.settings.get(name) for name in ("algorithm", "evaluators", "job")}
    wanted = declared.get("trials") if isinstance(declared, dict) else None
    return Json(
        {
            "name": record.name,
            "space": record.schema["name"],
            "space_fingerprint": record.schema["fingerprint"],
            "created": record.created,
            "objectives": [metric(one) for one in record.objectives],
            "constraints": [str(one) for one in record.constraints],
            "constraint_list": [{"metric": c.metric, "op": c.op, "bound": c.bound} for c in record.constraints],
            "counts": position.counts,
            "total": position.added,
            "position": spelled(position),
            "front": len(front),
            "best": best,
            "level_of": store.level_of(record.name),
            "levels": store.levels(record.name),
            "settings": settings,
            "declared": declared is not None,
            "job": None if job is None else job.stem,
            "trials_wanted": wanted,
            "metrics": [{"name": name, "unit": unit_of(name)} for name in names],
            "columns": [*names, "number", "state", "worker", "attempt", "duration_s", "violation", "reason"],
            "decisions": record.schema["decisions"],
            "latency_devices": devices,
            "leases": [dataclasses.asdict(one) for one in record.leases()],
            **activity(record),
            "hypervolume": state.kept.volume(record, most=_SMALL),
        }
    )


def spelled(position: Position) -> str:
    """A position as text, which events have for an identity."""
    return f"{position.finished}.{position.added}.{position.front_version}"


@api.get(
    "/studies/{study}/front",
    response_class=Response,
)
def front(
    request: Request,
    study: str,
    where: WhereQuery = None,
    objectives: ObjectivesQuery = None,
    format: Literal["json", "csv", "parquet"] = "json",
) -> Response:
    """The Pareto front, with any filter and any metrics as objectives."""
    record = record_of(request, study)
    chosen = None if objectives is None else parse_objectives(objectives)
    left_out = further.left_out(record, where or None, chosen)
    found = further.front(record, where or None, chosen)
    if format == "json":
        own = chosen or record.objectives
        return Json({"objectives": [metric(one) for one in own], "trials": rows(found), "left_out": left_out})
    return _file(found, record.name, format)


def _file(frame: pd.DataFrame, study: str, format: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{file_name(study, None, f".{format}")}"'}
    if format == "csv":
        return Response(frames.flat(frame).to_csv(), media_type="text/csv; charset=utf-8", headers=headers)
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return Response(buffer.getvalue(), media_type="application/vnd.apache.parquet", headers=headers)


@api.get("/studies/{study}/trials")
def trials(
    request: Request,
    study: str,
    *,
    where: WhereQuery = None,
    sort: NameQuery = "number",
    descending: bool = False,
    start: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    count: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 100,
) -> Json:
    """Trials by page, filtered and sorted."""
    record = record_of(request, study)
    page = record.page(where or None, by=sort, descending=descending, start=start, count=count)
    return Json({"total": page.total, "start": start, "trials": rows(page.frame)})


@api.get("/studies/{study}/trials/{number}")
def trial(request: Request, study: str, number: int) -> Json:
    """Everything about one trial."""
    state, record = state_of(request), record_of(request, study)
    found = one_trial(record, number)
    notes = record.notes(number)
    return Json(
        {
            **of_record(found),
            "notes": {name: value for name, value in notes.items() if name != TRIES},
            "tries": notes.get(TRIES, []),
            "on_front": number in set(record.front().index),
            "commands": state.commands(record, number),
        }
    )


@api.get("/studies/{study}/trials/{number}/layers")
def layers(request: Request, study: str, number: int) -> Json:
    """The layers of a trial's network."""
    state, record = state_of(request), record_of(request, study)
    one_trial(record, number)
    return Json(state.layers(record, number))


@api.get("/studies/{study}/failures")
def failures(request: Request, study: str) -> Json:
    """Why trials failed or are infeasible, grouped by reason."""
    found = record_of(request, study).reasons()
    return Json({"reasons": [dataclasses.asdict(one) for one in found]})
