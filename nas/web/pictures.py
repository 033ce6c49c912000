"""What pictures are drawn of: points, lines, growth, importance, and studies over each other."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from nas.errors import NasError
from nas.measurements import cell
from nas.metrics import parse_objectives
from nas.store.comparing import compare as compare_records
from nas.store.filters import in_state
from nas.web.asking import NameQuery, ObjectivesQuery, WhereQuery, record_of, state_of
from nas.web.problems import Problem
from nas.web.rows import Json, metric, metric_names, row

api = APIRouter(default_response_class=Json)

MOST_POINTS = 20_000
_MOST_COMPARED = 8


@api.get("/studies/{study}/points")
def points(
    request: Request,
    study: str,
    *,
    x: NameQuery,
    y: NameQuery,
    colour: Annotated[str | None, Query(max_length=200)] = None,
    where: WhereQuery = None,
    most: Annotated[int, Query(ge=1, le=MOST_POINTS)] = 4000,
) -> Json:
    """Trials in the plane of two columns, evenly sampled where they are many."""
    record = record_of(request, study)
    names = list(dict.fromkeys([x, y, *([colour] if colour else []), "state"]))
    record.check_names(names)
    page = record.sample(names, where or None, most)
    frame = page.frame
    return Json(
        {
            "x": x,
            "y": y,
            "colour": colour or None,
            "numbers": [int(one) for one in frame.index],
            "xs": [plotted(one) for one in frame[x]],
            "ys": [plotted(one) for one in frame[y]],
            "colours": [plotted(one) for one in frame[colour]] if colour else None,
            "states": list(frame["state"]),
            "total": page.total,
            "sampled": len(frame),
        }
    )


def plotted(value: Any) -> Any:
    """A number, or a choice that is a text."""
    return value if isinstance(value, (str, bool)) else cell(value)


@api.get("/studies/{study}/parallel")
def parallel(
    request: Request,
    study: str,
    where: WhereQuery = None,
    most: Annotated[int, Query(ge=1, le=5000)] = 1000,
) -> Json:
    """Decisions and metrics of trials, for parallel coordinates."""
    record = record_of(request, study)
    decisions = record.schema["decisions"][:40]
    kept = record.front()
    metrics = [one.name for one in record.objectives]
    page = record.sample([*metrics, "choices"], in_state("COMPLETED", where), most)
    shown = set(page.frame.index)
    numbers = [int(one) for one in page.frame.index]
    lines = [_line(one, decisions, metrics) for one in page.frame.to_dict("records")]
    if not where:  # of the front no member is left out
        extra = kept[[one not in shown for one in kept.index]]
        numbers += [int(one) for one in extra.index]
        lines += [_line(one, decisions, metrics) for one in extra.to_dict("records")]
    on_front = set(kept.index)
    axes = [
        *({"name": one["name"], "kind": "decision", "candidates": one.get("candidates")} for one in decisions),
        *({"name": name, "kind": "metric", "candidates": None} for name in metrics),
    ]
    return Json(
        {
            "axes": axes,
            "numbers": numbers,
            "rows": lines,
            "front": [one in on_front for one in numbers],
            "total": page.total,
            "sampled": len(page.frame),
        }
    )


def _line(one: Any, decisions: list[dict[str, Any]], metrics: list[str]) -> list[Any]:
    choices = one["choices"]
    return [choices.get(decision["name"]) for decision in decisions] + [cell(one[name]) for name in metrics]


@api.get("/studies/{study}/hypervolume")
def volume(request: Request, study: str) -> Json:
    """Hypervolume over trials, as a share of the last."""
    return Json(state_of(request).kept.growth(record_of(request, study)))


@api.get("/studies/{study}/importance")
def importance(
    request: Request,
    study: str,
    objective: Annotated[str | None, Query(max_length=200)] = None,
    where: WhereQuery = None,
) -> Json:
    """How much each decision matters for an objective, with its uncertainty."""
    record = record_of(request, study)
    found = state_of(request).kept.importance(record, objective or None, where or None)
    return Json(
        {
            "objective": found.objective,
            "of": found.trials,
            "explained": found.explained,
            "decisions": [vars(one) for one in found.decisions],
            "note": found.note,
        }
    )


@api.get("/compare")
def compare(
    request: Request,
    study: Annotated[list[str], Query(min_length=2, max_length=_MOST_COMPARED)],
    objectives: ObjectivesQuery = None,
    where: WhereQuery = None,
) -> Json:
    """Two or more studies by the same objectives and the same reference point."""
    state = state_of(request)
    records = [state.opened.study(name) for name in dict.fromkeys(study)]
    if len(records) < 2:
        raise Problem(422, "two or more different studies are compared; name another one")
    chosen = None if objectives is None else parse_objectives(objectives)
    try:
        found = compare_records(records, chosen, where or None)
    except NasError as error:
        raise Problem(400, str(error)) from None
    told = []
    for one in found.studies:
        frame = one.front
        metrics = metric_names(frame.columns)
        told.append(
            {
                **one.row(),
                "name": one.name,
                "front": [
                    row(int(at), each, metrics) for at, each in zip(frame.index, frame.to_dict("records"), strict=True)
                ],
                "curve": [list(point) for point in one.curve],
            }
        )
    return Json(
        {
            "objectives": [metric(one) for one in found.objectives],
            "reference": found.reference,
            "studies": told,
            "notes": found.notes,
        }
    )
