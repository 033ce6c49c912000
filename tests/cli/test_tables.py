"""Tables of fronts and trials in a narrow terminal, in a pipe, and in files: whole numbers, one name for one thing, noise."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nas.cli.output import Column, Figure, print_table
from nas.store import open_store

Nas = Callable[..., Any]

JOB = """
import nas
from tests.study.landscapes import grid
from tests.study.test_anew import Clock

Clock.busy = {busy}

def costs(arch):
    x0, x1 = arch.choices["x0"], arch.choices["x1"]
    more = {{"macs": 10**8 + x0, "a_metric": 0.5, "b_metric": 1.5}}
    return {{"accuracy": 1 - 1 / (2 + x0 + x1 / 10), "params": 1_000_003 * (1 + x0), **more}}

study = nas.Study(
    "toy", space=grid(4, 3), objectives=["max accuracy", "min latency_ms"], evaluators=[costs, Clock()],
    algorithm=nas.Exhaustive(), store="nas.db", trials=64,
)
"""


@pytest.fixture
def searched(command: Nas) -> Nas:
    Path("job.py").write_text(JOB.format(busy=True))
    assert command("run", "job.py", "--workers", "0", "--quiet", "--trials", "32").code == 0
    return command


def test_a_front_fits_into_80_columns_and_breaks_no_number(searched: Nas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = searched("front", "toy").out
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "latency_ms" in lines[1]
    assert "b_metric" not in lines[1]
    front = json.loads(searched("front", "toy", "--format", "json").out)
    for row in front:
        assert re.search(rf"│\s+{row['trial']} │.*{row['accuracy']:.4g}", out)
    assert re.search(r"… and \d columns more: --columns all, or -o toy-front.csv", out)
    assert "in all of them: " in out
    shown = searched("show", "toy", "--limit", "5").out
    assert max(len(line) for line in shown.splitlines() if not line.startswith("job: ")) <= 80
    assert "COMPLETED" in shown
    assert max(map(len, searched("studies").out.splitlines())) <= 80


def test_a_pipe_has_room_for_everything_and_columns_can_be_chosen(searched: Nas) -> None:
    out = searched("front", "toy").out
    assert "macs" in out
    assert "…" not in out.split("└")[0]
    whole = searched("front", "toy", "--columns", "all").out
    for name in ("latency_p10_ms", "latency_spread_ms", "latency_noisy", "load", "choices"):
        assert name in whole
    assert "columns more" not in whole
    assert searched("front", "toy", "--all").out == whole
    head = searched("front", "toy", "--columns", "params, latency_ms").out.splitlines()[1]
    assert re.findall(r"\w+", head) == ["trial", "params", "latency_ms"]
    refused = searched("front", "toy", "--columns", "parms")
    assert refused.code == 2
    assert "there is no column 'parms'; did you mean 'params'?" in refused.err


def test_whole_numbers_stay_whole_everywhere(searched: Nas) -> None:
    rows = json.loads(searched("front", "toy", "--format", "json").out)
    assert all(type(row["params"]) is int for row in rows)
    assert all(type(row["accuracy"]) is float for row in rows)
    csv = searched("front", "toy", "--format", "csv").out.splitlines()
    head, first = csv[0].split(","), csv[1].split(",")
    assert head[:3] == ["trial", "accuracy", "latency_ms"]
    assert first[head.index("params")] == str(rows[0]["params"])
    assert set(head) - {"x0", "x1", "x2"} == set(rows[0]) - {"choices"}, "one name for one thing"
    with open_store("nas.db") as store:
        record = store.open_study("toy")
        assert record.front()["params"].dtype == "int64"
        assert record.front()["latency_ms"].dtype == "float64"
        assert record.trials()["params"].dtype == "int64"


def test_a_count_that_some_trials_lack_stays_whole(command: Nas) -> None:
    Path("job.py").write_text(
        JOB.format(busy=False)
        .replace("study =", "costs_of = costs\nstudy =")
        .replace("    return {", "    if x0 == 2: raise RuntimeError('too large')\n    return {", 1)
    )
    assert command("run", "job.py", "--workers", "0", "--quiet").code == 0
    with open_store("nas.db") as store:
        params = store.open_study("toy").trials()["params"]
    assert str(params.dtype) == "Int64"
    assert params.isna().sum() == 16
    assert params.dropna().iloc[0] == 1_000_003
    latest = json.loads(command("show", "toy", "--format", "json", "--limit", "64").out)["latest"]
    assert {type(row["params"]) for row in latest} == {int, type(None)}


def test_noise_is_shown_said_and_measured_again(command: Nas) -> None:
    Path("job.py").write_text(JOB.format(busy=True))
    ran = command("run", "job.py", "--workers", "0", "--quiet", "--trials", "48")
    assert re.search(r"measured \d noisy trials? of the front again: trial \d+ ", ran.out)
    assert "(noisy still)" in ran.out
    front = command("front", "toy")
    assert re.search(r"0\.5 ± 0\.45 noisy", front.out)
    assert "±: half the interquartile range of the runs" in front.out
    assert "neighbours on the front differs by less than its noise" in front.err
    assert "measured again, the less noisy figure counts: trial" in front.err
    again = command("front", "toy", "--measure")
    assert again.code == 0
    assert command("front", "toy", "--measure", "--objectives", "max params").code == 2


def test_a_front_of_other_objectives_needs_no_new_study(searched: Nas) -> None:
    rows = json.loads(searched("front", "toy", "--objectives", "max accuracy, min params", "--format", "json").out)
    assert list(rows[0])[:3] == ["trial", "accuracy", "params"]
    assert searched("front", "toy", "--objectives", "max accuracy, min params", "-o", "other.png").code == 0
    assert searched("front", "toy", "--objectives", "max accuracy, min params", "-o", "other.csv").code == 0
    assert searched("front", "toy", "--objectives", "max accuracy, min params", "-o", "other.csv").code == 0
    refused = searched("front", "toy", "--objectives", "max acuracy")
    assert "metric 'acuracy' was not measured in this study; did you mean 'accuracy'?" in refused.err
    assert (
        "objective 'accuracy' is given twice"
        in searched("front", "toy", "--objectives", "max accuracy, min accuracy").err
    )
    assert "'best' is not understood" in searched("front", "toy", "--objectives", "best").err


def test_tries_are_shown(command: Nas) -> None:
    Path("job.py").write_text(JOB.format(busy=False).replace("    x0, x1", "    raise OSError('full')\n    x0, x1", 1))
    assert command("run", "job.py", "--workers", "0", "--quiet", "--trials", "3").code == 2
    assert "┃ tries" not in command("show", "toy").out
    Path("job.py").write_text(JOB.format(busy=False))
    assert command("run", "job.py", "--workers", "0", "--quiet", "--trials", "3").code == 0
    shown = command("show", "toy")
    assert re.search(r"trial\W+state\W+tries", shown.out)
    assert [row["tries"] for row in json.loads(command("show", "toy", "--format", "json").out)["latest"]] == [2, 2, 2]


@pytest.mark.parametrize(("width", "left"), [(200, []), (62, ["c"]), (50, ["c", "b"]), (30, ["b", "c"])])
def test_columns_are_left_out_by_rank(
    width: int, left: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    heads = [Column("a"), Column("b", 1), Column("c", 2), Column("text", 0, brief=True)]
    found = print_table(heads, [[1_234_567_890, 1_234_567_890, Figure("12345 ± 6"), "x" * 90], [None, 3, pd.NA, "y"]])
    out = capsys.readouterr().out
    assert sorted(found) == sorted(left)
    assert "1,234,567,890" in out
    assert max(map(len, out.splitlines())) <= max(width, 40)
