"""Devices: what was measured on them, their predictors, and how far predictions are from measurements."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request

from nas.errors import brief
from nas.identity import inputs_in
from nas.predict.scoring import scores
from nas.web.asking import NameQuery, record_of, state_of
from nas.web.problems import Problem
from nas.web.rows import Json

api = APIRouter(default_response_class=Json)


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
                            "inputs": each.inputs,
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
                    "inputs": one.inputs,
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
    found_with = inputs_in(record.settings.get("evaluators"))
    rows = store.hardware.measurements(device, record.schema["fingerprint"], inputs=found_with)
    measured = {one.key: one for one in rows}
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
    errors: dict[str, float | None] = {"mape": None, "spearman": None}
    if len(pairs) > 1:
        found_errors = scores(
            np.array([one["measured"] for one in pairs]), np.array([one["predicted"] for one in pairs])
        )
        errors = {"mape": 100 * found_errors["mape"], "spearman": found_errors["spearman"]}
    return Json({"device": device, "metric": metric, "pairs": pairs, **errors})
