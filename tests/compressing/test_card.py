"""The page and the model card: what they say, and that nothing from a model becomes HTML or Markdown."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyglove as pg
import pytest

import nas
from nas.cli.compressing import compress as command
from nas.compressing import Choice, Compressed, parse_budget
from nas.compressing.card import OF_CALL, OF_COMMAND, markdown, page
from nas.compressing.profiling import Profile
from nas.compressing.result import Tuned, Turns

EVIL = "</pre><script>alert(1)</script>|x`*[a](b)\n# Title\x1b[31m"


class Study:
    """What a card reads of one."""

    name = "found-1"


def space() -> nas.Space:
    width = pg.oneof(["<b>wide|</b>", "thin"], name="<script>alert(2)</script>|part")
    return nas.Space(pg.Dict(a=width, b=pg.oneof([8, 16])), name="evil")


def tuned(number: int, arch: nas.Arch, macs: float) -> Tuned:
    study: Any = Study()
    return Tuned(study, number, arch, {"loss": 0.5 + number, "macs": macs, "latency_ms": 2.0, "latency_spread_ms": 0.2})


def result(folder: str = "out", *, is_same: bool = False, **options: Any) -> Compressed:
    archs: Mapping[str, nas.Arch] = {"largest": space().largest, "smallest": space().smallest}
    profile = Profile(EVIL, archs, {"largest": {"macs": 100.0}}, (), {}, 2)
    budget = parse_budget("macs <= 50%")
    wide = space().smallest if is_same else space().largest
    choice = Choice(budget, 50.0, tuned(0, space().smallest, 40.0), tuned(1, wide, 45.0), **options)
    study: Any = Study()
    original = {"loss": 0.4, "macs": 100.0, "latency_ms": 4.0}
    return Compressed(profile, original, [choice], study, Path(folder), [EVIL, "a | b"])


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        assert not any(name.startswith("on") or name in ("href", "src") for name, _ in attrs)


def test_names_and_notes_are_text_in_the_page() -> None:
    made = page(result(f"out/{EVIL}", is_uniform=False))
    tags = Tags()
    tags.feed(made)
    assert {"script", "b", "a"}.isdisjoint(tags.seen)
    assert "&lt;script&gt;alert(2)" in made
    assert "\x1b" not in made
    assert "default-src 'none'" in made


def test_names_and_notes_are_text_in_the_card() -> None:
    made = markdown(result(f"out/{EVIL}", is_uniform=False))
    outside = "\n".join(line for line in made.splitlines() if not line.startswith("    "))
    assert "<" not in re.sub(r"\\<", "", outside)
    assert "\x1b" not in made
    titles = [line for line in made.splitlines() if line.lstrip("- ").startswith("# ")]
    assert len(titles) == 1
    assert titles[0].endswith(", compressed")
    tables = [line for line in outside.splitlines() if line.startswith("|")]
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in tables}
    assert cells == {4, 6}, "no sign in a cell ends it"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"is_uniform": True}, "Uniform scaling was the better one and is chosen; the parts below are its"),
        ({"is_uniform": False}, "The network that the search found is chosen"),
        (
            {"is_uniform": True, "is_same": True},
            "The search found uniform scaling: both are one network, which is chosen",
        ),
        ({"is_uniform": False, "is_original": True}, "The original is within this budget and is chosen"),
    ],
)
def test_which_network_is_chosen_is_told(options: Mapping[str, bool], said: str) -> None:
    for made in (page(result(**options)), markdown(result(**options))):
        assert said in made
        assert "2 ± 0.1" in made
        assert "40.0%" in made


def test_latencies_in_turns_stand_beside_the_original_of_that_time() -> None:
    made = result(is_uniform=False, turns=Turns(8.0, 3.0, 5.0))
    for text in (page(made), markdown(made)):
        row = text[text.index("in turns") :]
        cells = re.findall(r"[\w.%]+", re.sub(r"<[^>]*>", " ", row))[2:6]
        assert cells == ["8", "3", "37.5%", "5"]


@pytest.mark.parametrize(
    ("budget", "bound", "turns", "said"),
    [
        ("latency_ms <= 50%", 2.0, Turns(8.0, 3.0, 5.0), ""),
        (
            "latency_ms <= 50%",
            2.0,
            Turns(8.0, 4.4, 5.0),
            "in turns with the original, the chosen network has latency_ms 4.4, "
            "55.0% of the original's 8, above the budget's 50.0%",
        ),
        ("latency_ms <= 50%", 1.5, None, ""),
        (
            "latency_ms <= 30%",
            1.5,
            None,
            "once more, the chosen network has latency_ms 2, 50.0% of the original's 4, above the budget's 30.0%",
        ),
        ("latency_ms <= 2.5", 2.5, Turns(8.0, 2.4, None), ""),
        (
            "latency_ms <= 2.5",
            2.5,
            Turns(8.0, 2.6, None),
            "in turns with the original, the chosen network has latency_ms 2.6, "
            "32.5% of the original's 8, above the budget's 2.5",
        ),
        ("macs <= 50%", 50.0, Turns(8.0, 7.0, None), ""),
    ],
)
def test_a_budget_that_is_exceeded_is_told_by_what_was_measured_at_one_time(
    budget: str, bound: float, turns: Turns | None, said: str
) -> None:
    original = {"macs": 100.0, "latency_ms": 4.0}
    one = Choice(parse_budget(budget), bound, tuned(0, space().smallest, 40.0), None, is_uniform=False, turns=turns)
    assert one.excess(original) == (f"measured {said}" if said else "")


def test_commands_quote_their_folder() -> None:
    made = markdown(result("my 'own' folder", is_uniform=False))
    assert "nas.compress(model, task, 'macs <= 0.5 * original', folder=\"my 'own' folder\")" in made
    assert "--store 'my '\"'\"'own'\"'\"' folder/compress.db'" in made


@pytest.mark.parametrize(
    ("asked", "call", "typed"),
    [
        ({}, "", ""),
        (
            {"device": "cpu,threads=2", "epochs": 3, "cache": (8, 1024), "best": "max accuracy", "lr": 3e-3},
            ", device='cpu,threads=2', epochs=3, cache=(8, 1024), best='max accuracy', lr=0.003",
            " --device cpu,threads=2 --epochs 3 --best 'max accuracy' --cache 8,1024  # where JOB defines "
            "training = {'lr': 0.003}",
        ),
        (
            {"device": nas.Device("cpu", threads=2), "options": {"depth": False}},
            ", device=nas.Device(name='cpu', threads=2, batch=1, dtype='float32', runtime='torch'), "
            "options={'depth': False}",
            " --device cpu,threads=2  # where JOB defines options = {'depth': False}",
        ),
        ({"warmup": 1}, ", warmup=1", None),
        ({"algorithm": nas.RandomSearch()}, ", algorithm=nas.RandomSearch(seed=0)", None),
    ],
)
def test_what_it_was_made_with_is_told_whole(asked: Mapping[str, Any], call: str, typed: str | None) -> None:
    made = markdown(dataclasses.replace(result(is_uniform=False), asked=asked)).splitlines()
    assert f"    nas.compress(model, task, 'macs <= 0.5 * original', folder='out'{call})" in made
    words = "    nas compress JOB --budget 'macs <= 0.5 * original' --folder out"
    assert [line for line in made if line.startswith("    nas compress")] == ([] if typed is None else [words + typed])


def test_every_option_is_one_of_the_command_or_of_the_call_alone() -> None:
    own = {"model", "task", "budget", "progress", "options", "training"}
    assert {*OF_COMMAND, *OF_CALL} == inspect.signature(nas.compress).parameters.keys() - own
    assert inspect.signature(command).parameters.keys() >= set(OF_COMMAND)
    assert not inspect.signature(command).parameters.keys() & set(OF_CALL)


@pytest.mark.parametrize(
    "text", ["params <= 3466", "macs <= 1234567.5", "latency_ms <= 0.00012345678", "macs <= 33.3333333%"]
)
def test_a_budget_is_told_as_it_is_read_again(text: str) -> None:
    assert parse_budget(parse_budget(text).exact) == parse_budget(text)
