"""Trials as JSON: measurements, their spread, choices, and how they ended."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from nas.measurements import COLUMNS, cell
from nas.noise import half_spread, is_noisy

if TYPE_CHECKING:
    import pandas as pd

    from nas.metrics import Metric
    from nas.store import TrialRecord


class Json(Response):
    """JSON as its standard has it: what is no finite number is null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The content as text."""
        try:
            return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
        except ValueError:
            return json.dumps(finite(content), allow_nan=False, separators=(",", ":")).encode()


def finite(value: Any) -> Any:
    """The value with None in the place of NaN and infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return value


def metric_names(columns: Iterable[Any]) -> list[str]:
    """Of a table's columns those that are metrics."""
    return [str(name) for name in columns if name not in COLUMNS]


def rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The trials of a table."""
    metrics = metric_names(frame.columns)
    return [row(int(at), one, metrics) for at, one in zip(frame.index, frame.to_dict("records"), strict=True)]


def row(at: int, one: Mapping[Any, Any], metrics: Iterable[str]) -> dict[str, Any]:
    """A trial of a table by its number."""
    measured = {name: value for name in metrics if (value := cell(one.get(name))) is not None}
    return {
        "number": at,
        "state": one.get("state", "COMPLETED"),
        "measurements": measured,
        "spread": {name: half for name in measured if (half := half_spread(one, name)) is not None},
        "noisy": [name for name in measured if is_noisy(one, name)],
        "choices": dict(one.get("choices") or {}),
        "worker": _text(one.get("worker")),
        "attempt": cell(one.get("attempt")),
        "duration_s": cell(one.get("duration_s")),
        "violation": cell(one.get("violation")),
        "reason": _text(one.get("reason")),
    }


def of_record(trial: TrialRecord) -> dict[str, Any]:
    """Everything about one trial."""
    told = {**vars_of(trial), **trial.measurements}
    return {
        **row(trial.number, told, trial.measurements),
        "key": trial.key,
        "row": trial.row,
        "created": trial.created,
        "started": trial.started,
        "finished": trial.finished,
        "seed": trial.seed,
        "curves": {name: [list(pair) for pair in curve] for name, curve in trial.curves.items()},
        "decisions": trial.schema["decisions"],
    }


def vars_of(trial: TrialRecord) -> dict[str, Any]:
    """The columns of a record that tables have."""
    names = ("state", "choices", "worker", "attempt", "duration_s", "violation", "reason")
    return {name: getattr(trial, name) for name in names}


def metric(one: Metric) -> dict[str, Any]:
    """An objective."""
    return {"name": one.name, "goal": one.goal, "unit": one.unit}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
