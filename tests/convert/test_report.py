"""What a conversion tells of itself."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest
from torch import nn

from nas.convert.plan import Decision, Plan
from nas.convert.report import EXPLAINED, MOST_ROWS, Fixed, Kept, Proof, Report, describe
from tests.convert import planned


@pytest.fixture
def report() -> Report:
    return describe(
        planned.Cnn(),
        planned.cnn_plan(),
        kept=[
            Kept("stem.weight", 3, "kernel", params=9),
            Kept("head.weight", 3, "model output", "aten.linear", "head", 12),
        ],
        fixed=[Fixed("stem", "nothing goes around it")],
        proofs=[Proof("every atom renumbered", 1e-12, 3)],
        seconds={"capture": 1.5, "analysis": 0.04},
    )


def test_numbers_that_a_decision_governs_are_counted(report):
    by_name = {row.name: row.params for row in report.rows}
    block = 4 * 8 + 2 * 8 + 8 * 9 + 8 + 8 * 4  # expand, norm, depthwise, project without its bias
    assert by_name["blocks[0].hidden"] == block
    assert by_name["width"] == 36 + 4 + 2 * 4 + 2 * (32 + 32 + 4) + 12
    assert report.units == {"blocks.0": block + 4, "blocks.1": block + 4}
    assert report.params == sum(p.numel() for p in planned.Cnn().parameters())


def test_parts_add_up_and_tell_what_the_smallest_arch_has(report):
    assert sum(part.params for part in report.parts) == report.params
    assert [part.module for part in report.parts] == ["stem", "norm", "blocks.0", "blocks.1", "head"]
    stem = report.parts[0]
    assert (stem.least, stem.elastic, stem.held, stem.whole) == (20, 20, 0, 0)
    head = report.parts[-1]
    assert (head.least, head.elastic, head.held, head.whole) == (6, 6, 0, 3)  # the bias: nothing to cut


def test_what_is_held_is_told_apart_from_what_nothing_could_cut():
    plan = planned.cnn_plan()
    undecided = {name: replace(atom, decision=None) for name, atom in plan.atoms.items()}
    closed = replace(plan, decisions=(), atoms=undecided)
    stem = describe(planned.Cnn(), closed).parts[0]
    assert (stem.held, stem.whole) == (40, 0)
    held = describe(planned.Mlp(), Plan(), kept=[Kept("head.bias", 2, "model output")]).parts
    assert [(part.held, part.whole) for part in held] == [(0, 24), (0, 16), (2, 20)]


def test_the_text_names_everything(report):
    text = str(report)
    assert text.startswith("Cnn: 3 decisions, 2 units of depth; ")
    for said in (
        "blocks[0].hidden  hidden     8  4, 8            160",
        "blocks[1].keep",
        "model output     3  head.weight  aten.linear in head          12",
        "model output: is what the model gives",
        "stem  nothing goes around it",
        "every atom renumbered      3             1.0e-12",
        "seconds: capture 1.5, analysis 0.04; 1.5 in all",
    ):
        assert said in text, said
    assert "not proved" in str(replace(report, proofs=()))
    assert "captured graphs, because rows" in str(replace(report, execution="graph", because="rows are mixed"))


def test_long_lists_are_cut_in_the_text_alone():
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(MOST_ROWS + 5)))
    kept = [Kept(f"{place}.weight", 1, "kernel", params=1) for place in range(MOST_ROWS + 5)]
    report = describe(model, Plan(), kept=kept)
    assert "  kernel     1  0.weight  and 44 more          45  50.0 %" in str(report)
    assert len(report.table) == MOST_ROWS + 5
    many = describe(model, Plan(), fixed=[Fixed(f"{place}", "no") for place in range(MOST_ROWS + 5)])
    assert "and 5 more in the table" in str(many)


def test_axes_kept_by_one_operation_are_one_row_of_the_text():
    kept = [Kept("a", 3, "kernel", "aten.conv2d", "x", 5), Kept("b", 7, "kernel", "aten.conv2d", "y", 9)]
    text = str(describe(nn.Linear(10, 1), Plan(), kept=kept))
    assert "kernel   3-7  b   aten.conv2d in y and 1 more          14" in text


def test_the_table_has_a_row_for_each(report):
    table = report.table
    assert table["is"].tolist() == ["elastic"] * 3 + ["unit"] * 2 + ["whole"] * 2 + ["no unit"]
    row = table[table.name == "head.weight"].iloc[0]
    assert (row.kind, row.params, row.op) == ("model output", 12, "aten.linear")
    assert row.share == pytest.approx(12 / report.params)
    assert table[table.name == "width"].iloc[0].choices == (2, 4)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_needs_no_other_file_and_obeys_no_name(report):
    hostile = replace(
        report, model="<script>alert(1)</script>", parts=(replace(report.parts[0], module="<img src=x>"),)
    )
    tags = _Tags()
    tags.feed(hostile.html)
    assert not {"script", "img", "link"} & {tag for tag, _ in tags.found}
    assert not any("src" in attrs or "href" in attrs for _, attrs in tags.found)
    assert report._repr_html_() in report.html


def test_bars_are_as_long_as_parts_are_large(report):
    tags = _Tags()
    tags.feed(report.html)
    widths = [float(a["style"].split("width:")[1][:-1]) for tag, a in tags.found if tag == "i" and "title" in a]  # type: ignore[union-attr]
    largest = max(part.params for part in report.parts)
    counts = [c for part in report.parts for c in (part.least, part.elastic, part.held, part.whole) if c]
    assert widths == pytest.approx([100 * count / largest for count in counts], abs=1e-3)


def test_an_empty_model_is_no_division_by_zero():
    report = describe(nn.Identity(), Plan())
    assert "0 of 0 parameters" in str(report)
    assert report.table.empty
    assert report.html


def test_decisions_without_parameters_count_none():
    report = describe(planned.Mlp(), Plan((Decision("x", "width", 2, (1, 2)),)))
    assert report.rows[0].params == 0


def test_every_reason_is_explained():
    from typing import get_args

    from nas.convert.report import Reason

    assert set(EXPLAINED) == set(get_args(Reason))
