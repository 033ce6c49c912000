"""The picture of a study: its front among all trials, and how the hypervolume grew.

Colours as Optuna has them, which people know: dominated trials blue, darker when later, the front red, infeasible ones grey.
Cost is on x (logarithmic when it spans more than ten times), quality on y, an arrow on each axis says which way is better.
"""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from nas.errors import NasError
from nas.metrics import Metric
from nas.pareto import Front, hypervolume
from nas.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_DOMINATED = 3000  # more dots only darken the picture
_FRONT_COLOUR = "#c0142b"
_MADE_BY = "supernas front"
_PAGE = f'<!doctype html><html lang=en><meta charset=utf-8><meta name=generator content="{_MADE_BY}">'


def front_figure(name: str, objectives: Sequence[Metric], trials: pd.DataFrame, front: pd.DataFrame) -> Figure:
    """Two panels: the trials in the plane of two objectives with the front as a step line, and hypervolume over trials.

    Args:
        name: of the study.
        objectives: of the study; a third and later ones are not drawn.
        trials: all of them, indexed by number, with `state` and the objectives as columns; NaN where not measured.
        front: the trials on the front, likewise.

    Raises:
        NasError: matplotlib is not installed, or the study has one objective only.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NasError("drawing needs matplotlib; install it with: pip install 'supernas[plots]'") from error
    if len(objectives) < 2:
        raise NasError(f"study {name!r} has one objective, and a front needs two; use --format table")
    across, up = _axes_of(objectives)
    figure = Figure(figsize=(11, 5), layout="constrained")
    plane, growth = figure.subplots(1, 2, width_ratios=[3, 2])
    _draw_plane(plane, across, up, trials, front)
    _draw_growth(growth, objectives, trials)
    figure.suptitle(f"{printable(name)}: {len(front)} on the front of {len(trials)} trials", parse_math=False)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": _MADE_BY})
    return buffer.getvalue()


def page(name: str, figure: Figure, front: pd.DataFrame) -> str:
    """A self-contained HTML page: the figure, whose dots tell their trial when pointed at, and the front as a table."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for number, row in front.iterrows():
        tip = html.escape(f"trial {number}: " + ", ".join(f"{column}={_short(value)}" for column, value in row.items()))
        svg = svg.replace(f'<g id="trial-{number}">', f'<g id="trial-{number}"><title>{tip}</title>')
    table = front.map(_short).to_html(border=0, escape=True)
    title = html.escape(printable(name))
    return (
        f"{_PAGE}<title>{title}</title>"
        "<style>body{font:14px system-ui,sans-serif;margin:2em}table{border-collapse:collapse}"
        "td,th{padding:.2em .7em;text-align:right;border-bottom:1px solid #ddd}svg{max-width:100%;height:auto}</style>"
        f"<h1>{title}</h1>{svg}{table}</html>\n"
    )


def is_picture(content: bytes) -> bool:
    """Whether these are the first bytes, 300 or more, of what `png` or `page` gave."""
    return content.startswith(_PAGE.encode()) or (
        content.startswith(b"\x89PNG") and f"Software\0{_MADE_BY}".encode() in content[:300]
    )


def hypervolume_curve(objectives: Sequence[Metric], trials: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Hypervolume after each feasible trial that changed the front, as a share of the last one.

    The reference point is the worst value of each objective among the feasible trials.

    Returns:
        (k,) counts of trials and (k,) shares in [0, 1]; both empty when nothing is feasible or all values are equal.
    """
    done = trials[trials["state"] == "COMPLETED"]
    points = done[[metric.name for metric in objectives]].to_numpy(float) * [metric.sign for metric in objectives]
    if not len(points):
        return np.empty(0), np.empty(0)
    reference = points.max(axis=0)
    front, at, volumes = Front(), [], []
    for index, point in enumerate(points):
        entered, _ = front.add(index, tuple(point))
        if entered:
            at.append(index + 1)
            volumes.append(hypervolume(front.points, reference))
    if not volumes or volumes[-1] == 0:
        return np.empty(0), np.empty(0)
    return np.array([*at, len(points)], float), np.array([*volumes, volumes[-1]]) / volumes[-1]


def _axes_of(objectives: Sequence[Metric]) -> tuple[Metric, Metric]:
    """Cost across, quality up: the first metric to minimise and the first to maximise, else the first two."""
    cost = next((metric for metric in objectives if metric.goal == "min"), None)
    quality = next((metric for metric in objectives if metric.goal == "max"), None)
    return (cost, quality) if cost and quality else (objectives[0], objectives[1])


def _draw_plane(axes: Axes, across: Metric, up: Metric, trials: pd.DataFrame, front: pd.DataFrame) -> None:
    x, y = trials[across.name], trials[up.name]
    infeasible = (trials["state"] == "INFEASIBLE") & x.notna() & y.notna()
    if infeasible.any():
        axes.scatter(x[infeasible], y[infeasible], s=14, c="#b5b5b5", label="infeasible")
    dominated = trials.index[(trials["state"] == "COMPLETED") & ~trials.index.isin(front.index)]
    if len(dominated) > _MOST_DOMINATED:
        dominated = dominated[np.linspace(0, len(dominated) - 1, _MOST_DOMINATED).astype(int)]
    axes.scatter(
        x[dominated],
        y[dominated],
        s=14,
        c=list(dominated),
        cmap="Blues",
        vmin=-max(len(trials), 1) / 2,
        vmax=max(len(trials), 1),  # also where none is dominated
        label="dominated, darker when later",
    )
    best = front.sort_values([across.name, up.name], ascending=[across.goal == "min", up.goal == "min"])
    where: Any = "post" if across.goal == "min" else "pre"
    axes.step(best[across.name], best[up.name], where=where, c=_FRONT_COLOUR, lw=1, alpha=0.6)
    for number, cost, quality in zip(best.index, best[across.name], best[up.name], strict=True):
        (dot,) = axes.plot(
            cost, quality, "o", ms=6, c=_FRONT_COLOUR, label="front" if number == best.index[0] else None
        )
        dot.set_gid(f"trial-{number}")
    finite = x[np.isfinite(x)]
    if len(finite) and finite.min() > 0 and finite.max() / finite.min() > 10:
        axes.set_xscale("log")
    axes.set_xlabel(_axis_title(across, "x"), parse_math=False)
    axes.set_ylabel(_axis_title(up, "y"), parse_math=False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)


def _draw_growth(axes: Axes, objectives: Sequence[Metric], trials: pd.DataFrame) -> None:
    at, share = hypervolume_curve(objectives, trials)
    axes.step(at, share, where="post", c=_FRONT_COLOUR)
    axes.set_xlabel("feasible trials")
    axes.set_ylabel("hypervolume, share of the last")
    axes.set_ylim(0, 1.05)
    axes.grid(alpha=0.25)


def _axis_title(metric: Metric, axis: str) -> str:
    arrows = {("x", "min"): "←", ("x", "max"): "→", ("y", "min"): "↓", ("y", "max"): "↑"}
    return f"{printable(metric.label)}  {arrows[axis, metric.goal]} better"


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return printable(" ".join(f"{name}={item}" for name, item in value.items()))
    return f"{value:.5g}" if isinstance(value, float) else printable(value)
