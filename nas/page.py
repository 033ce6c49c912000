"""The page of a front: one HTML file that needs no server and no network.

A plot whose axes are any two metrics, with points that tell their trial, and the front as a table that sorts and filters; without
scripts the table remains.  Whatever comes from the database is escaped, and the page runs no script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd

from nas.errors import NasError
from nas.measurements import COLUMNS, cell, heading
from nas.metrics import Metric
from nas.noise import LEGEND, half_spread, is_noisy, tells, with_noise
from nas.plot import MADE_BY, axes_of
from nas.text import human, printable

START = f'<!doctype html><html lang=en><meta charset=utf-8><meta name=generator content="{MADE_BY}">'
_MOST = 3000  # more dots only darken the picture
_STYLE = (
    "body{font:14px system-ui,sans-serif;margin:2em;color:#222}table{border-collapse:collapse;margin-top:1em}"
    "td,th{padding:.25em .7em;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}"
    "td.text,th.text{text-align:left;white-space:normal}th{cursor:pointer;position:sticky;top:0;background:#fff}"
    "th[data-order=up]::after{content:' ▲'}th[data-order=down]::after{content:' ▼'}tr.here td{background:#fdeaea}"
    "svg{max-width:100%;height:auto;font:12px system-ui,sans-serif}.grid{stroke:#e6e6e6}.bar{stroke:#c0142b;stroke-width:1.5}"
    ".front{fill:#c0142b}.front.noisy{fill:#fff;stroke:#c0142b;stroke-width:2}.dominated{fill:#5b93c7;opacity:.6}"
    ".infeasible{fill:#b5b5b5;opacity:.6}.faint{opacity:.12}"
    "#tip{position:absolute;background:#fff;border:1px solid #bbb;padding:.4em .6em;max-width:26em;pointer-events:none;"
    "font-size:12px;box-shadow:0 2px 6px #0003}label{margin-right:1.2em}input{width:24em}.note{color:#666}"
)


def page(name: str, objectives: Sequence[Metric], trials: pd.DataFrame, front: pd.DataFrame) -> str:
    """The page.

    Args:
        name: of the study.
        objectives: of the front, at least two.
        trials: all of them, indexed by number, with `state`, metrics and `choices`.
        front: the trials on the front, likewise.

    Raises:
        NasError: there is one objective only.
    """
    if len(objectives) < 2:
        raise NasError(f"study {name!r} has one objective, and a front needs two; use --format table")
    metrics = [str(column) for column in front.columns if column not in COLUMNS]
    script = resources.files("nas").joinpath("page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    title = html.escape(printable(name))
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    noisy = [metric for metric in metrics if tells(front.columns, metric)]
    return (
        f'{START}<meta http-equiv=Content-Security-Policy content="{policy}"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>{len(front)} on the front of {len(trials)} trials: "
        f"{html.escape(', '.join(map(str, objectives)))}</p>"
        "<div id=controls hidden><label>across <select id=across></select></label><label>up <select id=up></select></label>"
        "<label>filter <input id=filter placeholder='params &lt; 50_000 and depth=2'></label><span id=count></span></div>"
        "<svg id=plot viewBox='0 0 760 420' width=760></svg><div id=tip hidden></div>"
        f"{_table(front, metrics, noisy)}"
        + (f"<p class=note>{LEGEND}; a hollow point is noisy</p>" if noisy else "")
        + f"<script type=application/json id=data>{_data(objectives, metrics, trials, front)}</script>"
        f"<script>{script}</script></html>\n"
    )


def _data(objectives: Sequence[Metric], metrics: Sequence[str], trials: pd.DataFrame, front: pd.DataFrame) -> str:
    """What the script reads, as JSON that no character of ends a script element."""
    others = trials[~trials.index.isin(front.index) & trials["state"].isin(["COMPLETED", "INFEASIBLE"])]
    if len(others) > _MOST:
        others = others.iloc[np.linspace(0, len(others) - 1, _MOST).astype(int)]
    points = [_point(number, row, row["state"], metrics) for number, row in _rows(others)]
    points += [_point(number, row, "COMPLETED", metrics, front=True) for number, row in _rows(front)]
    across, up = axes_of(objectives)
    better = {metric.name: f" ({'smaller' if metric.goal == 'min' else 'larger'} is better)" for metric in objectives}
    data = {"metrics": list(metrics), "axes": [across.name, up.name], "better": better, "trials": points}
    text = json.dumps(data, allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _rows(frame: pd.DataFrame) -> list[tuple[int, dict[Any, Any]]]:
    return [(int(number), row) for number, row in zip(frame.index, frame.to_dict("records"), strict=True)]


def _point(
    number: int, row: Mapping[Any, Any], state: str, metrics: Sequence[str], *, front: bool = False
) -> dict[str, Any]:
    halves = {name: half for name in metrics if (half := half_spread(row, name)) is not None} if front else {}
    return {
        "number": number,
        "state": state,
        "front": front,
        "values": {name: cell(row.get(name)) for name in metrics},
        "half": halves,
        "noisy": [name for name in metrics if is_noisy(row, name)],
        "choices": {printable(choice): _plain(value) for choice, value in dict(row.get("choices") or {}).items()},
    }


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (int, float)) else printable(value)


def _table(front: pd.DataFrame, metrics: Sequence[str], noisy: Sequence[str]) -> str:
    """The front, with each value as a person reads it; the script sorts by `data-value`."""
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in ("trial", *map(heading, metrics)))
    body = "".join(_row(number, row, metrics, noisy) for number, row in _rows(front))
    return f"<table><thead><tr>{heads}<th class=text>choices</th></tr></thead><tbody>{body}</tbody></table>"


def _row(number: int, row: Mapping[Any, Any], metrics: Sequence[str], noisy: Sequence[str]) -> str:
    cells = [f"<td data-value={number}>{number}</td>"]
    for name in metrics:
        value = cell(row.get(name))
        shown = human(value)
        if name in noisy and value is not None:
            shown = with_noise(float(value), half_spread(row, name), is_noisy(row, name))
        exactly = "" if value is None else repr(value)
        cells.append(f'<td data-value="{exactly}" title="{exactly}">{html.escape(shown)}</td>')
    choices = " ".join(
        f"{printable(name)}={printable(value)}" for name, value in dict(row.get("choices") or {}).items()
    )
    return f"<tr data-trial={number}>{''.join(cells)}<td class=text>{html.escape(choices)}</td></tr>"
