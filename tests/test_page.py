"""The page of a front: whole without a network, safe whatever the database says, and its script does what it says."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nas.errors import NasError
from nas.metrics import Metric
from nas.page import page
from nas.plot import is_picture

OBJECTIVES = (Metric("accuracy", "max"), Metric("latency_ms", "min"))
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
SCRIPT = Path(__file__).parents[1] / "nas" / "page.js"
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def trials() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "state": ["COMPLETED", "COMPLETED", "INFEASIBLE", "FAILED"],
            "accuracy": [0.9, 0.8, 0.5, np.nan],
            "latency_ms": [2.0, 1.0, 9.0, np.nan],
            "latency_spread_ms": [0.2, 0.6, 0.1, np.nan],
            "latency_noisy": [0, 1, 0, np.nan],
            "params": [1_052_672, 12_345, 7, np.nan],
            "choices": [{"op": EVIL, "depth": 2}, {"op": "conv", "depth": 1}, {"op": None, "depth": 3}, {}],
        },
        index=pd.Index([0, 1, 2, 3], name="number"),
    )


def made() -> str:
    every = trials()
    return page(f"toy {EVIL}", OBJECTIVES, every, every[:2].drop(columns="state"))


class Reader(HTMLParser):
    """Collects what a browser would run and load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._in = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag == "script"
        if self._in:
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self._in:
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._in = False


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def test_the_page_loads_nothing_and_runs_its_own_script_alone() -> None:
    text = made()
    reader = read(text)
    assert not re.search(r"https?:|//cdn|url\(", text)
    assert not [tag for tag, attributes in reader.tags if {"src", "href"} & set(attributes)]
    policy = next(a["content"] or "" for tag, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(reader.scripts[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert is_picture(text.encode())


def test_text_of_the_database_stays_text() -> None:
    reader = read(made())
    assert len(reader.scripts) == 2
    assert "img" not in [tag for tag, _ in reader.tags]
    data = json.loads(reader.scripts[0])
    assert data["trials"][-2]["choices"] == {"op": EVIL, "depth": 2}


def test_the_data_are_those_of_the_trials() -> None:
    data = json.loads(read(made()).scripts[0])
    assert data["axes"] == ["latency_ms", "accuracy"]
    infeasible, first, second = data["trials"]
    assert (infeasible["number"], infeasible["state"], infeasible["front"]) == (2, "INFEASIBLE", False)
    assert first["values"]["params"] == 1_052_672
    assert first["half"] == {"latency_ms": 0.1}
    assert (first["noisy"], second["noisy"]) == ([], ["latency_ms"])


def test_the_table_has_a_persons_numbers_and_the_exact_ones() -> None:
    text = made()
    assert '<td data-value="1052672" title="1052672">1.05 M</td>' in text
    assert '<td data-value="1.0" title="1.0">' not in text, "whole numbers stay whole"
    assert "1 ± 0.3 noisy" in text
    assert "half the interquartile range" in text


def test_one_objective_is_no_picture() -> None:
    every = trials()
    with pytest.raises(NasError, match="has one objective"):
        page("toy", OBJECTIVES[:1], every, every[:1])


def node(program: str) -> Any:
    done = subprocess.run(
        ["node", "-e", f"const page = require({json.dumps(str(SCRIPT))});\n{program}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_node
def test_the_script_writes_numbers_as_python_does() -> None:
    from nas.text import human

    values = [0.1234567, 1.0, 999, 1234, 12345, 1_052_672, 2.5e9, -1_052_672]
    told = node(f"console.log(JSON.stringify({json.dumps(values)}.map(page.human)))")
    assert told == [human(value) for value in values]


@needs_node
def test_the_script_filters_by_comparisons_and_by_text() -> None:
    trial = {"number": 7, "values": {"params": 12345}, "choices": {"depth": 2}, "text": "trial 7 depth=2 op=conv"}
    asked = ["params < 50_000", "params < 50_000 and depth == 3", "CONV", "trial >= 7", "", "constructor < 1"]
    program = f"console.log(JSON.stringify({json.dumps(asked)}.map((text) => page.filter(text)({json.dumps(trial)}))))"
    assert node(program) == [True, False, True, True, True, False]


@needs_node
def test_the_script_refuses_a_name_of_several_columns() -> None:
    trial = {"number": 7, "values": {"depth": 9}, "choices": {"depth": 2, "trial": 1}, "text": ""}
    asked = [
        "depth == 9",
        "depth == 2",
        'choices["depth"] == 2',
        "measurements['depth'] == 9",
        'trial["number"] == 7',
        "trial == 7",
    ]
    told = json.dumps(trial)
    program = f"{json.dumps(asked)}.map((text) => [page.filter(text)({told}), page.ambiguous(text, [{told}])])"
    depth = 'several columns are called depth: write measurements["depth"] or choices["depth"]'
    number = 'several columns are called trial: write trial["number"] or choices["trial"]'
    right = [True, ""]
    assert node(f"console.log(JSON.stringify({program}))") == [
        *([False, depth], [False, depth]),
        *(right, right, right),
        [False, number],
    ]


DOCUMENT = """
const made = [];
function element(kind) {
  const one = { kind, attributes: {}, children: [], dataset: {}, listeners: {}, style: {}, hidden: false, value: "",
    textContent: "",
    setAttribute(name, value) { this.attributes[name] = value; },
    append(...some) {
      this.children.push(...some);
      for (const child of some) if (child.value && child.chosen) this.value = child.value;
    },
    replaceChildren() { this.children = []; },
    addEventListener(name, call) { this.listeners[name] = call; },
    classList: { add() {}, remove() {} }, namespaceURI: "svg" };
  made.push(one);
  return one;
}
const byId = {};
for (const id of ["plot", "tip", "across", "up", "filter", "count", "controls", "data"]) byId[id] = element(id);
const cell = (text) => Object.assign(element("td"), { dataset: { value: String(text) } });
const row = (trial, text) => Object.assign(element("tr"), { dataset: { trial }, cells: [cell(text)] });
const body = Object.assign(element("tbody"), { rows: [row(0, 3), row(1, 20), row(2, "")] });
body.append = (...rows) => { body.rows = rows; };
const head = element("th");
head.parentNode = { querySelectorAll: () => [head] };
global.Option = function (text, value, byDefault, chosen) { return { value, chosen }; };
global.window = { innerWidth: 800 };
global.document = { getElementById: (id) => byId[id], querySelector: () => body, querySelectorAll: () => [head],
  createElementNS: (space, kind) => element(kind), createElement: (kind) => element(kind) };
"""


@needs_node
def test_the_script_draws_filters_and_sorts() -> None:
    data = read(made()).scripts[0]
    program = f"""{DOCUMENT}
    byId.data.textContent = {json.dumps(data)};
    page.start();
    const dots = () => byId.plot.children.filter((one) => one.kind === "circle").map((one) => one.attributes.class);
    const before = dots();
    const bars = byId.plot.children.filter((one) => one.attributes.class === "bar").length;
    byId.plot.children.filter((one) => one.kind === "circle")[1].listeners.mousemove({{ pageX: 1, pageY: 1 }});
    const told = byId.tip.children.map((one) => one.textContent);
    byId.filter.value = "params > 1e6";
    byId.filter.listeners.input();
    const hidden = body.rows.map((one) => one.hidden);
    head.listeners.click(); const up = body.rows.map((one) => one.dataset.trial);
    head.listeners.click(); const down = body.rows.map((one) => one.dataset.trial);
    console.log(JSON.stringify({{ before, bars, told, hidden, up, down, after: dots() }}));
    """
    found = node(program)
    assert found["before"] == ["infeasible", "front", "front noisy"]
    assert found["bars"] == 2
    assert found["told"][0] == "trial 0, on the front (COMPLETED)"
    assert "params: 1.05 M" in found["told"]
    assert f"op = {EVIL}" in found["told"]
    assert found["hidden"][:2] == [False, True]
    assert found["after"] == ["infeasible faint", "front", "front noisy faint"]
    assert found["up"] == [0, 1, 2]
    assert found["down"] == [1, 0, 2]
