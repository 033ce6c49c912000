"""Pictures of fronts, as a person reads them."""

from __future__ import annotations

import pandas as pd
import pytest

from nas.metrics import Metric
from nas.plot import front_figure

OBJECTIVES = (Metric("accuracy", "max"), Metric("params", "min"))


@pytest.mark.parametrize(
    ("params", "labels"),
    [
        ([2_000_000, 5_000_000, 9_000_000], {"2 M", "4 M", "8 M"}),  # a linear axis
        ([2_000_000, 9_000_000, 30_000_000], {"10 M"}),  # a logarithmic one
        ([200, 500, 900], {"200", "400", "800"}),
    ],
)
def test_axes_have_a_persons_numbers(params: list[int], labels: set[str]) -> None:
    trials = pd.DataFrame({"state": "COMPLETED", "accuracy": [0.7, 0.8, 0.9], "params": params})
    figure = front_figure("toy", OBJECTIVES, trials, trials)
    figure.canvas.draw()
    axis = figure.axes[0].xaxis
    shown = {label.get_text() for which in ("major", "minor") for label in axis.get_ticklabels(which=which)}
    assert labels <= shown
    assert not any("10^" in text or "e" in text for text in shown)


@pytest.mark.parametrize(
    "further", [(), (Metric("latency_ms", "min"),), (Metric("latency_ms", "min"), Metric("f1", "max"))]
)
def test_studies_of_any_number_of_objectives_are_drawn_with_their_growth(further: tuple[Metric, ...]) -> None:
    worst = {"accuracy": 0.5, "params": 9.0, "latency_ms": 9.0, "f1": 0.05}  # which bounds the volume
    columns = {"accuracy": [0.7, 0.8], "params": [3.0, 2.0], "latency_ms": [1.0, 3.0], "f1": [0.1, 0.3]}
    columns = {name: [worst[name], *values] for name, values in columns.items()}
    trials = pd.DataFrame({"state": "COMPLETED", **columns})
    figure = front_figure("toy", (*OBJECTIVES, *further), trials, trials)
    at, share = figure.axes[1].lines[0].get_data()
    assert list(share) == sorted(share)
    assert share[-1] == 1.0
    assert at[-1] == 3
