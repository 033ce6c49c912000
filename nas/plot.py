"""The picture of a study: its front among all trials, and how the hypervolume grew.

Colours as Optuna has them, which people know: dominated trials blue, darker when later, the front red, infeasible ones grey.
Cost is on x (logarithmic when it spans more than ten times), quality on y, an arrow on each axis says which way is better.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from nas.errors import NasError
from nas.metrics import Metric, unit_of
from nas.noise import half_spread, is_noisy
from nas.pareto import growth
from nas.text import human, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nas.store.comparing import Comparison

_MOST_DOMINATED = 3000  # more dots only darken the picture
_FRONT_COLOUR = "#c0142b"
MADE_BY = "supernas front"


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
    figure_of = _figure_class()
    if len(objectives) < 2:
        raise NasError(f"study {name!r} has one objective, and a front needs two; use --format table")
    across, up = axes_of(objectives)
    figure = figure_of(figsize=(11, 5), layout="constrained")
    plane, growth = figure.subplots(1, 2, width_ratios=[3, 2])
    _draw_plane(plane, across, up, trials, front)
    _draw_growth(growth, objectives, trials)
    _number_points(figure, plane, across, up, front)
    figure.suptitle(f"{printable(name)}: {len(front)} on the front of {len(trials)} trials", parse_math=False)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": MADE_BY})
    return buffer.getvalue()


def is_picture(content: bytes) -> bool:
    """Whether these are the first bytes, 300 or more, of what `png` or `page` gave."""
    from nas.page import START

    return content.startswith(START.encode()) or (
        content.startswith(b"\x89PNG") and f"Software\0{MADE_BY}".encode() in content[:300]
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
    at, volumes = growth(points, points.max(axis=0))
    if volumes[-1] == 0:
        return np.empty(0), np.empty(0)
    return np.array([*at, len(points)], float), np.array([*volumes, volumes[-1]]) / volumes[-1]


def axes_of(objectives: Sequence[Metric]) -> tuple[Metric, Metric]:
    """Cost across, quality up: the first metric to minimise and the first to maximise, else the first two."""
    cost = next((metric for metric in objectives if metric.goal == "min"), None)
    quality = next((metric for metric in objectives if metric.goal == "max"), None)
    return (cost, quality) if cost and quality else (objectives[0], objectives[1])


def _draw_plane(axes: Axes, across: Metric, up: Metric, trials: pd.DataFrame, front: pd.DataFrame) -> None:
    x, y = trials[across.name].astype(float), trials[up.name].astype(float)
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
    _draw_front(axes, across, up, best)
    finite = x[np.isfinite(x)]
    if len(finite) and finite.min() > 0 and finite.max() / finite.min() > 10:
        axes.set_xscale("log")
    _write_for_people(axes)
    axes.set_xlabel(_axis_title(across, "x"), parse_math=False)
    axes.set_ylabel(_axis_title(up, "y"), parse_math=False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)


def _write_for_people(axes: Axes) -> None:
    """Large numbers as 12 M, on linear and logarithmic axes; small ones as matplotlib has them."""
    from matplotlib.ticker import FuncFormatter, LogFormatter

    class Minor(LogFormatter):
        """Of the minor ticks that have room, as matplotlib decides."""

        def __call__(self, x: float, pos: int | None = None) -> str:
            return human(x) if super().__call__(x, pos) else ""

    for axis in (axes.xaxis, axes.yaxis):
        if max(map(abs, axis.get_view_interval())) < 10_000:
            continue
        axis.set_major_formatter(FuncFormatter(lambda value, _: human(value)))
        if axis.get_scale() == "log":
            axis.set_minor_formatter(Minor(minor_thresholds=(2, 0.5)))


def _draw_front(axes: Axes, across: Metric, up: Metric, best: pd.DataFrame) -> None:
    """The front's points with their spread, hollow where they are noisy, and their trials' numbers where there is room."""
    for row in best.to_dict("records"):
        errors = [half_spread(row, metric.name) for metric in (across, up)]
        if any(errors):
            axes.errorbar(
                row[across.name],
                row[up.name],
                xerr=errors[0],
                yerr=errors[1],
                c=_FRONT_COLOUR,
                lw=1,
                capsize=2,
                zorder=2,
            )
    noisy = [any(is_noisy(row, metric.name) for metric in (across, up)) for row in best.to_dict("records")]
    for flag, name in ((False, "front"), (True, "front, noisy")):
        some = best[[one == flag for one in noisy]]
        if len(some):
            face = "white" if flag else _FRONT_COLOUR
            axes.scatter(
                some[across.name], some[up.name], s=36, facecolors=face, edgecolors=_FRONT_COLOUR, zorder=3, label=name
            )


def _number_points(figure: Figure, axes: Axes, across: Metric, up: Metric, best: pd.DataFrame) -> None:
    """Trial numbers beside the points of the front, leaving out what would lie on an earlier one."""
    figure.draw_without_rendering()
    taken: list[tuple[float, float]] = []
    for number, x, y in zip(best.index, best[across.name], best[up.name], strict=True):
        at = axes.transData.transform((float(x), float(y)))
        if all(abs(at[0] - other[0]) > 26 or abs(at[1] - other[1]) > 12 for other in taken):
            taken.append((float(at[0]), float(at[1])))
            axes.annotate(
                str(number),
                (float(x), float(y)),
                (5, -11),
                textcoords="offset points",
                fontsize=8,
                color="#555",
                zorder=4,
            )


def _draw_growth(axes: Axes, objectives: Sequence[Metric], trials: pd.DataFrame) -> None:
    at, share = hypervolume_curve(objectives, trials)
    axes.step(at, share, where="post", c=_FRONT_COLOUR)
    axes.set_xlabel("feasible trials")
    axes.set_ylabel("hypervolume, share of the last")
    axes.set_ylim(0, 1.05)
    axes.grid(alpha=0.25)


def _axis_title(metric: Metric, axis: str) -> str:
    arrows = {("x", "min"): "←", ("x", "max"): "→", ("y", "min"): "↓", ("y", "max"): "↑"}
    name = metric.name if unit_of(metric.name) else metric.label  # which carries its unit already
    return f"{printable(name)}  {arrows[axis, metric.goal]} better"


def comparison_figure(comparison: Comparison) -> Figure:
    """Two panels: the fronts of several studies in the plane of two objectives, and their hypervolume over trials.

    Raises:
        NasError: matplotlib is not installed, or there is one objective only.
    """
    figure_of = _figure_class()
    if len(comparison.objectives) < 2:
        raise NasError("the studies have one objective in common, and a picture needs two; give --objectives")
    across, up = axes_of(comparison.objectives)
    figure = figure_of(figsize=(11, 5), layout="constrained")
    plane, growth = figure.subplots(1, 2, width_ratios=[3, 2])
    where: Any = "post" if across.goal == "min" else "pre"
    for study in comparison.studies:
        best = study.front.sort_values([across.name, up.name], ascending=[across.goal == "min", up.goal == "min"])
        (line,) = plane.step(best[across.name], best[up.name], where=where, lw=1, alpha=0.7)
        label = f"{printable(study.name)} ({len(best)})".replace("$", r"\$").lstrip("_")
        plane.scatter(best[across.name], best[up.name], s=30, color=line.get_color(), label=label, zorder=3)
        growth.step(*zip(*study.curve, strict=True), where="post", color=line.get_color())
    plane.set_xlabel(_axis_title(across, "x"), parse_math=False)
    plane.set_ylabel(_axis_title(up, "y"), parse_math=False)
    plane.legend(frameon=False, fontsize=9)
    growth.set_xlabel("finished trials")
    growth.set_ylabel("hypervolume, common reference")
    growth.set_ylim(0, None)
    for axes in (plane, growth):
        axes.grid(alpha=0.25)
    figure.suptitle(" and ".join(printable(study.name) for study in comparison.studies), parse_math=False)
    return figure


def _figure_class() -> type[Figure]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NasError("drawing needs matplotlib; install it with: pip install 'supernas[plots]'") from error
    return Figure
