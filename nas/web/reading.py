"""What can be read: studies, fronts, trials, pictures' points, importance, latencies, devices."""

from __future__ import annotations

import io
import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from nas.errors import FilterError, NasError, StoreError, brief
from nas.measurements import cell
from nas.metrics import parse_objectives
from nas.pareto import growth
from nas.store import frames, further
from nas.store.comparing import compare as compare_records
from nas.store.importance import Importance
from nas.store.importance import importance as importance_of
from nas.store.notes import TRIES
from nas.web.problems import Problem
from nas.web.rows import Json, metric, metric_names, of_record, row, rows

if TYPE_CHECKING:
    import pandas as pd

    from nas.store import StudyRecord
    from nas.web.state import State

api = APIRouter(default_response_class=Json)

MOST_ROWS, MOST_POINTS = 1000, 20_000
_CONCURRENT = 8  # studies that are compared at most
_MOST_STEPS = 2000  # of a hypervolume's growth
_SMALL = 20_000  # trials up to which a list of studies computes a hypervolume

WhereQuery = Annotated[
    str | None, Query(max_length=4000, description="A filter, as in latency_ms <= 2 and params < 50_000.")
]
ObjectivesQuery = Annotated[str | None, Query(max_length=1000, description="As in max accuracy, min params.")]
NameQuery = Annotated[str, Query(min_length=1, max_length=200)]


def state_of(request: Request) -> State:
    """The server's state."""
    found: State = request.app.state.nas
    return found


def record_of(request: Request, study: str) -> StudyRecord:
    """The study that a path names."""
    return state_of(request).opened.study(study)


# -- studies -----------------------------------------------------------------------------------------------------------


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
                "hypervolume": state.volumes.of(record, most=_SMALL),
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
            "metrics": [{"name": name, "unit": unit} for name, unit in _units(names)],
            "columns": [*names, "number", "state", "worker", "attempt", "duration_s", "violation", "reason"],
            "decisions": record.schema["decisions"],
            "latency_devices": devices,
            "leases": [vars_of_lease(one) for one in record.leases()],
            **activity(record),
            "hypervolume": state.volumes.of(record, most=_SMALL),
        }
    )


def _units(names: list[str]) -> list[tuple[str, str]]:
    from nas.metrics import unit_of

    return [(name, unit_of(name)) for name in names]


def vars_of_lease(lease: Any) -> dict[str, Any]:
    """A lease as JSON."""
    return {"number": lease.number, "worker": lease.worker, "started": lease.started, "until": lease.until}


def spelled(position: Any) -> str:
    """A position as text, which events have for an identity."""
    return f"{position.finished}.{position.added}.{position.front_version}"


# -- the front, trials -------------------------------------------------------------------------------------------------


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
    safe = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in study)
    headers = {"Content-Disposition": f'attachment; filename="{safe}-front.{format}"'}
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


def one_trial(record: StudyRecord, number: int) -> Any:
    """A trial by its number.

    Raises:
        Problem: there is none.
    """
    size = record.position().added
    if not 0 <= number < size:
        have = f"its trials are 0 to {size - 1}" if size else "it has no trials yet"
        raise Problem(404, f"study {record.name!r} has no trial {brief(number, 30)}; {have}")
    return record.trial(number)


@api.get("/studies/{study}/trials/{number}/layers")
def layers(request: Request, study: str, number: int) -> Json:
    """The layers of a trial's network."""
    state, record = state_of(request), record_of(request, study)
    one_trial(record, number)
    return Json(state.layers(record, number))


# -- pictures ----------------------------------------------------------------------------------------------------------


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
    done = f"state == 'COMPLETED'{f' and ({where})' if where else ''}"
    page = record.sample([*metrics, "choices"], done, most)
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
    return Json(state_of(request).volumes.curve(record_of(request, study)))


@api.get("/studies/{study}/importance")
def importance(
    request: Request,
    study: str,
    objective: Annotated[str | None, Query(max_length=200)] = None,
    where: WhereQuery = None,
) -> Json:
    """How much each decision matters for an objective, with its uncertainty."""
    record = record_of(request, study)
    found = state_of(request).importances.of(record, objective or None, where or None)
    return Json(
        {
            "objective": found.objective,
            "of": found.trials,
            "explained": found.explained,
            "decisions": [vars(one) for one in found.decisions],
            "note": found.note,
        }
    )


@api.get("/studies/{study}/failures")
def failures(request: Request, study: str) -> Json:
    """Why trials failed or are infeasible, grouped by reason."""
    found = record_of(request, study).reasons()
    return Json(
        {
            "reasons": [
                {"state": one.state, "reason": one.reason, "count": one.count, "first": one.first} for one in found
            ]
        }
    )


