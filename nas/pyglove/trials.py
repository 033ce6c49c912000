"""Stored trials as PyGlove's."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pyglove as pg

from nas.errors import StoreError
from nas.search.dna_json import any_code
from nas.store import TrialRecord

METADATA, LINK, STEP = "metadata:", "link:", "step:"
#: What a program may report, and no measurement is; by the names of these kept in the note of a step.
NOT_FINITE = ("nan", "inf", "-inf")
_STATUS = {
    "WAITING": "PENDING",
    "RUNNING": "PENDING",
    "COMPLETED": "COMPLETED",
    "INFEASIBLE": "COMPLETED",
    "FAILED": "COMPLETED",
}


def to_json(value: Any, what: str) -> Any:
    """A value as JSON that holds no code.

    Raises:
        StoreError: it holds some, or cannot be JSON at all.
    """
    try:
        json = pg.to_json(value)
    except Exception as error:
        raise StoreError(f"{what} cannot be stored: {error}") from error
    if any_code(json):
        raise StoreError(
            f"{what} holds an object or function that could only be stored as executable code; "
            "give numbers, text, lists, dicts or symbolic objects"
        )
    return json


def from_json(json: Any, what: str) -> Any:
    """A value that `to_json` stored.

    Nothing is imported for it: classes and functions that it names must be of modules that the program has imported.

    Raises:
        StoreError: it holds code, or names what this program has not imported, or is none.
    """
    if any_code(json):
        raise StoreError(f"{what} in the database holds executable code and is not loaded")
    strange = next((name for name in _referred(json) if not _is_loaded(name)), None)
    if strange is not None:
        raise StoreError(
            f"{what} in the database names {strange!r}, and nothing is imported on a database's word; "
            "import it in your program if it is yours"
        )
    try:
        return pg.from_json(json, auto_import=False)
    except Exception as error:
        raise StoreError(f"{what} in the database cannot be read ({type(error).__name__}: {error})") from error


def _referred(json: Any) -> Iterator[str]:
    """Names of classes, functions and methods that PyGlove would look up by importing their modules."""
    if isinstance(json, dict):
        if json.get("_type") in ("type", "function", "method"):
            yield str(json.get("name"))
        for item in json.values():
            yield from _referred(item)
    elif isinstance(json, list | tuple):
        for item in json:
            yield from _referred(item)


def _is_loaded(name: str) -> bool:
    """Whether looking `name` up imports nothing, not even a part of a package."""
    module, _, rest = name.rpartition(".")
    while module and module not in sys.modules:
        module, _, inner = module.rpartition(".")
        rest = f"{inner}.{rest}"
    return bool(module) and all(part[:1].isupper() for part in rest.split(".")[:-1])


def named(notes: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The notes of one kind, by their own names."""
    return {name.removeprefix(kind): value for name, value in notes.items() if name.startswith(kind)}


def metadata_of(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata that a program left."""
    return {name: from_json(value, f"metadata {name!r}") for name, value in named(notes, METADATA).items()}


def values_by_step(record: TrialRecord, notes: Mapping[str, Any]) -> dict[int, dict[str, float]]:
    """Every measured value, by step, in order; NaN or infinite where the program reported that."""
    steps: dict[int, dict[str, float]] = {int(step): {} for step in named(notes, STEP)}
    for name, curve in record.curves.items():
        for step, value in curve:
            steps.setdefault(step, {})[name] = value
    for text, said in named(notes, STEP).items():
        for kind in NOT_FINITE:
            steps[int(text)].update(dict.fromkeys(said.get(kind, ()), float(kind)))
    return dict(sorted(steps.items()))


def dna_note(dna: pg.DNA) -> dict[str, Any]:
    """What is kept of a proposal: its decisions, and its marks as far as JSON has them (numbers, text, flags)."""
    json = to_json(dna, "a DNA")
    marks = {name: value for name, value in dna.metadata.items() if isinstance(value, bool | int | float | str)}
    return {"value": json["value"], "marks": marks}


def dna_of(notes: Mapping[str, Any]) -> pg.DNA:
    """The DNA of a trial from its notes; it has no spec."""
    kept = notes.get("dna", {"value": None, "marks": {}})
    json = {"_type": "pyglove.core.geno.base.DNA", "format": "compact", "value": kept["value"]}
    dna = from_json(json, "the DNA")
    for name, value in kept["marks"].items():
        dna.set_metadata(name, value)
    return dna


def trial_of(record: TrialRecord, notes: Mapping[str, Any], dna: pg.DNA | None = None) -> pg.tuning.Trial:
    """A stored trial; one that was skipped or has failed is infeasible."""
    said = named(notes, STEP)
    measurements = [
        _measurement(step, values, said.get(str(step), {})) for step, values in values_by_step(record, notes).items()
    ]
    finished = _STATUS[record.state] == "COMPLETED"
    final = measurements[-1] if measurements else pg.tuning.Measurement(step=0, elapse_secs=0.0, reward=0.0)
    return pg.tuning.Trial(
        id=record.number + 1,
        description=record.reason,
        dna=dna_of(notes) if dna is None else dna,
        status=_STATUS[record.state],
        infeasible=record.state in ("INFEASIBLE", "FAILED"),
        measurements=measurements,
        final_measurement=final if finished else None,
        metadata=metadata_of(notes),
        related_links=named(notes, LINK),
        created_time=int(record.created),
        completed_time=None if record.finished is None else int(record.finished),
    )


def _measurement(step: int, values: Mapping[str, float], said: Mapping[str, Any]) -> pg.tuning.Measurement:
    metrics = {name: value for name, value in values.items() if name != "reward"}
    reward = values.get("reward", said.get("reward"))
    return pg.tuning.Measurement(
        step=step,
        reward=reward,
        metrics=metrics,
        elapse_secs=float(said.get("elapse_secs", 0.0)),
        checkpoint_path=said.get("checkpoint_path"),
    )