@api.get("/compare")
def compare(
    request: Request,
    study: Annotated[list[str], Query(min_length=2, max_length=_CONCURRENT)],
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


# -- hardware ----------------------------------------------------------------------------------------------------------


@api.get("/devices")
def devices(request: Request) -> Json:
    """Devices, how many archs were measured on each, and their predictors."""
    store = state_of(request).opened.store
    spaces = {}
    for name in store.names():
        schema = store.open_study(name).schema
        spaces[schema["fingerprint"]] = schema["name"]
    predictors = store.hardware.predictors()
    return Json(
        {
            "devices": [
                {
                    "name": one.name,
                    "description": dict(one.description),
                    "created": one.created,
                    "measured": dict(one.measured),
                    "spaces": {mark: spaces.get(mark) for mark in one.measured},
                    "predictors": [
                        {
                            "space": each.space,
                            "fingerprint": each.fingerprint,
                            "kind": each.kind,
                            "errors": dict(each.errors),
                            "created": each.created,
                        }
                        for each in predictors
                        if each.device == one.name
                    ],
                }
                for one in store.hardware.devices()
            ]
        }
    )


@api.get("/devices/{device}/measurements")
def measurements(request: Request, device: str, fingerprint: Annotated[str, Query(max_length=64)]) -> Json:
    """What was measured on a device, the newest of each arch."""
    store = state_of(request).opened.store
    check_device(store, device)
    found = store.hardware.measurements(device, fingerprint)
    return Json(
        {
            "measurements": [
                {
                    "key": one.key,
                    "median_ms": one.median_ms,
                    "noisy": one.noisy,
                    "details": dict(one.details),
                    "created": one.created,
                }
                for one in found
            ]
        }
    )


def check_device(store: Any, device: str) -> None:
    """Whether there is a device of that name.

    Raises:
        Problem: there is none.
    """
    names = [one.name for one in store.hardware.devices()]
    if device not in names:
        have = f"there are {', '.join(names[:20])}" if names else "there is none yet"
        raise Problem(404, f"there is no device {brief(repr(device), 120)}; {have}")


@api.get("/studies/{study}/latencies")
def latencies(request: Request, study: str, device: NameQuery, metric: NameQuery = "latency_ms") -> Json:
    """What a study's trials say of latency beside what was measured on a device."""
    state, record = state_of(request), record_of(request, study)
    store = state.opened.store
    check_device(store, device)
    record.check_names([metric])
    measured = {one.key: one for one in store.hardware.measurements(device, record.schema["fingerprint"])}
    pairs = []
    for key, one in measured.items():
        found = record.lookup(key)
        if found is not None and metric in found.measurements:
            pairs.append(
                {
                    "number": found.number,
                    "key": key,
                    "predicted": found.measurements[metric],
                    "measured": one.median_ms,
                    "noisy": one.noisy,
                }
            )
    return Json({"device": device, "metric": metric, "pairs": pairs, **_agreement(pairs)})


def _agreement(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean absolute percentage error, and rank correlation; None of fewer than two."""
    if len(pairs) < 2:
        return {"mape": None, "spearman": None}
    told = np.array([one["predicted"] for one in pairs], dtype=float)
    truth = np.array([one["measured"] for one in pairs], dtype=float)
    ranks = [np.argsort(np.argsort(each)).astype(float) for each in (told, truth)]
    varied = all(each.std() > 0 for each in (told, truth))
    correlation = float(np.corrcoef(ranks[0], ranks[1])[0, 1]) if varied else None
    return {"mape": float(np.abs(told / truth - 1.0).mean()) * 100, "spearman": correlation}


class Importances:
    """Importance of decisions, which takes seconds, kept until another trial finishes."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], tuple[int, Importance]] = {}

    def of(self, record: StudyRecord, objective: str | None, where: str | None) -> Importance:
        """Of an objective, the study's first unless given.

        Raises:
            Problem: there are too few trials for it.
        """
        which, finished = (record.id, record.created, objective, where), record.position().finished
        known = self._kept.get(which)
        if known is not None and known[0] == finished:
            return known[1]
        try:
            found = importance_of(record, objective, where)
        except FilterError:
            raise
        except StoreError as error:
            raise Problem(409 if "needs" in str(error) else 400, str(error)) from None
        if len(self._kept) > 200:
            self._kept.clear()
        self._kept[which] = finished, found
        return found


class Volumes:
    """Hypervolume over trials, computed when it is asked for and kept until the front changes."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, float], tuple[tuple[int, int], dict[str, Any]]] = {}

    def of(self, record: StudyRecord, most: int) -> float | None:
        """The last hypervolume; None of a study without a front, or of a large one nobody asked for yet."""
        known = self._kept.get((record.id, record.created))
        if known is None and record.position().added > most:
            return None
        found: float | None = self.curve(record)["volume"]
        return found

    def curve(self, record: StudyRecord) -> dict[str, Any]:
        """Numbers of feasible trials, the share of the last hypervolume then, and what that is by which reference."""
        which, position = (record.id, record.created), record.position()
        mark = position.front_version, position.finished
        known = self._kept.get(which)
        if known is not None and known[0] == mark:
            return known[1]
        made = _curve(record)
        if len(self._kept) > 200:
            self._kept.clear()
        self._kept[which] = mark, made
        return made


def _curve(record: StudyRecord) -> dict[str, Any]:
    frame = record.curve()
    signs = np.array([one.sign for one in record.objectives])
    values = frame[[one.name for one in record.objectives]].to_numpy(float) * signs
    if not len(values):
        return {"at": [], "share": [], "reference": {}, "volume": None}
    reference = values.max(axis=0)
    at, volumes = growth(values, reference)
    told = {one.name: float(value * one.sign) for one, value in zip(record.objectives, reference, strict=True)}
    last = float(volumes[-1])
    if last == 0:
        return {"at": [], "share": [], "reference": told, "volume": last}
    some = np.unique(np.linspace(0, len(at) - 1, _MOST_STEPS).astype(int))
    shares = (volumes[some] / last).tolist()
    return {"at": [*at[some].tolist(), len(values)], "share": [*shares, 1.0], "reference": told, "volume": last}
